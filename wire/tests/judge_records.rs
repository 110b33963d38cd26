//! Record batches under every codec, against kafka-protocol as an independent judge, both ways; and
//! the rules for batches from clients.

use bytes::{Bytes, BytesMut};
use dejaq_wire::fuzz::Random;
use dejaq_wire::ids::{CoordinatorEpoch, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::control::{ControlType, EndTxnMarker};
use dejaq_wire::record::lookup::{TimestampedOffset, find_max_timestamp, find_timestamp};
use dejaq_wire::record::produced::{RecordSummary, check_produced, check_records};
use dejaq_wire::record::{
    Batch, BatchBuilder, BatchError, BatchHeader, Batches, Compression, NewRecord, RecordError,
};
use kafka_protocol::records::{
    Compression as JudgeCodec, Record as JudgeRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

const LIMIT: usize = 1 << 20;

/// A record as both sides can be compared by.
#[derive(Debug, Clone, PartialEq)]
struct Plain {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn run(random: &mut Random) -> Option<Vec<u8>> {
    if random.one_in(5) {
        return None;
    }
    let length = if random.one_in(10) { 5000 } else { random.below(30) };
    Some((0..length).map(|at| (at as u64 * random.below(9) as u64) as u8).collect())
}

fn plains(seed: u64) -> Vec<Plain> {
    let mut random = Random::new(seed, false);
    let count = 1 + random.below(40);
    let start = 1_700_000_000_000;
    let plain = |offset| Plain {
        offset: offset as i64,
        timestamp: start + if offset == 0 { 0 } else { random.below(100_000) as i64 },
        key: run(&mut random),
        value: run(&mut random),
        headers: (0..random.below(3)).map(|n| (format!("h{n}"), run(&mut random))).collect(),
    };
    (0..count).map(plain).collect()
}

fn built(plains: &[Plain], codec: Compression) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    (builder.producer_id, builder.producer_epoch) = (ProducerId(77), ProducerEpoch(3));
    builder.base_sequence = Sequence(12);
    for plain in plains {
        let headers: Vec<_> = plain.headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        let (key, value) = (plain.key.as_deref(), plain.value.as_deref());
        let record = NewRecord { timestamp_ms: plain.timestamp, key, value, headers: &headers };
        let before = builder.bytes();
        let adds = builder.record_bytes(&record);
        builder.append(&record);
        assert_eq!(builder.bytes(), before + adds);
    }
    builder.build().expect("the codecs work")
}

fn read(batch: &Batch) -> Result<Vec<Plain>, RecordError> {
    let plain = |record: Result<dejaq_wire::record::Record, RecordError>| {
        record.map(|record| Plain {
            offset: record.offset.0,
            timestamp: record.timestamp_ms,
            key: record.key.map(|key| key.to_vec()),
            value: record.value.map(|value| value.to_vec()),
            headers: record
                .headers
                .iter()
                .map(|(k, v)| (String::from_utf8_lossy(&k).into_owned(), v.map(|v| v.to_vec())))
                .collect(),
        })
    };
    batch.records(LIMIT)?.map(plain).collect()
}

fn judges_codec(codec: Compression) -> JudgeCodec {
    match codec {
        Compression::None => JudgeCodec::None,
        Compression::Gzip => JudgeCodec::Gzip,
        Compression::Snappy => JudgeCodec::Snappy,
        Compression::Lz4 => JudgeCodec::Lz4,
        Compression::Zstd => JudgeCodec::Zstd,
    }
}

fn judge_record(plain: &Plain) -> JudgeRecord {
    JudgeRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 77,
        producer_epoch: 3,
        timestamp_type: TimestampType::Creation,
        offset: plain.offset,
        sequence: 12 + plain.offset as i32,
        timestamp: plain.timestamp,
        key: plain.key.clone().map(Bytes::from),
        value: plain.value.clone().map(Bytes::from),
        headers: plain.headers.iter().map(|(k, v)| (k.clone().into(), v.clone().map(Bytes::from))).collect(),
    }
}

fn judge_plain(record: JudgeRecord) -> Plain {
    Plain {
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(|key| key.to_vec()),
        value: record.value.map(|value| value.to_vec()),
        headers: record.headers.into_iter().map(|(k, v)| (k.to_string(), v.map(|v| v.to_vec()))).collect(),
    }
}

#[test]
fn the_judge_reads_the_batches_that_we_build_and_we_read_its_own() {
    for codec in Compression::ALL {
        for seed in 0..60 {
            let plains = plains(seed);
            let ours = built(&plains, codec).to_bytes();
            let judged = RecordBatchDecoder::decode(&mut ours.clone()).expect("the judge reads it");
            assert_eq!(judged.compression, judges_codec(codec));
            assert_eq!(judged.records[0].sequence, 12);
            assert_eq!(
                judged.records.into_iter().map(judge_plain).collect::<Vec<_>>(),
                plains,
                "{codec:?} {seed}"
            );

            let mut theirs = BytesMut::new();
            let options = RecordEncodeOptions { version: 2, compression: judges_codec(codec) };
            let records: Vec<_> = plains.iter().map(judge_record).collect();
            RecordBatchEncoder::encode(&mut theirs, &records, &options).expect("the judge writes it");
            let theirs = theirs.freeze();
            if codec == Compression::None {
                // Where no codec has a choice and the first timestamp is the least, the bytes agree.
                assert_eq!(theirs, ours, "seed {seed}");
            }
            let batch = check_produced(&theirs, 9).expect("the judge's batches are sound");
            assert_eq!(read(&batch), Ok(plains), "{codec:?} {seed}");
        }
    }
}

fn small(codec: Compression) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    for (timestamp_ms, key) in [(100, Some("a")), (300, None), (200, Some("c")), (300, Some("d"))] {
        let key = key.map(str::as_bytes);
        builder.append(&NewRecord { timestamp_ms, key, value: Some(b"v"), headers: &[] });
    }
    builder.build().expect("the codecs work")
}

#[test]
fn placing_changes_twelve_bytes_and_shares_the_payload() {
    let mut batch = small(Compression::Zstd);
    let before = batch.to_bytes();
    batch.place(Offset(1000), LeaderEpoch(7));
    let [prefix, payload] = batch.chunks();
    assert_eq!(payload.as_ptr(), batch.payload.as_ptr());
    assert_eq!(prefix.len(), BatchHeader::BYTES);
    let after = [prefix, payload].concat();
    let changed = |at: &usize| before[*at] != after[*at];
    assert!((0..before.len()).filter(changed).all(|at| at < 8 || (12..16).contains(&at)));
    let stored = Batch::parse(&after.into()).expect("it is whole");
    assert_eq!(stored.check_crc(), Ok(()), "base offset and leader epoch lie outside of the CRC");
    assert_eq!((stored.header.last_offset(), stored.header.next_offset()), (Offset(1003), Offset(1004)));
}

#[test]
fn the_append_time_overrides_every_timestamp_under_a_new_crc() {
    for codec in Compression::ALL {
        let mut batch = small(codec);
        let old = batch.header.crc;
        batch.stamp_append_time(5555);
        assert_ne!(batch.header.crc, old);
        let stored = Batch::parse(&batch.to_bytes()).expect("it is whole");
        assert_eq!(stored.check_crc(), Ok(()));
        assert!(read(&stored).expect("readable").iter().all(|record| record.timestamp == 5555));
        let judged = RecordBatchDecoder::decode(&mut batch.to_bytes()).expect("the judge reads it");
        assert!(judged.records.iter().all(|record| record.timestamp_type == TimestampType::LogAppend));
        let found = TimestampedOffset { offset: Offset(2), timestamp_ms: 5555 };
        assert_eq!(find_timestamp(&stored, Offset(2), 1, LIMIT), Ok(Some(found)));
        assert_eq!(find_timestamp(&stored, Offset(2), 5556, LIMIT), Ok(None));
        assert_eq!(find_timestamp(&stored, Offset(4), 1, LIMIT), Ok(None));
    }
}

#[test]
fn an_offset_is_found_by_time_in_every_codec() {
    for codec in Compression::ALL {
        let mut batch = small(codec);
        batch.place(Offset(50), LeaderEpoch(0));
        let find = |start, timestamp| {
            find_timestamp(&batch, Offset(start), timestamp, LIMIT)
                .expect("readable")
                .map(|found| (found.offset.0, found.timestamp_ms))
        };
        assert_eq!(find(0, 0), Some((50, 100)));
        assert_eq!(find(0, 101), Some((51, 300)), "the first in offset order, not the nearest in time");
        assert_eq!(find(52, 150), Some((52, 200)));
        assert_eq!(find(0, 301), None);
        let max = find_max_timestamp(&batch, LIMIT).expect("readable").map(|found| found.offset);
        assert_eq!(max, Some(Offset(51)), "the first of those with the largest timestamp");
    }
}

#[test]
fn a_walk_over_the_records_tells_what_the_header_does_not() {
    let batch = small(Compression::Lz4);
    let (max_timestamp_ms, max_timestamp_offset) = (300, Offset(1));
    let summary = RecordSummary {
        max_timestamp_ms,
        max_timestamp_offset,
        oldest_timestamp_ms: Some(100),
        first_without_key: Some(1),
        payload_bytes: small(Compression::None).payload.len(),
    };
    assert_eq!(check_records(&batch, LIMIT), Ok(summary));
}

#[test]
fn a_run_of_batches_is_walked_to_its_torn_end() {
    let batch = small(Compression::None).to_bytes();
    let mut run = batch.repeat(3);
    run.truncate(run.len() - 5);
    let walked: Vec<_> = Batches::new(run.into()).collect();
    assert_eq!(walked.len(), 3);
    assert_eq!(walked[1].as_ref().map(Batch::to_bytes), Ok(batch.clone()));
    let (needed, left) = (batch.len(), batch.len() - 5);
    assert_eq!(walked[2], Err(BatchError::TooShort { needed, left }));
}

fn refusal(version: i16, codec: Compression, change: impl FnOnce(&mut BatchHeader)) -> Option<BatchError> {
    let mut batch = small(codec);
    change(&mut batch.header);
    batch.header.crc = batch.header.compute_crc(&batch.payload);
    check_produced(&batch.to_bytes(), version).err()
}

#[test]
fn clients_may_not_send_what_only_brokers_write() {
    let none = Compression::None;
    assert_eq!(refusal(3, none, |_| ()), None);
    assert_eq!(refusal(3, none, |h| h.attributes |= 1 << 5), Some(BatchError::ControlFromClient));
    assert_eq!(refusal(3, none, |h| h.attributes |= 1 << 3), Some(BatchError::AppendTimeFromClient));
    assert_eq!(refusal(3, none, |h| h.attributes |= 7), Some(BatchError::UnknownCodec(7)));
    let counts = BatchError::BadCounts { records: 4, last_offset_delta: 4 };
    assert_eq!(refusal(3, none, |h| h.last_offset_delta = 4), Some(counts));
}

#[test]
fn zstd_needs_produce_7() {
    let zstd = Compression::Zstd;
    assert_eq!(refusal(6, zstd, |_| ()), Some(BatchError::CodecNotAllowed(zstd)));
    assert_eq!(refusal(7, zstd, |_| ()), None);
}

#[test]
fn a_producer_id_needs_epoch_and_sequence_but_none_needs_nothing() {
    let none = Compression::None;
    let bad = |error: Option<BatchError>| matches!(error, Some(BatchError::BadProducer(..)));
    assert!(bad(refusal(3, none, |h| h.producer_id = ProducerId(5))), "no sequence");
    assert!(bad(refusal(3, none, |h| h.attributes |= 1 << 4)), "transactional without a producer");
    let stamped = |h: &mut BatchHeader| (h.producer_epoch, h.base_sequence) = (ProducerEpoch(0), Sequence(0));
    assert_eq!(refusal(3, none, stamped), None, "kafkajs sends -1, 0, 0");
}

#[test]
fn damage_and_more_than_one_batch_are_refused() {
    let batch = small(Compression::Gzip).to_bytes();
    let refused = |bytes: &[u8]| check_produced(&Bytes::copy_from_slice(bytes), 9).expect_err("refused");
    assert_eq!(refused(&[]), BatchError::NotOneBatch);
    assert_eq!(refused(&batch.repeat(2)), BatchError::NotOneBatch);
    for at in 0..batch.len() {
        let mut flipped = batch.to_vec();
        flipped[at] ^= 0x10;
        let outside = at < 8 || (12..16).contains(&at); // base offset and leader epoch: the leader sets them
        let result = check_produced(&flipped.into(), 9);
        assert_eq!(result.is_ok(), outside, "byte {at}: {result:?}");
        if at > 0 {
            assert!(check_produced(&batch.slice(..at), 9).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn a_payload_that_contradicts_its_header_is_refused_record_by_record() {
    for codec in Compression::ALL {
        let mut batch = small(codec);
        batch.header.records = 3;
        assert!(matches!(check_records(&batch, LIMIT), Err(RecordError::TrailingBytes(_))), "{codec:?}");
        batch.header.records = 5;
        batch.header.last_offset_delta = 4;
        assert_eq!(check_records(&batch, LIMIT), Err(RecordError::Damaged { index: 4 }), "{codec:?}");
        (batch.header.records, batch.header.last_offset_delta) = (4, 2);
        assert_eq!(
            check_records(&batch, LIMIT),
            Err(RecordError::OffsetDelta { index: 3, delta: 3 }),
            "{codec:?}"
        );
    }
}

#[test]
fn a_decompression_bomb_ends_at_the_limit() {
    let zeros = vec![0; 10 << 20];
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.append(&NewRecord { value: Some(&zeros), ..NewRecord::default() });
        let batch = builder.build().expect("the codecs work");
        let error = batch.records(LIMIT).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("the payload decompresses to more than 1048576 bytes"),
            "{codec:?}"
        );
    }
}

#[test]
fn an_end_of_transaction_marker_comes_back_as_it_went() {
    for commit in [true, false] {
        let (producer_id, producer_epoch) = (ProducerId(9), ProducerEpoch(2));
        let coordinator_epoch = CoordinatorEpoch(31);
        let marker = EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch };
        let batch = Batch::parse(&marker.batch(1234).to_bytes()).expect("it is whole");
        assert!(batch.header.is_control() && batch.header.is_transactional());
        assert_eq!((batch.check_crc(), batch.header.base_sequence), (Ok(()), Sequence::NONE));
        let record = batch.records(LIMIT).expect("plain").next().expect("one").expect("sound");
        let kind = if commit { ControlType::Commit } else { ControlType::Abort };
        assert_eq!(ControlType::of(&record), Some(kind));
        assert_eq!(EndTxnMarker::of(&batch, &record), Some(marker));
        assert_eq!(check_produced(&batch.to_bytes(), 9), Err(BatchError::ControlFromClient));
    }
}
