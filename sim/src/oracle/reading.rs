//! Was each consumer given everything that it passed, in order?
//!
//! Owns: skips, going back, and positions that were wrongly called out of range, for assigned consumers.
//! Leaves out: where a partition begins that came by a group (see `groups`). Source: CORRECTNESS.md 2.2. Called by [`super::judge`].

use super::index::{Index, PartIndex, Step};
use super::transactions::Txns;
use super::{Anomaly, PollOp, Seen, Verdict};

pub fn check(index: &Index<'_>, txns: &Txns<'_>, verdict: &mut Verdict) {
    for (number, part) in index.parts.iter().enumerate() {
        let rewinds = index.may_rewind(number);
        for (process, steps) in &part.consumers {
            let txns = index.read_committed.contains(process).then_some(txns);
            consumer(&Reader { part, process: *process, rewinds, txns }, steps, verdict);
        }
    }
}

/// Who reads what.
struct Reader<'a> {
    part: &'a PartIndex<'a>,
    process: u32,
    rewinds: bool,
    /// What it may not be given, if it reads committed records only.
    txns: Option<&'a Txns<'a>>,
}

fn consumer(reader: &Reader<'_>, steps: &[Step<'_>], verdict: &mut Verdict) {
    let Reader { part, process, .. } = *reader;
    let mut position: Option<i64> = None;
    for step in steps {
        match step {
            Step::Seek(offset) => position = Some(*offset),
            Step::Handed => position = None, // where it goes on is for `groups`
            Step::Poll(poll) => {
                if let Some(expected) = position.filter(|expected| *expected != poll.from) {
                    let text =
                        format!("consumer {process} polled from {}, it stood at {expected}", poll.from);
                    let anomaly =
                        if poll.from > expected { Anomaly::PollSkip } else { Anomaly::NonmonotonicPoll };
                    verdict.report(anomaly, &part.info.name, text);
                }
                inside(reader, poll, verdict);
                position = Some(poll.next);
            }
        }
    }
}

/// One poll: ascending, not before its position, and nothing that stands in the final log was passed over.
fn inside(reader: &Reader<'_>, poll: &PollOp, verdict: &mut Verdict) {
    let Reader { part, process, rewinds, txns } = *reader;
    let name = &part.info.name;
    if poll.out_of_range {
        let known_end = part.drain.as_ref().map_or(0, |drain| drain.end);
        let is_over = poll.from > part.used_again(); // it stood behind what was left
        if !rewinds && !is_over && poll.from >= part.trimmed && poll.from <= known_end {
            let text = format!(
                "consumer {process} at {}: out of range, the log is [<={}, >={known_end})",
                poll.from, part.trimmed
            );
            verdict.report(Anomaly::FalseOutOfRange, name, text);
        }
        return;
    }
    let mut floor = poll.from;
    for seen in &poll.records {
        if seen.offset < floor {
            let text = format!("consumer {process} was given offset {} at position {floor}", seen.offset);
            verdict.report(Anomaly::NonmonotonicPoll, name, text);
        }
        floor = seen.offset + 1;
    }
    if poll.next < floor {
        let text = format!("consumer {process} stands at {} after offset {}", poll.next, floor - 1);
        verdict.report(Anomaly::NonmonotonicPoll, name, text);
        return;
    }
    if rewinds || poll.next <= poll.from {
        return;
    }
    let given: std::collections::BTreeSet<i64> = poll.records.iter().map(|seen| seen.offset).collect();
    let start = poll.from.max(part.trimmed);
    let next = poll.next.min(part.used_again());
    let hidden = |seen: &Vec<Seen>| {
        txns.is_some_and(|txns| seen.iter().any(|seen| !txns.is_certainly_visible(seen.value)))
    };
    let missed = part
        .seen
        .range(start..next.max(start))
        .filter(|(offset, seen)| !hidden(seen) && part.stays(**offset, seen))
        .map(|(offset, _)| *offset)
        .find(|o| !given.contains(o) && !part.is_destroyed(*o));
    if let Some(missed) = missed {
        let text =
            format!("consumer {process} went from {} to {} without offset {missed}", poll.from, poll.next);
        verdict.report(Anomaly::PollSkip, name, text);
    }
}
