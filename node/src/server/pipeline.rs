//! Which requests of a connection may be started, and which replies may leave: the order of one connection.
//!
//! Owns: requests that arrived and are not started (`backlog`), replies that are there or on their way (`slots`), both
//! in the order of arrival; the sums that bound them. Promises: replies leave in the order of requests; only Produce
//! and Fetch run side by side, anything else runs alone; a turn holds at most one Fetch, so that answers of many bytes
//! do not pile up; a Fetch is not begun before the replies in front of it are sent: it stands in line for memory that
//! others want, and nobody polls it while its client does not read. Leaves out: sockets, timeouts, memory. Called by `connection`.
//!
//! ```text
//!  arrived ─► backlog ─ next_turn ─► Service ─ started ─► slots ─ poll_replies (front only) ─► out
//! ```

use std::collections::VecDeque;
use std::task::{Context, Poll};

use dejaq_wire::api::ApiKey;
use tracing::Span;

use super::service::{Reply, Request, Started};
use crate::runtime::Mono;
use crate::runtime::net::Frame;

/// Bytes of replies after which they are sent before more are gathered.
const SEND_ABOVE_BYTES: usize = 1 << 20;
/// Replies after which they are sent before more are gathered.
const SEND_ABOVE_FRAMES: usize = 256;

/// Requests and replies of one connection.
#[derive(Debug)]
pub(super) struct Pipeline {
    backlog: VecDeque<(Request, usize)>,
    slots: VecDeque<Slot>,
    /// Whether the requests in `slots` let others of their kind in.
    shared: bool,
    /// Sum over `backlog` and `slots` of the sizes of their requests and of the replies that are there.
    held_bytes: usize,
    max_requests: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    started: Started,
    about: About,
    span: Span,
    request_bytes: usize,
}

/// What is known of a request after its body went away.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) api: ApiKey,
    pub(super) received_at: Mono,
}

/// Replies to send now.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) frames: Vec<Frame>,
    pub(super) answered: Vec<About>,
    pub(super) bytes: usize,
    /// Close after these frames, for this reason.
    pub(super) close: Option<String>,
}

fn may_share(api: ApiKey) -> bool {
    matches!(api, ApiKey::Produce | ApiKey::Fetch)
}

impl Pipeline {
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> Pipeline {
        assert!(max_requests > 0 && max_bytes > 0, "{max_requests} requests, {max_bytes} bytes");
        Pipeline {
            backlog: VecDeque::new(),
            slots: VecDeque::new(),
            shared: false,
            held_bytes: 0,
            max_requests,
            max_bytes,
        }
    }

    /// How many more requests may be received now.
    pub(super) fn room(&self) -> usize {
        // What arrived is started first: a backlog is what the rule holds back.
        if !self.backlog.is_empty() || self.held_bytes >= self.max_bytes {
            return 0;
        }
        self.max_requests.saturating_sub(self.slots.len())
    }

    /// Nothing waits and nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty() && self.slots.is_empty()
    }

    /// Whether a reply is awaited or there to be sent.
    pub(super) fn has_replies(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Requests that are started and not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Drops what is not started.
    pub(super) fn drop_backlog(&mut self) {
        for (_, bytes) in self.backlog.drain(..) {
            self.held_bytes -= bytes;
        }
    }

    pub(super) fn arrived(&mut self, request: Request, bytes: usize) {
        assert!(
            self.backlog.len() + self.slots.len() < self.max_requests,
            "more requests than there was room for"
        );
        self.held_bytes += bytes;
        self.backlog.push_back((request, bytes));
    }

    /// The longest run of requests that may be started now; they are taken and must be given to [`Pipeline::started`].
    pub(super) fn next_turn(&mut self) -> Vec<Request> {
        let Some((first, _)) = self.backlog.front() else { return Vec::new() };
        let joins = self.shared && may_share(first.api) && self.held_bytes < self.held_limit();
        if !self.slots.is_empty() && !joins {
            return Vec::new();
        }
        let count = if may_share(first.api) {
            let run = self.backlog.iter().take_while(|(request, _)| may_share(request.api));
            let fetch = run.clone().position(|(request, _)| request.api == ApiKey::Fetch);
            fetch.map_or_else(|| run.count(), |at| at + 1)
        } else {
            1
        };
        self.shared = may_share(first.api);
        let mut turn = Vec::with_capacity(count);
        for (request, request_bytes) in self.backlog.drain(..count) {
            let about = About { api: request.api, received_at: request.received_at };
            // Its reply is put in by `started`; until then those behind it wait too.
            self.slots.push_back(Slot {
                started: Started::Later(Box::pin(std::future::pending())),
                about,
                span: Span::none(),
                request_bytes,
            });
            turn.push(request);
        }
        turn
    }

    /// Requests are read up to `max_bytes` and one more read; replies that wait may take as much again.
    fn held_limit(&self) -> usize {
        self.max_bytes.saturating_mul(2)
    }

    /// What the service made of the last turn, in its order.
    pub(super) fn started(&mut self, replies: Vec<Started>, spans: Vec<Span>) {
        assert_eq!(replies.len(), spans.len(), "the service answers every request of a turn");
        let first = self.slots.len() - replies.len();
        for ((slot, started), span) in self.slots.range_mut(first..).zip(replies).zip(spans) {
            if let Started::Done(reply) = &started {
                self.held_bytes += reply_bytes(reply);
            }
            slot.started = started;
            slot.span = span;
        }
    }

    /// Gathers replies from the front, polling only the first that is not there, and a Fetch only where there is nothing to
    /// send before it. Ready if there is any.
    pub(super) fn poll_replies(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<()> {
        let there = self.slots.iter().take_while(|slot| matches!(slot.started, Started::Done(_))).count();
        let most = there.min(SEND_ABOVE_FRAMES);
        out.answered.reserve(most);
        out.frames.reserve(most);
        while out.bytes < SEND_ABOVE_BYTES && out.frames.len() < SEND_ABOVE_FRAMES && out.close.is_none() {
            let Some(slot) = self.slots.front_mut() else { break };
            if let Started::Later(pending) = &mut slot.started {
                if slot.about.api == ApiKey::Fetch && !out.frames.is_empty() {
                    break;
                }
                let _inside = slot.span.enter();
                let Poll::Ready(reply) = pending.as_mut().poll(cx) else { break };
                self.held_bytes += reply_bytes(&reply);
                slot.started = Started::Done(reply);
            }
            let slot = self.slots.pop_front().expect("it was there");
            let Started::Done(reply) = slot.started else {
                unreachable!("a reply that is not there was left")
            };
            let bytes = reply_bytes(&reply);
            self.held_bytes -= slot.request_bytes + bytes;
            out.answered.push(slot.about);
            match reply {
                Reply::Frame(frame) => {
                    out.bytes += bytes;
                    out.frames.push(frame);
                }
                Reply::Nothing => {}
                Reply::Close(reason) => out.close = Some(reason),
            }
        }
        assert!(!self.is_empty() || self.held_bytes == 0, "{} bytes held by nothing", self.held_bytes);
        if out.answered.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}

fn reply_bytes(reply: &Reply) -> usize {
    match reply {
        Reply::Frame(frame) => frame.iter().map(bytes::Bytes::len).sum(),
        Reply::Nothing | Reply::Close(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::task::Waker;

    use bytes::Bytes;
    use dejaq_wire::ids::CorrelationId;

    fn request(api: ApiKey, number: i32) -> Request {
        let correlation_id = CorrelationId(number);
        Request { api, version: 7, correlation_id, client_id: None, body: Bytes::new(), received_at: Mono(0) }
    }

    fn pipeline(apis: &[ApiKey]) -> Pipeline {
        let mut pipeline = Pipeline::new(10, 1_000);
        for (number, api) in (0..).zip(apis) {
            pipeline.arrived(request(*api, number), 10);
        }
        pipeline
    }

    fn done(text: &'static str) -> Started {
        Started::Done(Reply::Frame(vec![Bytes::from_static(text.as_bytes())]))
    }

    fn start(pipeline: &mut Pipeline, replies: Vec<Started>) {
        let spans = replies.iter().map(|_| Span::none()).collect();
        pipeline.started(replies, spans);
    }

    fn turn(pipeline: &mut Pipeline) -> Vec<i32> {
        pipeline.next_turn().iter().map(|request| request.correlation_id.0).collect()
    }

    fn replies(pipeline: &mut Pipeline) -> Vec<Vec<u8>> {
        let mut out = Out::default();
        let _ = pipeline.poll_replies(&mut Context::from_waker(Waker::noop()), &mut out);
        out.frames.iter().map(|frame| frame.concat()).collect()
    }

    #[test]
    fn produce_requests_are_started_together_and_others_alone() {
        use ApiKey::{Metadata, Produce};
        let mut pipeline = pipeline(&[Produce, Produce, Metadata, Produce]);
        assert_eq!(turn(&mut pipeline), [0, 1]);
        start(&mut pipeline, vec![done("a"), done("b")]);
        assert_eq!(turn(&mut pipeline), [0; 0], "Metadata waits for both answers");
        assert_eq!(replies(&mut pipeline), [b"a", b"b"]);
        assert_eq!(turn(&mut pipeline), [2]);
        start(&mut pipeline, vec![done("c")]);
        assert_eq!(turn(&mut pipeline), [0; 0], "Produce waits for Metadata");
        assert_eq!(replies(&mut pipeline), [b"c"]);
        assert_eq!(turn(&mut pipeline), [3]);
    }

    #[test]
    fn a_turn_ends_after_a_fetch() {
        use ApiKey::{Fetch, Produce};
        let mut pipeline = pipeline(&[Produce, Fetch, Fetch, Produce]);
        assert_eq!(turn(&mut pipeline), [0, 1]);
        start(&mut pipeline, vec![done("a"), done("b")]);
        assert_eq!(turn(&mut pipeline), [2]);
        start(&mut pipeline, vec![done("c")]);
        assert_eq!(turn(&mut pipeline), [3]);
    }

    #[test]
    fn a_reply_that_is_there_waits_for_the_one_before_it() {
        let mut pipeline = pipeline(&[ApiKey::Produce; 3]);
        assert_eq!(turn(&mut pipeline).len(), 3);
        start(&mut pipeline, vec![done("a"), Started::Later(Box::pin(pending())), done("c")]);
        assert_eq!(replies(&mut pipeline), [b"a"]);
        assert_eq!(replies(&mut pipeline), [[0_u8; 0]; 0]);
        assert_eq!(pipeline.in_flight(), 2);
    }

    #[test]
    fn a_fetch_is_not_begun_before_the_replies_in_front_of_it_are_sent() {
        use ApiKey::{Fetch, Produce};
        let mut pipeline = pipeline(&[Produce, Produce, Fetch]);
        assert_eq!(turn(&mut pipeline), [0, 1, 2]);
        let later = |text| {
            let Started::Done(reply) = done(text) else { unreachable!("it is done") };
            Started::Later(Box::pin(std::future::ready(reply)))
        };
        start(&mut pipeline, vec![later("a"), later("b"), later("c")]);
        assert_eq!(replies(&mut pipeline), [b"a", b"b"]);
        assert_eq!(replies(&mut pipeline), [b"c"]);
        pipeline.arrived(request(Produce, 3), 10);
        pipeline.arrived(request(Fetch, 4), 10);
        assert_eq!(turn(&mut pipeline), [3, 4]);
        start(&mut pipeline, vec![Started::Done(Reply::Nothing), later("e")]);
        assert_eq!(replies(&mut pipeline), [b"e"], "without an answer there is nothing to send");
    }

    #[test]
    fn a_refusal_closes_after_the_replies_before_it_and_hides_those_behind_it() {
        let mut pipeline = pipeline(&[ApiKey::Produce; 3]);
        assert_eq!(turn(&mut pipeline).len(), 3);
        start(&mut pipeline, vec![done("a"), Started::Done(Reply::Close("bad".to_owned())), done("c")]);
        let mut out = Out::default();
        assert!(pipeline.poll_replies(&mut Context::from_waker(Waker::noop()), &mut out).is_ready());
        assert_eq!((out.frames.len(), out.close.as_deref()), (1, Some("bad")));
    }

    #[test]
    fn room_ends_with_the_count_or_the_bytes_and_comes_back_with_the_replies() {
        let mut pipeline = Pipeline::new(3, 100);
        assert_eq!(pipeline.room(), 3);
        pipeline.arrived(request(ApiKey::Produce, 0), 100);
        assert_eq!(turn(&mut pipeline), [0]);
        start(&mut pipeline, vec![done("a")]);
        assert_eq!(pipeline.room(), 0, "100 bytes are held");
        assert_eq!(replies(&mut pipeline).len(), 1);
        assert_eq!(pipeline.room(), 3);
        assert!(pipeline.is_empty());
    }

    #[test]
    fn fetched_bytes_that_wait_behind_a_reply_stop_further_fetches() {
        let mut pipeline = pipeline(&[ApiKey::Fetch; 5]);
        let large = || Started::Done(Reply::Frame(vec![Bytes::from(vec![0; 1_500])]));
        assert_eq!(turn(&mut pipeline), [0]);
        start(&mut pipeline, vec![Started::Later(Box::pin(pending()))]);
        assert_eq!(turn(&mut pipeline), [1]);
        start(&mut pipeline, vec![large()]);
        assert_eq!(turn(&mut pipeline), [2], "1550 of 2000 bytes are held");
        start(&mut pipeline, vec![large()]);
        assert_eq!(turn(&mut pipeline), [0; 0]);
    }
}
