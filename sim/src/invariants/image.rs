//! The logs in a disk image, read by a parser of the checker's own.
//!
//! Owns: finding segments and cutting them into batches. Promises: shares no code with the product, so that a bug in
//! the product's reading cannot hide itself. Leaves out: judging. Layout: a folder a partition under `partitions/`,
//! segments named by 20 digits and `.log`; batches are Kafka's v2 (KIP-98).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::side_file::Records;

/// One batch as it stands in an image.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Its first offset.
    pub base: i64,
    /// Its last offset.
    pub last: i64,
    /// Its leader epoch.
    pub epoch: i32,
    /// The CRC-32C that it carries.
    pub crc: u32,
    /// Whether the bytes agree with that CRC.
    pub intact: bool,
    /// Where it begins in its segment.
    pub at: u64,
    /// How many bytes it takes.
    pub bytes: u64,
    /// Whether the side file has its record.
    pub recorded: bool,
}

impl Batch {
    /// Whether the other is the same batch: the same offsets, epoch and content, wherever it lies.
    #[must_use]
    pub fn is(&self, other: &Batch) -> bool {
        (self.base, self.last, self.epoch, self.crc, self.intact)
            == (other.base, other.last, other.epoch, other.crc, other.intact)
    }
}

/// The logs of one disk, by partition folder.
#[derive(Debug, Clone, Default)]
pub struct Logs(pub BTreeMap<String, Vec<Batch>>);

impl Logs {
    /// Reads the logs out of the files of an image.
    #[must_use]
    pub fn of(files: &[(PathBuf, Vec<u8>)]) -> Logs {
        let mut segments: BTreeMap<(String, u64), &[u8]> = BTreeMap::new();
        let mut side_files: BTreeMap<(String, u64), &[u8]> = BTreeMap::new();
        for (path, bytes) in files {
            if let Some(place) = segment(path, ".log") {
                segments.insert(place, bytes);
            } else if let Some(place) = segment(path, ".sum") {
                side_files.insert(place, bytes);
            }
        }
        let mut logs = Logs::default();
        for (place, bytes) in segments {
            let side_file = side_files.get(&place).copied().unwrap_or_default();
            let records = Records::of(&place.0, place.1, side_file);
            batches(bytes, &records, logs.0.entry(place.0).or_default());
        }
        logs
    }

    /// The batches of one segment, without regard to its side file.
    #[must_use]
    pub fn of_segment(bytes: &[u8]) -> Vec<Batch> {
        let mut found = Vec::new();
        batches(bytes, &Records::default(), &mut found);
        found
    }

    /// How many batches there are.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// Where the logs of one disk begin by their `start` files, by partition folder.
#[derive(Debug, Clone, Default)]
pub struct Starts(BTreeMap<String, i64>);

impl Starts {
    /// Reads them out of the files of an image: 10 bytes of front, the offset, 4 bytes of checksum. What is damaged on
    /// purpose reads as 0, which claims more and not less.
    #[must_use]
    pub fn of(files: &[(PathBuf, Vec<u8>)]) -> Starts {
        let read = |(path, bytes): &(PathBuf, Vec<u8>)| {
            let is_start = path.file_name()? == "start" && path.starts_with("partitions");
            let folder = path.parent()?.file_name()?.to_str()?;
            let offset = bytes.get(10..18).filter(|_| is_start && bytes.len() == 22)?;
            Some((folder.to_owned(), i64::from_be_bytes(offset.try_into().expect("eight bytes"))))
        };
        Starts(files.iter().filter_map(read).collect())
    }

    /// The first offset of a log: 0 if nothing ever moved it.
    #[must_use]
    pub fn get(&self, folder: &str) -> i64 {
        self.0.get(folder).copied().unwrap_or(0)
    }
}

fn segment(path: &Path, suffix: &str) -> Option<(String, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(suffix)?;
    let folder = path.parent()?.file_name()?.to_str()?;
    let whole = name.len() == 20 && path.starts_with("partitions");
    let base = name.parse().ok().filter(|_| whole)?;
    Some((folder.to_owned(), base))
}

/// Appends the batches of a segment, up to the first place that holds none.
fn batches(segment: &[u8], records: &Records, to: &mut Vec<Batch>) {
    let mut bytes = segment;
    while bytes.len() >= 61 {
        let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let base = i64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
        let (length, epoch, crc, delta) = (int(8), int(12), int(17) as u32, int(23));
        let end = usize::try_from(length).ok().and_then(|length| length.checked_add(12));
        let Some(end) = end.filter(|end| (61..=bytes.len()).contains(end) && bytes[16] == 2 && delta >= 0)
        else {
            return;
        };
        let intact = crc32c(&bytes[21..end]) == crc;
        let at = (segment.len() - bytes.len()) as u64;
        let last = base.saturating_add(i64::from(delta));
        let recorded = records.has(at, bytes, end as u64, base, last);
        to.push(Batch { base, last, epoch, crc, intact, at, bytes: end as u64, recorded });
        bytes = &bytes[end..];
    }
}

/// CRC-32C by a table of this checker's own.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

static TABLE: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A batch with nothing in it but what the checker reads.
    pub fn batch(base: i64, count: i32, epoch: i32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 70];
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[8..12].copy_from_slice(&58_i32.to_be_bytes());
        bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    #[test]
    fn the_checkers_crc_is_kafkas() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn segments_are_read_in_order_and_a_torn_tail_ends_the_log() {
        let mut second = batch(7, 2, 3);
        second.extend_from_slice(&batch(9, 1, 3)[..40]);
        let files = [
            (PathBuf::from("partitions/ab-0/00000000000000000007.log"), second),
            (PathBuf::from("partitions/ab-0/00000000000000000000.log"), batch(0, 7, 1)),
            (PathBuf::from("partitions/ab-0/00000000000000000000.sum"), batch(1, 7, 1)),
            (PathBuf::from("elsewhere/00000000000000000000.log"), batch(1, 7, 1)),
        ];
        let logs = Logs::of(&files);
        let spans: Vec<(i64, i64, bool)> =
            logs.0["ab-0"].iter().map(|b| (b.base, b.last, b.intact)).collect();
        assert_eq!(spans, [(0, 6, true), (7, 8, true)]);
    }
}
