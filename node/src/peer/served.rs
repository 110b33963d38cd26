//! SHELL. One connection that another node opened: calls in, answers out as they become ready.
//!
//! Promises: calls are started in their order; at most `in_flight` are unanswered, then nothing is read and the peer
//! feels it; what still waits when the connection ends is dropped. A task of `listener`'s runs it.

use std::sync::Arc;

use bytes::Bytes;
use dejaq_wire::peer::{Call, PeerMessage, Refusal, level_of};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{debug, warn};

use super::listener::{Shared, Signal};
use super::service::{Answering, PeerAnswer, PeerSession};
use crate::runtime::Runtime;
use crate::runtime::net::{Frame, FrameReader, Net, RecvError};

pub(super) struct Served<R: Runtime> {
    shared: Arc<Shared<R>>,
    session: Arc<PeerSession>,
    reader: <R::Net as Net>::Reader,
    out: mpsc::Sender<Frame>,
    gone: Arc<Signal>,
    /// One permit for each call that is not answered.
    room: Arc<Semaphore>,
}

impl<R: Runtime> Served<R> {
    pub fn new(
        shared: &Arc<Shared<R>>,
        session: Arc<PeerSession>,
        reader: <R::Net as Net>::Reader,
        out: mpsc::Sender<Frame>,
        gone: Arc<Signal>,
    ) -> Served<R> {
        let room = Arc::new(Semaphore::new(shared.limits.in_flight));
        Served { shared: shared.clone(), session, reader, out, gone, room }
    }

    /// Serves until the connection ends.
    pub async fn run(mut self) {
        let mut frames = Vec::new();
        loop {
            let gone = self.gone.clone();
            let result = tokio::select! {
                biased; // an end first: a peer that talks without pause must not outlast it
                () = gone.raised() => return,
                () = self.out.closed() => return,
                result = self.reader.recv(&mut frames, 1, self.shared.limits.frame_max_bytes) => result,
            };
            for frame in frames.drain(..) {
                let room = self.room.clone();
                let permit = tokio::select! {
                    biased; // as above
                    () = gone.raised() => return,
                    permit = room.acquire_owned() => permit.expect("never closed"),
                };
                if !self.arrived(&frame, permit) {
                    return;
                }
            }
            match result {
                Ok(()) => {}
                Err(RecvError::Closed) => return,
                Err(error) => return debug!(node = %self.session.node, %error, "a peer is lost"),
            }
        }
    }

    /// Starts what one frame asks for; whether the connection goes on.
    fn arrived(&mut self, frame: &Bytes, permit: OwnedSemaphorePermit) -> bool {
        let call = match PeerMessage::decode(frame) {
            Ok(PeerMessage::Call(call)) => call,
            Ok(PeerMessage::Ping) => {
                let pong = PeerMessage::Pong.encode().expect("a pong has no texts");
                return self.out.try_send(pong).is_ok();
            }
            Ok(other) => {
                warn!(node = %self.session.node, "it said {other:?}, which asks for nothing");
                return false;
            }
            Err(error) => {
                warn!(node = %self.session.node, %error, "it sent what is no call");
                return false;
            }
        };
        let Call { correlation, parts } = call;
        if level_of(parts.tag, parts.version) > self.session.feature_level {
            warn!(
                node = %self.session.node, tag = parts.tag, version = parts.version,
                "it says what it did not agree on: the message is of a newer release"
            );
            return self.out.try_send(frame_of(correlation, Err(Refusal::Unknown))).is_ok();
        }
        match self.shared.routes.start(&self.session, parts) {
            // There is room: every call in flight has a place in the outbox.
            Answering::Now(answer) => return self.out.try_send(frame_of(correlation, answer)).is_ok(),
            Answering::Later(later) => {
                let (out, gone) = (self.out.clone(), self.gone.clone());
                let running = self.shared.running();
                self.shared.runtime.spawn("peer-answer", async move {
                    let answer = tokio::select! {
                        biased; // nobody hears an answer on a connection that is gone
                        () = gone.raised() => None,
                        answer = later => Some(answer),
                    };
                    if let Some(answer) = answer {
                        let _ = out.send(frame_of(correlation, answer)).await; // it may be gone by now
                    }
                    drop((permit, running));
                });
            }
        }
        true
    }
}

fn frame_of(correlation: u64, answer: PeerAnswer) -> Frame {
    let encoded = match answer {
        Ok(parts) => PeerMessage::Call(Call { correlation, parts }).encode(),
        Err(why) => PeerMessage::Refused { correlation, why }.encode(),
    };
    encoded.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer to a peer cannot be encoded");
        let refused = PeerMessage::Refused { correlation, why: Refusal::Busy };
        refused.encode().expect("a refusal has no texts")
    })
}
