//! Was each consumer given everything that it passed, in order?
//!
//! Owns: skips, going back, and positions that were wrongly called out of range, for assigned consumers.
//! Leaves out: groups (a rebalance may move a position). Source: CORRECTNESS.md 2.2. Called by [`super::judge`].

use super::index::{Index, PartIndex, Step};
use super::{Anomaly, PollOp, Verdict};

pub fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for (number, part) in index.parts.iter().enumerate() {
        let rewinds = index.may_rewind(number);
        for (process, steps) in &part.consumers {
            consumer(part, *process, steps, rewinds, verdict);
        }
    }
}

fn consumer(part: &PartIndex<'_>, process: u32, steps: &[Step<'_>], rewinds: bool, verdict: &mut Verdict) {
    let mut position: Option<i64> = None;
    for step in steps {
        match step {
            Step::Seek(offset) => position = Some(*offset),
            Step::Poll(poll) => {
                if let Some(expected) = position.filter(|expected| *expected != poll.from) {
                    let text =
                        format!("consumer {process} polled from {}, it stood at {expected}", poll.from);
                    let anomaly =
                        if poll.from > expected { Anomaly::PollSkip } else { Anomaly::NonmonotonicPoll };
                    verdict.report(anomaly, &part.info.name, text);
                }
                inside(part, process, poll, rewinds, verdict);
                position = Some(poll.next);
            }
        }
    }
}

/// One poll: ascending, not before its position, and nothing that stands in the final log was passed over.
fn inside(part: &PartIndex<'_>, process: u32, poll: &PollOp, rewinds: bool, verdict: &mut Verdict) {
    let name = &part.info.name;
    if poll.out_of_range {
        let known_end = part.drain.as_ref().map_or(0, |drain| drain.end);
        if !rewinds && poll.from >= part.trimmed && poll.from <= known_end {
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
    let missed = part
        .seen
        .range(start..poll.next.max(start))
        .map(|(offset, _)| *offset)
        .find(|o| !given.contains(o) && !part.is_destroyed(*o));
    if let Some(missed) = missed {
        let text =
            format!("consumer {process} went from {} to {} without offset {missed}", poll.from, poll.next);
        verdict.report(Anomaly::PollSkip, name, text);
    }
}
