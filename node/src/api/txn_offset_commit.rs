//! TxnOffsetCommit (28): positions of a group that count when a transaction is committed.
//!
//! Promises: the coordinator of the transaction has said that the group's home is in it; from version 5 on it joins by
//! this request (KIP-890). The positions wait in the offsets topic for the marker of the transaction, fenced by the
//! group's generation (KIP-447) and by the producer's epoch.
//! Leaves out: who may commit (`coordinator::group`).

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};

use super::data_plane::{self, DataPlane};
use super::fetch_session::TopicRef;
use super::group_plane::{GroupPlane, check_partition, named};
use super::produce_txn::Understands;
use crate::coordinator::group::ask::{CommitAsk, TxnCommitAsk};
use crate::coordinator::group::{Ask, Reply};
use crate::coordinator::home::{OFFSETS_TOPIC, partition_of};
use crate::coordinator::machine::Who;
use crate::coordinator::record::{At, Committed};
use crate::coordinator::transactions::{Question, Transactions};
use crate::coordinator::txn;
use crate::runtime::Runtime;

/// First version whose client knows TRANSACTION_ABORTABLE.
const FIRST_ABORTABLE: i16 = 4;
/// First version by which the group's home joins the transaction.
const FIRST_ADDING: i16 = 5;

/// Answers one request.
pub async fn answer<R: Runtime>(
    data: &DataPlane<R>,
    groups: &GroupPlane<R>,
    transactions: &Transactions<R>,
    version: i16,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let now_ms = groups.runtime.unix_ms();
    let image = groups.published.current();
    let mut codes: BTreeMap<At, ErrorCode> = BTreeMap::new();
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let found = named(&image, false, &topic.name, Default::default());
        for part in &topic.partitions {
            let at = At { topic: topic.name.as_str().into(), partition: part.partition_index };
            match found.and_then(|known| check_partition(known, part.partition_index)) {
                Err(code) => drop(codes.insert(at, code)),
                Ok(()) => offsets.push((at, committed(part, now_ms))),
            }
        }
    }
    if !offsets.is_empty() {
        let asked: Vec<At> = offsets.iter().map(|(at, _)| at.clone()).collect();
        match commit(data, groups, transactions, version, &request, offsets).await {
            Ok(results) => codes.extend(results),
            Err(code) => codes.extend(asked.into_iter().map(|at| (at, code))),
        }
    }
    let topics = request.topics.into_iter().map(|topic| {
        let part = |part: &TxnOffsetCommitRequestPartition| {
            let at = At { topic: topic.name.as_str().into(), partition: part.partition_index };
            let error_code = *codes.get(&at).expect("every partition has a result");
            TxnOffsetCommitResponsePartition { partition_index: part.partition_index, error_code }
        };
        let partitions = topic.partitions.iter().map(part).collect();
        TxnOffsetCommitResponseTopic { partitions, name: topic.name }
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

fn committed(part: &TxnOffsetCommitRequestPartition, now_ms: i64) -> Committed {
    Committed {
        offset: part.committed_offset,
        leader_epoch: part.committed_leader_epoch,
        metadata: part.committed_metadata.clone().unwrap_or_default(),
        committed_ms: now_ms,
        expires_ms: None,
    }
}

async fn commit<R: Runtime>(
    data: &DataPlane<R>,
    groups: &GroupPlane<R>,
    transactions: &Transactions<R>,
    version: i16,
    request: &TxnOffsetCommitRequest,
    offsets: Vec<(At, Committed)>,
) -> Result<Vec<(At, ErrorCode)>, ErrorCode> {
    let who = Who { producer_id: request.producer_id, epoch: request.producer_epoch };
    if !who.producer_id.is_valid() || !who.epoch.is_valid() {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    let table = data.directory.table();
    let name = TopicRef::Name(OFFSETS_TOPIC.into());
    let image = groups.published.current();
    let topic = image.topic_named(OFFSETS_TOPIC).ok_or(ErrorCode::NOT_COORDINATOR)?;
    let home = partition_of(&request.group_id, topic.partitions.len());
    let partition = data_plane::partition(&table, &name, home).map_err(|_| ErrorCode::NOT_COORDINATOR)?;
    let mut standing =
        partition.txn_standing(who.producer_id, who.epoch).ok_or(ErrorCode::NOT_COORDINATOR)?;
    if !standing.is_open {
        let question = Question {
            id: request.transactional_id.as_str().into(),
            who,
            adds: version >= FIRST_ADDING,
            partitions: vec![txn::ask::At { topic: OFFSETS_TOPIC.into(), partition: home }],
        };
        let look = || {
            standing = partition.txn_standing(who.producer_id, who.epoch).unwrap_or_default();
        };
        transactions.vouch(question, look).await.map_err(|code| client_of(version).code(code))?;
    }
    let commit = CommitAsk {
        group: request.group_id.clone(),
        member: request.member_id.clone(),
        instance: request.group_instance_id.clone(),
        generation: request.generation_id,
        offsets,
    };
    let ask = Ask::CommitInTxn(TxnCommitAsk { who, guard: standing.guard, commit });
    match groups.ask(&request.group_id, ask).await? {
        Reply::Partitions(results) => Ok(results),
        other => unreachable!("a commit is answered with {other:?}"),
    }
}

/// What a client of this version understands.
fn client_of(version: i16) -> Understands {
    Understands {
        abortable: version >= FIRST_ABORTABLE,
        concurrent: version >= FIRST_ADDING,
        // Makes every client try again, without looking for another coordinator of the group.
        again: ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    }
}
