//! The producers' state at one offset, as a file: a restart replays only what was appended after it.
//!
//! Promises: a damaged, torn or foreign snapshot is noticed and not used; an older one or a replay takes its place.
//! Named `<offset>.producers`, never overwritten in place. Payload (see `small_file`), big-endian:
//! ```text
//! offset 8 | forgotten 8 | count 4, then count x
//! ( producer id 8 | epoch 2 | coordinator epoch 4 | txn start 8 or -1 | active ms 8 | batches 1, then x
//!   ( first sequence 4 | last sequence 4 | base 8 | last 8 | timestamp 8 ) )
//! markers 4, then count x ( producer id 8 | offset of its last marker 8 )
//! ended 4, then count x ( first 8 | marker 8 )          transactions whose marker may not be below the watermark
//! base of the active segment 8, or -1 | its aborted transactions, as in their own file
//! ```
//! Version 1 had no more than the producers; what was written in it is replayed instead.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dejaq_wire::ids::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::stable::EndedTxn;
use super::{BatchMemory, Producer, Producers, WINDOW};
use crate::aborted::{self, ABORTED_BYTES, AbortedTxn};
use crate::small_file::Kind;

/// The snapshot file.
pub(crate) const PRODUCERS_KIND: Kind = Kind { magic: *b"DJpr", version: 2 };
const PRODUCER_BYTES: usize = 31;
const BATCH_BYTES: usize = 32;
/// Aborted transactions of a snapshot: one that would hold more does not tell them, and another takes its place.
const MOST_ABORTED: usize = (4 << 20) / ABORTED_BYTES;

/// A snapshot as it was read.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    /// Everything below is in it.
    pub(crate) offset: Offset,
    pub(crate) producers: Producers,
    /// The segment that was the active one, if its aborted transactions are told.
    pub(crate) segment: Option<Offset>,
    /// Those of that segment.
    pub(crate) aborted: Vec<AbortedTxn>,
}

/// The state at `offset`, while the active segment is `segment` and holds the markers of `aborted`.
pub(crate) fn encode(
    producers: &Producers,
    offset: Offset,
    segment: Offset,
    aborted: &[AbortedTxn],
) -> Bytes {
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
        let told = producer.batches.len().min(WINDOW);
        bytes.put_u8(told as u8);
        for batch in producer.batches.iter().skip(producer.batches.len() - told) {
            bytes.put_i32(batch.first_sequence.0);
            bytes.put_i32(batch.last_sequence.0);
            bytes.put_i64(batch.base.0);
            bytes.put_i64(batch.last.0);
            bytes.put_i64(batch.timestamp_ms);
        }
    }
    let markers = || producers.by_id.iter().filter_map(|(id, producer)| Some((id, producer.marker?)));
    bytes.put_u32(markers().count() as u32);
    for (id, marker) in markers() {
        bytes.put_i64(id.0);
        bytes.put_i64(marker.0);
    }
    bytes.put_u32(producers.ended.list().len() as u32);
    for txn in producers.ended.list() {
        bytes.put_i64(txn.first.0);
        bytes.put_i64(txn.marker.0);
    }
    let told = aborted.len() <= MOST_ABORTED;
    bytes.put_i64(if told { segment.0 } else { -1 });
    aborted::put(if told { aborted } else { &[] }, &mut bytes);
    bytes.freeze()
}

/// The snapshot, if the payload makes sense.
pub(crate) fn decode(mut payload: Bytes) -> Option<Snapshot> {
    if payload.remaining() < 20 {
        return None;
    }
    let offset = Offset(payload.get_i64());
    let mut producers = Producers { forgotten: payload.get_u64(), ..Producers::default() };
    for _ in 0..payload.get_u32() {
        let (id, producer) = decode_producer(&mut payload, offset)?;
        producers.insert(id, producer);
    }
    for (id, marker) in pairs(&mut payload)? {
        let mut producer = producers.by_id.get(&ProducerId(id))?.clone();
        producer.marker = Some(marker).filter(|marker| marker.is_valid() && *marker < offset);
        producers.insert(ProducerId(id), producer);
    }
    for (first, marker) in pairs(&mut payload)? {
        let txn = EndedTxn { first: Offset(first), marker };
        if !txn.first.is_valid() || txn.first >= marker || marker >= offset {
            return None;
        }
        producers.ended.add(txn);
    }
    let segment = if payload.remaining() < 8 { return None } else { Offset(payload.get_i64()) };
    let segment = Some(segment).filter(|segment| segment.is_valid());
    let aborted = aborted::get(&mut payload)?;
    payload.is_empty().then_some(Snapshot { offset, producers, segment, aborted })
}

/// A count, then as many numbers with an offset each.
fn pairs(payload: &mut Bytes) -> Option<Vec<(i64, Offset)>> {
    let count = if payload.remaining() < 4 { return None } else { payload.get_u32() as usize };
    if payload.remaining() / 16 < count {
        return None;
    }
    Some((0..count).map(|_| (payload.get_i64(), Offset(payload.get_i64()))).collect())
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
    let batches: Vec<BatchMemory> = (0..count)
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
    if !sane || !sorted {
        return None;
    }
    // The last marker is told further down. The row is as long as these batches show.
    let mut producer = Producer { coordinator_epoch, txn_start, ..Producer::new(epoch, active_ms) };
    batches.into_iter().for_each(|batch| producer.remember(batch));
    Some((id, producer))
}
