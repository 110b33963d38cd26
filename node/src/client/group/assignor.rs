//! Who reads what: the plans that a group's leader makes.
//!
//! Promises: every partition of every subscribed topic goes to exactly one member that subscribes to it, or, with
//! cooperative-sticky, to nobody for one round while its owner gives it up (M45); equal input gives equal plans; with
//! equal subscriptions the counts differ by one at most (range: by one for each topic). Pure.
//!
//! ```text
//!  range               each topic apart:  m1: 0 1 2   m2: 3 4
//!  round-robin         all in turn:       m1: 0 2 4   m2: 1 3
//!  cooperative-sticky  keep what one has, even out, and let go before somebody else gets it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_storage::mutant;
use dejaq_wire::ids::PartitionId;

use super::protocol::Subscription;
use crate::client::producer::core::TopicPartition;

/// A way to make the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Neighbouring partitions of each topic.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// As little moves as possible, and members go on reading what stays theirs.
    CooperativeSticky,
}

/// Each member's part.
pub type Plan = BTreeMap<String, Vec<TopicPartition>>;

impl Assignor {
    /// As the protocol names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "roundrobin",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Assignor> {
        [Assignor::Range, Assignor::RoundRobin, Assignor::CooperativeSticky]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Whether members keep reading through a rebalance.
    #[must_use]
    pub fn is_cooperative(self) -> bool {
        matches!(self, Assignor::CooperativeSticky)
    }

    /// Makes the plan for these members and topics (each with its number of partitions).
    #[must_use]
    pub fn plan(self, topics: &BTreeMap<String, usize>, members: &BTreeMap<String, Subscription>) -> Plan {
        let plan = match self {
            Assignor::Range => range(topics, members),
            Assignor::RoundRobin => round_robin(topics, members),
            Assignor::CooperativeSticky => cooperative(topics, members),
        };
        check(&plan, topics, members);
        plan
    }
}

fn check(plan: &Plan, topics: &BTreeMap<String, usize>, members: &BTreeMap<String, Subscription>) {
    let mut seen = BTreeSet::new();
    for (member, part) in plan {
        for at in part {
            assert!(seen.insert(at), "{at:?} is given twice");
            assert!(reads(&members[member], &at.topic), "{member} does not read {at:?}");
            let count = topics.get(&*at.topic).copied().unwrap_or(0);
            assert!(usize::try_from(at.partition.0).is_ok_and(|index| index < count), "{at:?} of {count}");
        }
    }
}

fn reads(subscription: &Subscription, topic: &str) -> bool {
    subscription.topics.binary_search_by(|known| known.as_str().cmp(topic)).is_ok()
}

fn partitions(topic: &str, count: usize) -> impl Iterator<Item = TopicPartition> {
    let topic: Arc<str> = topic.into();
    let count = i32::try_from(count).expect("partition counts are below 2^31");
    (0..count).map(move |index| TopicPartition { topic: topic.clone(), partition: PartitionId(index) })
}

fn nothing(members: &BTreeMap<String, Subscription>) -> Plan {
    members.keys().map(|member| (member.clone(), Vec::new())).collect()
}

fn range(topics: &BTreeMap<String, usize>, members: &BTreeMap<String, Subscription>) -> Plan {
    let mut plan = nothing(members);
    for (topic, count) in topics {
        let readers: Vec<&String> =
            members.iter().filter(|(_, told)| reads(told, topic)).map(|(member, _)| member).collect();
        if readers.is_empty() {
            continue;
        }
        let (each, more) = (count / readers.len(), count % readers.len());
        let mut left = partitions(topic, *count);
        for (index, reader) in readers.into_iter().enumerate() {
            let part = left.by_ref().take(each + usize::from(index < more));
            plan.get_mut(reader).expect("every member has a part").extend(part);
        }
    }
    plan
}

fn round_robin(topics: &BTreeMap<String, usize>, members: &BTreeMap<String, Subscription>) -> Plan {
    let mut plan = nothing(members);
    let all: Vec<&String> = members.keys().collect();
    let mut turn = 0;
    for (topic, count) in topics {
        if !members.values().any(|told| reads(told, topic)) {
            continue;
        }
        for at in partitions(topic, *count) {
            while !reads(&members[all[turn % all.len()]], topic) {
                turn += 1;
            }
            plan.get_mut(all[turn % all.len()]).expect("every member has a part").push(at);
            turn += 1;
        }
    }
    plan
}

fn cooperative(topics: &BTreeMap<String, usize>, members: &BTreeMap<String, Subscription>) -> Plan {
    let owners = owners(topics, members);
    let mut plan = nothing(members);
    let mut free = Vec::new();
    for (topic, count) in topics {
        for at in partitions(topic, *count) {
            match owners.get(&at) {
                Some(owner) => plan.get_mut(*owner).expect("an owner is a member").push(at),
                None => free.push(at),
            }
        }
    }
    for at in free {
        let readers = members.iter().filter(|(_, told)| reads(told, &at.topic)).map(|(member, _)| member);
        let least = readers.min_by_key(|member| (plan[*member].len(), (*member).clone()));
        if let Some(member) = least {
            plan.get_mut(member).expect("every member has a part").push(at);
        }
    }
    even_out(&mut plan, members);
    for (member, part) in &mut plan {
        // What moves is given up first; its owner joins again then, and the next plan hands it on.
        let is_free = |at: &TopicPartition| owners.get(at).is_none_or(|owner| *owner == member);
        part.retain(|at| is_free(at) || mutant!(45));
        part.sort_unstable();
    }
    plan
}

/// Who owns what, by what members say; of two that claim a partition, the one of the later generation.
fn owners<'a>(
    topics: &BTreeMap<String, usize>,
    members: &'a BTreeMap<String, Subscription>,
) -> BTreeMap<TopicPartition, &'a String> {
    let mut owners: BTreeMap<TopicPartition, &String> = BTreeMap::new();
    for (member, told) in members {
        for at in &told.owned {
            let count = topics.get(&*at.topic).copied().unwrap_or(0);
            let exists = usize::try_from(at.partition.0).is_ok_and(|index| index < count);
            let rival = owners.get(at).map(|rival| members[*rival].generation);
            if exists && reads(told, &at.topic) && rival.is_none_or(|rival| rival < told.generation) {
                owners.insert(at.clone(), member);
            }
        }
    }
    owners
}

/// Moves partitions from who has most to who has least, as long as that evens out.
fn even_out(plan: &mut Plan, members: &BTreeMap<String, Subscription>) {
    let total: usize = plan.values().map(Vec::len).sum();
    for _ in 0..=total {
        let mut by_count: Vec<(usize, String)> =
            plan.iter().map(|(member, part)| (part.len(), member.clone())).collect();
        by_count.sort_unstable();
        let found = by_count.iter().find_map(|(few, poor)| {
            by_count.iter().rev().find_map(|(many, rich)| {
                if *many < few + 2 {
                    return None;
                }
                let at = plan[rich].iter().rposition(|at| reads(&members[poor], &at.topic))?;
                Some((rich.clone(), poor.clone(), at))
            })
        });
        let Some((rich, poor, index)) = found else { return };
        let at = plan.get_mut(&rich).expect("found there").remove(index);
        plan.get_mut(&poor).expect("every member has a part").push(at);
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::Generation;
    use proptest::prelude::*;

    use super::*;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition: PartitionId(partition) }
    }

    fn member(topics: &[&str], owned: &[TopicPartition], generation: i32) -> Subscription {
        Subscription {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            owned: owned.to_vec(),
            generation: Generation(generation),
            rack: None,
        }
    }

    fn shown(plan: &Plan) -> String {
        let part = |part: &[TopicPartition]| {
            part.iter().map(|at| format!("{}{}", at.topic, at.partition)).collect::<Vec<_>>().join(" ")
        };
        plan.iter().map(|(member, at)| format!("{member}: {}", part(at))).collect::<Vec<_>>().join("; ")
    }

    fn topics(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
        counts.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect()
    }

    fn two(owned: [&[TopicPartition]; 2]) -> BTreeMap<String, Subscription> {
        let member = |owned| member(&["a", "b"], owned, 1);
        BTreeMap::from([("m1".into(), member(owned[0])), ("m2".into(), member(owned[1]))])
    }

    #[test]
    fn plans_are_those_of_kafka() {
        let counts = topics(&[("a", 3), ("b", 3)]);
        let plan = Assignor::Range.plan(&counts, &two([&[], &[]]));
        assert_eq!(shown(&plan), "m1: a0 a1 b0 b1; m2: a2 b2");
        let plan = Assignor::RoundRobin.plan(&counts, &two([&[], &[]]));
        assert_eq!(shown(&plan), "m1: a0 a2 b1; m2: a1 b0 b2");
    }

    #[test]
    fn surplus_members_idle() {
        let counts = topics(&[("a", 1)]);
        let plan = Assignor::RoundRobin.plan(&counts, &two([&[], &[]]));
        assert_eq!(shown(&plan), "m1: a0; m2: ");
    }

    /// Kills M45.
    #[test]
    fn what_moves_is_given_up_before_somebody_else_gets_it() {
        let counts = topics(&[("a", 4)]);
        let all: Vec<_> = (0..4).map(|index| at("a", index)).collect();
        let first = Assignor::CooperativeSticky.plan(&counts, &two([&all, &[]]));
        assert_eq!(shown(&first), "m1: a0 a1; m2: ");
        let second = Assignor::CooperativeSticky.plan(&counts, &two([&first["m1"], &[]]));
        assert_eq!(shown(&second), "m1: a0 a1; m2: a2 a3");
    }

    #[test]
    fn of_two_claims_the_later_generation_counts() {
        let counts = topics(&[("a", 2)]);
        let both = [at("a", 0), at("a", 1)];
        let members = BTreeMap::from([
            ("m1".to_owned(), member(&["a"], &both, 3)),
            ("m2".to_owned(), member(&["a"], &both[..1], 4)),
        ]);
        assert_eq!(shown(&Assignor::CooperativeSticky.plan(&counts, &members)), "m1: a1; m2: a0");
    }

    proptest! {
        #[test]
        fn cooperative_members_come_to_an_even_plan_and_keep_what_they_may(
            counts in proptest::collection::vec(0usize..7, 1..4), members in 1usize..6, leaves in 0usize..6,
        ) {
            let names = ["a", "b", "c"];
            let counts: BTreeMap<String, usize> =
                names.iter().zip(&counts).map(|(name, count)| ((*name).to_owned(), *count)).collect();
            let total: usize = counts.values().sum();
            let fresh = |id: usize| (format!("m{id}"), member(&names, &[], -1));
            let mut group: BTreeMap<String, Subscription> = (0..members).map(fresh).collect();
            let mut rounds = 0;
            loop {
                let plan = Assignor::CooperativeSticky.plan(&counts, &group);
                for (id, part) in &plan {
                    for other in group.iter().filter(|(other, _)| *other != id) {
                        prop_assert!(part.iter().all(|at| !other.1.owned.contains(at)), "given before it was let go");
                    }
                }
                let is_settled = plan.iter().all(|(id, part)| group[id].owned == *part);
                for (id, part) in plan {
                    let told = group.get_mut(&id).expect("a member");
                    told.owned = part;
                    told.generation = Generation(rounds);
                }
                rounds += 1;
                prop_assert!(rounds < 20, "it never settles");
                if is_settled && rounds > 8 {
                    break;
                }
                if rounds == 4 {
                    group.insert("new".into(), member(&names, &[], -1));
                } else if rounds == 8 && leaves < members {
                    group.remove(&format!("m{leaves}"));
                }
            }
            let sizes: Vec<usize> = group.values().map(|told| told.owned.len()).collect();
            prop_assert_eq!(sizes.iter().sum::<usize>(), total);
            prop_assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1, "{:?}", sizes);
        }
    }
}
