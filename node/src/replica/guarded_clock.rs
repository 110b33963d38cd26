//! The time that retention goes by: a wall clock that jumps forward is not believed at once.
//!
//! Owns: how far the wall clock is believed. Promises (RET-2): between two looks the time told grows by no more than the
//! monotonic clock did, and a little for slewing; a clock that goes back is followed at once, since it only keeps records
//! longer; a jump forward is followed when it has stood for an hour, so that one that is undone has deleted nothing.
//! Leaves out: what a machine shows when its process starts: there is nothing to compare it with, and it is believed.
//! Pure. Called by `retention` with both clocks.
//!
//! ```text
//!  wall      10:00 10:01 | 14:02 14:03 … 15:01 15:02     a jump of four hours at 10:02
//!  believed  10:00 10:01 | 10:02 10:03 … 11:01 15:02     followed an hour later
//! ```

use std::time::Duration;

use dejaq_storage::mark;

use crate::runtime::Mono;

/// How long a clock stands ahead before it is believed: longer than it takes a person, or NTP, to undo a mistake.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
/// One part in so many by which a wall clock may run faster than the monotonic one: NTP slews by 500 ppm at most.
const SLEW: i64 = 1000;

/// Rounding to milliseconds is no jump.
const ROUNDING_US: i64 = 2000;

/// See the module.
#[derive(Debug)]
pub(super) struct GuardedClock {
    patience: Duration,
    /// The last look, and the latest time that was believed then, in microseconds.
    at: Mono,
    limit_us: i64,
    /// Since when the wall clock is ahead of what is believed.
    ahead_since: Option<Mono>,
}

impl GuardedClock {
    /// Believes `wall_ms`, which the machine shows at `now`.
    pub(super) fn new(now: Mono, wall_ms: i64, patience: Duration) -> GuardedClock {
        GuardedClock { patience, at: now, limit_us: wall_ms.saturating_mul(1000), ahead_since: None }
    }

    /// The time to go by at `now`, when the machine shows `wall_ms`. At most `wall_ms`.
    pub(super) fn look(&mut self, now: Mono, wall_ms: i64) -> i64 {
        assert!(now >= self.at, "monotonic time went back from {:?} to {now:?}", self.at);
        let passed_us = i64::try_from(now.since(self.at).as_micros()).unwrap_or(i64::MAX / 4);
        let wall_us = wall_ms.saturating_mul(1000);
        let steady_us = self.limit_us.saturating_add(passed_us);
        let fastest_us = steady_us.saturating_add(passed_us / SLEW);
        self.at = now;
        if wall_us <= fastest_us.saturating_add(ROUNDING_US) {
            // One that went back may come again to where it would be by now.
            self.limit_us = wall_us.min(fastest_us).max(steady_us);
            self.ahead_since = None;
            return wall_ms;
        }
        let since = *self.ahead_since.get_or_insert(now);
        if now.since(since) >= self.patience {
            mark!("a clock that jumped forward is believed");
            self.limit_us = wall_us;
            self.ahead_since = None;
            return wall_ms;
        }
        mark!("a clock that jumps forward is not believed");
        self.limit_us = steady_us;
        let told = steady_us / 1000;
        assert!(told <= wall_ms, "{told} is later than the machine shows, {wall_ms}");
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn at(ms: i64) -> Mono {
        Mono(ms as u64 * 1_000_000)
    }

    /// Looks at (monotonic, wall) milliseconds, one after the other.
    fn told(looks: &[(i64, i64)]) -> Vec<i64> {
        let mut clock = GuardedClock::new(at(0), 0, PATIENCE);
        looks.iter().map(|(mono, wall)| clock.look(at(*mono), *wall)).collect()
    }

    #[test]
    fn a_clock_that_runs_well_is_followed_and_so_is_one_that_slews() {
        assert_eq!(told(&[(1000, 1000), (61_000, 61_030), (121_000, 121_060)]), [1000, 61_030, 121_060]);
    }

    #[test]
    fn a_jump_forward_that_is_undone_was_never_followed() {
        let looks = [(1000, 1000), (2000, 2000 + 5 * HOUR), (3000, 3000 + 5 * HOUR), (4000, 4000)];
        let told = told(&looks);
        assert!(told[1] <= 2010 && told[2] <= 3010, "{told:?}");
        assert_eq!(told[3], 4000);
    }

    #[test]
    fn a_jump_forward_is_followed_when_it_has_stood_for_an_hour() {
        let jumped = |ms: i64| (ms, ms + 5 * HOUR);
        let told = told(&[jumped(1000), jumped(HOUR), jumped(HOUR + 1000), jumped(HOUR + 2000)]);
        assert!(told[1] < 2 * HOUR, "{told:?}");
        assert_eq!(told[2..], [6 * HOUR + 1000, 6 * HOUR + 2000]);
    }

    #[test]
    fn a_clock_that_went_back_is_followed_and_may_come_again() {
        let told = told(&[(1000, 1000), (2000, 2000 - HOUR), (3000, 3000 - HOUR), (4000, 4000)]);
        assert_eq!(told, [1000, 2000 - HOUR, 3000 - HOUR, 4000]);
    }

    #[test]
    fn many_small_jumps_do_not_add_up_to_a_large_one() {
        let looks: Vec<(i64, i64)> = (1..1000).map(|n| (n * 1000, n * 2000)).collect();
        let told = told(&looks);
        assert!(told.iter().zip(&looks).all(|(told, (mono, _))| *told <= mono + 1000), "{told:?}");
    }
}
