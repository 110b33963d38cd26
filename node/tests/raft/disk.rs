//! A disk for one node of the quorum: what was written, and what of it would survive a power cut.
//!
//! The log is one file with ordered writes: a power cut keeps some beginning of what was not synced, and a batch that
//! is torn is cut by the recovery of the log. Hard state and snapshots are replaced whole; which of the replacements
//! that were not synced survive is open, and independent of the log.

use std::sync::Arc;

use dejaq::controller::raft::restore::{Fit, fit};
use dejaq::controller::raft::{HardState, Restored, Snapshot, Write};
use dejaq_wire::ids::Offset;
use dejaq_wire::peer::raft::{Batch, DirectoryId, Position};

use super::rng::Rng;

#[derive(Debug, Clone, Default)]
struct Image {
    start: Offset,
    batches: Vec<Batch>,
    snapshot: Option<Arc<Snapshot>>,
}

impl Image {
    fn end(&self) -> Offset {
        self.batches.last().map_or(self.start, |last| last.end)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(batch) => {
                assert_eq!(batch.base, self.end(), "the driver writes in order");
                self.batches.push(batch.clone());
            }
            Op::Truncate(to) => self.batches.retain(|batch| batch.end <= *to),
            Op::Snapshot(snapshot) => self.snapshot = Some(snapshot.clone()),
            Op::Reset(at) => {
                self.start = *at;
                self.batches.clear();
            }
            Op::Trim(before) => {
                self.batches.retain(|batch| batch.end > *before);
                self.start = self.start.max(*before);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Append(Batch),
    Truncate(Offset),
    Snapshot(Arc<Snapshot>),
    Reset(Offset),
    Trim(Offset),
}

#[derive(Debug, Clone)]
pub struct Disk {
    pub directory: DirectoryId,
    durable: Image,
    ops: Vec<Op>,
    hard: Option<HardState>,
    new_hard: Vec<HardState>,
}

/// What a sync that begins now covers.
#[derive(Debug, Clone, Copy)]
pub struct Covered {
    ops: usize,
    hard: usize,
}

impl Disk {
    pub fn empty(directory: DirectoryId) -> Disk {
        Disk { directory, durable: Image::default(), ops: Vec::new(), hard: None, new_hard: Vec::new() }
    }

    pub fn write(&mut self, write: Write) {
        match write {
            Write::HardState(hard) => self.new_hard.push(hard),
            Write::Append(batches) => self.ops.extend(batches.into_iter().map(Op::Append)),
            Write::Truncate(to) => self.ops.push(Op::Truncate(to)),
            Write::Install(snapshot) => {
                let end = snapshot.id.position.end;
                self.ops.extend([Op::Snapshot(snapshot), Op::Reset(end)]);
            }
            Write::Trim(before) => self.ops.push(Op::Trim(before)),
            Write::Resync => {}
        }
    }

    /// A snapshot that the node made; durable before the core is told.
    pub fn write_own_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.durable.snapshot = Some(snapshot);
    }

    pub fn begin_sync(&self) -> Covered {
        Covered { ops: self.ops.len(), hard: self.new_hard.len() }
    }

    pub fn end_sync(&mut self, covered: Covered) {
        for op in self.ops.drain(..covered.ops) {
            self.durable.apply(&op);
        }
        if let Some(hard) = self.new_hard.drain(..covered.hard).next_back() {
            self.hard = Some(hard);
        }
    }

    /// What was not synced survives in part.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let kept = Covered {
            ops: rng.below(self.ops.len() as u64 + 1) as usize,
            hard: rng.below(self.new_hard.len() as u64 + 1) as usize,
        };
        self.end_sync(kept);
        self.ops.clear();
        self.new_hard.clear();
    }

    /// Whether the log up to this position would survive a power cut.
    pub fn holds_durably(&self, position: Position) -> bool {
        let covered = self.durable.snapshot.as_ref().is_some_and(|s| s.id.position.end >= position.end);
        let mut batches = self.durable.batches.iter();
        covered || batches.any(|batch| batch.end == position.end && batch.epoch == position.epoch)
    }

    /// What a process that starts now reads. What was not synced is in the page cache, and stays not synced.
    pub fn restore(&mut self) -> Restored {
        let mut image = self.durable.clone();
        self.ops.iter().for_each(|op| image.apply(op));
        let hard = self.new_hard.last().copied().or(self.hard);
        let position = image.snapshot.as_ref().map_or(Position::EMPTY, |snapshot| snapshot.id.position);
        let batches = match fit(position, image.start, image.batches)
            .expect("the disk loses nothing that is durable")
        {
            Fit::Follows(batches) => batches,
            Fit::Reset => {
                self.ops.push(Op::Reset(position.end));
                Vec::new()
            }
        };
        Restored { hard, snapshot: image.snapshot, batches }
    }
}
