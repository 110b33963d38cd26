//! Which brokers get a new partition.
//!
//! Owns: [`Loads`], how much each broker holds, and the rule.
//! Promises: replicas of a partition are on different brokers, and on different racks as long as there are enough;
//! from an even start, and without racks, replicas and leaders stay even to within one; a broker that is away gets a
//! replica only where there are too few others, as in Kafka, and leads nothing.
//! Leaves out: moving what is placed already.
//! Called by `decide::create_topics` and `decide::create_partitions`.
//!
//! ```text
//!  each partition: the brokers with the fewest replicas, a new rack each if there is one;
//!                  of these, the one with the fewest leaders leads
//! ```

use std::cmp::Reverse;
use std::collections::BTreeMap;

use dejaq_wire::ids::BrokerId;

use crate::metadata::Image;

#[derive(Debug, Clone)]
struct Load {
    broker: BrokerId,
    rack: Option<String>,
    /// Fenced, or about to stop.
    away: bool,
    replicas: usize,
    leaders: usize,
}

/// How much each broker holds. Grows with every placement.
#[derive(Debug, Clone)]
pub struct Loads(Vec<Load>);

/// More replicas are asked for than there are brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "The target replication factor of {replicas} cannot be reached because only {brokers} broker(s) are registered."
)]
pub struct TooFewBrokers {
    /// What was asked for.
    pub replicas: usize,
    /// What there is.
    pub brokers: usize,
}

impl Loads {
    /// What the brokers of this image hold, or will hold, that may get more: those that are not to be emptied.
    #[must_use]
    pub fn of(image: &Image) -> Loads {
        let mut held: BTreeMap<BrokerId, (usize, usize)> = BTreeMap::new();
        for partition in image.topics().flat_map(|topic| topic.partitions.iter()) {
            for replica in partition.replicas.iter().filter(|replica| !partition.removing.contains(replica)) {
                held.entry(*replica).or_default().0 += 1;
            }
            held.entry(partition.replicas[0]).or_default().1 += 1;
        }
        let usable = image.brokers().filter(|broker| !broker.draining);
        let loads = usable.map(|broker| {
            let (replicas, leaders) = held.get(&broker.id).copied().unwrap_or_default();
            Load { broker: broker.id, rack: broker.rack.clone(), away: !broker.is_live(), replicas, leaders }
        });
        Loads(loads.collect())
    }

    /// The replicas of one more partition, its leader first.
    ///
    /// # Errors
    /// [`TooFewBrokers`].
    pub fn place(&mut self, replicas: usize) -> Result<Vec<BrokerId>, TooFewBrokers> {
        let brokers = self.0.len();
        if self.0.iter().all(|load| load.away) {
            return Err(TooFewBrokers { replicas, brokers: 0 });
        }
        if replicas > brokers {
            return Err(TooFewBrokers { replicas, brokers });
        }
        assert!(replicas > 0, "a partition has at least one replica");
        let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
        while chosen.len() < replicas {
            let free = (0..brokers).filter(|at| !chosen.contains(at));
            let best = free.min_by_key(|at| {
                let load = &self.0[*at];
                let same_rack = load.rack.is_some() && chosen.iter().any(|c| self.0[*c].rack == load.rack);
                // The first of equals has the fewest leaders, so as to lead; those that only follow have the most, so
                // that who must still lead stays free for the next partitions.
                let leaders = if chosen.is_empty() { load.leaders } else { usize::MAX - load.leaders };
                (load.away, same_rack, load.replicas, leaders, load.broker)
            });
            chosen.push(best.expect("there are more brokers than were chosen"));
        }
        // Among equals the one with more replicas leads: it is further from being chosen again.
        let leader = (0..replicas).min_by_key(|slot| {
            let load = &self.0[chosen[*slot]];
            (load.away, load.leaders, Reverse(load.replicas), load.broker)
        });
        chosen.swap(0, leader.expect("at least one replica was chosen"));
        self.0[chosen[0]].leaders += 1;
        for at in &chosen {
            self.0[*at].replicas += 1;
        }
        Ok(chosen.into_iter().map(|at| self.0[at].broker).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loads(brokers: i32, racks: i32) -> Loads {
        let rack = |id: i32| (racks > 0).then(|| format!("r{}", id % racks));
        let load = |id| Load { broker: BrokerId(id), rack: rack(id), away: false, replicas: 0, leaders: 0 };
        Loads((1..=brokers).map(load).collect())
    }

    fn spread(loads: &Loads, of: impl Fn(&Load) -> usize) -> usize {
        let all = || loads.0.iter().map(&of);
        all().max().unwrap_or(0) - all().min().unwrap_or(0)
    }

    #[test]
    fn more_replicas_than_brokers_are_refused() {
        assert_eq!(loads(2, 0).place(3), Err(TooFewBrokers { replicas: 3, brokers: 2 }));
    }

    #[test]
    fn replicas_take_a_new_rack_each_while_there_is_one() {
        let mut loads = loads(6, 3);
        for _ in 0..20 {
            let mut racks: Vec<i32> = loads.place(3).expect("six brokers").iter().map(|b| b.0 % 3).collect();
            racks.sort_unstable();
            assert_eq!(racks, [0, 1, 2]);
        }
        assert_eq!(loads.place(6).map(|replicas| replicas.len()), Ok(6), "racks are a wish, not a limit");
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_stay_even_to_within_one(
            brokers in 1..9i32, replicas in 1..9usize, partitions in 1..60usize,
        ) {
            prop_assume!(replicas <= usize::try_from(brokers).expect("positive"));
            let mut loads = loads(brokers, 0);
            for _ in 0..partitions {
                let mut placed = loads.place(replicas).expect("enough brokers");
                placed.sort_unstable();
                placed.dedup();
                prop_assert_eq!(placed.len(), replicas);
                prop_assert!(spread(&loads, |load| load.replicas) <= 1, "{:?}", loads);
                prop_assert!(spread(&loads, |load| load.leaders) <= 1, "{:?}", loads);
            }
        }
    }
}
