//! Everything that happens to the controller of a node, in one place that its driver empties.
//!
//! Owns: what waits, and the bounds of it. Promises: one notice for everything, so that the driver waits in one place and
//! chooses among nothing; a message that finds no room is lost, which the quorum bears; a request that finds none waits
//! at the door until its own deadline; after the end nobody waits for ever.
//! Leaves out: what is done with it (`controller::driver`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_storage::mark;
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::raft::Envelope;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::controller::handle::{Quorum, Request};
use crate::controller::raft::{Change, Lost, Snapshot, Ticket};

/// Requests that may wait; more wait at the door until their deadline.
const REQUESTS: usize = 256;
/// Messages of peers that may wait.
const MESSAGES: usize = 1024;
/// Changes of the quorum, and looks at it, that may wait.
const ERRANDS: usize = 64;

/// A request, and its place.
pub(crate) struct Waiting {
    pub request: Box<dyn Request>,
    _place: OwnedSemaphorePermit,
}

/// What an operator wants of the quorum.
pub(crate) enum Errand {
    Change(Change, oneshot::Sender<Result<Offset, Lost>>),
    Look(oneshot::Sender<Quorum>),
}

/// What has happened since the driver looked last.
#[derive(Default)]
pub(crate) struct Mail {
    pub durable: Option<Ticket>,
    /// The disk failed, or can never be written again.
    pub failed: Option<String>,
    /// Whether the disk is full, if that changed.
    pub full: Option<bool>,
    pub compacted: Option<Arc<Snapshot>>,
    /// There was no room for the snapshot.
    pub left_out: bool,
    pub messages: VecDeque<Envelope>,
    pub requests: VecDeque<Waiting>,
    pub errands: VecDeque<Errand>,
    /// Brokers whose process is gone: nobody listens where they listened.
    pub gone: BTreeSet<BrokerId>,
    pub close: Option<oneshot::Sender<Result<(), String>>>,
    /// Every handle is dropped: the broker is gone.
    pub abandoned: bool,
}

struct Shared {
    mail: Mutex<Mail>,
    /// One waiter: the driver.
    notice: Notify,
    places: Arc<Semaphore>,
    ended: Mutex<bool>,
}

/// The inbox. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Inbox(Arc<Shared>);

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

impl Inbox {
    pub fn new() -> Inbox {
        let places = Arc::new(Semaphore::new(REQUESTS));
        Inbox(Arc::new(Shared {
            mail: Mutex::default(),
            notice: Notify::new(),
            places,
            ended: Mutex::new(false),
        }))
    }

    /// Puts a request in when there is a place; false after the end. Cancel safe.
    pub async fn ask(&self, request: Box<dyn Request>) -> bool {
        let Ok(place) = self.0.places.clone().acquire_owned().await else { return false };
        self.put(|mail| mail.requests.push_back(Waiting { request, _place: place }))
    }

    /// Whether there was room.
    pub fn message(&self, envelope: Envelope) -> bool {
        let mut has_room = false;
        self.put(|mail| {
            has_room = mail.messages.len() < MESSAGES;
            if has_room {
                mail.messages.push_back(envelope);
            } else {
                mark!("a message of the quorum finds no room");
            }
        }) && has_room
    }

    /// Whether there was room.
    pub fn errand(&self, errand: Errand) -> bool {
        let mut has_room = false;
        self.put(|mail| {
            has_room = mail.errands.len() < ERRANDS;
            if has_room {
                mail.errands.push_back(errand);
            }
        }) && has_room
    }

    pub fn durable(&self, ticket: Ticket) {
        self.put(|mail| mail.durable = mail.durable.max(Some(ticket)));
    }

    pub fn failed(&self, why: String) {
        self.put(|mail| mail.failed = mail.failed.take().or(Some(why)));
    }

    pub fn full(&self, is_full: bool) {
        self.put(|mail| mail.full = Some(is_full));
    }

    pub fn compacted(&self, snapshot: Arc<Snapshot>) {
        self.put(|mail| mail.compacted = Some(snapshot));
    }

    pub fn left_out(&self) {
        self.put(|mail| mail.left_out = true);
    }

    pub fn gone(&self, broker: BrokerId) {
        self.put(|mail| {
            mail.gone.insert(broker);
        });
    }

    /// False after the end.
    pub fn close(&self, done: oneshot::Sender<Result<(), String>>) -> bool {
        self.put(|mail| mail.close = Some(done))
    }

    pub fn abandon(&self) {
        self.put(|mail| mail.abandoned = true);
    }

    /// Waits until something happened. Cancel safe. For the driver only.
    pub async fn wait(&self) {
        self.0.notice.notified().await;
    }

    /// All that happened. For the driver only.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut self.lock())
    }

    /// Nothing comes any more, and nobody waits any more.
    pub fn end(&self) {
        self.0.places.close();
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        drop(self.take());
    }

    fn put(&self, put: impl FnOnce(&mut Mail)) -> bool {
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return false;
        }
        put(&mut self.lock());
        drop(ended);
        self.0.notice.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.0.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
