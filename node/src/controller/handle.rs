//! The controller of a node as everyone else sees it: a door to the driver's inbox.
//!
//! Owns: how a request travels to the driver and its answer back. Promises: every wait ends, at the asker's deadline or
//! with the driver. Leaves out: what happens behind the door (`driver`).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{ReplicaKey, Voter};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::draft::{Context, Decide, Draft};
use super::leader::Leader;
use super::quorum::inbox::{Errand, Inbox};
use super::raft::{Change, Lost};
use crate::runtime::{Mono, Runtime};

/// An answer whose records are durable and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<A> {
    /// What was decided.
    pub answer: A,
    /// The metadata offset after it: wait for [`Published::wait_applied`] to see it in effect on this broker.
    pub end: Offset,
}

/// Why there is no answer. Whether the request takes effect is known only for `Full`, `Stopped` and `Elsewhere`: it does
/// not.
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
    /// Answer REQUEST_TIMED_OUT, never NOT_CONTROLLER, which would prove that nothing was done: the records are proposed,
    /// and only the next leader, or a restart, will tell whether they are there.
    #[error(
        "the controller failed, or was replaced, while the change was made: whether it is in effect is known later"
    )]
    Unsure,
}

type Reply<A> = Result<Committed<A>, Unavailable>;

/// What the quorum looks like from its leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Who leads it, as far as is known.
    pub leader: Option<BrokerId>,
    /// Whether this is the leader's own word: only it knows how far the others are.
    pub is_leader: bool,
    /// How far the log is committed.
    pub committed: Offset,
    /// Who votes, and how far each is.
    pub voters: Vec<(Voter, Reached)>,
    /// Who only follows.
    pub observers: Vec<(ReplicaKey, Reached)>,
}

/// How far a node of the quorum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The end of its log; [`Offset::NONE`] if it was never heard.
    pub end: Offset,
    /// Since when it was not heard; `None` if never, or if it is not known here.
    pub silent: Option<Duration>,
}

/// The controller as everyone else sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    door: Arc<Door>,
    stopped: Arc<OnceLock<String>>,
    leader: Leader,
}

/// The driver ends when nobody can ask it anything any more.
#[derive(Debug)]
struct Door(Inbox);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Controller {
    pub(super) fn new(inbox: Inbox, stopped: Arc<OnceLock<String>>, leader: Leader) -> Controller {
        Controller { door: Arc::new(Door(inbox)), stopped, leader }
    }

    /// The node whose controller is active, as far as this one knows; this one only once it may decide.
    #[must_use]
    pub fn leader(&self) -> Option<BrokerId> {
        self.leader.get()
    }

    /// The same for whoever watches from outside: it keeps nothing of the controller in use.
    pub fn watch_leader(&self) -> impl Fn() -> Option<BrokerId> + Send + Sync + 'static {
        let leader = self.leader.clone();
        move || leader.get()
    }

    /// Waits until it is not `seen` any more. Has no deadline of its own. Cancel safe.
    pub async fn leader_other_than(&self, seen: Option<BrokerId>) -> Option<BrokerId> {
        self.leader.other_than(seen).await
    }

    /// Has `request` decided, and waits until its records are committed and published, or until `deadline`.
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
        let request = Box::new(Asked { request, reply });
        let asked = async {
            if !self.inbox().ask(request).await {
                return Err(Unavailable::Stopped);
            }
            answer.await.unwrap_or(Err(Unavailable::Stopped))
        };
        runtime.before(deadline, asked).await.unwrap_or(Err(Unavailable::Late))
    }

    /// Changes who votes, if this node leads; done once it is committed.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn change_voters(&self, change: Change) -> Result<Offset, Lost> {
        let (reply, answer) = oneshot::channel();
        if !self.inbox().errand(Errand::Change(change, reply)) {
            return Err(Lost::NotReady);
        }
        answer.await.unwrap_or(Err(Lost::NotLeader))
    }

    /// What this node knows of the quorum; `None` if its controller has stopped.
    pub async fn look_at_quorum(&self) -> Option<Quorum> {
        let (reply, answer) = oneshot::channel();
        if !self.inbox().errand(Errand::Look(reply)) {
            return None;
        }
        answer.await.ok()
    }

    /// Stops the controller after what is in its inbox, lets another node lead, and closes the log.
    ///
    /// # Errors
    /// Why the log could not be closed cleanly; then the data directory must not be marked clean.
    pub async fn close(&self) -> Result<(), String> {
        let (done, closed) = oneshot::channel();
        let stopped = || self.stopped.get().cloned().unwrap_or_else(|| "the controller is gone".into());
        if !self.inbox().close(done) {
            return Err(stopped());
        }
        closed.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Why the controller stopped by itself, if it did: the node is not healthy any more.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.door.0
    }
}

/// Gives an answer to who waits for it; a promise that carries its condition.
pub(crate) type Release = Box<dyn FnOnce(Result<Offset, Unavailable>) + Send>;

/// A request as it waits.
pub(crate) trait Request: Send {
    fn decide(self: Box<Self>, draft: &mut Draft, context: &mut Context<'_>) -> Release;
    fn refuse(self: Box<Self>, why: Unavailable);
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

    fn refuse(self: Box<Self>, why: Unavailable) {
        let _ = self.reply.send(Err(why)); // as above
    }
}
