//! SHELL. A producer whose records, and the offsets of a group, become visible together or not at all.
//!
//! Owns: the identity that the coordinator gave, the way to the coordinators, the partitions that were added by hand.
//! Promises: [`TxnProducer::commit`] is Ok only when the coordinator has decided so durably; of an aborted transaction a
//! reader of committed records sees nothing; whoever began with this transactional id before is fenced by
//! [`TxnProducer::init`]; after any failure of a record nothing but an abort is possible.
//! Leaves out: what is sent (`client::producer`), rules (`life`, `rules`). Dropping it with a transaction open leaves that to
//! its timeout, or to the next life of the id.
//!
//! ```text
//!  send ─► [not joined yet, before version 2: AddPartitionsToTxn] ─► producer ─► leaders
//!  commit ─► flush ─► one failed? ─ no ─► EndTxn ─► (version 2) the next epoch ─► Ready
//!                          └ yes: Abortable
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_wire::api::ApiKey;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use dejaq_wire::kafka::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnTopic,
};
use dejaq_wire::kafka::end_txn::EndTxnRequest;
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;
use dejaq_wire::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
};
use tokio::sync::Semaphore;

use super::error::{TxnCause, TxnError, TxnErrorKind};
use super::life::{End, Life};
use super::rules::{Move, after_end, after_init, after_join, after_offsets};
use crate::client::cluster::Cluster;
use crate::client::group::Standing;
use crate::client::group::coordinator::Coordinator;
use crate::client::outcome::Verdict;
use crate::client::producer::core::TopicPartition;
use crate::client::producer::{ConfigError, Delivery, Producer, ProducerConfig, Record};
use crate::client::sequence::Identity;
use crate::client::versions::Versions;
use crate::runtime::{Mono, Runtime};

/// The feature by which a cluster says which transactions it has.
const FEATURE: &str = "transaction.version";
/// Newest version of AddPartitionsToTxn that is a client's; the later ones go between brokers.
const LAST_ADD: i16 = 3;
/// Newest versions that do not speak of version 2: AddOffsetsToTxn, EndTxn, TxnOffsetCommit.
const LAST_OLD_ADD_OFFSETS: i16 = 3;
const LAST_OLD_END: i16 = 4;
const LAST_OLD_COMMIT: i16 = 4;
/// How soon to ask again while the coordinator ends the transaction before; doubles up to [`MOST_SOON`].
const SOON: Duration = Duration::from_millis(2);
const MOST_SOON: Duration = Duration::from_millis(50);

/// Which transactions to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TxnVersion {
    /// The newest that the cluster has.
    #[default]
    Newest,
    /// Those of before KIP-890, which every cluster has.
    One,
}

/// How a transactional producer behaves.
#[derive(Debug, Clone)]
pub struct TxnConfig {
    /// The transactional id: one producer at a time has it, and a new one fences the one before.
    pub id: String,
    /// A transaction that is open longer is aborted by the coordinator, and its producer fenced.
    pub timeout: Duration,
    /// Which transactions to speak.
    pub version: TxnVersion,
    /// How records are sent.
    pub producer: ProducerConfig,
}

impl TxnConfig {
    /// A producer with this transactional id and Kafka's defaults.
    #[must_use]
    pub fn of(id: &str) -> TxnConfig {
        TxnConfig {
            id: id.to_owned(),
            timeout: Duration::from_secs(60),
            version: TxnVersion::default(),
            producer: ProducerConfig::default(),
        }
    }
}

/// Sends records in transactions. One owner ends them; sends may overlap each other. See the module.
pub struct TxnProducer<R: Runtime> {
    cluster: Cluster<R>,
    config: TxnConfig,
    producer: Producer<R>,
    coordinator: Coordinator<R>,
    /// The coordinator of the group whose offsets were committed last.
    group: Option<Coordinator<R>>,
    identity: Option<Identity>,
    /// Whether the cluster and we speak `transaction.version` 2.
    second: bool,
    /// Before version 2: something may be on its way under the present epoch, so that the next transaction needs another.
    unclean: bool,
    life: Mutex<Life>,
    /// Before version 2: what is in the open transaction.
    joined: Mutex<BTreeSet<TopicPartition>>,
    /// One permit: who holds it adds a partition.
    joining: Semaphore,
}

impl<R: Runtime> std::fmt::Debug for TxnProducer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TxnProducer({} as {:?})", self.config.id, self.identity)
    }
}

/// Why an ask led nowhere: `None` where time was up.
type Refusal = (Option<Move>, TxnCause);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(what: &'static str, (next, cause): Refusal, late: TxnErrorKind) -> TxnError {
    let kind = match next {
        Some(Move::Abort) => TxnErrorKind::Abortable,
        Some(Move::Fenced) => TxnErrorKind::Fenced,
        Some(Move::Fatal) => TxnErrorKind::Fatal,
        None => late,
        Some(Move::Done | Move::Soon | Move::Again) => unreachable!("{next:?} is no refusal"),
    };
    TxnError::new(kind, what, cause)
}

impl<R: Runtime> TxnProducer<R> {
    /// A producer that has asked nobody yet: [`TxnProducer::init`] comes first.
    ///
    /// # Errors
    /// [`ConfigError`]: the settings contradict each other.
    pub fn start(cluster: Cluster<R>, config: TxnConfig) -> Result<TxnProducer<R>, ConfigError> {
        let producer = Producer::start_transactional(cluster.clone(), config.producer.clone(), &config.id)?;
        Ok(TxnProducer {
            coordinator: Coordinator::of_transactions(cluster.clone(), &config.id),
            cluster,
            config,
            producer,
            group: None,
            identity: None,
            second: false,
            unclean: false,
            life: Mutex::default(),
            joined: Mutex::default(),
            joining: Semaphore::new(1),
        })
    }

    /// Becomes the one producer of the transactional id: who was it before is fenced, what it left open is aborted, what
    /// it decided is carried out. Once, before everything else.
    ///
    /// # Errors
    /// [`TxnError`]; a `Retriable` one changed nothing that a second call would not do.
    pub async fn init(&mut self, deadline: Mono) -> Result<(), TxnError> {
        const WHAT: &str = "take the transactional id";
        if !lock(&self.life).is_new() {
            let cause = TxnCause::State("the producer is initialised already");
            return Err(TxnError::new(TxnErrorKind::Misuse, WHAT, cause));
        }
        let versions = self.coordinator.versions(deadline).await;
        let versions = versions.map_err(|error| {
            let kind = if error.is_transient() { TxnErrorKind::Retriable } else { TxnErrorKind::Fatal };
            TxnError::new(kind, WHAT, error)
        })?;
        self.second = self.config.version == TxnVersion::Newest && has_second(&versions);
        let identity = self.ask_identity(None, WHAT, deadline).await?;
        self.identity = Some(identity);
        self.producer.renew(identity, self.second);
        lock(&self.life).initialised();
        Ok(())
    }

    /// Begins a transaction. Nobody is asked.
    ///
    /// # Errors
    /// [`TxnError`]: one is open, or this producer is over.
    pub fn begin(&mut self) -> Result<(), TxnError> {
        lock(&self.life).begin()
    }

    /// Takes a record into the open transaction and returns its [`Delivery`], which need not be waited for: `commit` does.
    ///
    /// # Errors
    /// [`TxnError`]: the record was not taken, and the transaction can only be aborted.
    pub async fn send(&self, mut record: Record) -> Result<Delivery, TxnError> {
        const WHAT: &str = "send";
        self.note_failure();
        lock(&self.life).touch(WHAT)?;
        if !self.second {
            let place = self.producer.place(&mut record).await;
            let at = place.map_err(|cause| self.fail(WHAT, TxnCause::Record(Box::new(cause))))?;
            self.join(at).await?;
        }
        let sent = self.producer.send(record).await;
        sent.map_err(|cause| self.fail(WHAT, TxnCause::Record(Box::new(cause))))
    }

    /// Lets the transaction commit offsets of a group: for each partition that of the next record to read. `standing`
    /// is the member that read the records; one that was put out of its group meanwhile is refused (KIP-447).
    ///
    /// # Errors
    /// [`TxnError`]: after any of them the transaction can only be aborted.
    pub async fn send_offsets(
        &mut self,
        offsets: BTreeMap<TopicPartition, Offset>,
        standing: Standing,
        deadline: Mono,
    ) -> Result<(), TxnError> {
        const WHAT: &str = "commit offsets with the transaction";
        if offsets.is_empty() {
            return Ok(());
        }
        self.note_failure();
        lock(&self.life).touch(WHAT)?;
        let identity = self.identity();
        if !self.second {
            let request = AddOffsetsToTxnRequest {
                transactional_id: self.config.id.clone(),
                producer_id: identity.producer,
                producer_epoch: identity.epoch,
                group_id: standing.group.clone(),
            };
            let asked = (&request, LAST_OLD_ADD_OFFSETS);
            let told =
                self.ask(&self.coordinator, asked, |answer| answer.error_code, after_join, deadline).await;
            told.map_err(|refusal| self.failed(error(WHAT, refusal, TxnErrorKind::Abortable)))?;
        }
        let group = match self.group.take_if(|group| group.group() == standing.group) {
            Some(group) => group,
            None => Coordinator::new(self.cluster.clone(), &standing.group),
        };
        let request = commit_request(&self.config.id, identity, &offsets, &standing);
        let newest = if self.second { i16::MAX } else { LAST_OLD_COMMIT };
        let told = self.ask(&group, (&request, newest), worst_commit, after_offsets, deadline).await;
        let told =
            told.map(drop).map_err(|refusal| self.failed(error(WHAT, refusal, TxnErrorKind::Abortable)));
        self.group = Some(group);
        told
    }

    /// Commits the open transaction: everything that was taken into it is waited for, then the coordinator decides.
    ///
    /// # Errors
    /// [`TxnError`]. `Abortable`: nothing of it is committed, and [`TxnProducer::abort`] is next. `Retriable`: nobody
    /// knows; call this again.
    pub async fn commit(&mut self, deadline: Mono) -> Result<(), TxnError> {
        const WHAT: &str = "commit";
        if lock(&self.life).is_open() {
            let flushed = self.cluster.runtime().before(deadline, self.producer.flush()).await;
            self.note_failure();
            if flushed.is_none() {
                let cause = TxnCause::State("the records are not all stored yet");
                return Err(TxnError::new(TxnErrorKind::Retriable, WHAT, cause));
            }
        }
        self.end(true, deadline).await
    }

    /// Aborts the open transaction: nobody who reads committed records ever sees anything of it.
    ///
    /// # Errors
    /// [`TxnError`]. `Retriable`: call this again.
    pub async fn abort(&mut self, deadline: Mono) -> Result<(), TxnError> {
        if lock(&self.life).is_open() {
            self.unclean |= lock(&self.life).has_failed() || self.producer.failure().is_some();
            self.unclean |= self.producer.give_up_transaction("it is aborted");
        }
        self.end(false, deadline).await
    }

    /// Whether a transaction is open, or its end not known.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        let life = lock(&self.life);
        life.is_open() || life.ending().is_some()
    }

    /// Whether an end was asked for whose answer is not known; which one.
    #[must_use]
    pub fn ending(&self) -> Option<bool> {
        lock(&self.life).ending()
    }

    /// Who this producer is, once it is initialised.
    #[must_use]
    pub fn identity_now(&self) -> Option<(ProducerId, ProducerEpoch)> {
        self.identity.map(|identity| (identity.producer, identity.epoch))
    }

    fn identity(&self) -> Identity {
        self.identity.expect("a transaction is open, so the coordinator gave an identity")
    }

    async fn end(&mut self, commit: bool, deadline: Mono) -> Result<(), TxnError> {
        let what = if commit { "commit" } else { "abort" };
        let how = lock(&self.life).end(commit)?;
        if how == End::Local {
            self.producer.begin_anew();
            return Ok(());
        }
        let identity = self.identity();
        let request = EndTxnRequest {
            transactional_id: self.config.id.clone(),
            producer_id: identity.producer,
            producer_epoch: identity.epoch,
            committed: commit,
        };
        let newest = if self.second { i16::MAX } else { LAST_OLD_END };
        let told =
            self.ask(&self.coordinator, (&request, newest), |answer| answer.error_code, after_end, deadline);
        let next = match told.await {
            Ok(answer) if self.second => {
                Some(Identity { producer: answer.producer_id, epoch: answer.producer_epoch })
            }
            Ok(_) => None,
            // Before version 2 the coordinator may never have heard of what failed.
            Err((_, TxnCause::Refused(ErrorCode::INVALID_TXN_STATE)))
                if !commit && !self.second && self.unclean =>
            {
                None
            }
            Err(refusal) => {
                let mut life = lock(&self.life);
                let error = error(what, refusal, TxnErrorKind::Retriable).with(life.verdict());
                if commit && error.kind == TxnErrorKind::Abortable {
                    life.must_abort(&error);
                } else {
                    life.failed(&error);
                }
                return Err(error);
            }
        };
        match next {
            Some(next) => {
                self.identity = Some(next);
                self.producer.renew(next, true);
            }
            None if self.unclean => {
                // Until this is answered the end counts as asked for, and is asked for again.
                let next = self.ask_identity(Some(identity), what, deadline).await?;
                self.identity = Some(next);
                self.producer.renew(next, false);
            }
            None => self.producer.begin_anew(),
        }
        self.unclean = false;
        lock(&self.joined).clear();
        lock(&self.life).ended();
        Ok(())
    }

    /// An identity from the coordinator: a new life, or, with `was`, the next epoch of this one (KIP-360).
    async fn ask_identity(
        &self,
        was: Option<Identity>,
        what: &'static str,
        deadline: Mono,
    ) -> Result<Identity, TxnError> {
        let request = InitProducerIdRequest {
            transactional_id: Some(self.config.id.clone()),
            transaction_timeout_ms: i32::try_from(self.config.timeout.as_millis()).unwrap_or(i32::MAX),
            producer_id: was.map_or(ProducerId::NONE, |was| was.producer),
            producer_epoch: was.map_or(ProducerEpoch::NONE, |was| was.epoch),
        };
        let asked = (&request, i16::MAX);
        let told = self.ask(&self.coordinator, asked, |answer| answer.error_code, after_init, deadline).await;
        match told {
            Ok(answer) => Ok(Identity { producer: answer.producer_id, epoch: answer.producer_epoch }),
            Err(refusal) => Err(self.failed(error(what, refusal, TxnErrorKind::Retriable))),
        }
    }

    /// Before version 2: adds a partition to the open transaction, unless it is in.
    async fn join(&self, at: TopicPartition) -> Result<(), TxnError> {
        const WHAT: &str = "add a partition to the transaction";
        let _turn = self.joining.acquire().await.expect("the semaphore is never closed");
        if lock(&self.joined).contains(&at) {
            return Ok(());
        }
        let identity = self.identity();
        let topic = AddPartitionsToTxnTopic { name: at.topic.to_string(), partitions: vec![at.partition] };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.config.id.clone(),
            v3_and_below_producer_id: identity.producer,
            v3_and_below_producer_epoch: identity.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        let deadline = self.cluster.runtime().now().plus(self.config.producer.max_block);
        match self.ask(&self.coordinator, (&request, LAST_ADD), worst_add, after_join, deadline).await {
            Ok(_) => {
                lock(&self.joined).insert(at);
                Ok(())
            }
            Err(refusal) => Err(self.failed(error(WHAT, refusal, TxnErrorKind::Abortable))),
        }
    }

    /// Asks a coordinator, again and again until it decides or `deadline` comes.
    async fn ask<Q: Request>(
        &self,
        to: &Coordinator<R>,
        (request, newest): (&Q, i16),
        code: fn(&Q::Response) -> ErrorCode,
        judge: fn(ErrorCode) -> Move,
        deadline: Mono,
    ) -> Result<Q::Response, Refusal> {
        let (mut rounds, mut soon) = (0, SOON);
        loop {
            let (later, cause) = match to.ask(request, newest, self.cluster.request_deadline(deadline)).await
            {
                Ok(answer) => {
                    let code = code(&answer);
                    match judge(code) {
                        Move::Done => return Ok(answer),
                        Move::Soon => (false, TxnCause::Slow(code)),
                        Move::Again => {
                            // Whether it was decided before the coordinator was over is not known.
                            lock(&self.life).doubt();
                            to.is_elsewhere(code);
                            (true, TxnCause::Slow(code))
                        }
                        next => return Err((Some(next), TxnCause::Refused(code))),
                    }
                }
                Err(error) if error.is_transient() => {
                    if error.verdict() == Verdict::Maybe {
                        lock(&self.life).doubt();
                    }
                    (true, error.into())
                }
                Err(error) => return Err((Some(Move::Fatal), error.into())),
            };
            let goes_on = if later {
                rounds += 1;
                self.cluster.pause(rounds, deadline).await
            } else {
                let until = self.cluster.runtime().now().plus(soon);
                soon = (soon * 2).min(MOST_SOON);
                self.cluster.runtime().sleep_until(until.min(deadline)).await;
                until < deadline
            };
            if !goes_on {
                return Err((None, cause));
            }
        }
    }

    /// Takes over what the producer found out by itself.
    fn note_failure(&self) {
        if let Some(failure) = self.producer.failure() {
            let cause = TxnCause::Record(Box::new(failure));
            lock(&self.life).failed(&TxnError::new(TxnErrorKind::Abortable, "send", cause));
        }
    }

    fn fail(&self, what: &'static str, cause: TxnCause) -> TxnError {
        self.failed(TxnError::new(TxnErrorKind::Abortable, what, cause))
    }

    fn failed(&self, error: TxnError) -> TxnError {
        lock(&self.life).failed(&error);
        error
    }
}

/// Whether cluster and client both speak `transaction.version` 2.
fn has_second(versions: &Versions) -> bool {
    let has = |api, least| versions.choose(api).is_ok_and(|version| version >= least);
    versions.feature(FEATURE) >= 2
        && has(ApiKey::Produce, 12)
        && has(ApiKey::EndTxn, LAST_OLD_END + 1)
        && has(ApiKey::TxnOffsetCommit, LAST_OLD_COMMIT + 1)
}

fn worst_commit(answer: &TxnOffsetCommitResponse) -> ErrorCode {
    let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
    codes.find(|code| code.is_error()).unwrap_or(ErrorCode::NONE)
}

fn worst_add(answer: &AddPartitionsToTxnResponse) -> ErrorCode {
    let parts = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
    parts.map(|one| one.partition_error_code).find(|code| code.is_error()).unwrap_or(ErrorCode::NONE)
}

fn commit_request(
    id: &str,
    identity: Identity,
    offsets: &BTreeMap<TopicPartition, Offset>,
    standing: &Standing,
) -> TxnOffsetCommitRequest {
    let mut topics: BTreeMap<Arc<str>, Vec<(PartitionId, Offset)>> = BTreeMap::new();
    for (at, offset) in offsets {
        topics.entry(at.topic.clone()).or_default().push((at.partition, *offset));
    }
    let partition = |(partition_index, committed_offset)| TxnOffsetCommitRequestPartition {
        partition_index,
        committed_offset,
        committed_leader_epoch: LeaderEpoch::NONE,
        committed_metadata: Some(String::new()),
    };
    let topic = |(name, partitions): (Arc<str>, Vec<_>)| TxnOffsetCommitRequestTopic {
        name: name.to_string(),
        partitions: partitions.into_iter().map(partition).collect(),
    };
    TxnOffsetCommitRequest {
        transactional_id: id.to_owned(),
        group_id: standing.group.clone(),
        producer_id: identity.producer,
        producer_epoch: identity.epoch,
        generation_id: standing.generation,
        member_id: standing.member.clone(),
        group_instance_id: standing.instance.clone(),
        topics: topics.into_iter().map(topic).collect(),
    }
}
