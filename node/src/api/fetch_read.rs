//! One pass over the partitions of a fetch: what each of them answers now.
//!
//! Owns: the limits of one answer (KIP-74: the first batch comes whatever its size), the fencing and the range check of
//! one partition, the one mapping of read errors to Kafka's codes.
//! Promises: nothing at or beyond the watermark is returned (REP-8), to a reader of committed records nothing at or
//! beyond the stable end, and he is told the aborted transactions of what he gets (TXN-2, TXN-12); an offset between watermark and log end is no
//! error (REP-17); damage is never served and is told once in the log.
//! Leaves out: sessions and waiting (`fetch`).

use std::sync::Arc;

use dejaq_storage::{AbortedTxn, Disk, LogReader, Read, ReadAsk, ReadError, buggify, mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::fetch::{AbortedTransaction, EpochEndOffset, PartitionData};

use super::data_plane::{self, DataPlane};
use super::fetch_session::{Key, Told, Wanted};
use crate::replica::view::Part;
use crate::replica::{Partition, Table};
use crate::runtime::Runtime;

/// What one pass found.
pub(super) struct Pass<R: Runtime> {
    /// For every partition that was asked, in that order.
    pub answers: Vec<(Key, PartitionData)>,
    /// Bytes of records in them.
    pub bytes: usize,
    /// Something is in it that the client should learn at once.
    pub is_urgent: bool,
    /// Partitions that may bring more, and the watermark up to which they were looked at.
    pub seen: Vec<(Arc<Partition<R>>, Offset)>,
}

/// What holds for every partition of one fetch.
pub(super) struct Reader {
    /// It reads only what is committed.
    pub read_committed: bool,
    /// It may be sent to followers, and read from them (KIP-392).
    pub from_followers: bool,
    /// Where it stands; empty if it does not say.
    pub rack: String,
}

/// Reads every partition of `wanted` once, up to `max_bytes` in all.
pub(super) async fn pass<R: Runtime>(
    data: &DataPlane<R>,
    wanted: &[(Key, Wanted)],
    max_bytes: usize,
    reader: &Reader,
) -> Pass<R> {
    let table = data.directory.table();
    let mut pass =
        Pass { answers: Vec::with_capacity(wanted.len()), bytes: 0, is_urgent: false, seen: Vec::new() };
    for (key, wanted) in wanted {
        let room = max_bytes.saturating_sub(pass.bytes).min(wanted.max_bytes);
        let room = if buggify!("a fetch reads one batch at most", 100) { room.min(1) } else { room };
        let read_committed = reader.read_committed;
        let limits = Room { bytes: room, at_least_one: pass.bytes == 0, read_committed };
        let answer = match find(&table, key, wanted, reader.from_followers) {
            Ok(partition) => {
                let nearer = nearer(data, &partition, wanted, reader);
                let (mut answer, watermark) = match nearer {
                    None => read(data, &partition, wanted, limits).await,
                    Some(_) => (empty(&partition), partition.view().watermark()),
                };
                answer.preferred_read_replica = nearer.unwrap_or(BrokerId::NONE);

                pass.seen.push((partition, watermark));
                answer
            }
            Err(code) => failed(key.partition, code),
        };
        pass.bytes += answer.records.as_ref().map_or(0, Records::len);
        // A follower that is behind may catch up while the fetch waits.
        pass.is_urgent |= told(&answer).is_notable && answer.error_code != ErrorCode::OFFSET_NOT_AVAILABLE;
        pass.answers.push((key.clone(), answer));
    }
    pass
}

/// What an answer tells, for the session.
pub(super) fn told(answer: &PartitionData) -> Told {
    Told {
        watermark: answer.high_watermark,
        log_start: answer.log_start_offset,
        has_records: answer.records.as_ref().is_some_and(|records| !records.is_empty()),
        is_notable: answer.error_code.is_error()
            || answer.diverging_epoch != EpochEndOffset::default()
            || answer.preferred_read_replica.is_valid(),
    }
}

#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    at_least_one: bool,
    read_committed: bool,
}

fn find<R: Runtime>(
    table: &Table<R>,
    key: &Key,
    wanted: &Wanted,
    from_followers: bool,
) -> Result<Arc<Partition<R>>, ErrorCode> {
    let found = data_plane::readable(table, &key.topic, key.partition, wanted.current_epoch, from_followers);
    found.cloned()
}

/// The replica in the reader's rack that it should ask instead, if this one leads in another rack.
fn nearer<R: Runtime>(
    data: &DataPlane<R>,
    partition: &Arc<Partition<R>>,
    wanted: &Wanted,
    reader: &Reader,
) -> Option<BrokerId> {
    if reader.rack.is_empty() || !reader.from_followers || partition.view().part() != Part::Leads {
        return None;
    }
    let image = data.directory.image();
    let is_near = |id: BrokerId| {
        image
            .broker(id)
            .is_some_and(|broker| broker.is_live() && broker.rack.as_deref() == Some(reader.rack.as_str()))
    };
    let is_within = wanted.offset >= partition.view().reader().start();
    if !is_within || is_near(data.directory.me()) {
        return None;
    }
    partition.nearer(wanted.offset, is_near)
}

/// An answer without records.
fn empty<R: Runtime>(partition: &Partition<R>) -> PartitionData {
    let view = partition.view();
    // Before the read: what is returned lies below. And the stable end before the watermark, which may move in between.
    let stable = view.stable_end();
    let watermark = view.watermark();
    PartitionData {
        partition_index: partition.identity().partition,
        high_watermark: watermark,
        last_stable_offset: stable,
        log_start_offset: view.reader().start(),
        records: Some(Records::default()),
        ..Default::default()
    }
}

/// What one partition answers, and the watermark that it was read up to.
async fn read<R: Runtime>(
    data: &DataPlane<R>,
    partition: &Arc<Partition<R>>,
    wanted: &Wanted,
    room: Room,
) -> (PartitionData, Offset) {
    let view = partition.view();
    let reader = view.reader();
    let follows = view.part() == Part::Follows;
    let mut answer = empty(partition);
    answer.aborted_transactions = room.read_committed.then(Vec::new);
    let mut watermark = answer.high_watermark;
    if follows && mutant!(17) {
        watermark = reader.end(); // the planted bug: a follower shows what nobody committed
    }
    let bound = if room.read_committed { answer.last_stable_offset } else { watermark };
    // The planted bug M283: a follower takes the end of its own log for that of the partition.
    let is_behind = follows && wanted.offset > watermark && !mutant!(283);
    // The planted bug M281: the range that is asked for ends at the watermark, not at the end of the log.
    let is_beyond = wanted.offset > reader.end() || (mutant!(281) && wanted.offset > watermark);
    if wanted.offset < reader.start() || (is_beyond && !is_behind) {
        answer.error_code = ErrorCode::OFFSET_OUT_OF_RANGE;
        return (answer, watermark);
    }
    if is_behind {
        mark!("a follower does not know that an offset is committed");
        answer.error_code = ErrorCode::OFFSET_NOT_AVAILABLE;
        return (answer, watermark);
    }
    if let Some(diverging) = diverging(reader, wanted.last_epoch, wanted.offset) {
        mark!("a fetch diverges from the log");
        answer.diverging_epoch = diverging;
        return (answer, watermark);
    }
    let is_full = room.bytes == 0 && !room.at_least_one;
    if wanted.offset >= bound || is_full {
        return (answer, watermark);
    }
    let ask = ReadAsk {
        offset: wanted.offset,
        max_bytes: room.bytes,
        at_least_one: room.at_least_one,
        end_bound: bound,
    };
    match read_warm_or_cold(reader, ask).await {
        Ok(read) => {
            assert!(read.next <= bound, "{:?} is returned, this reader may see {bound:?}", read.next);
            if room.read_committed {
                let aborted = reader.aborted(wanted.offset, read.next).into_iter();
                let told = |txn: AbortedTxn| AbortedTransaction {
                    producer_id: txn.producer_id,
                    first_offset: txn.first,
                };
                answer.aborted_transactions = Some(aborted.map(told).collect());
            }
            answer.records = Some(Records::from(read.batches));
        }
        Err(error) => answer = refused(data, partition, answer, error),
    }
    (answer, watermark)
}

async fn read_warm_or_cold<D: Disk>(reader: &LogReader<D>, ask: ReadAsk) -> Result<Read, ReadError> {
    match reader.try_read(ask)? {
        Some(read) => Ok(read),
        None => {
            mark!("a fetch waits for the disk");
            reader.read(ask).await
        }
    }
}

/// Where a client that has `last_epoch` before `offset` has left our log, if it has (KIP-595).
fn diverging<D: Disk>(
    reader: &LogReader<D>,
    last_epoch: LeaderEpoch,
    offset: Offset,
) -> Option<EpochEndOffset> {
    if !last_epoch.is_valid() {
        return None;
    }
    let ours = reader.end_offset_for_epoch(last_epoch);
    // The planted bug M290: an epoch that we know is enough, wherever it ended here.
    let is_known = ours.epoch == last_epoch && (ours.end >= offset || mutant!(290));
    (!is_known).then_some(EpochEndOffset { epoch: ours.epoch, end_offset: ours.end })
}

fn refused<R: Runtime>(
    data: &DataPlane<R>,
    partition: &Arc<Partition<R>>,
    answer: PartitionData,
    error: ReadError,
) -> PartitionData {
    let error_code = match error {
        // The start moved on, or the log was cut, while we looked.
        ReadError::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        ReadError::Damaged { from, .. } => {
            data.directory.health().counts.damaged_reads.add(1);
            mark!("a fetch meets damage");
            partition.notice_damage();
            if data.is_news(partition, from) {
                tracing::error!(partition = partition.name(), %error, "records are damaged: they are not served");
            }
            // Clients come again after the one; they give up at the other, which is right where nobody else has them.
            if partition.may_be_had_elsewhere() {
                ErrorCode::KAFKA_STORAGE_ERROR
            } else {
                ErrorCode::CORRUPT_MESSAGE
            }
        }
        ReadError::Io(_) => {
            mark!("a fetch meets an error of the disk");
            if data.is_news(partition, Offset::NONE) {
                tracing::error!(partition = partition.name(), %error, "a read failed");
            }
            ErrorCode::KAFKA_STORAGE_ERROR
        }
    };
    PartitionData { error_code, aborted_transactions: None, ..answer }
}

fn failed(index: PartitionId, error_code: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: index,
        error_code,
        high_watermark: Offset::NONE,
        records: Some(Records::default()),
        ..Default::default()
    }
}
