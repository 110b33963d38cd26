//! The conversations of followers with this node: what each wants, and which partitions have something for it.
//!
//! Owns: for every follower its positions as it last told them, the queue of partitions that may have news. Pure.
//! Promises: a conversation goes on only in the order of its rounds, in the follower's newest life; a later round ends
//! the wait of an earlier one; a partition that is marked is looked at before the next wait (no wake is lost); what an
//! idle follower costs does not depend on how many partitions it follows.
//! Leaves out: logs, reports, waiting itself (`serve`). Kept by `hub` under its lock.
//!
//! ```text
//!  begin (round, changed, gone) ─► ready ─┐
//!  append, new leader ─► ready, wake ─────┴─► take ─► (read) ─► answer      watermark moved ─► lazy ─► told with the next
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dejaq_storage::{buggify, mark};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset};
use dejaq_wire::peer::replica::{Place, ReplicaFetch, Standing, Talk};
use tokio::sync::Notify;

use crate::runtime::Mono;

/// Followers that converse at a time.
const MAX_SESSIONS: usize = 10_000;
/// Entries of places that went, beyond which the queue is made anew.
const QUEUE_SPARE: usize = 64;

/// Every conversation, by follower.
#[derive(Debug, Default)]
pub struct Sessions {
    by_follower: BTreeMap<BrokerId, Session>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    round: u64,
    life: BrokerEpoch,
    heard: Mono,
    wanted: BTreeMap<Place, Wanted>,
    /// Places whose `is_ready` is set, in the order in which they were marked.
    ready: VecDeque<Place>,
    /// Places whose watermark or start moved since it was told.
    lazy: BTreeSet<Place>,
    /// Who waits for `ready`.
    waiter: Arc<Notify>,
}

#[derive(Debug)]
struct Wanted {
    standing: Standing,
    told: (Offset, Offset),
    is_ready: bool,
}

/// A round that was taken.
#[derive(Debug)]
pub struct Begun {
    /// What the follower does not follow any more, or follows anew.
    pub gone: Vec<Place>,
    /// Where it is now.
    pub changed: Vec<Standing>,
    /// What wakes it.
    pub waiter: Arc<Notify>,
}

impl Sessions {
    /// Takes a round of a conversation.
    ///
    /// # Errors
    /// Why the conversation does not go on.
    pub fn begin(&mut self, follower: BrokerId, fetch: ReplicaFetch, now: Mono) -> Result<Begun, Talk> {
        let known = self.by_follower.get(&follower);
        if known.is_some_and(|known| known.life > fetch.broker_epoch) {
            mark!("a fetch of an earlier life of a follower is refused");
            return Err(Talk::StaleBroker);
        }
        if fetch.round == 0 {
            return Ok(self.open(follower, fetch, now));
        }
        let Some(session) = self.by_follower.get_mut(&follower) else { return Err(Talk::Unknown) };
        let follows = session.id == fetch.session
            && session.life == fetch.broker_epoch
            && session.round.checked_add(1) == Some(fetch.round);
        if !follows || buggify!("a follower's conversation is forgotten", 20) {
            mark!("a follower's conversation lost a word");
            return Err(Talk::Unknown);
        }
        session.round = fetch.round;
        session.heard = now;
        session.waiter.notify_one(); // the round before waits no longer
        session.waiter = Arc::default();
        for place in &fetch.gone {
            session.wanted.remove(place);
            session.lazy.remove(place);
        }
        session.want(&fetch.changed);
        Ok(Begun { gone: fetch.gone, changed: fetch.changed, waiter: session.waiter.clone() })
    }

    fn open(&mut self, follower: BrokerId, fetch: ReplicaFetch, now: Mono) -> Begun {
        let before = self.by_follower.remove(&follower);
        let gone = before.map_or(Vec::new(), |before| {
            before.waiter.notify_one();
            before.wanted.into_keys().collect()
        });
        let mut session = Session {
            id: fetch.session,
            round: 0,
            life: fetch.broker_epoch,
            heard: now,
            wanted: BTreeMap::new(),
            ready: VecDeque::new(),
            lazy: BTreeSet::new(),
            waiter: Arc::default(),
        };
        session.want(&fetch.changed);
        let waiter = session.waiter.clone();
        assert!(self.by_follower.len() < MAX_SESSIONS, "{} followers", self.by_follower.len());
        self.by_follower.insert(follower, session);
        Begun { gone, changed: fetch.changed, waiter }
    }

    /// Takes up to `most` places to look at for this round; `None` if a later round took over.
    pub fn take(
        &mut self,
        follower: BrokerId,
        (id, round): (u64, u64),
        most: usize,
    ) -> Option<Vec<Standing>> {
        let session = self.current(follower, (id, round))?;
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(place) = session.ready.pop_front()
        {
            if let Some(wanted) = session.wanted.get_mut(&place).filter(|wanted| wanted.is_ready) {
                wanted.is_ready = false;
                taken.push(wanted.standing);
            }
        }
        Some(taken)
    }

    /// Puts a place back that could not be answered now.
    pub fn again(&mut self, follower: BrokerId, id: u64, place: Place) {
        if let Some(session) = self.by_follower.get_mut(&follower).filter(|session| session.id == id) {
            session.mark(place);
        }
    }

    /// The watermark and the start that were told of `place`; both none if nothing was.
    #[must_use]
    pub fn told(&self, follower: BrokerId, id: u64, place: Place) -> Option<(Offset, Offset)> {
        let session = self.by_follower.get(&follower).filter(|session| session.id == id)?;
        session.wanted.get(&place).map(|wanted| wanted.told)
    }

    /// These are told now.
    pub fn tell(&mut self, follower: BrokerId, id: u64, place: Place, offsets: (Offset, Offset)) {
        let session = self.by_follower.get_mut(&follower).filter(|session| session.id == id);
        let Some(session) = session else { return };
        session.lazy.remove(&place);
        if let Some(wanted) = session.wanted.get_mut(&place) {
            wanted.told = offsets;
        }
    }

    /// Takes the places whose offsets moved, for this round.
    pub fn take_lazy(&mut self, follower: BrokerId, (id, round): (u64, u64)) -> Vec<Standing> {
        let Some(session) = self.current(follower, (id, round)) else { return Vec::new() };
        let lazy = std::mem::take(&mut session.lazy);
        lazy.iter().filter_map(|place| session.wanted.get(place)).map(|wanted| wanted.standing).collect()
    }

    /// There may be something new at `place` for this follower: wakes it.
    pub fn appended(&mut self, follower: BrokerId, place: Place) {
        if let Some(session) = self.by_follower.get_mut(&follower)
            && session.mark(place)
        {
            session.waiter.notify_one();
        }
    }

    /// The watermark or the start moved: told with whatever is told next.
    pub fn moved(&mut self, follower: BrokerId, place: Place) {
        if let Some(session) = self.by_follower.get_mut(&follower)
            && session.wanted.contains_key(&place)
        {
            session.lazy.insert(place);
        }
    }

    /// Ends a conversation, so that the follower tells everything again.
    pub fn end(&mut self, follower: BrokerId) {
        if let Some(session) = self.by_follower.remove(&follower) {
            session.waiter.notify_one();
        }
    }

    /// When each follower was last heard of.
    #[must_use]
    pub fn heard(&self) -> BTreeMap<BrokerId, Mono> {
        self.by_follower.iter().map(|(follower, session)| (*follower, session.heard)).collect()
    }

    fn current(&mut self, follower: BrokerId, (id, round): (u64, u64)) -> Option<&mut Session> {
        self.by_follower.get_mut(&follower).filter(|session| session.id == id && session.round == round)
    }
}

impl Session {
    fn want(&mut self, changed: &[Standing]) {
        for standing in changed {
            let wanted = self.wanted.entry(standing.place).or_insert(Wanted {
                standing: *standing,
                told: (Offset::NONE, Offset::NONE),
                is_ready: false,
            });
            wanted.standing = *standing;
            self.mark(standing.place);
        }
    }

    /// Marks a place that is wanted; whether it is.
    fn mark(&mut self, place: Place) -> bool {
        let Some(wanted) = self.wanted.get_mut(&place) else { return false };
        if !wanted.is_ready {
            wanted.is_ready = true;
            self.ready.push_back(place);
        }
        if self.ready.len() > 2 * self.wanted.len() + QUEUE_SPARE {
            // Places that went, or went and came again, are still in the queue.
            let wanted = self.wanted.iter().filter(|(_, wanted)| wanted.is_ready);
            self.ready = wanted.map(|(place, _)| *place).collect();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{LeaderEpoch, PartitionId, TopicId};

    use super::*;

    const WHO: BrokerId = BrokerId(2);

    fn place(partition: i32) -> Place {
        Place { topic: TopicId([1; 16]), partition: PartitionId(partition) }
    }

    fn fetch(round: u64, changed: &[(i32, i64)], gone: &[i32]) -> ReplicaFetch {
        let standing = |(partition, end): &(i32, i64)| Standing {
            place: place(*partition),
            epoch: LeaderEpoch(0),
            end: Offset(*end),
            last_epoch: LeaderEpoch::NONE,
            durable: Offset(*end),
            lost: false,
        };
        ReplicaFetch {
            broker_epoch: BrokerEpoch(5),
            session: 9,
            round,
            max_wait_ms: 0,
            max_bytes: 0,
            changed: changed.iter().map(standing).collect(),
            gone: gone.iter().map(|partition| place(*partition)).collect(),
        }
    }

    fn taken(sessions: &mut Sessions, round: u64) -> Option<Vec<(i32, i64)>> {
        let taken = sessions.take(WHO, (9, round), 100)?;
        Some(taken.iter().map(|one| (one.place.partition.0, one.end.0)).collect())
    }

    #[test]
    fn a_round_costs_what_changed() {
        let mut sessions = Sessions::default();
        sessions.begin(WHO, fetch(0, &[(0, 5), (1, 5), (2, 5)], &[]), Mono(0)).expect("it opens");
        assert_eq!(taken(&mut sessions, 0), Some(vec![(0, 5), (1, 5), (2, 5)]));
        sessions.begin(WHO, fetch(1, &[], &[]), Mono(0)).expect("it goes on");
        assert_eq!(taken(&mut sessions, 1), Some(vec![]));
        sessions.appended(WHO, place(1));
        sessions.appended(WHO, place(1));
        sessions.appended(WHO, place(7));
        assert_eq!(taken(&mut sessions, 1), Some(vec![(1, 5)]));
        sessions.begin(WHO, fetch(2, &[(1, 6)], &[0]), Mono(0)).expect("it goes on");
        sessions.appended(WHO, place(0));
        assert_eq!(taken(&mut sessions, 2), Some(vec![(1, 6)]));
        assert_eq!(taken(&mut sessions, 1), None, "a later round took over");
    }

    #[test]
    fn a_lost_word_an_ended_talk_and_an_earlier_life_are_told() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.begin(WHO, fetch(1, &[], &[]), Mono(0)).err(), Some(Talk::Unknown));
        sessions.begin(WHO, fetch(0, &[], &[]), Mono(0)).expect("it opens");
        for round in [2, 3] {
            assert_eq!(sessions.begin(WHO, fetch(round, &[], &[]), Mono(0)).err(), Some(Talk::Unknown));
        }
        let other = ReplicaFetch { session: 8, ..fetch(1, &[], &[]) };
        assert_eq!(sessions.begin(WHO, other, Mono(0)).err(), Some(Talk::Unknown));
        let early = ReplicaFetch { broker_epoch: BrokerEpoch(4), ..fetch(0, &[], &[]) };
        assert_eq!(sessions.begin(WHO, early, Mono(0)).err(), Some(Talk::StaleBroker));
        sessions.begin(WHO, fetch(1, &[], &[]), Mono(0)).expect("nothing of that did harm");
        sessions.end(WHO);
        assert_eq!(sessions.begin(WHO, fetch(2, &[], &[]), Mono(0)).err(), Some(Talk::Unknown));
    }

    #[test]
    fn offsets_are_told_once() {
        let mut sessions = Sessions::default();
        sessions.begin(WHO, fetch(0, &[(0, 5), (1, 5)], &[]), Mono(0)).expect("it opens");
        let at = (Offset(4), Offset(0));
        assert_eq!(sessions.told(WHO, 9, place(0)), Some((Offset::NONE, Offset::NONE)));
        sessions.tell(WHO, 9, place(0), at);
        assert_eq!(sessions.told(WHO, 9, place(0)), Some(at));
        sessions.moved(WHO, place(0));
        sessions.moved(WHO, place(3));
        let lazy = sessions.take_lazy(WHO, (9, 0));
        assert_eq!(lazy.iter().map(|one| one.place).collect::<Vec<_>>(), [place(0)]);
        assert_eq!(sessions.take_lazy(WHO, (9, 0)), []);
    }

    #[test]
    fn a_new_talk_gives_up_what_the_old_one_wanted() {
        let mut sessions = Sessions::default();
        sessions.begin(WHO, fetch(0, &[(0, 5), (1, 5)], &[]), Mono(0)).expect("it opens");
        let begun = sessions.begin(WHO, fetch(0, &[(1, 7)], &[]), Mono(1)).expect("anew");
        assert_eq!(begun.gone, [place(0), place(1)]);
        assert_eq!(taken(&mut sessions, 0), Some(vec![(1, 7)]));
        assert_eq!(sessions.heard(), [(WHO, Mono(1))].into());
    }
}
