use bytes::Bytes;
use dejaq_wire::ids::{ProducerEpoch, ProducerId, Sequence};
use dejaq_wire::record::Compression;

use super::*;
use crate::metadata::BrokerDefaults;

const NOW: i64 = 1_800_000_000_000;

fn topic(configs: &[(&str, &str)]) -> TopicConfig {
    let set = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    TopicConfig::resolve(&set, &BrokerDefaults::default())
}

fn batch(codec: Compression, timestamp_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    builder.producer_id = ProducerId(7);
    builder.producer_epoch = ProducerEpoch(0);
    builder.base_sequence = Sequence(40);
    for value in ["one", "two"] {
        let headers: &[(&str, Option<&[u8]>)] = &[("h", Some(b"v")), ("n", None)];
        let value = Some(value.as_bytes());
        builder.append(&NewRecord { timestamp_ms, key: Some(b"k"), value, headers });
    }
    builder.build().expect("small batches build").to_bytes()
}

fn admitted(bytes: &Bytes, configs: &[(&str, &str)]) -> Result<Admitted, BadBatch> {
    match admit(Some(Records::from(bytes.clone())), 9, &topic(configs), NOW, DECOMPRESSED_BYTES) {
        Ok(admitted) => Ok(admitted),
        Err(NotAdmitted::Bad(bad, _)) => Err(bad),
        Err(NotAdmitted::TooMuch) => panic!("as much as a batch may ever have"),
    }
}

#[track_caller]
fn check_code(bytes: &Bytes, configs: &[(&str, &str)], code: ErrorCode) {
    let bad = admitted(bytes, configs).expect_err("it must be refused");
    assert_eq!(bad.refusal.code, code, "{bad:?}");
}

#[test]
fn every_codec_passes_unchanged() {
    for codec in Compression::ALL {
        let bytes = batch(codec, NOW);
        let found = admitted(&bytes, &[]).expect("it is good");
        assert_eq!(found.batch.bytes(), &bytes, "{codec:?}");
        assert_eq!(found.batch.bytes().as_ptr(), bytes.as_ptr(), "{codec:?} was copied");
        assert_eq!(found.append_time_ms, None);
    }
}

#[test]
fn log_append_time_is_the_brokers_clock_under_a_good_crc() {
    let found = admitted(&batch(Compression::Zstd, 5), &[("message.timestamp.type", "LogAppendTime")]);
    let found = found.expect("the producer's time does not matter");
    assert_eq!(found.append_time_ms, Some(NOW));
    let batch = Batch::parse(found.batch.bytes()).expect("it is whole");
    assert!(batch.header.is_append_time());
    assert!(
        batch.records(1000).expect("it reads").all(|record| record.expect("it reads").timestamp_ms == NOW)
    );
}

#[test]
fn another_codec_of_the_topic_keeps_records_sequence_and_times() {
    for codec in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
        let sent = batch(Compression::Gzip, NOW - 5);
        let found = admitted(&sent, &[("compression.type", codec)]).expect("it is good");
        let (sent, stored) =
            (Batch::parse(&sent).expect("whole"), Batch::parse(found.batch.bytes()).expect("whole"));
        let records = |batch: &Batch| batch.records(1000).expect("it reads").collect::<Result<Vec<_>, _>>();
        assert_eq!(records(&sent), records(&stored), "{codec}");
        assert_eq!(stored.header.base_sequence, Sequence(40));
        assert_eq!(stored.header.producer_id, ProducerId(7));
        assert_eq!(stored.header.compression().expect("known").name().replace("none", "uncompressed"), codec);
    }
}

#[test]
fn a_batch_above_the_topics_limit_is_too_large() {
    let bytes = batch(Compression::None, NOW);
    let limit = bytes.len().to_string();
    assert!(admitted(&bytes, &[("max.message.bytes", &limit)]).is_ok());
    let limit = (bytes.len() - 1).to_string();
    check_code(&bytes, &[("max.message.bytes", &limit)], ErrorCode::MESSAGE_TOO_LARGE);
}

#[test]
fn times_outside_the_topics_bounds_are_refused() {
    let bounds = &[("message.timestamp.before.max.ms", "1000"), ("message.timestamp.after.max.ms", "50")];
    assert!(admitted(&batch(Compression::None, NOW - 1000), bounds).is_ok());
    assert!(admitted(&batch(Compression::None, NOW + 50), bounds).is_ok());
    check_code(&batch(Compression::None, NOW - 1001), bounds, ErrorCode::INVALID_TIMESTAMP);
    check_code(&batch(Compression::None, NOW + 51), bounds, ErrorCode::INVALID_TIMESTAMP);
}

#[test]
fn a_record_behind_the_first_is_held_to_the_bounds_too() {
    let bounds = &[("message.timestamp.before.max.ms", "1000")];
    let with = |times: [i64; 3]| {
        let mut builder = BatchBuilder::new(Compression::None);
        for timestamp_ms in times {
            builder.append(&NewRecord { timestamp_ms, ..Default::default() });
        }
        builder.build().expect("small batches build").to_bytes()
    };
    assert!(admitted(&with([NOW, NO_TIMESTAMP, NOW - 1000]), bounds).is_ok());
    check_code(&with([NOW, NOW - 1001, NOW]), bounds, ErrorCode::INVALID_TIMESTAMP);
}

#[test]
fn nothing_two_batches_and_old_formats_are_refused() {
    let one = batch(Compression::None, NOW);
    check_code(&Bytes::new(), &[], ErrorCode::INVALID_RECORD);
    check_code(&[one.as_ref(), one.as_ref()].concat().into(), &[], ErrorCode::INVALID_RECORD);
    let mut old = one.to_vec();
    old[16] = 1;
    check_code(&old.into(), &[], ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
}

#[test]
fn a_changed_byte_is_a_corrupt_message() {
    let mut bytes = batch(Compression::None, NOW).to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    check_code(&bytes.into(), &[], ErrorCode::CORRUPT_MESSAGE);
}

#[test]
fn zstd_is_not_allowed_before_version_7() {
    let bytes = batch(Compression::Zstd, NOW);
    let bad =
        admit(Some(Records::from(bytes)), 6, &topic(&[]), NOW, DECOMPRESSED_BYTES).expect_err("too old");
    let NotAdmitted::Bad(bad, false) = bad else { panic!("{bad:?}") };
    assert_eq!(bad.refusal.code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
}

#[test]
fn a_batch_of_a_transaction_passes_stays_in_it_and_needs_a_producer() {
    let mut builder = BatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch) = (ProducerId(7), ProducerEpoch(0));
    (builder.base_sequence, builder.transactional) = (Sequence(0), true);
    builder.append(&NewRecord { timestamp_ms: NOW, ..Default::default() });
    let bytes = builder.build().expect("small batches build").to_bytes();
    for codec in ["producer", "gzip"] {
        let admitted = admitted(&bytes, &[("compression.type", codec)]).expect("it passes");
        assert!(admitted.batch.header().is_transactional(), "{codec}");
    }
    let mut builder = BatchBuilder::new(Compression::None);
    builder.transactional = true;
    builder.append(&NewRecord { timestamp_ms: NOW, ..Default::default() });
    let bytes = builder.build().expect("small batches build").to_bytes();
    check_code(&bytes, &[], ErrorCode::INVALID_RECORD);
}

/// The batch with these bytes from `at` on and a CRC that agrees.
fn forged(bytes: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut forged = bytes.to_vec();
    forged[at..at + with.len()].copy_from_slice(with);
    let mut batch = Batch::parse(&Bytes::from(forged)).expect("its front is good");
    let told = batch.header.max_timestamp_ms;
    batch.set_max_timestamp(told); // computes the CRC anew
    batch.to_bytes()
}

#[test]
fn records_that_are_not_what_the_header_says_are_refused_under_a_good_crc() {
    let plain = batch(Compression::None, NOW);
    // Front 61 bytes; a record is length, attributes, time delta, offset delta, …: the second one's offset delta is 1.
    let second = 61 + 1 + usize::from(plain[61] >> 1);
    assert_eq!(plain[second + 3], 2, "the varint of 1");
    check_code(&forged(&plain, second + 3, &[0]), &[], ErrorCode::INVALID_RECORD);
    check_code(&forged(&plain, 61, &[0xff; 8]), &[], ErrorCode::INVALID_RECORD);
    let [last, count] = [[0, 0, 0, 2], [0, 0, 0, 3]];
    check_code(&forged(&forged(&plain, 23, &last), 57, &count), &[], ErrorCode::INVALID_RECORD);
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let bytes = batch(codec, NOW);
        check_code(&forged(&bytes, 61, &vec![0x55; bytes.len() - 61]), &[], ErrorCode::INVALID_RECORD);
    }
}

#[test]
fn a_largest_timestamp_that_no_record_has_is_corrected() {
    let lie = forged(&batch(Compression::Lz4, NOW), 35, &(NOW + 1_000).to_be_bytes());
    let found = admitted(&lie, &[]).expect("its records are good");
    assert_eq!(found.batch.header().max_timestamp_ms, NOW);
    let records = Batch::parse(found.batch.bytes()).expect("whole").records(1000).expect("it reads").count();
    assert_eq!(records, 2);
}
