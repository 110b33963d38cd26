//! One connection to one broker: requests out, answers back to whoever asked.
//!
//! Owns: correlation ids, the pipeline of unanswered requests, the handshake, the deadline of a request.
//! Promises: requests leave in the order in which they were started; a request fails as [`RequestError::NotSent`] only
//! if no byte of it left, and as a maybe in every other loss; the first failure ends the connection and every request
//! under way; at most `max_in_flight` are unanswered. Leaves out: which broker, when to connect again (`cluster`).
//!
//! ```text
//!   start ──► queue ──► writer task ──► broker ──► reader task ──► the oldest unanswered request
//!     │ permit                                                          │ permit back
//!     └─ any failure: close ─► all unanswered: NotSent | Lost ◄─────────┘
//! ```
//! SHELL: two tasks and one short mutex, never held across an await.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::api::ApiKey;
use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::frame::{decode_response, encode_request, peek_correlation_id};
use dejaq_wire::ids::CorrelationId;
use dejaq_wire::kafka::Request;
use dejaq_wire::kafka::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::outcome::Verdict;
use super::versions::{Unsupported, Versions};
use crate::runtime::net::{Frame, FrameReader, FrameWriter, Net};
use crate::runtime::{Mono, Runtime};

/// Answers that one read may bring.
const FRAMES_PER_READ: usize = 64;

/// How a connection behaves.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// What we call ourselves; it stands in the broker's logs and quotas.
    pub client_id: String,
    /// Unanswered requests at most; the next one waits.
    pub max_in_flight: usize,
    /// A larger answer is refused and ends the connection.
    pub max_response_bytes: usize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        ConnectionConfig {
            client_id: "dejaq".into(),
            max_in_flight: 16,
            // Above the largest fetch that we ask for (50 MiB), since one batch may exceed every limit (KIP-74).
            max_response_bytes: 128 << 20,
        }
    }
}

/// Why a request brought no answer. [`RequestError::verdict`] says whether the broker may have acted on it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// No byte of it left this process: send it on another connection.
    #[error("not sent: {0}")]
    NotSent(Arc<str>),
    /// It may have left, and no answer can come any more.
    #[error("connection lost: {0}")]
    Lost(Arc<str>),
    /// It left and was not answered in time; the connection is closed, because what is behind it is stuck too.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Nothing was sent: the broker does not speak a version that we speak.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Nothing was sent: the request does not fit into a frame.
    #[error("the request cannot be encoded: {0}")]
    Unsendable(Arc<str>),
    /// It was answered by something that is no answer; the connection is closed.
    #[error("the answer cannot be read: {0}")]
    Unreadable(Arc<str>),
}

impl RequestError {
    /// Whether the broker may have acted on the request.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            RequestError::NotSent(_) | RequestError::Unsupported(_) | RequestError::Unsendable(_) => {
                Verdict::DefiniteNo
            }
            RequestError::Lost(_) | RequestError::TimedOut(_) | RequestError::Unreadable(_) => Verdict::Maybe,
        }
    }

    /// Whether another connection, or another moment, may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !matches!(self, RequestError::Unsupported(_) | RequestError::Unsendable(_))
    }
}

type Answer = Result<Bytes, RequestError>;

struct Waiting {
    correlation: CorrelationId,
    done: oneshot::Sender<Answer>,
    _slot: OwnedSemaphorePermit,
}

struct Outgoing {
    frame: Frame,
    /// Told when the transport has taken the frame, for a request that has no answer.
    taken: Option<(oneshot::Sender<Answer>, OwnedSemaphorePermit)>,
}

#[derive(Default)]
struct State {
    next_correlation: i32,
    /// Requests that wait for their answer, oldest first.
    waiting: VecDeque<Waiting>,
    /// How many at the end of `waiting` the writer has not taken yet: `unsent <= waiting.len()`.
    unsent: usize,
    /// Frames that the writer has not taken yet; bounded by the permits.
    outgoing: VecDeque<Outgoing>,
    closed: Option<Arc<str>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the writer task, its only waiter.
    queued: Notify,
    /// Wakes the reader task, its only waiter, when the connection is closed from here.
    ended: Notify,
    slots: Arc<Semaphore>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection once; later reasons are ignored.
    fn close(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let (waiting, unsent, outgoing) = {
            let mut state = self.state();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(reason.clone());
            let unsent = std::mem::take(&mut state.unsent);
            (std::mem::take(&mut state.waiting), unsent, std::mem::take(&mut state.outgoing))
        };
        self.slots.close();
        self.queued.notify_one();
        self.ended.notify_one();
        assert!(unsent <= waiting.len(), "{unsent} unsent of {} waiting", waiting.len());
        let sent = waiting.len() - unsent;
        for (at, request) in waiting.into_iter().enumerate() {
            let error = if at < sent { RequestError::Lost } else { RequestError::NotSent };
            let _gone = request.done.send(Err(error(reason.clone())));
        }
        for (taken, _slot) in outgoing.into_iter().filter_map(|o| o.taken) {
            let _gone = taken.send(Err(RequestError::NotSent(reason.clone())));
        }
    }
}

/// Ends the connection when the last user has let go of it.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close("the client closed the connection");
    }
}

/// A connection after its handshake. Cheap to clone; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Connection<R: Runtime> {
    runtime: R,
    handle: Arc<Handle>,
    versions: Arc<Versions>,
    client_id: Arc<str>,
    address: Arc<str>,
}

impl<R: Runtime> std::fmt::Debug for Connection<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

impl<R: Runtime> Connection<R> {
    /// Connects to `address` (`host:port`) and asks which versions the broker serves, all before `deadline`.
    ///
    /// # Errors
    /// [`RequestError::NotSent`] if no connection came about: try another broker, or later.
    pub async fn open(
        runtime: R,
        address: &str,
        config: &ConnectionConfig,
        deadline: Mono,
    ) -> Result<Connection<R>, RequestError> {
        assert!(config.max_in_flight > 0, "a connection carries at least one request");
        let connected = runtime.before(deadline, runtime.net().connect(address)).await;
        let (reader, writer) = match connected {
            Some(Ok(halves)) => halves,
            Some(Err(error)) => {
                return Err(RequestError::NotSent(format!("cannot connect to {address}: {error}").into()));
            }
            None => {
                return Err(RequestError::NotSent(
                    format!("cannot connect to {address}: no answer in time").into(),
                ));
            }
        };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            queued: Notify::new(),
            ended: Notify::new(),
            slots: Arc::new(Semaphore::new(config.max_in_flight)),
        });
        runtime.spawn("client writer", write_requests::<R>(shared.clone(), writer));
        runtime.spawn("client reader", read_answers::<R>(shared.clone(), reader, config.max_response_bytes));
        let mut connection = Connection {
            runtime,
            handle: Arc::new(Handle(shared)),
            versions: Arc::default(),
            client_id: config.client_id.as_str().into(),
            address: address.into(),
        };
        connection.versions = Arc::new(connection.handshake(deadline).await?);
        Ok(connection)
    }

    /// The newest version of `api` that both ends speak.
    ///
    /// # Errors
    /// [`Unsupported`]: there is none.
    pub fn version(&self, api: ApiKey) -> Result<i16, Unsupported> {
        self.versions.choose(api)
    }

    /// Everything that the broker announced.
    #[must_use]
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Where the broker is, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether no further request can be sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.0.state().closed.is_some()
    }

    /// Ends the connection: whatever is unanswered fails now.
    pub fn close(&self, reason: &str) {
        self.handle.0.close(reason);
    }

    /// Sends a request in the newest common version and waits for its answer, until `deadline`.
    ///
    /// Waits first while `max_in_flight` are unanswered. Dropping the future forgets the answer, not the request.
    ///
    /// # Errors
    /// [`RequestError`]; its verdict says whether the broker may have acted.
    pub async fn call<Q: Request>(&self, request: &Q, deadline: Mono) -> Result<Q::Response, RequestError> {
        let version = self.version(Q::API)?;
        let slot = self.slot(deadline).await?;
        self.start_with(request, version, slot, deadline)?.wait().await
    }

    /// Waits for the right to send one request.
    ///
    /// # Errors
    /// [`RequestError::NotSent`] when the connection ends or the deadline comes first.
    pub async fn slot(&self, deadline: Mono) -> Result<Slot, RequestError> {
        match self.runtime.before(deadline, self.handle.0.slots.clone().acquire_owned()).await {
            Some(Ok(permit)) => Ok(Slot(permit)),
            Some(Err(_closed)) => Err(self.not_sent()),
            None => {
                Err(RequestError::NotSent("earlier requests of the connection are still unanswered".into()))
            }
        }
    }

    /// The right to send one request, if it can be had at once.
    #[must_use]
    pub fn try_slot(&self) -> Option<Slot> {
        self.handle.0.slots.clone().try_acquire_owned().ok().map(Slot)
    }

    /// Sends a request now; the order of these calls is the order on the wire. `version` is one that
    /// [`Connection::version`] allows, or lower.
    ///
    /// # Errors
    /// [`RequestError::NotSent`] if the connection has ended, [`RequestError::Unsendable`] for what cannot be encoded.
    pub fn start_with<Q: Request>(
        &self,
        request: &Q,
        version: i16,
        slot: Slot,
        deadline: Mono,
    ) -> Result<Pending<R, Q>, RequestError> {
        let (done, answer) = oneshot::channel();
        self.enqueue(request, version, |state, correlation, frame| {
            state.waiting.push_back(Waiting { correlation, done, _slot: slot.0 });
            state.unsent += 1;
            state.outgoing.push_back(Outgoing { frame, taken: None });
        })?;
        Ok(Pending {
            connection: self.clone(),
            answer,
            version,
            started: self.runtime.now(),
            deadline,
            request: PhantomData,
        })
    }

    /// Sends a request that has no answer (acks=0) now; the order of these calls is the order on the wire.
    ///
    /// # Errors
    /// As [`Connection::start_with`].
    pub fn start_unanswered<Q: Request>(
        &self,
        request: &Q,
        version: i16,
        slot: Slot,
    ) -> Result<Unanswered, RequestError> {
        let (done, taken) = oneshot::channel();
        self.enqueue(request, version, |state, _, frame| {
            state.outgoing.push_back(Outgoing { frame, taken: Some((done, slot.0)) });
        })?;
        Ok(Unanswered(taken))
    }

    fn enqueue<Q: Request>(
        &self,
        request: &Q,
        version: i16,
        add: impl FnOnce(&mut State, CorrelationId, Frame),
    ) -> Result<(), RequestError> {
        let mut state = self.handle.0.state();
        if let Some(reason) = &state.closed {
            return Err(RequestError::NotSent(reason.clone()));
        }
        let correlation = CorrelationId(state.next_correlation);
        let frame = encode_request(version, correlation, Some(&self.client_id), request)
            .map_err(|error| RequestError::Unsendable(error.to_string().into()))?;
        state.next_correlation = state.next_correlation.wrapping_add(1);
        add(&mut state, correlation, frame);
        drop(state);
        self.handle.0.queued.notify_one();
        Ok(())
    }

    fn not_sent(&self) -> RequestError {
        let reason = self.handle.0.state().closed.clone();
        RequestError::NotSent(reason.unwrap_or_else(|| "the connection ended".into()))
    }

    /// Asks in the newest version; a broker that does not know it answers in version 0 with its ranges.
    async fn handshake(&self, deadline: Mono) -> Result<Versions, RequestError> {
        let request = ApiVersionsRequest {
            client_software_name: "dejaq".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let version = ApiKey::ApiVersions.max_version();
        let slot = self.slot(deadline).await?;
        let pending = self.start_with(&request, version, slot, deadline)?;
        let frame = pending.frame().await?;
        let unreadable = |reason: String| {
            self.close(&reason);
            RequestError::Unreadable(reason.into())
        };
        // The error code stands first in every version, behind the correlation id.
        let code = frame.get(4..6).map_or(0, |bytes| i16::from_be_bytes([bytes[0], bytes[1]]));
        let old = ErrorCode(code) == ErrorCode::UNSUPPORTED_VERSION;
        let answered = if old { 0 } else { version };
        let answer: ApiVersionsResponse = decode_response::<ApiVersionsRequest>(answered, frame)
            .map_err(|error| {
                unreadable(format!("{} does not speak Kafka's protocol: {error}", self.address))
            })?
            .1;
        if answer.error_code.is_error() && !old {
            return Err(unreadable(format!("{} refuses ApiVersions: {}", self.address, answer.error_code)));
        }
        Ok(Versions::announced(&answer.api_keys).with_features(&answer.finalized_features))
    }
}

/// The right to send one request; given back when it is answered, or when this is dropped unused.
#[derive(Debug)]
pub struct Slot(OwnedSemaphorePermit);

/// A request that was sent and that nobody answers.
#[must_use = "a failure to send it comes through this"]
pub struct Unanswered(oneshot::Receiver<Answer>);

impl Unanswered {
    /// Waits until the transport has taken the request.
    ///
    /// # Errors
    /// [`RequestError::Lost`] once it may have left in part; nothing tells whether the broker acted on it.
    pub async fn wait(self) -> Result<(), RequestError> {
        match self.0.await {
            Ok(answer) => answer.map(|_| ()),
            Err(_dropped) => Err(RequestError::Lost("the connection ended".into())),
        }
    }
}

/// A request that was sent.
#[must_use = "the answer comes through this"]
pub struct Pending<R: Runtime, Q: Request> {
    connection: Connection<R>,
    answer: oneshot::Receiver<Answer>,
    version: i16,
    started: Mono,
    deadline: Mono,
    request: PhantomData<fn() -> Q>,
}

impl<R: Runtime, Q: Request> Pending<R, Q> {
    /// Waits for the answer, until the deadline that the request was started with.
    ///
    /// # Errors
    /// [`RequestError`]; after a timeout the connection is closed.
    pub async fn wait(self) -> Result<Q::Response, RequestError> {
        let (connection, version) = (self.connection.clone(), self.version);
        let frame = self.frame().await?;
        match decode_response::<Q>(version, frame) {
            Ok((_, response)) => Ok(response),
            Err(error) => {
                let reason = format!("the answer to {} {version} is malformed: {error}", Q::API.name());
                connection.close(&reason);
                Err(RequestError::Unreadable(reason.into()))
            }
        }
    }

    async fn frame(self) -> Answer {
        let Pending { connection, answer, started, deadline, .. } = self;
        match connection.runtime.before(deadline, answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_dropped)) => Err(RequestError::Lost("the connection ended".into())),
            None => {
                let waited = connection.runtime.now().since(started);
                connection.close(&format!("{} was not answered within {waited:?}", Q::API.name()));
                Err(RequestError::TimedOut(waited))
            }
        }
    }
}

/// Takes what is queued, all of it, and sends it in one go; ends with the connection.
async fn write_requests<R: Runtime>(shared: Arc<Shared>, mut writer: <R::Net as Net>::Writer) {
    loop {
        let taken: Vec<Outgoing> = {
            let mut state = shared.state();
            if state.closed.is_some() {
                return;
            }
            state.unsent = 0;
            state.outgoing.drain(..).collect()
        };
        if taken.is_empty() {
            shared.queued.notified().await;
            continue;
        }
        let (frames, unanswered): (Vec<_>, Vec<_>) = taken.into_iter().map(|o| (o.frame, o.taken)).unzip();
        let sent = tokio::select! {
            biased; // the send first: what was taken by the transport counts, even if the end comes with it
            sent = writer.send(frames) => sent,
            () = until_closed(&shared) => return,
        };
        let answer = match &sent {
            Ok(()) => Ok(Bytes::new()),
            Err(error) => Err(RequestError::Lost(error.to_string().into())),
        };
        for (taken, _slot) in unanswered.into_iter().flatten() {
            let _gone = taken.send(answer.clone());
        }
        if let Err(error) = sent {
            shared.close(&error.to_string());
            return;
        }
    }
}

/// Waits while the connection is open, on the writer's own wake-up: what is queued meanwhile is found afterwards.
async fn until_closed(shared: &Shared) {
    loop {
        if shared.state().closed.is_some() {
            return;
        }
        shared.queued.notified().await;
    }
}

/// Hands each answer to the oldest request; ends with the connection.
async fn read_answers<R: Runtime>(
    shared: Arc<Shared>,
    mut reader: <R::Net as Net>::Reader,
    max_bytes: usize,
) {
    let mut frames = Vec::new();
    loop {
        let received = tokio::select! {
            biased; // the end first: nobody waits for an answer any more
            () = shared.ended.notified() => return,
            received = reader.recv(&mut frames, FRAMES_PER_READ, max_bytes) => received,
        };
        for frame in frames.drain(..) {
            if let Err(reason) = answer(&shared, frame) {
                shared.close(&reason);
                return;
            }
        }
        if let Err(error) = received {
            shared.close(&error.to_string());
            return;
        }
    }
}

fn answer(shared: &Shared, frame: Bytes) -> Result<(), String> {
    let correlation =
        peek_correlation_id(&frame).map_err(|error| format!("an answer without a header: {error}"))?;
    let request = {
        let mut state = shared.state();
        // An answer to something that was not even taken by the writer answers nothing.
        let sent = state.waiting.len() - state.unsent;
        if sent == 0 {
            return Err(format!("answer {correlation} came unasked"));
        }
        state.waiting.pop_front().expect("some of them were sent")
    };
    if request.correlation != correlation {
        let reason = format!("answer {correlation} came where {} was due", request.correlation);
        let _gone = request.done.send(Err(RequestError::Lost(reason.as_str().into())));
        return Err(reason);
    }
    let _gone = request.done.send(Ok(frame));
    Ok(())
}
