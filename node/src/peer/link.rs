//! SHELL. The connection to one other node, as long as anybody asks it anything.
//!
//! Owns: the calls in flight and their numbers, the backoff. Promises: every order ends (answered, refused, given up),
//! none outlives its deadline here; a connection that is silent while an answer is awaited is given up, so that a
//! half-open one is not believed for longer than two silences; what may be repeated is sent again, once, when the
//! connection broke under it (a raft message that notices a dead link must not be the one that is lost).
//! A task of `peers`.
//!
//! ```text
//!  orders ─► connect, greet ─► number, send ─► pending ─► answer | refused | deadline | lost ─► (again once)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::{buggify, mark};
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::{Call, Parts, PeerMessage, Refusal, level_of};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::greeting::{GreetingError, greet};
use super::peers::{AskError, Shared};
use crate::runtime::net::{Frame, FrameReader, Net};
use crate::runtime::{Mono, Runtime};

/// Frames that are taken from the transport at once.
const FRAMES: usize = 64;

/// One thing to ask.
pub(super) struct Order {
    pub parts: Parts,
    /// The same for a peer of a lower feature level, if it can be said there.
    pub older: Option<Parts>,
    pub repeatable: bool,
    pub repeated: bool,
    pub deadline: Mono,
    /// Nobody waits for the answer if there is none.
    pub reply: Option<oneshot::Sender<Result<Parts, AskError>>>,
}

impl Order {
    /// What a connection of this feature level carries of it.
    fn parts_for(&self, level: u16) -> Option<&Parts> {
        let fits = |parts: &&Parts| level_of(parts.tag, parts.version) <= level;
        [Some(&self.parts), self.older.as_ref()].into_iter().flatten().find(fits)
    }

    fn is_wanted(&self, now: Mono) -> bool {
        self.reply.as_ref().is_none_or(|reply| !reply.is_closed()) && now < self.deadline
    }

    fn fail(self, error: AskError) {
        self.end(Err(error));
    }

    fn end(self, answer: Result<Parts, AskError>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(answer); // whoever asked may have gone
        }
    }
}

/// How a connection ended.
enum End {
    /// Nobody can ask any more.
    Unused,
    /// It broke; whether anything was heard on it.
    Lost { was_heard: bool },
}

pub(super) async fn run<R: Runtime>(
    shared: Arc<Shared<R>>,
    node: BrokerId,
    address: String,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut backoff = Backoff { range: shared.limits.backoff, failures: 0 };
    let mut again: VecDeque<Order> = VecDeque::new();
    loop {
        let now = shared.runtime.now();
        again.retain(|order| order.is_wanted(now));
        if again.is_empty() {
            match orders.recv().await {
                Some(order) => again.push_back(order),
                None => return debug!(peer = %node, "nobody needs the link any more"),
            }
        }
        let end = match connect(&shared, node, &address).await {
            Some((reader, out, level)) => {
                info!(peer = %node, address, level, "connected");
                Conn::new(&shared, (node, level), reader, out).serve(&mut orders, &mut again).await
            }
            None => {
                again.drain(..).for_each(|order| order.fail(AskError::NotConnected(node)));
                while let Ok(order) = orders.try_recv() {
                    order.fail(AskError::NotConnected(node));
                }
                End::Lost { was_heard: false }
            }
        };
        match end {
            End::Unused => return debug!(peer = %node, "nobody needs the link any more"),
            End::Lost { was_heard: true } => backoff.failures = 0,
            End::Lost { was_heard: false } => {
                if again.is_empty() && orders.is_closed() {
                    return;
                }
                shared.runtime.sleep(backoff.next(shared.runtime.random_u64())).await;
            }
        }
    }
}

/// Pauses that double, up to a bound, with up to a quarter more so that nodes do not knock in step.
struct Backoff {
    range: (Duration, Duration),
    failures: u32,
}

impl Backoff {
    fn next(&mut self, random: u64) -> Duration {
        let pause = (self.range.0 * 2_u32.pow(self.failures.min(16))).min(self.range.1);
        self.failures = self.failures.saturating_add(1);
        pause + pause.mul_f64((random % 256) as f64 / 1024.0)
    }
}

/// Why there is no connection.
struct Unwanted {
    why: String,
    /// The other side, or this one, does not want it.
    is_refused: bool,
}

impl Unwanted {
    fn by_chance(error: &std::io::Error) -> Unwanted {
        Unwanted { why: error.to_string(), is_refused: false }
    }
}

type Reader<R> = <<R as Runtime>::Net as Net>::Reader;

async fn connect<R: Runtime>(
    shared: &Arc<Shared<R>>,
    node: BrokerId,
    address: &str,
) -> Option<(Reader<R>, mpsc::Sender<Frame>, u16)> {
    let deadline = shared.runtime.now() + shared.limits.connect_timeout;
    let greeted = shared.runtime.before(deadline, async {
        let (mut reader, mut writer) =
            shared.runtime.net().connect(address).await.map_err(|error| Unwanted::by_chance(&error))?;
        let met = greet(&shared.me, node, &mut reader, &mut writer).await.map_err(|error| Unwanted {
            why: error.to_string(),
            is_refused: matches!(error, GreetingError::Refused { .. } | GreetingError::OtherNode { .. }),
        })?;
        Ok::<_, Unwanted>((reader, writer, met.feature_level))
    });
    match greeted.await {
        Some(Ok((mut reader, writer, level))) => {
            reader.set_memory(shared.memory.clone());
            Some((reader, shared.outbox(writer), level))
        }
        Some(Err(Unwanted { why, is_refused: true })) => {
            // Not by a cable: somebody has to change something.
            warn!(peer = %node, address, why, "a peer does not take this node");
            None
        }
        Some(Err(Unwanted { why, is_refused: false })) => {
            debug!(peer = %node, address, why, "cannot connect");
            None
        }
        None => {
            debug!(peer = %node, address, "no connection within {:?}", shared.limits.connect_timeout);
            None
        }
    }
}

enum Event {
    Frames(bool),
    Closed,
    Ordered(Option<Order>),
    Time,
}

/// A connection that is open.
struct Conn<R: Runtime> {
    shared: Arc<Shared<R>>,
    node: BrokerId,
    /// The feature level that both sides speak.
    level: u16,
    reader: Reader<R>,
    out: mpsc::Sender<Frame>,
    /// By the number that each travels under; at most `in_flight`.
    pending: BTreeMap<u64, Order>,
    next_correlation: u64,
    was_heard: bool,
    /// Since when an answer is awaited and nothing was heard.
    silent_since: Option<Mono>,
    pinged: bool,
}

impl<R: Runtime> Conn<R> {
    fn new(
        shared: &Arc<Shared<R>>,
        (node, level): (BrokerId, u16),
        reader: Reader<R>,
        out: mpsc::Sender<Frame>,
    ) -> Conn<R> {
        Conn {
            shared: shared.clone(),
            node,
            level,
            reader,
            out,
            pending: BTreeMap::new(),
            next_correlation: 1,
            was_heard: false,
            silent_since: None,
            pinged: false,
        }
    }

    /// Asks everything of `again`, then `orders`. What is to be asked again on the next connection is left in `again`.
    async fn serve(mut self, orders: &mut mpsc::Receiver<Order>, again: &mut VecDeque<Order>) -> End {
        for order in std::mem::take(again) {
            self.ask(order);
        }
        let mut frames = Vec::new();
        loop {
            let event = self.wait(&mut frames, orders).await;
            let goes_on = match event {
                Event::Frames(goes_on) => self.heard(&mut frames) && goes_on,
                Event::Closed => false,
                Event::Ordered(Some(order)) => {
                    self.ask(order);
                    true
                }
                Event::Ordered(None) => return End::Unused,
                Event::Time => self.passed(),
            };
            assert!(self.pending.len() <= self.shared.limits.in_flight, "{} in flight", self.pending.len());
            if !goes_on {
                info!(peer = %self.node, in_flight = self.pending.len(), "disconnected");
                return self.lost(again);
            }
        }
    }

    async fn wait(&mut self, frames: &mut Vec<Bytes>, orders: &mut mpsc::Receiver<Order>) -> Event {
        let has_room = self.pending.len() < self.shared.limits.in_flight;
        let (runtime, limit) = (&self.shared.runtime, self.shared.limits.frame_max_bytes);
        let wake = self.next_time();
        tokio::select! {
            biased; // answers first: they make room for what is asked
            result = self.reader.recv(frames, FRAMES, limit) => Event::Frames(result.is_ok()),
            () = self.out.closed() => Event::Closed,
            order = orders.recv(), if has_room => Event::Ordered(order),
            () = runtime.sleep_until(wake.unwrap_or_default()), if wake.is_some() => Event::Time,
        }
    }

    fn next_time(&self) -> Option<Mono> {
        let deadline = self.pending.values().map(|order| order.deadline).min();
        let silences = if self.pinged { 2 } else { 1 };
        let silence = self.silent_since.map(|since| since + self.shared.limits.silence * silences);
        [deadline, silence].into_iter().flatten().min()
    }

    fn ask(&mut self, order: Order) {
        let now = self.shared.runtime.now();
        if !order.is_wanted(now) {
            return;
        }
        let Some(parts) = order.parts_for(self.level).cloned() else {
            mark!("a peer of an older release is not asked what it does not know");
            return order.fail(AskError::Refused(self.node, Refusal::Unknown));
        };
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let frame = Call { correlation, parts }.encode();
        if buggify!("a peer takes no more frames", 5) || self.out.try_send(frame).is_err() {
            // The other side takes no frames; those of requests that were given up fill the way.
            return order.fail(AskError::Full(self.node));
        }
        self.pending.insert(correlation, order);
        self.silent_since.get_or_insert(now);
    }

    /// Whether the connection is still good.
    fn heard(&mut self, frames: &mut Vec<Bytes>) -> bool {
        self.was_heard |= !frames.is_empty();
        self.pinged = false;
        let mut is_good = true;
        for frame in frames.drain(..) {
            match PeerMessage::decode(&frame) {
                Ok(PeerMessage::Call(call)) => self.answered(call.correlation, Ok(call.parts)),
                Ok(PeerMessage::Refused { correlation, why }) => {
                    self.answered(correlation, Err(AskError::Refused(self.node, why)));
                }
                Ok(PeerMessage::Pong) => {}
                Ok(other @ (PeerMessage::Hello(_) | PeerMessage::HelloReply(_) | PeerMessage::Ping)) => {
                    warn!(peer = %self.node, "it said {other:?}, which is no answer");
                    is_good = false;
                }
                Err(error) => {
                    warn!(peer = %self.node, %error, "it sent what is no answer");
                    is_good = false;
                }
            }
        }
        self.silent_since = (!self.pending.is_empty()).then(|| self.shared.runtime.now());
        is_good && !buggify!("a connection to a peer breaks behind an answer", 5)
    }

    fn answered(&mut self, correlation: u64, answer: Result<Parts, AskError>) {
        match self.pending.remove(&correlation) {
            Some(order) => order.end(answer),
            None => debug!(peer = %self.node, correlation, "an answer came too late"),
        }
    }

    /// A deadline or a silence is over; whether the connection is still good.
    fn passed(&mut self) -> bool {
        let now = self.shared.runtime.now();
        self.pending.retain(|_, order| now < order.deadline);
        let Some(since) = self.silent_since else { return true };
        let silence = self.shared.limits.silence;
        if self.pinged {
            if now.since(since) >= silence * 2 {
                mark!("a silent connection to a peer is given up");
                return false;
            }
        } else if now.since(since) >= silence {
            let ping = PeerMessage::Ping.encode().expect("a ping has no texts");
            self.pinged = true;
            return self.out.try_send(ping).is_ok();
        }
        true
    }

    fn lost(self, again: &mut VecDeque<Order>) -> End {
        let now = self.shared.runtime.now();
        for mut order in self.pending.into_values() {
            if order.repeatable && !order.repeated && order.is_wanted(now) {
                mark!("a request is repeated on a new connection to a peer");
                order.repeated = true;
                again.push_back(order);
            } else {
                order.fail(AskError::Lost(self.node));
            }
        }
        End::Lost { was_heard: self.was_heard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let range = (Duration::from_millis(20), Duration::from_millis(500));
        let mut backoff = Backoff { range, failures: 0 };
        let pauses: Vec<_> = (0..7).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500]);
        assert!(backoff.next(u64::MAX) <= Duration::from_millis(625));
    }
}
