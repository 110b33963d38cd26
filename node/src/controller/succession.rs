//! Who is in sync, who is eligible, who leads: the rules of one partition, in one place.
//!
//! Owns: [`settle`], which every change of a partition goes through.
//! Promises: who is not live is in no in-sync set (KIP-841); who leaves it while it is too small to commit stays
//! eligible (KIP-966); a reassignment ends only with its whole target in sync; the leader is in sync, and its epoch
//! goes up at every start of a leader; a leader that may lack what was committed is elected only where that is
//! allowed, and never silently.
//! Leaves out: who is live (the caller knows), records, which partitions an event touches (`sweep`).
//!
//! ```text
//!  in sync ──below min──► eligible ──unclean stop──► last known ──► (leads again if nobody better is left)
//!     ▲ └── at or above min ──► out        └── disk gone ──► out
//!     └── proposed by the leader, checked by `decide::alter_partition`
//! ```
//!
//! Decided: a replica that stopped uncleanly, with its disk, under `durability = durable` may lead without a loss when
//! nobody in sync and nobody eligible is left, because it counted only what it had synced. Under other durabilities
//! the same election is made, since every copy has gone through a crash, and is recorded as one that may have lost
//! something. Instead of waiting for an operator: a power cut of a whole cluster must heal by itself. Revisit when
//! followers tell the controller where their logs end, so that the longest one can be chosen.

use dejaq_storage::{mark, mutant};
use dejaq_wire::ids::BrokerId;

use crate::metadata::record::{PartitionState, UncleanReason};

/// What is to change, beside what follows from it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The in-sync set that the leader proposes.
    pub isr: Option<Vec<BrokerId>>,
    /// The replicas, with those that are added and removed.
    pub replicas: Option<Replicas>,
    /// Replicas that stopped uncleanly: in sync and eligible no more.
    pub unclean: Vec<BrokerId>,
    /// Replicas whose disk is gone: not even known to have been eligible.
    pub wiped: Vec<BrokerId>,
    /// A leader that starts anew.
    pub restarted: Option<BrokerId>,
    /// How the leader is chosen.
    pub election: Election,
}

/// The replicas of a partition, with a reassignment or without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// All of them.
    pub all: Vec<BrokerId>,
    /// Which of them are added.
    pub adding: Vec<BrokerId>,
    /// Which of them are to go.
    pub removing: Vec<BrokerId>,
}

/// How the leader is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Election {
    /// The leader stays while it is in sync.
    #[default]
    Keep,
    /// The first replica leads, if it is in sync.
    Preferred,
    /// Another one leads, if one is in sync, or is eligible while nobody is.
    StepDown,
    /// If nobody can lead, anyone who is live does.
    Unclean,
}

/// What the rules depend on beside the partition.
pub struct Rules<'a> {
    /// Who may be in sync: registered, not fenced, not stopping.
    pub live: &'a dyn Fn(BrokerId) -> bool,
    /// Who should not be given a leadership if another one can take it.
    pub leaving: &'a dyn Fn(BrokerId) -> bool,
    /// `min.insync.replicas` of the topic.
    pub min_isr: usize,
    /// Whether acknowledged records are on the disks of all that were in sync.
    pub durable: bool,
    /// `unclean.leader.election.enable` of the topic.
    pub unclean: bool,
}

/// A partition after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Its new state; its partition epoch is one more than before.
    pub state: PartitionState,
    /// Set if its leader may lack what was committed.
    pub unclean: Option<UncleanReason>,
}

/// The partition after `wanted` and everything that follows from it; `None` if nothing changes.
#[must_use]
pub fn settle(old: &PartitionState, wanted: &Wanted, rules: &Rules<'_>) -> Option<Settled> {
    debug_assert_eq!(old.sound(), Ok(()), "{old:?}");
    let mut new = old.clone();
    if let Some(replicas) = &wanted.replicas {
        new.replicas.clone_from(&replicas.all);
        new.adding.clone_from(&replicas.adding);
        new.removing.clone_from(&replicas.removing);
    }
    let lost = |broker: &BrokerId| wanted.unclean.contains(broker) || wanted.wiped.contains(broker);
    let proposed = wanted.isr.as_ref().unwrap_or(&old.isr);
    let fit = |b: &BrokerId| new.replicas.contains(b) && !lost(b) && (rules.live)(*b);
    new.isr = proposed.iter().copied().filter(fit).collect();
    complete_reassignment(&mut new, rules);
    let unclean = elect(&mut new, old, wanted, rules);
    new.leader_epoch = old.leader_epoch;
    // The planted bug M14 (its other half is the leader's): who was removed and added again is taken for who it was.
    let gone = old.replicas.iter().any(|replica| !new.replicas.contains(replica)) && !mutant!(14);
    let excluded = old.isr.iter().chain(&old.elr).any(lost);
    if new.leader != old.leader || gone || excluded || wanted.restarted == Some(new.leader) {
        new.leader_epoch = old.leader_epoch.next();
    }
    keep_eligible(&mut new, old, wanted, rules, unclean);
    if new == *old {
        return None;
    }
    new.partition_epoch =
        old.partition_epoch.checked_add(1).expect("2^31 changes of a partition do not happen");
    check(&new, old, rules);
    Some(Settled { state: new, unclean })
}

/// Fewest in-sync replicas with which something is committed: a topic with fewer replicas than its minimum does not
/// wait for ones that it cannot have. Never more than the leader asks for (`replica::isr`): with fewer than this it commits
/// nothing, so that whoever leaves then stays complete.
fn effective_min(state: &PartitionState, rules: &Rules<'_>) -> usize {
    let target = state.replicas.len() - state.removing.len();
    assert!(rules.min_isr > 0 && target > 0, "{} of {target}", rules.min_isr);
    rules.min_isr.min(target)
}

/// Grow, catch up, then shrink (RSG-1): the target is in sync as a whole before anybody goes.
fn complete_reassignment(new: &mut PartitionState, rules: &Rules<'_>) {
    if new.adding.is_empty() && new.removing.is_empty() {
        return;
    }
    let target: Vec<BrokerId> =
        new.replicas.iter().copied().filter(|replica| !new.removing.contains(replica)).collect();
    let in_sync = target.iter().filter(|replica| new.isr.contains(replica)).count();
    let done = if mutant!(67) {
        // The planted bug: one of the target is taken for all of it.
        in_sync > 0
    } else {
        in_sync == target.len() && in_sync >= effective_min(new, rules)
    };
    if done {
        mark!("a reassignment ends with its whole target in sync");
        new.isr.retain(|member| target.contains(member));
        new.replicas = target;
        new.adding.clear();
        new.removing.clear();
    }
}

fn elect(
    new: &mut PartitionState,
    old: &PartitionState,
    wanted: &Wanted,
    rules: &Rules<'_>,
) -> Option<UncleanReason> {
    let in_sync = |b: &BrokerId| new.isr.contains(b);
    let willing = |b: &BrokerId| in_sync(b) && !(rules.leaving)(*b);
    // Who is to go leads only if nobody else can: its leadership would move again.
    let by_preference = || {
        let stays = new.replicas.iter().filter(|replica| !new.removing.contains(replica));
        stays.chain(&new.removing).copied()
    };
    let leader = Some(old.leader).filter(in_sync);
    let other = || by_preference().find(|b| willing(b) && *b != old.leader);
    let chosen = match (wanted.election, leader) {
        (Election::Keep | Election::Unclean, Some(leader)) => Some(leader),
        (Election::Preferred, Some(leader)) => Some(by_preference().next().filter(willing).unwrap_or(leader)),
        (Election::StepDown, Some(leader)) => Some(other().unwrap_or(leader)),
        (_, None) => by_preference().find(willing).or_else(|| by_preference().find(in_sync)),
    };
    if let Some(leader) = chosen {
        new.leader = leader;
        return None;
    }
    assert!(new.isr.is_empty(), "somebody of {:?} can lead", new.isr);
    let (leader, unclean) = succeed(new, old, wanted, rules);
    new.leader = leader;
    if leader != BrokerId::NONE {
        new.isr = vec![leader];
    }
    unclean
}

/// Nobody is in sync: who leads, if anyone may, and what that can cost.
fn succeed(
    new: &PartitionState,
    old: &PartitionState,
    wanted: &Wanted,
    rules: &Rules<'_>,
) -> (BrokerId, Option<UncleanReason>) {
    let lost = |b: &BrokerId| wanted.unclean.contains(b) || wanted.wiped.contains(b);
    let may = |b: &BrokerId| (rules.live)(*b) && new.replicas.contains(b);
    // Whoever was in sync a moment ago is as complete as whoever was eligible.
    let eligible: Vec<BrokerId> =
        old.isr.iter().chain(&old.elr).copied().filter(|b| !lost(b) && new.replicas.contains(b)).collect();
    // Who steps down leads again only if nobody else can.
    let steps_down = |b: &BrokerId| wanted.election == Election::StepDown && *b == old.leader;
    if let Some(leader) = eligible.iter().copied().filter(may).min_by_key(steps_down) {
        mark!("an eligible replica leads because nobody is in sync");
        return (leader, None);
    }
    let known = last_known(old, wanted);
    let latest = known.iter().rev().copied().find(may);
    // The planted bug M292: who may have all is not waited for, since somebody is here who had all once.
    if let Some(leader) = latest.filter(|_| eligible.is_empty() || mutant!(292)) {
        mark!("a replica leads that was eligible before an unclean stop");
        let reason = if rules.durable { None } else { Some(UncleanReason::LastKnown) };
        return (leader, reason);
    }
    // The planted bug M293: whoever is left leads, allowed or not.
    if rules.unclean || wanted.election == Election::Unclean || mutant!(293) {
        let any = latest.or_else(|| new.replicas.iter().copied().find(may));
        if let Some(leader) = any {
            mark!("a replica leads that was not in sync");
            return (leader, Some(UncleanReason::OutOfSync));
        }
    }
    (BrokerId::NONE, None)
}

/// Who was eligible until an unclean stop, this one included, the latest last.
fn last_known(old: &PartitionState, wanted: &Wanted) -> Vec<BrokerId> {
    let before = old.last_known_elr.iter();
    let now = old.isr.iter().chain(&old.elr).filter(|b| wanted.unclean.contains(b));
    before.chain(now).copied().filter(|b| !wanted.wiped.contains(b)).collect()
}

fn keep_eligible(
    new: &mut PartitionState,
    old: &PartitionState,
    wanted: &Wanted,
    rules: &Rules<'_>,
    unclean: Option<UncleanReason>,
) {
    let enough = new.isr.len() >= effective_min(new, rules) && !mutant!(16);
    if enough || unclean.is_some() {
        // What is committed from now on is committed without them; or history begins anew at the leader.
        new.elr.clear();
        new.last_known_elr.clear();
        return;
    }
    let lost = |b: &BrokerId| wanted.unclean.contains(b) || wanted.wiped.contains(b);
    let mut elr: Vec<BrokerId> = Vec::new();
    for broker in old.elr.iter().chain(&old.isr) {
        if new.replicas.contains(broker)
            && !new.isr.contains(broker)
            && !lost(broker)
            && !elr.contains(broker)
        {
            elr.push(*broker);
        }
    }
    let mut known = last_known(old, wanted);
    known.retain(|b| new.replicas.contains(b) && !new.isr.contains(b) && !elr.contains(b));
    new.elr = elr;
    new.last_known_elr = known;
}

fn check(new: &PartitionState, old: &PartitionState, rules: &Rules<'_>) {
    assert_eq!(new.sound(), Ok(()), "{old:?} became {new:?}");
    assert!(new.leader_epoch >= old.leader_epoch, "{:?} after {:?}", new.leader_epoch, old.leader_epoch);
    assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch, "two leaders: {old:?}, {new:?}");
    assert!(new.isr.iter().all(|member| (rules.live)(*member)), "{:?} is not all live", new.isr);
    let led = new.leader != BrokerId::NONE || new.isr.is_empty();
    assert!(led, "{:?} are in sync and nobody leads", new.isr);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::ids::LeaderEpoch;

    fn ids(list: &[i32]) -> Vec<BrokerId> {
        list.iter().copied().map(BrokerId).collect()
    }

    /// Replicas 1, 2 and 3; in sync, eligible and last known as given; the first in sync leads.
    fn partition(isr: &[i32], elr: &[i32], known: &[i32]) -> PartitionState {
        PartitionState {
            isr: ids(isr),
            leader: isr.first().map_or(BrokerId::NONE, |id| BrokerId(*id)),
            elr: ids(elr),
            last_known_elr: ids(known),
            ..PartitionState::born(ids(&[1, 2, 3]))
        }
    }

    struct World {
        live: &'static [i32],
        min_isr: usize,
        durable: bool,
        unclean: bool,
    }

    const LIVE: World = World { live: &[1, 2, 3, 4, 5], min_isr: 2, durable: true, unclean: false };

    impl World {
        fn settle(&self, old: &PartitionState, wanted: Wanted) -> Option<Settled> {
            let live = |id: BrokerId| self.live.contains(&id.0);
            let rules = Rules {
                live: &live,
                leaving: &|_| false,
                min_isr: self.min_isr,
                durable: self.durable,
                unclean: self.unclean,
            };
            settle(old, &wanted, &rules)
        }
    }

    /// Leader, its epoch, in sync / eligible / last known, and what the election may have cost.
    fn shown(settled: Option<Settled>) -> String {
        let Some(Settled { state, unclean }) = settled else { return "as it was".into() };
        let list = |ids: &[BrokerId]| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(",");
        let (isr, elr, known) = (list(&state.isr), list(&state.elr), list(&state.last_known_elr));
        let loud = unclean.map_or(String::new(), |reason| format!(" {reason:?}"));
        format!("{:?}{:?} {isr}/{elr}/{known}{loud}", state.leader, state.leader_epoch)
    }

    #[test]
    fn the_next_in_sync_replica_leads_when_the_leader_is_fenced() {
        let after =
            World { live: &[2, 3], ..LIVE }.settle(&partition(&[1, 2, 3], &[], &[]), Wanted::default());
        assert_eq!(shown(after), "b2e1 2,3//");
    }

    #[test]
    fn who_leaves_a_set_that_is_too_small_to_commit_stays_eligible() {
        let after = World { live: &[1, 3], ..LIVE }.settle(&partition(&[1, 2], &[], &[]), Wanted::default());
        assert_eq!(shown(after), "b1e0 1/2/");
        let after = World { live: &[3], ..LIVE }.settle(&partition(&[1], &[2], &[]), Wanted::default());
        assert_eq!(shown(after), "b-1e1 /2,1/");
        let all = World { min_isr: 9, live: &[1, 2], ..LIVE };
        let after = all.settle(&partition(&[1, 2, 3], &[], &[]), Wanted::default());
        assert_eq!(shown(after), "b1e0 1,2/3/", "a minimum above the replicas means all of them");
    }

    #[test]
    fn nobody_stays_eligible_when_enough_are_in_sync() {
        let wanted = Wanted { isr: Some(ids(&[1, 3])), ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[1], &[2], &[]), wanted)), "b1e0 1,3//");
    }

    #[test]
    fn an_eligible_replica_leads_when_nobody_is_in_sync() {
        let after = World { live: &[2, 3], ..LIVE }.settle(&partition(&[], &[2], &[]), Wanted::default());
        assert_eq!(shown(after), "b2e1 2//");
        let one = World { live: &[3], ..LIVE };
        assert_eq!(shown(one.settle(&partition(&[], &[2], &[]), Wanted::default())), "as it was");
    }

    #[test]
    fn after_an_unclean_stop_a_replica_is_neither_in_sync_nor_eligible() {
        let stop = |broker| Wanted { unclean: ids(&[broker]), ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[1, 2, 3], &[], &[]), stop(2))), "b1e1 1,3//");
        assert_eq!(shown(LIVE.settle(&partition(&[1], &[2], &[]), stop(2))), "b1e1 1//2");
        let one = World { live: &[1], ..LIVE };
        assert_eq!(shown(one.settle(&partition(&[], &[1, 2], &[]), stop(2))), "b1e1 1//2");
    }

    #[test]
    fn the_last_that_was_eligible_leads_after_all_stopped_and_loudly_unless_the_topic_is_durable() {
        let gone = || partition(&[], &[], &[2, 1]);
        assert_eq!(shown(LIVE.settle(&gone(), Wanted::default())), "b1e1 1//2");
        let replicated = World { durable: false, ..LIVE };
        assert_eq!(shown(replicated.settle(&gone(), Wanted::default())), "b1e1 1// LastKnown");
        let third = World { live: &[3], ..LIVE };
        assert_eq!(shown(third.settle(&gone(), Wanted::default())), "as it was");
        let waits = World { live: &[2], ..LIVE }.settle(&partition(&[], &[1], &[2]), Wanted::default());
        assert_eq!(shown(waits), "as it was", "who is eligible is waited for");
    }

    #[test]
    fn a_wiped_replica_is_remembered_by_nobody() {
        let wiped = Wanted { wiped: ids(&[1]), ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[1], &[], &[]), wiped.clone())), "b-1e1 //");
        assert_eq!(shown(LIVE.settle(&partition(&[], &[], &[1]), wiped)), "b-1e0 //");
    }

    #[test]
    fn who_lost_something_leads_no_more_though_it_was_eligible_before_an_unclean_stop() {
        let stop = || Wanted { unclean: ids(&[1]), ..Wanted::default() };
        let two = World { live: &[2, 3], ..LIVE };
        let before = partition(&[1], &[], &[2]);
        assert_eq!(shown(two.settle(&before, stop())), "b2e1 2//1");
        let lost = Wanted { isr: Some(ids(&[1])), wiped: ids(&[2]), ..Wanted::default() };
        let after = LIVE.settle(&before, lost).expect("it is remembered no more");
        assert_eq!((after.state.leader_epoch, after.state.last_known_elr.len()), (LeaderEpoch(0), 0));
        assert_eq!(shown(two.settle(&after.state, stop())), "b-1e1 //1", "1 is waited for");
    }

    #[test]
    fn who_was_not_in_sync_leads_only_where_that_is_allowed_and_history_begins_anew() {
        let gone = || partition(&[], &[1], &[2]);
        let third = || World { live: &[3], ..LIVE };
        assert_eq!(shown(third().settle(&gone(), Wanted::default())), "as it was");
        let allowed = World { unclean: true, ..third() };
        assert_eq!(shown(allowed.settle(&gone(), Wanted::default())), "b3e1 3// OutOfSync");
        let forced = Wanted { election: Election::Unclean, ..Wanted::default() };
        assert_eq!(shown(third().settle(&gone(), forced)), "b3e1 3// OutOfSync");
    }

    fn moving(isr: &[i32]) -> PartitionState {
        PartitionState {
            replicas: ids(&[1, 4, 5, 2, 3]),
            adding: ids(&[4, 5]),
            removing: ids(&[2, 3]),
            leader: BrokerId(2),
            isr: ids(isr),
            ..PartitionState::born(ids(&[1]))
        }
    }

    /// With fewer the leader commits nothing, in this release and the one before: who leaves below that is complete.
    #[test]
    fn replicas_that_only_come_are_counted_for_the_minimum() {
        let grows = PartitionState {
            replicas: ids(&[1, 4, 5]),
            adding: ids(&[4, 5]),
            isr: ids(&[1, 4]),
            ..PartitionState::born(ids(&[1]))
        };
        let after = World { live: &[1, 5], ..LIVE }.settle(&grows, Wanted::default());
        assert_eq!(shown(after), "b1e0 1/4/");
    }

    #[test]
    fn a_reassignment_ends_when_its_whole_target_is_in_sync() {
        let propose = |isr: &[i32]| Wanted { isr: Some(ids(isr)), ..Wanted::default() };
        let half = LIVE.settle(&moving(&[1, 2, 3]), propose(&[1, 2, 3, 4])).expect("changes");
        assert_eq!((half.state.replicas.len(), half.state.removing.len()), (5, 2));
        let whole = LIVE.settle(&half.state, propose(&[1, 2, 3, 4, 5])).expect("changes").state;
        assert_eq!((&whole.replicas, &whole.isr), (&ids(&[1, 4, 5]), &ids(&[1, 4, 5])));
        assert_eq!((whole.leader, whole.leader_epoch), (BrokerId(1), LeaderEpoch(1)));
        assert!(whole.adding.is_empty() && whole.removing.is_empty());
    }

    #[test]
    fn leaders_step_down_only_for_somebody_who_is_in_sync() {
        let down = || Wanted { election: Election::StepDown, ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[1, 3], &[], &[]), down())), "b3e1 1,3//");
        assert_eq!(shown(LIVE.settle(&partition(&[1], &[2], &[]), down())), "as it was");
        let preferred = || Wanted { election: Election::Preferred, ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[3, 1], &[], &[]), preferred())), "b1e1 3,1//");
        assert_eq!(shown(LIVE.settle(&partition(&[3, 2], &[], &[]), preferred())), "as it was");
    }

    #[test]
    fn a_leader_alone_that_steps_down_stays_eligible_and_each_has_its_turn() {
        let aside = || Wanted { isr: Some(Vec::new()), election: Election::StepDown, ..Wanted::default() };
        let mut state = partition(&[1], &[2, 3], &[]);
        let mut turns = Vec::new();
        for _ in 0..3 {
            let after = LIVE.settle(&state, aside());
            turns.push(shown(after.clone()));
            state = after.expect("another leads").state;
        }
        assert_eq!(turns, ["b2e1 2/3,1/", "b3e2 3/1,2/", "b1e3 1/2,3/"]);
        let alone = World { live: &[1, 4], ..LIVE }.settle(&partition(&[1], &[2], &[]), aside());
        assert_eq!(shown(alone), "as it was", "nobody else can lead");
    }

    #[test]
    fn a_leader_that_starts_anew_gets_a_new_epoch() {
        let anew = Wanted { restarted: Some(BrokerId(1)), ..Wanted::default() };
        assert_eq!(shown(LIVE.settle(&partition(&[1, 2], &[], &[]), anew)), "b1e1 1,2//");
    }
}
