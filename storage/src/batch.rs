//! The proof that bytes are one good batch, and the part of a batch that our own sums must cover.
//!
//! Owns: [`VerifiedBatch`]. Promises: its CRC-32C was computed in this process and is right, it is exactly one v2 batch,
//! and its producer fields cannot break arithmetic. Leaves out: what a client may send (`dejaq_wire::record`).

use bytes::Bytes;
use dejaq_wire::record::{Batch, BatchError, BatchHeader};

/// Bytes at the front that the batch CRC does not cover, plus the CRC itself: what our own sum binds.
pub(crate) const BOUND_BYTES: usize = 21;
const _: () = assert!(BOUND_BYTES < BatchHeader::BYTES);

/// The CRC-32C over everything that it covers, of a batch of at least [`BatchHeader::BYTES`] bytes.
pub(crate) fn batch_crc(batch: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[BOUND_BYTES..]) as u32
}

/// Whether the producer fields are such that the log may remember them.
pub(crate) fn has_sane_producer(header: &BatchHeader) -> bool {
    !header.has_producer()
        || header.is_control()
        || (header.producer_epoch.is_valid() && header.base_sequence.is_valid())
}

/// Exactly one v2 batch whose CRC was computed and found good in this process. Cheap to clone; the payload is shared.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedBatch {
    batch: Batch,
}

impl VerifiedBatch {
    /// Checks that `bytes` are one batch, no more and no less, and that its CRC is right.
    ///
    /// # Errors
    /// [`BatchError`]; nothing of the batch may be believed then.
    pub fn verify(bytes: &Bytes) -> Result<VerifiedBatch, BatchError> {
        let batch = Batch::parse(bytes)?;
        if batch.bytes() != bytes.len() {
            return Err(BatchError::NotOneBatch);
        }
        VerifiedBatch::of(batch)
    }

    /// Checks the CRC of a batch that was parsed already.
    ///
    /// # Errors
    /// [`BatchError`]; nothing of the batch may be believed then.
    pub fn of(batch: Batch) -> Result<VerifiedBatch, BatchError> {
        batch.check_crc()?;
        let header = &batch.header;
        if !has_sane_producer(header) {
            let (id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
            return Err(BatchError::BadProducer(id, epoch, sequence));
        }
        Ok(VerifiedBatch { batch })
    }

    /// The fixed fields.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.batch.header
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }
}
