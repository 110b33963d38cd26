//! A room that is opened after the door: what answers in it needs the metadata, which needs the door.
//!
//! Owns: [`LateRoom`]. Promises: before it is opened every call is refused as busy, so that the asker comes again.
//! Made by `broker`, opened once by whoever answers.

use std::sync::{Arc, OnceLock};

use dejaq_wire::peer::{Parts, Refusal};

use super::service::{Answering, PeerService, PeerSession};

/// Answers nothing until [`LateRoom::open`]. Clones are the same room.
#[derive(Clone, Default)]
pub struct LateRoom(Arc<OnceLock<Arc<dyn PeerService>>>);

impl LateRoom {
    /// From now on `service` answers.
    ///
    /// # Panics
    /// If it is open already.
    pub fn open(&self, service: Arc<dyn PeerService>) {
        assert!(self.0.set(service).is_ok(), "a room is opened once");
    }
}

impl PeerService for LateRoom {
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        match self.0.get() {
            Some(service) => service.start(session, parts),
            None => Answering::Now(Err(Refusal::Busy)),
        }
    }

    fn ended(&self, session: &PeerSession) {
        if let Some(service) = self.0.get() {
            service.ended(session);
        }
    }
}
