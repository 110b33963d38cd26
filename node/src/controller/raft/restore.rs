//! What a node's disk holds after a crash, made to fit.
//!
//! Owns: [`fit`]. Promises: an interrupted install of a snapshot is finished, never mixed with the old log (MQ-9); a
//! log that does not begin where its snapshot needs it is refused, never read as "nothing was there" (MQ-10).
//! Leaves out: reading the disk, and resetting the log on it (the driver).

use dejaq_wire::ids::Offset;
use dejaq_wire::peer::raft::{Batch, Position};

/// The log that goes with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// These batches follow the snapshot.
    Follows(Vec<Batch>),
    /// The log is from before the snapshot came: let it begin, empty, at its end.
    Reset,
}

/// Why a node must not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the metadata log begins at {log:?}, but what is before is only there up to {snapshot:?}")]
pub struct Gap {
    /// Where the log begins.
    pub log: Offset,
    /// Where the newest readable snapshot ends; 0 if there is none.
    pub snapshot: Offset,
}

/// Which part of a log that begins at `start` follows the snapshot at `position` (or nothing, if there is none).
///
/// # Errors
/// [`Gap`]: do not start.
pub fn fit(position: Position, start: Offset, batches: Vec<Batch>) -> Result<Fit, Gap> {
    if start > position.end {
        return Err(Gap { log: start, snapshot: position.end });
    }
    let end = batches.last().map_or(start, |last| last.end);
    if end < position.end {
        return Ok(Fit::Reset);
    }
    let (before, behind): (Vec<Batch>, Vec<Batch>) =
        batches.into_iter().partition(|batch| batch.base < position.end);
    let same = before.last().is_none_or(|last| last.end == position.end && last.epoch == position.epoch);
    let newer = behind.first().is_none_or(|next| next.epoch >= position.epoch);
    Ok(if same && newer { Fit::Follows(behind) } else { Fit::Reset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::LeaderEpoch;
    use dejaq_wire::peer::raft::Content;

    fn batches(from: i64, epochs: &[i32]) -> Vec<Batch> {
        let batch = |(base, epoch): (i64, &i32)| Batch {
            base: Offset(base),
            end: Offset(base + 1),
            epoch: LeaderEpoch(*epoch),
            content: Content::LeaderChange,
        };
        (from..).zip(epochs).map(batch).collect()
    }

    fn at(end: i64, epoch: i32) -> Position {
        Position { epoch: LeaderEpoch(epoch), end: Offset(end) }
    }

    #[test]
    fn a_log_follows_its_snapshot_or_is_from_before() {
        let log = batches(2, &[1, 2, 2]);
        assert_eq!(fit(at(3, 1), Offset(2), log.clone()), Ok(Fit::Follows(batches(3, &[2, 2]))));
        assert_eq!(fit(at(5, 2), Offset(2), log.clone()), Ok(Fit::Follows(vec![])));
        assert_eq!(fit(at(4, 9), Offset(2), log.clone()), Ok(Fit::Reset), "another entry lies there");
        assert_eq!(fit(at(9, 9), Offset(2), log.clone()), Ok(Fit::Reset), "an install was interrupted");
        let gap = Gap { log: Offset(2), snapshot: Offset(1) };
        assert_eq!(fit(at(1, 1), Offset(2), log), Err(gap), "never taken for an empty log");
        assert_eq!(fit(Position::EMPTY, Offset(0), vec![]), Ok(Fit::Follows(vec![])));
    }
}
