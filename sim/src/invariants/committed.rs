//! MQ-15, REP-4, REP-5, REP-13 and REP-14: the newest committed metadata, beside what replicas have and what leaders asked for.
//!
//! Source: CORRECTNESS.md 1.2, 1.3. Asked whenever a newer image was seen: what one image says must be right whichever
//! images before it were not seen. Which lives of brokers ended badly is known from the faults, never from the product.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::inside::Proposed;
use super::insight::Sight;

/// The committed state of the cluster at one offset of the metadata log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The offset behind the last record that it holds.
    pub end: i64,
    /// The brokers.
    pub brokers: BTreeMap<u32, Member>,
    /// The partitions of the plan, by folder.
    pub partitions: BTreeMap<String, Placed>,
}

/// A registered broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its life.
    pub life: i64,
    /// Neither fenced nor stopping.
    pub live: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Who leads.
    pub leader: Option<u32>,
    /// In which epoch.
    pub leader_epoch: i32,
    /// Counts the states.
    pub partition_epoch: i32,
    /// All replicas.
    pub replicas: Vec<u32>,
    /// Those of them that are on their way in.
    pub adding: Vec<u32>,
    /// How many of them are on their way out.
    pub removing: usize,
    /// Who is in sync.
    pub isr: BTreeSet<u32>,
    /// Who left with all that was committed.
    pub elr: BTreeSet<u32>,
}

impl Placed {
    fn counts_on(&self, node: u32) -> bool {
        self.isr.contains(&node) || self.elr.contains(&node)
    }
}

/// MQ-15: what must be right within one image.
#[must_use]
pub fn sound(now: &Committed, min_insync: impl Fn(&str) -> Option<usize>) -> Option<Broken> {
    for (folder, placed) in &now.partitions {
        let wrong = |text: &str| broken("MQ-15", now, folder, placed, text);
        let is_live = |node: &u32| now.brokers.get(node).is_some_and(|member| member.live);
        if !placed.isr.iter().all(is_live) {
            return wrong("not all in sync are live");
        }
        if placed.leader.is_some_and(|leader| !placed.isr.contains(&leader)) {
            return wrong("its leader is not in sync");
        }
        if placed.isr.iter().chain(&placed.elr).any(|one| !placed.replicas.contains(one)) {
            return wrong("who is none of its replicas counts");
        }
        if !placed.isr.is_disjoint(&placed.elr) {
            return wrong("somebody is in sync and only eligible");
        }
        let Some(needed) = min_insync(folder) else { continue };
        let needed = needed.min(placed.replicas.len() - placed.removing);
        if placed.isr.len() >= needed && !placed.elr.is_empty() {
            return wrong("enough are in sync, and others are eligible still");
        }
    }
    None
}

/// REP-5: whoever may be elected has, durably, all that was ever visible.
#[must_use]
pub fn candidates(
    now: &Committed,
    sights: &[Sight],
    highest: impl Fn(&str) -> Option<i64>,
) -> Option<Broken> {
    for sight in sights {
        let Some(placed) = now.partitions.get(&sight.folder) else { continue };
        let Some(inside) = sight.inside.as_ref().filter(|_| placed.counts_on(sight.node)) else { continue };
        let Some(highest) = highest(&sight.folder) else { continue };
        if inside.flushed < highest {
            let text = format!("{highest} was visible, and {sight:?} may be elected");
            return broken("REP-5", now, &sight.folder, placed, &text);
        }
    }
    None
}

/// REP-4: whoever counts for the controller is waited for by the leader, as long as that has enough to commit anything: it knows
/// who may be in sync already, before it hears that somebody is.
#[must_use]
pub fn superset(
    now: &Committed,
    sights: &[Sight],
    min_insync: impl Fn(&str) -> Option<usize>,
) -> Option<Broken> {
    for sight in sights.iter().filter(|sight| sight.leads) {
        let Some(placed) = now.partitions.get(&sight.folder) else { continue };
        let is_current = placed.leader == Some(sight.node) && placed.leader_epoch == sight.epoch;
        let leading = sight.inside.as_ref().and_then(|inside| inside.leading.as_ref());
        let (Some(leading), Some(needed)) = (leading.filter(|_| is_current), min_insync(&sight.folder))
        else {
            continue;
        };
        if leading.members.len() < needed.min(placed.replicas.len()) {
            continue;
        }
        let proposed = leading.proposed.iter().flat_map(|proposed| proposed.isr.iter().map(|(one, _)| one));
        let maximal: BTreeSet<&u32> = leading.members.iter().chain(proposed).chain([&sight.node]).collect();
        if let Some(one) = placed.isr.iter().chain(&placed.elr).find(|one| !maximal.contains(one)) {
            let text = format!("{one} may be elected, and its leader waits for {maximal:?} only: {sight:?}");
            return broken("REP-4", now, &sight.folder, placed, &text);
        }
    }
    None
}

/// REP-13: of a set that its leader proposed, waits to hear of, and the controller took, everybody lives the life in which it
/// qualified.
#[must_use]
pub fn taken(now: &Committed, asked: &BTreeMap<(String, i32), Proposed>) -> Option<Broken> {
    for ((folder, leader_epoch), proposed) in asked {
        let Some(placed) = now.partitions.get(folder) else { continue };
        let is_it = placed.leader_epoch == *leader_epoch
            && placed.partition_epoch == proposed.partition_epoch + 1
            && placed.isr == proposed.isr.iter().map(|(one, _)| *one).collect();
        let other =
            |(one, life): &&(u32, i64)| now.brokers.get(one).is_none_or(|member| member.life != *life);
        if let Some((one, life)) = proposed.isr.iter().find(other).filter(|_| is_it) {
            let known = now.brokers.get(one);
            let text = format!("{one} was let in for what it had in its life {life}, and is {known:?}");
            return broken("REP-13", now, folder, placed, &text);
        }
    }
    None
}

/// REP-14: who registers anew after a bad end is counted on by nobody before it is let in again. `ended_badly` tells of
/// whoever registered since `before`.
#[must_use]
pub fn excluded(before: &Committed, now: &Committed, ended_badly: impl Fn(u32) -> bool) -> Option<Broken> {
    for (node, member) in &now.brokers {
        let is_new = before.brokers.get(node).is_some_and(|known| known.life < member.life);
        if !is_new || !ended_badly(*node) {
            continue;
        }
        for (folder, placed) in &now.partitions {
            let Some(old) = before.partitions.get(folder) else { continue };
            let one_step = placed.partition_epoch <= old.partition_epoch + 1;
            // The only copy leads again, because nothing better exists.
            if placed.replicas.len() > 1 && old.counts_on(*node) && placed.counts_on(*node) && one_step {
                return broken("REP-14", now, folder, placed, &format!("{node} began anew, before {old:?}"));
            }
        }
    }
    None
}

fn broken(name: &'static str, now: &Committed, folder: &str, placed: &Placed, text: &str) -> Option<Broken> {
    Some(Broken { name, evidence: format!("{folder} at {}: {placed:?}: {text}", now.end) })
}

#[cfg(test)]
mod tests {
    use super::super::inside::{Inside, Leading};
    use super::*;

    fn cluster(isr: &[u32], elr: &[u32], partition_epoch: i32, lives: [i64; 3]) -> Committed {
        let placed = Placed {
            leader: isr.first().copied(),
            leader_epoch: 4,
            partition_epoch,
            replicas: vec![1, 2, 3],
            adding: Vec::new(),
            removing: 0,
            isr: isr.iter().copied().collect(),
            elr: elr.iter().copied().collect(),
        };
        let brokers = (1..).zip(lives).map(|(node, life)| (node, Member { life, live: true })).collect();
        Committed { end: 9, brokers, partitions: [("a-0".to_owned(), placed)].into() }
    }

    fn name(broken: Option<Broken>) -> Option<&'static str> {
        broken.map(|broken| broken.name)
    }

    #[test]
    fn a_fenced_member_and_an_eligible_one_beside_enough_are_found() {
        let min = |_: &str| Some(2);
        assert_eq!(name(sound(&cluster(&[1, 2], &[], 1, [1; 3]), min)), None);
        assert_eq!(name(sound(&cluster(&[1], &[2], 1, [1; 3]), min)), None);
        assert_eq!(name(sound(&cluster(&[1, 2], &[3], 1, [1; 3]), min)), Some("MQ-15"));
        assert_eq!(name(sound(&cluster(&[1], &[1], 1, [1; 3]), min)), Some("MQ-15"));
        let mut fenced = cluster(&[1, 2], &[], 1, [1; 3]);
        fenced.brokers.get_mut(&2).expect("it is there").live = false;
        assert_eq!(name(sound(&fenced, min)), Some("MQ-15"));
    }

    #[test]
    fn a_candidate_that_lacks_what_was_visible_is_found() {
        let sight = |node, flushed| Sight {
            node,
            incarnation: 1,
            folder: "a-0".into(),
            leads: false,
            epoch: 4,
            start: 0,
            watermark: 3,
            end: 9,
            inside: Some(Inside { latest_epoch: 4, flushed, leading: None }),
        };
        let now = cluster(&[1], &[2], 1, [1; 3]);
        let visible = |_: &str| Some(7);
        assert_eq!(name(candidates(&now, &[sight(1, 7), sight(2, 8), sight(3, 1)], visible)), None);
        assert_eq!(name(candidates(&now, &[sight(2, 6)], visible)), Some("REP-5"));
    }

    #[test]
    fn a_leader_that_waits_for_fewer_than_count_is_found() {
        let sight = |members: &[u32], proposed: &[u32]| {
            let isr = proposed.iter().map(|one| (*one, 1)).collect();
            let leading = Leading {
                epoch_start: 0,
                replicas: [1, 2, 3].into(),
                members: members.iter().copied().collect(),
                proposed: (!proposed.is_empty()).then_some(Proposed { partition_epoch: 1, isr }),
                reports: BTreeMap::new(),
            };
            let inside = Inside { latest_epoch: 4, flushed: 9, leading: Some(leading) };
            let (folder, inside) = ("a-0".to_owned(), Some(inside));
            let (start, watermark, end) = (0, 3, 9);
            [Sight { node: 1, incarnation: 1, folder, leads: true, epoch: 4, start, watermark, end, inside }]
        };
        let (all, min) = (cluster(&[1, 2, 3], &[], 2, [1; 3]), |_: &str| Some(2));
        assert_eq!(name(superset(&all, &sight(&[1, 2], &[]), min)), Some("REP-4"));
        assert_eq!(name(superset(&all, &sight(&[1, 2], &[1, 2, 3]), min)), None, "it asked for it");
        assert_eq!(name(superset(&all, &sight(&[1], &[]), min)), None, "it commits nothing");
        let other = [Sight { epoch: 3, ..sight(&[1, 2], &[])[0].clone() }];
        assert_eq!(name(superset(&all, &other, min)), None, "it does not lead any more");
    }

    #[test]
    fn a_set_that_was_taken_with_another_life_is_found() {
        let asked = |isr: &[(u32, i64)]| {
            let proposed = Proposed { partition_epoch: 3, isr: isr.to_vec() };
            BTreeMap::from([(("a-0".to_owned(), 4), proposed)])
        };
        let now = cluster(&[1, 2], &[], 4, [1, 8, 1]);
        assert_eq!(name(taken(&now, &asked(&[(1, 1), (2, 8)]))), None);
        assert_eq!(name(taken(&now, &asked(&[(1, 1), (2, 7)]))), Some("REP-13"));
        assert_eq!(name(taken(&now, &asked(&[(1, 1), (3, 7)]))), None, "another set was taken");
        assert_eq!(
            name(taken(&cluster(&[1, 2], &[], 5, [1, 8, 1]), &asked(&[(1, 1), (2, 7)]))),
            None,
            "later"
        );
    }

    #[test]
    fn who_began_anew_after_a_bad_end_and_is_counted_on_is_found() {
        let before = cluster(&[1, 2], &[], 3, [1, 7, 1]);
        let kept = cluster(&[1, 2], &[], 3, [1, 8, 1]);
        assert_eq!(name(excluded(&before, &kept, |_| true)), Some("REP-14"));
        assert_eq!(name(excluded(&before, &kept, |_| false)), None, "it ended well");
        assert_eq!(name(excluded(&before, &cluster(&[1], &[], 4, [1, 8, 1]), |_| true)), None);
        assert_eq!(
            name(excluded(&before, &cluster(&[1, 2], &[], 5, [1, 8, 1]), |_| true)),
            None,
            "let in again"
        );
    }
}
