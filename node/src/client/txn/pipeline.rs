//! SHELL. Consume, transform, produce: each input is reflected in the outputs once, whatever dies meanwhile.
//!
//! Owns: a member of a group that reads committed records, a transactional producer, and where the batch under way began.
//! Promises: outputs and the offsets of the inputs that they were made of are committed together; what is aborted is read
//! again by whoever owns the partition then; a member that was put out commits nothing (KIP-447); dropping a step loses
//! nothing: the next one ends what it left.
//! Leaves out: the transformation, which must not have effects of its own.
//!
//! ```text
//!  poll ─► begin ─► transform ─► send … ─► send_offsets ─► commit ─► Committed
//!                                    └ Abortable ─► abort ─► back to where the batch began ─► Aborted
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq_wire::ids::Offset;

use super::error::{TxnError, TxnErrorKind};
use super::producer::{TxnConfig, TxnProducer};
use crate::client::cluster::Cluster;
use crate::client::consumer::{ConsumedRecord, Isolation, StartAt};
use crate::client::group::{Delivery, GroupConfig, GroupConsumer, GroupError, Rebalance};
use crate::client::producer::core::TopicPartition;
use crate::client::producer::{ConfigError, Record};
use crate::runtime::{Mono, Runtime};

/// How a pipeline behaves.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The member that reads. Its isolation and delivery are set by the pipeline.
    pub group: GroupConfig,
    /// The producer that writes. Its id must be this process's own: the members of a group have different ones.
    pub producer: TxnConfig,
    /// How long one step of the coordinator may take before the user is told.
    pub patience: Duration,
}

/// What one step did.
#[derive(Debug)]
pub enum Step {
    /// Nothing came.
    Idle,
    /// These many inputs, and the outputs made of them, are committed.
    Committed {
        /// Inputs.
        inputs: usize,
        /// Outputs.
        outputs: usize,
    },
    /// The transaction was aborted; its inputs will be read again.
    Aborted {
        /// Why.
        why: Box<TxnError>,
    },
}

/// Why a pipeline does not go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The producer's settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The transaction; with [`TxnErrorKind::Retriable`] the next step goes on, with any other a new pipeline does.
    #[error(transparent)]
    Txn(#[from] TxnError),
    /// The group; the next step tries again.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl PipelineError {
    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        match self {
            PipelineError::Config(_) => "change the settings".into(),
            PipelineError::Txn(error) => error.cure(),
            PipelineError::Group(error) => error.cure(),
        }
    }

    /// Whether the next step may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            PipelineError::Config(_) => false,
            PipelineError::Txn(error) => error.kind == TxnErrorKind::Retriable,
            PipelineError::Group(GroupError::Cluster(error)) => error.is_transient(),
            PipelineError::Group(GroupError::Refused { code, .. }) => code.is_retriable(),
            PipelineError::Group(GroupError::Consume(_)) => true,
            PipelineError::Group(GroupError::NoOffset { .. } | GroupError::Protocol { .. }) => false,
        }
    }
}

/// Reads topics as a member of a group and writes what is made of them. One owner.
#[derive(Debug)]
pub struct Pipeline<R: Runtime> {
    cluster: Cluster<R>,
    consumer: GroupConsumer<R>,
    producer: TxnProducer<R>,
    patience: Duration,
    /// Where the batch of the open transaction begins.
    began: BTreeMap<TopicPartition, Offset>,
    counts: (usize, usize),
}

impl<R: Runtime> Pipeline<R> {
    /// Takes the transactional id, and reads `topics` from then on. `listener` hears of every change of what it owns.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub async fn start(
        cluster: Cluster<R>,
        config: PipelineConfig,
        topics: &[&str],
        listener: impl FnMut(&Rebalance) + Send + 'static,
        deadline: Mono,
    ) -> Result<Pipeline<R>, PipelineError> {
        let mut producer = TxnProducer::start(cluster.clone(), config.producer)?;
        producer.init(deadline).await?;
        let mut group = config.group;
        group.delivery = Delivery::Manual;
        group.consumer.isolation = Isolation::ReadCommitted;
        let consumer = GroupConsumer::subscribe(cluster.clone(), group, topics, listener);
        let (patience, began) = (config.patience, BTreeMap::new());
        Ok(Pipeline { cluster, consumer, producer, patience, began, counts: (0, 0) })
    }

    /// The member that reads.
    #[must_use]
    pub fn consumer(&self) -> &GroupConsumer<R> {
        &self.consumer
    }

    /// Reads the next records, if some come within `wait`, and commits what `transform` makes of them.
    ///
    /// # Errors
    /// [`PipelineError`]; see [`PipelineError::is_transient`].
    pub async fn step(
        &mut self,
        wait: Duration,
        mut transform: impl FnMut(&ConsumedRecord) -> Vec<Record>,
    ) -> Result<Step, PipelineError> {
        if let Some(ended) = self.finish().await? {
            return Ok(ended);
        }
        let records = self.consumer.poll(wait).await?;
        if records.is_empty() {
            return Ok(Step::Idle);
        }
        for record in &records {
            self.began.entry(record.at.clone()).or_insert(record.offset);
        }
        let behind: BTreeMap<TopicPartition, Offset> =
            records.iter().map(|record| (record.at.clone(), record.offset.next())).collect();
        self.counts = (records.len(), 0);
        let fate = self.fill(&records, behind, &mut transform).await;
        let fate = match fate {
            Ok(()) => self.producer.commit(self.deadline()).await,
            Err(error) => Err(error),
        };
        match fate {
            Ok(()) => Ok(self.committed()),
            Err(error) if error.kind == TxnErrorKind::Abortable => self.abort(error).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves the group, and ends. A transaction that a dropped step left is ended first.
    ///
    /// # Errors
    /// [`PipelineError`]; it has left all the same.
    pub async fn close(mut self, deadline: Mono) -> Result<(), PipelineError> {
        let finished = self.finish().await;
        let closed = self.consumer.close(deadline).await;
        finished?;
        Ok(closed?)
    }

    fn deadline(&self) -> Mono {
        self.cluster.runtime().now().plus(self.patience)
    }

    async fn fill(
        &mut self,
        records: &[ConsumedRecord],
        behind: BTreeMap<TopicPartition, Offset>,
        transform: &mut impl FnMut(&ConsumedRecord) -> Vec<Record>,
    ) -> Result<(), TxnError> {
        self.producer.begin()?;
        for record in records {
            for output in transform(record) {
                let _settled_by_the_commit = self.producer.send(output).await?;
                self.counts.1 += 1;
            }
        }
        let standing = self.consumer.standing();
        let deadline = self.deadline();
        self.producer.send_offsets(behind, standing, deadline).await
    }

    /// Ends what an earlier step left: an end whose answer is not known is asked for again, everything else is aborted.
    async fn finish(&mut self) -> Result<Option<Step>, PipelineError> {
        if !self.producer.in_transaction() {
            // A step that was dropped between poll and begin has read what nobody will see again.
            if !self.began.is_empty() {
                self.rewind().await?;
            }
            return Ok(None);
        }
        if self.producer.ending() == Some(true) {
            let deadline = self.deadline();
            return match self.producer.commit(deadline).await {
                Ok(()) => Ok(Some(self.committed())),
                Err(error) if error.kind == TxnErrorKind::Abortable => Ok(Some(self.abort(error).await?)),
                Err(error) => Err(error.into()),
            };
        }
        let deadline = self.deadline();
        self.producer.abort(deadline).await?;
        self.rewind().await?;
        Ok(None)
    }

    fn committed(&mut self) -> Step {
        self.began.clear();
        let (inputs, outputs) = self.counts;
        Step::Committed { inputs, outputs }
    }

    async fn abort(&mut self, why: TxnError) -> Result<Step, PipelineError> {
        let deadline = self.deadline();
        self.producer.abort(deadline).await?;
        self.rewind().await?;
        Ok(Step::Aborted { why: Box::new(why) })
    }

    /// Back to where the batch began, as far as the partitions are still this member's.
    async fn rewind(&mut self) -> Result<(), PipelineError> {
        let deadline = self.deadline();
        for (at, offset) in std::mem::take(&mut self.began) {
            self.consumer.seek(&at, StartAt::Offset(offset), deadline).await?;
        }
        Ok(())
    }
}
