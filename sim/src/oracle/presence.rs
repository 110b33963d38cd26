//! Is what was acknowledged there, once and unchanged, and is nothing else there?
//!
//! Owns: lost, phantom, failed-but-visible, changed, duplicate, inconsistent, mismatched offsets, holes after a power
//! cut. Source: CORRECTNESS.md 2.2 and 2.4. Called by [`super::judge`].

use std::collections::BTreeMap;

use super::compaction::Newest;
use super::index::{Drain, Index, PartIndex};
use super::{Acks, Anomaly, Outcome, SendOp, Verdict};

pub fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for (number, part) in index.parts.iter().enumerate() {
        sightings(index, number, part, verdict);
        duplicates(index, part, verdict);
        untold(part, verdict);
        if let Some(drain) = &part.drain {
            losses(index, part, drain, verdict);
        }
    }
}

/// A client of ours has five batches under way at most, and the broker remembers as many: each retry can be told where
/// its record stands.
fn untold(part: &PartIndex<'_>, verdict: &mut Verdict) {
    let untold = part.sends.iter().find(|send| {
        send.idempotent && send.acks == Acks::All && matches!(send.outcome, Outcome::Ok { offset: None })
    });
    if let Some(send) = untold {
        let text = format!(
            "value {} was acknowledged after {} attempts without an offset",
            send.value, send.attempts
        );
        verdict.report(Anomaly::OffsetUntold, &part.info.name, text);
    }
}

/// Everything that anybody saw was sent, here, like that, and stands where the reply said.
fn sightings(index: &Index<'_>, number: usize, part: &PartIndex<'_>, verdict: &mut Verdict) {
    let name = &part.info.name;
    for (offset, values) in &part.seen {
        if values.len() > 1 && !index.may_rewind(number) && *offset < part.used_again() {
            let all: Vec<u64> = values.iter().map(|seen| seen.value).collect();
            verdict.report(Anomaly::InconsistentOffsets, name, format!("offset {offset} had values {all:?}"));
        }
        for seen in values {
            let Some(send) = index.writer.get(&seen.value).filter(|send| send.part == number) else {
                let text = format!("offset {offset} holds value {}, which nobody sent there", seen.value);
                verdict.report(Anomaly::Phantom, name, text);
                continue;
            };
            if seen.digest != send.digest {
                let text = format!(
                    "value {} at offset {offset}: digest {:08x}, sent {:08x}",
                    seen.value, seen.digest, send.digest
                );
                verdict.report(Anomaly::Changed, name, text);
            }
            match send.outcome {
                Outcome::Fail => {
                    let text = format!("value {} at offset {offset} was refused for certain", seen.value);
                    verdict.report(Anomaly::FailedWriteVisible, name, text);
                }
                // Without sequence numbers a retry is a second record, and the reply tells of one of them.
                Outcome::Ok { offset: Some(told) }
                    if told != *offset
                        && (send.idempotent || send.attempts < 2)
                        && !index.may_rewind(number) =>
                {
                    let text = format!("value {}: the reply said {told}, it stands at {offset}", seen.value);
                    verdict.report(Anomaly::OffsetMismatch, name, text);
                }
                Outcome::Ok { .. } | Outcome::Info => {}
            }
        }
    }
}

/// No value stands twice in the final log, unless an uncoordinated retry explains it.
fn duplicates(index: &Index<'_>, part: &PartIndex<'_>, verdict: &mut Verdict) {
    let mut places: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for seen in part.drain.iter().flat_map(|drain| drain.records) {
        places.entry(seen.value).or_default().push(seen.offset);
    }
    for (value, offsets) in places.iter().filter(|(_, offsets)| offsets.len() > 1) {
        let Some(send) = index.writer.get(value) else { continue };
        if send.idempotent || send.attempts < 2 {
            let text = format!(
                "value {value} at {offsets:?} (idempotent {}, {} attempts)",
                send.idempotent, send.attempts
            );
            verdict.report(Anomaly::Duplicate, &part.info.name, text);
        }
    }
}

/// Every acknowledged record is in the final log, or its loss is excused and leaves no hole.
fn losses(index: &Index<'_>, part: &PartIndex<'_>, drain: &Drain<'_>, verdict: &mut Verdict) {
    let mut excused: BTreeMap<u64, Vec<(&SendOp, i64)>> = BTreeMap::new();
    let newest = Newest::of(index, part);
    for send in &part.sends {
        let Outcome::Ok { offset } = send.outcome else { continue };
        if part.final_offset.contains_key(&send.value) {
            continue;
        }
        if offset.is_some_and(|offset| offset < part.trimmed) || (offset.is_none() && part.trimmed > 0) {
            continue; // R5: below a start that was asked for
        }
        if offset.is_some_and(|offset| part.is_destroyed(offset)) {
            verdict.counts.excused += 1; // R4: every copy was destroyed
            continue;
        }
        if offset.is_some_and(|offset| newest.lets_go(index, part, send, offset)) {
            continue; // R5: compacted away
        }
        if offset.is_some_and(|offset| part.is_given_up(offset, send.done)) {
            verdict.counts.excused += 1; // R2, R3: the cluster told of it
            continue;
        }
        if part.info.replicated && send.acks != Acks::All {
            verdict.counts.excused += 1; // R1: the leader alone had it, and another one leads
            continue;
        }
        if !index.promised(send)
            && let Some(cut) = index.cut_after(send.begun)
        {
            verdict.counts.excused += 1;
            excused.entry(cut).or_default().extend(offset.map(|offset| (*send, offset)));
            continue;
        }
        if offset.is_none() && send.acks == Acks::None {
            verdict.counts.excused += 1; // acks=0: the "reply" is the client's own, nothing was promised
            continue;
        }
        let text = format!(
            "value {} acknowledged at {offset:?} (acks {:?}), final log is [{}, {})",
            send.value, send.acks, drain.start, drain.end
        );
        verdict.report(Anomaly::LostWrite, &part.info.name, text);
    }
    for (cut, gone) in excused {
        holes(part, cut, &gone, verdict);
    }
}

/// A power cut leaves a prefix: nothing that stood behind a lost record may have survived it.
fn holes(part: &PartIndex<'_>, cut: u64, gone: &[(&SendOp, i64)], verdict: &mut Verdict) {
    let Some((lost, first)) = gone.iter().min_by_key(|(_, offset)| *offset) else { return };
    let survivor = part.sends.iter().find(|send| {
        send.done <= cut
            && matches!(send.outcome, Outcome::Ok { offset: Some(offset) } if offset > *first)
            && part.final_offset.contains_key(&send.value)
    });
    if let Some(survivor) = survivor {
        let text = format!(
            "value {} at {first} is gone, value {} behind it survived the same power cut",
            lost.value, survivor.value
        );
        verdict.report(Anomaly::HoleAfterPowerCut, &part.info.name, text);
    }
}
