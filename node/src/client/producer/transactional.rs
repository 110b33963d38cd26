//! What a producer of transactions does otherwise than one without. Called by `client::txn`.
//!
//! Owns: the failure of the open transaction. Promises: when one record of a transaction is given up, all that are under
//! way are, at once, and none is taken any more until the transaction is over; after its end nothing of it is sent again;
//! the epoch comes from the coordinator alone. Leaves out: the coordinator, and when a transaction begins and ends.

use std::sync::Arc;

use super::core::TopicPartition;
use super::{ConfigError, Inner, ProduceCause, ProduceError, Producer, ProducerConfig, Record};
use crate::client::cluster::Cluster;
use crate::client::sequence::Identity;
use crate::runtime::Runtime;

/// The error of a record whose transaction failed by `first`.
pub(super) fn over(first: &ProduceError) -> ProduceError {
    ProduceError::unsent(ProduceCause::TransactionOver { first: first.to_string().into() })
}

impl<R: Runtime> Inner<R> {
    /// A record of the open transaction is not stored: the first failure takes the whole transaction with it.
    pub(super) fn fail_transaction(&self, failure: &ProduceError) {
        let settled = {
            let mut state = self.state();
            if self.transaction.is_none() || state.failed.is_some() {
                return;
            }
            state.failed = Some(failure.clone());
            state.core.give_up_all()
        };
        let first: Arc<str> = failure.to_string().into();
        for batch in settled {
            self.settle(batch, None, Some(ProduceCause::TransactionOver { first: first.clone() }));
        }
    }
}

impl<R: Runtime> Producer<R> {
    /// A producer whose batches all belong to transactions of `id`; it sends nothing before [`Producer::renew`].
    pub(in crate::client) fn start_transactional(
        cluster: Cluster<R>,
        config: ProducerConfig,
        id: &str,
    ) -> Result<Producer<R>, ConfigError> {
        if !config.idempotent {
            return Err(ConfigError::TransactionsNeedIdempotence);
        }
        Producer::start_as(cluster, config, Some(id.into()))
    }

    /// Goes on as `identity`, behind the end of a transaction or before the first. `joins`: partitions join a
    /// transaction as they are written to.
    pub(in crate::client) fn renew(&self, identity: Identity, joins: bool) {
        let mut state = self.handle.0.state();
        state.core.renew(identity);
        state.joins = joins;
        state.failed = None;
    }

    /// Forgets the failure of a transaction that is over, and keeps the identity.
    pub(in crate::client) fn begin_anew(&self) {
        let mut state = self.handle.0.state();
        assert!(state.core.is_idle(), "a transaction ended before its records were settled");
        state.failed = None;
    }

    /// Why the open transaction cannot be committed, if so.
    pub(in crate::client) fn failure(&self) -> Option<ProduceError> {
        self.handle.0.state().failed.clone()
    }

    /// Gives up every record of the open transaction that is not settled, and takes no further one. Whether there was one.
    pub(in crate::client) fn give_up_transaction(&self, why: &str) -> bool {
        let inner = &self.handle.0;
        let was_idle = inner.state().core.is_idle();
        let cause = ProduceCause::TransactionOver { first: why.into() };
        inner.fail_transaction(&ProduceError::unsent(cause));
        !was_idle
    }

    /// Where a record would go that names no partition itself; `record` names it from then on.
    pub(in crate::client) async fn place(&self, record: &mut Record) -> Result<TopicPartition, ProduceError> {
        let inner = &*self.handle.0;
        let deadline = inner.cluster.runtime().now().plus(inner.config.max_block);
        let route = inner.cluster.topic(&record.topic, deadline).await.map_err(ProduceError::unsent)?;
        let bytes = record.bytes_at_most();
        let partition = self.partition(&mut inner.state(), record, bytes, &route)?;
        record.partition = Some(partition);
        Ok(TopicPartition { topic: route.name.clone(), partition })
    }
}
