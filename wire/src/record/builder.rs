//! Builds the batches that we originate: the native client's, the metadata log's, control batches.
//!
//! Owns: the encoding of records and the header before them. Promises: what is built passes
//! [`super::produced::check_produced`] (control batches apart) and reads back as it was appended.
//! Leaves out: when a batch is full; ask [`BatchBuilder::bytes`] and [`BatchBuilder::record_bytes`].

use super::batch::Batch;
use super::compression::{CodecError, Compression};
use super::header::BatchHeader;
use super::varint;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// A record to append.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Timestamp in ms.
    pub timestamp_ms: i64,
    /// Key, or null.
    pub key: Option<&'a [u8]>,
    /// Value, or null.
    pub value: Option<&'a [u8]>,
    /// Name and value of each header, in order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Collects records into one batch.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    /// Offset of the first record; clients leave it at 0 and the leader sets it.
    pub base_offset: Offset,
    /// Leader epoch; none until the leader sets it.
    pub leader_epoch: LeaderEpoch,
    /// Idempotent producer; none by default.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub base_sequence: Sequence,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether this is a control batch.
    pub(super) control: bool,
    compression: Compression,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    records: i32,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// Starts an empty batch.
    pub fn new(compression: Compression) -> BatchBuilder {
        BatchBuilder {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: Sequence::NONE,
            transactional: false,
            control: false,
            compression,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            records: 0,
            body: Vec::new(),
        }
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        usize::try_from(self.records).expect("a count is not negative")
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Size of the batch in bytes as it would be now, uncompressed.
    pub fn bytes(&self) -> usize {
        BatchHeader::BYTES + self.body.len()
    }

    /// Bytes that `record` would add, uncompressed.
    pub fn record_bytes(&self, record: &NewRecord<'_>) -> usize {
        let body = self.record_body_bytes(record);
        varint::len(body as i64) + body
    }

    fn record_body_bytes(&self, record: &NewRecord<'_>) -> usize {
        let run = |run: Option<&[u8]>| match run {
            Some(run) => varint::len(run.len() as i64) + run.len(),
            None => 1,
        };
        let headers: usize =
            record.headers.iter().map(|(key, value)| run(Some(key.as_bytes())) + run(*value)).sum();
        1 + varint::len(self.timestamp_delta(record))
            + varint::len(i64::from(self.records))
            + run(record.key)
            + run(record.value)
            + varint::len(record.headers.len() as i64)
            + headers
    }

    fn timestamp_delta(&self, record: &NewRecord<'_>) -> i64 {
        if self.records == 0 { 0 } else { record.timestamp_ms.saturating_sub(self.base_timestamp_ms) }
    }

    /// Appends a record.
    ///
    /// The caller keeps the batch below 2^31 bytes, which is far above every `max.request.size`.
    pub fn append(&mut self, record: &NewRecord<'_>) {
        let body_bytes = self.record_body_bytes(record);
        let delta = self.timestamp_delta(record);
        if self.records == 0 {
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        varint::write(&mut self.body, body_bytes as i64);
        let start = self.body.len();
        self.body.push(0); // no attribute of a record is in use
        varint::write(&mut self.body, delta);
        varint::write(&mut self.body, i64::from(self.records));
        self.put_run(record.key);
        self.put_run(record.value);
        varint::write(&mut self.body, record.headers.len() as i64);
        for (key, value) in record.headers {
            self.put_run(Some(key.as_bytes()));
            self.put_run(*value);
        }
        assert_eq!(self.body.len() - start, body_bytes, "the stated length of a record");
        assert!(self.bytes() <= i32::MAX as usize, "a batch of {} bytes", self.bytes());
        self.records += 1;
    }

    fn put_run(&mut self, run: Option<&[u8]>) {
        match run {
            Some(run) => {
                varint::write(&mut self.body, run.len() as i64);
                self.body.extend_from_slice(run);
            }
            None => varint::write(&mut self.body, -1),
        }
    }

    /// Finishes the batch; there is at least one record.
    ///
    /// # Errors
    /// [`CodecError`]: the codec failed, which the safe ones never do on valid memory.
    pub fn build(self) -> Result<Batch, CodecError> {
        let payload = self.compression.compress(&self.body)?;
        Ok(self.finish(payload))
    }

    pub(super) fn build_uncompressed(mut self) -> Batch {
        assert_eq!(self.compression, Compression::None, "this batch is to be compressed");
        let payload = std::mem::take(&mut self.body);
        self.finish(payload)
    }

    fn finish(self, payload: Vec<u8>) -> Batch {
        assert!(self.records > 0, "a batch has at least one record");
        let length = payload.len() + BatchHeader::BYTES - 12;
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            length: i32::try_from(length).expect("compression may add little to less than 2^31 bytes"),
            leader_epoch: self.leader_epoch,
            crc: 0,
            attributes: BatchHeader::flags(self.compression, self.transactional, self.control),
            last_offset_delta: self.records - 1,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            records: self.records,
        };
        header.crc = header.compute_crc(&payload);
        Batch { header, payload: payload.into() }
    }
}
