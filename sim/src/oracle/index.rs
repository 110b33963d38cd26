//! The history, sorted for the checks: who sent which value, and what was seen at which offset.
//!
//! Owns: one pass over the events. Promises: sends keep their order of call within a partition.
//! Leaves out: judging. Called by [`super::judge`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Acks, Event, GroupAct, GroupOp, History, Outcome, Part, PartInfo, PollOp, Seen, SendOp, Verdict,
};

/// The final read of one partition.
#[derive(Debug)]
pub struct Drain<'h> {
    pub start: i64,
    pub end: i64,
    pub records: &'h [Seen],
}

/// A step of one consumer in one partition, in its order.
#[derive(Debug)]
pub enum Step<'h> {
    Poll(&'h PollOp),
    Seek(i64),
    /// The partition came to the consumer by its group, or left it: it begins where the group stands.
    Handed,
}

/// An answer to "what is the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndOffset {
    pub asked: u64,
    /// 0 if it was not noted.
    pub answered: u64,
    pub end: i64,
    /// The leader epoch of who answered.
    pub epoch: i32,
    /// A newer one was committed by then.
    pub is_old: bool,
}

/// Everything about one partition.
#[derive(Debug)]
pub struct PartIndex<'h> {
    pub info: &'h PartInfo,
    /// In order of call.
    pub sends: Vec<&'h SendOp>,
    /// Every value that anybody saw at an offset, drain included, in order of offset; duplicates removed.
    pub seen: BTreeMap<i64, Vec<Seen>>,
    /// The steps of each consumer.
    pub consumers: BTreeMap<u32, Vec<Step<'h>>>,
    /// Answers to "what is the end".
    pub ends: Vec<EndOffset>,
    /// The highest start that may have been asked for.
    pub trimmed: i64,
    /// Offsets whose every copy was destroyed, as (first, last).
    pub destroyed: Vec<(i64, i64)>,
    /// From where on everything was given up, and when that was told.
    pub given_up: Vec<(i64, u64)>,
    pub drain: Option<Drain<'h>>,
    /// The values of the final read of committed records, if there was one.
    pub committed: Option<BTreeSet<u64>>,
    /// What fetches of committed records told of the end: watermark and last stable offset.
    pub stable: Vec<(i64, i64)>,
    /// First record and marker of each transaction in the final log.
    pub ended: &'h [(i64, i64)],
    /// Value to offset in the final log (the first, if there are several).
    pub final_offset: BTreeMap<u64, i64>,
}

/// The whole history, indexed.
#[derive(Debug)]
pub struct Index<'h> {
    pub parts: Vec<PartIndex<'h>>,
    /// Which send wrote a value.
    pub writer: BTreeMap<u64, &'h SendOp>,
    /// Key of a value, and whether it is a delete marker, in compacted partitions.
    pub keyed: BTreeMap<u64, (u64, bool)>,
    /// When memory was lost, ascending.
    pub power_cuts: Vec<u64>,
    /// Consumers that read committed records only.
    pub read_committed: BTreeSet<u32>,
    /// What each consumer holds by its group.
    held: BTreeMap<u32, BTreeSet<Part>>,
}

impl<'h> Index<'h> {
    pub fn of(history: &'h History, verdict: &mut Verdict) -> Index<'h> {
        let mut index = Index {
            parts: history.partitions.iter().map(PartIndex::new).collect(),
            writer: BTreeMap::new(),
            keyed: BTreeMap::new(),
            power_cuts: Vec::new(),
            read_committed: BTreeSet::new(),
            held: BTreeMap::new(),
        };
        for event in &history.events {
            index.add(event, verdict);
        }
        for part in &mut index.parts {
            // A producer draws ascending values, which tells two calls of one instant apart.
            part.sends.sort_by_key(|send| (send.begun, send.value));
            part.close(verdict);
        }
        index.power_cuts.sort_unstable();
        index
    }

    fn add(&mut self, event: &'h Event, verdict: &mut Verdict) {
        match event {
            Event::Send(send) => {
                match send.outcome {
                    Outcome::Ok { .. } => verdict.counts.acked += 1,
                    Outcome::Fail => verdict.counts.failed += 1,
                    Outcome::Info => verdict.counts.unknown += 1,
                }
                let before = self.writer.insert(send.value, send);
                assert!(before.is_none(), "the workload sent value {} twice", send.value);
                self.parts[send.part].sends.push(send);
            }
            Event::Poll(poll) => {
                verdict.counts.polled += poll.records.len();
                let part = &mut self.parts[poll.part];
                poll.records.iter().for_each(|seen| part.saw(*seen));
                part.consumers.entry(poll.process).or_default().push(Step::Poll(poll));
            }
            Event::Seek { process, part, offset } => {
                self.parts[*part].consumers.entry(*process).or_default().push(Step::Seek(*offset));
            }
            Event::EndOffset { part, offset, begun, done, epoch, superseded } => {
                let (asked, end, epoch, is_old) = (*begun, *offset, *epoch, *superseded);
                self.parts[*part].ends.push(EndOffset { asked, answered: *done, end, epoch, is_old });
            }
            Event::Trimmed { part, to } => {
                let part = &mut self.parts[*part];
                part.trimmed = part.trimmed.max(*to);
            }
            Event::Destroyed { part, from, last } => self.parts[*part].destroyed.push((*from, *last)),
            Event::GivenUp { part, from, at } => self.parts[*part].given_up.push((*from, *at)),
            Event::PowerCut { at } => self.power_cuts.push(*at),
            Event::Keyed { value, key, deletes } => drop(self.keyed.insert(*value, (*key, *deletes))),
            Event::Admin(_) => {}                       // see `metadata`
            Event::Txn(_) | Event::Derived { .. } => {} // see `transactions`
            Event::Moved { .. } => {}                   // see `transfers`
            Event::Stable { part, watermark, stable } => {
                self.parts[*part].stable.push((*watermark, *stable));
            }
            Event::Ended { part, txns } => self.parts[*part].ended = txns,
            Event::Consumer { process, read_committed, .. } => {
                if *read_committed {
                    self.read_committed.insert(*process);
                }
            }
            Event::Group(op) => self.handed(op),
            Event::DrainedCommitted { part, records } => {
                verdict.counts.drained += records.len();
                let part = &mut self.parts[*part];
                assert!(part.committed.is_none(), "{} was drained twice", part.info.name);
                records.iter().for_each(|seen| part.saw(*seen));
                part.committed = Some(records.iter().map(|seen| seen.value).collect());
            }
            Event::Drained { part, start, end, records } => {
                verdict.counts.drained += records.len();
                let part = &mut self.parts[*part];
                assert!(part.drain.is_none(), "{} was drained twice", part.info.name);
                for seen in records {
                    part.saw(*seen);
                    part.final_offset.entry(seen.value).or_insert(seen.offset);
                }
                part.drain = Some(Drain { start: *start, end: *end, records });
            }
        }
    }

    /// What a member holds changes: where the partition is new to it, its position is.
    fn handed(&mut self, op: &'h GroupOp) {
        let held = self.held.entry(op.process).or_default();
        let before = held.clone();
        match &op.act {
            GroupAct::Assigned { parts, .. } => *held = parts.iter().copied().collect(),
            GroupAct::Revoked { parts } => held.retain(|part| !parts.contains(part)),
            GroupAct::Commit { .. } | GroupAct::Fetched { .. } => {}
        }
        for part in before.symmetric_difference(held) {
            self.parts[*part].consumers.entry(op.process).or_default().push(Step::Handed);
        }
    }

    /// Whether the reply to this send promised that no power cut can undo it.
    pub fn promised(&self, send: &SendOp) -> bool {
        send.acks == Acks::All && self.parts[send.part].info.durable
    }

    /// The first power cut at or after a moment: of a send, the call, since its reply may have been under way.
    pub fn cut_after(&self, moment: u64) -> Option<u64> {
        self.power_cuts.get(self.power_cuts.partition_point(|cut| *cut < moment)).copied()
    }

    /// Whether offsets of this partition may legitimately be used again: it promises less than durability, and
    /// memory was lost.
    pub fn may_rewind(&self, part: Part) -> bool {
        let part = &self.parts[part];
        !self.power_cuts.is_empty()
            && (!part.info.durable || part.sends.iter().any(|send| send.acks != Acks::All))
    }
}

impl<'h> PartIndex<'h> {
    fn new(info: &'h PartInfo) -> Self {
        PartIndex {
            info,
            sends: Vec::new(),
            seen: BTreeMap::new(),
            consumers: BTreeMap::new(),
            ends: Vec::new(),
            trimmed: 0,
            destroyed: Vec::new(),
            given_up: Vec::new(),
            drain: None,
            committed: None,
            stable: Vec::new(),
            ended: &[],
            final_offset: BTreeMap::new(),
        }
    }

    /// Whether every copy of this offset was destroyed on purpose.
    pub fn is_destroyed(&self, offset: i64) -> bool {
        self.destroyed.iter().any(|(from, last)| (*from..=*last).contains(&offset))
    }

    /// Whether a record that was acknowledged at this offset by then was given up, and the cluster told so.
    pub fn is_given_up(&self, offset: i64, acked: u64) -> bool {
        self.given_up.iter().any(|(from, at)| *from <= offset && acked <= *at)
    }

    /// From where on offsets may have been used again, since what was there had been given up.
    pub fn used_again(&self) -> i64 {
        self.given_up.iter().map(|(from, _)| *from).min().unwrap_or(i64::MAX)
    }

    fn saw(&mut self, seen: Seen) {
        let at = self.seen.entry(seen.offset).or_default();
        if !at.contains(&seen) {
            at.push(seen);
        }
    }

    fn close(&self, verdict: &mut Verdict) {
        let acked = self.sends.iter().any(|send| matches!(send.outcome, Outcome::Ok { .. }));
        if acked && self.drain.is_none() {
            verdict.undecided.push(format!("{}: acknowledged records, but no final read", self.info.name));
        }
    }

    /// Whether a record that anybody saw at `offset` was there from its append to the end: of a compacted partition only
    /// what the final read has.
    pub fn stays(&self, offset: i64, seen: &[Seen]) -> bool {
        let is_in_the_end = |seen: &Seen| self.final_offset.get(&seen.value) == Some(&offset);
        self.info.compacted.is_none() || seen.iter().any(is_in_the_end)
    }

    /// Where a send's record stands, as far as anybody knows: by its reply, or by the final log.
    pub fn offset_of(&self, send: &SendOp) -> Option<i64> {
        match send.outcome {
            Outcome::Ok { offset: Some(offset) } => Some(offset),
            Outcome::Ok { offset: None } | Outcome::Fail | Outcome::Info => {
                self.final_offset.get(&send.value).copied()
            }
        }
    }
}
