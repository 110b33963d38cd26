//! Do the records stand in the order that clients may rely on?
//!
//! Owns: order within a producer, order in real time, end offsets that cover what was acknowledged.
//! Source: CORRECTNESS.md 2.2, 2.3 step 4 (offsets give the order, so nothing is searched). Called by [`super::judge`].

use std::collections::BTreeMap;

use super::index::{EndOffset, Index, PartIndex};
use super::{Anomaly, Outcome, SendOp, Verdict};

pub fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for (number, part) in index.parts.iter().enumerate() {
        // Offsets are used again after a loss that was not promised against, or was told: then only spans between are ordered.
        let mut cuts = if index.may_rewind(number) { index.power_cuts.clone() } else { Vec::new() };
        cuts.extend(part.given_up.iter().map(|(_, at)| *at));
        cuts.sort_unstable();
        let cuts = &cuts[..];
        per_producer(part, cuts, verdict);
        realtime(part, cuts, verdict);
        end_offsets(part, cuts, verdict);
        ends_of_epochs(part, cuts, verdict);
    }
}

/// In which span between power cuts a moment lies.
fn span(cuts: &[u64], moment: u64) -> usize {
    cuts.partition_point(|cut| *cut < moment)
}

/// Whether a send lies within one span. Of another, the reply may have been under way when its record was lost.
fn whole(cuts: &[u64], send: &SendOp) -> bool {
    span(cuts, send.begun) == span(cuts, send.done)
}

/// An idempotent session's records stand in the order of its calls.
fn per_producer(part: &PartIndex<'_>, cuts: &[u64], verdict: &mut Verdict) {
    let mut last: BTreeMap<u32, (i64, &SendOp)> = BTreeMap::new();
    for send in part.sends.iter().filter(|send| send.idempotent && whole(cuts, send)) {
        let Some(offset) = part.offset_of(send) else { continue };
        if let Some((before, earlier)) = last.get(&send.process)
            && offset <= *before
            && span(cuts, earlier.done) == span(cuts, send.done)
        {
            let text = format!(
                "producer {}: value {} at {before}, then value {} at {offset}",
                send.process, earlier.value, send.value
            );
            verdict.report(Anomaly::NonmonotonicSend, &part.info.name, text);
        }
        last.insert(send.process, (offset, send));
    }
}

/// What was acknowledged before another call began stands in front of it.
fn realtime(part: &PartIndex<'_>, cuts: &[u64], verdict: &mut Verdict) {
    // What a leader alone acknowledged may be lost with it, and its offset given to another record.
    let counts = |send: &SendOp| send.acks == super::Acks::All || !part.info.replicated;
    let acked = |send: &&&SendOp| {
        matches!(send.outcome, Outcome::Ok { offset: Some(_) }) && whole(cuts, send) && counts(send)
    };
    let mut by_end: Vec<&SendOp> = part.sends.iter().filter(acked).copied().collect();
    by_end.sort_by_key(|send| send.done);
    let mut ended = by_end.iter().peekable();
    let mut highest: Option<(i64, &SendOp)> = None;
    for send in part.sends.iter().filter(acked) {
        while let Some(done) = ended.next_if(|done| done.done < send.begun) {
            let Some(offset) = part.offset_of(done) else { continue };
            let newer_span = highest.is_none_or(|(_, top)| span(cuts, top.done) < span(cuts, done.done));
            if newer_span || highest.is_some_and(|(top, _)| offset > top) {
                highest = Some((offset, done));
            }
        }
        let (Some((top, earlier)), Some(offset)) = (highest, part.offset_of(send)) else { continue };
        if offset <= top && span(cuts, earlier.done) == span(cuts, send.begun) {
            let text = format!(
                "value {} was acknowledged at {top} before value {} was sent, which stands at {offset}",
                earlier.value, send.value
            );
            verdict.report(Anomaly::RealtimeAppend, &part.info.name, text);
        }
    }
}

/// An end offset that was asked for after a reply lies behind the record of that reply, unless a leader told it that another
/// had replaced by then.
fn end_offsets(part: &PartIndex<'_>, cuts: &[u64], verdict: &mut Verdict) {
    let counts = |send: &&&SendOp| {
        send.acks == super::Acks::All
            && matches!(send.outcome, Outcome::Ok { offset: Some(_) })
            && whole(cuts, send)
    };
    let mut acked: Vec<&SendOp> = part.sends.iter().filter(counts).copied().collect();
    acked.sort_by_key(|send| send.done);
    let mut acked = acked.iter().peekable();
    let mut ends = part.ends.clone();
    ends.sort_unstable();
    let mut highest: Option<(i64, &SendOp)> = None;
    for EndOffset { asked, end, is_old, .. } in ends {
        while let Some(send) = acked.next_if(|send| send.done < asked) {
            let Outcome::Ok { offset: Some(offset) } = send.outcome else { continue };
            let newer_span = highest.is_none_or(|(_, top)| span(cuts, top.done) < span(cuts, send.done));
            if newer_span || highest.is_some_and(|(top, _)| offset > top) {
                highest = Some((offset, send));
            }
        }
        if let Some((top, send)) = highest
            && top >= end
            && !is_old
            && span(cuts, send.done) == span(cuts, asked)
        {
            let text =
                format!("value {} was acknowledged at {top}, then the end was said to be {end}", send.value);
            verdict.report(Anomaly::StaleEndOffset, &part.info.name, text);
        }
    }
}

/// REP-3: of two end offsets, the later one of the same leader epoch or a newer one is not the smaller one.
fn ends_of_epochs(part: &PartIndex<'_>, cuts: &[u64], verdict: &mut Verdict) {
    let noted = || part.ends.iter().filter(|one| one.answered > 0 && one.epoch >= 0);
    let mut told: Vec<&EndOffset> = noted().collect();
    told.sort_by_key(|one| one.answered);
    let mut told = told.into_iter().peekable();
    let mut ends: Vec<&EndOffset> = noted().collect();
    ends.sort();
    let mut highest: BTreeMap<i32, &EndOffset> = BTreeMap::new();
    for end in ends {
        while let Some(before) = told.next_if(|before| before.answered < end.asked) {
            let top = highest.entry(before.epoch).or_insert(before);
            if before.end > top.end || span(cuts, top.answered) < span(cuts, before.answered) {
                *top = before;
            }
        }
        let mut older = highest.range(..=end.epoch).map(|(_, top)| *top);
        let is_broken =
            |top: &EndOffset| top.end > end.end && span(cuts, top.asked) == span(cuts, end.answered);
        if let Some(top) = older.find(|top| is_broken(top)) {
            let text = format!(
                "the end was {} in leader epoch {}, then {} in {}",
                top.end, top.epoch, end.end, end.epoch
            );
            verdict.report(Anomaly::StaleEndOffset, &part.info.name, text);
        }
    }
}
