//! The clocks of simulated machines: one virtual time for all, and a wall clock each that may be wrong.
//!
//! Owns: skew, steps and freezes of a node's wall clock; the time that a suspended process did not see.
//! Promises: `now` never goes back and is as fast as virtual time, but for suspensions; only `unix_ms` lies.
//! Leaves out: timers (see `runtime`). Set by faults, read by the node through its runtime.

use std::sync::{Arc, Mutex};

/// 2026-01-01T00:00:00Z: where every simulated wall clock begins.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// A node's wall clock. Survives restarts of the node: it is the machine's. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct WallClock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    skew_ms: i64,
    frozen_at: Option<i64>,
}

impl WallClock {
    /// What the clock shows at virtual time `now_ns`.
    #[must_use]
    pub fn unix_ms(&self, now_ns: u64) -> i64 {
        let state = self.0.lock().expect("nothing panics in here");
        state.frozen_at.unwrap_or_else(|| EPOCH_MS + (now_ns / 1_000_000) as i64 + state.skew_ms)
    }

    /// Steps the clock by `by_ms`, forward or back.
    pub fn step(&self, by_ms: i64) {
        let mut state = self.0.lock().expect("nothing panics in here");
        state.skew_ms = state.skew_ms.saturating_add(by_ms);
    }

    /// Stops the clock at what it shows now, or lets it go on (then it jumps to where it would be).
    pub fn freeze(&self, now_ns: u64, frozen: bool) {
        let shown = self.unix_ms(now_ns);
        self.0.lock().expect("nothing panics in here").frozen_at = frozen.then_some(shown);
    }
}

/// The monotonic clock of one process: virtual time, without the time in which its machine was suspended.
#[derive(Debug, Clone, Default)]
pub struct ProcessClock(Arc<Mutex<Stood>>);

#[derive(Debug, Default)]
struct Stood {
    ns: u64,
    since: Option<u64>,
}

impl ProcessClock {
    /// How far it is behind virtual time at `now_ns`.
    #[must_use]
    pub fn behind_ns(&self, now_ns: u64) -> u64 {
        let stood = self.0.lock().expect("nothing panics in here");
        stood.ns + stood.since.map_or(0, |since| now_ns - since)
    }

    /// Stops the clock at virtual time `now_ns`, or lets it go on from where it stood.
    pub fn suspend(&self, now_ns: u64, suspended: bool) {
        let mut stood = self.0.lock().expect("nothing panics in here");
        match (stood.since, suspended) {
            (None, true) => stood.since = Some(now_ns),
            (Some(since), false) => {
                stood.ns += now_ns - since;
                stood.since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_clock_goes_on_from_where_it_stood() {
        let clock = ProcessClock::default();
        clock.suspend(100, true);
        clock.suspend(150, true);
        assert_eq!(clock.behind_ns(170), 70);
        clock.suspend(200, false);
        assert_eq!(clock.behind_ns(500), 100);
    }

    #[test]
    fn a_frozen_clock_stands_and_then_jumps() {
        let clock = WallClock::default();
        clock.step(-5);
        clock.freeze(1_000_000_000, true);
        assert_eq!(clock.unix_ms(9_000_000_000), EPOCH_MS + 995);
        clock.freeze(9_000_000_000, false);
        assert_eq!(clock.unix_ms(9_000_000_000), EPOCH_MS + 8995);
    }
}
