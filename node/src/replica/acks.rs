//! Producers that wait for the watermark, or for `acks.required` copies, in the order in which it reaches them.
//!
//! Owns: one entry a waiting batch: its token and the end offset that the watermark must reach.
//! Promises: a token is released once; releases leave in the order of end offsets, equal ends in the order of
//! arrival; the number of entries is bounded by [`LIMIT`].
//! Leaves out: what a token stands for (the shell knows), deadlines (the waiting request has its own).
//! Called by `leader` only.

use std::collections::VecDeque;
use std::fmt;

use dejaq_wire::ids::Offset;

/// Most batches that wait in one partition; more are refused before they are appended.
///
/// 16384 batches of 16 KiB are 256 MiB in flight to one partition: more than any connection limit lets in.
pub const LIMIT: usize = 16_384;

/// Names one waiting batch of one partition. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// The waiting batches of one partition.
#[derive(Debug, Default)]
pub struct Acks {
    /// Ascending by end offset.
    waiting: VecDeque<(Offset, Token)>,
}

impl Acks {
    /// Number of waiting batches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Holds `token` until the watermark reaches `end`.
    ///
    /// A retry of an older batch waits for its original end, so that ends may come out of order, rarely.
    pub fn hold(&mut self, end: Offset, token: Token) {
        assert!(end > Offset::ZERO, "{token:?} waits for {end:?}, which no batch ends at");
        assert!(self.waiting.len() < LIMIT, "{token:?} is one more than {LIMIT} waiting batches");
        let at = match self.waiting.back() {
            Some((last, _)) if *last > end => self.waiting.partition_point(|(held, _)| *held <= end),
            _ => self.waiting.len(),
        };
        self.waiting.insert(at, (end, token));
        self.check_around(at);
    }

    /// Takes the next token whose end the watermark has reached.
    pub fn release(&mut self, watermark: Offset) -> Option<Token> {
        match self.waiting.front() {
            Some((end, _)) if *end <= watermark => self.waiting.pop_front().map(|(_, token)| token),
            _ => None,
        }
    }

    /// Takes the next token whatever the watermark is: leadership ends here.
    pub fn abandon(&mut self) -> Option<Token> {
        self.waiting.pop_front().map(|(_, token)| token)
    }

    /// Forgets the batches that nobody waits for any more. O(n): called when the limit is near, not per batch.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(Token) -> bool) {
        let before = self.waiting.len();
        self.waiting.retain(|(_, token)| is_wanted(*token));
        assert!(self.waiting.len() <= before, "{} of {before} are left", self.waiting.len());
    }

    /// The lowest end that somebody waits for.
    #[must_use]
    pub fn next_end(&self) -> Option<Offset> {
        self.waiting.front().map(|(end, _)| *end)
    }

    fn check_around(&self, at: usize) {
        let (end, token) = self.waiting[at];
        if at > 0 {
            let (before, other) = self.waiting[at - 1];
            assert!(before <= end, "{other:?} waits for {before:?} before {token:?} for {end:?}");
        }
        if let Some((after, other)) = self.waiting.get(at + 1) {
            assert!(*after > end, "{other:?} waits for {after:?} after {token:?} for {end:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ends: &[i64]) -> Acks {
        let mut acks = Acks::default();
        for (token, end) in ends.iter().enumerate() {
            acks.hold(Offset(*end), Token(token as u64));
        }
        acks
    }

    fn released(acks: &mut Acks, watermark: i64) -> Vec<u64> {
        std::iter::from_fn(|| acks.release(Offset(watermark)).map(|token| token.0)).collect()
    }

    #[test]
    fn a_batch_waits_until_the_watermark_reaches_its_end() {
        let mut acks = held(&[3, 5, 9]);
        assert_eq!(released(&mut acks, 4), [0]);
        assert_eq!(released(&mut acks, 5), [1]);
        assert_eq!(acks.next_end(), Some(Offset(9)));
    }

    #[test]
    fn a_retry_of_an_old_batch_leaves_at_its_old_end() {
        let mut acks = held(&[3, 5, 9, 5, 3]);
        assert_eq!(released(&mut acks, 5), [0, 4, 1, 3]);
        assert_eq!(released(&mut acks, 9), [2]);
    }

    #[test]
    fn abandoning_takes_everyone_in_order() {
        let mut acks = held(&[3, 5]);
        assert_eq!(acks.abandon(), Some(Token(0)));
        assert_eq!(acks.abandon(), Some(Token(1)));
        assert_eq!(acks.abandon(), None);
    }

    #[test]
    fn those_whom_nobody_waits_for_are_forgotten() {
        let mut acks = held(&[3, 5, 9]);
        acks.retain(|token| token.0 == 1);
        assert_eq!(released(&mut acks, 99), [1]);
        assert!(acks.is_empty());
    }

    #[test]
    #[should_panic(expected = "one more than 16384")]
    fn the_number_of_waiting_batches_is_bounded() {
        let mut acks = Acks::default();
        for token in 0..=LIMIT as u64 {
            acks.hold(Offset(1), Token(token));
        }
    }
}
