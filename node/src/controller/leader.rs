//! Who is the active controller, as far as this node knows; told by the driver, read by everyone.
//!
//! Promises: this node is named only while it may decide, that is once everything of the controllers before is applied.

use std::sync::{Arc, Mutex, PoisonError};

use dejaq_wire::ids::BrokerId;
use tokio::sync::Notify;

/// Shared by clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leader(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held for a copy, never across an await.
    now: Mutex<Option<BrokerId>>,
    changed: Notify,
}

impl Leader {
    /// Who it is.
    pub fn get(&self) -> Option<BrokerId> {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone.
    pub fn set(&self, leader: Option<BrokerId>) {
        let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *now, leader) != leader {
            drop(now);
            self.0.changed.notify_waiters();
        }
    }

    /// Waits until it is somebody else than `seen`. Has no deadline of its own. Cancel safe.
    pub async fn other_than(&self, seen: Option<BrokerId>) -> Option<BrokerId> {
        loop {
            let notice = self.0.changed.notified(); // taken before the look, so that no change is missed
            let now = self.get();
            if now != seen {
                return now;
            }
            notice.await;
        }
    }
}
