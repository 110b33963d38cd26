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

/// Exactly one v2 batch whose CRC was computed and found good in this process. Cheap to clone; the bytes are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedBatch {
    bytes: Bytes,
    header: BatchHeader,
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
        Ok(VerifiedBatch { bytes, header })
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
