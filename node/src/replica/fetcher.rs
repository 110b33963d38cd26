//! SHELL. Fetches all that this node follows from one leader.
//!
//! Owns: the conversation with that leader, and what is under way of it. Promises: one conversation at a time, its
//! rounds in order; what was synced is told at once, though a fetch waits (the next round ends its wait); a fetch goes
//! on while syncs run; trouble with one partition holds up no other; trouble with the leader is met with backoff; replicas
//! that only come (a reassignment, a drain) keep to a rate that they share.
//! Leaves out: what an answer means (`follower`), which partitions there are (`hub`). One task a leader, and one for
//! each fetch that waits.
//!
//! ```text
//!  changed ─► compose round n ─► leader ─► news ─► hear ─► append ─► changed (end) … synced ─► changed (durable)
//!                                                    └► cut, patch, restart, new start: a task of their own
//! ```

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::replica::{Found, MAX_PLACES, News, Place, ReplicaFetch, ReplicaFetched, Talk};

use super::directory::Directory;
use super::following::Outcome;
use super::hub::Feed;
use super::links::Links;
use super::mending::Mend;
use super::retention;
use crate::peer::AskError;
use crate::runtime::{Mono, Runtime};

/// Bytes of one answer.
const ANSWER_BYTES: u32 = 10 << 20;
/// Rounds that are not answered: one waits, one is on its way there, one on its way back.
const IN_FLIGHT: usize = 3;
/// An answer is given up so long after the wait that was asked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// First and longest pause after trouble with the leader.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(1000));
/// Longest wait without looking whether the directory stops.
const NAP: Duration = Duration::from_secs(60);

/// The fetcher of one leader.
pub(super) struct Fetcher<R: Runtime> {
    directory: Arc<Directory<R>>,
    links: Arc<Links>,
    leader: BrokerId,
    feed: Arc<Feed>,
    talk: Mutex<Talking>,
}

#[derive(Debug, Default)]
struct Talking {
    /// The conversation, and its next round.
    now: Option<(u64, u64)>,
    in_flight: usize,
    failures: u32,
    /// Nothing is asked before.
    not_before: Mono,
}

impl<R: Runtime> Fetcher<R> {
    pub fn new(
        directory: Arc<Directory<R>>,
        links: Arc<Links>,
        leader: BrokerId,
        feed: Arc<Feed>,
    ) -> Arc<Fetcher<R>> {
        Arc::new(Fetcher { directory, links, leader, feed, talk: Mutex::default() })
    }

    /// Runs until the directory stops.
    pub async fn run(self: Arc<Self>) {
        while !self.directory.is_stopping() {
            let runtime = &self.directory.runtime;
            let now = runtime.now();
            match self.next(now) {
                Ok(()) => self.send(now).await,
                Err(until) => {
                    runtime.before(until, self.feed.woken()).await;
                }
            }
        }
    }

    /// Whether to send a round now; else until when to wait, if nobody wakes us.
    fn next(&self, now: Mono) -> Result<(), Mono> {
        let mut wake_at = now.plus(NAP);
        let (has_places, has_news) = {
            let mut follows = self.feed.lock();
            let rested: Vec<Place> =
                follows.resting.iter().filter(|(_, until)| **until <= now).map(|(place, _)| *place).collect();
            for place in rested {
                follows.resting.remove(&place);
                follows.changed.insert(place);
            }
            if let Some(until) = follows.resting.values().min() {
                wake_at = wake_at.min(*until);
            }
            (!follows.places.is_empty(), !follows.changed.is_empty() || !follows.gone.is_empty())
        };
        let talk = self.lock();
        if !has_places && (talk.now.is_none() || !has_news) {
            return Err(wake_at);
        }
        if talk.not_before > now {
            return Err(wake_at.min(talk.not_before));
        }
        let is_due = talk.in_flight == 0 || has_news || talk.now.is_none();
        if is_due && talk.in_flight < IN_FLIGHT { Ok(()) } else { Err(wake_at) }
    }

    /// Sends one round, and leaves its answer to a task.
    async fn send(self: &Arc<Self>, now: Mono) {
        self.mend();
        let fetch = self.compose();
        let session = fetch.session;
        let deadline = now.plus(self.links.max_wait).plus(PATIENCE);
        let mut answer = self.links.transport.fetch(self.leader, fetch, deadline);
        self.lock().in_flight += 1;
        // The first poll sends it, so that rounds leave in their order.
        let first = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        let fetcher = self.clone();
        match first {
            Poll::Ready(answered) => fetcher.answered(session, answered).await,
            Poll::Pending => self.directory.runtime.spawn("replica-fetch", async move {
                let answered = answer.await;
                fetcher.answered(session, answered).await;
            }),
        }
    }

    /// Cuts what is damaged and may be cut, and reads back what was mended.
    fn mend(self: &Arc<Self>) {
        let changed: Vec<Place> = self.feed.lock().changed.iter().copied().collect();
        for place in changed {
            let Some(partition) = self.directory.partition(place) else { continue };
            match partition.mend() {
                Some((epoch, Mend::Cut(from))) => {
                    self.apart("replica-mend", place, async move { partition.cut(epoch, from).await });
                }
                Some((epoch, Mend::Load(end))) => {
                    self.apart("replica-load", place, async move { partition.load_again(epoch, end).await });
                }
                None => {}
            }
        }
    }

    /// The next round: what changed, or everything if a conversation begins.
    fn compose(&self) -> ReplicaFetch {
        let (is_new, session, round) = {
            let mut talk = self.lock();
            let is_new = talk.now.is_none();
            let (session, round) = talk.now.unwrap_or_else(|| (self.directory.runtime.random_u64(), 0));
            talk.now = Some((session, round + 1));
            (is_new, session, round)
        };
        let (places, gone) = {
            let mut follows = self.feed.lock();
            let follows = &mut *follows;
            if is_new {
                follows.changed = follows.places.clone();
                follows.gone.clear();
            }
            let ready: BTreeSet<Place> = follows
                .changed
                .iter()
                .filter(|place| !follows.busy.contains(place) && !follows.resting.contains_key(place))
                .take(MAX_PLACES)
                .copied()
                .collect();
            follows.changed.retain(|place| !ready.contains(place));
            // What is busy or rests is marked again when that is over.
            follows
                .changed
                .retain(|place| !follows.busy.contains(place) && !follows.resting.contains_key(place));
            (ready, take_some(&mut follows.gone))
        };
        let standing = |place: &Place| self.directory.partition(*place)?.standing(self.leader);
        ReplicaFetch {
            broker_epoch: self.links.life,
            session,
            round,
            max_wait_ms: u32::try_from(self.links.max_wait.as_millis()).unwrap_or(u32::MAX),
            max_bytes: ANSWER_BYTES,
            changed: places.iter().filter_map(standing).collect(),
            gone,
        }
    }

    async fn answered(self: Arc<Self>, session: u64, answered: Result<ReplicaFetched, AskError>) {
        let news = {
            let mut talk = self.lock();
            talk.in_flight -= 1;
            match answered {
                Ok(ReplicaFetched { talk: Talk::On, news }) => {
                    talk.failures = 0;
                    news
                }
                Ok(ReplicaFetched { talk: why, .. }) => {
                    mark!("a follower begins its conversation anew");
                    tracing::debug!(leader = self.leader.0, ?why, "the conversation begins anew");
                    self.fail(&mut talk, session, why == Talk::StaleBroker);
                    Vec::new()
                }
                Err(error) => {
                    tracing::debug!(leader = self.leader.0, %error, "a fetch failed");
                    self.fail(&mut talk, session, true);
                    Vec::new()
                }
            }
        };
        for one in news {
            self.hear(one);
        }
        self.feed.wake();
    }

    /// The conversation is over; the next begins after a pause, a longer one each time.
    fn fail(&self, talk: &mut Talking, session: u64, backs_off: bool) {
        if talk.now.is_some_and(|(now, _)| now == session) {
            talk.now = None;
            if backs_off {
                let pause = (BACKOFF.0 * 2_u32.pow(talk.failures.min(16))).min(BACKOFF.1);
                talk.failures = talk.failures.saturating_add(1);
                talk.not_before = self.directory.runtime.now().plus(pause);
            }
        }
    }

    fn hear(self: &Arc<Self>, news: News) {
        let place = news.place;
        let Some(partition) = self.directory.partition(place) else { return };
        let bytes = if let Found::Batches(batches) = &news.found { batches.len() as u64 } else { 0 };
        let (outcome, start) = partition.hear(self.leader, news);
        match outcome {
            Outcome::Same => {}
            Outcome::Moved if partition.is_coming() => match self.pace(bytes) {
                Some(until) => self.rest(place, until),
                None => self.feed.change(place),
            },
            Outcome::Moved => self.feed.change(place),
            Outcome::Rest(wait) => self.rest(place, self.directory.runtime.now().plus(wait)),
            Outcome::Cut(epoch, to) => self.apart("replica-cut", place, async move {
                partition.cut(epoch, to).await;
            }),
            Outcome::Patch(epoch, from, batches) => self.apart("replica-patch", place, async move {
                partition.patch(epoch, from, batches).await;
            }),
            Outcome::Start(to) => self.apart("replica-start", place, async move {
                retention::follow_start(&partition, to).await;
            }),
            Outcome::Restart(base) => {
                let directory = self.directory.clone();
                self.apart("replica-restart", place, async move {
                    directory.restart(place, &partition, base).await;
                });
            }
        }
        if let (Some(to), Some(partition)) = (start, self.directory.partition(place)) {
            self.directory.runtime.spawn("replica-start", async move {
                retention::follow_start(&partition, to).await;
            });
        }
    }

    fn rest(&self, place: Place, until: Mono) {
        let mut follows = self.feed.lock();
        if follows.places.contains(&place) {
            follows.resting.insert(place, until);
        }
    }

    /// Until when a replica that only comes waits for its next bytes, so that all of them together keep to the rate.
    fn pace(&self, bytes: u64) -> Option<Mono> {
        let rate = self.directory.settings.move_bytes_per_second;
        let now = self.directory.runtime.now();
        let mut paced = self.directory.moves_paced.lock().unwrap_or_else(PoisonError::into_inner);
        let until = next_move(now, *paced, bytes, rate)?;
        *paced = until;
        Some(until).filter(|until| *until > now)
    }

    /// Does something to one partition while the others go on.
    fn apart(
        self: &Arc<Self>,
        name: &'static str,
        place: Place,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        if !self.feed.lock().busy.insert(place) {
            return;
        }
        let feed = self.feed.clone();
        self.directory.runtime.spawn(name, async move {
            work.await;
            feed.lock().busy.remove(&place);
            feed.change(place);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Talking> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the bytes of moves are within their rate again, after `bytes` more; `None` without a rate.
fn next_move(now: Mono, paced: Mono, bytes: u64, rate: u64) -> Option<Mono> {
    let cost = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(rate))?;
    mark!("a replica that only comes is paced");
    Some(paced.max(now).plus(Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX))))
}

fn take_some(places: &mut BTreeSet<Place>) -> Vec<Place> {
    let taken: Vec<Place> = places.iter().take(MAX_PLACES).copied().collect();
    places.retain(|place| taken.binary_search(place).is_err());
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_share_one_rate_and_what_was_not_used_is_not_saved_up() {
        let second = |count: u64| Mono(count * 1_000_000_000);
        assert_eq!(next_move(second(5), second(0), 100, 0), None, "no rate");
        assert_eq!(next_move(second(5), second(0), 100, 50), Some(second(7)));
        assert_eq!(next_move(second(5), second(7), 100, 50), Some(second(9)), "behind another partition's");
        assert_eq!(next_move(second(50), second(9), 0, 50), Some(second(50)));
    }
}
