//! The calls that only Linux has, and what stands in for them elsewhere.
//!
//! Owns: the vectored positioned write, the read that does not wait, preallocation, and whether `syncfs` can be
//! believed. Promises: on other systems the same results, slower; a read there is never reported cold.
//! Leaves out: policy (see `sync`). Called by `file_disk` alone.

use std::fs::File;
use std::io;

use bytes::Bytes;

#[cfg(target_os = "linux")]
pub(super) use linux::{boot_id, preallocate, syncfs, syncfs_reports_errors, try_read, write_all_vectored};
#[cfg(not(target_os = "linux"))]
pub(super) use portable::{
    boot_id, preallocate, syncfs, syncfs_reports_errors, try_read, write_all_vectored,
};

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{IoSlice, IoSliceMut};

    use rustix::fs::FallocateFlags;
    use rustix::io::{Errno, ReadWriteFlags};

    use super::{Bytes, File, io};

    /// Slices one `pwritev` takes (`IOV_MAX` of Linux).
    const MAX_SLICES: usize = 1024;

    // File systems (statfs f_type) whose write-back errors all reach `syncfs` of a descriptor on them.
    const EXT4: i64 = 0xEF53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683E;

    /// Drawn by the kernel when it starts.
    pub fn boot_id() -> Option<u128> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
    }

    pub fn write_all_vectored(file: &File, mut at: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let batch = rest.len().min(MAX_SLICES);
            match rustix::io::pwritev(file, &rest[..batch], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Zeroed once, because a safe vectored read wants initialised memory; large blocks come zeroed from the system.
    pub fn try_read(file: &File, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = vec![0; len];
        let mut done = 0;
        while done < len {
            let mut slices = [IoSliceMut::new(&mut buffer[done..])];
            match rustix::io::preadv2(file, &mut slices, at + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                // Not in memory; or a kernel or file system that cannot say, which then counts as cold.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(done);
        Ok(Some(Bytes::from(buffer)))
    }

    pub fn preallocate(file: &File, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn syncfs(directory: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(directory)?)
    }

    /// Whether `syncfs` on this directory returns the write-back error of any file of its file system.
    ///
    /// Linux does since 5.8, if the file's pages belong to the same super block as the descriptor: an overlay's do
    /// not, network and FUSE file systems have rules of their own. So: a new enough kernel and a known file system.
    pub fn syncfs_reports_errors(directory: &File) -> bool {
        #[allow(clippy::unnecessary_cast, reason = "the type of `f_type` differs between architectures")]
        let known = rustix::fs::fstatfs(directory)
            .is_ok_and(|stat| [EXT4, XFS, BTRFS].contains(&(stat.f_type as i64 & 0xFFFF_FFFF)));
        known && kernel_release().is_some_and(|release| release >= (5, 8))
    }

    fn kernel_release() -> Option<(u32, u32)> {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::{Bytes, File, io};

    /// Not asked for: recovery then believes an unsynced tail as it does after a process kill.
    pub fn boot_id() -> Option<u128> {
        None
    }

    pub fn write_all_vectored(file: &File, at: u64, parts: &[Bytes]) -> io::Result<()> {
        super::super::write_parts(file, at, parts)
    }

    pub fn try_read(file: &File, at: u64, len: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = Vec::with_capacity(len);
        super::super::read_spare(file, at, &mut buffer)?;
        buffer.truncate(len);
        Ok(Some(Bytes::from(buffer)))
    }

    pub fn preallocate(_file: &File, _len: u64) -> io::Result<()> {
        Ok(())
    }

    pub fn syncfs(_directory: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn syncfs_reports_errors(_directory: &File) -> bool {
        false
    }
}
