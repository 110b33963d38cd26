//! What replication needs of the world outside: a way to leaders, and a way to the active controller.
//!
//! Owns: the two traits, [`Links`]. Promises: nothing; these are seams. Tests give their own; the broker gives `peer`'s
//! connections and the controller wherever it is.
//! Leaves out: who the controller is. Handed to `Directory::connect` once this life of the broker is registered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId};
use dejaq_wire::peer::replica::{Place, ReplicaFetch, ReplicaFetched};

use super::isr::Proposal;
use crate::peer::{AskError, Peers};
use crate::runtime::{Mono, Runtime};

/// Something that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Carries fetches to leaders.
pub trait Transport: Send + Sync + 'static {
    /// Asks `leader`. Calls leave in the order in which the futures are first polled.
    fn fetch(
        &self,
        leader: BrokerId,
        fetch: ReplicaFetch,
        deadline: Mono,
    ) -> Later<Result<ReplicaFetched, AskError>>;
}

impl<R: Runtime> Transport for Peers<R> {
    fn fetch(
        &self,
        leader: BrokerId,
        fetch: ReplicaFetch,
        deadline: Mono,
    ) -> Later<Result<ReplicaFetched, AskError>> {
        let peers = self.clone();
        Box::pin(async move { peers.request(leader, fetch, deadline).await })
    }
}

/// What the controller said to a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is in force; the metadata will say so.
    Taken,
    /// Nothing was changed by it, so that no metadata will answer it: it was what there is, or a controller of the release
    /// before did not read all of it.
    Unchanged,
    /// It is not.
    Refused(ErrorCode),
    /// Not known: there was no answer.
    Unsure,
}

/// Asks the active controller, wherever it is. Ends by itself within seconds.
pub trait AskController: Send + Sync + 'static {
    /// Proposes in-sync sets; one answer for each, in their order.
    fn propose(&self, proposals: Vec<(Place, Proposal)>) -> Later<Vec<Answer>>;
}

/// The links of one node.
#[derive(Clone)]
pub struct Links {
    /// This life of the broker.
    pub life: BrokerEpoch,
    /// To leaders.
    pub transport: Arc<dyn Transport>,
    /// To the controller.
    pub controller: Arc<dyn AskController>,
    /// A follower that did not have everything for so long leaves the in-sync set (`replica.lag.time.max.ms`).
    pub lag: Duration,
    /// How long a leader holds a fetch without news.
    pub max_wait: Duration,
}
