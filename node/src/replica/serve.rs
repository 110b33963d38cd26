//! SHELL. Answers followers that fetch from partitions which this node leads (room Replica).
//!
//! Owns: nothing but the way of a fetch. Promises: positions are counted in the order of the calls; an answer comes when
//! there is something for the follower, when a later round ends the wait, or at its deadline; a round costs what
//! changed; what is read belongs to the epoch that is told with it.
//! Leaves out: conversations (`sessions`), what a position is worth (`following`), the connection (`peer`).
//!
//! ```text
//!  fetch ─► sessions.begin ─► report each change ─► take ready ─► compare, read ─► news │ wait ─► take …
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{Disk, LogReader, Read, ReadAsk, ReadError, buggify, mark, mutant};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::replica::{Found, News, ReplicaFetch, ReplicaFetched, Standing, Talk, Why};
use dejaq_wire::peer::{Parts, Refusal};
use dejaq_wire::record::BatchHeader;
use tokio::sync::Notify;

use super::directory::Directory;
use super::following::{Against, compare};
use super::partition::Partition;
use super::view::Part;
use crate::peer::{Answering, PeerAnswer, PeerService, PeerSession, answer, read};
use crate::runtime::{Mono, Runtime};

/// Places that are looked at between two looks at whether a later round took over.
const AT_ONCE: usize = 64;
/// Bytes of one partition in one answer, so that one does not fill all of it.
const PLACE_BYTES: usize = 1 << 20;
/// Bytes of one answer, whatever the follower allows.
const ANSWER_BYTES: usize = 16 << 20;
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Serves followers.
pub struct Serve<R: Runtime> {
    directory: Arc<Directory<R>>,
}

impl<R: Runtime> Serve<R> {
    /// Serves the partitions of `directory`.
    pub fn new(directory: Arc<Directory<R>>) -> Serve<R> {
        Serve { directory }
    }

    /// Starts to answer a fetch of `follower`: what must keep the order of the calls is done on return.
    ///
    /// # Errors
    /// Why the conversation does not go on.
    pub fn begin(&self, follower: BrokerId, fetch: ReplicaFetch) -> Result<Round<R>, Talk> {
        let directory = &self.directory;
        let now = directory.runtime.now();
        let life = fetch.broker_epoch;
        if directory.hub.live().get(&follower).is_some_and(|current| *current > life) {
            mark!("a fetch of a broker that lives anew is refused");
            return Err(Talk::StaleBroker);
        }
        let id = (fetch.session, fetch.round);
        let wait = Duration::from_millis(u64::from(fetch.max_wait_ms)).min(MAX_WAIT);
        let room = (fetch.max_bytes as usize).clamp(1, ANSWER_BYTES);
        let begun = directory.hub.sessions().begin(follower, fetch, now)?;
        for place in &begun.gone {
            if let Some(partition) = directory.partition(*place) {
                partition.follower_gone(follower);
            }
        }
        self.report(follower, life, &begun.changed, now);
        let directory = directory.clone();
        Ok(Round { directory, follower, id, waiter: begun.waiter, deadline: now.plus(wait), room })
    }

    fn report(&self, follower: BrokerId, life: BrokerEpoch, changed: &[Standing], now: Mono) {
        for standing in changed {
            if let Some(partition) = self.directory.partition(standing.place) {
                partition.report(follower, life, standing, now);
            }
        }
    }
}

impl<R: Runtime> PeerService for Serve<R> {
    fn start(&self, session: &Arc<PeerSession>, parts: Parts) -> Answering {
        if self.directory.is_stopping() {
            return Answering::Now(Err(Refusal::Stopping));
        }
        let fetch: ReplicaFetch = match read(parts) {
            Ok(fetch) => fetch,
            Err(refusal) => return Answering::Now(Err(refusal)),
        };
        match self.begin(session.node, fetch) {
            Ok(round) => Answering::Later(Box::pin(async move { to_answer(round.run().await) })),
            Err(talk) => Answering::Now(to_answer(ReplicaFetched { talk, news: Vec::new() })),
        }
    }
}

fn to_answer(fetched: ReplicaFetched) -> PeerAnswer {
    answer(fetched)
}

/// One fetch that is being answered.
pub struct Round<R: Runtime> {
    directory: Arc<Directory<R>>,
    follower: BrokerId,
    id: (u64, u64),
    waiter: Arc<Notify>,
    deadline: Mono,
    /// Bytes that may still be read.
    room: usize,
}

impl<R: Runtime> Round<R> {
    /// Waits for news and tells them. Cancel safe: what was taken and not told is told when the conversation is begun
    /// anew, as it must be then.
    pub async fn run(mut self) -> ReplicaFetched {
        let mut news = Vec::new();
        loop {
            let Some(is_full) = self.pass(&mut news).await else {
                return ReplicaFetched { talk: Talk::On, news }; // a later round took over
            };
            let now = self.directory.runtime.now();
            let is_hasty = buggify!("a follower is answered with nothing", 20);
            if !news.is_empty() || is_full || is_hasty || now >= self.deadline || self.directory.is_stopping()
            {
                break;
            }
            let woken = self.waiter.notified();
            if self.directory.runtime.before(self.deadline, woken).await.is_none() {
                break;
            }
        }
        self.tell_offsets(&mut news);
        ReplicaFetched { talk: Talk::On, news }
    }

    /// Looks at everything that is ready; whether there is no more room. `None` if a later round took over.
    async fn pass(&mut self, news: &mut Vec<News>) -> Option<bool> {
        loop {
            let ready = self.directory.hub.sessions().take(self.follower, self.id, AT_ONCE)?;
            if ready.is_empty() {
                return Some(false);
            }
            for standing in ready {
                let place = standing.place;
                if self.room == 0 {
                    self.directory.hub.sessions().again(self.follower, self.id.0, place);
                    continue;
                }
                match self.look(&standing, news.is_empty()).await {
                    Look::Nothing => {}
                    Look::Again => self.directory.hub.sessions().again(self.follower, self.id.0, place),
                    Look::Full => {
                        self.room = 0;
                        self.directory.hub.sessions().again(self.follower, self.id.0, place);
                    }
                    Look::Found(one) => {
                        if let Found::Batches(batches) = &one.found {
                            self.room = self.room.saturating_sub(batches.len());
                        }
                        self.told(&one);
                        news.push(one);
                    }
                }
            }
            if self.room == 0 {
                return Some(true);
            }
        }
    }

    fn told(&self, one: &News) {
        let offsets = (one.watermark, one.start);
        self.directory.hub.sessions().tell(self.follower, self.id.0, one.place, offsets);
    }

    /// What is new for a follower that stands there.
    async fn look(&self, at: &Standing, is_first: bool) -> Look {
        let Some(partition) = self.directory.partition(at.place) else { return refuse(at, Why::NotLeader) };
        let epoch = match leads_in(&partition, at.epoch) {
            Ok(epoch) => epoch,
            Err(why) => return refuse(at, why),
        };
        let reader = partition.view().reader();
        let (watermark, start) = offsets(&partition);
        let against = compare(reader, at);
        let found = match against {
            _ if at.lost => match partition.lets_go(self.follower, at) {
                Some(true) => Found::LetGo,
                Some(false) => return Look::Nothing, // looked at again when that changes
                None => return self.ask_again(),
            },
            Against::Diverged(ours) => {
                mark!("a follower's log parts from its leader's");
                Found::Diverged { epoch: ours.epoch, end: ours.end }
            }
            Against::Agrees if partition.has_not_heard(self.follower) => {
                return self.ask_again();
            }
            Against::Agrees | Against::Before | Against::Outside => {
                match self.read(&partition, at, (against, start), is_first).await {
                    Ok(found) => found,
                    Err(instead) => return instead,
                }
            }
        };
        // The planted bug M284 does not look again; its other half is the follower's.
        if leads_in(&partition, at.epoch) != Ok(epoch) && !mutant!(284) {
            return Look::Again; // what was read may be of another leader's log
        }
        if matches!(&found, Found::Batches(batches) if batches.is_empty()) {
            if reader.end() > at.end {
                return if is_first { Look::Again } else { Look::Full };
            }
            let mut sessions = self.directory.hub.sessions();
            let told = sessions.told(self.follower, self.id.0, at.place);
            if told != Some((Offset::NONE, Offset::NONE)) {
                if told.is_some_and(|told| told != (watermark, start)) {
                    sessions.moved(self.follower, at.place);
                }
                return Look::Nothing;
            }
        }
        // REP-12: a follower of another epoch is refused, whatever there is to tell.
        assert_eq!(at.epoch, epoch, "a follower in {} is told news of {epoch}", at.epoch);
        Look::Found(News {
            place: at.place,
            epoch,
            at: at.end,
            last_epoch: at.last_epoch,
            watermark,
            start,
            found,
        })
    }

    /// It told its position right before we began to lead: it was not counted then, and is not told again by itself.
    fn ask_again(&self) -> Look {
        mark!("a follower that spoke before its leader led tells its position again");
        self.directory.hub.end_session(self.follower);
        Look::Nothing
    }

    /// What there is for a follower that stands there: from its position on, or from the start if that is higher; and who is
    /// outside learns where it can begin.
    async fn read(
        &self,
        partition: &Arc<Partition<R>>,
        at: &Standing,
        (against, start): (Against, Offset),
        is_first: bool,
    ) -> Result<Found, Look> {
        let reader = partition.view().reader();
        let (offset, max_bytes) = match against {
            Against::Outside => (start, 1),
            _ => (at.end.max(start), self.room.min(PLACE_BYTES)),
        };
        let at_least_one = is_first || against != Against::Agrees;
        let ask = ReadAsk { offset, max_bytes, at_least_one, end_bound: reader.end() };
        match read_warm_or_cold(reader, ask).await {
            Ok(read) => Ok(found_in(read, at.end, (against, start))),
            Err(ReadError::OutOfRange { .. }) => Err(Look::Again), // the start moved on while we looked
            Err(error) => {
                if matches!(error, ReadError::Damaged { .. }) {
                    mark!("a follower's fetch meets damage");
                    self.directory.health().counts.damaged_reads.add(1);
                    partition.starve();
                }
                tracing::error!(partition = partition.name(), %error, "a follower cannot be served");
                Err(refuse(at, Why::Unreadable))
            }
        }
    }

    /// Adds the watermarks and starts that moved.
    fn tell_offsets(&self, news: &mut Vec<News>) {
        let lazy = self.directory.hub.sessions().take_lazy(self.follower, self.id);
        for at in lazy {
            let Some(partition) = self.directory.partition(at.place) else { continue };
            let Ok(epoch) = leads_in(&partition, at.epoch) else { continue };
            let (watermark, start) = offsets(&partition);
            let agrees = compare(partition.view().reader(), &at) == Against::Agrees;
            // Who lacks records is told with them: an empty answer says that there are none.
            let lacks = partition.view().reader().end() > at.end;
            if !agrees || lacks || leads_in(&partition, at.epoch) != Ok(epoch) {
                continue;
            }
            let found = Found::Batches(bytes::Bytes::new());
            let last_epoch = at.last_epoch;
            let one = News { place: at.place, epoch, at: at.end, last_epoch, watermark, start, found };
            self.told(&one);
            news.push(one);
        }
    }
}

/// What a look at one place gave.
enum Look {
    Nothing,
    /// Something changed meanwhile.
    Again,
    /// There is something, and no room for it in this answer.
    Full,
    Found(News),
}

fn refuse(at: &Standing, why: Why) -> Look {
    let (place, epoch, last_epoch, found) = (at.place, at.epoch, at.last_epoch, Found::Refused(why));
    let (watermark, start) = (Offset::ZERO, Offset::ZERO);
    Look::Found(News { place, epoch, at: at.end, last_epoch, watermark, start, found })
}

/// The epoch in which this node leads, if it is that of the follower.
fn leads_in<R: Runtime>(partition: &Partition<R>, asked: LeaderEpoch) -> Result<LeaderEpoch, Why> {
    let view = partition.view();
    let epoch = view.epoch();
    if view.part() != Part::Leads || partition.stopped().is_some() {
        return Err(Why::NotLeader);
    }
    // The planted bug M10: whoever asks is served, in whatever epoch.
    if asked == epoch || mutant!(10) {
        return Ok(epoch);
    }
    Err(if asked < epoch { Why::FencedEpoch } else { Why::UnknownEpoch })
}

/// What is told of what was read. The first batch comes whole though the position, or our start, lies inside of it: whoever is
/// damaged there needs all of it, and an empty log begins where it begins.
fn found_in(read: Read, at: Offset, (against, start): (Against, Offset)) -> Found {
    let base = BatchHeader::parse(&read.batches).map_or(start, |first| first.base_offset);
    match against {
        Against::Outside => Found::Below { base },
        Against::Before if base > at => Found::Below { base },
        _ => Found::Batches(read.batches),
    }
}

/// The watermark and the start, which is never above it: read first, since both move on.
fn offsets<R: Runtime>(partition: &Partition<R>) -> (Offset, Offset) {
    let start = partition.view().reader().start();
    (partition.view().watermark(), start)
}

async fn read_warm_or_cold<D: Disk>(reader: &LogReader<D>, ask: ReadAsk) -> Result<Read, ReadError> {
    match reader.try_read(ask)? {
        Some(read) => Ok(read),
        None => reader.read(ask).await,
    }
}
