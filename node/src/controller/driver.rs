//! The shell of the controller: one task, one bounded mailbox, one journal.
//!
//! Owns: the order in which requests are decided, and the image that the next decision starts from.
//! Promises: an answer, and the image that it speaks of, leave only after their records are durable (MQ-12); a
//! request whose asker has gone is decided all the same. A failed sync stops the controller for good: what is durable
//! is known again only after a restart. Everything that waits in the mailbox shares the next sync.
//! Leaves out: what to decide (`decide`), bytes (`journal`).
//! Called by the broker at start, and by API handlers through [`Controller::submit`].
//!
//! ```text
//!  mailbox ─► take all that is there ─► decide each on one draft ─► append one batch ─► sync ─► publish ─► answer all
//! ```

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dejaq_storage::{DataDir, mark, mutant};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::decide::register_broker::{Entry, RegisterBroker};
use super::decide::tick::{TICK, Tick};
use super::draft::{Context, Decide, Draft};
use super::journal::{Journal, JournalError, WriteError};
use super::leader::Leader;
use super::liveness::Liveness;
use super::settings::Settings;
use crate::metadata::record::Endpoint;
use crate::metadata::{Image, Published, Record};
use crate::runtime::{Mono, Runtime};

/// Requests that may wait; more wait at the door until their deadline.
const MAILBOX: usize = 256;
/// Requests that share one sync at most.
const TURN_REQUESTS: usize = 64;
/// Records after which a turn takes no further request.
const TURN_RECORDS: usize = 10_000;
/// Time without a request after which the durable point is written down.
const IDLE: Duration = Duration::from_secs(1);
/// How long a sync that found no room is tried again before the controller gives up.
const FULL_PATIENCE: Duration = Duration::from_secs(30);
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// An answer whose records are durable and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<A> {
    /// What was decided.
    pub answer: A,
    /// The metadata offset after it: wait for [`Published::wait_applied`] to see it in effect on this broker.
    pub end: Offset,
}

/// Why there is no answer. Whether the request takes effect is known only for `Full` and `Stopped`: it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Answer REQUEST_TIMED_OUT.
    #[error("the controller did not answer within the request's timeout")]
    Late,
    /// Answer KAFKA_STORAGE_ERROR: nothing was changed.
    #[error("the disk is full: metadata cannot be changed now")]
    Full,
    /// Answer NOT_CONTROLLER: this node's controller had stopped before it looked at the request.
    #[error("the controller of this node has stopped")]
    Stopped,
    /// Answer NOT_CONTROLLER, or ask the one that is: this node's controller is not the active one.
    #[error("the controller of this node is not the active one")]
    Elsewhere,
    /// Answer REQUEST_TIMED_OUT, never NOT_CONTROLLER, which would prove that nothing was done: the records are written, and
    /// only a restart will tell whether they are there.
    #[error("the disk failed while the change was written: whether it is in effect is known after a restart")]
    Unsure,
}

type Reply<A> = Result<Committed<A>, Unavailable>;

/// The controller as everyone else sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    mailbox: mpsc::Sender<Mail>,
    stopped: Arc<OnceLock<String>>,
    leader: Leader,
}

impl Controller {
    /// The node whose controller is active, as far as this one knows; this one only once it may decide.
    #[must_use]
    pub fn leader(&self) -> Option<BrokerId> {
        self.leader.get()
    }

    /// Waits until it is not `seen` any more. Has no deadline of its own. Cancel safe.
    pub async fn leader_other_than(&self, seen: Option<BrokerId>) -> Option<BrokerId> {
        self.leader.other_than(seen).await
    }

    /// Has `request` decided, and waits until its records are durable and published, or until `deadline`.
    ///
    /// Dropping the future does not take the request back.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn submit<R: Runtime, D: Decide>(
        &self,
        runtime: &R,
        request: D,
        deadline: Mono,
    ) -> Reply<D::Answer> {
        let (reply, answer) = oneshot::channel();
        let mail = Mail::Request(Box::new(Asked { request, reply }));
        let asked = async {
            self.mailbox.send(mail).await.map_err(|_| Unavailable::Stopped)?;
            answer.await.unwrap_or(Err(Unavailable::Stopped))
        };
        runtime.before(deadline, asked).await.unwrap_or(Err(Unavailable::Late))
    }

    /// Stops the controller after what is in its mailbox, and closes its log.
    ///
    /// # Errors
    /// Why the log could not be closed cleanly; then the data directory must not be marked clean.
    pub async fn close(&self) -> Result<(), String> {
        let (done, closed) = oneshot::channel();
        let stopped = || self.stopped.get().cloned().unwrap_or_else(|| "the controller is gone".into());
        self.mailbox.send(Mail::Close(done)).await.map_err(|_| stopped())?;
        closed.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Why the controller stopped by itself, if it did: the node is not healthy any more.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }
}

/// What the controller of a node begins with.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The node's settings.
    pub settings: Settings,
    /// Where clients reach this broker.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub rack: Option<String>,
}

/// A controller that runs, and this broker's registration in it.
#[derive(Debug)]
pub struct Started {
    /// To submit requests to.
    pub controller: Controller,
    /// What is decided and durable.
    pub published: Published,
    /// This life of this broker.
    pub broker_epoch: BrokerEpoch,
}

/// Reads the metadata back, registers this life of this broker, raises the leader epochs of all it leads, makes that
/// durable, publishes the image and starts the task.
///
/// # Errors
/// [`JournalError`]: the node does not start, and deletes nothing.
pub async fn start<R: Runtime>(
    runtime: &R,
    data: &DataDir<R::Disk>,
    boot: Boot,
) -> Result<Started, JournalError> {
    let (mut journal, image) = Journal::open(runtime.disk().clone(), data, runtime.unix_ms()).await?;
    let node = boot.settings.node;
    let incarnation = (u128::from(runtime.random_u64()) << 64) | u128::from(runtime.random_u64());
    let register = RegisterBroker {
        broker: node,
        incarnation,
        endpoints: boot.endpoints,
        rack: boot.rack,
        directory_id: data.meta().directory_id,
        clean: data.was_clean(),
        entry: Entry::Live,
    };
    let mut draft = Draft::on(&image);
    let mut entropy = || runtime.random_u64();
    let now = runtime.now();
    let mut liveness = Liveness::take_over(now, &image);
    let mut context =
        Context { settings: &boot.settings, entropy: &mut entropy, now, liveness: &mut liveness };
    let broker_epoch = register.decide(&mut draft, &mut context);
    let broker_epoch = broker_epoch.expect("a controller that has just begun heard no other process");
    assert!(!draft.records().is_empty(), "a new incarnation always registers");
    let end = journal.append(draft.records(), runtime.unix_ms())?;
    journal.sync().await?;
    let image = Arc::new(draft.into_image(end));
    info!(
        broker = node.0,
        broker_epoch = broker_epoch.0,
        controller_epoch = journal.epoch().0,
        topics = image.topic_count(),
        partitions = image.partition_count(),
        "metadata is read back and this broker is registered"
    );
    let published = Published::new(image.clone());
    let (mailbox, inbox) = mpsc::channel(MAILBOX);
    let stopped = Arc::new(OnceLock::new());
    let leader = Leader::default();
    leader.set(Some(node));
    let driver = Driver {
        runtime: runtime.clone(),
        journal,
        image,
        published: published.clone(),
        settings: boot.settings,
        liveness,
        stopped: stopped.clone(),
    };
    runtime.spawn("controller", driver.run(inbox));
    Ok(Started { controller: Controller { mailbox, stopped, leader }, published, broker_epoch })
}

enum Mail {
    Request(Box<dyn Request>),
    Close(oneshot::Sender<Result<(), String>>),
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mail::Request(_) => "Request",
            Mail::Close(_) => "Close",
        })
    }
}

/// Gives an answer to who waits for it; a promise that carries its condition.
type Release = Box<dyn FnOnce(Result<Offset, Unavailable>) + Send>;

trait Request: Send {
    fn decide(self: Box<Self>, draft: &mut Draft, context: &mut Context<'_>) -> Release;
}

struct Asked<D: Decide> {
    request: D,
    reply: oneshot::Sender<Reply<D::Answer>>,
}

impl<D: Decide> Request for Asked<D> {
    fn decide(self: Box<Self>, draft: &mut Draft, context: &mut Context<'_>) -> Release {
        let Asked { request, reply } = *self;
        let answer = request.decide(draft, context);
        Box::new(move |durable| {
            // Who asked may have gone: the deadline passed, or the connection ended.
            let _ = reply.send(durable.map(|end| Committed { answer, end }));
        })
    }
}

struct Driver<R: Runtime> {
    runtime: R,
    journal: Journal<R::Disk>,
    /// Everything in it is durable and published.
    image: Arc<Image>,
    published: Published,
    settings: Settings,
    liveness: Liveness,
    stopped: Arc<OnceLock<String>>,
}

impl<R: Runtime> Driver<R> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Mail>) {
        let mut idle_sync_due = true;
        let mut next_tick = self.runtime.now().plus(TICK);
        loop {
            if self.needs_ticks() && self.runtime.now() >= next_tick {
                next_tick = self.runtime.now().plus(TICK);
                if let Err(why) = self.tick().await {
                    return self.stop(&why);
                }
            }
            let mail = if self.needs_ticks() {
                match self.runtime.before(next_tick, inbox.recv()).await {
                    Some(mail) => mail,
                    None => continue,
                }
            } else if idle_sync_due {
                let deadline = self.runtime.now().plus(IDLE);
                match self.runtime.before(deadline, inbox.recv()).await {
                    Some(mail) => mail,
                    None => {
                        idle_sync_due = false;
                        match self.journal.sync_idle().await {
                            Ok(()) | Err(WriteError::Full) => continue,
                            Err(why @ WriteError::Sealed(_)) => return self.stop(&why),
                        }
                    }
                }
            } else {
                inbox.recv().await
            };
            let mut requests = Vec::new();
            let mut close = None;
            match mail {
                None => return, // every handle is gone: the broker was dropped
                Some(Mail::Request(request)) => requests.push(request),
                Some(Mail::Close(done)) => close = Some(done),
            }
            if !requests.is_empty() {
                if let Err(why) = self.turn(requests, &mut inbox, &mut close).await {
                    return self.stop(&why);
                }
                idle_sync_due = true;
            }
            if let Some(done) = close {
                let closed = self.journal.close().await.map_err(|why| format!("the metadata log: {why}"));
                let _ = done.send(closed); // the broker waits for it; if it does not, nobody needs it
                return;
            }
        }
    }

    /// Whether anything can happen by the passing of time: a broker that stands alone watches nobody.
    fn needs_ticks(&self) -> bool {
        self.image.brokers().nth(1).is_some()
    }

    /// Lets time pass: fences, elects, heals.
    async fn tick(&mut self) -> Result<(), WriteError> {
        let draft = self.decide_tick();
        self.commit(draft, Vec::new()).await
    }

    fn decide_tick(&mut self) -> Draft {
        let mut draft = Draft::on(&self.image);
        let mut entropy = || self.runtime.random_u64();
        let mut context = Context {
            settings: &self.settings,
            entropy: &mut entropy,
            now: self.runtime.now(),
            liveness: &mut self.liveness,
        };
        Tick.decide(&mut draft, &mut context);
        draft
    }

    /// Decides what is in `requests` and in the mailbox, makes it durable, publishes it, answers it.
    async fn turn(
        &mut self,
        requests: Vec<Box<dyn Request>>,
        inbox: &mut mpsc::Receiver<Mail>,
        close: &mut Option<oneshot::Sender<Result<(), String>>>,
    ) -> Result<(), WriteError> {
        let mut draft = Draft::on(&self.image);
        let mut releases = Vec::new();
        let mut waiting = requests.into_iter();
        while releases.len() < TURN_REQUESTS && draft.records().len() < TURN_RECORDS && close.is_none() {
            let request = match waiting.next() {
                Some(request) => request,
                None => match inbox.try_recv() {
                    Ok(Mail::Request(request)) => request,
                    Ok(Mail::Close(done)) => {
                        *close = Some(done);
                        break;
                    }
                    Err(_) => break,
                },
            };
            let mut entropy = || self.runtime.random_u64();
            let mut context = Context {
                settings: &self.settings,
                entropy: &mut entropy,
                now: self.runtime.now(),
                liveness: &mut self.liveness,
            };
            releases.push(request.decide(&mut draft, &mut context));
        }
        assert!(waiting.next().is_none(), "a turn takes at least the request that it was begun for");
        self.commit(draft, releases).await
    }

    async fn commit(&mut self, draft: Draft, releases: Vec<Release>) -> Result<(), WriteError> {
        if draft.records().is_empty() {
            release(releases, Ok(self.image.end()));
            return Ok(());
        }
        let end = match self.journal.append(draft.records(), self.runtime.unix_ms()) {
            Ok(end) => end,
            Err(WriteError::Full) => {
                warn!("the disk is full: a change of the metadata is refused");
                release(releases, Err(Unavailable::Full));
                return Ok(());
            }
            Err(why @ WriteError::Sealed(_)) => {
                release(releases, Err(Unavailable::Unsure));
                return Err(why);
            }
        };
        let mut releases = Some(releases);
        if mutant!(36) {
            // The planted bug: the change is published and answered before its records are durable.
            self.published.publish(Arc::new(draft.clone().into_image(end)));
            release(releases.take().unwrap_or_default(), Ok(end));
        }
        if let Err(why) = self.sync().await {
            mark!("a change of the metadata ends in doubt");
            release(releases.unwrap_or_default(), Err(Unavailable::Unsure));
            return Err(why);
        }
        tell(&self.image, draft.records());
        self.image = Arc::new(draft.into_image(end));
        self.published.publish(self.image.clone());
        release(releases.unwrap_or_default(), Ok(end));
        Ok(())
    }

    /// Syncs what was appended; a full disk is waited for, because the records are in the log already.
    async fn sync(&mut self) -> Result<(), WriteError> {
        let give_up = self.runtime.now().plus(FULL_PATIENCE);
        loop {
            match self.journal.sync().await {
                Err(WriteError::Full) if self.runtime.now() < give_up => {
                    warn!("the disk is full: a change of the metadata waits for room");
                    self.runtime.sleep(FULL_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Gives up for good. Everyone who waits, and everyone who comes, is told by the closed mailbox.
    fn stop(self, why: &WriteError) {
        error!(%why, "the controller stops: metadata cannot be changed until this node is restarted");
        self.stopped.set(why.to_string()).expect("the driver stops once");
    }
}

fn release(releases: Vec<Release>, durable: Result<Offset, Unavailable>) {
    for release in releases {
        release(durable);
    }
}

/// A line in the log for what an operator wants to find there again.
fn tell(before: &Image, records: &[Record]) {
    for record in records {
        match record {
            Record::TopicCreated(created) => info!(
                topic = created.name,
                topic_id = %created.topic_id,
                partitions = created.partitions.len(),
                "topic created"
            ),
            Record::TopicDeleted(deleted) => {
                let name = before.topic(deleted.topic_id).map_or("?", |topic| &*topic.name);
                info!(topic = name, topic_id = %deleted.topic_id, "topic deleted");
            }
            Record::PartitionsAdded(added) => {
                let name = before.topic(added.topic_id).map_or("?", |topic| &*topic.name);
                info!(topic = name, first = added.first.0, more = added.partitions.len(), "partitions added");
            }
            Record::ConfigChanged(changed) => {
                info!(resource = ?changed.resource, name = changed.name, value = ?changed.value, "config changed");
            }
            Record::BrokerStateChanged(changed) => info!(
                broker = changed.broker.0,
                broker_epoch = changed.broker_epoch.0,
                fenced = changed.fenced,
                shutting_down = changed.shutting_down,
                "broker changed its state"
            ),
            Record::BrokerUnregistered(gone) => info!(broker = gone.broker.0, "broker left the cluster"),
            Record::DrainChanged(changed) => {
                info!(broker = changed.broker.0, draining = changed.draining, "draining of a broker changed");
            }
            Record::RebalanceChanged(changed) => info!(active = changed.active, "rebalancing changed"),
            Record::UncleanElected(elected) => {
                let name = before.topic(elected.topic_id).map_or("?", |topic| &*topic.name);
                warn!(
                    topic = name,
                    partition = elected.partition.0,
                    leader = elected.leader.0,
                    leader_epoch = elected.leader_epoch.0,
                    reason = ?elected.reason,
                    "UNCLEAN ELECTION: acknowledged records may be lost"
                );
            }
            Record::PartitionChanged(_)
            | Record::LeadershipsRestarted(_)
            | Record::ProducerIdsAllocated(_)
            | Record::BrokerRegistered(_)
            | Record::FeatureLevelSet(_) => debug!(?record, "metadata changed"),
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
pub(crate) mod tests;
