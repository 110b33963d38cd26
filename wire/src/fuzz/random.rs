//! A stream of random numbers that reads as any message, and damages any bytes.
//!
//! Promises: the same seed gives the same values and the same damage.

use bytes::Bytes;

use crate::kafka::codec::{DecodeError, Source, Tags};

/// A small deterministic stream of numbers (splitmix64), and a source of random values.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    pub(super) flexible: bool,
    /// Array elements that may still be made, so that nested arrays end.
    pub(super) elements: usize,
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

/// Values that lengths and counts are most often wrong with.
const EXTREMES: [[u8; 4]; 6] = [
    [0x7f, 0xff, 0xff, 0xff],
    [0xff, 0xff, 0xff, 0xff],
    [0x80, 0, 0, 0],
    [0xff, 0xff, 0xff, 0x0f],
    [0, 0xff, 0xff, 0xff],
    [0, 0, 0x7f, 0xff],
];

impl Random {
    /// Damages `bytes`: flips, cuts, inserts, repeats, or writes extreme lengths, up to four times.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(5) {
            let length = bytes.len();
            if length == 0 {
                bytes.push(self.draw() as u8);
                continue;
            }
            let at = self.below(length);
            match self.below(9) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.draw() as u8,
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => bytes.truncate(at),
                4 => bytes.insert(at, self.draw() as u8),
                5 => drop(bytes.remove(at)),
                6 => {
                    let end = length.min(at + 1 + self.below(16));
                    bytes.extend_from_within(at..end);
                }
                7 | 8 => {
                    let extreme = EXTREMES[self.below(EXTREMES.len())];
                    let end = length.min(at + extreme.len());
                    bytes[at..end].copy_from_slice(&extreme[..end - at]);
                }
                other => unreachable!("{other} is not below 9"),
            }
        }
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
