//! Independent streams of randomness, all from one seed.
//!
//! Owns: [`Streams`], which names a stream by a label and a number, and [`Dice`], what a stream is asked for.
//! Promises: a stream depends on (seed, label, number) only, so that taking one fault, client or connection away
//! does not reshuffle the others: that is what makes shrinking work. ChaCha, so that a seed means the same on every
//! machine and after every upgrade. Leaves out: madsim's own generator (it orders ready tasks, from the same seed).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The seed of a run, from which every stream is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// The streams of a run.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Streams { seed }
    }

    /// The seed of the run.
    #[must_use]
    pub fn seed(self) -> u64 {
        self.seed
    }

    /// The stream called `label`, number `number`: always the same for one seed.
    #[must_use]
    pub fn dice(self, label: &str, number: u64) -> Dice {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&number.to_le_bytes());
        let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a over the label
        for byte in label.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        key[16..24].copy_from_slice(&hash.to_le_bytes());
        key[24..].copy_from_slice(b"DejaQsim");
        Dice(ChaCha8Rng::from_seed(key))
    }
}

/// One stream.
#[derive(Debug, Clone)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `[0, end)`; 0 if `end` is 0. The bias for `end` far below 2^64 does not matter here.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.any()) * u128::from(end);
        (wide >> 64) as u64
    }

    /// A number in `[from, to)`; `from` if that is empty.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from))
    }

    /// True `in_1000` times out of 1000.
    pub fn chance(&mut self, in_1000: u64) -> bool {
        self.below(1000) < in_1000
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        assert!(!of.is_empty(), "there is nothing to pick from");
        &of[self.below(of.len() as u64) as usize]
    }

    /// The place of one of these weights, each as likely as it weighs; `None` if all are zero.
    pub fn weighted(&mut self, weights: &[u64]) -> Option<usize> {
        let total: u64 = weights.iter().sum();
        let mut at = self.below(total);
        (total > 0).then(|| {
            weights
                .iter()
                .position(|weight| {
                    at < *weight || {
                        at -= weight;
                        false
                    }
                })
                .expect("at < the sum")
        })
    }

    /// A number in `[from, to)` that is as likely to be in each power of two: small ones are common, large ones occur.
    pub fn log_between(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = (from.max(1), to.max(2));
        let bits = self.between(u64::from(low.ilog2()), u64::from((high - 1).ilog2()) + 1);
        self.between(1 << bits, 2 << bits).clamp(from, to - 1)
    }

    /// The generator below, for what wants one.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }

    /// Random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_name() {
        let streams = Streams::new(7);
        let mut other = streams.dice("faults", 1);
        other.any();
        assert_eq!(streams.dice("net", 3).any(), streams.dice("net", 3).any());
        assert_ne!(streams.dice("net", 3).any(), streams.dice("net", 4).any());
        assert_ne!(streams.dice("net", 3).any(), streams.dice("ten", 3).any());
        assert_ne!(streams.dice("net", 3).any(), Streams::new(8).dice("net", 3).any());
    }

    #[test]
    fn every_draw_is_within_its_bounds() {
        let mut dice = Streams::new(1).dice("bounds", 0);
        for _ in 0..1000 {
            assert!((3..9).contains(&dice.between(3, 9)));
            assert!((5..5000).contains(&dice.log_between(5, 5000)));
            assert_eq!(dice.weighted(&[0, 4, 0]), Some(1));
        }
        assert_eq!(dice.weighted(&[0, 0]), None);
    }

    #[test]
    fn the_first_draws_of_a_seed_never_change() {
        let mut dice = Streams::new(42).dice("golden", 7);
        let drawn: Vec<String> = (0..2).map(|_| format!("{:016x}", dice.any())).collect();
        insta::assert_snapshot!(drawn.join(" "), @"ef68d1ff9feb4832 aae007517d513f76");
    }
}
