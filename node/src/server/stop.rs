//! How a server and its connections end: first gracefully, then at once.
//!
//! Owns: [`Signal`], which is raised once and stays raised, however many wait for it; [`Stop`], two of them.
//! A closed semaphore is such a signal; a `watch` would wake its many waiters in an order that no seed decides.

use tokio::sync::Semaphore;

/// Raised once, for good.
#[derive(Debug)]
pub(super) struct Signal(Semaphore);

impl Signal {
    pub(super) fn new() -> Signal {
        Signal(Semaphore::new(0))
    }

    pub(super) fn raise(&self) {
        self.0.close();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.is_closed()
    }

    /// Ends when it is raised. Cancel safe.
    pub(super) async fn raised(&self) {
        let closed = self.0.acquire().await;
        assert!(closed.is_err(), "a signal has no permits");
    }
}

/// Two signals: drain, then leave.
#[derive(Debug)]
pub(super) struct Stop {
    drain: Signal,
    leave: Signal,
}

impl Stop {
    pub(super) fn new() -> Stop {
        Stop { drain: Signal::new(), leave: Signal::new() }
    }

    /// Asks everyone to start nothing new and to end when what was started is answered.
    pub(super) fn drain(&self) {
        self.drain.raise();
    }

    /// Asks everyone to end now.
    pub(super) fn leave(&self) {
        self.drain.raise();
        self.leave.raise();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_raised()
    }

    /// Ends when draining begins. Cancel safe.
    pub(super) async fn draining(&self) {
        self.drain.raised().await;
    }

    /// Ends when everyone is to leave. Cancel safe.
    pub(super) async fn leaving(&self) {
        self.leave.raised().await;
    }
}
