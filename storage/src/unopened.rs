//! Which partitions nobody has opened since a certain moment: a list on disk that only ever gets shorter.
//!
//! Owns: the format of the files `closed` and `boot`. Promises: a name is struck out in place, so that a full disk cannot
//! prevent it and no crash can bring it back under another file name; what a crash or rot makes of an entry is told
//! (`bad`). Leaves out: what follows from being listed (`layout`).
//!
//! ```text
//! magic 4 | version 2 | names 4 | since 16 | crc32 4 |   then for each name:  topic id 16 | index 4 | crc32 4
//!                                                        struck out:          20 zeros | crc32 4   big-endian
//! since: the directory's id (closed), or the run of the machine (boot); every crc32 covers it
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{PartitionId, TopicId};
use std::collections::BTreeMap;
use std::io;

use crate::binding::Binding;
use crate::disk::DiskFile;
use crate::small_file::MAX_SMALL_FILE;

/// A partition. The topic id of all zeros, which Kafka gives to no topic, is that of no name.
pub(crate) type Name = (TopicId, PartitionId);

const VERSION: u16 = 1;
const FRONT: usize = 30;
const ENTRY: usize = 24;
/// More names than this are not told: the file must stay one that is read as a whole.
const MOST: usize = (MAX_SMALL_FILE as usize / 2 - FRONT) / ENTRY;

/// What a list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Since when.
    pub(crate) since: [u8; 16],
    /// Those that are still listed, with the byte that their entry begins at.
    pub(crate) names: BTreeMap<Name, u64>,
    /// Entries that can be neither read nor were struck out.
    pub(crate) bad: usize,
}

fn entry_sum(since: &[u8; 16], entry: &[u8]) -> u32 {
    Binding::none().sum(&[since, entry])
}

/// The bytes of a list.
pub(crate) fn encode(magic: [u8; 4], since: [u8; 16], names: &[Name]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(FRONT + names.len().min(MOST) * ENTRY);
    bytes.put_slice(&magic);
    bytes.put_u16(VERSION);
    bytes.put_u32(u32::try_from(names.len()).unwrap_or(u32::MAX));
    bytes.put_slice(&since);
    let sum = Binding::none().sum(&[&bytes]);
    bytes.put_u32(sum);
    for (topic, partition) in names.iter().take(MOST) {
        let at = bytes.len();
        bytes.put_slice(&topic.0);
        bytes.put_i32(partition.0);
        let sum = entry_sum(&since, &bytes[at..]);
        bytes.put_u32(sum);
    }
    bytes.freeze()
}

/// What the bytes of a list say; `None` if they are none, or of another version.
pub(crate) fn decode(magic: [u8; 4], bytes: &[u8]) -> Option<Listed> {
    let (front, entries) = bytes.split_at_checked(FRONT)?;
    let (body, sum) = front.split_at(FRONT - 4);
    let is_ours = body[..4] == magic && body[4..6] == VERSION.to_be_bytes();
    if !is_ours || Binding::none().sum(&[body]).to_be_bytes() != sum {
        return None;
    }
    let told = u32::from_be_bytes(body[6..10].try_into().expect("four bytes")) as usize;
    let since: [u8; 16] = body[10..26].try_into().expect("16 bytes");
    let mut names = BTreeMap::new();
    let mut bad = told;
    for (at, entry) in entries.chunks_exact(ENTRY).enumerate() {
        let (name, sum) = entry.split_at(ENTRY - 4);
        if entry_sum(&since, name).to_be_bytes() != sum {
            continue;
        }
        bad = bad.saturating_sub(1);
        if name.iter().any(|byte| *byte != 0) {
            let topic = TopicId(name[..16].try_into().expect("16 bytes"));
            let partition = PartitionId(i32::from_be_bytes(name[16..].try_into().expect("four bytes")));
            names.insert((topic, partition), (FRONT + at * ENTRY) as u64);
        }
    }
    Some(Listed { since, names, bad })
}

/// What is wrong with the bytes of a file `closed` or `boot`, for who only looks; `None` if all of them are those that were
/// written.
#[must_use]
pub fn list_damage(bytes: &[u8]) -> Option<String> {
    let listed = bytes.first_chunk().and_then(|magic| decode(*magic, bytes));
    match listed {
        None => Some("it is damaged (checksum)".to_owned()),
        Some(listed) if listed.bad > 0 => {
            Some(format!("{} of its entries are damaged (checksum)", listed.bad))
        }
        Some(_) => None,
    }
}

/// Reads a list, with its bytes; `None` if it is none that can be believed.
pub(crate) async fn read<F: DiskFile>(file: &F, magic: [u8; 4]) -> io::Result<Option<(Listed, Bytes)>> {
    let length = file.len()?;
    if length > MAX_SMALL_FILE {
        return Ok(None);
    }
    let bytes = file.read_at(0, length as usize).await?;
    Ok(decode(magic, &bytes).map(|listed| (listed, bytes)))
}

/// Strikes out the entries that begin at `positions`; the caller syncs the file if that must last.
pub(crate) fn strike<F: DiskFile>(file: &F, since: &[u8; 16], positions: &[u64]) -> io::Result<()> {
    let nothing = [0; ENTRY - 4];
    let struck = Bytes::from([&nothing[..], &entry_sum(since, &nothing).to_be_bytes()].concat());
    positions.iter().try_for_each(|position| file.append_at(*position, std::slice::from_ref(&struck)))
}

/// Puts an empty list in the place of whatever is there; the caller syncs it. Written, not only cut: an earlier cut may
/// have been lost by a sync that failed, and cutting nothing off would be nothing to sync.
pub(crate) fn blank<F: DiskFile>(file: &F, magic: [u8; 4], since: [u8; 16]) -> io::Result<()> {
    file.append_at(0, &[encode(magic, since, &[])])?;
    file.truncate(FRONT as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 4] = *b"DJxx";
    const SINCE: [u8; 16] = [7; 16];

    fn names(count: u8) -> Vec<Name> {
        (0..count).map(|n| (TopicId([n / 2 + 1; 16]), PartitionId(i32::from(n % 2)))).collect()
    }

    #[test]
    fn a_list_reads_back_and_every_changed_byte_takes_names_away_and_adds_none() {
        let all = names(9);
        let bytes = encode(MAGIC, SINCE, &all);
        let listed = decode(MAGIC, &bytes).expect("a list");
        assert_eq!(listed.names.keys().copied().collect::<Vec<_>>(), all);
        assert_eq!((listed.since, listed.bad), (SINCE, 0));
        assert_eq!(list_damage(&bytes), None);
        assert_eq!(decode(*b"DJyy", &bytes), None, "another kind");
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x41;
            let left = decode(MAGIC, &changed).map_or(0, |listed| {
                assert!(listed.names.keys().all(|name| all.contains(name)), "byte {at}");
                assert_eq!(listed.bad, usize::from(at >= FRONT), "byte {at}");
                assert!(list_damage(&changed).is_some(), "byte {at}");
                listed.names.len()
            });
            assert_eq!(left, if at < FRONT { 0 } else { 8 }, "byte {at}");
        }
        for length in 0..bytes.len() {
            let left = decode(MAGIC, &bytes[..length]).map_or(0, |listed| listed.names.len());
            assert_eq!(left, length.saturating_sub(FRONT) / ENTRY, "{length} bytes");
        }
    }

    #[test]
    fn an_entry_of_another_moment_is_none_of_ours() {
        let (ours, other) = (encode(MAGIC, SINCE, &names(2)), encode(MAGIC, [8; 16], &names(2)));
        let mixed = [&ours[..FRONT + ENTRY], &other[FRONT + ENTRY..]].concat();
        assert_eq!(decode(MAGIC, &mixed).expect("a list").names.len(), 1);
    }
}
