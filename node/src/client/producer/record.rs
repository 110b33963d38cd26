//! A record as a user gives it, its size, and its way into a batch. Pure.

use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::Records;
use dejaq_wire::record::{BatchBuilder, CodecError, Compression, NewRecord};

use crate::client::outcome::Stamp;

/// Bytes that a record takes beyond its key, value and headers, at most: one byte of attributes and five varints.
const RECORD_OVERHEAD_BYTES: usize = 1 + 5 + 10 + 5 + 5 + 5 + 5;
/// Bytes that a header takes beyond its name and value, at most.
const HEADER_OVERHEAD_BYTES: usize = 5 + 5;

/// A record to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition; `None` leaves it to the partitioner.
    pub partition: Option<PartitionId>,
    /// Records with equal keys go to the same partition, and stay in order there.
    pub key: Option<Bytes>,
    /// What it says; `None` deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// Names and values beside the value, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its time in ms since 1970; `None` takes the time of sending.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record without a key.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Record {
        Record { topic: topic.into(), value: Some(value.into()), ..Record::default() }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Record {
        self.key = Some(key.into());
        self
    }

    /// To this partition.
    #[must_use]
    pub fn partition(mut self, partition: PartitionId) -> Record {
        self.partition = Some(partition);
        self
    }

    /// With this header behind those it has.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Record {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// An upper bound of its size in a batch, in bytes before compression.
    #[must_use]
    pub fn bytes_at_most(&self) -> usize {
        let run = |run: &Option<Bytes>| run.as_ref().map_or(0, Bytes::len);
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + run(value) + HEADER_OVERHEAD_BYTES);
        RECORD_OVERHEAD_BYTES + run(&self.key) + run(&self.value) + headers.sum::<usize>()
    }
}

/// A record on its way: what of it goes into the batch.
#[derive(Debug, Clone)]
pub struct Payload {
    /// As in [`Record`].
    pub key: Option<Bytes>,
    /// As in [`Record`].
    pub value: Option<Bytes>,
    /// As in [`Record`].
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// One batch of these records, as it stands in a produce request; perhaps one of a transaction.
///
/// # Errors
/// [`CodecError`]: the codec failed.
pub fn encode(
    payloads: &[Payload],
    (stamp, transactional): (Option<Stamp>, bool),
    compression: Compression,
) -> Result<Records, CodecError> {
    assert!(!payloads.is_empty(), "a batch has at least one record");
    let mut builder = BatchBuilder::new(compression);
    builder.transactional = transactional;
    if let Some(stamp) = stamp {
        builder.producer_id = stamp.producer;
        builder.producer_epoch = stamp.epoch;
        builder.base_sequence = stamp.base;
    }
    let mut headers: Vec<(&str, Option<&[u8]>)> = Vec::new();
    for payload in payloads {
        headers.clear();
        headers.extend(payload.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
        builder.append(&NewRecord {
            timestamp_ms: payload.timestamp_ms,
            key: payload.key.as_deref(),
            value: payload.value.as_deref(),
            headers: &headers,
        });
    }
    Ok(builder.build()?.chunks().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{ProducerEpoch, ProducerId, Sequence};
    use dejaq_wire::record::Batch;

    use super::*;

    #[test]
    fn a_batch_reads_back_as_it_was_sent_under_every_codec() {
        let payloads: Vec<_> = (0..100i64)
            .map(|n| Payload {
                key: (n % 3 == 0).then(|| Bytes::from(vec![n as u8; 5])),
                value: (n % 7 != 0).then(|| Bytes::from(vec![0xff; n as usize])),
                headers: vec![("a".into(), None), ("b".into(), Some(Bytes::from_static(b"\0")))],
                timestamp_ms: 1_000 - n,
            })
            .collect();
        let stamp = Stamp { producer: ProducerId(7), epoch: ProducerEpoch(1), base: Sequence(3) };
        for codec in Compression::ALL {
            let run = encode(&payloads, (Some(stamp), false), codec).expect("encoded").into_bytes();
            let batch = Batch::parse(&run).expect("whole");
            batch.check_crc().expect("its checksum holds");
            assert_eq!((batch.header.producer_id, batch.header.base_sequence), (stamp.producer, stamp.base));
            let read: Vec<_> = batch.records(1 << 20).expect("readable").map(|r| r.expect("whole")).collect();
            assert_eq!(read.len(), payloads.len());
            for (read, sent) in read.iter().zip(&payloads) {
                assert_eq!((&read.key, &read.value), (&sent.key, &sent.value), "{codec:?}");
                assert_eq!((read.timestamp_ms, read.headers.len()), (sent.timestamp_ms, 2));
            }
        }
    }

    #[test]
    fn the_bound_on_a_records_size_holds() {
        let record = Record::new("t", vec![1; 300]).key(vec![2; 200]).header("name", vec![3; 100]);
        let built = encode(
            &[Payload {
                key: record.key.clone(),
                value: record.value.clone(),
                headers: record.headers.clone(),
                timestamp_ms: 0,
            }],
            (None, false),
            Compression::None,
        );
        assert!(built.expect("encoded").len() <= 61 + record.bytes_at_most());
    }
}
