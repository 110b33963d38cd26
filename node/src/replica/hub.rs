//! Who is to be told what: the meeting point of partitions, followers that fetch from us, and our own fetchers.
//!
//! Owns: the conversations of followers ([`Sessions`]), one [`Feed`] for each leader that we follow, the lives of
//! brokers, the partitions whose in-sync set may grow. Knows partitions by name only.
//! Promises: nothing here waits, and no other lock of ours is taken under these; a mark that is set is seen by
//! whoever looks later.
//! Leaves out: what to do about a mark (`serve`, `fetcher`, `insync`). Called by `partition` within its turn.
//!
//! ```text
//!  leader's turn:   appended ─► session.ready      moved ─► session.lazy      may grow ─► insync
//!  follower's turn: synced, cut, new epoch ─► feed.changed ─► next fetch
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::replica::Place;
use tokio::sync::Notify;

use super::isr::Lives;
use super::sessions::Sessions;
use crate::runtime::Mono;

/// The marks of one node.
#[derive(Debug, Default)]
pub struct Hub {
    sessions: Mutex<Sessions>,
    feeds: Mutex<BTreeMap<BrokerId, Arc<Feed>>>,
    live: Mutex<Arc<BTreeMap<BrokerId, BrokerEpoch>>>,
    /// Partitions that we lead and others follow.
    led: Mutex<BTreeSet<Place>>,
    growing: Mutex<BTreeSet<Place>>,
    grow: Notify,
    /// In-sync sets that lost a member, and that gained one.
    pub shrinks: AtomicU64,
    /// See `shrinks`.
    pub expands: AtomicU64,
}

/// What is followed from one leader, and what it does not know of us yet.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<Follows>,
    wake: Notify,
}

/// The state of a [`Feed`].
#[derive(Debug, Default)]
pub struct Follows {
    /// Everything that is followed from this leader.
    pub places: BTreeSet<Place>,
    /// Those of `places` whose position is to be told.
    pub changed: BTreeSet<Place>,
    /// To be told that they are not followed any more.
    pub gone: BTreeSet<Place>,
    /// Those of `places` that are left alone until this time.
    pub resting: BTreeMap<Place, Mono>,
    /// Those of `places` whose log is being cut or made anew.
    pub busy: BTreeSet<Place>,
}

impl Feed {
    /// Its state, for the time of one short step.
    pub fn lock(&self) -> MutexGuard<'_, Follows> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is to be told. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Wakes the fetcher.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The position at `place` is to be told.
    pub fn change(&self, place: Place) {
        let mut follows = self.lock();
        if follows.places.contains(&place) && follows.changed.insert(place) {
            drop(follows);
            self.wake();
        }
    }
}

impl Hub {
    /// The conversations, for the time of one short step.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader's log has grown, or it leads anew.
    pub fn appended(&self, place: Place, followers: impl Iterator<Item = BrokerId>) {
        let mut sessions = self.sessions();
        followers.for_each(|follower| sessions.appended(follower, place));
    }

    /// A leader's watermark or start moved.
    pub fn moved(&self, place: Place, followers: impl Iterator<Item = BrokerId>) {
        let mut sessions = self.sessions();
        followers.for_each(|follower| sessions.moved(follower, place));
    }

    /// A follower is to tell everything again.
    pub fn end_session(&self, follower: BrokerId) {
        self.sessions().end(follower);
    }

    /// This node leads `place` now, or not any more, or nobody follows it.
    pub fn lead(&self, place: Place, has_followers: bool) {
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        if !has_followers {
            led.remove(&place);
        } else if led.insert(place) {
            self.grow.notify_one();
        }
    }

    /// Whether we lead any partition that others follow.
    pub fn leads_any(&self) -> bool {
        !self.led.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Every partition that we lead and others follow.
    pub fn led(&self) -> BTreeSet<Place> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node follows `place` from `leader` now, in a new epoch; [`BrokerId::NONE`]: from nobody.
    pub fn follow(&self, place: Place, leader: BrokerId) {
        self.lead(place, false);
        let feeds = {
            let mut feeds = self.feeds();
            if leader.is_valid() {
                feeds.entry(leader).or_default();
            }
            feeds.clone()
        };
        for (from, feed) in feeds {
            let mut follows = feed.lock();
            if from == leader {
                follows.places.insert(place);
                follows.resting.remove(&place);
                follows.changed.insert(place);
            } else if follows.places.remove(&place) {
                follows.changed.remove(&place);
                follows.resting.remove(&place);
                follows.busy.remove(&place);
                follows.gone.insert(place);
            } else {
                continue;
            }
            drop(follows);
            feed.wake();
        }
    }

    /// The log at `place` is another one now: what was told of it is void.
    pub fn renew(&self, place: Place) {
        for feed in self.feeds().values() {
            let mut follows = feed.lock();
            if follows.places.contains(&place) {
                follows.gone.insert(place);
                follows.changed.insert(place);
                drop(follows);
                feed.wake();
            }
        }
    }

    /// The position at `place` is to be told, whoever is followed there.
    pub fn tell_again(&self, place: Place) {
        self.feeds().values().for_each(|feed| feed.change(place));
    }

    /// The feed from `leader`, if anything was ever followed from it.
    pub fn feed(&self, leader: BrokerId) -> Option<Arc<Feed>> {
        self.feeds().get(&leader).cloned()
    }

    /// Every leader that is or was followed.
    pub fn leaders(&self) -> Vec<BrokerId> {
        self.feeds().keys().copied().collect()
    }

    /// Wakes every fetcher, so that it sees that it should end.
    pub fn wake_all(&self) {
        self.feeds().values().for_each(|feed| feed.wake());
        self.grow.notify_one();
    }

    /// The brokers that are live, with their lives.
    pub fn live(&self) -> Arc<BTreeMap<BrokerId, BrokerEpoch>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the lives of brokers; whether they differ from before.
    pub fn see_live(&self, now: BTreeMap<BrokerId, BrokerEpoch>) -> bool {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = **live != now;
        if differs {
            *live = Arc::new(now);
        }
        differs
    }

    /// Lives, and when followers were heard of.
    pub fn lives(&self) -> Lives {
        Lives { live: (*self.live()).clone(), heard: self.sessions().heard() }
    }

    /// The in-sync set of `place` may grow, or must shrink.
    pub fn may_change(&self, place: Place) {
        if self.growing.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
            self.grow.notify_one();
        }
    }

    /// Takes the places whose in-sync set may change.
    pub fn take_growing(&self) -> BTreeSet<Place> {
        std::mem::take(&mut *self.growing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for one, or for the first that is led. Cancel safe.
    pub async fn growing(&self) {
        self.grow.notified().await;
    }

    fn feeds(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Arc<Feed>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
