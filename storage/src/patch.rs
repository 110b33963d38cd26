//! Damaged batches are put back from another replica's copy, byte for byte, where they lay.
//!
//! Owns: the proof that a copy is what was written here, and the write. Promises: nothing is written but the bytes that the
//! side file's sums name: the same offsets, length and first 21 bytes, and by the CRC among these the same rest; nothing that is
//! not damaged is touched, and nothing is cut, so that whatever else this copy holds stays (LOG-5); what is put back is
//! durable before it is served. A crash in the middle leaves damage where there was damage.
//! Leaves out: damage of the side file itself, and copies that were laid out otherwise (compaction): [`Patched::Foreign`].
//! Called by `node` for a follower; it keeps truncations, swaps and moves of the start away meanwhile.
//!
//! ```text
//! .sum  [e1][e2][e3]        a copy of e2: same base, last, length, bind? ─► write at e2.position ─► sync ─► serve again
//! .log  [b1][??][b3]
//! ```

use std::io;

use bytes::Bytes;
use dejaq_wire::ids::Offset;

use crate::batch::VerifiedBatch;
use crate::disk::{Disk, DiskFile};
use crate::log::OffsetRange;
use crate::mark;
use crate::reader::LogReader;
use crate::scrub::Frozen;
use crate::sum::Entry;
use crate::walk::{Miss, Patience, RecordWalk, fetch, seek, verify_batch};

/// What became of the first damaged range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// It is whole again.
    Whole(OffsetRange),
    /// It is whole below this offset; the copies did not reach further.
    Below(Offset),
    /// What was offered is not what was written here, or nobody knows what was: it cannot be mended so.
    Foreign,
    /// There is no damage, or the log changed under it: look again.
    Nothing,
}

/// A copy and where it belongs.
struct Piece {
    entry: Entry,
    bytes: Bytes,
}

impl<D: Disk> LogReader<D> {
    /// Puts `batches`, in order, back where the first damaged range at or above the start is. Durable on return.
    ///
    /// # Errors
    /// The disk's. The range stays damaged then.
    pub async fn patch(&self, batches: &[VerifiedBatch]) -> io::Result<Patched> {
        let (generation, range) = {
            let view = self.shared.lock();
            let Some(known) = view.damage_from(view.start) else { return Ok(Patched::Nothing) };
            (view.generation, OffsetRange { from: known.from.max(view.start), to: known.to })
        };
        let Some(frozen) = self.freeze(range.from)?.filter(|frozen| frozen.base <= range.from) else {
            return Ok(Patched::Foreign); // no segment has these offsets
        };
        // What goes on in the next segment is mended by itself.
        let part = OffsetRange { from: range.from, to: range.to.min(frozen.end) };
        let Some(pieces) = pieces(&frozen, part, batches).await? else {
            mark!("a copy is not what was damaged");
            return Ok(Patched::Foreign);
        };
        let Some(last) = pieces.last() else { return Ok(Patched::Foreign) };
        let until = last.entry.last.next().min(part.to);
        let file = &frozen.files.log;
        for piece in &pieces {
            if file.len()? < u64::from(piece.entry.position) {
                return Ok(Patched::Foreign); // the file ends before: nothing may be written behind its end
            }
            file.append_at(u64::from(piece.entry.position), std::slice::from_ref(&piece.bytes))?;
        }
        self.shared.disk.sync_many(vec![file.clone()]).await?;
        for Piece { entry, .. } in &pieces {
            let read = fetch(file, u64::from(entry.position), entry.length as usize, Patience::Wait).await?;
            if let Err(why) = verify_batch(&frozen.codec, entry, &read) {
                return Err(io::Error::other(format!("what was put back does not read: {why}")));
            }
        }
        let mut view = self.shared.lock();
        if view.generation != generation {
            return Ok(Patched::Nothing);
        }
        mark!("damaged batches are put back");
        view.generation += 1; // who read the bytes that were there before looks again, and notes no damage
        // All of the first batch, though the start may lie inside of it: what is below it would be damage that nobody can mend.
        let from = pieces.first().map_or(range.from, |first| first.entry.base.min(range.from));
        view.note_mended(OffsetRange { from, to: until });
        let start = view.start;
        view.damaged.retain(|range| range.to > start); // what the start went past was one range with it
        Ok(if until == range.to { Patched::Whole(range) } else { Patched::Below(until) })
    }
}

/// The copies of the batches in `range`, from its beginning on, as far as there are any; `None` if one is not the batch that
/// the side file names, or if that has a hole.
async fn pieces<D: Disk>(
    frozen: &Frozen<D>,
    range: OffsetRange,
    batches: &[VerifiedBatch],
) -> Result<Option<Vec<Piece>>, Miss> {
    let (sum, codec, records) = (&frozen.files.sum, &frozen.codec, frozen.records.max(1));
    let from = seek(sum, codec, (1, records), range.from, Patience::Wait).await?;
    let mut walk = RecordWalk::new(sum, codec, from, records, Patience::Wait);
    let mut unwritten = frozen.unwritten.iter();
    let mut copies = batches.iter();
    let mut found: Vec<Piece> = Vec::new();
    loop {
        let entry = match walk.next_entry().await? {
            Some((_, entry)) => entry,
            None => match unwritten.next() {
                Some(entry) => *entry,
                None => break,
            },
        };
        if entry.last < range.from {
            continue;
        }
        let follows = match found.last() {
            Some(before) => before.entry.position_after() == entry.position,
            None => entry.base <= range.from,
        };
        if entry.base >= range.to {
            // What lies behind tells whether the last one was the last.
            return Ok((!found.is_empty() && follows).then_some(found));
        }
        let Some(copy) = copies.find(|copy| copy.header().last_offset() >= entry.base) else {
            return Ok((!found.is_empty() && follows).then_some(found));
        };
        let header = copy.header();
        let is_same = header.base_offset == entry.base
            && header.last_offset() == entry.last
            && copy.bytes().len() == entry.length as usize
            && codec.bind(copy.bytes()) == entry.bind;
        if !follows || !is_same {
            return Ok(None);
        }
        found.push(Piece { entry, bytes: copy.bytes().clone() });
    }
    let ends = found.last().is_some_and(|last| last.entry.last.next() >= range.to);
    Ok(ends.then_some(found))
}
