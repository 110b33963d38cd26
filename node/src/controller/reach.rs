//! Asks the active controller, wherever it is.
//!
//! Owns: finding it, and asking again when it moved. Promises: an answer at the deadline at the latest; what was decided
//! is durable; a request that is not [`Ask::REPEATABLE`] is decided once at most, and when it is not known whether it
//! was, the answer is REQUEST_TIMED_OUT.
//! Leaves out: what is decided (`decide`), connections (`peer`). On a node that stands alone it is always here.
//! Called by the APIs of the control plane, by the replicas of partitions, by this broker's own heartbeat.
//!
//! ```text
//!  ask ─► who leads? ─┬─ this node ─► Controller::submit ─┐
//!                     ├─ another ───► Peers::request ─────┼─► answered
//!                     └─ nobody knows ─► wait, at most a pause, for a leader ─► again
//! ```
//! SHELL.

use std::fmt;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, Offset};
use dejaq_wire::peer::{Ask, FEATURE_LEVEL, Refusal as PeerRefusal};

use super::calls::{Answered, ControlCall};
use super::draft::Refusal;
use super::handle::{Controller, Quorum, Unavailable};
use super::quorum::calls::{ChangeVoters, Look};
use super::raft::Change;
use super::room;
use crate::peer::{AskError, ClusterId, Identity, PeerLimits, Peers};
use crate::runtime::{Mono, Runtime};

/// How long one node is asked what may be asked again: a controller that stands still is replaced meanwhile.
const ATTEMPT: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts; a new leader ends it early.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Asks the active controller. Cheap to clone.
pub struct Reach<R: Runtime> {
    runtime: R,
    controller: Controller,
    peers: Peers<R>,
}

impl<R: Runtime> Clone for Reach<R> {
    fn clone(&self) -> Reach<R> {
        let Reach { runtime, controller, peers } = self;
        Reach { runtime: runtime.clone(), controller: controller.clone(), peers: peers.clone() }
    }
}

impl<R: Runtime> fmt::Debug for Reach<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("me", &self.peers.me()).finish_non_exhaustive()
    }
}

/// How far one attempt got.
enum Attempt<T> {
    Over(Answered<T>),
    /// Nothing was decided, or it may be asked again.
    Again(String),
}

impl<R: Runtime> Reach<R> {
    /// By this node's own controller, or by its peers.
    #[must_use]
    pub fn new(runtime: R, controller: Controller, peers: Peers<R>) -> Reach<R> {
        Reach { runtime, controller, peers }
    }

    /// By this node's own controller only: for a node without peers.
    #[must_use]
    pub fn alone(runtime: R, controller: Controller, node: BrokerId) -> Reach<R> {
        let me = Identity { node, cluster: ClusterId::default(), speaks: FEATURE_LEVEL };
        let peers = Peers::new(runtime.clone(), me, PeerLimits::default());
        Reach::new(runtime, controller, peers)
    }

    /// This node's controller, active or not.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Has `request` decided by the active controller, and waits until it is durable, or until `deadline`.
    ///
    /// Dropping the future does not take the request back.
    pub async fn ask<Q: ControlCall>(&self, request: Q, deadline: Mono) -> Answered<Q::Told> {
        let mut pause = PAUSE.0;
        loop {
            let seen = self.controller.leader();
            let tried = match seen {
                Some(node) if node == self.peers.me() => self.ask_here(request.clone(), deadline).await,
                Some(node) => self.ask_there(node, request.clone(), deadline, Q::unpack).await,
                None => nobody(),
            };
            if let Some(answered) = self.judge(tried, seen, &mut pause, deadline).await {
                return answered;
            }
        }
    }

    /// The quorum as its leader sees it.
    pub async fn quorum(&self, deadline: Mono) -> Answered<Quorum> {
        let mut pause = PAUSE.0;
        loop {
            let seen = self.controller.leader();
            let tried = match seen {
                Some(node) if node == self.peers.me() => told(room::look(&self.controller).await),
                Some(node) => self.ask_there(node, Look, deadline, |answer| answer).await,
                None => nobody(),
            };
            if let Some(answered) = self.judge(tried, seen, &mut pause, deadline).await {
                return answered;
            }
        }
    }

    /// Changes who votes; done once it is committed.
    pub async fn change_voters(&self, change: Change, deadline: Mono) -> Answered<Offset> {
        let mut pause = PAUSE.0;
        loop {
            let seen = self.controller.leader();
            let change = change.clone();
            let tried = match seen {
                Some(node) if node == self.peers.me() => {
                    told(room::change_voters(&self.controller, change).await)
                }
                Some(node) => self.ask_there(node, ChangeVoters(change), deadline, |answer| answer).await,
                None => nobody(),
            };
            if let Some(answered) = self.judge(tried, seen, &mut pause, deadline).await {
                return answered;
            }
        }
    }

    /// The answer, if there is one or none can be had any more; else after a pause, which a new leader ends early.
    async fn judge<T>(
        &self,
        tried: Attempt<T>,
        seen: Option<BrokerId>,
        pause: &mut Duration,
        deadline: Mono,
    ) -> Option<Answered<T>> {
        let why = match tried {
            Attempt::Over(answered) => return Some(answered),
            Attempt::Again(why) => why,
        };
        if let Some(why) = self.controller.stopped() {
            let why = format!("the controller of this node has stopped: {why}");
            return Some(Answered::refused(Refusal::new(ErrorCode::NOT_CONTROLLER, why)));
        }
        let now = self.runtime.now();
        if now >= deadline {
            let why = format!("the active controller was not reached within the timeout: {why}");
            return Some(Answered::refused(Refusal::new(ErrorCode::REQUEST_TIMED_OUT, why)));
        }
        tracing::debug!(why, "asking the controller again");
        let until = deadline.min(now.plus(*pause));
        let _ = self.runtime.before(until, self.controller.leader_other_than(seen)).await;
        *pause = (*pause * 2).min(PAUSE.1);
        None
    }

    async fn ask_here<Q: ControlCall>(&self, request: Q, deadline: Mono) -> Attempt<Q::Told> {
        match self.controller.submit(&self.runtime, request, deadline).await {
            Err(why @ Unavailable::Elsewhere) => Attempt::Again(why.to_string()),
            other => Attempt::Over(Answered::of::<Q>(other)),
        }
    }

    async fn ask_there<Q: Ask, T>(
        &self,
        node: BrokerId,
        request: Q,
        deadline: Mono,
        unpack: fn(Q::Answer) -> Answered<T>,
    ) -> Attempt<T> {
        let repeatable = Q::REPEATABLE;
        let until = if repeatable { deadline.min(self.runtime.now().plus(ATTEMPT)) } else { deadline };
        let in_doubt = |error: AskError| match repeatable {
            true => Attempt::Again(error.to_string()),
            false => {
                mark!("an errand to the controller ends in doubt");
                let why = format!("{error}: whether the change is in effect is not known");
                Attempt::Over(Answered::refused(Refusal::new(ErrorCode::REQUEST_TIMED_OUT, why)))
            }
        };
        match self.peers.request(node, request, until).await {
            Ok(answer) => told(unpack(answer)),
            Err(error @ (AskError::Lost(_) | AskError::TimedOut(_))) => in_doubt(error),
            Err(AskError::Refused(_, PeerRefusal::Unknown)) => {
                mark!("the active controller is of an older release and does not know what is asked");
                let why = format!(
                    "the active controller, broker {node}, or the broker that was asked is of an older release, which does not \
                     know this request: upgrade every broker first"
                );
                Attempt::Over(Answered::refused(Refusal::new(ErrorCode::UNSUPPORTED_VERSION, why)))
            }
            Err(error @ AskError::Stopping) => {
                Attempt::Over(Answered::refused(Refusal::new(ErrorCode::NOT_CONTROLLER, error.to_string())))
            }
            Err(error @ AskError::Wrong(..)) => Attempt::Over(Answered::refused(Refusal::new(
                ErrorCode::UNKNOWN_SERVER_ERROR,
                error.to_string(),
            ))),
            Err(
                error @ (AskError::NoAddress(_)
                | AskError::NotConnected(_)
                | AskError::Full(_)
                | AskError::Refused(..)),
            ) => Attempt::Again(error.to_string()),
        }
    }
}

fn nobody<T>() -> Attempt<T> {
    Attempt::Again("no controller is active".to_owned())
}

/// What a node answered: that it is not the active one is no answer.
fn told<T>(answered: Answered<T>) -> Attempt<T> {
    match answered {
        Answered { result: Err(Refusal { code: ErrorCode::NOT_CONTROLLER, message }), .. } => {
            mark!("the controller moved while it was asked");
            Attempt::Again(message.unwrap_or_default())
        }
        answered => Attempt::Over(answered),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::decide::create_topics::CreateTopics;
    use super::super::decide::producer_ids::AllocateProducerIds;
    use super::super::decide::tests::{Desk, topic};
    use super::super::driver::tests::{idle, imaginary};
    use super::super::room::ControlRoom;
    use super::*;
    use crate::metadata::Published;
    use crate::peer::{PeerBound, PeerServer, Routes};
    use crate::runtime::tokio::TokioRuntime;
    use crate::runtime::tokio_net::SocketOptions;
    use dejaq_storage::file_disk::FileDisk;

    fn identity(node: i32) -> Identity {
        Identity { node: BrokerId(node), cluster: ClusterId::known("c"), speaks: FEATURE_LEVEL }
    }

    /// A node that answers for its controller to others.
    async fn serving(runtime: &TokioRuntime, node: i32, controller: Controller) -> PeerServer<TokioRuntime> {
        let peers = Peers::new(runtime.clone(), identity(node), PeerLimits::default());
        let published = Published::new(Arc::new(Desk::with_brokers(2).image.clone()));
        let room = ControlRoom::new(runtime.clone(), controller, published, peers);
        let routes = Routes { control: Some(Arc::new(room)), ..Routes::default() };
        let bound = PeerBound::bind(runtime, "127.0.0.1:0").await.expect("a free port");
        bound.serve(identity(node), PeerLimits::default(), routes)
    }

    #[tokio::test]
    async fn a_request_finds_the_active_controller_wherever_it_moved() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(dir.path()).expect("the directory is there");
        let runtime = TokioRuntime::new(disk, SocketOptions::default());
        let desk = Desk::with_brokers(2);
        let published = Published::new(Arc::new(desk.image.clone()));
        let settings = desk.settings.clone();
        let active = serving(&runtime, 1, imaginary(&runtime, desk.image.clone(), settings, published)).await;
        let (not_active, _) = idle();
        let other = serving(&runtime, 3, not_active).await;
        let (controller, leader) = idle();
        let peers = Peers::new(runtime.clone(), identity(2), PeerLimits::default());
        peers.know(BrokerId(1), active.address());
        peers.know(BrokerId(3), other.address());
        let reach = Reach::new(runtime.clone(), controller, peers);
        let soon = || runtime.now().plus(Duration::from_millis(150));

        let create = CreateTopics { topics: vec![topic("a", 2, 1)], validate_only: false };
        let nobody = reach.ask(create.clone(), soon()).await;
        assert_eq!(nobody.result.expect_err("nobody leads").code, ErrorCode::REQUEST_TIMED_OUT);

        leader.set(Some(BrokerId(3))); // which is not, or not yet
        let (asked, ()) =
            tokio::join!(reach.ask(create.clone(), runtime.now().plus(Duration::from_secs(20))), async {
                runtime.sleep(Duration::from_millis(50)).await;
                leader.set(Some(BrokerId(1)));
            });
        assert!(asked.end > desk.image.end(), "{asked:?}");
        let created = asked.result.expect("it was decided").remove(0);
        assert_eq!((created.0.as_str(), created.1.expect("new").partitions), ("a", 2));

        let broker_epoch = desk.image.broker(BrokerId(2)).expect("registered").epoch;
        let block = reach.ask(
            AllocateProducerIds { broker: BrokerId(2), broker_epoch },
            runtime.now().plus(Duration::from_secs(20)),
        );
        assert!(block.await.result.is_ok());

        drop(active);
        let again = reach.ask(create, soon()).await;
        assert_eq!(again.result.expect_err("it is gone").code, ErrorCode::REQUEST_TIMED_OUT);
        assert_eq!(again.end, Offset::NONE);
    }
}
