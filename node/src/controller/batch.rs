//! Metadata records to one Kafka record batch, and back.
//!
//! Owns: how a turn's records lie in a batch: uncompressed, one metadata record as the value of one Kafka record.
//! Promises: decoding refuses everything that this did not write; it never skips.
//! Leaves out: the log (`journal`), the bytes of one record (`metadata::record`).

use bytes::Bytes;
use dejaq_storage::VerifiedBatch;
use dejaq_wire::record::{BatchBuilder, BatchError, Batches, Compression, NewRecord, RecordError};

use crate::metadata::Record;
use crate::metadata::record::Unreadable;

/// Most bytes of one batch: far above what a turn can decide (its limit of records is in `driver`).
pub(super) const MAX_BATCH_BYTES: usize = 1 << 30;

/// Why bytes of the metadata log are not what a controller wrote: the node must not start.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// Not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record that does not parse.
    #[error(transparent)]
    Framing(#[from] RecordError),
    /// A record without a value.
    #[error("a metadata record without a value")]
    Empty,
    /// A value that is no metadata record.
    #[error(transparent)]
    Value(#[from] Unreadable),
}

/// One batch with these records; not empty.
pub fn encode(records: &[Record], now_ms: i64) -> VerifiedBatch {
    assert!(!records.is_empty(), "a batch of nothing is not appended");
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records {
        let value = record.encode();
        builder.append(&NewRecord { timestamp_ms: now_ms, key: None, value: Some(&value), headers: &[] });
    }
    let batch = builder.build().expect("copying uncompressed bytes cannot fail");
    assert!(batch.bytes() <= MAX_BATCH_BYTES, "{} bytes of metadata in one turn", batch.bytes());
    VerifiedBatch::verify(batch.to_bytes()).expect("a batch that we built carries its own CRC")
}

/// The records of a run of batches, in order.
///
/// # Errors
/// [`NotOurs`].
pub fn decode(run: Bytes) -> Result<Vec<Record>, NotOurs> {
    let mut records = Vec::new();
    for batch in Batches::new(run) {
        for record in batch?.records(MAX_BATCH_BYTES)? {
            let value = record?.value.ok_or(NotOurs::Empty)?;
            records.push(Record::decode(&value)?);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::record::{FeatureLevelSet, TopicDeleted};
    use dejaq_wire::ids::TopicId;

    #[test]
    fn records_come_back_in_order() {
        let records: Vec<Record> = vec![
            FeatureLevelSet { name: "a".into(), level: 1 }.into(),
            TopicDeleted { topic_id: TopicId([3; 16]) }.into(),
        ];
        let bytes = encode(&records, 5).bytes().clone();
        assert_eq!(decode(bytes.clone()).expect("ours"), records);
        assert!(matches!(
            decode(bytes.slice(..bytes.len() - 1)),
            Err(NotOurs::Batch(_) | NotOurs::Framing(_))
        ));
    }

    #[test]
    fn a_value_that_is_no_metadata_is_refused() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(&NewRecord { timestamp_ms: 0, key: None, value: Some(b"\xff\x01"), headers: &[] });
        let bytes = builder.build().expect("uncompressed").to_bytes();
        assert!(matches!(decode(bytes), Err(NotOurs::Value(Unreadable::Unknown { tag: 255, version: 1 }))));
    }
}
