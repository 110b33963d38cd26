//! Does a group go on where it stood, and does only the owner move it?
//!
//! Owns: the committed position of (group, partition) as a register (GRP-3), where a partition begins that came to a member
//! (GRP-5), commits of those who are no longer the owner (GRP-4), two owners (GRP-1), and one outcome for each record that was
//! consumed (TXN-11). Promises: near linear: what was committed is compared by intervals in time, nothing is searched.
//! Leaves out: expiry of offsets. Source: CORRECTNESS.md 1.4, 2.2, 2.3 step 6. Called by [`super::judge`].
//!
//! ```text
//! commit ok ──┐   fetch begins after it: the answer is this one or a later one
//!             └──────────► fetch ──► first poll of the member: not above the answer
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::transactions::{Fate, Txns};
use super::{Anomaly, Event, GroupAct, GroupOp, History, Part, PollOp, Told, Verdict};

/// A position that somebody set, or may have set.
#[derive(Debug, Clone, Copy)]
struct Set {
    offset: i64,
    begun: u64,
    /// When it was known to have happened; never, if it was not.
    done: Option<u64>,
}

/// A position that the group was told.
#[derive(Debug, Clone, Copy)]
struct Got {
    offset: Option<i64>,
    begun: u64,
    done: u64,
}

/// What is known of one group in one partition.
#[derive(Debug, Default)]
struct Place {
    sets: Vec<Set>,
    gots: Vec<Got>,
    /// When a member was told that it is the owner, and in which generation.
    owners: Vec<(u64, i32)>,
    /// What members were given, as [from, next).
    given: Vec<(i64, i64)>,
    /// The highest position that may have been set, by moments.
    tops: Vec<(u64, i64)>,
}

impl Place {
    fn close(&mut self) {
        self.sets.sort_by_key(|set| set.begun);
        self.owners.sort_unstable();
        for set in &self.sets {
            let before = self.tops.last().map_or(i64::MIN, |(_, top)| *top);
            self.tops.push((set.begun, set.offset.max(before)));
        }
    }

    /// The highest position that may have been set by a moment.
    fn highest(&self, moment: u64) -> Option<i64> {
        let known = self.tops.partition_point(|(at, _)| *at <= moment);
        known.checked_sub(1).map(|last| self.tops[last].1)
    }
}

type Places<'h> = BTreeMap<(&'h str, Part), Place>;

pub fn check(history: &History, index: &Index<'_>, txns: &Txns<'_>, verdict: &mut Verdict) {
    let mut places = Places::new();
    let mut member_of: BTreeMap<u32, &str> = BTreeMap::new();
    for event in &history.events {
        match event {
            Event::Consumer { process, group: Some(group), .. } => drop(member_of.insert(*process, group)),
            Event::Group(op) => {
                member_of.insert(op.process, &op.group);
                note(&mut places, op);
            }
            Event::Poll(poll) if !poll.out_of_range => {
                if let Some(group) = member_of.get(&poll.process) {
                    places.entry((group, poll.part)).or_default().given.push((poll.from, poll.next));
                }
            }
            _ => {}
        }
    }
    for txn in txns.all.iter().filter(|txn| txn.fate != Fate::Aborted) {
        for set in &txn.offsets {
            let place = places.entry((set.group, set.part)).or_default();
            let begun = txn.asked().unwrap_or(set.asked);
            place.sets.push(Set { offset: set.offset, begun, done: txn.known() });
        }
    }
    places.values_mut().for_each(Place::close);
    for ((group, part), place) in &places {
        let name = format!("{group} in {}", index.parts[*part].info.name);
        register(place, &name, verdict);
        passed_over(index, txns, *part, place, &name, verdict);
        outcomes(index, txns, group, *part, place, verdict);
    }
    owners(history, index, verdict);
    zombies(history, index, &places, verdict);
    starts(history, index, txns, &places, verdict);
}

fn note<'h>(places: &mut Places<'h>, op: &'h GroupOp) {
    match &op.act {
        GroupAct::Assigned { parts, .. } => {
            for part in parts {
                let place = places.entry((&op.group, *part)).or_default();
                place.owners.push((op.done, op.generation));
            }
        }
        GroupAct::Revoked { .. } => {}
        GroupAct::Commit { offsets } if op.told != Told::No => {
            let done = (op.told == Told::Ok).then_some(op.done);
            for (part, offset) in offsets {
                let set = Set { offset: *offset, begun: op.begun, done };
                places.entry((&op.group, *part)).or_default().sets.push(set);
            }
        }
        GroupAct::Fetched { offsets } if op.told == Told::Ok => {
            for (part, offset) in offsets {
                let got = Got { offset: *offset, begun: op.begun, done: op.done };
                places.entry((&op.group, *part)).or_default().gots.push(got);
            }
        }
        GroupAct::Commit { .. } | GroupAct::Fetched { .. } => {}
    }
}

/// An answer is a position that somebody set, and none that was certainly replaced before the question.
fn register(place: &Place, name: &str, verdict: &mut Verdict) {
    // By the end of the question: what was set by then; by its beginning: what was certainly set by then.
    let mut gots = place.gots.clone();
    gots.sort_by_key(|got| got.done);
    let mut by_done: Vec<&Set> = place.sets.iter().filter(|set| set.done.is_some()).collect();
    by_done.sort_by_key(|set| set.done);
    // The latest beginning among what had ended, by each end.
    let mut latest = Vec::with_capacity(by_done.len());
    for set in &by_done {
        let before = latest.last().map_or(0, |(_, begun)| *begun);
        latest.push((set.done.unwrap_or(u64::MAX), set.begun.max(before)));
    }
    let mut sets = place.sets.iter().peekable();
    // When the last of those that set a value may still have happened.
    let mut until: BTreeMap<i64, u64> = BTreeMap::new();
    for got in gots {
        while let Some(set) = sets.next_if(|set| set.begun < got.done) {
            let end = set.done.unwrap_or(u64::MAX);
            let known = until.entry(set.offset).or_default();
            *known = end.max(*known);
        }
        let ended = latest.partition_point(|(done, _)| *done < got.begun);
        let replaced = ended.checked_sub(1).map(|last| latest[last].1);
        match got.offset {
            None => {
                if replaced.is_some() {
                    let text = format!("nothing is committed, it was told at {} ns", got.done);
                    verdict.report(Anomaly::CommitRegression, name, text);
                }
            }
            Some(offset) => match until.get(&offset) {
                None => {
                    let text = format!("was told {offset} at {} ns, which nobody committed", got.done);
                    verdict.report(Anomaly::PhantomCommit, name, text);
                }
                Some(end) if replaced.is_some_and(|begun| *end < begun) => {
                    let text = format!("was told {offset} at {} ns, after a later commit", got.done);
                    verdict.report(Anomaly::CommitRegression, name, text);
                }
                Some(_) => {}
            },
        }
    }
}

/// The first visible record of a span that lies in the log and was not lost or deleted on purpose.
fn visible_in(index: &Index<'_>, txns: &Txns<'_>, part: Part, from: i64, to: i64) -> Option<i64> {
    let part = &index.parts[part];
    let from = from.max(part.trimmed);
    let mut seen = part.seen.range(from..to.max(from));
    seen.find(|(offset, seen)| {
        !part.is_destroyed(**offset) && seen.iter().all(|seen| txns.is_certainly_visible(seen.value))
    })
    .map(|(offset, _)| *offset)
}

/// Everything below the highest certain commit was given to some member.
fn passed_over(
    index: &Index<'_>,
    txns: &Txns<'_>,
    part: Part,
    place: &Place,
    name: &str,
    verdict: &mut Verdict,
) {
    let certain = place.sets.iter().filter(|set| set.done.is_some()).map(|set| set.offset).max();
    let Some(certain) = certain.filter(|_| !index.may_rewind(part)) else { return };
    let mut given = place.given.clone();
    given.sort_unstable();
    let mut reached = 0;
    for (from, next) in given.into_iter().chain([(certain, certain)]) {
        if from > reached
            && reached < certain
            && let Some(missed) = visible_in(index, txns, part, reached, from.min(certain))
        {
            let text = format!("{certain} is committed, offset {missed} was given to no member");
            verdict.report(Anomaly::GroupSkip, name, text);
            return;
        }
        reached = reached.max(next);
    }
}

/// In one generation a partition has one owner.
fn owners(history: &History, index: &Index<'_>, verdict: &mut Verdict) {
    let mut owner: BTreeMap<(&str, i32, Part), u32> = BTreeMap::new();
    for event in &history.events {
        let Event::Group(GroupOp {
            group, generation, process, act: GroupAct::Assigned { parts, .. }, ..
        }) = event
        else {
            continue;
        };
        for part in parts {
            let first = *owner.entry((group, *generation, *part)).or_insert(*process);
            if first != *process {
                let name = format!("{group} in {}", index.parts[*part].info.name);
                let text = format!("in generation {generation} consumers {first} and {process} own it");
                verdict.report(Anomaly::DoubleOwner, &name, text);
            }
        }
    }
}

/// The highest generation that was told by a moment, for each moment at which it rose.
fn rises(mut told: Vec<(u64, i32)>) -> Vec<(u64, i32)> {
    told.sort_unstable();
    let mut rises: Vec<(u64, i32)> = Vec::new();
    for (at, generation) in told {
        if rises.last().is_none_or(|(_, highest)| generation > *highest) {
            rises.push((at, generation));
        }
    }
    rises
}

fn risen(rises: &[(u64, i32)], before: u64) -> Option<i32> {
    let known = rises.partition_point(|(at, _)| *at < before);
    known.checked_sub(1).map(|last| rises[last].1)
}

/// A commit of an older generation is refused once the partition has a later owner; in the classic protocol, once anybody is
/// in a later generation.
fn zombies(history: &History, index: &Index<'_>, places: &Places<'_>, verdict: &mut Verdict) {
    let mut told: BTreeMap<&str, Vec<(u64, i32)>> = BTreeMap::new();
    for event in &history.events {
        if let Event::Group(GroupOp {
            group,
            generation,
            done,
            act: GroupAct::Assigned { classic: true, .. },
            ..
        }) = event
        {
            told.entry(group).or_default().push((*done, *generation));
        }
    }
    let groups: BTreeMap<&str, Vec<_>> = told.into_iter().map(|(group, told)| (group, rises(told))).collect();
    let owned: BTreeMap<_, Vec<_>> =
        places.iter().map(|(at, place)| (*at, rises(place.owners.clone()))).collect();
    for event in &history.events {
        let Event::Group(op) = event else { continue };
        let GroupAct::Commit { offsets } = &op.act else { continue };
        if op.told != Told::Ok {
            continue;
        }
        let group = groups.get(op.group.as_str()).and_then(|rises| risen(rises, op.begun));
        for (part, offset) in offsets {
            let owner = owned.get(&(op.group.as_str(), *part)).and_then(|rises| risen(rises, op.begun));
            if let Some(later) = owner.max(group).filter(|later| *later > op.generation) {
                let name = format!("{} in {}", op.group, index.parts[*part].info.name);
                let text = format!(
                    "the commit of {offset} by consumer {} of generation {} was taken, generation {later} was known",
                    op.process, op.generation
                );
                verdict.report(Anomaly::ZombieCommit, &name, text);
                break;
            }
        }
    }
}

/// The first poll after a partition was handed to a member begins no higher than the group stands.
fn starts(history: &History, index: &Index<'_>, txns: &Txns<'_>, places: &Places<'_>, verdict: &mut Verdict) {
    // What a member waits to poll for the first time, with the position that it was told meanwhile.
    let mut fresh: BTreeMap<(u32, Part), Option<i64>> = BTreeMap::new();
    let mut held: BTreeMap<u32, (&str, BTreeSet<Part>)> = BTreeMap::new();
    for event in &history.events {
        match event {
            Event::Group(op) => match &op.act {
                GroupAct::Assigned { parts, .. } => {
                    let now: BTreeSet<Part> = parts.iter().copied().collect();
                    let (_, before) = held.insert(op.process, (&op.group, now.clone())).unwrap_or_default();
                    fresh.extend(now.difference(&before).map(|part| ((op.process, *part), None)));
                }
                GroupAct::Revoked { parts } => {
                    if let Some((_, held)) = held.get_mut(&op.process) {
                        held.retain(|part| !parts.contains(part));
                    }
                    fresh.retain(|(process, part), _| *process != op.process || !parts.contains(part));
                }
                GroupAct::Fetched { offsets } if op.told == Told::Ok => {
                    for (part, offset) in offsets {
                        fresh.entry((op.process, *part)).and_modify(|told| *told = *offset);
                    }
                }
                GroupAct::Fetched { .. } | GroupAct::Commit { .. } => {}
            },
            Event::Seek { process, part, .. } => drop(fresh.remove(&(*process, *part))),
            Event::Poll(poll) => {
                let Some(told) = fresh.remove(&(poll.process, poll.part)) else { continue };
                let Some((group, _)) = held.get(&poll.process) else { continue };
                let place = places.get(&(*group, poll.part));
                let stood = told.or_else(|| place?.highest(poll.done)).unwrap_or(0);
                start(index, txns, group, poll, stood, verdict);
            }
            _ => {}
        }
    }
}

fn start(index: &Index<'_>, txns: &Txns<'_>, group: &str, poll: &PollOp, stood: i64, verdict: &mut Verdict) {
    if poll.out_of_range || index.may_rewind(poll.part) {
        return;
    }
    if let Some(missed) = visible_in(index, txns, poll.part, stood, poll.from) {
        let name = format!("{group} in {}", index.parts[poll.part].info.name);
        let text = format!(
            "consumer {} began at {}, the group stood at {stood}: offset {missed} is passed over",
            poll.process, poll.from
        );
        verdict.report(Anomaly::GroupSkip, &name, text);
    }
}

/// Each record below the highest certain commit has exactly one visible outcome, if the group makes records of records.
fn outcomes(
    index: &Index<'_>,
    txns: &Txns<'_>,
    group: &str,
    part: Part,
    place: &Place,
    verdict: &mut Verdict,
) {
    let makes = txns.derived.range((group, 0)..).next().is_some_and(|((of, _), _)| *of == group);
    // What was told is set, whether or not who set it heard of it.
    let known = place.sets.iter().filter(|set| set.done.is_some()).map(|set| set.offset);
    let set: BTreeSet<i64> = place.sets.iter().map(|set| set.offset).collect();
    let told = place.gots.iter().filter_map(|got| got.offset).filter(|offset| set.contains(offset));
    let certain = known.chain(told).max();
    let Some(certain) = certain.filter(|_| makes) else { return };
    let input = &index.parts[part];
    // A producer without sequence numbers may have put one value into several places: each is consumed.
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for seen in input.drain.iter().flat_map(|drain| drain.records).filter(|seen| seen.offset < certain) {
        *places.entry(seen.value).or_default() += 1;
    }
    for (offset, seen) in input.seen.range(input.trimmed..certain.max(input.trimmed)) {
        for seen in seen.iter().filter(|seen| txns.is_certainly_visible(seen.value)) {
            let made = txns.derived.get(&(group, seen.value)).map_or(&[][..], Vec::as_slice);
            let visible: Vec<u64> = made.iter().copied().filter(|value| shown(index, *value)).collect();
            let wanted = places.get(&seen.value).copied().unwrap_or(1);
            if visible.len() != wanted && !input.is_destroyed(*offset) {
                let text = format!(
                    "value {} at {offset} is {}: the group stands at {certain}; made of it {made:?}, visible {visible:?}",
                    seen.value,
                    if visible.len() < wanted { "lost" } else { "there more than once" }
                );
                let name = format!("{group} in {}", input.info.name);
                verdict.report(Anomaly::EosMultiplicity, &name, text);
            }
        }
    }
}

/// Whether a record is in the final read, of committed records where there was one.
fn shown(index: &Index<'_>, value: u64) -> bool {
    let Some(send) = index.writer.get(&value) else { return false };
    let part = &index.parts[send.part];
    match &part.committed {
        Some(committed) => committed.contains(&value),
        None => part.final_offset.contains_key(&value),
    }
}
