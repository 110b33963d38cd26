//! The production network: TCP by tokio, whole frames above it.
//!
//! Owns: [`TokioNet`], its listener and writer; the reader is in `tokio_reader`.
//! Promises what `net` asks, and: frames go out in one vectored write, small chunks gathered, large ones as they are; a
//! peer whose machine died without a word is noticed within two minutes (keepalive).
//! Leaves out: what a frame means, timeouts (see `server::connection`). Called by `tokio.rs`.

#![allow(clippy::disallowed_methods, reason = "this file is the production side of the Net seam")]

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustix::net::sockopt;
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::buffers::BufferPool;
use super::net::{Accepted, Frame, FrameWriter, Listener, Net};
pub use super::tokio_reader::TokioReader;

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: u32 = 1024;
/// From this size a chunk is written as it is; smaller ones are gathered (a copy is cheaper than one more vector).
const GATHER_BELOW_BYTES: usize = 1 << 10;
/// Chunks in one vectored write; the kernel takes up to 1024.
const MAX_VECTORS: usize = 64;

/// A peer that is silent for this long is asked whether it is there …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// … and again after each of these …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// … and if so many go unanswered, it is gone: two minutes after its machine died, where the system would take two hours.
const KEEPALIVE_PROBES: u32 = 6;

/// How sockets are set up.
#[derive(Debug, Clone, Default)]
pub struct SocketOptions {
    /// TCP congestion control by its kernel name, such as `cubic`; `None` leaves the system's.
    pub congestion: Option<String>,
}

/// TCP. Clones share the receive buffers.
#[derive(Debug, Clone, Default)]
pub struct TokioNet {
    pool: BufferPool,
    options: SocketOptions,
}

impl TokioNet {
    /// A network with these sockets.
    #[must_use]
    pub fn new(options: SocketOptions) -> TokioNet {
        TokioNet { pool: BufferPool::default(), options }
    }

    /// On a listening socket it counts for every connection that is accepted from it.
    fn set_up(&self, socket: impl AsFd) -> io::Result<()> {
        sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_EVERY)?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        let Some(name) = &self.options.congestion else { return Ok(()) };
        sockopt::set_tcp_congestion(&socket, name)
            .map_err(|error| io::Error::other(format!("TCP congestion control {name:?}: {error}")))
    }

    fn split(&self, stream: TcpStream) -> (TokioReader, TokioWriter) {
        let (half, writer) = stream.into_split();
        (TokioReader::new(half, self.pool.clone()), TokioWriter { half: writer })
    }
}

impl Net for TokioNet {
    type Listener = TokioListener;
    type Reader = TokioReader;
    type Writer = TokioWriter;

    async fn listen(&self, address: &str) -> io::Result<TokioListener> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} names no address"));
        for resolved in lookup_host(address).await? {
            let socket = if resolved.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            self.set_up(&socket)?;
            match socket.bind(resolved).and_then(|()| socket.listen(BACKLOG)) {
                Ok(listener) => {
                    let local_address = listener.local_addr()?.to_string();
                    return Ok(TokioListener { listener, net: self.clone(), local_address });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect(&self, address: &str) -> io::Result<(TokioReader, TokioWriter)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.set_up(&stream)?;
        Ok(self.split(stream))
    }
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TokioListener {
    listener: TcpListener,
    net: TokioNet,
    local_address: String,
}

impl Listener for TokioListener {
    type Reader = TokioReader;
    type Writer = TokioWriter;

    async fn accept(&mut self) -> io::Result<Accepted<TokioReader, TokioWriter>> {
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = self.net.split(stream);
        Ok(Accepted { reader, writer, peer: peer.to_string() })
    }

    fn local_address(&self) -> String {
        self.local_address.clone()
    }
}

/// The sending half of a TCP connection; dropping it closes the connection after what was sent.
#[derive(Debug)]
pub struct TokioWriter {
    half: OwnedWriteHalf,
}

impl FrameWriter for TokioWriter {
    async fn send(&mut self, frames: Vec<Frame>) -> io::Result<()> {
        let mut parts = gather(frames);
        let mut first = 0;
        while first < parts.len() {
            let written = poll_fn(|cx| {
                let mut slices = [IoSlice::new(&[]); MAX_VECTORS];
                let mut count = 0;
                for (slot, part) in slices.iter_mut().zip(&parts[first..]) {
                    *slot = IoSlice::new(part);
                    count += 1;
                }
                Pin::new(&mut self.half).poll_write_vectored(cx, &slices[..count])
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            first = advance(&mut parts, first, written);
        }
        // A socket has no buffer of ours above it: what it took is on its way, there is nothing to flush.
        Ok(())
    }
}

/// Takes `written` bytes off the front; returns the first part that is left.
fn advance(parts: &mut [Bytes], mut first: usize, mut written: usize) -> usize {
    while written > 0 {
        let part = &mut parts[first];
        let taken = written.min(part.len());
        part.advance(taken);
        written -= taken;
        if part.is_empty() {
            first += 1;
        }
    }
    first
}

/// Prefixes and small chunks joined, large chunks as they are; no part is empty.
fn gather(frames: Vec<Frame>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(frames.len().min(MAX_VECTORS) * 2);
    let is_small = |chunk: &&Bytes| chunk.len() < GATHER_BELOW_BYTES;
    let chunks: usize = frames.iter().flatten().filter(is_small).map(Bytes::len).sum();
    let mut small = BytesMut::with_capacity(frames.len() * size_of::<i32>() + chunks);
    for frame in frames {
        let length: usize = frame.iter().map(Bytes::len).sum();
        let prefix =
            i32::try_from(length).unwrap_or_else(|_| panic!("a frame of {length} bytes was made here"));
        small.put_i32(prefix);
        for chunk in frame {
            if chunk.len() < GATHER_BELOW_BYTES {
                small.extend_from_slice(&chunk);
            } else {
                parts.push(small.split().freeze());
                parts.push(chunk);
            }
        }
    }
    parts.push(small.freeze());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
#[path = "tokio_net_tests.rs"]
mod tests;
