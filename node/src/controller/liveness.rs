//! Who is heard: the sessions of brokers, in the monotonic time of the controller that is active.
//!
//! Owns: when each broker was last heard, how far it has followed the metadata, whether it wants to leave, and since
//! when a fenced one is missing. All of it is memory of the active controller, and none of it is in the metadata.
//! Promises: silence is counted only while this controller watched: a new one gives everybody a fresh session, and a
//! pause of its own process is forgiven; the wall clock is never asked, so that its steps do nothing.
//! Leaves out: what follows from silence (`decide::tick`), records.
//! Called by the decides of registrations, heartbeats and ticks.
//!
//! ```text
//!  heard ──── session timeout ────► silent ─► (fenced) ──── recreate.after ────► missing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset};

use crate::metadata::Image;
use crate::metadata::level::Levels;
use crate::runtime::Mono;

/// One broker, as this controller hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    epoch: BrokerEpoch,
    heard: Mono,
    /// It has applied everything before this metadata offset.
    metadata_end: Offset,
    /// It may be unfenced once `metadata_end` is here: its own registration is before it.
    must_reach: Offset,
    /// Nobody listens where its process listened: it counts as silent until it is heard again.
    suspected: bool,
    /// It wants to stop.
    leaving: bool,
    /// When this controller first saw it fenced.
    fenced_since: Option<Mono>,
    /// The levels of `dejaq.version` that it supports; `None` before it said so to this controller.
    levels: Option<Levels>,
    /// It may stop once everybody has applied the metadata before this: nobody sends it anything any more.
    stopping_at: Option<Offset>,
}

/// The sessions of all brokers.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    sessions: BTreeMap<BrokerId, Session>,
    /// When this controller last looked; `None` before it became active.
    watched: Option<Mono>,
    /// When leaderships go back to the preferred replicas next.
    leader_round: Option<Mono>,
    /// Where the metadata ended, and who was missing, when the last look for work found none.
    at_rest: Option<(Offset, BTreeSet<BrokerId>)>,
    /// Whether a rebalance has made those even who are here, and waits for those who are away.
    pub waits: bool,
}

impl Liveness {
    /// A controller that becomes active knows nothing of the past: every broker gets a fresh session.
    #[must_use]
    pub fn take_over(now: Mono, image: &Image) -> Liveness {
        let mut liveness = Liveness { watched: Some(now), ..Liveness::default() };
        liveness.meet(now, image);
        liveness
    }

    /// Looks at the clock. If this process was away for a good part of a session, nobody could be heard meanwhile:
    /// that time does not count.
    pub fn watch(&mut self, now: Mono, session_timeout: Duration) {
        let away = now.since(self.watched.unwrap_or(now));
        if away > session_timeout / 2 {
            mark!("the controller forgives the silence of its own pause");
            for session in self.sessions.values_mut() {
                session.heard = session.heard.plus(away);
                session.fenced_since = session.fenced_since.map(|since| since.plus(away));
            }
        }
        self.watched = Some(self.watched.map_or(now, |before| before.max(now)));
    }

    /// Brings the sessions in line with who is registered and fenced.
    pub fn meet(&mut self, now: Mono, image: &Image) {
        self.sessions.retain(|id, _| image.broker(*id).is_some());
        for broker in image.brokers() {
            let known = self.sessions.get(&broker.id).is_some_and(|session| session.epoch == broker.epoch);
            if !known {
                self.registered(now, broker.id, broker.epoch, image.end());
            }
            let session = self.sessions.get_mut(&broker.id).expect("it was just put there");
            session.fenced_since = match broker.fenced {
                true => session.fenced_since.or(Some(now)),
                false => None,
            };
        }
        assert_eq!(self.sessions.len(), image.brokers().count(), "a session each");
    }

    /// A new life begins. It may be unfenced once it has applied everything before `must_reach`.
    pub fn registered(&mut self, now: Mono, broker: BrokerId, epoch: BrokerEpoch, must_reach: Offset) {
        let fenced_since = self.sessions.get(&broker).and_then(|old| old.fenced_since);
        let session = Session {
            epoch,
            heard: now,
            metadata_end: Offset::ZERO,
            must_reach,
            suspected: false,
            leaving: false,
            fenced_since,
            levels: None,
            stopping_at: None,
        };
        self.sessions.insert(broker, session);
    }

    /// A broker says that it lives, and how far it has followed. An epoch that is not its newest changes nothing.
    pub fn heard(&mut self, now: Mono, broker: BrokerId, epoch: BrokerEpoch, metadata_end: Offset) {
        let Some(session) = self.sessions.get_mut(&broker).filter(|session| session.epoch == epoch) else {
            return;
        };
        session.heard = session.heard.max(now);
        session.suspected = false;
        session.metadata_end = session.metadata_end.max(metadata_end);
    }

    /// A broker says which levels it supports. An epoch that is not its newest changes nothing.
    pub fn supports(&mut self, broker: BrokerId, epoch: BrokerEpoch, levels: Levels) {
        if let Some(session) = self.sessions.get_mut(&broker).filter(|session| session.epoch == epoch) {
            session.levels = Some(levels);
        }
    }

    /// The levels that a broker supports, if this controller has heard it.
    #[must_use]
    pub fn levels(&self, broker: BrokerId) -> Option<Levels> {
        self.sessions.get(&broker).and_then(|session| session.levels)
    }

    /// The processes of these brokers are gone, as far as can be seen. Too early a word is healed by a heartbeat: a fenced
    /// broker that lives is let in again, and what it did under its old leader epochs is refused meanwhile.
    pub fn suspect(&mut self, brokers: &BTreeSet<BrokerId>) {
        for broker in brokers {
            if let Some(session) = self.sessions.get_mut(broker) {
                session.suspected = true;
            }
        }
    }

    /// A broker says whether it wants to stop.
    pub fn leaves(&mut self, broker: BrokerId, leaving: bool) {
        if let Some(session) = self.sessions.get_mut(&broker) {
            session.leaving = leaving;
        }
    }

    /// A broker gave everything away with the metadata before `end`.
    pub fn stops_at(&mut self, broker: BrokerId, end: Offset) {
        if let Some(session) = self.sessions.get_mut(&broker) {
            session.stopping_at = Some(end);
        }
    }

    /// Where everybody must have come before a broker may stop; `otherwise` if this controller did not see it give
    /// everything away.
    #[must_use]
    pub fn stopping_at(&self, broker: BrokerId, otherwise: Offset) -> Offset {
        self.sessions.get(&broker).and_then(|session| session.stopping_at).unwrap_or(otherwise)
    }

    /// Whether it is time for leaderships to go back to the preferred replicas; asks again after `every`.
    pub fn is_leader_round(&mut self, now: Mono, every: Duration) -> bool {
        let due = self.leader_round.is_some_and(|at| now >= at);
        if due || self.leader_round.is_none() {
            self.leader_round = Some(now.plus(every));
        }
        due
    }

    /// Leaderships go back at the next look.
    pub fn hasten_leader_round(&mut self, now: Mono) {
        self.leader_round = Some(now);
    }

    /// Whether nothing happened since a look for work found none.
    #[must_use]
    pub fn is_at_rest(&self, end: Offset, missing: &BTreeSet<BrokerId>) -> bool {
        self.at_rest.as_ref().is_some_and(|(then, who)| *then == end && who == missing)
    }

    /// A look for work found none.
    pub fn rest(&mut self, end: Offset, missing: BTreeSet<BrokerId>) {
        self.at_rest = Some((end, missing));
    }

    /// Whether a broker was heard within the timeout.
    #[must_use]
    pub fn is_heard(&self, now: Mono, broker: BrokerId, session_timeout: Duration) -> bool {
        let heard = |session: &Session| !session.suspected && now.since(session.heard) < session_timeout;
        self.sessions.get(&broker).is_some_and(heard)
    }

    /// Whether a broker has followed the metadata as far as its own registration.
    #[must_use]
    pub fn is_caught_up(&self, broker: BrokerId) -> bool {
        self.sessions.get(&broker).is_some_and(|session| session.metadata_end >= session.must_reach)
    }

    /// Whether a broker wants to stop: it should not be given anything to lead.
    #[must_use]
    pub fn is_leaving(&self, broker: BrokerId) -> bool {
        self.sessions.get(&broker).is_some_and(|session| session.leaving)
    }

    /// Whether every live broker but `except` has applied everything before `end`.
    #[must_use]
    pub fn have_all_applied(&self, image: &Image, end: Offset, except: BrokerId) -> bool {
        let mut others = image.brokers().filter(|broker| broker.is_live() && broker.id != except);
        others.all(|broker| self.sessions.get(&broker.id).is_some_and(|session| session.metadata_end >= end))
    }

    /// The brokers that are not fenced and were not heard for the timeout. `own` is this controller's node, which
    /// lives because this runs.
    #[must_use]
    pub fn silent(
        &self,
        now: Mono,
        image: &Image,
        own: BrokerId,
        session_timeout: Duration,
    ) -> BTreeSet<BrokerId> {
        let unfenced = image.brokers().filter(|broker| !broker.fenced && broker.id != own);
        unfenced.map(|broker| broker.id).filter(|id| !self.is_heard(now, *id, session_timeout)).collect()
    }

    /// The brokers that were fenced for so long that their replicas are to be made anew elsewhere.
    #[must_use]
    pub fn missing(&self, now: Mono, after: Duration) -> BTreeSet<BrokerId> {
        let since = |session: &Session| session.fenced_since;
        let sessions = self.sessions.iter();
        let gone = sessions.filter(|(_, session)| since(session).is_some_and(|at| now.since(at) >= after));
        gone.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::decide::tests::Desk;

    const TIMEOUT: Duration = Duration::from_secs(9);
    const OWN: BrokerId = BrokerId(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn silent(liveness: &Liveness, now: Mono, image: &Image) -> Vec<i32> {
        liveness.silent(now, image, OWN, TIMEOUT).into_iter().map(|id| id.0).collect()
    }

    /// Watches every 100 ms, as a driver does.
    fn watch(liveness: &mut Liveness, from: u64, to: u64) {
        (from..=to).step_by(100).for_each(|ms| liveness.watch(at(ms), TIMEOUT));
    }

    #[test]
    fn who_was_not_heard_for_a_session_is_silent_but_not_the_controller_itself() {
        let image = Desk::with_brokers(3).image;
        let mut liveness = Liveness::take_over(at(0), &image);
        watch(&mut liveness, 0, 8000);
        liveness.heard(at(8000), BrokerId(2), BrokerEpoch(2), image.end());
        assert!(silent(&liveness, at(8999), &image).is_empty());
        assert_eq!(silent(&liveness, at(9000), &image), [3]);
        assert_eq!(silent(&liveness, at(17_000), &image), [2, 3]);
    }

    #[test]
    fn whose_process_is_gone_is_silent_at_once_and_until_it_is_heard() {
        let image = Desk::with_brokers(3).image;
        let mut liveness = Liveness::take_over(at(0), &image);
        liveness.suspect(&BTreeSet::from([BrokerId(3), BrokerId(7)]));
        assert_eq!(silent(&liveness, at(1), &image), [3]);
        liveness.heard(at(2), BrokerId(3), BrokerEpoch(3), image.end());
        assert!(silent(&liveness, at(3), &image).is_empty());
    }

    #[test]
    fn a_new_controller_gives_everybody_a_fresh_session() {
        let image = Desk::with_brokers(3).image;
        let liveness = Liveness::take_over(at(1_000_000), &image);
        assert!(silent(&liveness, at(1_000_000), &image).is_empty());
        assert!(silent(&liveness, at(1_008_999), &image).is_empty());
    }

    #[test]
    fn an_older_life_of_a_broker_keeps_nobody_alive() {
        let image = Desk::with_brokers(2).image;
        let mut liveness = Liveness::take_over(at(0), &image);
        liveness.heard(at(8000), BrokerId(2), BrokerEpoch(1), image.end());
        assert_eq!(silent(&liveness, at(9000), &image), [2]);
    }

    #[test]
    fn a_pause_of_the_controller_is_nobody_elses_silence() {
        let image = Desk::with_brokers(3).image;
        let mut liveness = Liveness::take_over(at(0), &image);
        watch(&mut liveness, 0, 1000);
        liveness.watch(at(60_000), TIMEOUT);
        assert!(silent(&liveness, at(60_000), &image).is_empty());
        watch(&mut liveness, 60_000, 69_000);
        assert_eq!(silent(&liveness, at(69_000), &image), [2, 3]);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_fences_nobody() {
        let image = Desk::with_brokers(2).image;
        let mut liveness = Liveness::take_over(at(50_000), &image);
        liveness.watch(at(10), TIMEOUT);
        assert!(silent(&liveness, at(10), &image).is_empty());
        liveness.watch(at(50_000), TIMEOUT);
        assert!(silent(&liveness, at(50_000), &image).is_empty());
    }
}
