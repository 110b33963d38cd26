//! Random messages, for tests and fuzzing; no production code calls this.
//!
//! Owns: [`Random`], a [`Source`] that makes every value up, so that the declaration of a message is
//! its own generator: `Random::new(seed, flexible)` read as a `FetchRequest` is a random one.
//! Promises: the same seed gives the same values. Generic code only: what nobody calls costs nothing.

use bytes::Bytes;

use crate::kafka::codec::{DecodeError, Source, Tags};

/// A small deterministic stream of numbers (splitmix64), and a source of random values.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    flexible: bool,
    /// Array elements that may still be made, so that nested arrays end.
    elements: usize,
}

impl Random {
    /// The stream of `seed`; `flexible` decides whether tagged fields are made.
    pub fn new(seed: u64, flexible: bool) -> Random {
        Random { state: seed, flexible, elements: 64 }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "there is no number below 0");
        (self.draw() % end as u64) as usize
    }

    /// Whether a chance of one in `n` comes true.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

impl Source for Random {
    fn flexible(&self) -> bool {
        self.flexible
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let kind = self.below(8);
        Ok(std::array::from_fn(|at| match kind {
            0 => 0,
            1 => 0xff,
            2 => u8::from(at + 1 == N),
            _ => self.draw() as u8,
        }))
    }

    fn text(&mut self, null: bool) -> Result<Option<String>, DecodeError> {
        if null && self.one_in(4) {
            return Ok(None);
        }
        let length = if self.one_in(50) { 100 + self.below(200) } else { self.below(10) };
        let letter = |random: &mut Random| match random.below(20) {
            0 => 'ß',
            1 => '\u{1f980}',
            other => char::from(b'a' + other as u8),
        };
        Ok(Some((0..length).map(|_| letter(self)).collect()))
    }

    fn blob(&mut self, null: bool) -> Result<Option<Bytes>, DecodeError> {
        if null && self.one_in(4) {
            return Ok(None);
        }
        let length = if self.one_in(20) { 1000 + self.below(1000) } else { self.below(40) };
        Ok(Some((0..length).map(|_| self.draw() as u8).collect()))
    }

    fn count(&mut self, null: bool, _: usize) -> Result<Option<usize>, DecodeError> {
        if null && self.one_in(4) {
            return Ok(None);
        }
        let count = self.below(4).min(self.elements);
        self.elements -= count;
        Ok(Some(count))
    }

    fn present(&mut self) -> Result<bool, DecodeError> {
        Ok(self.one_in(2))
    }

    fn tags(&mut self, known: &'static [u32]) -> Result<Tags, DecodeError> {
        Ok(Tags { next: 0, end: None, known })
    }

    fn next_tag(&mut self, tags: &mut Tags) -> Result<Option<u32>, DecodeError> {
        while let Some(tag) = tags.known.get(tags.next as usize) {
            tags.next += 1;
            if self.one_in(2) {
                return Ok(Some(*tag));
            }
        }
        Ok(None)
    }

    fn skip_tag(&mut self, _: &Tags) -> Result<(), DecodeError> {
        Ok(())
    }
}
