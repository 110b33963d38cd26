//! The network seam: listens, connects, and moves whole frames.
//!
//! Owns: the traits [`Net`], [`Listener`], [`FrameReader`], [`FrameWriter`].
//! Promises: above this seam there are no missing flushes and no torn reads: a frame arrives whole or not at all,
//! frames of one connection arrive in order, and a lost connection is an error on both halves sooner or later.
//! Leaves out: what a frame means; TLS. The 4-byte big-endian length prefix of Kafka is added and removed here.
//! Called by `server` (accepting), `peer` and `client` (connecting).

use std::future::Future;
use std::io;

use bytes::Bytes;

use super::memory::MemoryBudget;

/// A frame to send: chunks that are written one after the other, without the length prefix. Not copied by us.
pub type Frame = Vec<Bytes>;

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The peer closed the connection between two frames: the normal end.
    #[error("the peer closed the connection")]
    Closed,
    /// The length prefix is negative or above the limit. Close the connection, and say so in the log.
    #[error("frame of {announced} bytes, limit {limit}")]
    TooLarge {
        /// What the prefix said.
        announced: i64,
        /// The limit in force.
        limit: usize,
    },
    /// The connection broke, possibly inside a frame.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

/// Makes connections. Cheap to clone.
pub trait Net: Clone + Send + Sync + 'static {
    /// An open listening socket.
    type Listener: Listener<Reader = Self::Reader, Writer = Self::Writer>;
    /// The receiving half of a connection.
    type Reader: FrameReader;
    /// The sending half of a connection.
    type Writer: FrameWriter;

    /// Listens on `address`, as `host:port`; port 0 takes a free one.
    fn listen(&self, address: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Connects to `address`, as `host:port`. Has no deadline of its own: use [`super::Runtime::before`].
    fn connect(&self, address: &str)
    -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>> + Send;
}

/// A listening socket; dropping it stops listening.
pub trait Listener: Send + 'static {
    /// The receiving half of a connection.
    type Reader: FrameReader;
    /// The sending half of a connection.
    type Writer: FrameWriter;

    /// The next connection. Cancel safe. An error is transient (out of descriptors, say): wait and call again.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Reader, Self::Writer>>> + Send;

    /// Where it listens, as `host:port`, with the real port.
    fn local_address(&self) -> String;
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<Rd, Wr> {
    /// The receiving half.
    pub reader: Rd,
    /// The sending half.
    pub writer: Wr,
    /// Who connected, as `host:port`.
    pub peer: String,
}

/// The receiving half of a connection.
pub trait FrameReader: Send + 'static {
    /// Waits for at least one whole frame, then takes every whole frame that is already here, up to `max_frames`,
    /// appending them to `frames` in order. Each is a zero-copy slice of the receive buffer.
    ///
    /// `max_frame_bytes` bounds each frame; a larger one is refused before its body is read or room is reserved.
    /// An idle connection holds no receive buffer. Cancel safe: bytes received are kept for the next call.
    ///
    /// # Errors
    /// Frames that came before the error are in `frames`; after an error no further frame comes.
    fn recv(
        &mut self,
        frames: &mut Vec<Bytes>,
        max_frames: usize,
        max_frame_bytes: usize,
    ) -> impl Future<Output = Result<(), RecvError>> + Send;

    /// From now on receive buffers are claimed from `memory` and released when the last frame in them is dropped;
    /// while it has no room, [`FrameReader::recv`] waits and the peer feels it. A transport without receive buffers
    /// of its own may ignore it.
    fn set_memory(&mut self, memory: MemoryBudget) {
        let _ = memory;
    }

    /// Whether a frame began to arrive and is not whole: how a peer that trickles is told from an idle one.
    fn is_mid_frame(&self) -> bool {
        false
    }

    /// Whether the peer is known to send nothing beyond what is here already. For who does not receive just now, and
    /// so would not hear of it; true soon after the peer closed, not at once.
    fn is_closed_by_peer(&mut self) -> bool;
}

/// The sending half of a connection. Dropping it closes the connection after what was sent.
pub trait FrameWriter: Send + 'static {
    /// Sends the frames in order, each behind its length prefix, with as few system calls as can be, and flushes.
    /// Returns when the transport has taken all of it: a peer that does not read makes this wait.
    /// Not cancel safe: a dropped call may leave half a frame; close the connection then.
    ///
    /// # Errors
    /// The connection is gone; what the peer received is unknown.
    fn send(&mut self, frames: Vec<Frame>) -> impl Future<Output = io::Result<()>> + Send;
}
