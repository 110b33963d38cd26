//! A server with an echo service on real sockets: order, limits, deadlines, the end.

#![allow(clippy::disallowed_methods, reason = "tests on the production runtime")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dejaq_storage::file_disk::FileDisk;
use dejaq_wire::api::ApiKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::listener::{Bound, Parts, Server};
use super::service::{Reply, Request, Service, Session, Started, Starting};
use crate::config::{Config, Limits};
use crate::metrics::Metrics;
use crate::runtime::net::{Frame, FrameReader, FrameWriter, Net};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::{SocketOptions, TokioNet, TokioReader, TokioWriter};

/// Answers with the correlation id and the body. A body that begins with `w` waits for a permit of the gate, `p` until
/// its client has closed, `c` closes, `n` is not answered; a turn with an `s` waits for a permit of the gate before it is
/// started.
#[derive(Default)]
struct Echo {
    gate: Option<Arc<Semaphore>>,
    /// Turns that had their permit.
    passed: Arc<AtomicUsize>,
    turns: Mutex<Vec<Vec<i32>>>,
    dropped: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn echo(request: &Request) -> Reply {
    let mut head = BytesMut::new();
    head.put_i32(request.correlation_id.0);
    head.put_i16(request.version);
    Reply::Frame(vec![head.freeze(), request.body.clone()])
}

impl Service for Echo {
    fn start_turn(&self, session: &Arc<Session>, requests: Vec<Request>) -> Starting {
        self.turns.lock().expect("no panic").push(requests.iter().map(|r| r.correlation_id.0).collect());
        let start = |request: Request| match request.body.first() {
            Some(b'w') => {
                let gate = self.gate.clone().expect("the test has a gate");
                let dropped = CountDrop(Arc::clone(&self.dropped));
                Started::Later(Box::pin(async move {
                    let _dropped = dropped;
                    gate.acquire().await.expect("open").forget();
                    echo(&request)
                }))
            }
            Some(b'p') => {
                let session = Arc::clone(session);
                Started::Later(Box::pin(async move {
                    session.closing().await;
                    echo(&request)
                }))
            }
            Some(b'c') => Started::Done(Reply::Close("the test said so".to_owned())),
            Some(b'n') => Started::Done(Reply::Nothing),
            _ => Started::Done(echo(&request)),
        };
        let waits = requests.iter().any(|request| request.body.first() == Some(&b's'));
        let gate = self.gate.clone().filter(|_| waits);
        let started: Vec<Started> = requests.into_iter().map(start).collect();
        let passed = Arc::clone(&self.passed);
        let Some(gate) = gate else { return Starting::Done(started) };
        Starting::Later(Box::pin(async move {
            gate.acquire().await.expect("open").forget();
            passed.fetch_add(1, Ordering::Relaxed);
            started
        }))
    }
}

struct Test {
    server: Server<TokioRuntime>,
    echo: Arc<Echo>,
    gate: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    _dir: tempfile::TempDir,
}

async fn server(change: impl FnOnce(&mut Limits)) -> Test {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FileDisk::open(dir.path()).expect("it opens");
    let runtime = TokioRuntime::new(disk, SocketOptions::default());
    let bound = Bound::bind(&runtime, "127.0.0.1:0").await.expect("a free port");
    let mut limits = Config::default().limits;
    change(&mut limits);
    let gate = Arc::new(Semaphore::new(0));
    let echo = Arc::new(Echo { gate: Some(Arc::clone(&gate)), ..Echo::default() });
    let metrics = Arc::new(Metrics::default());
    let service: Arc<dyn Service> = Arc::<Echo>::clone(&echo);
    let parts = Parts { service, limits, metrics: Arc::clone(&metrics), advertised: String::new() };
    Test { server: bound.serve(parts), echo, gate, metrics, _dir: dir }
}

/// A request with header version 1.
fn request(api: ApiKey, version: i16, correlation_id: i32, body: &[u8]) -> Frame {
    let mut frame = BytesMut::new();
    frame.put_i16(api.key());
    frame.put_i16(version);
    frame.put_i32(correlation_id);
    frame.put_i16(2);
    frame.put_slice(b"me");
    frame.put_slice(body);
    vec![frame.freeze()]
}

fn produce(correlation_id: i32, body: &[u8]) -> Frame {
    request(ApiKey::Produce, 7, correlation_id, body)
}

struct Client {
    reader: TokioReader,
    writer: TokioWriter,
}

impl Test {
    async fn client(&self) -> Client {
        let (reader, writer) = TokioNet::default().connect(self.server.address()).await.expect("it listens");
        Client { reader, writer }
    }
}

impl Client {
    async fn send(&mut self, frames: Vec<Frame>) {
        self.writer.send(frames).await.expect("the server reads");
    }

    /// Correlation ids and bodies of the next replies.
    async fn replies(&mut self, count: usize) -> Vec<(i32, Bytes)> {
        let mut frames = Vec::new();
        while frames.len() < count {
            let left = count - frames.len();
            self.reader.recv(&mut frames, left, usize::MAX >> 1).await.expect("replies come");
        }
        let split = |mut frame: Bytes| (bytes::Buf::get_i32(&mut frame), frame.slice(2..));
        frames.into_iter().map(split).collect()
    }

    /// How many replies came before the server closed.
    async fn until_closed(mut self) -> usize {
        count_until_closed(&mut self.reader).await
    }

    async fn says_nothing(&mut self) {
        let mut frames = Vec::new();
        let wait = self.reader.recv(&mut frames, 1, usize::MAX >> 1);
        let waited = tokio::time::timeout(Duration::from_millis(50), wait).await;
        assert!(waited.is_err(), "{frames:?}");
    }
}

/// How many frames come before the end, which must come soon.
async fn count_until_closed(reader: &mut TokioReader) -> usize {
    let mut frames = Vec::new();
    let all = async { while reader.recv(&mut frames, 10, usize::MAX >> 1).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(20), all).await.is_ok(), "it is kept open");
    frames.len()
}

fn ids(replies: &[(i32, Bytes)]) -> Vec<i32> {
    replies.iter().map(|(id, _)| *id).collect()
}

#[tokio::test]
async fn replies_leave_in_the_order_of_requests_whichever_is_ready_first() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"a"), produce(2, b"w"), produce(3, b"n"), produce(4, b"b")]).await;
    assert_eq!(ids(&client.replies(1).await), [1]);
    client.says_nothing().await;
    test.gate.add_permits(1);
    assert_eq!(client.replies(2).await, [(2, Bytes::from_static(b"w")), (4, Bytes::from_static(b"b"))]);
    assert_eq!(*test.echo.turns.lock().expect("no panic"), [[1, 2, 3, 4]], "one read was one turn");
}

#[tokio::test]
async fn a_request_of_another_kind_waits_for_the_answers_before_it() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w"), request(ApiKey::Metadata, 4, 2, b""), produce(3, b"")]).await;
    client.says_nothing().await;
    assert_eq!(test.echo.turns.lock().expect("no panic").len(), 1);
    test.gate.add_permits(1);
    assert_eq!(ids(&client.replies(3).await), [1, 2, 3]);
    assert_eq!(*test.echo.turns.lock().expect("no panic"), [[1], [2], [3]]);
}

#[tokio::test]
async fn a_turn_that_is_not_started_yet_holds_up_the_next_and_no_answer_before_it() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w")]).await;
    client.says_nothing().await;
    client.send(vec![produce(2, b"s")]).await;
    client.says_nothing().await;
    client.send(vec![produce(3, b"")]).await;
    client.says_nothing().await;
    test.gate.add_permits(1);
    assert_eq!(ids(&client.replies(1).await), [1]);
    client.says_nothing().await;
    assert_eq!(*test.echo.turns.lock().expect("no panic"), [[1], [2]], "the third waits for the second");
    test.gate.add_permits(1);
    assert_eq!(ids(&client.replies(2).await), [2, 3]);
    assert_eq!(test.metrics.requests_in_flight.get(), 0);
}

/// A turn that waits may be first in line for what others need: it goes on though its client takes no answers.
#[tokio::test]
async fn a_turn_goes_on_being_started_while_its_client_does_not_read() {
    let test = server(|limits| limits.send_timeout = Duration::from_secs(60)).await;
    let mut client = test.client().await;
    let began = std::time::Instant::now();
    for (at, body) in [vec![b'w'; 32 << 20], b"s".to_vec()].iter().enumerate() {
        client.send(vec![produce(at as i32, body)]).await;
        while test.echo.turns.lock().expect("no panic").len() <= at {
            assert!(began.elapsed() < Duration::from_secs(20), "the turn is not begun");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    test.gate.add_permits(1); // the first is answered, and the answer not taken
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(test.echo.passed.load(Ordering::Relaxed), 0);
    test.gate.add_permits(1);
    while test.echo.passed.load(Ordering::Relaxed) == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it stands still behind an answer that is not taken"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A fetch that waits is in line with others: one whose client takes no answers stands in nobody's way.
#[tokio::test]
async fn a_fetch_is_not_in_line_behind_an_answer_that_its_client_does_not_take() {
    let test = server(|limits| {
        (limits.inflight_requests, limits.inflight_bytes) = (100, 64 << 20);
        limits.send_timeout = Duration::from_secs(60);
    })
    .await;
    let (mut silent, mut other) = (test.client().await, test.client().await);
    let fetch = |id, bytes| request(ApiKey::Fetch, 7, id, &vec![b'w'; bytes]);
    silent.send((0..30).map(|id| fetch(id, 900_000)).collect()).await;
    let waiting = || test.metrics.requests_in_flight.get();
    let comes_to = async |count: u64| {
        let come = async {
            while waiting() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3), come).await.is_ok()
    };
    assert!(comes_to(30).await, "all are there");
    loop {
        let before = waiting();
        test.gate.add_permits(1);
        if !comes_to(before - 1).await {
            break; // the answers before it fill the socket
        }
    }
    other.send(vec![fetch(99, 1)]).await;
    let answered = tokio::time::timeout(Duration::from_secs(3), other.replies(1)).await;
    assert_eq!(answered.map(|replies| ids(&replies)).ok(), Some(vec![99]), "who does not read is before it");
    test.gate.add_permits(30);
    assert_eq!(silent.replies(30).await.len(), 30, "who reads late is answered, too");
}

#[tokio::test]
async fn requests_beyond_the_limit_in_flight_are_not_read_until_others_are_answered() {
    let test = server(|limits| limits.inflight_requests = 2).await;
    let mut client = test.client().await;
    client.send((0..5).map(|id| produce(id, b"w")).collect()).await;
    client.says_nothing().await;
    assert_eq!(test.echo.turns.lock().expect("no panic").concat(), [0, 1]);
    test.gate.add_permits(5);
    assert_eq!(ids(&client.replies(5).await), [0, 1, 2, 3, 4]);
    assert_eq!(test.metrics.requests_in_flight.get(), 0);
}

#[tokio::test]
async fn all_connections_together_keep_to_the_memory_budget() {
    let test = server(|limits| limits.memory_bytes = 1 << 20).await;
    let body = [&b"w"[..], &vec![0; 400_000]].concat();
    let mut clients = Vec::new();
    for id in 0..3 {
        let mut client = test.client().await;
        client.send(vec![produce(id, &body)]).await;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = test.echo.turns.lock().expect("no panic").len();
    assert!(started < 3, "three bodies of 400 kB are in a budget of 1 MiB");
    test.gate.add_permits(3);
    for client in &mut clients {
        assert_eq!(client.replies(1).await.len(), 1);
    }
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_reaches_the_service_and_the_connection_goes_on() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![request(ApiKey::ApiVersions, 99, 5, b"whatever"), produce(6, b"")]).await;
    assert_eq!(client.replies(2).await, [(5, Bytes::new()), (6, Bytes::new())]);
}

#[tokio::test]
async fn what_is_no_request_closes_the_connection_after_the_replies_before_it() {
    let bad: [Frame; 5] = [
        vec![Bytes::from_static(b"\x00")],
        vec![],
        request(ApiKey::Metadata, 99, 2, b""),
        vec![Bytes::from_static(&[0x7f, 0xff, 0, 0, 0, 0, 0, 2, 0, 0])],
        vec![Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 2, 0x7f, 0xff])],
    ];
    for (broken, frame) in (1..).zip(bad) {
        let test = server(|_| {}).await;
        let mut client = test.client().await;
        client.send(vec![produce(1, b""), frame, produce(3, b"")]).await;
        assert_eq!(client.until_closed().await, 1, "bad frame {broken}");
        assert_eq!(test.metrics.connections_broken.get(), 1);
    }
}

#[tokio::test]
async fn a_frame_above_the_limit_closes_the_connection() {
    let test = server(|limits| limits.request_max_bytes = 1_000).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"")]).await;
    assert_eq!(client.replies(1).await.len(), 1);
    client.send(vec![produce(2, &[0; 2_000])]).await;
    assert_eq!(client.until_closed().await, 0);
}

#[tokio::test]
async fn a_reply_that_closes_does_so_after_the_replies_before_it() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b""), produce(2, b"c"), produce(3, b"")]).await;
    assert_eq!(client.until_closed().await, 1);
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_another_fits_when_one_left() {
    let test = server(|limits| limits.max_connections = 1).await;
    let mut first = test.client().await;
    first.send(vec![produce(1, b"")]).await;
    assert_eq!(first.replies(1).await.len(), 1);
    assert_eq!(test.client().await.until_closed().await, 0);
    assert_eq!(test.metrics.connections_refused.get(), 1);
    drop(first);
    while test.server.connections() > 0 {
        tokio::task::yield_now().await;
    }
    let mut second = test.client().await;
    second.send(vec![produce(2, b"")]).await;
    assert_eq!(second.replies(1).await.len(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() {
    let test = server(|limits| limits.idle_timeout = Duration::from_millis(100)).await;
    let mut waiting = test.client().await;
    waiting.send(vec![produce(1, b"w")]).await;
    assert_eq!(test.client().await.until_closed().await, 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    test.gate.add_permits(1);
    assert_eq!(waiting.replies(1).await.len(), 1);
}

#[tokio::test]
#[allow(clippy::disallowed_types, reason = "half a frame can be sent by a raw socket only")]
async fn a_request_that_trickles_in_closes_the_connection() {
    let test = server(|limits| limits.frame_timeout = Duration::from_millis(50)).await;
    let mut raw = tokio::net::TcpStream::connect(test.server.address()).await.expect("it listens");
    let mut sent = 0;
    raw.write_all(&1_000_i32.to_be_bytes()).await.expect("sent");
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if raw.write_all(b"x").await.is_err() || matches!(raw.try_read(&mut [0; 1]), Ok(0)) {
            break;
        }
        sent += 1;
        assert!(sent < 500, "it is still open after 5 s");
    }
    assert_eq!(test.metrics.connections_broken.get(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_is_closed() {
    let test = server(|limits| limits.send_timeout = Duration::from_millis(100)).await;
    let mut client = test.client().await;
    let body = vec![0; 4 << 20];
    for id in 0..4 {
        let sent = client.writer.send(vec![produce(id, &body)]);
        if tokio::time::timeout(Duration::from_millis(300), sent).await.is_err() {
            break;
        }
    }
    while test.server.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(test.metrics.connections_broken.get(), 1);
}

#[tokio::test]
async fn stopping_answers_what_was_started_and_takes_nothing_new() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    let idle = test.client().await;
    client.send(vec![produce(1, b"w"), request(ApiKey::Metadata, 4, 2, b"")]).await;
    client.says_nothing().await;
    let address = test.server.address().to_owned();
    let gate = Arc::clone(&test.gate);
    let stopped = tokio::spawn(test.server.stop());
    assert_eq!(idle.until_closed().await, 0);
    assert!(TokioNet::default().connect(&address).await.is_err(), "it does not listen any more");
    gate.add_permits(1);
    assert_eq!(client.until_closed().await, 1, "Produce is answered, Metadata was not started");
    stopped.await.expect("it stopped");
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_and_drops_what_is_unanswered() {
    let test = server(|limits| limits.drain_timeout = Duration::from_millis(50)).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w")]).await;
    client.says_nothing().await;
    let dropped = Arc::clone(&test.echo.dropped);
    test.server.stop().await;
    assert_eq!(client.until_closed().await, 0);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_drops_its_pending_replies() {
    let test = server(|_| {}).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w")]).await;
    client.says_nothing().await;
    drop(client);
    // A half-closed peer may still read: the wait ends when the reply cannot be sent, or with the peer's reset.
    test.gate.add_permits(1);
    while test.server.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(test.echo.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(test.metrics.requests_in_flight.get(), 0);
}

/// Waits until no connection is left; without the limit under test it would hang.
async fn all_gone(test: &Test) {
    let gone = async {
        while test.server.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), gone).await.is_ok(), "a connection is kept");
}

#[tokio::test]
async fn a_client_that_is_gone_does_not_hold_its_connection_by_a_request_that_waits() {
    let test = server(|limits| limits.half_close_timeout = Duration::from_millis(100)).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w")]).await;
    client.says_nothing().await;
    drop(client);
    all_gone(&test).await;
    assert_eq!(test.echo.dropped.load(Ordering::SeqCst), 1);
    assert_eq!(test.metrics.requests_in_flight.get(), 0);
}

#[tokio::test]
async fn a_client_that_is_gone_behind_requests_that_are_not_read_is_noticed() {
    let test = server(|limits| {
        limits.half_close_timeout = Duration::from_millis(100);
        limits.frame_timeout = Duration::from_millis(100);
        limits.inflight_requests = 2;
    })
    .await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w"), request(ApiKey::Metadata, 4, 2, b""), produce(3, b"")]).await;
    client.says_nothing().await;
    drop(client);
    all_gone(&test).await;
}

#[tokio::test]
async fn a_client_that_sent_what_is_no_request_behind_one_that_waits_is_let_go() {
    let test = server(|limits| limits.half_close_timeout = Duration::from_millis(100)).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"w"), vec![Bytes::from_static(b"\x00")]]).await;
    assert_eq!(client.until_closed().await, 0);
    assert_eq!(test.metrics.connections_broken.get(), 1);
}

#[tokio::test]
async fn a_half_closed_client_is_answered_as_long_as_answers_follow_each_other() {
    let test = server(|limits| limits.half_close_timeout = Duration::from_secs(1)).await;
    let mut client = test.client().await;
    client.send((1..=4).map(|id| produce(id, b"w")).collect()).await;
    let Client { mut reader, writer } = client;
    drop(writer);
    let mut frames = Vec::new();
    for answered in 1..=4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        test.gate.add_permits(1);
        while frames.len() < answered {
            reader.recv(&mut frames, 10, 1 << 20).await.expect("an answer comes");
        }
    }
    assert!(reader.recv(&mut frames, 10, 1 << 20).await.is_err(), "then the connection ends");
}

#[tokio::test]
async fn what_only_waits_for_more_ends_when_the_client_has_closed() {
    let test = server(|limits| limits.half_close_timeout = Duration::from_secs(60)).await;
    let mut client = test.client().await;
    client.send(vec![produce(1, b"p"), produce(2, b"p")]).await;
    client.says_nothing().await;
    let Client { mut reader, writer } = client;
    drop(writer);
    assert_eq!(count_until_closed(&mut reader).await, 2);
    all_gone(&test).await;
}

#[tokio::test]
async fn a_raw_socket_that_sends_http_is_closed() {
    let test = server(|_| {}).await;
    #[allow(clippy::disallowed_types, reason = "bytes that are no frame can be sent by a raw socket only")]
    let mut raw = tokio::net::TcpStream::connect(test.server.address()).await.expect("it listens");
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}
