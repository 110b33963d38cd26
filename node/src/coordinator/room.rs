//! SHELL. Answers other nodes about transactions (room Txn).
//!
//! Owns: nothing. Promises: an answer before the asker gives up. Leaves out: everything that is decided
//! (`transactions`, `markers`). Opened by `broker` once the partitions are there.

use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::ErrorCode;
use dejaq_wire::peer::txn::{MarkersWritten, Named, Vouch, Vouched, WriteMarkers};
use dejaq_wire::peer::{Body, Parts, Refusal};
use dejaq_wire::record::control::EndTxnMarker;

use super::machine::Who;
use super::transactions::{Question, Transactions};
use super::txn::ask::At;
use crate::peer::{Answering, PeerService, PeerSession, answer, read};
use crate::runtime::Runtime;

/// How long an answer may take; less than those who ask are willing to wait.
const PATIENCE: Duration = Duration::from_millis(1800);

/// Answers other nodes.
pub struct TxnRoom<R: Runtime> {
    runtime: R,
    transactions: Arc<Transactions<R>>,
}

impl<R: Runtime> TxnRoom<R> {
    /// By what this node leads.
    pub fn new(runtime: R, transactions: Arc<Transactions<R>>) -> TxnRoom<R> {
        TxnRoom { runtime, transactions }
    }
}

fn places(named: Vec<Named>) -> Vec<At> {
    named.into_iter().map(|one| At { topic: one.topic.into(), partition: one.partition }).collect()
}

impl<R: Runtime> PeerService for TxnRoom<R> {
    fn start(&self, _: &Arc<PeerSession>, parts: Parts) -> Answering {
        let transactions = self.transactions.clone();
        let deadline = self.runtime.now().plus(PATIENCE);
        match parts.tag {
            WriteMarkers::TAG => match read::<WriteMarkers>(parts) {
                Err(refusal) => Answering::Now(Err(refusal)),
                Ok(ask) => Answering::Later(Box::pin(async move {
                    let marker = EndTxnMarker {
                        producer_id: ask.producer_id,
                        producer_epoch: ask.producer_epoch,
                        commit: ask.commit,
                        coordinator_epoch: ask.coordinator_epoch,
                    };
                    let places = places(ask.partitions);
                    let codes = transactions.markers().write_here(marker, &places, deadline).await;
                    answer(MarkersWritten { codes })
                })),
            },
            Vouch::TAG => match read::<Vouch>(parts) {
                Err(refusal) => Answering::Now(Err(refusal)),
                Ok(ask) => Answering::Later(Box::pin(async move {
                    let question = Question {
                        id: ask.id.into(),
                        who: Who { producer_id: ask.producer_id, epoch: ask.producer_epoch },
                        adds: ask.adds,
                        partitions: places(ask.partitions),
                    };
                    let told = transactions.vouch_here(question, deadline).await;
                    answer(Vouched { code: told.err().unwrap_or(ErrorCode::NONE) })
                })),
            },
            _ => Answering::Now(Err(Refusal::Unknown)),
        }
    }
}
