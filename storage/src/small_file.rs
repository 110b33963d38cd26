//! Small checksummed files that are replaced as a whole: written aside, synced, renamed, directory synced.
//!
//! Owns: the envelope and the atomic replacement. Promises: a reader sees the old content or the new one, never a
//! mixture, whatever the crash point; damage and foreign files are told apart from files of another version.
//! Leaves out: what is inside (start, epochs, producers, partition, truncate: each module its own payload).
//!
//! ```text
//! magic 4 | version 2 | payload length 4 | payload | crc32 4 (binding, then all bytes before)      big-endian
//! ```

use std::io;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};

use crate::binding::Binding;
use crate::disk::{Disk, DiskFile, Open};

/// No small file is larger; a longer one is damaged and not read.
pub(crate) const MAX_SMALL_FILE: u64 = 64 << 20;
/// A payload is shorter than this.
pub(crate) const MAX_PAYLOAD: u64 = MAX_SMALL_FILE / 2;

const FRONT: usize = 10;
const BACK: usize = 4;

/// One kind of small file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
}

/// Why a small file tells nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmallFileError {
    #[error("it does not exist")]
    Missing,
    #[error("format version {found}, this program reads version {expected}")]
    Version { found: u16, expected: u16 },
    #[error("it is damaged: {0}")]
    Corrupt(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The bytes of a file with this payload.
pub(crate) fn encode(kind: Kind, binding: &Binding, payload: &[u8]) -> Bytes {
    assert!((payload.len() as u64) < MAX_PAYLOAD, "payload of {} bytes is not small", payload.len());
    let mut bytes = BytesMut::with_capacity(FRONT + payload.len() + BACK);
    bytes.put_slice(&kind.magic);
    bytes.put_u16(kind.version);
    bytes.put_u32(payload.len() as u32);
    bytes.put_slice(payload);
    let sum = binding.sum(&[&bytes]);
    bytes.put_u32(sum);
    bytes.freeze()
}

/// The payload of a file with these bytes.
pub(crate) fn decode(kind: Kind, binding: &Binding, bytes: &Bytes) -> Result<Bytes, SmallFileError> {
    if bytes.len() < FRONT + BACK {
        return Err(SmallFileError::Corrupt("too short"));
    }
    let (body, sum) = bytes.split_at(bytes.len() - BACK);
    if bytes[..4] != kind.magic {
        return Err(SmallFileError::Corrupt("another kind of file"));
    }
    if binding.sum(&[body]).to_be_bytes() != sum {
        return Err(SmallFileError::Corrupt("checksum mismatch"));
    }
    let version = u16::from_be_bytes([bytes[4], bytes[5]]);
    if version != kind.version {
        return Err(SmallFileError::Version { found: version, expected: kind.version });
    }
    let length = u32::from_be_bytes(bytes[6..10].try_into().expect("four bytes")) as usize;
    if length != bytes.len() - FRONT - BACK {
        return Err(SmallFileError::Corrupt("length mismatch"));
    }
    Ok(bytes.slice(FRONT..FRONT + length))
}

/// The name under which a file is written before it takes its place.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Makes an empty file of this name, whatever a crash or a failed attempt left there.
pub(crate) fn create_empty<D: Disk>(disk: &D, path: &Path) -> io::Result<D::File> {
    match disk.open(path, Open::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = disk.open(path, Open::Write)?;
            file.truncate(0)?;
            Ok(file)
        }
        other => other,
    }
}

/// Writes `bytes` aside; the caller syncs the file, renames it and syncs the directory.
pub(crate) fn write_aside<D: Disk>(disk: &D, path: &Path, bytes: Bytes) -> io::Result<D::File> {
    let file = create_empty(disk, &aside(path))?;
    file.append_at(0, &[bytes])?;
    Ok(file)
}

/// Replaces the file durably.
pub(crate) async fn replace<D: Disk>(disk: &D, path: &Path, bytes: Bytes) -> io::Result<()> {
    let file = write_aside(disk, path, bytes)?;
    take_place(disk, path, file).await
}

/// Lets the file that [`write_aside`] made take its place, durably.
pub(crate) async fn take_place<D: Disk>(disk: &D, path: &Path, file: D::File) -> io::Result<()> {
    disk.sync_many(vec![file]).await?;
    disk.rename(&aside(path), path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await
}

/// Reads the whole file.
pub(crate) async fn read_bytes<D: Disk>(disk: &D, path: &Path) -> Result<Bytes, SmallFileError> {
    let file = match disk.open(path, Open::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SmallFileError::Missing),
        other => other?,
    };
    let length = file.len()?;
    if length > MAX_SMALL_FILE {
        return Err(SmallFileError::Corrupt("too long"));
    }
    Ok(file.read_at(0, length as usize).await?)
}

/// Reads the payload.
pub(crate) async fn read<D: Disk>(
    disk: &D,
    path: &Path,
    kind: Kind,
    binding: &Binding,
) -> Result<Bytes, SmallFileError> {
    decode(kind, binding, &read_bytes(disk, path).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::{PartitionId, TopicId};

    const KIND: Kind = Kind { magic: *b"DJxx", version: 3 };

    #[test]
    fn every_flipped_bit_is_noticed() {
        let binding = Binding::new(TopicId([7; 16]), PartitionId(1));
        let good = encode(KIND, &binding, b"payload");
        assert_eq!(decode(KIND, &binding, &good).expect("good"), &b"payload"[..]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(KIND, &binding, &bad.into()).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(KIND, &binding, &good.slice(..length)).is_err(), "length {length}");
        }
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let newer = encode(Kind { version: 4, ..KIND }, &Binding::none(), b"x");
        let error = decode(KIND, &Binding::none(), &newer).expect_err("newer");
        assert_eq!(error.to_string(), "format version 4, this program reads version 3");
    }

    #[test]
    fn a_file_of_another_partition_is_damage() {
        let file = encode(KIND, &Binding::new(TopicId([7; 16]), PartitionId(1)), b"x");
        assert!(decode(KIND, &Binding::new(TopicId([7; 16]), PartitionId(2)), &file).is_err());
    }
}
