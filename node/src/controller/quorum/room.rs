//! Takes what other nodes of the quorum say to this one (room Raft).
//!
//! Promises: only the node that a connection belongs to speaks on it; records are checked before they are believed; every
//! message is acknowledged at once, and what there is to say to it goes as a message of its own.
//! Leaves out: what is done about it (`raft`).
//! SHELL.

use std::sync::Arc;

use dejaq_wire::peer::raft::{Came, Content, Envelope, Fetched, Message};
use dejaq_wire::peer::{Body, Parts, Refusal};
use tracing::warn;

use super::entry::is_sound;
use crate::controller::handle::Controller;
use crate::peer::{Answering, PeerService, PeerSession, answer, read};

/// This node's part of the quorum, for other nodes.
#[derive(Debug)]
pub struct RaftRoom {
    controller: Controller,
}

impl RaftRoom {
    /// Hands on to this controller.
    #[must_use]
    pub fn new(controller: Controller) -> RaftRoom {
        RaftRoom { controller }
    }
}

impl PeerService for RaftRoom {
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        if parts.tag != Envelope::TAG {
            return Answering::Now(Err(Refusal::Unknown));
        }
        let envelope: Envelope = match read(parts) {
            Ok(envelope) => envelope,
            Err(refusal) => return Answering::Now(Err(refusal)),
        };
        if envelope.from.id != session.node || !has_sound_records(&envelope.message) {
            warn!(node = %session.node, from = ?envelope.from, "a message of the quorum is not believed");
            return Answering::Now(Err(Refusal::Damaged));
        }
        Answering::Now(if self.controller.inbox().message(envelope) {
            answer(Came)
        } else {
            Err(Refusal::Busy)
        })
    }
}

fn has_sound_records(message: &Message) -> bool {
    let Message::FetchReply { fetched: Fetched::Batches(batches), .. } = message else { return true };
    batches.iter().all(|batch| match &batch.content {
        Content::Records(records) => is_sound(records, batch.end.since(batch.base)),
        Content::LeaderChange | Content::Voters(_) => batch.end == batch.base.next(),
    })
}
