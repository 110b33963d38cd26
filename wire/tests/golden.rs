//! Bytes that may never change: headers, batches and peer messages against `tests/golden/*.hex`.
//!
//! A changed file is a changed protocol. To add one, write an empty file and copy what the test prints.

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::frame::{encode_request, encode_response};
use dejaq_wire::ids::{
    BrokerEpoch, BrokerId, CoordinatorEpoch, CorrelationId, LeaderEpoch, Offset, PartitionId, ProducerEpoch,
    ProducerId, Sequence, TopicId,
};
use dejaq_wire::kafka::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::produce::{
    LeaderIdAndEpoch, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use dejaq_wire::peer::raft::{
    Batch, Came, Content, DirectoryId, Envelope, Fetched, Message, Position, ReplicaKey, SnapshotId, Voter,
};
use dejaq_wire::peer::replica::{Found, News, Place, ReplicaFetch, ReplicaFetched, Standing, Talk, Why};
use dejaq_wire::peer::{Body, Call, Hello, HelloReply, HelloVerdict, Parts, PeerError, PeerMessage, Refusal};
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

#[track_caller]
fn check(golden: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<_> = hex.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    assert_eq!(golden.split_whitespace().collect::<String>(), hex, "now it is\n{}", lines.join("\n"));
}

const ID: CorrelationId = CorrelationId(0x0102_0304);

#[test]
fn request_headers_and_bodies_keep_their_bytes() {
    let request =
        ApiVersionsRequest { client_software_name: "dejaq".into(), client_software_version: "0.1.0".into() };
    let frame = |version| encode_request(version, ID, Some("golden"), &request).expect("it fits").concat();
    check(include_str!("golden/api_versions_request_0.hex"), &frame(0));
    check(include_str!("golden/api_versions_request_3.hex"), &frame(3));
    let partition = FetchPartition {
        partition: PartitionId(1),
        fetch_offset: Offset(42),
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic =
        FetchTopic { topic: "orders".into(), topic_id: TopicId([0xab; 16]), partitions: vec![partition] };
    let request =
        FetchRequest { max_wait_ms: 500, min_bytes: 1, topics: vec![topic], ..FetchRequest::default() };
    let frame = |version| encode_request(version, ID, None, &request).expect("it fits").concat();
    check(include_str!("golden/fetch_request_4.hex"), &frame(4));
    check(include_str!("golden/fetch_request_18.hex"), &frame(18));
}

#[test]
fn response_headers_and_bodies_keep_their_bytes() {
    let range = ApiVersion { api_key: 18, min_version: 0, max_version: 4 };
    let error_code = ErrorCode::UNSUPPORTED_VERSION;
    let response =
        ApiVersionsResponse { error_code, api_keys: vec![range], ..ApiVersionsResponse::default() };
    let frame = |version| encode_response(version, ID, &response).expect("it fits").concat();
    check(include_str!("golden/api_versions_response_0.hex"), &frame(0));
    check(include_str!("golden/api_versions_response_4.hex"), &frame(4));
    let partition = PartitionProduceResponse {
        index: PartitionId(1),
        error_code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
        base_offset: Offset::NONE,
        current_leader: LeaderIdAndEpoch { leader_id: BrokerId(2), leader_epoch: LeaderEpoch(7) },
        ..PartitionProduceResponse::default()
    };
    let topic = TopicProduceResponse {
        name: "orders".into(),
        partition_responses: vec![partition],
        ..TopicProduceResponse::default()
    };
    let response = ProduceResponse { responses: vec![topic], ..ProduceResponse::default() };
    let frame = |version| encode_response(version, ID, &response).expect("it fits").concat();
    check(include_str!("golden/produce_response_3.hex"), &frame(3));
    check(include_str!("golden/produce_response_12.hex"), &frame(12));
}

#[test]
fn batches_keep_their_bytes() {
    let mut builder = BatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch) = (ProducerId(5), ProducerEpoch(1));
    builder.base_sequence = Sequence(9);
    let headers: &[(&str, Option<&[u8]>)] = &[("trace", Some(b"id")), ("none", None)];
    let (key, value) = (Some(&b"key"[..]), Some(&b"value"[..]));
    builder.append(&NewRecord { timestamp_ms: 1_700_000_000_000, key, value, headers });
    builder.append(&NewRecord { timestamp_ms: 1_700_000_000_500, ..NewRecord::default() });
    let mut batch = builder.build().expect("no codec");
    batch.place(Offset(1000), LeaderEpoch(3));
    check(include_str!("golden/batch.hex"), &batch.to_bytes());
    batch.stamp_append_time(1_800_000_000_000);
    check(include_str!("golden/batch_append_time.hex"), &batch.to_bytes());
    let (producer_id, producer_epoch) = (ProducerId(5), ProducerEpoch(1));
    let coordinator_epoch = CoordinatorEpoch(2);
    let marker = EndTxnMarker { producer_id, producer_epoch, commit: true, coordinator_epoch };
    check(include_str!("golden/commit_marker.hex"), &marker.batch(1_700_000_000_000).to_bytes());
}

#[test]
fn peer_messages_keep_their_bytes() {
    let hello = Hello {
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAQ".into(),
        node_id: BrokerId(300),
        feature_level: 1,
        build: "0.1.0".into(),
    };
    let encoded = |message: PeerMessage| message.encode().expect("short texts").concat();
    check(include_str!("golden/peer_hello_0.hex"), &encoded(PeerMessage::Hello(hello.clone())));
    let reply = HelloReply { hello, verdict: HelloVerdict::OtherCluster };
    check(include_str!("golden/peer_hello_reply_0.hex"), &encoded(PeerMessage::HelloReply(reply)));
    let refused = PeerMessage::Refused { correlation: 300, why: Refusal::Stopping };
    check(include_str!("golden/peer_refused_0.hex"), &encoded(refused));
    check(include_str!("golden/peer_ping_0.hex"), &encoded(PeerMessage::Ping));
    check(include_str!("golden/peer_pong_0.hex"), &encoded(PeerMessage::Pong));
    let (head, tail) = (Bytes::from_static(b"head"), vec![Bytes::from_static(b"the tail")]);
    let call = Call { correlation: 0x0102_0304, parts: Parts { tag: 0x0201, version: 1, head, tail } };
    check(include_str!("golden/peer_call.hex"), &encoded(PeerMessage::Call(call)));
}

#[test]
fn messages_of_the_metadata_quorum_keep_their_bytes() {
    let directory = DirectoryId([0xab; 16]);
    let from = ReplicaKey { id: BrokerId(1), directory };
    let at = Position { epoch: LeaderEpoch(4), end: Offset(300) };
    let voter = Voter { key: from, address: "a:9".into() };
    let batch = |base: i64, content| Batch {
        base: Offset(base),
        end: Offset(base + 1),
        epoch: LeaderEpoch(5),
        content,
    };
    let batches = vec![
        batch(300, Content::Voters(vec![voter.clone()])),
        batch(301, Content::LeaderChange),
        batch(302, Content::Records(Bytes::from_static(b"records"))),
    ];
    let snapshot = SnapshotId { position: at, bytes: 1000, voters: vec![voter] };
    let reply = |fetched| Message::FetchReply { at, fetched, commit: Offset(299), round: 7 };
    let bytes = Bytes::from_static(b"a piece");
    let messages = [
        Message::Vote { pre: true, log: at },
        Message::VoteReply { pre: false, granted: true },
        Message::Leading,
        Message::Resigning { successors: vec![BrokerId(3), BrokerId(2)] },
        Message::Fetch { log: at, durable: Offset(298), commit: Offset(297), round: 6 },
        reply(Fetched::Batches(batches)),
        reply(Fetched::Diverged { to: at }),
        reply(Fetched::Snapshot(snapshot)),
        reply(Fetched::NotLeader),
        Message::FetchSnapshot { log: at, snapshot: at, from: 500 },
        Message::SnapshotChunk { at, snapshot: at, from: 500, bytes },
    ];
    let mut all = Vec::new();
    for message in messages {
        let leader = Some(BrokerId(2));
        let envelope = Envelope { from, to: BrokerId(2), epoch: LeaderEpoch(5), leader, message };
        let parts = envelope.into_parts().expect("within bounds");
        assert!(parts.tail.is_empty() && (parts.tag, parts.version) == (0x0101, 1));
        all.extend_from_slice(&parts.head);
    }
    check(include_str!("golden/peer_raft_1.hex"), &all);
    let came = Came.into_parts().expect("nothing");
    assert_eq!((came.tag, came.version, came.head.len()), (0x0181, 1, 0));
}

#[test]
fn messages_of_followers_keep_their_bytes() {
    let place = Place { topic: TopicId([0xab; 16]), partition: PartitionId(3) };
    let (epoch, broker_epoch) = (LeaderEpoch(4), BrokerEpoch(9));
    let (end, durable) = (Offset(300), Offset(298));
    let standing = Standing { place, epoch, end, last_epoch: LeaderEpoch(2), durable, lost: false };
    let fetch = ReplicaFetch {
        broker_epoch,
        session: 0x0102,
        round: 7,
        max_wait_ms: 500,
        max_bytes: 1 << 20,
        changed: vec![standing],
        gone: vec![place],
    };
    let (watermark, start, last_epoch) = (Offset(299), Offset(1), LeaderEpoch(2));
    let news = |found| News { place, epoch, at: end, last_epoch, watermark, start, found };
    let fetched = ReplicaFetched {
        talk: Talk::On,
        news: vec![
            news(Found::Batches(Bytes::from_static(b"batch"))),
            news(Found::Diverged { epoch: LeaderEpoch(1), end: Offset(200) }),
            news(Found::Below { base: Offset(1) }),
            news(Found::Refused(Why::FencedEpoch)),
        ],
    };
    let lost = ReplicaFetch { changed: vec![standing, Standing { lost: true, ..standing }], ..fetch.clone() };
    let let_go = ReplicaFetched { talk: Talk::On, news: vec![news(Found::LetGo)] };
    check(include_str!("golden/peer_replica_1.hex"), &bytes_of([fetch.into_parts(), fetched.into_parts()]));
    check(include_str!("golden/peer_replica_2.hex"), &bytes_of([lost.into_parts(), let_go.into_parts()]));
}

/// Tag, version and body of both.
fn bytes_of(all: [Result<Parts, PeerError>; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for parts in all {
        let parts = parts.expect("short");
        bytes.extend_from_slice(&parts.tag.to_be_bytes());
        bytes.extend_from_slice(&parts.version.to_be_bytes());
        bytes.extend_from_slice(&parts.head);
        parts.tail.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
    }
    bytes
}
