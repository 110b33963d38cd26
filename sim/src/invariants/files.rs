//! The files of each partition in a disk image, by name, and the envelope of the small ones.
//!
//! Owns: telling partitions apart and opening envelopes, by a parser of the checker's own. Leaves out: judging.
//! Layout: `storage/src/layout.rs` and `small_file.rs`: magic 4, version 2, payload length 4, payload, CRC-32 over topic id,
//! partition and all before it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::crc::crc32;
use super::side_file::partition_seed;

/// The files of one partition.
pub type Names<'f> = BTreeMap<&'f str, &'f [u8]>;

/// The files of each partition, by folder.
#[must_use]
pub fn partitions(files: &[(PathBuf, Vec<u8>)]) -> BTreeMap<&str, Names<'_>> {
    let mut all: BTreeMap<&str, Names<'_>> = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("partitions")) {
        let folder = path.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((folder, name)) = folder.zip(name) {
            all.entry(folder).or_default().insert(name, bytes);
        }
    }
    all
}

/// What a small file of this kind holds, if it can be believed.
#[must_use]
pub fn payload<'f>(folder: &str, magic: &[u8; 4], bytes: &'f [u8]) -> Option<&'f [u8]> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let whole = body.len() >= 10 && body[..4] == *magic;
    let seed = partition_seed(folder)?;
    let good = whole && !crc32(seed, body) == u32::from_be_bytes(*sum);
    let length = u32::from_be_bytes(body.get(6..10)?.try_into().ok()?) as usize;
    (good && body.len() == 10 + length).then(|| &body[10..])
}

/// The offset in the name of a file with this ending.
#[must_use]
pub fn offset(name: &str, ending: &str) -> Option<u64> {
    name.strip_suffix(ending).filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok())
}

/// Reads big-endian numbers one after the other; `None` at the end.
pub struct Numbers<'f>(pub &'f [u8]);

impl Numbers<'_> {
    /// The next number of `N` bytes, with its sign.
    pub fn take<const N: usize>(&mut self) -> Option<i64> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        let sign = if front[0] & 0x80 == 0 { 0 } else { -1 };
        Some(front.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const FOLDER: &str = "07070707070707070707070707070707-3";

    /// A small file as the product writes it.
    pub fn small_file(magic: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = [&magic[..], &[0, 1], &(payload.len() as u32).to_be_bytes(), payload].concat();
        let sum = !crc32(partition_seed(FOLDER).expect("a folder"), &bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn an_envelope_is_believed_only_whole_and_at_its_own_place() {
        let file = small_file(b"DJxx", b"payload");
        assert_eq!(payload(FOLDER, b"DJxx", &file), Some(&b"payload"[..]));
        assert_eq!(payload(FOLDER, b"DJyy", &file), None);
        assert_eq!(payload("07070707070707070707070707070707-4", b"DJxx", &file), None);
        assert_eq!(payload(FOLDER, b"DJxx", &file[..file.len() - 1]), None);
    }

    #[test]
    fn numbers_have_their_sign() {
        let mut numbers = Numbers(&[0xff, 0xfe, 0, 0, 1, 0]);
        assert_eq!(
            (numbers.take::<2>(), numbers.take::<4>(), numbers.take::<1>()),
            (Some(-2), Some(256), None)
        );
    }
}
