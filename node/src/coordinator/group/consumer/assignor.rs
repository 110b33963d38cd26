//! Who shall own what: the plan itself.
//!
//! Owns: [`Assignor`] and its two kinds. Promises: every partition of every topic that somebody reads goes to exactly
//! one member that reads it (GRP-2); the same input gives the same plan. Pure.
//! Leaves out: where partitions are now (`reconcile` leads there).
//!
//! ```text
//!  uniform   numbers of partitions differ by one at most where all members read the same, and as few move as can be:
//!            the member with the most gives to the one with the fewest, until nobody has two more than who could take
//!  range     of each topic a run of neighbours for each member, in the order of instance ids and member ids
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dejaq_wire::ids::{PartitionId, TopicId};

use crate::coordinator::consumer_record::Parts;

/// How a plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Even numbers, few moves.
    Uniform,
    /// Runs of neighbours.
    Range,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Order of members where one is needed: the instance id if there is one.
    pub rank: Arc<str>,
    /// Which topics it reads; members that read the same share one set.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// What it was to own before.
    pub before: Parts,
}

/// What each member shall own.
pub type Plan = BTreeMap<Arc<str>, Parts>;

impl Assignor {
    /// The name by which members ask for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// The assignor of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Assignor> {
        [Assignor::Uniform, Assignor::Range].into_iter().find(|one| one.name() == name)
    }

    /// Makes the plan. `counts` has the number of partitions of every topic that there is.
    #[must_use]
    pub fn plan(self, wishes: &BTreeMap<Arc<str>, Wish>, counts: &BTreeMap<TopicId, i32>) -> Plan {
        match self {
            Assignor::Uniform => uniform(wishes, counts),
            Assignor::Range => range(wishes, counts),
        }
    }
}

fn range(wishes: &BTreeMap<Arc<str>, Wish>, counts: &BTreeMap<TopicId, i32>) -> Plan {
    let mut plan: Plan = wishes.keys().map(|id| (id.clone(), Parts::new())).collect();
    for (topic, count) in counts {
        let mut readers: Vec<(&Arc<str>, &Arc<str>)> = wishes
            .iter()
            .filter(|(_, wish)| wish.topics.contains(topic))
            .map(|(id, wish)| (&wish.rank, id))
            .collect();
        readers.sort_unstable();
        let Ok(members) = i32::try_from(readers.len()) else { continue };
        if members == 0 {
            continue;
        }
        let (each, more) = (count / members, count % members);
        let mut next = 0;
        for (at, (_, id)) in (0..).zip(readers) {
            let end = next + each + i32::from(at < more);
            let run = (next..end).map(|partition| (*topic, PartitionId(partition)));
            plan.get_mut(id).expect("every member has a part").extend(run);
            next = end;
        }
        assert_eq!(next, *count, "all of {topic} is given out");
    }
    plan
}

/// Members that read the same, by how many partitions they have.
type Class = BTreeSet<(usize, usize)>;

/// A plan that is being made.
struct Draft {
    /// Of each member: its class, and what it has by topic.
    members: Vec<(usize, BTreeMap<TopicId, BTreeSet<PartitionId>>)>,
    counts: Vec<usize>,
    classes: Vec<Class>,
    /// The classes of those who read a topic.
    readers: BTreeMap<TopicId, Vec<usize>>,
}

impl Draft {
    fn new(wishes: &BTreeMap<Arc<str>, Wish>, counts: &BTreeMap<TopicId, i32>) -> Draft {
        let mut kinds: BTreeMap<&BTreeSet<TopicId>, usize> = BTreeMap::new();
        let mut members = Vec::with_capacity(wishes.len());
        for wish in wishes.values() {
            let next = kinds.len();
            members.push((*kinds.entry(&*wish.topics).or_insert(next), BTreeMap::new()));
        }
        let mut readers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (topics, class) in &kinds {
            for topic in topics.iter().filter(|topic| counts.contains_key(*topic)) {
                readers.entry(*topic).or_default().push(*class);
            }
        }
        let mut classes = vec![Class::new(); kinds.len()];
        for (member, (class, _)) in members.iter().enumerate() {
            classes[*class].insert((0, member));
        }
        Draft { counts: vec![0; members.len()], members, classes, readers }
    }

    /// The reader of a topic that has the fewest partitions.
    fn poorest(&self, topic: TopicId) -> Option<(usize, usize)> {
        self.readers.get(&topic)?.iter().filter_map(|class| self.classes[*class].first().copied()).min()
    }

    fn count(&mut self, member: usize, count: usize) {
        let class = &mut self.classes[self.members[member].0];
        class.remove(&(self.counts[member], member));
        class.insert((count, member));
        self.counts[member] = count;
    }

    fn give(&mut self, member: usize, topic: TopicId, partition: PartitionId) {
        let is_new = self.members[member].1.entry(topic).or_default().insert(partition);
        assert!(is_new, "{topic}-{partition} is given twice");
        self.count(member, self.counts[member] + 1);
    }

    /// Evens out from the richest member down. Whether anything moved: where members read different topics, one that
    /// had nobody to give to may have somebody then. It ends, since every move makes the shares more even.
    fn round(&mut self) -> bool {
        let mut moved = false;
        let mut rich: BTreeSet<(usize, usize)> = self.counts.iter().copied().zip(0..).collect();
        while let Some((count, member)) = rich.pop_last() {
            if count != self.counts[member] || self.even_out(member) {
                moved |= count != self.counts[member];
                rich.insert((self.counts[member], member));
            }
        }
        moved
    }

    /// Takes a partition of a member for which somebody poorer has room. Whether there was one.
    fn even_out(&mut self, member: usize) -> bool {
        let (_, has) = &self.members[member];
        let offers = has.keys().filter_map(|topic| Some((self.poorest(*topic)?, *topic)));
        let Some(((poor, taker), topic)) = offers.min() else { return false };
        if poor + 2 > self.counts[member] {
            return false;
        }
        let has = self.members[member].1.get_mut(&topic).expect("it has some");
        let partition = has.pop_last().expect("no topic without partitions is kept");
        if has.is_empty() {
            self.members[member].1.remove(&topic);
        }
        self.count(member, self.counts[member] - 1);
        self.give(taker, topic, partition);
        true
    }
}

fn uniform(wishes: &BTreeMap<Arc<str>, Wish>, counts: &BTreeMap<TopicId, i32>) -> Plan {
    let mut draft = Draft::new(wishes, counts);
    let mut free: BTreeMap<TopicId, BTreeSet<PartitionId>> =
        draft.readers.keys().map(|topic| (*topic, (0..counts[topic]).map(PartitionId).collect())).collect();
    for (member, wish) in wishes.values().enumerate() {
        for (topic, partition) in wish.before.iter().filter(|(topic, _)| wish.topics.contains(topic)) {
            if free.get_mut(topic).is_some_and(|free| free.remove(partition)) {
                draft.give(member, *topic, *partition);
            }
        }
    }
    for (topic, partitions) in free {
        for partition in partitions {
            let (_, member) = draft.poorest(topic).expect("a topic with readers");
            draft.give(member, topic, partition);
        }
    }
    while draft.round() {}
    let parts = |has: BTreeMap<TopicId, BTreeSet<PartitionId>>| {
        let each = |(topic, partitions): (TopicId, BTreeSet<PartitionId>)| {
            partitions.into_iter().map(move |partition| (topic, partition))
        };
        has.into_iter().flat_map(each).collect::<Parts>()
    };
    wishes.keys().cloned().zip(draft.members.into_iter().map(|(_, has)| parts(has))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(n: u8) -> TopicId {
        TopicId([n; 16])
    }

    fn wish(topics: &[u8], before: &[(u8, i32)]) -> Wish {
        Wish {
            rank: "".into(),
            topics: Arc::new(topics.iter().map(|n| topic(*n)).collect()),
            before: before.iter().map(|(n, p)| (topic(*n), PartitionId(*p))).collect(),
        }
    }

    fn wishes(of: Vec<Wish>) -> BTreeMap<Arc<str>, Wish> {
        let id = |n: usize| Arc::from(format!("m{n:03}"));
        of.into_iter().enumerate().map(|(n, wish)| (id(n), Wish { rank: id(n), ..wish })).collect()
    }

    fn counts(of: &[i32]) -> BTreeMap<TopicId, i32> {
        (0u8..).map(topic).zip(of.iter().copied()).collect()
    }

    /// GRP-2, of a plan of any kind.
    fn check(wishes: &BTreeMap<Arc<str>, Wish>, counts: &BTreeMap<TopicId, i32>, plan: &Plan) {
        assert!(plan.keys().eq(wishes.keys()), "every member has a part");
        let mut given = Parts::new();
        for (id, parts) in plan {
            for part in parts {
                assert!(wishes[id].topics.contains(&part.0), "{id} does not read {}", part.0);
                assert!(given.insert(*part), "{part:?} is given twice");
            }
        }
        for (topic, count) in counts {
            let is_read = wishes.values().any(|wish| wish.topics.contains(topic));
            let has = given.iter().filter(|(t, _)| t == topic).count();
            assert_eq!(has, if is_read { *count as usize } else { 0 }, "of {topic}");
        }
    }

    fn moved(wishes: &BTreeMap<Arc<str>, Wish>, plan: &Plan) -> usize {
        wishes.iter().map(|(id, wish)| wish.before.difference(&plan[id]).count()).sum()
    }

    #[test]
    fn a_member_that_comes_takes_an_even_share_and_no_more_moves_than_it_takes() {
        let first: Vec<(u8, i32)> = (0..10).map(|p| (0, p)).collect();
        let wishes = wishes(vec![wish(&[0], &first), wish(&[0], &[]), wish(&[0], &[])]);
        let counts = counts(&[10]);
        let plan = Assignor::Uniform.plan(&wishes, &counts);
        check(&wishes, &counts, &plan);
        let mut sizes: Vec<usize> = plan.values().map(Parts::len).collect();
        sizes.sort_unstable();
        assert_eq!((sizes, moved(&wishes, &plan)), (vec![3, 3, 4], 6));
    }

    #[test]
    fn members_that_read_other_topics_are_given_what_only_they_read() {
        let wishes = wishes(vec![wish(&[0, 1], &[]), wish(&[1], &[])]);
        let counts = counts(&[4, 4]);
        let plan = Assignor::Uniform.plan(&wishes, &counts);
        check(&wishes, &counts, &plan);
        assert!(plan.values().all(|parts| parts.len() == 4), "{plan:?}");
    }

    #[test]
    fn ranges_are_neighbours_in_the_order_of_the_members() {
        let wishes = wishes(vec![wish(&[0], &[]), wish(&[0], &[])]);
        let plan = Assignor::Range.plan(&wishes, &counts(&[5]));
        let of = |id: &str| plan[id].iter().map(|(_, p)| p.0).collect::<Vec<_>>();
        assert_eq!((of("m000"), of("m001")), (vec![0, 1, 2], vec![3, 4]));
    }

    proptest! {
        #[test]
        fn every_partition_has_one_reader_and_even_shares_stay(
            topics in prop::collection::vec(prop::collection::btree_set(0u8..4, 0..4), 0..6),
            befores in prop::collection::vec(prop::collection::vec((0u8..5, 0i32..9), 0..12), 6),
            sizes in prop::collection::vec(1i32..9, 4),
        ) {
            let of = topics.iter().zip(&befores).map(|(topics, before)| {
                wish(&topics.iter().copied().collect::<Vec<_>>(), before)
            });
            let (mut wishes, counts) = (wishes(of.collect()), counts(&sizes));
            for assignor in [Assignor::Uniform, Assignor::Range] {
                let plan = assignor.plan(&wishes, &counts);
                check(&wishes, &counts, &plan);
                let same = topics.windows(2).all(|two| two[0] == two[1]);
                if assignor == Assignor::Uniform && same && !plan.is_empty() {
                    let sizes: Vec<usize> = plan.values().map(Parts::len).collect();
                    prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
                }
                // Nothing changed: nothing moves.
                for (id, wish) in &mut wishes {
                    wish.before = plan[id].clone();
                }
                prop_assert_eq!(&assignor.plan(&wishes, &counts), &plan);
            }
        }
    }
}
