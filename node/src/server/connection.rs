//! One connection: frames in, replies out in the order of the requests, and every limit that a peer can run into.
//!
//! Owns: the two halves of the connection, its [`Pipeline`], its deadlines. Promises: what is read is bounded by
//! requests and bytes in flight (then it is not read: the peer feels it); a peer that trickles, idles or does not take
//! its answers is closed; a peer that closed its side is answered as long as answers follow each other within the time
//! for that, then it is closed too; a request that is refused is refused after the replies before it, and the log says why.
//! Leaves out: bodies, memory (the reader claims it). A task of `listener`'s runs it.
//!
//! ```text
//!  loop: start what may start ─► wait for (front reply | turn started | frames | deadline | stop) ─► send all replies that are there
//! ```

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::buggify;
use dejaq_wire::api::ApiKey;
use dejaq_wire::frame::{HeaderError, decode_request_header};
use tracing::{Span, debug, debug_span, warn};

use super::listener::Shared;
use super::pipeline::{Out, Pipeline};
use super::service::{Request, Session, Started, Starting, Waiting};
use crate::runtime::net::{Accepted, FrameReader, FrameWriter, Net, RecvError};
use crate::runtime::{Mono, Runtime};

type ReaderOf<R> = <<R as Runtime>::Net as Net>::Reader;
type WriterOf<R> = <<R as Runtime>::Net as Net>::Writer;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The peer closed, or we stop: nothing to say.
    Normal,
    /// The connection broke under us.
    Lost(std::io::Error),
    /// The peer did what it must not.
    Broken(String),
}

/// What a wait brought.
enum Event {
    Replies,
    Started(Vec<Started>),
    Frames(Result<(), RecvError>),
    Deadline,
    Drain,
    Leave,
}

pub(super) struct Connection<R: Runtime> {
    shared: Arc<Shared<R>>,
    session: Arc<Session>,
    reader: ReaderOf<R>,
    writer: WriterOf<R>,
    pipeline: Pipeline,
    /// The turn that waits to be started, with the spans of its requests.
    starting: Option<(Waiting, Vec<Span>)>,
    /// Once set, nothing more is read, and the connection ends for this when all is answered.
    last_read: Option<End>,
    /// Nothing more comes from the peer, or will be read: the connection ends here, unless an answer leaves before.
    ends_at: Option<Mono>,
    client_id: Option<Arc<str>>,
    last_request: Mono,
    /// At the last deadline a frame was incomplete and we were reading.
    trickled: bool,
}

impl<R: Runtime> Connection<R> {
    pub(super) fn new(
        shared: Arc<Shared<R>>,
        session: Arc<Session>,
        accepted: Accepted<ReaderOf<R>, WriterOf<R>>,
    ) -> Connection<R> {
        let limits = &shared.limits;
        let pipeline = Pipeline::new(limits.inflight_requests, limits.inflight_bytes);
        let mut reader = accepted.reader;
        reader.set_memory(shared.memory.clone());
        let last_request = shared.runtime.now();
        Connection {
            shared,
            session,
            reader,
            writer: accepted.writer,
            pipeline,
            starting: None,
            last_read: None,
            ends_at: None,
            client_id: None,
            last_request,
            trickled: false,
        }
    }

    /// Serves until the connection ends.
    pub(super) async fn run(mut self) {
        let end = self.serve().await;
        self.shared.metrics.requests_in_flight.sub(self.pipeline.in_flight() as u64);
        let (connection, peer) = (self.session.connection_id, &self.session.peer);
        match end {
            End::Normal => debug!(connection, %peer, "connection ended"),
            End::Lost(error) => debug!(connection, %peer, %error, "connection lost"),
            End::Broken(reason) => {
                self.shared.metrics.connections_broken.add(1);
                if let Some(kept_back) = self.shared.log_limit.pass(self.shared.runtime.now()) {
                    warn!(connection, %peer, reason, kept_back, "connection closed");
                }
            }
        }
    }

    async fn serve(&mut self) -> End {
        let shared = Arc::clone(&self.shared);
        let runtime = &shared.runtime;
        let period = shared.limits.frame_timeout.min(shared.limits.idle_timeout);
        let mut deadline = Box::pin(runtime.sleep_until(runtime.now() + period));
        let mut draining = Box::pin(shared.stop.draining());
        let mut leaving = Box::pin(shared.stop.leaving());
        let mut frames = Vec::new();
        let mut out = Out::default();
        loop {
            // A peer that always has more to say would keep the wait from ever seeing the signal.
            if shared.stop.is_draining() && self.last_read.is_none() {
                self.drain();
            }
            self.start().await;
            if self.pipeline.is_empty()
                && let Some(end) = self.last_read.take()
            {
                return end;
            }
            let event =
                self.wait(&mut frames, &mut out, deadline.as_mut(), draining.as_mut(), leaving.as_mut());
            match event.await {
                Event::Replies => {
                    if let Some(end) = self.send(std::mem::take(&mut out), leaving.as_mut()).await {
                        return end;
                    }
                    if self.ends_at.is_some() {
                        self.say_farewell();
                    }
                }
                Event::Started(started) => self.started(started),
                Event::Frames(result) => {
                    self.arrived(&mut frames);
                    if let Err(error) = result {
                        match stopped_reading(error) {
                            End::Lost(error) => return End::Lost(error),
                            end => self.last_read = Some(self.last_read.take().unwrap_or(end)),
                        }
                    }
                    if self.last_read.is_some() {
                        deadline.set(runtime.sleep_until(self.say_farewell()));
                    }
                }
                Event::Deadline => {
                    let now = runtime.now();
                    if let Some(end) = self.overdue(now) {
                        return end;
                    }
                    deadline.set(runtime.sleep_until(self.ends_at.unwrap_or(now + period)));
                }
                Event::Drain => self.drain(),
                Event::Leave => return End::Normal,
            }
        }
    }

    /// Starts nothing more, and ends when all that was started is answered.
    fn drain(&mut self) {
        self.pipeline.drop_backlog();
        self.last_read = Some(End::Normal);
    }

    /// Nothing more is read: what is in flight is answered while answers follow each other, and what only waits for
    /// more to answer ends now. A half-closed peer may still read; one that is gone is not told from it. Returns until when.
    fn say_farewell(&mut self) -> Mono {
        self.session.close();
        let ends_at = self.shared.runtime.now() + self.shared.limits.half_close_timeout;
        self.ends_at = Some(ends_at);
        ends_at
    }

    /// Waits for whatever comes first.
    async fn wait(
        &mut self,
        frames: &mut Vec<Bytes>,
        out: &mut Out,
        deadline: Pin<&mut (impl Future<Output = ()> + Send)>,
        draining: Pin<&mut (impl Future<Output = ()> + Send)>,
        leaving: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Event {
        let room = if self.last_read.is_some() { 0 } else { self.pipeline.room() };
        let limit = self.shared.limits.request_max_bytes;
        let has_replies = self.pipeline.has_replies();
        let drains = self.last_read.is_none();
        let is_starting = self.starting.is_some();
        tokio::select! {
            biased; // replies first: they free what reading takes; the rest is rare
            () = poll_fn(|cx| self.pipeline.poll_replies(cx, out)), if has_replies => Event::Replies,
            started = poll_fn(|cx| poll_start(&mut self.starting, cx)), if is_starting => Event::Started(started),
            result = self.reader.recv(frames, room.max(1), limit), if room > 0 => Event::Frames(result),
            () = deadline => Event::Deadline,
            () = leaving => Event::Leave,
            () = draining, if drains => Event::Drain,
        }
    }

    /// Turns frames into requests of the pipeline, up to the first that is none.
    fn arrived(&mut self, frames: &mut Vec<Bytes>) {
        let received_at = self.shared.runtime.now();
        if !frames.is_empty() {
            self.last_request = received_at;
            self.trickled = false;
        }
        for frame in frames.drain(..) {
            let bytes = frame.len();
            self.shared.metrics.request_bytes.add(bytes as u64);
            match self.decode(frame, received_at) {
                Ok(request) => self.pipeline.arrived(request, bytes),
                Err(error) => {
                    self.last_read = Some(End::Broken(error.to_string()));
                    break;
                }
            }
        }
    }

    fn decode(&mut self, frame: Bytes, received_at: Mono) -> Result<Request, HeaderError> {
        match decode_request_header(frame) {
            Ok((header, body)) => Ok(Request {
                api: header.api,
                version: header.version,
                correlation_id: header.correlation_id,
                client_id: self.remember(header.client_id),
                body,
                received_at,
            }),
            Err(HeaderError::ApiVersionsTooNew { correlation_id, version }) => Ok(Request {
                api: ApiKey::ApiVersions,
                version,
                correlation_id,
                client_id: self.client_id.clone(),
                body: Bytes::new(),
                received_at,
            }),
            Err(error) => Err(error),
        }
    }

    /// Requests of one client share its name.
    fn remember(&mut self, client_id: Option<String>) -> Option<Arc<str>> {
        if self.client_id.as_deref() != client_id.as_deref() {
            self.client_id = client_id.map(Arc::from);
        }
        self.client_id.clone()
    }

    /// Starts every request that may be started, up to a turn that is not started at once.
    async fn start(&mut self) {
        while self.starting.is_none() {
            let turn = self.pipeline.next_turn();
            if turn.is_empty() {
                return;
            }
            let metrics = &self.shared.metrics;
            metrics.turns.add(1);
            metrics.requests_in_flight.add(turn.len() as u64);
            let spans: Vec<Span> = turn.iter().map(|request| span(&self.session, request)).collect();
            for request in &turn {
                metrics.requests.of(request.api).add(1);
            }
            match spans[0].in_scope(|| self.shared.service.start_turn(&self.session, turn)) {
                Starting::Done(started) => self.pipeline.started(started, spans),
                Starting::Later(waiting) => {
                    self.starting = Some((waiting, spans));
                    let once = poll_fn(|cx| Poll::Ready(poll_start(&mut self.starting, cx)));
                    if let Poll::Ready(started) = once.await {
                        self.started(started);
                    }
                }
            }
        }
    }

    /// The turn that waited is started.
    fn started(&mut self, started: Vec<Started>) {
        let (_, spans) = self.starting.take().expect("a turn was waiting");
        self.pipeline.started(started, spans);
    }

    /// Sends replies; returns why the connection ends, if it does.
    async fn send(&mut self, out: Out, leaving: Pin<&mut (impl Future<Output = ()> + Send)>) -> Option<End> {
        let runtime = &self.shared.runtime;
        let metrics = &self.shared.metrics;
        let now = runtime.now();
        metrics.requests_in_flight.sub(out.answered.len() as u64);
        for about in &out.answered {
            metrics.request_seconds.of(about.api).observe(now.since(about.received_at));
        }
        metrics.reply_bytes.add(out.bytes as u64);
        if !out.frames.is_empty() {
            let timeout = self.shared.limits.send_timeout;
            let mut started = None;
            let sent = {
                let (starting, mut leaving) = (&mut self.starting, leaving);
                let mut sending = pin!(self.writer.send(out.frames));
                let mut late = pin!(runtime.sleep_until(now + timeout));
                loop {
                    let is_starting = starting.is_some() && started.is_none();
                    tokio::select! {
                        biased; // what the socket takes at once needs none of the others
                        sent = &mut sending => break sent,
                        // It may be first in line for what others wait for: who does not read must not hold them up.
                        turn = poll_fn(|cx| poll_start(starting, cx)), if is_starting => started = Some(turn),
                        () = &mut leaving => return Some(End::Normal),
                        () = &mut late => return Some(End::Broken(not_taken(timeout))),
                    }
                }
            };
            if let Some(started) = started {
                self.started(started);
            }
            if let Err(error) = sent {
                return Some(End::Lost(error));
            }
        }
        if buggify!("a connection ends behind an answer", 5) {
            return Some(End::Normal);
        }
        out.close.map(End::Broken)
    }

    /// Whether the peer used up its time.
    fn overdue(&mut self, now: Mono) -> Option<End> {
        let limits = &self.shared.limits;
        if self.ends_at.is_some_and(|ends_at| now >= ends_at) {
            debug!(
                connection = self.session.connection_id,
                "closed by the peer, not answered within {:?}", limits.half_close_timeout
            );
            return Some(self.last_read.take().unwrap_or(End::Normal));
        }
        let reading = self.last_read.is_none() && self.pipeline.room() > 0;
        let trickles = reading && self.reader.is_mid_frame();
        if trickles && self.trickled {
            return Some(End::Broken(format!("a request was not whole after {:?}", limits.frame_timeout)));
        }
        self.trickled = trickles;
        if self.pipeline.is_empty() && now.since(self.last_request) >= limits.idle_timeout {
            debug!(connection = self.session.connection_id, "idle for {:?}", limits.idle_timeout);
            return Some(End::Normal);
        }
        // Requests beyond the room hide the end of file behind them from who does not read.
        if !reading && self.ends_at.is_none() && self.reader.is_closed_by_peer() {
            self.say_farewell();
        }
        None
    }
}

fn poll_start(starting: &mut Option<(Waiting, Vec<Span>)>, cx: &mut Context<'_>) -> Poll<Vec<Started>> {
    let Some((waiting, spans)) = starting else { return Poll::Pending };
    let _inside = spans[0].enter();
    waiting.as_mut().poll(cx)
}

fn not_taken(timeout: Duration) -> String {
    format!("a reply was not taken within {timeout:?}")
}

fn stopped_reading(error: RecvError) -> End {
    match error {
        RecvError::Closed => End::Normal,
        RecvError::TooLarge { .. } => End::Broken(error.to_string()),
        RecvError::Lost(error) => End::Lost(error),
    }
}

fn span(session: &Session, request: &Request) -> Span {
    let (conn, api, corr) = (session.connection_id, request.api.name(), request.correlation_id.0);
    debug_span!("request", conn, api, corr)
}
