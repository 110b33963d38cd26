//! When to try again: exponential backoff with jitter, and a bound.
//!
//! Owns: the arithmetic. Promises: a delay never exceeds the maximum by more than the jitter, never overflows, and
//! is a function of its arguments (the entropy is passed in, so a seed replays it).
//! Leaves out: which errors are worth a retry (see `outcome`), and sleeping (the shells).
//!
//!   attempt 1 ─ fails ─ wait 1×base ± jitter ─ attempt 2 ─ fails ─ wait 2×base ± jitter ─ … ─ wait max ± jitter

use std::time::Duration;

/// Share of a delay, in percent, by which it may be shorter or longer: clients that failed together spread out.
pub const JITTER_PERCENT: u64 = 20;

/// How often and how soon a failed request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay before the second attempt; doubles with every further one.
    pub backoff: Duration,
    /// The delay grows no further than this.
    pub max_backoff: Duration,
    /// Attempts in all; the operation's deadline usually comes first.
    pub max_attempts: u32,
}

impl Default for RetryPolicy {
    /// Kafka's numbers for the delays; attempts are bounded by time, so that count is only a last guard.
    fn default() -> Self {
        RetryPolicy {
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            max_attempts: u32::MAX,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `failed` attempts (at least one), or `None` when no further one is allowed.
    #[must_use]
    pub fn delay(&self, failed: u32, entropy: u64) -> Option<Duration> {
        assert!(failed > 0, "a delay comes after a failure, not before the first attempt");
        if failed >= self.max_attempts {
            return None;
        }
        let doublings = (failed - 1).min(30);
        let plain = self.backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        Some(jitter(plain, entropy))
    }
}

/// `plain`, made shorter or longer by up to [`JITTER_PERCENT`].
#[must_use]
pub fn jitter(plain: Duration, entropy: u64) -> Duration {
    let nanos = u64::try_from(plain.as_nanos()).unwrap_or(u64::MAX / 200);
    let span = (nanos / 100).saturating_mul(2 * JITTER_PERCENT);
    let low = nanos - (nanos / 100) * JITTER_PERCENT;
    let extra = if span == 0 { 0 } else { entropy % (span + 1) };
    Duration::from_nanos(low.saturating_add(extra))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let policy = RetryPolicy {
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            max_attempts: 100,
        };
        let middle = |failed| {
            let low = policy.delay(failed, 0).expect("within the bound");
            low.as_millis() * 100 / u128::from(100 - JITTER_PERCENT)
        };
        assert_eq!([1, 2, 3, 4, 5, 99].map(middle), [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(policy.delay(100, 0), None, "the bound on attempts holds");
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_share(ms in 0u64..10_000_000, entropy: u64) {
            let plain = Duration::from_millis(ms);
            let shaken = jitter(plain, entropy);
            prop_assert!(shaken >= plain * (100 - JITTER_PERCENT as u32) / 100);
            prop_assert!(shaken <= plain * (100 + JITTER_PERCENT as u32) / 100 + Duration::from_nanos(100));
        }

        #[test]
        fn no_number_of_failures_overflows(failed in 1u32.., entropy: u64, ms in 0u64..) {
            let policy = RetryPolicy {
                backoff: Duration::from_millis(ms), max_backoff: Duration::MAX, max_attempts: u32::MAX,
            };
            let _ = policy.delay(failed, entropy);
        }
    }
}
