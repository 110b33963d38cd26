//! SHELL. The sending half of a connection between nodes: frames from many in, few writes out.
//!
//! Promises: frames leave in the order in which they came in; the sender is told by `closed()` when nothing leaves any
//! more (the connection broke, or the other side did not take a frame in time).
//! Called by `link` and `served`.

use tokio::sync::mpsc;
use tracing::debug;

use super::PeerLimits;
use crate::runtime::Runtime;
use crate::runtime::net::{Frame, FrameWriter};

/// Frames that are handed to the transport at once.
const BATCH: usize = 64;

/// Starts the task that sends. It ends when every sender is dropped or the connection is lost.
pub(super) fn start<R: Runtime, Wr: FrameWriter>(
    runtime: &R,
    limits: &PeerLimits,
    writer: Wr,
) -> mpsc::Sender<Frame> {
    // Every call in flight may have a frame in here, and a ping or pong beside.
    let (sender, frames) = mpsc::channel(limits.in_flight + 2);
    runtime.spawn("peer-send", send(runtime.clone(), *limits, writer, frames));
    sender
}

async fn send<R: Runtime, Wr: FrameWriter>(
    runtime: R,
    limits: PeerLimits,
    mut writer: Wr,
    mut frames: mpsc::Receiver<Frame>,
) {
    let mut batch: Vec<Frame> = Vec::new();
    while frames.recv_many(&mut batch, BATCH).await > 0 {
        let deadline = runtime.now() + limits.send_timeout;
        match runtime.before(deadline, writer.send(std::mem::take(&mut batch))).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return debug!(%error, "the connection to a peer is lost"),
            None => return debug!("a peer did not take a frame within {:?}", limits.send_timeout),
        }
    }
}
