//! The seam between connections and the API: requests of one turn go in, replies come out in the same order.
//!
//! Owns: [`Request`], [`Reply`], [`Started`], [`Session`] and the trait [`Service`].
//! Promises: nothing by itself. `connection` promises the service that requests of one session arrive in order, that
//! at most the configured number is unanswered, and that a request which may not be pipelined comes alone, after
//! everything before it was answered.
//! Leaves out: bodies (the API decodes them), response headers (the API writes them, since it knows the version).
//! Called by `connection`; implemented by `api` and by the echo service of the tests.
//!
//! ```text
//!  frames of one read ─► header ─► start_turn ─► [Done, Later, Later] ─► replies leave in that order
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dejaq_wire::api::ApiKey;
use dejaq_wire::ids::CorrelationId;

use super::stop::Signal;
use crate::runtime::Mono;
use crate::runtime::net::Frame;

/// One request of a client: its header, decoded, and its body, not yet.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which API: one that `wire` decodes, served or not.
    pub api: ApiKey,
    /// Which version of that API: one that `wire` decodes, except that an unknown version of `ApiVersions` comes
    /// through too (with an empty body), to be answered in the version 0 layout with error 35.
    pub version: i16,
    /// The client's number for this request; the reply carries it.
    pub correlation_id: CorrelationId,
    /// What the client calls itself.
    pub client_id: Option<Arc<str>>,
    /// Everything after the header: a slice of the receive buffer, not copied.
    pub body: Bytes,
    /// When the frame was complete here.
    pub received_at: Mono,
}

/// What goes back for one request.
#[derive(Debug)]
pub enum Reply {
    /// A response, header included, without the length prefix.
    Frame(Frame),
    /// Nothing is sent: a Produce request with acks=0.
    Nothing,
    /// The connection is closed after the replies before this one; the reason goes to the log.
    Close(String),
}

/// A reply that is on its way. Dropped when the connection ends: dropping must leave no promise half made.
pub type Pending = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A turn that waits to be started. Dropped when the connection ends: then nothing of the turn was begun, or all of it.
pub type Waiting = Pin<Box<dyn Future<Output = Vec<Started>> + Send>>;

/// What became of a turn in [`Service::start_turn`].
pub enum Starting {
    /// It is started, as nearly all turns are: no future is made for them.
    Done(Vec<Started>),
    /// It waits for memory, or for the turn of others.
    Later(Waiting),
}

impl Starting {
    /// The turn once it is started.
    pub async fn done(self) -> Vec<Started> {
        match self {
            Starting::Done(started) => started,
            Starting::Later(waiting) => waiting.await,
        }
    }
}

/// How far a request got in [`Service::start_turn`].
pub enum Started {
    /// The reply is there.
    Done(Reply),
    /// The reply comes later. It is polled only once all replies before it are there, and that of a Fetch once they are
    /// sent, so that the work that others wait for (an append) belongs into `start_turn`, not into this future.
    Later(Pending),
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Started::Done(reply) => f.debug_tuple("Done").field(reply).finish(),
            Started::Later(_) => f.write_str("Later"),
        }
    }
}

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// Starts every request of one turn of one connection, in order, and returns as many results in that order.
    ///
    /// Short, and nearly always done at once: what must happen in the order of the requests (an append)
    /// happens here; what waits for a disk, a peer or a deadline goes into the futures that come out. Only memory and
    /// the turn of others may be waited for: the next turn of the connection starts when this one has, and replies to those before it leave
    /// meanwhile. All requests of a turn are given at once, so that appends to one partition become one vectored write.
    fn start_turn(&self, session: &Arc<Session>, requests: Vec<Request>) -> Starting;
}

/// What a client told about its software in `ApiVersions` 3 and later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Software {
    /// Such as `apache-kafka-java` or `librdkafka`.
    pub name: String,
    /// Such as `2.3.0`.
    pub version: String,
}

/// One connection as the API sees it. Lives as long as the connection or a reply of it.
#[derive(Debug)]
pub struct Session {
    /// Unique in this process, never reused; it also owns the connection's fetch sessions.
    pub connection_id: u64,
    /// Who connected, as `host:port`.
    pub peer: String,
    /// The listener by which the client came, and so the address that its metadata answers name, as `host:port`.
    pub advertised: String,
    software: Mutex<Option<Software>>,
    closing: Signal,
}

impl Session {
    /// A session that has not said anything yet.
    #[must_use]
    pub fn new(connection_id: u64, peer: String, advertised: String) -> Session {
        Session { connection_id, peer, advertised, software: Mutex::new(None), closing: Signal::new() }
    }

    /// From now on the client is not waited with: it closed its side, and may still take what is there.
    pub fn close(&self) {
        self.closing.raise();
    }

    /// Whether [`Session::close`] was called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_raised()
    }

    /// Ends when [`Session::close`] is called: what only waits for more to answer ends with it. Cancel safe.
    pub async fn closing(&self) {
        self.closing.raised().await;
    }

    /// Remembers what `ApiVersions` said.
    pub fn set_software(&self, software: Software) {
        *self.software.lock().unwrap_or_else(PoisonError::into_inner) = Some(software);
    }

    /// What `ApiVersions` said, if it was called.
    #[must_use]
    pub fn software(&self) -> Option<Software> {
        self.software.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
