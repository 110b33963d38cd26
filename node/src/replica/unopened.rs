//! SHELL. Partitions that belong on this node and are not open: tried again, handed over to who has them, made anew.
//!
//! Owns: when each is tried next, and what is asked of the controller for them. Promises: what may pass is tried again, more
//! and more seldom, until it opens; who leads a partition and cannot open it says so, and only whoever is known to have all that
//! was committed leads instead; a copy that may be whole is not called lost for what may pass, unless errors last and nobody
//! else is eligible but from before an unclean stop; files that are gone are replaced by an empty log only when no in-sync set, no
//! eligible replica and no memory of one names this node, and another leads.
//! Leaves out: opening (`open`), deciding (the controller). One task a node, while there is such a partition.
//!
//! ```text
//!  no room, EIO ─► again, pause grows ─────────────────────────────────► open
//!  files gone ───────┐                                                     ▲
//!  any, and we lead ─┴─► "without me", lost if it will not pass ─► controller: another leads ─► made anew if gone, fetched
//! ```
//!
//! Decided: who leads and meets what may pass (no room, EIO) leaves the lead to who is in sync, or eligible, and is not called
//! lost: it often strikes all brokers at once, and one after the other would be lost though each copy is whole. Those that are
//! eligible have their turns until one opens. Ruled out: a new record or message (what leaders say of damage says the
//! same); an unclean registration of the whole broker (every other partition would lose a complete copy with it); trying again
//! where files are gone or foreign (someone may be just putting them back, and half of a log must not be taken for all of it).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, PartitionId, TopicId};
use dejaq_wire::peer::replica::Place;

use super::directory::{Directory, Slot, Table};
use super::isr::Proposal;
use super::links::{Answer, Links};
use super::open::{self, Job};
use crate::metadata::record::PartitionState;
use crate::metadata::{BrokerDefaults, Image, Partition, TopicConfig};
use crate::runtime::{Mono, Runtime};

/// How often they are looked at.
const ROUND: Duration = Duration::from_millis(250);
/// Of many, so many are tried at a time: what the metadata says meanwhile waits for no more than these, be the disk slow.
const TOGETHER: usize = 16;
/// The pause before one that found no room is tried again: at first, and at most.
const ROOM: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// The same after an error of the disk: each try may read a good part of the log.
const ERROR: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// An error that passes so soon moves no leadership.
const PATIENCE: Duration = Duration::from_secs(3);
/// An error that does not pass so soon is the end of a copy, if nobody else is in sync and somebody may be elected.
const LASTING: Duration = Duration::from_secs(300);
/// The controller is not asked again before: at first, and when the lead came back so often that nobody seems to open it.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(40));

/// Why a partition that belongs here is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    /// For want of room, which may come.
    NoRoom,
    /// The disk gave an error, which may pass.
    Error,
    /// A clean stop closed its log, and the files are gone.
    Gone,
    /// What is there is not to be used.
    Refused,
}

impl Unopened {
    /// The pauses between tries, if it is tried again as it is.
    fn pauses(self) -> Option<(Duration, Duration)> {
        match self {
            Unopened::NoRoom => Some(ROOM),
            Unopened::Error => Some(ERROR),
            Unopened::Gone | Unopened::Refused => None,
        }
    }
}

/// One that is watched.
struct Watched {
    why: Unopened,
    /// Since when it is that.
    since: Mono,
    next: Mono,
    pause: Duration,
    /// When the controller was asked last, and how long it is not asked again.
    asked: Option<Mono>,
    rest: Duration,
}

impl Watched {
    fn new(why: Unopened, now: Mono, pause: Duration) -> Watched {
        Watched { why, since: now, next: now.plus(pause), pause, asked: None, rest: AGAIN.0 }
    }

    /// Another leads, or nobody counts on it.
    fn was_taken(&mut self) {
        self.rest = (self.rest * 2).min(AGAIN.1);
    }
}

/// Runs until all are open or the directory stops.
pub(super) async fn run<R: Runtime>(directory: Arc<Directory<R>>) {
    let runtime = directory.runtime.clone();
    let mut watched: BTreeMap<Place, Watched> = BTreeMap::new();
    while !directory.is_stopping() {
        directory.pause_until(runtime.now().plus(ROUND)).await;
        let (now, unopened) = (runtime.now(), directory.table().unopened());
        watched.retain(|place, _| unopened.contains_key(place));
        for (place, why) in &unopened {
            let pause = why.pauses().map_or(ERROR.0, |(first, _)| first);
            let one = watched.entry(*place).or_insert_with(|| Watched::new(*why, now, pause));
            if one.why != *why {
                (one.why, one.since) = (*why, now); // one error behind a long want of room is not one that lasts
            }
        }
        // First, since a try may take as long as a bad disk likes.
        if let Some(links) = directory.links.get().filter(|_| !directory.health().is_offline()) {
            hand_over(&directory, links, &mut watched).await;
        }
        let is_due = |place: &&Place| watched.get(*place).is_some_and(|one| now >= one.next);
        let due: Vec<Place> = unopened.keys().filter(is_due).copied().collect();
        let nothing: &[Place] = &[];
        for together in due.chunks(TOGETHER).chain(unopened.is_empty().then_some(nothing)) {
            if directory.open_missing(together).await {
                return;
            }
        }
        for (place, one) in watched.iter_mut().filter(|(_, one)| now >= one.next) {
            let most = unopened.get(place).and_then(|why| why.pauses()).map_or(ERROR.1, |(_, most)| most);
            one.pause = (one.pause * 2).min(most);
            one.next = runtime.now().plus(one.pause);
        }
    }
}

/// Tells the controller of what this node leads, or is counted on for, and does not have.
async fn hand_over<R: Runtime>(
    directory: &Directory<R>,
    links: &Links,
    watched: &mut BTreeMap<Place, Watched>,
) {
    let (now, image, live) = (directory.runtime.now(), directory.image(), directory.hub.live());
    let unopened = directory.table().unopened();
    let mut proposals = Vec::new();
    for (place, one) in watched.iter_mut() {
        let is_early =
            now.since(one.since) < PATIENCE || one.asked.is_some_and(|at| now.since(at) < one.rest);
        let Some(why) = unopened.get(place).filter(|_| !is_early) else { continue };
        let Some(topic) = image.topic(place.topic) else { continue };
        let Some(state) = topic.partition(place.partition).map(Partition::state) else { continue };
        let durable = TopicConfig::resolve(&topic.configs, &directory.defaults(&image)).is_durable();
        let name = format!("{}-{}", topic.name, place.partition);
        match own_up(directory.me(), &state, (*why, now.since(one.since)), &live, durable) {
            Some(proposal) => proposals.push((*place, proposal, name)),
            None if state.leader == directory.me() && one.asked.is_none() => tracing::error!(
                partition = name,
                "its leader cannot open it, and nobody else that lives is in sync or eligible: make room or mend this disk (after \
                 five minutes of errors who was eligible before an unclean stop leads), or stop this broker and see dejaq partition elect --help"
            ),
            None => continue,
        }
        one.asked = Some(now);
    }
    if proposals.is_empty() {
        return;
    }
    let asked = proposals.iter().map(|(place, proposal, _)| (*place, proposal.clone())).collect();
    let answers = links.controller.propose(asked).await;
    for ((place, proposal, partition), answer) in proposals.into_iter().zip(answers) {
        match answer {
            Answer::Taken => {
                mark!("a broker says that it cannot serve a replica");
                let isr: Vec<i32> = proposal.isr.iter().map(|(broker, _)| broker.0).collect();
                let is_lost = !proposal.lost.is_empty();
                tracing::warn!(
                    partition,
                    ?isr,
                    is_lost,
                    "it does not open here: another leads, or nobody counts on this replica"
                );
                watched.entry(place).and_modify(Watched::was_taken);
            }
            other => tracing::warn!(partition, ?other, "it does not open here, and others count on it still"),
        }
    }
}

/// What to propose for a partition that does not open here: as its leader, that another leads who has all that was committed;
/// as a follower whose copy is gone, that nobody counts on it. `None` if nobody counts on it, or nobody else can be counted on.
///
/// What may pass hits brokers alike (a full disk, too few handles), and the copy may be whole: it is not called lost while
/// others are in sync or eligible, who have all that was committed, too; where only those are left that were eligible before
/// an unclean stop, only for an error that lasts.
fn own_up(
    me: BrokerId,
    state: &PartitionState,
    (why, waited): (Unopened, Duration),
    live: &BTreeMap<BrokerId, BrokerEpoch>,
    durable: bool,
) -> Option<Proposal> {
    let leads = state.leader == me;
    if leads {
        // After an unclean stop only what was durable when it was counted is certain to be there.
        let known: &[BrokerId] = if durable { &state.last_known_elr } else { &[] };
        let heirs: &[BrokerId] = if state.elr.is_empty() { known } else { &state.elr };
        let is_other = |one: &BrokerId| *one != me && live.contains_key(one);
        if !state.isr.iter().chain(heirs).any(is_other) {
            return None;
        }
    } else {
        let is_led = live.contains_key(&state.leader);
        if why != Unopened::Gone || !is_led || !is_counted_on(me, state) {
            return None;
        }
    }
    let others = state.isr.iter().filter(|one| **one != me);
    let isr = others.map(|one| Some((*one, *live.get(one)?))).collect::<Option<Vec<_>>>()?;
    let is_eligible = || state.elr.iter().any(|one| *one != me && live.contains_key(one));
    let lost = match why {
        Unopened::NoRoom | Unopened::Error if !isr.is_empty() || is_eligible() => Vec::new(),
        Unopened::NoRoom => return None,
        Unopened::Error if waited < LASTING => return None,
        Unopened::Error | Unopened::Gone | Unopened::Refused => vec![me],
    };
    let (leader_epoch, partition_epoch) = (state.leader_epoch, state.partition_epoch);
    Some(Proposal { leader_epoch, partition_epoch, isr, shrinks: true, lost })
}

/// Whether this replica is in sync, or may be elected without a word of an operator.
fn is_counted_on(me: BrokerId, state: &PartitionState) -> bool {
    state.isr.iter().chain(state.elr.iter()).chain(state.last_known_elr.iter()).any(|one| *one == me)
}

impl<R: Runtime> Directory<R> {
    /// Puts what was opened into the table, and watches what was not.
    pub(super) async fn put(self: &Arc<Self>, opened: Vec<(Job, Slot<R>)>) {
        let is_short = opened.iter().any(|(_, slot)| matches!(slot, Slot::Unopened(_)));
        if is_short && !self.watches_unopened.swap(true, Ordering::AcqRel) {
            self.runtime.spawn("unopened-partitions", run(self.clone()));
        }
        self.show(opened).await;
    }

    /// Tries again to open those that are due, if they may open by now, and makes anew what is gone and nobody counts on; returns
    /// whether nothing is left to watch.
    async fn open_missing(self: &Arc<Self>, due: &[Place]) -> bool {
        let image = self.applied.lock().await;
        let is_done = |directory: &Directory<R>| {
            let is_done = directory.table().unopened().is_empty();
            if is_done {
                directory.watches_unopened.store(false, Ordering::Release);
            }
            is_done
        };
        if self.is_stopping() || self.health().is_offline() {
            return self.is_stopping() || is_done(self);
        }
        let defaults = self.defaults(&image);
        let mut jobs = Vec::new();
        for (place, why) in self.table().unopened() {
            let Some(topic) = image.topic(place.topic).cloned() else { continue };
            let may_be_made = why == Unopened::Gone && self.may_make_anew(&image, place);
            if !due.contains(&place) || !(why.pauses().is_some() || may_be_made) {
                continue;
            }
            if may_be_made {
                mark!("a replica whose files are gone is made anew");
                tracing::warn!(topic = &*topic.name, partition = %place.partition, "its files are gone and nobody counts on them: made anew");
                if !self.remove_files(place.topic, place.partition).await {
                    continue;
                }
            }
            let config = Arc::new(TopicConfig::resolve(&topic.configs, &defaults));
            let assignment = open::assignment(&topic, place.partition, self.me());
            jobs.push(self.job(topic, place.partition, assignment, config));
        }
        if !jobs.is_empty() {
            let opened = open::open_all(self, jobs).await;
            self.show(opened).await;
            self.fetch_from_all(); // it may be the first that follows its leader
        }
        is_done(self)
    }

    /// Whether an empty log in place of one that is gone deceives nobody: it is fetched from the one who leads.
    fn may_make_anew(&self, image: &Image, place: Place) -> bool {
        let state = image.topic(place.topic).and_then(|topic| topic.partition(place.partition));
        state.map(Partition::state).is_some_and(|state| {
            state.leader.is_valid() && state.leader != self.me() && !is_counted_on(self.me(), &state)
        })
    }

    /// What topics get here that do not say otherwise.
    pub(super) fn defaults(&self, image: &Image) -> BrokerDefaults {
        image.broker_defaults(self.settings.me, &self.settings.topic_defaults)
    }
}

impl<R: Runtime> Table<R> {
    /// The partitions that belong here and are not open.
    pub(super) fn unopened(&self) -> BTreeMap<Place, Unopened> {
        let entries = self.topics().flat_map(|entry| {
            entry.slots.iter().enumerate().map(|(at, slot)| (entry.id, PartitionId(at as i32), slot))
        });
        let unopened = entries.filter_map(|(topic, partition, slot): (TopicId, _, _)| match slot {
            Slot::Unopened(why) => Some((Place { topic, partition }, *why)),
            Slot::Ready(_) | Slot::Elsewhere => None,
        });
        unopened.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: BrokerId = BrokerId(1);

    fn ids(list: &[i32]) -> Vec<BrokerId> {
        list.iter().copied().map(BrokerId).collect()
    }

    /// Replicas 1, 2 and 3 of which these live; the first in sync leads.
    fn said(isr: &[i32], elr: &[i32], known: &[i32], live: &[i32], why: Unopened) -> Option<Vec<i32>> {
        said_after(LASTING, (isr, elr, known), live, why).map(|(isr, _)| isr)
    }

    const ASIDE: Option<(Vec<i32>, bool)> = Some((Vec::new(), false));

    fn said_after(
        waited: Duration,
        (isr, elr, known): (&[i32], &[i32], &[i32]),
        live: &[i32],
        why: Unopened,
    ) -> Option<(Vec<i32>, bool)> {
        let state = PartitionState {
            isr: ids(isr),
            leader: isr.first().map_or(BrokerId::NONE, |id| BrokerId(*id)),
            elr: ids(elr),
            last_known_elr: ids(known),
            ..PartitionState::born(ids(&[1, 2, 3]))
        };
        let live = live.iter().map(|id| (BrokerId(*id), BrokerEpoch(i64::from(*id)))).collect();
        let durable = why != Unopened::Refused;
        let proposal = own_up(ME, &state, (why, waited), &live, durable)?;
        assert!(proposal.lost.is_empty() || proposal.lost == [ME]);
        assert_eq!(proposal.leader_epoch, state.leader_epoch);
        Some((proposal.isr.into_iter().map(|(one, _)| one.0).collect(), !proposal.lost.is_empty()))
    }

    #[test]
    fn a_leader_that_cannot_open_its_log_is_followed_by_who_has_all_of_it_and_by_nobody_else() {
        let error = Unopened::Error;
        assert_eq!(said(&[1, 2, 3], &[], &[], &[1, 2, 3], error), Some(vec![2, 3]));
        assert_eq!(said(&[1], &[2, 3], &[], &[1, 3], error), Some(vec![]), "3 is eligible");
        assert_eq!(said(&[1], &[2], &[], &[1, 3], error), None, "2 is away, and 3 lacks something");
        assert_eq!(said(&[1], &[], &[], &[1, 2, 3], error), None, "it has the only complete copy");
        assert_eq!(
            said(&[1], &[], &[2], &[1, 2, 3], error),
            Some(vec![]),
            "what 2 counted with is on its disk"
        );
        let not_durable = Unopened::Refused;
        assert_eq!(said(&[1], &[], &[2], &[1, 2, 3], not_durable), None, "2 may have lost it");
        assert_eq!(said(&[1], &[2], &[3], &[1, 3], error), None, "3 is only known while nobody is eligible");
    }

    #[test]
    fn what_may_pass_does_not_make_a_copy_lost_at_once() {
        let soon = Duration::from_secs(10);
        for why in [Unopened::NoRoom, Unopened::Error] {
            let others = Some((vec![2, 3], false));
            assert_eq!(said_after(soon, (&[1, 2, 3], &[], &[]), &[1, 2, 3], why), others);
            assert_eq!(
                said_after(soon, (&[1], &[2], &[]), &[1, 2], why),
                ASIDE,
                "2 has all, and 1 stays eligible"
            );
            assert_eq!(said_after(LASTING, (&[1], &[2], &[]), &[1, 2], why), ASIDE);
            assert_eq!(said_after(LASTING, (&[1], &[2], &[]), &[1, 3], why), None, "2 is away");
            assert_eq!(
                said_after(soon, (&[1], &[], &[2]), &[1, 2], why),
                None,
                "it may be the only whole one"
            );
        }
        let lost = Some((Vec::new(), true));
        assert_eq!(said_after(LASTING, (&[1], &[], &[2]), &[1, 2], Unopened::NoRoom), None);
        assert_eq!(said_after(LASTING, (&[1], &[], &[2]), &[1, 2], Unopened::Error), lost);
        assert_eq!(said_after(soon, (&[1], &[2], &[]), &[1, 2], Unopened::Gone), lost);
    }

    #[test]
    fn a_follower_says_that_it_lost_what_is_gone_and_waits_out_what_may_pass() {
        let gone = Unopened::Gone;
        assert_eq!(said(&[2], &[1], &[], &[1, 2], gone), Some(vec![2]));
        assert_eq!(
            said(&[2], &[], &[1], &[1, 2], gone),
            Some(vec![2]),
            "it would be elected as the last known"
        );
        assert_eq!(said(&[2], &[1], &[], &[1, 2], Unopened::Error), None);
        assert_eq!(said(&[2, 3], &[], &[], &[1, 2, 3], gone), None, "nobody counts on it");
        assert_eq!(said(&[], &[1, 2], &[], &[1], gone), None, "nobody leads");
    }
}
