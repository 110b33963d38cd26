//! Receive buffers that are used again, and the slices of them that requests hold.
//!
//! Owns: [`BufferPool`], three sizes of buffers with a bound on how many are kept idle.
//! Promises: a buffer returns to the pool, and its claim to the budget, when the last slice of it is dropped.
//! Leaves out: when to read, how much. Called by `tokio_net` only.
//! Because an allocation of 1 MiB that is touched costs 14 to 20 µs with glibc (page faults), a tenth of its append.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::memory::Claim;

/// Every connection may hold this much beyond the budget; most turns of most clients fit.
pub(super) const SMALL_BYTES: usize = 64 << 10;
/// The sizes that are kept, each with how many at most: together below 16 MiB.
const SIZES: [(usize, usize); 3] = [(SMALL_BYTES, 32), (272 << 10, 16), (1088 << 10, 8)];
/// Up to here the bytes are copied out of a small buffer, so that a waiting request of 100 bytes does not hold 64 KiB.
const COPY_BYTES: usize = 8 << 10;

const _: () = assert!(COPY_BYTES < SMALL_BYTES);

/// Idle buffers. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct BufferPool {
    idle: Arc<Mutex<[Vec<BytesMut>; SIZES.len()]>>,
}

impl BufferPool {
    /// An empty buffer with room for `bytes` or more.
    pub(super) fn take(&self, bytes: usize) -> BytesMut {
        let Some(class) = SIZES.iter().position(|(size, _)| *size >= bytes) else {
            return BytesMut::with_capacity(bytes);
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner)[class].pop();
        idle.unwrap_or_else(|| BytesMut::with_capacity(SIZES[class].0))
    }

    /// Takes a buffer back, or frees it if there are enough or it has none of the sizes.
    pub(super) fn put(&self, mut buffer: BytesMut) {
        let Some(class) = SIZES.iter().position(|(size, _)| *size == buffer.capacity()) else { return };
        buffer.clear();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle[class].len() < SIZES[class].1 {
            idle[class].push(buffer);
        }
    }

    /// The capacity of the buffer that [`BufferPool::take`] gives for `bytes`.
    pub(super) fn capacity_for(bytes: usize) -> usize {
        SIZES.iter().map(|(size, _)| *size).find(|size| *size >= bytes).unwrap_or(bytes)
    }

    /// Whether so few bytes are copied out instead of sharing their buffer.
    pub(super) fn is_copied(bytes: usize) -> bool {
        bytes <= COPY_BYTES
    }

    /// Copies the first `end` bytes of `buffer` out and moves the rest to its front.
    pub(super) fn copy_out(buffer: &mut BytesMut, end: usize, claim: Option<Claim>) -> Bytes {
        let copy = BytesMut::from(&buffer[..end]);
        let rest = buffer.len() - end;
        buffer.copy_within(end.., 0);
        buffer.truncate(rest);
        Bytes::from_owner(Shared { buffer: copy, _claim: claim, pool: None })
    }

    /// Shares all of `buffer`, which comes back to this pool after the last slice of it.
    pub(super) fn share(&self, buffer: BytesMut, claim: Option<Claim>) -> Bytes {
        Bytes::from_owner(Shared { buffer, _claim: claim, pool: Some(self.clone()) })
    }
}

/// What the slices of one buffer share.
struct Shared {
    buffer: BytesMut,
    _claim: Option<Claim>,
    pool: Option<BufferPool>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put(std::mem::take(&mut self.buffer));
        }
    }
}
