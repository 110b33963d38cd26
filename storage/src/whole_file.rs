//! Checksummed files of any size that are replaced as a whole: for those who keep state beside the partitions' logs.
//!
//! Owns: the envelope, the atomic replacement. Promises: a reader sees the old content or the new one, never a mixture,
//! whatever the crash point; what [`replace`] returned `Ok` for survives a power cut; damage is told apart from absence
//! and from another version, and never read as "nothing was there".
//! Leaves out: what is inside. Called by the metadata quorum: its vote, its snapshots.
//!
//! ```text
//! magic 4 | version 2 | payload length 8 | payload | crc32 4 (all bytes before)      big-endian
//! ```

use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use crate::binding::Binding;
use crate::disk::{Disk, DiskFile, Open};
use crate::small_file::{aside, create_empty};

const FRONT: usize = 14;
const BACK: usize = 4;

/// One kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeFileKind {
    /// Tells it from every other kind.
    pub magic: [u8; 4],
    /// Tells its layout.
    pub version: u16,
    /// Longest payload in bytes; a longer file is damaged and not read.
    pub max_bytes: u64,
}

/// Why a file tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum WholeFileError {
    /// There is none.
    #[error("it does not exist")]
    Missing,
    /// Use the program version that wrote it.
    #[error("format version {found}, this program reads version {expected}")]
    Version {
        /// What it says.
        found: u16,
        /// What is read here.
        expected: u16,
    },
    /// Its bytes are not those that were written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The checksum of these bytes, for what is not a file.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    Binding::none().sum(&[bytes])
}

/// Replaces the file by one with this payload, durably.
///
/// # Errors
/// The disk's: whether the old or the new content is there is not known.
pub async fn replace<D: Disk>(
    disk: &D,
    path: &Path,
    kind: WholeFileKind,
    payload: &[Bytes],
) -> io::Result<()> {
    let length: usize = payload.iter().map(Bytes::len).sum();
    assert!(length as u64 <= kind.max_bytes, "a payload of {length} bytes");
    let mut front = BytesMut::with_capacity(FRONT);
    front.put_slice(&kind.magic);
    front.put_u16(kind.version);
    front.put_u64(length as u64);
    let parts: Vec<Bytes> = [front.freeze()].into_iter().chain(payload.iter().cloned()).collect();
    let slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    let sum = Binding::none().sum(&slices).to_be_bytes();
    let file = create_empty(disk, &aside(path))?;
    let parts: Vec<Bytes> = parts.into_iter().chain([Bytes::copy_from_slice(&sum)]).collect();
    // What fitted on a full disk would keep the room from whatever could free some.
    file.append_at(0, &parts).inspect_err(|_| drop(file.truncate(0)))?;
    disk.sync_many(vec![file]).await?;
    disk.rename(&aside(path), path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await
}

/// The payload of a file.
///
/// # Errors
/// [`WholeFileError`].
pub async fn read<D: Disk>(disk: &D, path: &Path, kind: WholeFileKind) -> Result<Bytes, WholeFileError> {
    let file = match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WholeFileError::Missing),
        other => other?,
    };
    let length = file.len()?;
    if length > kind.max_bytes + (FRONT + BACK) as u64 {
        return Err(WholeFileError::Damaged("too long"));
    }
    decode(kind, &file.read_at(0, length as usize).await?)
}

fn decode(kind: WholeFileKind, bytes: &Bytes) -> Result<Bytes, WholeFileError> {
    if bytes.len() < FRONT + BACK {
        return Err(WholeFileError::Damaged("too short"));
    }
    let (body, sum) = bytes.split_at(bytes.len() - BACK);
    if bytes[..4] != kind.magic {
        return Err(WholeFileError::Damaged("another kind of file"));
    }
    if checksum(body).to_be_bytes() != sum {
        return Err(WholeFileError::Damaged("checksum mismatch"));
    }
    let found = u16::from_be_bytes([bytes[4], bytes[5]]);
    if found != kind.version {
        return Err(WholeFileError::Version { found, expected: kind.version });
    }
    let length = u64::from_be_bytes(bytes[6..FRONT].try_into().expect("eight bytes"));
    if length != (body.len() - FRONT) as u64 {
        return Err(WholeFileError::Damaged("length mismatch"));
    }
    Ok(bytes.slice(FRONT..bytes.len() - BACK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_disk::{CrashMode, Platter, Setup, random::stream};

    const KIND: WholeFileKind = WholeFileKind { magic: *b"DJxx", version: 3, max_bytes: 100 };

    #[tokio::test]
    async fn what_finds_no_room_takes_none() {
        let platter = Platter::new(Setup::default());
        let (disk, path) = (platter.mount(), Path::new("f"));
        replace(&disk, path, KIND, &[Bytes::from_static(b"old")]).await.expect("room");
        let used: u64 = platter.lengths().iter().map(|(_, length)| length).sum();
        platter.set_capacity(Some(used + 40));
        let full = replace(&disk, path, KIND, &[Bytes::from(vec![7; 90])]).await.expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes().expect("it says"), 40, "what fitted is given back");
        assert_eq!(read(&disk, path, KIND).await.expect("the old one"), "old");
    }

    #[tokio::test]
    async fn what_was_replaced_survives_a_power_cut_and_every_flipped_bit_is_noticed() {
        let platter = Platter::new(Setup::default());
        let path = Path::new("file");
        let disk = platter.mount();
        assert!(matches!(read(&disk, path, KIND).await, Err(WholeFileError::Missing)));
        for text in [b"first ", b"second"] {
            let parts = [Bytes::from_static(text), Bytes::from_static(b"!")];
            replace(&disk, path, KIND, &parts).await.expect("room");
        }
        drop(disk);
        platter.crash(&mut stream(1, "crash", 0), CrashMode::Lose);
        let disk = platter.mount();
        assert_eq!(read(&disk, path, KIND).await.expect("durable"), &b"second!"[..]);
        let newer = read(&disk, path, WholeFileKind { version: 4, ..KIND }).await;
        assert!(matches!(newer, Err(WholeFileError::Version { found: 3, expected: 4 })));
        let file = disk.open(path, Open::Read).expect("there");
        let good = file.read_at(0, 100).await.expect("readable");
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(KIND, &bad.into()).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(KIND, &good.slice(..length)).is_err(), "length {length}");
        }
    }
}
