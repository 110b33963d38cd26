//! The proof that bytes are one good batch, and the part of a batch that our own sums must cover.
//!
//! Owns: [`VerifiedBatch`], [`TxnGuard`]. Promises: its CRC-32C was computed in this process and is right, it is exactly one v2 batch,
//! and its producer fields cannot break arithmetic. Leaves out: what a client may send (`dejaq_wire::record`).

use bytes::Bytes;
use dejaq_wire::ids::Offset;
use dejaq_wire::record::control::EndTxnMarker;
use dejaq_wire::record::{Batch, BatchError, BatchHeader};

/// Bytes at the front that the batch CRC does not cover, plus the CRC itself: what our own sum binds.
pub(crate) const BOUND_BYTES: usize = 21;
const _: () = assert!(BOUND_BYTES < BatchHeader::BYTES);

/// The CRC-32C over everything that it covers, of a batch of at least [`BatchHeader::BYTES`] bytes.
pub(crate) fn batch_crc(batch: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[BOUND_BYTES..]) as u32
}

/// Whether the producer fields are such that the log may remember them. A batch of a transaction needs no sequence: a
/// coordinator writes such ones on behalf of a producer.
pub(crate) fn has_sane_producer(header: &BatchHeader) -> bool {
    !header.has_producer()
        || header.is_control()
        || (header.producer_epoch.is_valid()
            && (header.base_sequence.is_valid() || header.is_transactional()))
}

/// Longest control batch that is looked into; ours have 78 bytes.
const CONTROL_BYTES: usize = 4096;

/// Length of a batch that ends a transaction: every one has it, since only brokers of ours write them. Where no batch has
/// this length, no transaction ends; a batch that has it need not be one. The cleaner makes only those longer whose data is
/// gone, which end nothing any more.
pub(crate) const MARKER_BYTES: u32 = 78;

/// What a control batch tells of a transaction's end, if it does; `bytes` are the whole batch.
pub(crate) fn marker_of(header: &BatchHeader, bytes: &Bytes) -> Option<EndTxnMarker> {
    if !header.is_control() || !header.has_producer() || bytes.len() > CONTROL_BYTES {
        return None;
    }
    let batch = Batch::parse(bytes).ok()?;
    let record = batch.records(CONTROL_BYTES).ok()?.next()?.ok()?;
    EndTxnMarker::of(&batch, &record)
}

/// How a producer's transaction stood in one log when its coordinator was asked about it: a batch that carries it opens
/// no transaction any more once a marker has come meanwhile (KIP-890).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxnGuard {
    /// The last marker of the producer's epoch.
    pub(crate) marker: Option<Offset>,
}

/// How a producer's transaction stands in one log; by default, where nothing is known of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxnStanding {
    /// Whether one is open in the epoch that was asked about.
    pub is_open: bool,
    /// To be carried by what is appended on the strength of this.
    pub guard: TxnGuard,
}

/// Exactly one v2 batch whose CRC was computed and found good in this process. Cheap to clone; the bytes are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedBatch {
    bytes: Bytes,
    header: BatchHeader,
    guard: Option<TxnGuard>,
}

impl VerifiedBatch {
    /// Checks that `bytes` are one batch, no more and no less, and that its CRC is right. Copies nothing.
    ///
    /// # Errors
    /// [`BatchError`]; nothing of the batch may be believed then.
    pub fn verify(bytes: Bytes) -> Result<VerifiedBatch, BatchError> {
        let Batch { header, payload } = Batch::parse(&bytes)?;
        if BatchHeader::BYTES + payload.len() != bytes.len() {
            return Err(BatchError::NotOneBatch);
        }
        let computed = batch_crc(&bytes);
        if computed != header.crc {
            return Err(BatchError::BadCrc { stated: header.crc, computed });
        }
        if !has_sane_producer(&header) {
            let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
            return Err(BatchError::BadProducer(id, epoch, sequence));
        }
        Ok(VerifiedBatch { bytes, header, guard: None })
    }

    /// The same batch, which opens a transaction only if no marker came since `guard` was taken.
    #[must_use]
    pub fn guarded(self, guard: TxnGuard) -> VerifiedBatch {
        VerifiedBatch { guard: Some(guard), ..self }
    }

    /// What it was guarded with.
    pub(crate) fn guard(&self) -> Option<TxnGuard> {
        self.guard
    }

    /// The fixed fields.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{CoordinatorEpoch, ProducerEpoch, ProducerId};

    use super::*;

    #[test]
    fn every_marker_has_the_length_by_which_recovery_looks_for_markers() {
        for (id, epoch, commit, coordinator, timestamp_ms) in
            [(0, 0, true, 0, 0), (i64::MAX, i16::MAX, false, i32::MAX, i64::MAX / 2)]
        {
            let (producer_id, producer_epoch) = (ProducerId(id), ProducerEpoch(epoch));
            let coordinator_epoch = CoordinatorEpoch(coordinator);
            let told = EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch };
            let bytes = told.batch(timestamp_ms).to_bytes();
            assert_eq!(bytes.len(), MARKER_BYTES as usize);
            let header = BatchHeader::parse(&bytes).expect("our own");
            assert_eq!(marker_of(&header, &bytes), Some(told));
        }
    }
}
