//! SHELL. The coordinators of a node, as the composition root builds and takes them down: groups and transactions.
//!
//! Owns: the order among them. Leaves out: every decision. Used by `broker`, and by the tests of the APIs.

use std::sync::Arc;

use super::Shards;
use super::group::{self, Groups};
use super::machine::{Counts, NoErrands};
use super::markers::{Deliveries, Markers};
use super::transactions::Transactions;
use super::txn::{self, Txns};
use crate::metadata::{Image, Published};
use crate::peer::Peers;
use crate::replica::Directory;
use crate::runtime::Runtime;

/// What is allowed.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Of groups.
    pub groups: group::Settings,
    /// Of transactions.
    pub transactions: txn::Settings,
}

/// The coordinators of one node. Clones are the same.
pub struct Coordinators<R: Runtime> {
    /// Of groups.
    pub groups: Arc<Shards<R, Groups>>,
    /// Of transactions, and the way to those of other nodes.
    pub transactions: Arc<Transactions<R>>,
}

impl<R: Runtime> Clone for Coordinators<R> {
    fn clone(&self) -> Coordinators<R> {
        Coordinators { groups: self.groups.clone(), transactions: self.transactions.clone() }
    }
}

impl<R: Runtime> Coordinators<R> {
    /// Call [`Coordinators::apply`] to begin.
    pub fn new(
        runtime: &R,
        directory: &Arc<Directory<R>>,
        published: &Published,
        peers: &Peers<R>,
        settings: Settings,
    ) -> Coordinators<R> {
        let groups = Arc::new(Shards::new(
            runtime.clone(),
            directory.clone(),
            published.clone(),
            settings.groups,
            Arc::new(NoErrands),
        ));
        let markers =
            Arc::new(Markers::new(runtime.clone(), directory.clone(), groups.clone(), peers.clone()));
        let txns: Arc<Shards<R, Txns>> = Arc::new(Shards::new(
            runtime.clone(),
            directory.clone(),
            published.clone(),
            settings.transactions,
            Arc::new(Deliveries(markers.clone())),
        ));
        let transactions =
            Arc::new(Transactions::new(runtime.clone(), directory.clone(), txns, markers, peers.clone()));
        Coordinators { groups, transactions }
    }

    /// The directory has applied `image`.
    pub fn apply(&self, image: &Arc<Image>) {
        self.groups.apply(image);
        self.transactions.shards().apply(image);
    }

    /// What groups and transactions count.
    pub fn counts(&self) -> (Counts, Counts) {
        (self.groups.counts(), self.transactions.counts())
    }

    /// Ends all of them, for good.
    pub fn stop(&self) {
        self.groups.stop();
        self.transactions.shards().stop();
    }
}
