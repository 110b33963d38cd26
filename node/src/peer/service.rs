//! What answers calls of other nodes: the seam between connections and the rooms.
//!
//! Owns: [`PeerService`], [`Routes`] by room, [`PeerSession`]. Promises: calls of one session are started in the order
//! in which they arrived; answers leave in the order in which they become ready.
//! Leaves out: bodies: a room reads its own with [`read`] and answers with [`answer`].
//! Called by `served`; implemented by the raft driver, by `peer_fetch`, by the controller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Body, Parts, PeerError, Refusal, Room};

/// One connection from another node. Lives as long as the connection or an answer of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSession {
    /// Unique in this process, never reused: what a service remembers of a session hangs on it.
    pub connection_id: u64,
    /// Who connected.
    pub node: BrokerId,
    /// What both sides speak.
    pub feature_level: u16,
}

/// What goes back: a message of the room, or that there is none.
pub type PeerAnswer = Result<Parts, Refusal>;

/// How far a call got in [`PeerService::start`].
pub enum Answering {
    /// The answer is there.
    Now(PeerAnswer),
    /// It comes later. Dropped when the connection ends: dropping must leave no promise half made.
    Later(Pin<Box<dyn Future<Output = PeerAnswer> + Send>>),
}

/// Answers the calls of one room.
pub trait PeerService: Send + Sync + 'static {
    /// Starts to answer. Inline and short: what must happen in the order of the calls happens here, what waits goes
    /// into the returned future.
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering;

    /// The connection ended: nothing more comes under this id.
    fn ended(&self, session: &PeerSession) {
        let _ = session;
    }
}

/// Which service takes which room. A room without one is refused as unknown.
#[derive(Clone, Default)]
pub struct Routes {
    /// Takes [`Room::Raft`].
    pub raft: Option<Arc<dyn PeerService>>,
    /// Takes [`Room::Replica`].
    pub replica: Option<Arc<dyn PeerService>>,
    /// Takes [`Room::Control`].
    pub control: Option<Arc<dyn PeerService>>,
    /// Takes [`Room::Txn`].
    pub txn: Option<Arc<dyn PeerService>>,
}

impl Routes {
    pub(super) fn of(&self, room: Room) -> Option<&Arc<dyn PeerService>> {
        match room {
            Room::Raft => self.raft.as_ref(),
            Room::Replica => self.replica.as_ref(),
            Room::Control => self.control.as_ref(),
            Room::Txn => self.txn.as_ref(),
        }
    }

    pub(super) fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        let service = Room::of(parts.tag).and_then(|room| self.of(room));
        match service {
            Some(service) => service.start(session, parts),
            None => Answering::Now(Err(Refusal::Unknown)),
        }
    }

    pub(super) fn ended(&self, session: &PeerSession) {
        for room in [Room::Raft, Room::Replica, Room::Control, Room::Txn] {
            if let Some(service) = self.of(room) {
                service.ended(session);
            }
        }
    }
}

/// The body of a call.
///
/// # Errors
/// What to answer instead.
pub fn read<B: Body>(parts: Parts) -> Result<B, Refusal> {
    B::from_parts(parts).map_err(|error| match error {
        PeerError::Unknown { .. } => Refusal::Unknown,
        PeerError::TooShort(_)
        | PeerError::Damaged { .. }
        | PeerError::TextTooLong(_)
        | PeerError::TooLong { .. }
        | PeerError::TooMany(_) => Refusal::Damaged,
    })
}

/// The answer that `body` is.
///
/// # Errors
/// [`Refusal::Busy`] if it is longer than its bounds, which is a fault of ours and logged.
pub fn answer<B: Body>(body: B) -> PeerAnswer {
    body.into_parts().map_err(|error| {
        tracing::error!(%error, tag = B::TAG, "an answer to a peer does not fit");
        Refusal::Busy
    })
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answering::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Answering::Later(_) => f.write_str("Later"),
        }
    }
}
