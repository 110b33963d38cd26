//! How a server and its connections end: first gracefully, then at once.
//!
//! Owns: [`Stop`], two signals that are raised once and stay raised, however many wait for them.
//! A closed semaphore is such a signal; a `watch` would wake its many waiters in an order that no seed decides.

use tokio::sync::Semaphore;

/// Two signals: drain, then leave.
#[derive(Debug)]
pub(super) struct Stop {
    drain: Semaphore,
    leave: Semaphore,
}

impl Stop {
    pub(super) fn new() -> Stop {
        Stop { drain: Semaphore::new(0), leave: Semaphore::new(0) }
    }

    /// Asks everyone to start nothing new and to end when what was started is answered.
    pub(super) fn drain(&self) {
        self.drain.close();
    }

    /// Asks everyone to end now.
    pub(super) fn leave(&self) {
        self.drain.close();
        self.leave.close();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_closed()
    }

    /// Ends when draining begins. Cancel safe.
    pub(super) async fn draining(&self) {
        raised(&self.drain).await;
    }

    /// Ends when everyone is to leave. Cancel safe.
    pub(super) async fn leaving(&self) {
        raised(&self.leave).await;
    }
}

async fn raised(signal: &Semaphore) {
    let closed = signal.acquire().await;
    assert!(closed.is_err(), "a signal has no permits");
}
