//! The producers' state at one offset, as a file: a restart replays only what was appended after it.
//!
//! Promises: a damaged, torn or foreign snapshot is noticed and not used; an older one or a replay takes its place.
//! Named `<offset>.producers`, never overwritten in place. Payload (see `small_file`), big-endian:
//! ```text
//! offset 8 | forgotten 8 | count 4, then count x
//! ( producer id 8 | epoch 2 | coordinator epoch 4 | txn start 8 or -1 | active ms 8 | batches 1, then x
//!   ( first sequence 4 | last sequence 4 | base 8 | last 8 | timestamp 8 ) )
//! ```

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::{BatchMemory, Producer, Producers, WINDOW};
use crate::small_file::Kind;

/// The snapshot file.
pub(crate) const PRODUCERS_KIND: Kind = Kind { magic: *b"DJpr", version: 1 };
const PRODUCER_BYTES: usize = 31;
const BATCH_BYTES: usize = 32;

pub(crate) fn encode(producers: &Producers, offset: Offset) -> Bytes {
    let mut bytes = BytesMut::with_capacity(20 + producers.by_id.len() * (PRODUCER_BYTES + BATCH_BYTES));
    bytes.put_i64(offset.0);
    bytes.put_u64(producers.forgotten);
    bytes.put_u32(producers.by_id.len() as u32);
    for (id, producer) in &producers.by_id {
        bytes.put_i64(id.0);
        bytes.put_i16(producer.epoch.0);
        bytes.put_i32(producer.coordinator_epoch);
        bytes.put_i64(producer.txn_start.map_or(-1, |start| start.0));
        bytes.put_i64(producer.active_ms);
        bytes.put_u8(producer.batches.len() as u8);
        for batch in &producer.batches {
            bytes.put_i32(batch.first_sequence.0);
            bytes.put_i32(batch.last_sequence.0);
            bytes.put_i64(batch.base.0);
            bytes.put_i64(batch.last.0);
            bytes.put_i64(batch.timestamp_ms);
        }
    }
    bytes.freeze()
}

/// The offset and the state, if the payload makes sense.
pub(crate) fn decode(mut payload: Bytes) -> Option<(Offset, Producers)> {
    if payload.remaining() < 20 {
        return None;
    }
    let offset = Offset(payload.get_i64());
    let mut producers = Producers { forgotten: payload.get_u64(), ..Producers::default() };
    for _ in 0..payload.get_u32() {
        let (id, producer) = decode_producer(&mut payload, offset)?;
        producers.insert(id, producer);
    }
    payload.is_empty().then_some((offset, producers))
}

fn decode_producer(payload: &mut Bytes, end: Offset) -> Option<(ProducerId, Producer)> {
    if payload.remaining() < PRODUCER_BYTES {
        return None;
    }
    let id = ProducerId(payload.get_i64());
    let epoch = ProducerEpoch(payload.get_i16());
    let coordinator_epoch = payload.get_i32();
    let txn_start = Some(Offset(payload.get_i64())).filter(|start| start.is_valid());
    let active_ms = payload.get_i64();
    let count = usize::from(payload.get_u8());
    if count > WINDOW || payload.remaining() < count * BATCH_BYTES {
        return None;
    }
    let batches: VecDeque<BatchMemory> = (0..count)
        .map(|_| BatchMemory {
            first_sequence: Sequence(payload.get_i32()),
            last_sequence: Sequence(payload.get_i32()),
            base: Offset(payload.get_i64()),
            last: Offset(payload.get_i64()),
            timestamp_ms: payload.get_i64(),
        })
        .collect();
    let sane = batches
        .iter()
        .all(|b| b.first_sequence.0 >= 0 && b.last_sequence.0 >= 0 && b.base <= b.last && b.last < end);
    let sorted = batches.iter().zip(batches.iter().skip(1)).all(|(a, b)| a.last < b.base);
    (sane && sorted).then_some((id, Producer { epoch, batches, coordinator_epoch, txn_start, active_ms }))
}
