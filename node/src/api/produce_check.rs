//! Whether a batch may come into a topic, and what it looks like then. Pure.
//!
//! Owns: the topic's rules about batches (size, timestamps, codec); the batch's own rules are `wire`'s.
//! Promises: every record of it reads, and has the offset that the header gives it; it passes unchanged unless the
//! topic's config says otherwise (`LogAppendTime` changes its header, a `compression.type` other than the producer's
//! makes a new batch of the same records, sequences and timestamps) or its largest timestamp is a wrong one.
//! Leaves out: sequences (the log), who may write. Called by `produce`, inline.
//!
//! Decided: the records are walked over, decompressed if need be, as Kafka does; the header alone was cheaper (the walk
//! costs more than the append, PERFORMANCE 3), but one wrong offset delta or a damaged payload, acknowledged, stops
//! every consumer of the partition for good.

use dejaq_storage::VerifiedBatch;
use dejaq_wire::ErrorCode;
use dejaq_wire::kafka::Records;
use dejaq_wire::record::produced::{NO_TIMESTAMP, RecordSummary, check_client_rules, check_records};
use dejaq_wire::record::{Batch, BatchBuilder, BatchError, CodecError, Compression, NewRecord, RecordError};

use super::data_plane::Refusal;
use crate::metadata::TopicConfig;
use crate::metadata::topic_config::{self, TimestampType};

/// Most bytes that a batch may decompress to.
pub const DECOMPRESSED_BYTES: usize = 64 << 20;

/// How many times as long it takes to pack a batch as to unpack it, at least.
const PACKING: usize = 8;

/// A batch that may be appended.
#[derive(Debug)]
pub struct Admitted {
    /// The batch as it goes into the log.
    pub batch: VerifiedBatch,
    /// The time that the topic gave its records, in ms; `None` if the producer's times stand.
    pub append_time_ms: Option<i64>,
    /// What it was decompressed to; 0 if it was not compressed.
    pub unpacked_bytes: usize,
    /// Bytes of records that were looked at, and packed again.
    pub looked_at_bytes: usize,
}

/// Why a batch is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It is refused, and whether it was decompressed to find that out.
    Bad(BadBatch, bool),
    /// It decompresses to more than it may at this time; whether it is good is not known.
    TooMuch,
}

impl<E: Into<BadBatch>> From<E> for NotAdmitted {
    fn from(bad: E) -> NotAdmitted {
        NotAdmitted::Bad(bad.into(), false)
    }
}

/// Why a batch is refused, for one partition of a produce answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBatch {
    /// Code and text.
    pub refusal: Refusal,
    /// The record that is to blame, from 0, if one is.
    pub record: Option<i32>,
    /// Whether the answer tells where the log starts: as Kafka's does when its log, and not the request's check,
    /// found the fault.
    pub tells_start: bool,
}

impl BadBatch {
    fn new(code: ErrorCode, message: impl Into<String>) -> BadBatch {
        BadBatch { refusal: Refusal::new(code, message), record: None, tells_start: false }
    }

    fn telling_start(self) -> BadBatch {
        BadBatch { tells_start: true, ..self }
    }
}

impl From<BatchError> for BadBatch {
    fn from(error: BatchError) -> BadBatch {
        let bad = BadBatch::new(error.code(), error.to_string());
        match error {
            BatchError::TooShort { .. }
            | BatchError::BadLength(_)
            | BatchError::OldMagic(_)
            | BatchError::UnknownMagic(_)
            | BatchError::BadCrc { .. }
            | BatchError::BadOffset(_)
            | BatchError::CodecNotAllowed(_)
            | BatchError::NotOneBatch => bad,
            BatchError::BadCounts { .. }
            | BatchError::UnknownCodec(_)
            | BatchError::ControlFromClient
            | BatchError::BadProducer(..)
            | BatchError::AppendTimeFromClient => bad.telling_start(),
        }
    }
}

/// Checks what a produce request of `version` carries for a partition of a topic with `config`, at `now_ms`,
/// decompressing it to at most `most` bytes.
///
/// # Errors
/// [`NotAdmitted`]: nothing of it is appended.
pub fn admit(
    records: Option<Records>,
    version: i16,
    config: &TopicConfig,
    now_ms: i64,
    most: usize,
) -> Result<Admitted, NotAdmitted> {
    let bytes = records.unwrap_or_default().into_bytes();
    check_size(bytes.len(), config)?;
    if bytes.is_empty() {
        return Err(BatchError::NotOneBatch.into());
    }
    // The one pass over the bytes: from here on the log trusts them by their type.
    let verified = VerifiedBatch::verify(bytes.clone())?;
    check_client_rules(verified.header(), version)?;
    let batch = Batch::parse(&bytes)?;
    if batch.header.is_transactional() && !batch.header.has_producer() {
        return Err(BadBatch::new(ErrorCode::INVALID_RECORD, "a transaction without a producer").into());
    }
    let is_packed = batch.header.compression()? != Compression::None;
    if is_packed && most == 0 {
        return Err(NotAdmitted::TooMuch);
    }
    let summary = match check_records(&batch, most.min(DECOMPRESSED_BYTES)) {
        Err(RecordError::Codec(CodecError::TooLarge { .. })) if most < DECOMPRESSED_BYTES => {
            return Err(NotAdmitted::TooMuch);
        }
        checked => checked.map_err(|error| NotAdmitted::Bad(bad_record(error), is_packed))?,
    };
    let unpacked_bytes = if is_packed { summary.payload_bytes } else { 0 };
    let looked_at_bytes = summary.payload_bytes.max(bytes.len());
    if let Some(index) = summary.first_without_key.filter(|_| config.compact) {
        let message = "a compacted topic cannot accept a record without a key";
        let bad = BadBatch::new(ErrorCode::INVALID_RECORD, message).telling_start();
        return Err(NotAdmitted::Bad(BadBatch { record: Some(index), ..bad }, is_packed));
    }
    let mut batch = batch;
    let corrects = batch.header.max_timestamp_ms != summary.max_timestamp_ms;
    if corrects {
        batch.set_max_timestamp(summary.max_timestamp_ms);
    }
    let stamps = config.timestamp_type == TimestampType::LogAppendTime;
    if !stamps {
        check_timestamps(&summary, config, now_ms).map_err(|bad| NotAdmitted::Bad(bad, is_packed))?;
    }
    let mut admitted = Admitted { batch: verified, append_time_ms: None, unpacked_bytes, looked_at_bytes };
    let mut batch = match target_codec(&batch, config) {
        Some(codec) => {
            admitted.looked_at_bytes = looked_at_bytes.saturating_mul(PACKING);
            recompress(&batch, codec, config).map_err(|bad| NotAdmitted::Bad(bad, is_packed))?
        }
        None if !stamps && !corrects => return Ok(admitted),
        None => batch,
    };
    if stamps {
        batch.stamp_append_time(now_ms);
        admitted.append_time_ms = Some(now_ms);
    }
    admitted.batch = originated(&batch);
    Ok(admitted)
}

fn originated(batch: &Batch) -> VerifiedBatch {
    VerifiedBatch::verify(batch.to_bytes()).expect("a batch that we stamped or built carries its own CRC")
}

fn check_size(bytes: usize, config: &TopicConfig) -> Result<(), BadBatch> {
    let most = config.max_message_bytes as usize;
    if bytes <= most {
        return Ok(());
    }
    let message = format!("the batch has {bytes} bytes, max.message.bytes of the topic is {most}");
    Err(BadBatch::new(ErrorCode::MESSAGE_TOO_LARGE, message))
}

/// Every record's timestamp, by the oldest and the newest: they need not come in order.
fn check_timestamps(summary: &RecordSummary, config: &TopicConfig, now_ms: i64) -> Result<(), BadBatch> {
    let newest = summary.max_timestamp_ms;
    let refuse = |what: &str, found: i64| {
        let message = format!("timestamp {found} is too far in the {what}; the broker's clock says {now_ms}");
        Err(BadBatch::new(ErrorCode::INVALID_TIMESTAMP, message).telling_start())
    };
    if newest != NO_TIMESTAMP && newest.saturating_sub(now_ms) > config.timestamp_after_max_ms {
        return refuse("future", newest);
    }
    if let Some(oldest) = summary.oldest_timestamp_ms
        && now_ms.saturating_sub(oldest) > config.timestamp_before_max_ms
    {
        return refuse("past", oldest);
    }
    Ok(())
}

/// The codec that the batch must get, if not the one that it has.
fn target_codec(batch: &Batch, config: &TopicConfig) -> Option<Compression> {
    let wanted = match config.compression {
        topic_config::Compression::Producer => return None,
        topic_config::Compression::Uncompressed => Compression::None,
        topic_config::Compression::Gzip => Compression::Gzip,
        topic_config::Compression::Snappy => Compression::Snappy,
        topic_config::Compression::Lz4 => Compression::Lz4,
        topic_config::Compression::Zstd => Compression::Zstd,
    };
    (batch.header.compression() != Ok(wanted)).then_some(wanted)
}

fn bad_record(error: RecordError) -> BadBatch {
    let record = match error {
        RecordError::Damaged { index } | RecordError::OffsetDelta { index, .. } => Some(index),
        RecordError::Batch(_)
        | RecordError::Codec(_)
        | RecordError::TrailingBytes(_)
        | RecordError::Empty => None,
    };
    BadBatch { record, ..BadBatch::new(ErrorCode::INVALID_RECORD, error.to_string()).telling_start() }
}

fn recompress(batch: &Batch, codec: Compression, config: &TopicConfig) -> Result<Batch, BadBatch> {
    let mut builder = BatchBuilder::new(codec);
    builder.producer_id = batch.header.producer_id;
    builder.producer_epoch = batch.header.producer_epoch;
    builder.base_sequence = batch.header.base_sequence;
    builder.transactional = batch.header.is_transactional();
    for (index, record) in (0..).zip(batch.records(DECOMPRESSED_BYTES).map_err(bad_record)?) {
        let record = record.map_err(bad_record)?;
        let headers: Vec<_> = record.headers.iter().collect();
        let named: Result<Vec<_>, _> = headers
            .iter()
            .map(|(name, value)| std::str::from_utf8(name).map(|name| (name, value.as_deref())))
            .collect();
        let Ok(named) = named else {
            let message = "a header's name is not UTF-8";
            return Err(BadBatch {
                record: Some(index),
                ..BadBatch::new(ErrorCode::INVALID_RECORD, message).telling_start()
            });
        };
        let timestamp_ms = record.timestamp_ms;
        builder.append(&NewRecord {
            timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &named,
        });
    }
    let made = builder.build().map_err(|error| bad_record(error.into()))?;
    assert_eq!(made.header.records, batch.header.records, "every record is in the new batch");
    assert_eq!(made.header.base_sequence, batch.header.base_sequence, "a retry must still be known");
    check_size(made.bytes(), config)?;
    Ok(made)
}

#[cfg(test)]
#[path = "produce_check_tests.rs"]
mod tests;
