//! Transactions through the bytes of their APIs, on a disk in memory: one claim a test.

use std::time::Duration;

use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{
    CoordinatorEpoch, Generation, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence,
};
use dejaq_wire::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use dejaq_wire::kafka::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use dejaq_wire::kafka::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use dejaq_wire::kafka::delete_topics::DeleteTopicsRequest;
use dejaq_wire::kafka::describe_transactions::{DescribeTransactionsRequest, TransactionState};
use dejaq_wire::kafka::end_txn::{EndTxnRequest, EndTxnResponse};
use dejaq_wire::kafka::fetch::FetchRequest;
use dejaq_wire::kafka::find_coordinator::FindCoordinatorRequest;
use dejaq_wire::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use dejaq_wire::kafka::list_transactions::ListTransactionsRequest;
use dejaq_wire::kafka::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use dejaq_wire::kafka::produce::ProduceRequest;
use dejaq_wire::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use dejaq_wire::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{BatchBuilder, Compression};

use super::test_kit::{Life, World, answer_of, batch_of, fetch_request, produce_request, values};
use crate::coordinator::machine::Who;
use crate::coordinator::txn::ask::At;
use crate::runtime::Runtime;

const X: &str = "x";
/// Of a client that takes a new epoch with every transaction, and of one that does not.
const NEW: i16 = 12;
const OLD: i16 = 9;

impl Life {
    async fn init(&self, was: Option<Who>) -> InitProducerIdResponse {
        let was = was.unwrap_or(Who { producer_id: ProducerId::NONE, epoch: ProducerEpoch::NONE });
        let find = FindCoordinatorRequest { key: X.into(), key_type: 1, ..Default::default() };
        let request = InitProducerIdRequest {
            transactional_id: Some(X.into()),
            transaction_timeout_ms: 60_000,
            producer_id: was.producer_id,
            producer_epoch: was.epoch,
        };
        for _ in 0..400 {
            let found = self.ask(3, &find).await;
            assert_eq!(found.error_code, ErrorCode::NONE, "{found:?}");
            let told = self.ask(4, &request).await;
            match told.error_code {
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
                | ErrorCode::NOT_COORDINATOR
                | ErrorCode::CONCURRENT_TRANSACTIONS => self.node.sleep(Duration::from_millis(5)).await,
                _ => return told,
            }
        }
        panic!("the coordinator does not answer");
    }

    /// Waits until the coordinator has read its log.
    async fn loaded(&self) {
        while self.described().await.error_code.is_error() {
            self.node.sleep(Duration::from_millis(5)).await;
        }
    }

    async fn producer(&self) -> Who {
        let told = self.init(None).await;
        assert_eq!(told.error_code, ErrorCode::NONE);
        Who { producer_id: told.producer_id, epoch: told.producer_epoch }
    }

    async fn send(&self, version: i16, who: Who, sequence: i32, value: &str) -> ErrorCode {
        let request = self.of_txn(who, sequence, value);
        self.ask(version, &request).await.responses[0].partition_responses[0].error_code
    }

    fn of_txn(&self, who: Who, sequence: i32, value: &str) -> ProduceRequest {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.transactional = true;
        (builder.producer_id, builder.producer_epoch) = (who.producer_id, who.epoch);
        builder.base_sequence = Sequence(sequence);
        let batch = batch_of(builder, self.node.unix_ms(), &[value]);
        ProduceRequest { transactional_id: Some(X.into()), ..produce_request(-1, "t", 0, batch) }
    }

    async fn add(&self, who: Who) -> ErrorCode {
        let topic = AddPartitionsToTxnTopic { name: "t".into(), partitions: vec![PartitionId(0)] };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: X.into(),
            v3_and_below_producer_id: who.producer_id,
            v3_and_below_producer_epoch: who.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        let told = self.ask(3, &request).await;
        told.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
    }

    async fn try_end(&self, version: i16, who: Who, committed: bool) -> EndTxnResponse {
        let request = EndTxnRequest {
            transactional_id: X.into(),
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            committed,
        };
        loop {
            let told = self.ask(version, &request).await;
            if told.error_code != ErrorCode::CONCURRENT_TRANSACTIONS {
                return told;
            }
            self.node.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends a transaction as a new client does; who it is then.
    async fn end(&self, who: Who, committed: bool) -> Who {
        let told = self.try_end(5, who, committed).await;
        assert_eq!(told.error_code, ErrorCode::NONE);
        Who { producer_id: told.producer_id, epoch: told.producer_epoch }
    }

    async fn described(&self) -> TransactionState {
        let request = DescribeTransactionsRequest { transactional_ids: vec![X.into()] };
        self.ask(0, &request).await.transaction_states.remove(0)
    }

    /// Waits until the transaction is over everywhere.
    async fn over(&self) -> String {
        for _ in 0..1000 {
            let state = self.described().await.transaction_state;
            if state.starts_with("Complete") || state == "Empty" {
                return state;
            }
            self.node.sleep(Duration::from_millis(5)).await;
        }
        panic!("it hangs as {:?}", self.described().await);
    }

    /// What a reader of committed records may see.
    async fn stable(&self) -> i64 {
        let request = FetchRequest { isolation_level: 1, ..fetch_request("t", 0, 0) };
        self.ask(11, &request).await.responses[0].partitions[0].last_stable_offset.0
    }

    async fn group_offset(&self, stable_only: bool) -> Result<i64, ErrorCode> {
        let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![PartitionId(0)] };
        let request = OffsetFetchRequest {
            group_id: "g".into(),
            topics: Some(vec![topic]),
            require_stable: stable_only,
            ..Default::default()
        };
        let part = self.ask(7, &request).await.topics[0].partitions[0].clone();
        if part.error_code.is_none() { Ok(part.committed_offset.0) } else { Err(part.error_code) }
    }

    async fn commit_offset(&self, version: i16, who: Who, offset: i64) -> ErrorCode {
        let part = TxnOffsetCommitRequestPartition {
            committed_offset: Offset(offset),
            ..TxnOffsetCommitRequestPartition::default()
        };
        let request = TxnOffsetCommitRequest {
            transactional_id: X.into(),
            group_id: "g".into(),
            producer_id: who.producer_id,
            producer_epoch: who.epoch,
            generation_id: Generation::NONE,
            topics: vec![TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![part] }],
            ..Default::default()
        };
        loop {
            let told = self.ask(version, &request).await.topics[0].partitions[0].error_code;
            match told {
                ErrorCode::COORDINATOR_LOAD_IN_PROGRESS | ErrorCode::CONCURRENT_TRANSACTIONS => {}
                ErrorCode::NOT_COORDINATOR => {
                    let find = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
                    self.ask(3, &find).await;
                }
                told => return told,
            }
            self.node.sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn begin(world: &World) -> Life {
    let life = world.start().await;
    life.create("t", 1, &[]).await;
    life
}

#[tokio::test]
async fn what_is_written_joins_the_transaction_by_itself_and_the_epoch_grows_with_each() {
    let world = World::new();
    let life = begin(&world).await;
    let who = life.producer().await;
    assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE);
    assert_eq!(life.stable().await, 0);
    let state = life.described().await;
    assert_eq!((&*state.transaction_state, &*state.topics[0].topic), ("Ongoing", "t"));
    let next = life.end(who, true).await;
    assert_eq!(next, Who { producer_id: who.producer_id, epoch: ProducerEpoch(who.epoch.0 + 1) });
    assert_eq!(life.over().await, "CompleteCommit");
    assert_eq!(life.stable().await, 2);
    assert_eq!(life.send(NEW, who, 1, "late").await, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(life.send(NEW, next, 0, "b").await, ErrorCode::NONE);
    life.end(next, false).await;
    assert_eq!(life.over().await, "CompleteAbort");
    let request = FetchRequest { isolation_level: 1, ..fetch_request("t", 0, 0) };
    let part = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    assert_eq!(part.aborted_transactions.expect("told")[0].first_offset, Offset(2));
    assert_eq!(part.last_stable_offset, Offset(4));
}

/// A reader of committed records that begins at its end would be told that it is out of range, as long as the transaction is open.
#[tokio::test]
async fn the_stable_end_moves_with_a_start_that_passes_an_open_transaction() {
    let world = World::new();
    let life = begin(&world).await;
    let who = life.producer().await;
    for sequence in 0..5 {
        assert_eq!(life.send(NEW, who, sequence, "a").await, ErrorCode::NONE);
    }
    assert_eq!(life.stable().await, 0);
    let part = DeleteRecordsPartition { partition_index: PartitionId(0), offset: Offset(4) };
    let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![part] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5_000 };
    assert_eq!(life.ask(2, &request).await.topics[0].partitions[0].low_watermark, Offset(4));
    let request = FetchRequest { isolation_level: 1, ..fetch_request("t", 4, 0) };
    let part = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    assert_eq!((part.error_code, part.last_stable_offset), (ErrorCode::NONE, Offset(4)));
    life.end(who, true).await;
    life.over().await;
    let part = life.ask(11, &request).await.responses.remove(0).partitions.remove(0);
    assert_eq!(part.last_stable_offset, Offset(6));
}

#[tokio::test]
async fn the_next_transaction_begins_while_the_last_one_is_still_being_ended() {
    let world = World::new();
    let life = begin(&world).await;
    let mut who = life.producer().await;
    for round in 0..20 {
        assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE, "round {round}");
        assert_eq!(life.commit_offset(5, who, round).await, ErrorCode::NONE, "round {round}");
        who = life.end(who, round % 3 != 2).await;
    }
    life.over().await;
    assert_eq!(life.stable().await, 40);
    assert_eq!(life.group_offset(true).await, Ok(19));
}

#[tokio::test]
async fn an_older_client_says_where_it_writes_and_is_refused_where_it_did_not() {
    let world = World::new();
    let life = begin(&world).await;
    let who = life.producer().await;
    assert_eq!(life.send(OLD, who, 0, "a").await, ErrorCode::INVALID_TXN_STATE);
    assert_eq!(life.stable().await, 0);
    assert_eq!(life.add(who).await, ErrorCode::NONE);
    assert_eq!(life.send(OLD, who, 0, "a").await, ErrorCode::NONE);
    assert_eq!(life.send(OLD, who, 1, "b").await, ErrorCode::NONE);
    assert_eq!(life.try_end(3, who, true).await.error_code, ErrorCode::NONE);
    life.over().await;
    assert_eq!(life.stable().await, 3);
    // What comes late opens nothing, though the epoch is the same.
    assert_eq!(life.send(OLD, who, 2, "late").await, ErrorCode::INVALID_TXN_STATE);
    assert_eq!(life.stable().await, 3);
}

#[tokio::test]
async fn another_life_of_the_id_fences_the_first_and_aborts_what_it_left() {
    let world = World::new();
    let life = begin(&world).await;
    let first = life.producer().await;
    assert_eq!(life.send(NEW, first, 0, "a").await, ErrorCode::NONE);
    let second = life.producer().await;
    assert_eq!(second.producer_id, first.producer_id);
    assert!(second.epoch > first.epoch, "{second:?}");
    assert_eq!(life.send(NEW, first, 1, "zombie").await, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(life.try_end(5, first, true).await.error_code, ErrorCode::PRODUCER_FENCED);
    assert_eq!(life.init(Some(first)).await.error_code, ErrorCode::PRODUCER_FENCED);
    assert_eq!(life.stable().await, 2, "its record and the abort");
}

#[tokio::test]
async fn a_timeout_beyond_what_is_allowed_is_refused_and_one_within_aborts() {
    let world = World::new();
    let life = begin(&world).await;
    let mut request = InitProducerIdRequest {
        transactional_id: Some("y".into()),
        transaction_timeout_ms: 900_001,
        ..Default::default()
    };
    life.producer().await; // by now the topic is there
    let told = loop {
        let told = life.ask(4, &request).await;
        if told.error_code != ErrorCode::COORDINATOR_LOAD_IN_PROGRESS {
            break told;
        }
    };
    assert_eq!(told.error_code, ErrorCode::INVALID_TRANSACTION_TIMEOUT);
    request.transactional_id = Some(X.into());
    request.transaction_timeout_ms = 300;
    let told = life.ask(4, &request).await;
    let who = Who { producer_id: told.producer_id, epoch: told.producer_epoch };
    assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE);
    assert_eq!(life.stable().await, 0);
    for _ in 0..400 {
        if life.stable().await == 2 {
            break;
        }
        life.node.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((life.stable().await, life.over().await), (2, "CompleteAbort".to_owned()));
    assert_eq!(life.send(NEW, who, 1, "late").await, ErrorCode::INVALID_PRODUCER_EPOCH);
}

#[tokio::test]
async fn offsets_of_a_group_take_effect_with_the_commit() {
    for (version, adds) in [(5, false), (3, true)] {
        let world = World::new();
        let life = begin(&world).await;
        let find = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
        life.ask(3, &find).await;
        let mut who = life.producer().await;
        for (round, committed) in [(1, true), (2, false)] {
            if adds {
                let request = AddOffsetsToTxnRequest {
                    transactional_id: X.into(),
                    producer_id: who.producer_id,
                    producer_epoch: who.epoch,
                    group_id: "g".into(),
                };
                assert_eq!(life.ask(3, &request).await.error_code, ErrorCode::NONE);
            }
            assert_eq!(life.commit_offset(version, who, round * 10).await, ErrorCode::NONE);
            assert_eq!(life.group_offset(true).await, Err(ErrorCode::UNSTABLE_OFFSET_COMMIT));
            if adds {
                assert_eq!(life.try_end(3, who, committed).await.error_code, ErrorCode::NONE);
            } else {
                who = life.end(who, committed).await;
            }
            life.over().await;
            assert_eq!(life.group_offset(true).await, Ok(10), "round {round} of version {version}");
        }
        // Nothing opens a transaction of offsets without its coordinator, either.
        let zombie = Who { epoch: ProducerEpoch(who.epoch.0 + 5), ..who };
        assert!(life.commit_offset(version, zombie, 99).await.is_error());
        assert_eq!(life.group_offset(true).await, Ok(10));
    }
}

#[tokio::test]
async fn what_was_decided_is_carried_out_after_a_power_cut_and_what_was_open_stays_open() {
    let world = World::new();
    let life = begin(&world).await;
    let who = life.producer().await;
    assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE);
    let next = life.end(who, true).await;
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    life.loaded().await;
    assert_eq!(life.over().await, "CompleteCommit");
    assert_eq!(life.stable().await, 2);
    assert_eq!(life.send(NEW, next, 0, "b").await, ErrorCode::NONE);
    life.cut_power(CrashMode::Lose).await;
    let life = world.start().await;
    life.loaded().await;
    assert_eq!(life.described().await.transaction_state, "Ongoing");
    assert_eq!(life.send(NEW, next, 1, "c").await, ErrorCode::NONE);
    life.end(next, true).await;
    life.over().await;
    assert_eq!(life.stable().await, 5);
    let all = life.fetch("t", 0).await;
    let listed = life.ask(0, &ListTransactionsRequest::default()).await;
    assert_eq!(listed.transaction_states[0].transaction_state, "CompleteCommit");
    drop(values(all.records.unwrap_or_default()));
}

#[tokio::test]
async fn a_batch_does_not_wait_for_the_word_about_another_epoch() {
    let world = World::new();
    let life = world.with_topic(&[]).await;
    let late = life.producer().await;
    let now = life.producer().await;
    assert_eq!((late.producer_id, late.epoch.0 + 1), (now.producer_id, now.epoch.0));
    // One turn: the question about the old epoch is open when the batch of the new one comes.
    let requests = [life.of_txn(late, 0, "late"), life.of_txn(now, 0, "now")];
    let started = life.turn(requests.iter().map(|request| life.request(NEW, request)).collect()).await;
    let mut codes = Vec::new();
    for one in started {
        let answer = answer_of::<ProduceRequest>(NEW, life.finish(one).await);
        codes.push(answer.responses[0].partition_responses[0].error_code);
    }
    assert_eq!(codes, [ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::NONE]);
    life.end(now, true).await;
    life.over().await;
    assert_eq!(life.values("t").await[0], "now", "and behind it the marker");
}

/// What is remembered of a producer that nobody has would push out those who are there, and a later epoch than the partition has seen
/// would leave all later transactions open.
#[tokio::test]
async fn a_marker_from_outside_is_written_where_its_producer_is_known_and_nowhere_else() {
    let life = begin(&World::new()).await;
    let who = life.producer().await;
    assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE);
    let mark = async |topic: &str, producer_id, bump: i16, coordinator| {
        let partition_indexes = vec![PartitionId(0)];
        let marker = WritableTxnMarker {
            producer_id,
            producer_epoch: ProducerEpoch(who.epoch.0 + bump),
            transaction_result: false,
            topics: vec![WritableTxnMarkerTopic { name: topic.into(), partition_indexes }],
            coordinator_epoch: CoordinatorEpoch(coordinator),
        };
        let told = life.ask(1, &WriteTxnMarkersRequest { markers: vec![marker] }).await;
        told.markers[0].topics[0].partitions[0].error_code
    };
    assert_eq!(mark("nowhere", who.producer_id, 0, 0).await, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(mark("t", ProducerId(77_777), 0, 0).await, ErrorCode::INVALID_PRODUCER_ID_MAPPING);
    assert_eq!(mark("t", who.producer_id, 0, i32::MAX).await, ErrorCode::INVALID_REQUEST);
    assert_eq!(mark("t", who.producer_id, 9, 0).await, ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(life.stable().await, 0, "it is open");
    assert_eq!(mark("t", who.producer_id, 0, 0).await, ErrorCode::NONE);
    assert_eq!(life.stable().await, 2);
}

/// The log that was asked for its producer is the one that gets the marker, or none does.
#[tokio::test]
async fn a_marker_from_outside_goes_into_no_log_that_was_not_asked() {
    let life = begin(&World::new()).await;
    let who = life.producer().await;
    assert_eq!(life.send(NEW, who, 0, "a").await, ErrorCode::NONE);
    let markers = life.transactions.markers();
    let at = At { topic: "t".into(), partition: PartitionId(0) };
    let ask = || markers.known(&at, who.producer_id);
    let (first, second) = (ask().expect("it has written"), ask().expect("it has written"));
    let marker = EndTxnMarker {
        producer_id: who.producer_id,
        producer_epoch: who.epoch,
        commit: false,
        coordinator_epoch: CoordinatorEpoch(0),
    };
    let deadline = life.transactions.deadline();
    let written = markers.write_known(marker, &[(&at, first)], deadline).await;
    assert_eq!((written, life.stable().await), (vec![ErrorCode::NONE], 2));
    let request =
        DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 10_000, ..Default::default() };
    life.ask(5, &request).await;
    life.create("t", 1, &[]).await;
    let written = markers.write_known(marker, &[(&at, second)], deadline).await;
    assert_ne!(written, vec![ErrorCode::NONE], "it was another log");
    assert_eq!(life.partition("t", 0).view().reader().end(), Offset(0), "who is new knows no such producer");
}
