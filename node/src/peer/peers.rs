//! The handle to ask other nodes.
//!
//! Owns: which nodes are known and where, one link to each. Promises: a request ends at its deadline at the latest;
//! what is not [`Ask::REPEATABLE`] is sent at most once; a link that is full refuses at once instead of waiting.
//! Leaves out: choosing whom to ask, and asking again. Called by fetchers, the raft driver, whoever needs a controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Ask, Body, Parts, PeerError, Refusal};
use tokio::sync::{mpsc, oneshot};

use super::greeting::Identity;
use super::link::{self, Order};
use super::{PeerLimits, outbox};
use crate::runtime::memory::MemoryBudget;
use crate::runtime::{Mono, Runtime};

/// Nodes that may be known.
const MAX_PEERS: usize = 10_000;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody told where this node is. Nothing was sent.
    #[error(
        "the address of {0:?} is not known; a node that joins names the voters that there are now in --quorum: dejaq quorum status"
    )]
    NoAddress(BrokerId),
    /// No connection came about. Nothing was sent; back off.
    #[error("no connection to {0:?}")]
    NotConnected(BrokerId),
    /// Too many requests to this node wait already. Nothing was sent; back off.
    #[error("too many requests to {0:?} wait")]
    Full(BrokerId),
    /// The connection broke: whether the other side acted is not known.
    #[error("the connection to {0:?} broke")]
    Lost(BrokerId),
    /// The deadline came: whether the other side acted, or will act, is not known.
    #[error("{0:?} did not answer in time")]
    TimedOut(BrokerId),
    /// The other side says no; it did nothing.
    #[error("{0:?}: {1}")]
    Refused(BrokerId, Refusal),
    /// One side broke the protocol, or the request exceeds its bounds.
    #[error("a message to or from {0:?} is wrong: {1}")]
    Wrong(BrokerId, PeerError),
    /// This node stops.
    #[error("this node stops")]
    Stopping,
}

pub(super) struct Shared<R: Runtime> {
    pub runtime: R,
    pub me: Identity,
    pub limits: PeerLimits,
    pub memory: MemoryBudget,
}

struct Link {
    address: String,
    orders: mpsc::Sender<Order>,
}

struct State {
    links: BTreeMap<BrokerId, Link>,
    is_stopped: bool,
}

/// Asks other nodes. Cheap to clone; links end when the last clone is dropped, or at [`Peers::stop`].
pub struct Peers<R: Runtime> {
    shared: Arc<Shared<R>>,
    state: Arc<Mutex<State>>,
}

impl<R: Runtime> Clone for Peers<R> {
    fn clone(&self) -> Peers<R> {
        Peers { shared: self.shared.clone(), state: self.state.clone() }
    }
}

impl<R: Runtime> Peers<R> {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(runtime: R, me: Identity, limits: PeerLimits) -> Peers<R> {
        assert!(limits.in_flight > 0, "{limits:?}");
        let memory = MemoryBudget::new(limits.memory_bytes);
        let state = State { links: BTreeMap::new(), is_stopped: false };
        Peers { shared: Arc::new(Shared { runtime, me, limits, memory }), state: Arc::new(Mutex::new(state)) }
    }

    /// Who this node is.
    #[must_use]
    pub fn me(&self) -> BrokerId {
        self.shared.me.node
    }

    /// Learns where a node listens for its peers, as `host:port`. A changed address ends the link to the old one.
    pub fn know(&self, node: BrokerId, address: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = state.links.get(&node).is_some_and(|link| link.address == address);
        if node == self.me() || is_known || state.is_stopped {
            return;
        }
        assert!(state.links.len() < MAX_PEERS, "{} nodes are known", state.links.len());
        let (orders, taken) = mpsc::channel(self.shared.limits.in_flight);
        let task = link::run(self.shared.clone(), node, address.to_owned(), taken);
        state.links.insert(node, Link { address: address.to_owned(), orders });
        drop(state);
        self.shared.runtime.spawn("peer-link", task);
    }

    /// Forgets a node; what it was asked is given up.
    pub fn forget(&self, node: BrokerId) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).links.remove(&node);
    }

    /// Where a node listens, as far as is known.
    #[must_use]
    pub fn address(&self, node: BrokerId) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.links.get(&node).map(|link| link.address.clone())
    }

    /// Asks `node` and waits for its answer, until `deadline` at most. Cancel safe: the answer is then thrown away.
    ///
    /// # Errors
    /// [`AskError`], see its variants.
    pub async fn request<Q: Ask>(
        &self,
        node: BrokerId,
        question: Q,
        deadline: Mono,
    ) -> Result<Q::Answer, AskError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(node, order(node, question, deadline, Some(reply))?)?;
        let answered = self.shared.runtime.before(deadline, answer).await;
        match answered {
            None => Err(AskError::TimedOut(node)),
            Some(Err(_)) => Err(AskError::Lost(node)),
            Some(Ok(parts)) => Q::Answer::from_parts(parts?).map_err(|error| AskError::Wrong(node, error)),
        }
    }

    /// Says something whose answer nobody waits for, in order with everything else that is asked of `node`. It may be
    /// lost; after `deadline` it is not sent any more.
    ///
    /// # Errors
    /// [`AskError`]: it was not even tried.
    pub fn tell<Q: Ask>(&self, node: BrokerId, question: Q, deadline: Mono) -> Result<(), AskError> {
        self.enqueue(node, order(node, question, deadline, None)?)
    }

    /// Gives up every link and every request; later ones are refused.
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_stopped = true;
        state.links.clear();
    }

    fn enqueue(&self, node: BrokerId, order: Order) -> Result<(), AskError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped {
            return Err(AskError::Stopping);
        }
        let link = state.links.get(&node).ok_or(AskError::NoAddress(node))?;
        link.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Full(node),
            mpsc::error::TrySendError::Closed(_) => AskError::Lost(node),
        })
    }
}

/// In the newest version, and in the older one for a peer that is of an older release.
fn order<Q: Ask>(
    node: BrokerId,
    question: Q,
    deadline: Mono,
    reply: Option<oneshot::Sender<Result<Parts, AskError>>>,
) -> Result<Order, AskError> {
    let wrong = |error| AskError::Wrong(node, error);
    let older = question.older().map_err(wrong)?;
    let parts = question.into_parts().map_err(wrong)?;
    Ok(Order { parts, older, repeatable: Q::REPEATABLE, repeated: false, deadline, reply })
}

impl<R: Runtime> Shared<R> {
    pub(super) fn outbox(
        &self,
        writer: <R::Net as crate::runtime::net::Net>::Writer,
    ) -> mpsc::Sender<crate::runtime::net::Frame> {
        outbox::start(&self.runtime, &self.limits, writer)
    }
}
