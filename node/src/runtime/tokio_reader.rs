//! The receiving half of a TCP connection: bytes to whole frames, without copying them.
//!
//! Owns: [`TokioReader`] and its receive buffer. Promises: a frame is moved only if it straddles two buffers, and then
//! only the part in the first; memory is reserved as bytes arrive, never by a claimed length alone; a buffer above
//! 64 KiB is under a claim; an idle connection holds no buffer. Leaves out: timeouts (see `server::connection`).
//!
//! ```text
//!  socket ─► buffer (64 KiB; 1 MiB where frames are large) ─► [frame][frame][part│   ─► slices that share the buffer
//!                                                                            └ moves to the next buffer
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::tcp::OwnedReadHalf;

use super::buffers::{BufferPool, SMALL_BYTES};
use super::memory::{Claim, MemoryBudget};
use super::net::{FrameReader, RecvError};

const PREFIX_BYTES: usize = 4;
/// A large frame that has filled the first buffer gets room up to this size at once; a larger one doubles as it arrives.
const RESERVE_AT_ONCE_BYTES: usize = 2 << 20;

const _: () = assert!(SMALL_BYTES < RESERVE_AT_ONCE_BYTES);

/// The receiving half of a TCP connection.
#[derive(Debug)]
pub struct TokioReader {
    half: OwnedReadHalf,
    pool: BufferPool,
    memory: Option<MemoryBudget>,
    /// Received and not shared; begins at the prefix of a frame. No allocation while the connection is idle.
    buffer: BytesMut,
    /// Covers the capacity of `buffer` while that is above `SMALL_BYTES`.
    claim: Option<Claim>,
    /// Whole frames that are shared and not handed out, because the caller wanted no more.
    ready: Bytes,
    /// Size of the largest frame of the last turn, so that the next buffer fits its like.
    usual_bytes: usize,
}

/// What lies at the front of a receive buffer.
struct Scan {
    /// Where the whole frames end.
    end: usize,
    /// The largest of them, prefix included; 0 if there is none.
    largest: usize,
    /// Size of the frame that is not whole, prefix included; 0 while even its prefix is not here.
    next: usize,
    /// The frame behind `end` is not allowed.
    refused: Option<RecvError>,
}

fn prefix(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk::<PREFIX_BYTES>().map(|prefix| i32::from_be_bytes(*prefix))
}

fn scan(buffer: &[u8], limit: usize) -> Scan {
    let mut found = Scan { end: 0, largest: 0, next: 0, refused: None };
    while let Some(announced) = prefix(&buffer[found.end..]) {
        let Some(length) = usize::try_from(announced).ok().filter(|length| *length <= limit) else {
            found.refused = Some(RecvError::TooLarge { announced: i64::from(announced), limit });
            break;
        };
        let total = PREFIX_BYTES + length;
        if buffer.len() - found.end < total {
            found.next = total;
            break;
        }
        found.end += total;
        found.largest = found.largest.max(total);
    }
    found
}

impl FrameReader for TokioReader {
    async fn recv(
        &mut self,
        frames: &mut Vec<Bytes>,
        max_frames: usize,
        max_frame_bytes: usize,
    ) -> Result<(), RecvError> {
        assert!(max_frames > 0, "asks for no frames");
        while self.ready.is_empty() {
            let found = scan(&self.buffer, max_frame_bytes);
            if found.end > 0 {
                self.share(&found).await;
                break;
            }
            if let Some(refused) = found.refused {
                return Err(refused);
            }
            self.make_room(found.next).await;
            if self.fill(found.next).await? == 0 {
                return Err(if self.buffer.is_empty() {
                    RecvError::Closed
                } else {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "closed inside a frame").into()
                });
            }
        }
        for _ in 0..max_frames {
            let Some(announced) = prefix(&self.ready) else { break };
            let length = usize::try_from(announced).expect("scan saw that it is not negative");
            self.ready.advance(PREFIX_BYTES);
            frames.push(self.ready.split_to(length));
        }
        if self.ready.is_empty() {
            self.ready = Bytes::new(); // an empty slice would keep the buffer
        }
        Ok(())
    }

    fn set_memory(&mut self, memory: MemoryBudget) {
        self.memory = Some(memory);
    }

    fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn is_closed_by_peer(&mut self) -> bool {
        // One look at what the poller knows. It knows of an end also while there are bytes before it.
        let mut context = Context::from_waker(Waker::noop());
        match pin!(self.half.ready(Interest::READABLE)).poll(&mut context) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl TokioReader {
    pub(super) fn new(half: OwnedReadHalf, pool: BufferPool) -> TokioReader {
        TokioReader {
            half,
            pool,
            memory: None,
            buffer: BytesMut::new(),
            claim: None,
            ready: Bytes::new(),
            usual_bytes: 0,
        }
    }

    /// Memory that this reader holds by itself.
    #[cfg(test)]
    pub(super) fn reserved_bytes(&self) -> usize {
        self.buffer.capacity() + self.ready.len()
    }

    /// Moves the whole frames from `buffer` to `ready`. Cancel safe: nothing moves before the claims are there.
    async fn share(&mut self, found: &Scan) {
        let rest = self.buffer.len() - found.end;
        self.usual_bytes = found.largest;
        if BufferPool::is_copied(found.end) {
            let claim = match &mut self.claim {
                Some(covers) => Some(covers.split(found.end)),
                None => self.claimed_small(found.end).await,
            };
            self.ready = BufferPool::copy_out(&mut self.buffer, found.end, claim);
            // The part that was split off covered capacity above SMALL_BYTES, so that it must go.
            if self.claim.is_some() && rest <= SMALL_BYTES {
                self.regrow(SMALL_BYTES);
                self.claim = None;
            }
            return;
        }
        if self.claim.is_none() && self.buffer.capacity() <= SMALL_BYTES {
            self.claim = self.claimed_small(self.buffer.capacity()).await;
        } else {
            self.cover(self.buffer.capacity()).await;
        }
        let mut behind = BytesMut::new();
        let mut behind_claim = None;
        if rest > 0 {
            let room = rest.max(found.next.min(SMALL_BYTES));
            if BufferPool::capacity_for(room) > SMALL_BYTES {
                behind_claim = self.claimed(BufferPool::capacity_for(room)).await;
            }
            behind = self.pool.take(room);
            behind.extend_from_slice(&self.buffer[found.end..]);
            self.buffer.truncate(found.end);
        }
        let full = std::mem::replace(&mut self.buffer, behind);
        let claim = std::mem::replace(&mut self.claim, behind_claim);
        self.ready = self.pool.share(full, claim);
    }

    /// A claim on `bytes`, as soon as there is room; nothing without a budget.
    async fn claimed(&self, bytes: usize) -> Option<Claim> {
        let memory = self.memory.as_ref()?;
        match memory.try_claim(bytes) {
            Some(claim) => Some(claim),
            None => Some(memory.claim(bytes).await),
        }
    }

    /// The same for a buffer of at most `SMALL_BYTES`, which large frames do not keep waiting.
    async fn claimed_small(&self, bytes: usize) -> Option<Claim> {
        match &self.memory {
            Some(memory) => Some(memory.claim_small(bytes).await),
            None => None,
        }
    }

    /// Makes `claim` cover `capacity`.
    async fn cover(&mut self, capacity: usize) {
        let covered = self.claim.as_ref().map_or(0, Claim::bytes);
        // A frame above the whole budget cannot be, but a capacity can: it is rounded up.
        let wanted = self.memory.as_ref().map_or(0, |memory| capacity.min(memory.most()));
        if covered >= wanted {
            return;
        }
        if let Some(more) = self.claimed(wanted - covered).await {
            match &mut self.claim {
                Some(claim) => claim.join(more),
                None => self.claim = Some(more),
            }
        }
    }

    /// Makes sure that the buffer can take more of a frame of `next` bytes (0: unknown yet).
    async fn make_room(&mut self, next: usize) {
        if next <= SMALL_BYTES {
            if !self.buffer.is_empty() && self.buffer.capacity() < next.max(PREFIX_BYTES) {
                self.regrow(SMALL_BYTES);
            }
            return;
        }
        if self.buffer.len() < self.buffer.capacity() || self.buffer.capacity() == 0 {
            return;
        }
        // Claimed whole, so that nobody waits for more while he holds a part; reserved as it arrives.
        self.cover(BufferPool::capacity_for(next)).await;
        let doubled = self.buffer.len().saturating_mul(2).max(RESERVE_AT_ONCE_BYTES);
        self.regrow(doubled.min(next));
    }

    fn regrow(&mut self, capacity: usize) {
        let mut other = self.pool.take(capacity.max(self.buffer.len()));
        other.extend_from_slice(&self.buffer);
        self.pool.put(std::mem::replace(&mut self.buffer, other));
    }

    /// Reads once. A connection that has to wait with nothing received gives its buffer back.
    ///
    /// Of a large frame only what is missing is read, and of frames whose size is unknown a whole number of the usual
    /// one, so that the frame behind begins in a buffer of its own and is never moved.
    async fn fill(&mut self, next: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            if self.buffer.capacity() == 0 {
                self.buffer = self.first_buffer();
            }
            let wanted = if next > SMALL_BYTES {
                next - self.buffer.len()
            } else if self.buffer.is_empty() && self.usual_bytes > SMALL_BYTES {
                (self.buffer.capacity() / self.usual_bytes).max(1) * self.usual_bytes
            } else {
                usize::MAX
            };
            let read = {
                let mut room = (&mut self.buffer).limit(wanted);
                pin!(self.half.read_buf(&mut room)).poll(cx)
            };
            if read.is_pending() && self.buffer.is_empty() {
                self.pool.put(std::mem::take(&mut self.buffer));
                self.claim = None;
            }
            read
        })
        .await
    }

    /// A buffer for a connection whose next frame is unknown: as large as the last frames, if that can be claimed.
    fn first_buffer(&mut self) -> BytesMut {
        if self.usual_bytes > SMALL_BYTES && self.usual_bytes <= RESERVE_AT_ONCE_BYTES {
            let capacity = BufferPool::capacity_for(self.usual_bytes);
            self.claim = self.memory.as_ref().and_then(|memory| memory.try_claim(capacity));
            if self.claim.is_some() || self.memory.is_none() {
                return self.pool.take(self.usual_bytes);
            }
        }
        self.pool.take(SMALL_BYTES)
    }
}
