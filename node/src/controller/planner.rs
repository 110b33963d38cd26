//! Which replicas should move, and where to: what the cluster does by itself.
//!
//! Owns: [`plan`], a function of the image and of who is missing. The plan needs no store of its own: what asks for
//! it (a draining broker, a missing one, a rebalance) is in the metadata or is seen again by the next controller, and
//! every move that has begun is in the metadata as a reassignment.
//! Promises: a target has as many replicas as before, on different brokers, on as many racks as before if that is
//! possible; while it rebalances, every move brings the brokers closer to holding the same number, and it rests only
//! when they do to within one (as far as racks allow).
//! Leaves out: moving (`decide::reassign`), how many at a time (`decide::tick`).
//!
//! ```text
//!  unwanted replica (draining, missing, gone) ─► the least loaded broker that fits
//!  rebalancing:  most loaded ── one replica ──► least loaded;  then the same for preferred leaders, by order alone
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dejaq_storage::mark;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};

use crate::metadata::{Image, Partition};

/// Why a replica moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its broker is to be empty.
    Drain,
    /// Its broker is gone, or was fenced for too long.
    Missing,
    /// Its broker holds more than another.
    Balance,
}

/// One partition on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which topic.
    pub topic_id: TopicId,
    /// Which partition.
    pub partition: PartitionId,
    /// Where it is to be, the preferred leader first.
    pub target: Vec<BrokerId>,
    /// Why.
    pub why: Why,
}

/// What is to be done now, in order: first all that is on its way to a broker that will not take it, since aiming it
/// elsewhere needs no room; then at most `room` moves that are new.
#[must_use]
pub fn plan(image: &Image, missing: &BTreeSet<BrokerId>, room: usize) -> Vec<Move> {
    let mut planner = Planner::new(image, missing);
    let mut moves = planner.replace_unwanted(usize::MAX, |one| one.moving);
    moves.extend(planner.replace_unwanted(room, |one| !one.moving));
    // Balance is judged when nothing else is on the way, else two movements chase each other.
    let calm = moves.is_empty() && !any_under_way(image);
    if image.is_rebalancing() && calm {
        moves = planner.level_replicas(room);
        if moves.is_empty() {
            moves = planner.level_leaders(room);
        }
        // Both halves at once, or the first would be levelled away again before the second begins.
        if moves.is_empty() && room >= 2 {
            moves = planner.swap_for_leaders().unwrap_or_default();
        }
    }
    moves
}

/// Partitions that have a replica on the way. One that nobody leads makes no way, and holds up nobody.
#[must_use]
pub fn in_flight(image: &Image) -> usize {
    let partitions = image.topics().flat_map(|topic| topic.partitions.iter());
    partitions.filter(|partition| !partition.adding.is_empty() && is_led(partition)).count()
}

/// Whether a reassignment makes its way.
#[must_use]
pub fn any_under_way(image: &Image) -> bool {
    image.topics().flat_map(|topic| topic.partitions.iter()).any(|one| one.is_moving() && is_led(one))
}

fn is_led(partition: &Partition) -> bool {
    partition.leader != BrokerId::NONE
}

struct Planner<'a> {
    image: &'a Image,
    missing: &'a BTreeSet<BrokerId>,
    /// Replicas that each broker will hold that may hold any.
    loads: BTreeMap<BrokerId, usize>,
    partitions: Vec<One>,
}

struct One {
    at: (TopicId, PartitionId),
    target: Vec<BrokerId>,
    /// It can be moved: somebody leads it.
    led: bool,
    /// It is on its way already.
    moving: bool,
    /// Who has come, and has what it needs: dropped before its move ends it could be one copy too few.
    came: Vec<BrokerId>,
}

impl One {
    fn to(&self, target: Vec<BrokerId>) -> Move {
        Move { topic_id: self.at.0, partition: self.at.1, target, why: Why::Balance }
    }
}

fn replaced(list: &[BrokerId], old: BrokerId, new: BrokerId) -> Vec<BrokerId> {
    list.iter().map(|broker| if *broker == old { new } else { *broker }).collect()
}

impl<'a> Planner<'a> {
    fn new(image: &'a Image, missing: &'a BTreeSet<BrokerId>) -> Planner<'a> {
        let usable = image
            .brokers()
            .filter(|broker| broker.is_live() && !broker.draining && !missing.contains(&broker.id));
        let mut loads: BTreeMap<BrokerId, usize> = usable.map(|broker| (broker.id, 0)).collect();
        let one = |id: TopicId| {
            move |(index, partition): (PartitionId, &Partition)| One {
                at: (id, index),
                target: partition.target(),
                led: is_led(partition),
                moving: partition.is_moving(),
                came: partition.adding.iter().copied().filter(|one| partition.isr.contains(one)).collect(),
            }
        };
        let partitions: Vec<One> =
            image.topics().flat_map(|topic| topic.partitions().map(one(topic.id))).collect();
        for replica in partitions.iter().flat_map(|one| one.target.iter()) {
            if let Some(load) = loads.get_mut(replica) {
                *load += 1;
            }
        }
        Planner { image, missing, loads, partitions }
    }

    fn rack(&self, broker: BrokerId) -> Option<&str> {
        self.image.broker(broker).and_then(|known| known.rack.as_deref())
    }

    /// Why a replica must not stay on this broker, if it must not.
    fn unwanted(&self, broker: BrokerId) -> Option<Why> {
        match self.image.broker(broker) {
            None => Some(Why::Missing),
            Some(known) if known.draining => Some(Why::Drain),
            Some(_) if self.missing.contains(&broker) => Some(Why::Missing),
            Some(_) => None,
        }
    }

    /// How many replicas share a rack with one before them.
    fn clashes(&self, replicas: &[BrokerId]) -> usize {
        let shared = |at: usize| {
            let rack = self.rack(replicas[at]);
            rack.is_some() && replicas[..at].iter().any(|other| self.rack(*other) == rack)
        };
        (0..replicas.len()).filter(|at| shared(*at)).count()
    }

    fn replace_unwanted(&mut self, limit: usize, is_asked: impl Fn(&One) -> bool) -> Vec<Move> {
        let mut moves = Vec::new();
        for at in 0..self.partitions.len() {
            if moves.len() == limit {
                break;
            }
            if !is_asked(&self.partitions[at]) {
                continue;
            }
            let why = |replica: &BrokerId| {
                let came = self.partitions[at].came.contains(replica);
                self.unwanted(*replica).filter(|_| !came)
            };
            let slots: Vec<(usize, Why)> = (0..)
                .zip(&self.partitions[at].target)
                .filter_map(|(slot, replica)| Some((slot, why(replica)?)))
                .collect();
            let Some((_, why)) = slots.first().copied() else { continue };
            let mut target = self.partitions[at].target.clone();
            for (slot, _) in slots {
                if let Some(best) = self.substitute(&target, slot) {
                    target[slot] = best;
                    *self.loads.get_mut(&best).expect("a substitute is usable") += 1;
                }
            }
            if target == self.partitions[at].target {
                mark!("there is no broker to take a replica that must move");
                continue;
            }
            let (topic_id, partition) = self.partitions[at].at;
            moves.push(Move { topic_id, partition, target, why });
        }
        moves
    }

    /// The best broker for one slot: no new clash of racks, then the fewest replicas.
    fn substitute(&self, target: &[BrokerId], slot: usize) -> Option<BrokerId> {
        let free = self.loads.iter().filter(|(broker, _)| !target.contains(broker));
        let best = free.min_by_key(|(broker, load)| {
            let mut with = target.to_vec();
            with[slot] = **broker;
            (self.clashes(&with), **load, **broker)
        });
        best.map(|(broker, _)| *broker)
    }

    fn level_replicas(&mut self, limit: usize) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        let mut moved = BTreeSet::new();
        while moves.len() < limit {
            let Some((at, from, to)) = self.next_level(&moved) else { break };
            moved.insert(at);
            *self.loads.get_mut(&from).expect("usable") -= 1;
            *self.loads.get_mut(&to).expect("usable") += 1;
            let one = &mut self.partitions[at];
            one.target = replaced(&one.target, from, to);
            moves.push(one.to(one.target.clone()));
        }
        moves
    }

    /// The next replica to move, from who has most to who has fewest, by at least two apart.
    fn next_level(&self, moved: &BTreeSet<usize>) -> Option<(usize, BrokerId, BrokerId)> {
        let mut brokers: Vec<(usize, BrokerId)> = self.loads.iter().map(|(b, load)| (*load, *b)).collect();
        brokers.sort_unstable();
        for (most, from) in brokers.iter().rev() {
            for (fewest, to) in &brokers {
                if *most < fewest + 2 {
                    break;
                }
                let fits = |at: &usize| {
                    let target = &self.partitions[*at].target;
                    let can = self.partitions[*at].led && !moved.contains(at);
                    if !can || !target.contains(from) || target.contains(to) {
                        return false;
                    }
                    self.clashes(&replaced(target, *from, *to)) <= self.clashes(target)
                };
                if let Some(at) = (0..self.partitions.len()).find(fits) {
                    return Some((at, *from, *to));
                }
            }
        }
        None
    }

    /// Preferred leaders, by the order of replicas alone: along a chain of brokers from who is first most often to who
    /// is first least often, one partition of each hands its first place on.
    fn level_leaders(&mut self, limit: usize) -> Vec<Move> {
        let before: Vec<Vec<BrokerId>> = self.partitions.iter().map(|one| one.target.clone()).collect();
        let mut changed = BTreeSet::new();
        while changed.len() < limit {
            let Some(chain) = self.chain() else { break };
            for (at, next) in chain {
                let target = &mut self.partitions[at].target;
                let place = target.iter().position(|b| *b == next).expect("the chain goes over replicas");
                target.swap(0, place);
                changed.insert(at);
            }
        }
        let differs = changed.into_iter().filter(|at| self.partitions[*at].target != before[*at]);
        let moved = differs.map(|at| {
            let one = &self.partitions[at];
            one.to(one.target.clone())
        });
        moved.collect()
    }

    /// Two partitions that change places, where order alone does not help: one that `from` is first in goes to `to`, and
    /// one that `to` only follows goes back, so that both hold as many as before.
    fn swap_for_leaders(&self) -> Option<Vec<Move>> {
        let by_count = self.by_first();
        for (most, from) in &by_count {
            for (_, to) in by_count.iter().rev().take_while(|(fewest, _)| fewest + 2 <= *most) {
                let leads = |one: &&One| one.led && one.target[0] == *from && !one.target.contains(to);
                let follows =
                    |one: &&One| one.led && one.target[1..].contains(to) && !one.target.contains(from);
                let (given, taken) =
                    (self.partitions.iter().filter(leads), self.partitions.iter().filter(follows));
                let pair = given.flat_map(|one| taken.clone().map(move |other| (one, other)));
                let keeps = |(one, other): &(&One, &One)| {
                    let clash =
                        |one: &One, with: &[BrokerId]| self.clashes(with) <= self.clashes(&one.target);
                    clash(one, &replaced(&one.target, *from, *to))
                        && clash(other, &replaced(&other.target, *to, *from))
                };
                if let Some((one, other)) = pair.into_iter().find(keeps) {
                    mark!("two partitions change places for the sake of their leaders");
                    let there = replaced(&one.target, *from, *to);
                    let back = replaced(&other.target, *to, *from);
                    return Some(vec![one.to(there), other.to(back)]);
                }
            }
        }
        None
    }

    /// How often each broker that may hold replicas is first, most often first.
    fn by_first(&self) -> Vec<(usize, BrokerId)> {
        let mut first: BTreeMap<BrokerId, usize> = self.loads.keys().map(|broker| (*broker, 0)).collect();
        for one in &self.partitions {
            if let Some(count) = first.get_mut(&one.target[0]) {
                *count += 1;
            }
        }
        let mut by_count: Vec<(usize, BrokerId)> = first.iter().map(|(b, count)| (*count, *b)).collect();
        by_count.sort_unstable_by(|a, b| b.cmp(a));
        by_count
    }

    /// Partitions and who should be first in each, from a broker that is first at least two times more often than the
    /// one at the end.
    fn chain(&self) -> Option<Vec<(usize, BrokerId)>> {
        let by_count = self.by_first();
        let first: BTreeMap<BrokerId, usize> = by_count.iter().map(|(count, b)| (*b, *count)).collect();
        for (most, from) in by_count {
            let mut came: BTreeMap<BrokerId, (usize, BrokerId)> = BTreeMap::new();
            let mut queue = VecDeque::from([from]);
            while let Some(here) = queue.pop_front() {
                for (at, one) in self.partitions.iter().enumerate().filter(|(_, one)| one.target[0] == here) {
                    for next in &one.target[1..] {
                        if *next == from || came.contains_key(next) || !first.contains_key(next) {
                            continue;
                        }
                        came.insert(*next, (at, here));
                        if first[next] + 2 <= most {
                            return Some(trace(&came, from, *next));
                        }
                        queue.push_back(*next);
                    }
                }
            }
        }
        None
    }
}

fn trace(
    came: &BTreeMap<BrokerId, (usize, BrokerId)>,
    from: BrokerId,
    to: BrokerId,
) -> Vec<(usize, BrokerId)> {
    let mut chain = Vec::new();
    let mut here = to;
    while here != from {
        let (at, before) = came[&here];
        chain.push((at, here));
        here = before;
        assert!(chain.len() <= came.len(), "a chain without a circle");
    }
    chain
}
