//! Batches of transactions on their way into a partition: each waits until the coordinator vouches for it (KIP-890).
//!
//! Owns: what waits. Promises: a batch opens a transaction in a partition only after the coordinator said that the
//! partition is in it, and only if no marker came since it was asked (the log checks the guard that the batch carries),
//! so that no transaction is left open by what came late; what follows from the same producer and epoch meanwhile waits
//! behind it, in order (another epoch is another question: the word about one says nothing of the other); what waits is bounded, and ends with the coordinator's answer.
//! Leaves out: asking the coordinator (`coordinator::transactions`), the codes of other refusals (`produce`).
//!
//! ```text
//!  batch ─► open here? ─ yes ─► with the others of its turn
//!              └ no ─► somebody asks already? ─ yes ─► behind it
//!                                └ no ─► ask ─► Ok: Partition::write, all that waits │ no: refused, all that waits
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dejaq_storage::{TxnGuard, mark};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{PartitionId, ProducerEpoch, ProducerId, TopicId};

use crate::coordinator::machine::Who;
use crate::coordinator::transactions::{Question, Transactions};
use crate::coordinator::txn::ask::At;
use crate::replica::Partition;
use crate::replica::write::{Write, WriteError};
use crate::runtime::Runtime;

/// First version of Produce whose client knows TRANSACTION_ABORTABLE.
const FIRST_ABORTABLE: i16 = 11;
/// First version of Produce that puts partitions into the transaction by itself.
const FIRST_ADDING: i16 = 12;
/// Batches of one producer for one partition that may wait: clients have five in flight.
const MOST_WAITING: usize = 64;

type Key = (TopicId, PartitionId, ProducerId, ProducerEpoch);

#[derive(Debug)]
struct Waiting {
    guard: TxnGuard,
    writes: Vec<Write>,
}

/// Batches that wait for the word of a coordinator.
#[derive(Debug, Default)]
pub struct Vouching {
    /// Short; a partition's turn may be taken under it, never the other way round.
    waiting: Mutex<BTreeMap<Key, Waiting>>,
}

/// What one request must have its coordinator say.
pub struct Claim<R: Runtime> {
    question: Question,
    version: i16,
    parts: Vec<(Key, Arc<Partition<R>>)>,
}

impl Vouching {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch of a transaction: gives it back if it may go on now, and adds to `claims` what is to be asked.
    pub fn take<R: Runtime>(
        &self,
        (id, version): (Option<&str>, i16),
        partition: &Arc<Partition<R>>,
        mut write: Write,
        claims: &mut Vec<Claim<R>>,
    ) -> Option<Write> {
        let header = write.batch.header();
        let who = Who { producer_id: header.producer_id, epoch: header.producer_epoch };
        let Some(id) = id else {
            refuse(write, ErrorCode::INVALID_TXN_STATE);
            return None;
        };
        let identity = partition.identity();
        let key = (identity.topic_id, identity.partition, who.producer_id, who.epoch);
        let mut waiting = self.waiting();
        if let Some(before) = waiting.get_mut(&key) {
            if before.writes.len() < MOST_WAITING {
                before.writes.push(write);
            } else {
                refuse(write, ErrorCode::NOT_ENOUGH_REPLICAS);
            }
            return None;
        }
        // A log that is closed refuses by itself.
        let Some(standing) = partition.txn_standing(who.producer_id, who.epoch) else { return Some(write) };
        if standing.is_open {
            write.batch = write.batch.guarded(standing.guard);
            return Some(write);
        }
        waiting.insert(key, Waiting { guard: standing.guard, writes: vec![write] });
        let at = At { topic: identity.topic.as_str().into(), partition: identity.partition };
        match claims.iter_mut().find(|claim| claim.question.who == who) {
            Some(claim) => {
                claim.question.partitions.push(at);
                claim.parts.push((key, partition.clone()));
            }
            None => claims.push(Claim {
                question: Question {
                    id: id.into(),
                    who,
                    adds: version >= FIRST_ADDING,
                    partitions: vec![at],
                },
                version,
                parts: vec![(key, partition.clone())],
            }),
        }
        None
    }

    /// Asks, and lets go what waits for the answer. To be run to its end, whoever waits for it.
    pub async fn settle<R: Runtime>(self: Arc<Self>, transactions: Arc<Transactions<R>>, claim: Claim<R>) {
        let Claim { question, version, parts } = claim;
        let who = question.who;
        let look = || {
            let mut waiting = self.waiting();
            for (key, partition) in &parts {
                let standing = partition.txn_standing(who.producer_id, who.epoch).unwrap_or_default();
                waiting.get_mut(key).expect("who asked takes it").guard = standing.guard;
            }
        };
        let told = transactions.vouch(question, look).await;
        for (key, partition) in parts {
            // What comes from now on finds the transaction open, behind what is written here.
            let mut waiting = self.waiting();
            let Waiting { guard, writes } = waiting.remove(&key).expect("who asked takes it");
            let guarded = |write: Write| Write { batch: write.batch.guarded(guard), ..write };
            match told {
                Ok(()) => partition.write(writes.into_iter().map(guarded).collect()),
                Err(code) => {
                    mark!("a coordinator does not vouch for a batch");
                    writes.into_iter().for_each(|write| refuse(write, producer_of(version).code(code)));
                }
            }
        }
    }
}

fn refuse(write: Write, code: ErrorCode) {
    let _ = write.outcome.send(Err(WriteError::NotVouched(code))); // the producer may be gone
}

/// What a client of some version of an API understands of the coordinator's word.
#[derive(Debug, Clone, Copy)]
pub struct Understands {
    /// TRANSACTION_ABORTABLE.
    pub abortable: bool,
    /// CONCURRENT_TRANSACTIONS, because what it asks for joins the transaction by itself.
    pub concurrent: bool,
    /// What makes it try again, without looking for anybody else.
    pub again: ErrorCode,
}

impl Understands {
    /// The word of the transaction's coordinator, as this client understands it.
    #[must_use]
    pub fn code(self, code: ErrorCode) -> ErrorCode {
        match code {
            ErrorCode::PRODUCER_FENCED => ErrorCode::INVALID_PRODUCER_EPOCH,
            ErrorCode::INVALID_TXN_STATE if self.abortable => ErrorCode::TRANSACTION_ABORTABLE,
            ErrorCode::CONCURRENT_TRANSACTIONS if self.concurrent => code,
            ErrorCode::CONCURRENT_TRANSACTIONS
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NETWORK_EXCEPTION
            | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => self.again,
            code => code,
        }
    }
}

/// What a producer of this version of Produce understands.
fn producer_of(version: i16) -> Understands {
    Understands {
        abortable: version >= FIRST_ABORTABLE,
        concurrent: version >= FIRST_ADDING,
        // Of what may be tried again older clients know this one, and it makes them ask for no metadata.
        again: ErrorCode::NOT_ENOUGH_REPLICAS,
    }
}
