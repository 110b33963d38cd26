//! Draws from seeded streams, so that every choice is addressed by name and index.
//!
//! Owns: the mapping from (seed, name, index) to a ChaCha stream. Promises: the same stream on every machine and
//! build; streams of different names or indexes are independent, so that removing one event from a run leaves the
//! draws of all others as they were (what makes shrinking possible). Leaves out: distributions beyond the simple ones.
//! Called by the model disk and by everything in `sim`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Parts in a million: the unit of every probability.
pub const MILLION: u32 = 1_000_000;

/// The stream of draws for the `index`th event of a kind.
#[must_use]
pub fn stream(seed: u64, name: &str, index: u64) -> ChaCha8Rng {
    // Two different checksums of the name, so that a collision of both would be needed to tie two streams together.
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16..24].copy_from_slice(&fnv1a(name.as_bytes()).to_le_bytes());
    key[24..28].copy_from_slice(&crc32fast::hash(name.as_bytes()).to_le_bytes());
    key[28..].copy_from_slice(b"deja");
    ChaCha8Rng::from_seed(key)
}

/// A number in `0..bound`, without bias.
///
/// # Panics
/// If `bound` is zero.
pub fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    assert!(bound > 0, "nothing is below zero");
    // Rejection: the largest multiple of `bound` that fits is the end of the fair range.
    let fair = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = rng.next_u64();
        if drawn < fair {
            return drawn % bound;
        }
    }
}

/// A number in `start..=last`.
///
/// # Panics
/// If `last` is before `start`.
pub fn between(rng: &mut ChaCha8Rng, start: u64, last: u64) -> u64 {
    assert!(start <= last, "{start}..={last} is empty");
    match (last - start).checked_add(1) {
        Some(span) => start + below(rng, span),
        None => rng.next_u64(),
    }
}

/// True `ppm` times in a million. Draws even when the answer is certain, so that rates do not shift the stream.
pub fn chance(rng: &mut ChaCha8Rng, ppm: u32) -> bool {
    below(rng, u64::from(MILLION)) < u64::from(ppm)
}

/// One of `choices`.
///
/// # Panics
/// If there is none.
pub fn pick<'a, T>(rng: &mut ChaCha8Rng, choices: &'a [T]) -> &'a T {
    &choices[below(rng, choices.len() as u64) as usize]
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_stable_and_differ_by_seed_name_and_index() {
        let first = |seed, name, index| stream(seed, name, index).next_u64();
        // Golden: a change here changes the meaning of every stored seed.
        assert_eq!(first(1, "faults", 0), 851677617679320381);
        let all = [first(1, "faults", 0), first(2, "faults", 0), first(1, "net", 0), first(1, "faults", 1)];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "{all:?}");
        }
    }

    #[test]
    fn chances_are_kept() {
        let mut rng = stream(7, "chance", 0);
        let hits = (0..10_000).filter(|_| chance(&mut rng, 250_000)).count();
        assert!((2_300..2_700).contains(&hits), "{hits} of 10000 at one in four");
        assert!((0..100).all(|_| !chance(&mut rng, 0)));
        assert!((0..100).all(|_| chance(&mut rng, MILLION)));
    }
}
