//! SHELL. Transactions as the APIs see them: the way to the coordinator of a transactional id, here or on another node.
//!
//! Owns: [`Transactions`]. Promises: every wait ends; a partition is put into a transaction only if the metadata that
//! this node acts on has it, so that who ends the transaction finds it (`markers`).
//! Leaves out: what a transaction decides (`txn`), what each API answers.
//! Called by the APIs of transactions, by `produce` and TxnOffsetCommit for what they must know first, by [`super::room`].

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::txn::{Named, Vouch};

use super::Shards;
use super::home::{TRANSACTIONS_TOPIC, partition_of};
use super::machine::{Counts, Who};
use super::markers::Markers;
use super::txn::Txns;
use super::txn::ask::{Ask, At, Listed, Reply};
use crate::peer::Peers;
use crate::replica::Directory;
use crate::runtime::{Mono, Runtime};

/// How long a coordinator may take for anything.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two looks at a transaction that is being changed.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a coordinator that is busy with the same transaction is asked again.
const BUSY: Duration = Duration::from_millis(500);

/// A question about a transaction.
#[derive(Debug, Clone)]
pub struct Question {
    /// The transactional id.
    pub id: Arc<str>,
    /// The producer.
    pub who: Who,
    /// The partitions join it if they are not in it (KIP-890, transaction version 2).
    pub adds: bool,
    /// Which.
    pub partitions: Vec<At>,
}

/// The way to coordinators of transactions.
pub struct Transactions<R: Runtime> {
    runtime: R,
    me: BrokerId,
    directory: Arc<Directory<R>>,
    shards: Arc<Shards<R, Txns>>,
    markers: Arc<Markers<R>>,
    peers: Peers<R>,
}

impl<R: Runtime> Transactions<R> {
    /// By the coordinators of this node, and by `peers`.
    pub fn new(
        runtime: R,
        directory: Arc<Directory<R>>,
        shards: Arc<Shards<R, Txns>>,
        markers: Arc<Markers<R>>,
        peers: Peers<R>,
    ) -> Transactions<R> {
        Transactions { runtime, me: peers.me(), directory, shards, markers, peers }
    }

    /// The coordinators of this node.
    pub fn shards(&self) -> &Arc<Shards<R, Txns>> {
        &self.shards
    }

    /// The way of markers.
    pub fn markers(&self) -> &Arc<Markers<R>> {
        &self.markers
    }

    /// What all coordinators of this node count.
    pub fn counts(&self) -> Counts {
        self.shards.counts()
    }

    /// By when a question that comes now is answered.
    pub fn deadline(&self) -> Mono {
        self.runtime.now().plus(PATIENCE)
    }

    /// Asks the coordinator of `id`, if it is on this node.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn ask(&self, id: &str, ask: Ask) -> Result<Reply, ErrorCode> {
        match self.shards.ask(id, (Arc::from(id), ask), self.deadline()).await {
            Ok(Reply::Refused(code)) | Err(code) => Err(code),
            Ok(reply) => Ok(reply),
        }
    }

    /// Every transactional id of this node; all of them, or none.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn list(&self) -> Result<Vec<Listed>, ErrorCode> {
        let before = self.shards.all_here()?;
        let replies = self.shards.ask_all(|| (Arc::from(""), Ask::List), self.deadline()).await?;
        if self.shards.all_here()? != before {
            return Err(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS); // one ended before it was asked, or began behind it
        }
        let mut all = Vec::new();
        for reply in replies {
            match reply {
                Reply::Listed(listed) => all.extend(listed),
                other => unreachable!("a list is answered with {other:?}"),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Whether the metadata that this node acts on has this partition.
    #[must_use]
    pub fn is_there(&self, at: &At) -> bool {
        let image = self.directory.image();
        image.topic_named(&at.topic).is_some_and(|topic| topic.partition(at.partition).is_some())
    }

    /// Has the coordinator, here or there, say that partitions are in a transaction. While it is busy with the same
    /// transaction it is asked again, for a moment. `look` is called before each time: what it sees of a log, a marker
    /// that the answer does not know of changes.
    ///
    /// # Errors
    /// The coordinator's code, or COORDINATOR_NOT_AVAILABLE.
    pub async fn vouch(&self, question: Question, mut look: impl FnMut() + Send) -> Result<(), ErrorCode> {
        let (deadline, busy_until) = (self.deadline(), self.runtime.now().plus(BUSY));
        loop {
            look();
            let answer = self.vouch_once(question.clone(), deadline).await;
            if answer != Err(ErrorCode::CONCURRENT_TRANSACTIONS) || self.runtime.now() >= busy_until {
                return answer;
            }
            mark!("a coordinator is asked again about a transaction that it is changing");
            self.runtime.sleep(PAUSE).await;
        }
    }

    async fn vouch_once(&self, question: Question, deadline: Mono) -> Result<(), ErrorCode> {
        let image = self.directory.image();
        let topic = image.topic_named(TRANSACTIONS_TOPIC).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        let home = partition_of(&question.id, topic.partitions.len());
        let leader = topic.partition(home).map(|home| home.leader).filter(|leader| leader.is_valid());
        let leader = leader.ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE)?;
        if leader == self.me {
            return self.vouch_here(question, deadline).await;
        }
        let named = |at: At| Named { topic: at.topic.to_string(), partition: at.partition };
        let ask = Vouch {
            id: question.id.to_string(),
            producer_id: question.who.producer_id,
            producer_epoch: question.who.epoch,
            adds: question.adds,
            partitions: question.partitions.into_iter().map(named).collect(),
        };
        match self.peers.request(leader, ask, deadline).await {
            Ok(answer) if answer.code.is_none() => Ok(()),
            Ok(answer) => Err(answer.code),
            Err(_) => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
        }
    }

    /// As [`Transactions::vouch`], by the coordinators of this node alone.
    ///
    /// # Errors
    /// The code to answer.
    pub async fn vouch_here(&self, question: Question, deadline: Mono) -> Result<(), ErrorCode> {
        let Question { id, who, adds, partitions } = question;
        let ask = if adds {
            if !partitions.iter().all(|at| self.is_there(at)) {
                return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            }
            Ask::Add { who, partitions }
        } else {
            Ask::Verify { who, partitions }
        };
        match self.shards.ask(&id, (id.clone(), ask), deadline).await {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused(code)) | Err(code) => Err(code),
            Ok(other) => unreachable!("partitions of a transaction are answered with {other:?}"),
        }
    }
}
