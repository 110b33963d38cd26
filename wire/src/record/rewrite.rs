//! A batch with fewer records, as a log cleaner leaves it: offsets, sequences, epochs and timestamps stay what they were.
//!
//! Owns: [`rewrite`] and [`empty`]. Promises: base offset, last offset delta, producer fields, leader epoch, largest
//! timestamp and every kept record's offset and timestamp are those of the original; the CRC is right; what is made reads
//! back. With a delete horizon (KIP-534) the base timestamp is that horizon, so every kept record's delta is taken anew.
//! Leaves out: which records go (the cleaner). Called by the log cleaner only.

use bytes::Bytes;

use super::batch::Batch;
use super::compression::Compression;
use super::header::BatchHeader;
use super::record::{Record, RecordError};
use super::varint;

/// Kafka's "no timestamp", which an emptied batch has for its base.
const NO_TIMESTAMP: i64 = -1;

/// The batch with `kept` records of it only, which ascend in offset; `horizon_ms` is a delete horizon to set.
///
/// # Errors
/// [`RecordError`]: the codec is not known or fails.
pub fn rewrite(batch: &Batch, kept: &[Record], horizon_ms: Option<i64>) -> Result<Batch, RecordError> {
    if kept.is_empty() {
        return Ok(empty(batch));
    }
    let mut header = batch.header;
    if let Some(horizon_ms) = horizon_ms {
        header.set_delete_horizon(horizon_ms);
    }
    let mut body = Vec::new();
    for record in kept {
        put(&mut body, record, record.timestamp_ms.saturating_sub(header.base_timestamp_ms));
    }
    let payload = match header.compression()? {
        Compression::None => body,
        codec => codec.compress(&body)?,
    };
    header.records = i32::try_from(kept.len()).expect("no more records than the batch had");
    Ok(finish(header, payload.into()))
}

/// The batch without any record: what is left when only its offsets and its producer's sequences matter.
#[must_use]
pub fn empty(batch: &Batch) -> Batch {
    let mut header = batch.header;
    header.clear_records(NO_TIMESTAMP);
    finish(header, Bytes::new())
}

fn finish(mut header: BatchHeader, payload: Bytes) -> Batch {
    header.set_payload_bytes(payload.len());
    header.crc = header.compute_crc(&payload);
    Batch { header, payload }
}

fn run_bytes(run: Option<&Bytes>) -> usize {
    match run {
        Some(run) => varint::len(run.len() as i64) + run.len(),
        None => 1,
    }
}

fn put_run(body: &mut Vec<u8>, run: Option<&Bytes>) {
    match run {
        Some(run) => {
            varint::write(body, run.len() as i64);
            body.extend_from_slice(run);
        }
        None => varint::write(body, -1),
    }
}

fn put(body: &mut Vec<u8>, record: &Record, timestamp_delta: i64) {
    let (key, value) = (record.key.as_ref(), record.value.as_ref());
    let headers = record.headers.encoded();
    let count = record.headers.len() as i64;
    let bytes = 1
        + varint::len(timestamp_delta)
        + varint::len(i64::from(record.offset_delta))
        + run_bytes(key)
        + run_bytes(value)
        + varint::len(count)
        + headers.len();
    varint::write(body, bytes as i64);
    let start = body.len();
    body.push(0); // no attribute of a record is in use
    varint::write(body, timestamp_delta);
    varint::write(body, i64::from(record.offset_delta));
    put_run(body, key);
    put_run(body, value);
    varint::write(body, count);
    body.extend_from_slice(headers);
    assert_eq!(body.len() - start, bytes, "the stated length of a record");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
    use crate::record::{BatchBuilder, NewRecord};

    const LIMIT: usize = 1 << 20;

    fn batch(codec: Compression) -> Batch {
        let mut builder = BatchBuilder::new(codec);
        builder.producer_id = ProducerId(7);
        builder.producer_epoch = ProducerEpoch(1);
        builder.base_sequence = Sequence(5);
        let headers: [(&str, Option<&[u8]>); 2] = [("h", Some(b"x")), ("n", None)];
        for at in 0..4_i64 {
            let key = format!("key-{at}");
            let value = (at != 2).then_some(&b"value"[..]);
            builder.append(&NewRecord {
                timestamp_ms: 1000 + 10 * at,
                key: Some(key.as_bytes()),
                value,
                headers: &headers,
            });
        }
        let mut batch = builder.build().expect("safe codecs");
        batch.place(Offset(100), LeaderEpoch(3));
        batch
    }

    fn records(batch: &Batch) -> Vec<Record> {
        batch.records(LIMIT).expect("a known codec").map(|record| record.expect("whole")).collect()
    }

    #[test]
    fn kept_records_keep_offset_time_key_value_and_headers() {
        for codec in
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        {
            for horizon_ms in [None, Some(9_000)] {
                let whole = batch(codec);
                let kept: Vec<Record> =
                    records(&whole).into_iter().filter(|record| record.offset_delta % 2 == 0).collect();
                let made = rewrite(&whole, &kept, horizon_ms).expect("safe codecs");
                let parsed = Batch::parse(&made.to_bytes()).expect("a batch");
                parsed.check_crc().expect("the checksum is right");
                assert_eq!(records(&parsed), kept, "{codec:?}");
                let (old, new) = (whole.header, parsed.header);
                assert_eq!(
                    (new.base_offset, new.last_offset_delta),
                    (old.base_offset, old.last_offset_delta)
                );
                assert_eq!((new.producer_id, new.base_sequence), (old.producer_id, old.base_sequence));
                assert_eq!(
                    (new.leader_epoch, new.max_timestamp_ms),
                    (old.leader_epoch, old.max_timestamp_ms)
                );
                assert_eq!(new.delete_horizon_ms(), horizon_ms);
                assert_eq!(new.records, 2);
            }
        }
    }

    #[test]
    fn an_empty_batch_keeps_offsets_and_sequences() {
        let whole = batch(Compression::Zstd);
        let made = rewrite(&whole, &[], Some(9_000)).expect("nothing to compress");
        let parsed = Batch::parse(&made.to_bytes()).expect("a batch");
        parsed.check_crc().expect("the checksum is right");
        assert_eq!(parsed.bytes(), BatchHeader::BYTES);
        assert_eq!(records(&parsed), []);
        assert_eq!(parsed.header.last_offset(), whole.header.last_offset());
        assert_eq!(parsed.header.last_sequence(), whole.header.last_sequence());
        assert_eq!(parsed.header.delete_horizon_ms(), None);
    }
}
