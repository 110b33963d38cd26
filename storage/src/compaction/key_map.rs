//! The newest offset of every key that a cleaning looked at, in a fixed amount of memory.
//!
//! Owns: a table with open addressing over 128-bit hashes (SipHash-2-4), 24 bytes a key. Promises: it never grows beyond
//! what it was given; a key that found no place is told, not forgotten silently. The hash is keyed by the run, so that
//! nobody can choose keys that collide; by chance two of a billion keys do with a likelihood below 10^-20.
//! Leaves out: which records are looked at.

/// Bytes of a place.
pub(super) const SLOT_BYTES: usize = 24;
/// Of ten places nine are taken at most, so that a search ends soon.
const LOAD: (usize, usize) = (9, 10);
const NOTHING: i64 = -1;

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: [u64; 2],
    /// [`NOTHING`]: free.
    offset: i64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct KeyMap {
    slots: Vec<Slot>,
    used: usize,
    seed: [u64; 2],
}

impl KeyMap {
    /// A map of at most `bytes` for at most `keys` keys.
    pub(super) fn new(bytes: usize, keys: usize, seed: [u64; 2]) -> KeyMap {
        let wanted = keys.saturating_mul(LOAD.1) / LOAD.0 + 2;
        let count = (bytes / SLOT_BYTES).min(wanted).max(2);
        KeyMap { slots: vec![Slot { hash: [0; 2], offset: NOTHING }; count], used: 0, seed }
    }

    /// Notes that `key` has a record at `offset`; false if there is no place for another key.
    pub(super) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        assert!(offset >= 0, "offset {offset}");
        let hash = sip128(self.seed, key);
        let at = self.find(hash);
        let is_new = self.slots[at].offset == NOTHING;
        if is_new && (self.used + 1) * LOAD.1 > self.slots.len() * LOAD.0 {
            return false;
        }
        self.used += usize::from(is_new);
        self.slots[at] = Slot { hash, offset: self.slots[at].offset.max(offset) };
        true
    }

    /// The newest offset noted for `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = self.slots[self.find(sip128(self.seed, key))];
        (slot.offset != NOTHING).then_some(slot.offset)
    }

    /// Keys noted.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// The place of this hash, or the free one that it would take. There is always one: see [`LOAD`].
    fn find(&self, hash: [u64; 2]) -> usize {
        let count = self.slots.len();
        let mut at = (hash[0] % count as u64) as usize;
        while self.slots[at].offset != NOTHING && self.slots[at].hash != hash {
            at = (at + 1) % count;
        }
        at
    }
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn squeeze(v: &mut [u64; 4]) -> u64 {
    for _ in 0..4 {
        round(v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012).
fn sip128(seed: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let mut v = [
        seed[0] ^ 0x736f_6d65_7073_6575,
        seed[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        seed[0] ^ 0x6c79_6765_6e65_7261,
        seed[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    absorb(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xee;
    let low = squeeze(&mut v);
    v[1] ^= 0xdd;
    [low, squeeze(&mut v)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_siphash_with_128_bits() {
        let seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes = |hash: [u64; 2]| [hash[0].to_le_bytes(), hash[1].to_le_bytes()].concat();
        // The first two vectors of the reference implementation.
        let empty = [163, 129, 127, 4, 186, 37, 168, 230, 109, 246, 114, 20, 199, 85, 2, 147];
        let zero = [218, 135, 193, 216, 107, 153, 175, 68, 52, 118, 89, 17, 155, 34, 252, 69];
        assert_eq!(bytes(sip128(seed, &[])), empty);
        assert_eq!(bytes(sip128(seed, &[0])), zero);
    }

    #[test]
    fn a_full_map_takes_known_keys_and_tells_of_others() {
        let mut map = KeyMap::new(20 * SLOT_BYTES, usize::MAX, [1, 2]);
        let taken: Vec<u32> = (0..100).filter(|key: &u32| map.put(&key.to_be_bytes(), 5)).collect();
        assert_eq!((taken.len(), map.len()), (18, 18));
        assert!(map.put(&taken[3].to_be_bytes(), 9), "it has a place");
        assert!(map.put(&taken[3].to_be_bytes(), 7), "and keeps the newest");
        assert_eq!(map.get(&taken[3].to_be_bytes()), Some(9));
        assert_eq!(map.get(&taken[4].to_be_bytes()), Some(5));
        assert_eq!(map.get(b"nobody"), None);
    }
}
