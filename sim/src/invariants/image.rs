//! The logs in a disk image, read by a parser of the checker's own.
//!
//! Owns: finding segments and cutting them into batches. Promises: shares no code with the product, so that a bug in
//! the product's reading cannot hide itself. Leaves out: judging. Layout: a folder a partition under `partitions/`,
//! segments named by 20 digits and `.log`; batches are Kafka's v2 (KIP-98).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dejaq_storage::model_disk::Damage;

use super::crc::crc32c;
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
    /// The latest timestamp of its records.
    pub newest_ms: i64,
    /// The base offset in the name of its segment.
    pub segment: u64,
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

impl Batch {
    /// Whether it may stand behind `before`; with `gaps` the log is compacted: then batches may be missing between the two,
    /// but the segment before ends where the next one begins.
    #[must_use]
    pub fn follows(&self, before: &Batch, gaps: bool) -> bool {
        let next = before.last + 1;
        let chained = self.segment == before.segment || self.segment as i64 == next;
        self.base == next || (gaps && chained && self.base > next)
    }

    /// Whether the other is what a compaction may have made of this one: emptied in part, its offsets and epoch kept.
    #[must_use]
    pub fn may_become(&self, other: &Batch) -> bool {
        other.intact && (self.base, self.last, self.epoch) == (other.base, other.last, other.epoch)
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
        for (path, bytes) in files {
            let Some(path) = renewed(path) else { continue };
            if let Some(place) = segment(&path, ".log") {
                segments.entry(place).or_insert(bytes);
            } else if let Some(place) = segment(&path, ".sum") {
                side_files.entry(place).or_insert(bytes);
            }
        }
        let mut logs = Logs::default();
        for ((folder, base), bytes) in segments {
            let side_file = side_files.get(&(folder.clone(), base)).copied().unwrap_or_default();
            let records = Records::of(&folder, base, side_file);
            let log = logs.0.entry(folder).or_default();
            let known = log.len();
            batches(bytes, &records, log);
            log[known..].iter_mut().for_each(|batch| batch.segment = base);
        }
        logs
    }

    /// Reads the logs out of the files of an image in which silent damage is undone: what the disk would hold if it had
    /// done its duty. A product that leaves damaged bytes alone, as it must, shows all its batches.
    #[must_use]
    pub fn undamaged(mut files: Vec<(PathBuf, Vec<u8>)>, damage: &[Damage]) -> Logs {
        heal(&mut files, damage);
        Logs::of(&files)
    }

    /// The batches that silent damage strikes, by partition folder, as (first, last) offset.
    #[must_use]
    pub fn struck(
        mut files: Vec<(PathBuf, Vec<u8>)>,
        damage: &[Damage],
    ) -> BTreeMap<String, BTreeSet<(i64, i64)>> {
        let mut struck: BTreeMap<String, BTreeSet<(i64, i64)>> = BTreeMap::new();
        let present = heal(&mut files, damage);
        for damage in damage.iter().zip(present).filter_map(|(damage, present)| present.then_some(damage)) {
            let Some((_, bytes)) = files.iter().find(|(path, _)| *path == damage.path) else { continue };
            let end = damage.at + damage.is.len() as u64;
            if let Some((folder, _)) = segment(&damage.path, ".log") {
                let hit = |batch: &&Batch| batch.at < end && damage.at < batch.at + batch.bytes;
                let batches = Logs::of_segment(bytes);
                let ranges = batches.iter().filter(hit).map(|batch| (batch.base, batch.last));
                struck.entry(folder).or_default().extend(ranges);
            } else if let Some((folder, base)) = segment(&damage.path, ".sum") {
                struck.entry(folder).or_default().extend(side_records(bytes, base, damage.at, end));
            }
        }
        struck
    }

    /// What stands aside, made durable, to take the place of segments: where there is a `swap` file, every start goes on with
    /// it until that is done, whatever names the power took meanwhile.
    #[must_use]
    pub fn swapped_in(files: &[(PathBuf, Vec<u8>)]) -> Logs {
        let swaps: BTreeSet<&Path> = files
            .iter()
            .filter(|(path, _)| path.ends_with("swap"))
            .filter_map(|(path, _)| path.parent())
            .collect();
        let aside = |(path, bytes): &(PathBuf, Vec<u8>)| {
            let name = path.file_name()?.to_str()?.strip_suffix(".cleaned")?;
            swaps.contains(path.parent()?).then(|| (path.with_file_name(name), bytes.clone()))
        };
        Logs::of(&files.iter().filter_map(aside).collect::<Vec<_>>())
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

/// The name that a file had before a start began to renew it: that changes it to another and back, and a crash in between
/// leaves the other, which the next start puts back (unless the first is there, too).
#[must_use]
pub fn renewed(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(".again")?;
    Some(path.with_file_name(name))
}

/// Undoes damage, the newest first; tells of each whether it was still there.
fn heal(files: &mut [(PathBuf, Vec<u8>)], damage: &[Damage]) -> Vec<bool> {
    let mut present = vec![false; damage.len()];
    for (damage, present) in damage.iter().zip(&mut present).rev() {
        let content = files.iter_mut().find(|(path, _)| *path == damage.path);
        *present = content.is_some_and(|(_, content)| damage.undo(content));
    }
    present
}

/// The batches of which a side file's bytes `[from, to)` speak: 32 bytes a record, the first one a header, those with the
/// highest bit set no batches; first and last offset, relative to the segment's, at bytes 8 and 12. Without its record a
/// batch cannot be told from one of another place, so it counts as destroyed.
fn side_records(bytes: &[u8], base: u64, from: u64, to: u64) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    for (ordinal, record) in bytes.chunks_exact(32).enumerate().skip(1) {
        let at = ordinal as u64 * 32;
        let is_hit = at < to && from < at + 32;
        if is_hit && record[0] & 0x80 == 0 {
            let offset = |at: usize| {
                let relative: [u8; 4] = record[at..at + 4].try_into().expect("four bytes");
                base as i64 + i64::from(u32::from_be_bytes(relative))
            };
            found.push((offset(8), offset(12)));
        }
    }
    found
}

/// The folder of a partition, under `partitions/`.
#[must_use]
pub fn folder(topic: [u8; 16], partition: i32) -> String {
    format!("{:032x}-{partition}", u128::from_be_bytes(topic))
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
        let newest_ms = i64::from_be_bytes(bytes[35..43].try_into().expect("eight bytes"));
        let at = (segment.len() - bytes.len()) as u64;
        let last = base.saturating_add(i64::from(delta));
        let recorded = records.has(at, bytes, end as u64, base, last);
        to.push(Batch {
            base,
            last,
            epoch,
            crc,
            intact,
            newest_ms,
            segment: 0,
            at,
            bytes: end as u64,
            recorded,
        });
        bytes = &bytes[end..];
    }
}

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

    /// The same place with another content, as whole as before.
    pub fn rewritten(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes[69] ^= 1;
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// A batch of one record of a producer, with these attributes.
    pub fn of_producer(base: i64, attributes: i16, (id, epoch): (i64, i16), record: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 61];
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[8..12].copy_from_slice(&(49 + record.len() as i32).to_be_bytes());
        bytes[16] = 2;
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[43..51].copy_from_slice(&id.to_be_bytes());
        bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
        bytes[57..61].copy_from_slice(&1_i32.to_be_bytes());
        bytes.extend_from_slice(record);
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    #[test]
    fn damage_is_undone_and_names_the_batches_that_it_strikes() {
        let path = PathBuf::from("partitions/ab-0/00000000000000000000.log");
        let whole = [batch(0, 3, 1), batch(3, 2, 1), batch(5, 1, 1)].concat();
        let mut rotten = whole.clone();
        rotten[75] ^= 4; // in the base offset of the second batch
        let damage = Damage { path: path.clone(), at: 75, was: vec![whole[75]], is: vec![rotten[75]] };
        let files = vec![(path.clone(), rotten)];
        assert_eq!(Logs::of(&files).0["ab-0"][1].base, 3 | 4 << 16, "the parser is misled");
        let bases = |logs: &Logs| logs.0["ab-0"].iter().map(|batch| batch.base).collect::<Vec<_>>();
        assert_eq!(bases(&Logs::undamaged(files.clone(), std::slice::from_ref(&damage))), [0, 3, 5]);
        let struck =
            |files: &[(PathBuf, Vec<u8>)]| Logs::struck(files.to_vec(), std::slice::from_ref(&damage));
        assert_eq!(struck(&files)["ab-0"], BTreeSet::from([(3, 4)]));
        assert!(struck(&[(path, whole)]).is_empty(), "what was written over is no damage any more");
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
