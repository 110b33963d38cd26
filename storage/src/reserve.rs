//! The reserve: a small file that is given up when the disk is full, so that what frees room finds room.
//!
//! A log whose start is to move writes 22 bytes first, durably, and on a truly full disk there is no place for them:
//! nothing could ever be deleted. Owns: the file, and whether it is there. Promises: once it is given up, appends are
//! refused (`SpaceGuard::is_refusing`), so that they do not eat the room that was meant for what frees room; they are
//! taken again when it is back. A start on a full disk gives it up, too. Leaves out: when to look for room again (the node's watch over it).
//!
//! ```text
//!  start cannot be written: StorageFull ─► give up ─► written ─► segments go ─► room ─► hold again ─► appends
//! ```

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::config::SpaceGuard;
use crate::disk::{Disk, DiskFile, Open};
use crate::layout::RESERVE;
use crate::{mark, mutant, small_file};

/// Bytes of the reserve: some blocks for files and some for the directories that name them.
pub const RESERVE_BYTES: u64 = 64 << 10;

/// No reserve was ever asked for.
pub(crate) const UNWANTED: u8 = 0;
const HELD: u8 = 1;
const GIVEN_UP: u8 = 2;

impl SpaceGuard {
    /// Makes sure that the reserve is there. Without it appends are refused from now on.
    ///
    /// # Errors
    /// The disk's; room may come by and by, but a failed sync counts for all that is on the disk.
    pub async fn hold_reserve<D: Disk>(&self, disk: &D) -> io::Result<()> {
        let held = make(disk).await;
        if held.is_err() {
            mark!("there is no room for the reserve");
        }
        self.reserve.store(if held.is_ok() { HELD } else { GIVEN_UP }, Ordering::SeqCst);
        held
    }

    /// Whether the reserve is wanted and not there.
    #[must_use]
    pub fn lacks_reserve(&self) -> bool {
        self.reserve.load(Ordering::SeqCst) == GIVEN_UP
    }

    /// Gives the reserve up; returns whether it was there and is gone now, so that trying again makes sense.
    pub async fn give_up_reserve<D: Disk>(&self, disk: &D) -> bool {
        let was_held =
            self.reserve.compare_exchange(HELD, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if was_held {
            mark!("the reserve is given up");
            tracing::warn!(
                "the disk is full: the reserve is given up, and writes are refused until there is room"
            );
        }
        was_held && disk.remove(Path::new(RESERVE)).await.is_ok()
    }
}

/// A start writes small files anew, and a full disk must not keep the broker down: only a broker that runs can be told to
/// delete something. So the reserve goes first when there is less room than it holds; the node asks for it again later
/// ([`SpaceGuard::hold_reserve`]) and refuses writes until it has it. Returns whether it went.
///
/// # Errors
/// The disk's.
pub(crate) async fn make_room_to_start<D: Disk>(disk: &D) -> io::Result<bool> {
    let path = Path::new(RESERVE);
    if disk.free_bytes()? >= RESERVE_BYTES || !disk.exists(path) || mutant!(231) {
        return Ok(false);
    }
    mark!("the reserve is given up for a start");
    tracing::warn!(
        "the disk is full: the reserve is given up, so that the broker starts and can be told to delete"
    );
    disk.remove(path).await?;
    Ok(true)
}

async fn make<D: Disk>(disk: &D) -> io::Result<()> {
    let path = Path::new(RESERVE);
    if let Ok(file) = disk.open(path, Open::Read)
        && file.len()? == RESERVE_BYTES
    {
        return Ok(());
    }
    let file = small_file::create_empty(disk, path)?;
    // Not zeros, which some file systems keep no room for.
    let noise: Vec<u8> = (0..RESERVE_BYTES).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 7) as u8).collect();
    file.append_at(0, &[Bytes::from(noise)]).inspect_err(|_| drop(file.truncate(0)))?;
    disk.sync_many(vec![file]).await // nothing depends on it, but a clean stop leaves nothing unsynced
}
