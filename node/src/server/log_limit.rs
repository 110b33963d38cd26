//! Says at most so many lines in a time, and how many it kept back: a hostile client must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Mono;

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// A limit on lines of one kind.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_start: Option<Mono>,
    said: u32,
    kept_back: u64,
}

impl LogLimit {
    /// Whether a line may be said now, and if so, how many were kept back since the last one.
    pub(super) fn pass(&self, now: Mono) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.window_start.is_none_or(|start| now.since(start) >= WINDOW) {
            state.window_start = Some(now);
            state.said = 0;
        }
        if state.said == LINES {
            state.kept_back += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_told_later() {
        let limit = LogLimit::default();
        let start = Mono(5);
        let passed: Vec<_> = (0..13).filter_map(|_| limit.pass(start)).collect();
        assert_eq!(passed, [0; 10]);
        assert_eq!(limit.pass(start + WINDOW), Some(3));
    }
}
