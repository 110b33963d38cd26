//! Whether the data directory may still be trusted.
//!
//! Owns: one switch that is thrown once. Promises: after [`Health::fail`] every partition of the directory refuses
//! reads and writes (LOG-9: nothing acknowledged may depend on bytes around a failed sync), until the process ends.
//! Leaves out: telling the world; readiness asks, and the caller of `fail` logs.
//! Used by `flusher` and `partition` (who see failures) and by everyone who answers.

use std::sync::{Mutex, PoisonError};

/// The state of one data directory. Shared by all its partitions.
#[derive(Debug, Default)]
pub struct Health {
    failure: Mutex<Option<String>>,
    is_offline: std::sync::atomic::AtomicBool,
}

impl Health {
    /// Takes the directory offline for good, and says so once in the log.
    pub fn fail(&self, reason: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(
                reason,
                "the data directory is offline: nothing is read or written until a restart"
            );
            *failure = Some(reason.to_owned());
        }
        self.is_offline.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Whether the directory failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.is_offline.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
