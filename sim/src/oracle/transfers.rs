//! Do the books balance? What is moved from one place to another is gone there and here, or neither.
//!
//! Owns: sums over transfers, for the final read of committed records and for each reader of them on its way. Promises: asks
//! nobody what became of a transaction: whoever passed all sides of a transfer in the log was given all of them or none, so
//! that their amounts add up to nothing. A transfer of which a reader has passed one side only says nothing yet.
//! Leaves out: which transactions were committed (`transactions`). Source: CORRECTNESS.md 1.6 (TXN-1). Called by [`super::judge`].
//!
//! ```text
//!  account a   …  -7 at 12  …          a reader at (13, 40) has passed one side of the transfer: nothing is known
//!  account b   …  +7 at 41  …          at (13, 42) both: it was given -7 and +7, or neither
//! ```

use std::collections::BTreeMap;

use super::index::Index;
use super::{Anomaly, Event, History, Seen, Verdict};

/// One side of a transfer.
#[derive(Debug, Clone, Copy)]
struct Side {
    transfer: u64,
    amount: i64,
}

/// What one reader knows of one transfer.
#[derive(Debug, Default)]
struct Account {
    passed: usize,
    sum: i64,
}

pub fn check(history: &History, index: &Index<'_>, verdict: &mut Verdict) {
    let mut sides: BTreeMap<u64, Side> = BTreeMap::new();
    for event in &history.events {
        if let Event::Moved { value, transfer, amount } = event {
            sides.insert(*value, Side { transfer: *transfer, amount: *amount });
        }
    }
    if sides.is_empty() {
        return;
    }
    // Where the sides stand in the final log, and how many each transfer has there.
    let mut places: Vec<BTreeMap<i64, Side>> = Vec::new();
    let mut all: BTreeMap<u64, usize> = BTreeMap::new();
    for part in &index.parts {
        let mut here = BTreeMap::new();
        for (value, at) in &part.final_offset {
            if let Some(side) = sides.get(value) {
                here.insert(*at, *side);
                *all.entry(side.transfer).or_default() += 1;
            }
        }
        places.push(here);
    }
    last(index, &sides, &all, verdict);
    on_the_way(history, index, &sides, (&places, &all), verdict);
}

/// The final read of committed records.
fn last(index: &Index<'_>, sides: &BTreeMap<u64, Side>, all: &BTreeMap<u64, usize>, verdict: &mut Verdict) {
    let mut sums: BTreeMap<u64, i64> = BTreeMap::new();
    for part in &index.parts {
        let Some(committed) = &part.committed else { return };
        for side in committed.iter().filter_map(|value| sides.get(value)) {
            *sums.entry(side.transfer).or_default() += side.amount;
        }
    }
    if let Some((transfer, sum)) = sums.into_iter().find(|(_, sum)| *sum != 0) {
        let sides = all.get(&transfer).copied().unwrap_or_default();
        let text =
            format!("in the end transfer {transfer} adds up to {sum}; {sides} of its sides are in the log");
        verdict.report(Anomaly::BooksDoNotBalance, "all", text);
    }
}

/// Readers of committed records, poll by poll.
fn on_the_way(
    history: &History,
    index: &Index<'_>,
    sides: &BTreeMap<u64, Side>,
    (places, all): (&[BTreeMap<i64, Side>], &BTreeMap<u64, usize>),
    verdict: &mut Verdict,
) {
    let mut readers: BTreeMap<u32, BTreeMap<u64, Account>> = BTreeMap::new();
    for event in &history.events {
        let Event::Poll(poll) = event else { continue };
        if !index.read_committed.contains(&poll.process) || poll.out_of_range || index.may_rewind(poll.part) {
            continue;
        }
        let books = readers.entry(poll.process).or_default();
        for side in poll.records.iter().filter_map(|seen: &Seen| sides.get(&seen.value)) {
            books.entry(side.transfer).or_default().sum += side.amount;
        }
        for (_, side) in places[poll.part].range(poll.from..poll.next.max(poll.from)) {
            let account = books.entry(side.transfer).or_default();
            account.passed += 1;
            if account.passed == all[&side.transfer] && account.sum != 0 {
                let text = format!(
                    "consumer {} passed all sides of transfer {} with offset {}, and what it was given adds up to {}",
                    poll.process, side.transfer, poll.next, account.sum
                );
                verdict.report(Anomaly::BooksDoNotBalance, &index.parts[poll.part].info.name, text);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Story, seen};
    use super::super::{Acks, Outcome, PartInfo, PollOp, SendOp};
    use super::*;

    /// Value 1 takes 7 from the first account, value 2 adds it to the second; a reader of committed records is given these.
    fn told(first: &[(i64, u64)], second: &[(i64, u64)], next: i64) -> Vec<Anomaly> {
        let mut story = Story::new(true);
        story.history.partitions.push(PartInfo { name: "u-0".into(), ..story.history.partitions[0].clone() });
        story = story.event(Event::Consumer { process: 9, read_committed: true, group: None });
        for (value, part, amount) in [(1, 0, -7), (2, 1, 7)] {
            story = story.event(Event::Moved { value, transfer: 100, amount });
            let begun = story.clock;
            story = story.event(Event::Send(SendOp {
                process: 1,
                part,
                value,
                digest: value as u32,
                acks: Acks::All,
                idempotent: true,
                attempts: 1,
                begun,
                done: begun,
                outcome: Outcome::Ok { offset: Some(0) },
            }));
        }
        for (part, records, next) in [(0, first, 1), (1, second, next)] {
            let (begun, records) = (story.clock, seen(records));
            let poll =
                PollOp { process: 9, part, from: 0, records, next, out_of_range: false, begun, done: begun };
            story = story.event(Event::Poll(poll));
        }
        for (part, value) in [(0, 1), (1, 2)] {
            let records = seen(&[(0, value)]);
            story = story.event(Event::Drained { part, start: 0, end: 1, records: records.clone() });
            story = story.event(Event::DrainedCommitted { part, records });
        }
        let found = super::super::judge(&story.history).violations;
        found.into_iter().map(|one| one.anomaly).filter(|one| *one == Anomaly::BooksDoNotBalance).collect()
    }

    #[test]
    fn both_sides_or_none() {
        assert_eq!(told(&[(0, 1)], &[(0, 2)], 1), []);
        assert_eq!(told(&[(0, 1)], &[], 0), [], "it has not come to the other side");
        assert_eq!(told(&[(0, 1)], &[], 1), [Anomaly::BooksDoNotBalance]);
        assert_eq!(told(&[], &[(0, 2)], 1), [Anomaly::BooksDoNotBalance]);
    }

    #[test]
    fn the_final_read_balances() {
        let mut history = History::default();
        for name in ["t-0", "u-0"] {
            history.partitions.push(PartInfo {
                name: name.into(),
                durable: true,
                replicated: false,
                compacted: None,
            });
        }
        for (value, amount) in [(1, -7), (2, 7)] {
            history.events.push(Event::Moved { value, transfer: 100, amount });
        }
        let of = |records: &[(i64, u64)], part| Event::DrainedCommitted { part, records: seen(records) };
        history.events.extend([of(&[(0, 1)], 0), of(&[], 1)]);
        let mut verdict = Verdict::default();
        let index = Index::of(&history, &mut verdict);
        check(&history, &index, &mut verdict);
        assert_eq!(verdict.violations.len(), 1, "{:?}", verdict.violations);
    }
}
