//! The conformance suite of [`Runtime`] and its `Net`: what logic may rely on, in production and in simulation.
//!
//! Owns: the checks, one claim a function. Promises: a runtime that passes carries the broker; the real one and the
//! simulated one both do, so that a simulated run means something. Leaves out: the disk, which has a suite of its
//! own (`dejaq_storage::contract`), and faults, which only a simulation can order.
//! Called by the tests of each runtime: `run_all(&ground).await` inside that runtime.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::{Disk, DiskFile, Open};
use tokio::sync::mpsc;

use super::net::{Frame, FrameReader, FrameWriter, Listener, Net, RecvError};
use super::{Mono, Runtime};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// Where nodes come from in a test.
pub trait Ground {
    /// The implementation under test.
    type Runtime: Runtime;

    /// The node that listens, with a data directory of its own.
    fn server(&self) -> Self::Runtime;

    /// The node that connects; it may be the same.
    fn client(&self) -> Self::Runtime;

    /// An address of the server with port 0, such as `127.0.0.1:0`.
    fn listen_address(&self) -> String;
}

type Reader<G> = <<<G as Ground>::Runtime as Runtime>::Net as Net>::Reader;
type Writer<G> = <<<G as Ground>::Runtime as Runtime>::Net as Net>::Writer;

/// Both ends of a connection.
struct Pair<G: Ground> {
    client_reader: Reader<G>,
    client_writer: Writer<G>,
    server_reader: Reader<G>,
    server_writer: Writer<G>,
}

/// Runs every check.
///
/// # Panics
/// When the implementation breaks the contract; the message says which line.
pub async fn run_all<G: Ground>(ground: &G) {
    time_passes_and_a_sleep_reaches_its_deadline(ground).await;
    timers_fire_in_the_order_of_their_deadlines(ground).await;
    work_that_is_done_wins_over_a_deadline_that_is_past(ground).await;
    a_deadline_ends_work_that_hangs(ground).await;
    spawned_tasks_run_beside_each_other(ground).await;
    entropy_does_not_repeat(ground);
    the_disk_of_a_node_is_there(ground).await;
    frames_arrive_whole_and_in_order(ground).await;
    a_turn_takes_at_most_as_many_frames_as_asked(ground).await;
    a_frame_above_the_limit_is_refused_after_those_before_it(ground).await;
    a_cancelled_receive_loses_nothing(ground).await;
    a_dropped_writer_closes_after_what_was_sent(ground).await;
    who_does_not_receive_can_ask_whether_the_peer_closed(ground).await;
    a_peer_that_is_gone_is_noticed_by_the_sender(ground).await;
    a_peer_that_does_not_read_holds_the_sender_back(ground).await;
    both_directions_are_independent(ground).await;
    connections_are_independent_and_can_be_made_again(ground).await;
    nobody_listening_refuses(ground).await;
    a_port_is_taken_once_and_free_when_the_listener_is_dropped(ground).await;
}

/// `work`, which must end.
async fn soon<R: Runtime, T: Send>(runtime: &R, what: &str, work: impl Future<Output = T> + Send) -> T {
    let done = runtime.before(runtime.now() + PATIENCE, work).await;
    done.unwrap_or_else(|| panic!("{what} hangs"))
}

async fn pair<G: Ground>(ground: &G) -> Pair<G> {
    let (server, client) = (ground.server(), ground.client());
    let mut listener = server.net().listen(&ground.listen_address()).await.expect("listen");
    let address = listener.local_address();
    let (accepted, connected) = soon(&server, "a connection", async {
        tokio::join!(biased; listener.accept(), client.net().connect(&address))
    })
    .await;
    let accepted = accepted.expect("accept");
    assert!(accepted.peer.contains(':'), "peer {:?} is not host:port", accepted.peer);
    let (client_reader, client_writer) = connected.expect("connect");
    Pair { client_reader, client_writer, server_reader: accepted.reader, server_writer: accepted.writer }
}

/// A frame of one chunk whose every byte depends on `tag` and on its place.
fn frame(tag: u64, len: usize) -> Frame {
    vec![Bytes::from(
        (0..len).map(|at| (tag as usize).wrapping_mul(31).wrapping_add(at / 7) as u8).collect::<Vec<u8>>(),
    )]
}

/// Receives exactly `count` frames.
async fn receive<R: Runtime, F: FrameReader>(runtime: &R, reader: &mut F, count: usize) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let wanted = count - frames.len();
        soon(runtime, "a receive", reader.recv(&mut frames, wanted, 64 * MIB)).await.expect("a frame");
    }
    assert_eq!(frames.len(), count);
    frames
}

async fn time_passes_and_a_sleep_reaches_its_deadline<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let (start, wall) = (runtime.now(), runtime.unix_ms());
    assert!(wall > 1_577_836_800_000, "{wall} ms is before 2020");
    let at = start + Duration::from_millis(20);
    runtime.sleep_until(at).await;
    assert!(runtime.now() >= at, "woke at {:?}, before {at:?}", runtime.now());
    assert!(runtime.unix_ms() >= wall + 15, "the wall clock stood still");
    let before = runtime.now();
    soon(&runtime, "a sleep into the past", runtime.sleep_until(Mono(0))).await;
    assert!(runtime.now() >= before, "time went back");
}

async fn timers_fire_in_the_order_of_their_deadlines<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let woken = Arc::new(Mutex::new(Vec::new()));
    let (done, mut all_done) = mpsc::channel::<()>(1);
    let start = runtime.now();
    for wait_ms in [90, 30, 60] {
        let (sleeper, woken, done) = (runtime.clone(), Arc::clone(&woken), done.clone());
        runtime.spawn("sleeper", async move {
            sleeper.sleep_until(start + Duration::from_millis(wait_ms)).await;
            woken.lock().unwrap_or_else(PoisonError::into_inner).push(wait_ms);
            drop(done);
        });
    }
    drop(done);
    assert_eq!(soon(&runtime, "three timers", all_done.recv()).await, None);
    assert_eq!(*woken.lock().unwrap_or_else(PoisonError::into_inner), [30, 60, 90]);
}

async fn work_that_is_done_wins_over_a_deadline_that_is_past<G: Ground>(ground: &G) {
    let runtime = ground.server();
    assert_eq!(runtime.before(Mono(0), async { 7 }).await, Some(7));
}

async fn a_deadline_ends_work_that_hangs<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let (held, mut dropped) = mpsc::channel::<()>(1);
    let at = runtime.now() + Duration::from_millis(20);
    let hang = async move {
        let _held = held;
        std::future::pending::<()>().await;
    };
    assert_eq!(runtime.before(at, hang).await, None);
    assert!(runtime.now() >= at);
    assert_eq!(dropped.recv().await, None, "the work was dropped");
}

async fn spawned_tasks_run_beside_each_other<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let (to_echo, mut asked) = mpsc::channel::<u32>(1);
    let (answer, mut answers) = mpsc::channel::<u32>(1);
    runtime.spawn("echo", async move {
        while let Some(number) = asked.recv().await {
            answer.send(number + 1).await.expect("the asker waits");
        }
    });
    for number in 0..100 {
        to_echo.send(number).await.expect("the task lives");
        assert_eq!(soon(&runtime, "an answer", answers.recv()).await, Some(number + 1));
    }
}

fn entropy_does_not_repeat<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let mut drawn: Vec<u64> = (0..64).map(|_| runtime.random_u64()).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 64);
}

async fn the_disk_of_a_node_is_there<G: Ground>(ground: &G) {
    let runtime = ground.server();
    let path = std::path::Path::new("runtime-conformance");
    let file = runtime.disk().open(path, Open::CreateNew).expect("create");
    file.append_at(0, &[Bytes::from_static(b"x")]).expect("append");
    runtime.disk().sync_many(vec![file.clone()]).await.expect("sync");
    assert_eq!(file.read_at(0, 9).await.expect("read"), "x");
    runtime.disk().remove(path).await.expect("remove");
}

async fn frames_arrive_whole_and_in_order<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    let sizes = [0, 1, 4095, 4096, 4097, 70_000, 0, 3, MIB, 17, 5 * MIB];
    let sent: Vec<Frame> = sizes.iter().enumerate().map(|(tag, len)| frame(tag as u64, *len)).collect();
    let expected: Vec<Bytes> = sent.iter().map(|frame| Bytes::from(frame.concat())).collect();
    let mut writer = pair.client_writer;
    let (done, mut writer_back) = mpsc::channel(1);
    ground.client().spawn("sender", async move {
        for frame in sent {
            writer.send(vec![frame]).await.expect("send");
        }
        _ = done.send(writer).await;
    });
    assert_eq!(receive(&runtime, &mut pair.server_reader, sizes.len()).await, expected);
    let mut writer = soon(&runtime, "the sender", writer_back.recv()).await.expect("the writer comes back");
    // Many frames in one call, each of many chunks, some of them empty.
    let chunked: Vec<Frame> = (0..100u8)
        .map(|tag| (0..tag).map(|n| Bytes::from(vec![tag; usize::from(n % 3) * 50])).collect())
        .collect();
    let expected: Vec<Bytes> = chunked.iter().map(|frame| Bytes::from(frame.concat())).collect();
    soon(&runtime, "a send", writer.send(chunked)).await.expect("send");
    soon(&runtime, "an empty send", writer.send(Vec::new())).await.expect("send");
    assert_eq!(receive(&runtime, &mut pair.server_reader, expected.len()).await, expected);
}

async fn a_turn_takes_at_most_as_many_frames_as_asked<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    pair.client_writer.send((0..10).map(|tag| frame(tag, 5)).collect()).await.expect("send");
    let mut frames = Vec::new();
    while frames.len() < 10 {
        let before = frames.len();
        soon(&runtime, "a receive", pair.server_reader.recv(&mut frames, 3, MIB)).await.expect("frames");
        assert!((before + 1..=before + 3).contains(&frames.len()), "{} after {before}", frames.len());
    }
    let expected: Vec<Bytes> = (0..10).map(|tag| Bytes::from(frame(tag, 5).concat())).collect();
    assert_eq!(frames, expected);
}

async fn a_frame_above_the_limit_is_refused_after_those_before_it<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    pair.client_writer.send(vec![frame(1, 100), frame(2, 101)]).await.expect("send");
    let mut frames = Vec::new();
    let refused = loop {
        match soon(&runtime, "a receive", pair.server_reader.recv(&mut frames, 9, 100)).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, RecvError::TooLarge { announced: 101, limit: 100 }), "{refused:?}");
    assert_eq!(frames, [Bytes::from(frame(1, 100).concat())]);
}

async fn a_cancelled_receive_loses_nothing<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    let (client, mut writer) = (ground.client(), pair.client_writer);
    ground.client().spawn("trickle", async move {
        for tag in 0..20 {
            writer.send(vec![frame(tag, 40_000 * (tag as usize % 4))]).await.expect("send");
            client.sleep(Duration::from_millis(3)).await;
        }
    });
    let mut frames = Vec::new();
    let deadline = runtime.now() + PATIENCE;
    while frames.len() < 20 {
        assert!(runtime.now() < deadline, "only {} frames came", frames.len());
        let moment = runtime.now() + Duration::from_millis(1);
        if let Some(outcome) = runtime.before(moment, pair.server_reader.recv(&mut frames, 2, MIB)).await {
            outcome.expect("frames");
        }
    }
    let expected: Vec<Bytes> =
        (0..20).map(|tag| frame(tag, 40_000 * (tag as usize % 4)).concat().into()).collect();
    assert_eq!(frames, expected);
}

async fn a_dropped_writer_closes_after_what_was_sent<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    pair.client_writer.send(vec![frame(1, 10), frame(2, 100_000)]).await.expect("send");
    drop(pair.client_writer);
    let frames = receive(&runtime, &mut pair.server_reader, 2).await;
    assert_eq!(frames[1], frame(2, 100_000).concat());
    let mut none = Vec::new();
    let end = soon(&runtime, "the end", pair.server_reader.recv(&mut none, 9, MIB)).await;
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    assert!(none.is_empty());
}

async fn who_does_not_receive_can_ask_whether_the_peer_closed<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    pair.client_writer.send(vec![frame(1, 10)]).await.expect("send");
    assert_eq!(receive(&runtime, &mut pair.server_reader, 1).await[0], frame(1, 10).concat());
    assert!(!pair.server_reader.is_closed_by_peer(), "it is open and silent");
    pair.client_writer.send(vec![frame(2, 10), frame(3, 100_000)]).await.expect("send");
    runtime.sleep(Duration::from_millis(20)).await;
    assert!(!pair.server_reader.is_closed_by_peer(), "it is open and has sent something");
    drop(pair.client_writer);
    let deadline = runtime.now() + PATIENCE;
    while !pair.server_reader.is_closed_by_peer() {
        assert!(runtime.now() < deadline, "a peer that closed behind unread frames is not noticed");
        runtime.sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(receive(&runtime, &mut pair.server_reader, 2).await[1], frame(3, 100_000).concat());
}

async fn a_peer_that_is_gone_is_noticed_by_the_sender<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.client(), pair(ground).await);
    drop((pair.server_reader, pair.server_writer));
    let deadline = runtime.now() + PATIENCE;
    loop {
        assert!(runtime.now() < deadline, "the sender never noticed");
        let sent = soon(&runtime, "a send", pair.client_writer.send(vec![frame(0, 1000)])).await;
        if sent.is_err() {
            break;
        }
        runtime.sleep(Duration::from_millis(5)).await;
    }
    let mut none = Vec::new();
    let end = soon(&runtime, "the end", pair.client_reader.recv(&mut none, 9, MIB)).await;
    assert!(end.is_err(), "the receiver notices, too");
}

async fn a_peer_that_does_not_read_holds_the_sender_back<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    let sent = Arc::new(Mutex::new(0u64));
    let (mut writer, counter) = (pair.client_writer, Arc::clone(&sent));
    ground.client().spawn("flood", async move {
        for tag in 0..64 {
            writer.send(vec![frame(tag, MIB)]).await.expect("send");
            *counter.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    });
    let count = || *sent.lock().unwrap_or_else(PoisonError::into_inner);
    runtime.sleep(Duration::from_millis(400)).await;
    assert!(count() < 64, "64 MiB were taken for a peer that does not read");
    for tag in 0..64 {
        let frames = receive(&runtime, &mut pair.server_reader, 1).await;
        assert_eq!(frames[0], frame(tag, MIB).concat(), "frame {tag}");
    }
    let mut none = Vec::new();
    let end = soon(&runtime, "the end", pair.server_reader.recv(&mut none, 1, MIB)).await;
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
    assert_eq!(count(), 64);
}

async fn both_directions_are_independent<G: Ground>(ground: &G) {
    let (runtime, mut pair) = (ground.server(), pair(ground).await);
    for round in 0..50 {
        pair.client_writer.send(vec![frame(round, 100)]).await.expect("send");
        let asked = receive(&runtime, &mut pair.server_reader, 1).await;
        pair.server_writer.send(vec![asked, frame(round + 1, 10)]).await.expect("send");
        let answered = receive(&runtime, &mut pair.client_reader, 2).await;
        assert_eq!(answered[0], frame(round, 100).concat());
        assert_eq!(answered[1], frame(round + 1, 10).concat());
    }
}

async fn connections_are_independent_and_can_be_made_again<G: Ground>(ground: &G) {
    let (server, client) = (ground.server(), ground.client());
    let mut listener = server.net().listen(&ground.listen_address()).await.expect("listen");
    let address = listener.local_address();
    let mut open = Vec::new();
    for round in 0..5 {
        let (reader, mut writer) =
            soon(&client, "a connect", client.net().connect(&address)).await.expect("connect");
        let mut accepted = soon(&server, "an accept", listener.accept()).await.expect("accept");
        writer.send(vec![frame(round, 10)]).await.expect("send");
        assert_eq!(receive(&server, &mut accepted.reader, 1).await[0], frame(round, 10).concat());
        if round % 2 == 0 {
            open.push((reader, writer, accepted));
        }
    }
    for (tag, (_, writer, accepted)) in open.iter_mut().enumerate() {
        writer
            .send(vec![frame(tag as u64, 77)])
            .await
            .expect("the others being closed is nothing to this one");
        assert_eq!(receive(&server, &mut accepted.reader, 1).await[0], frame(tag as u64, 77).concat());
    }
}

async fn nobody_listening_refuses<G: Ground>(ground: &G) {
    let (server, client) = (ground.server(), ground.client());
    let listener = server.net().listen(&ground.listen_address()).await.expect("listen");
    let address = listener.local_address();
    drop(listener);
    let refused = soon(&client, "a refused connect", client.net().connect(&address)).await.map(|_| ());
    assert_eq!(refused.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
}

async fn a_port_is_taken_once_and_free_when_the_listener_is_dropped<G: Ground>(ground: &G) {
    let server = ground.server();
    let listener = server.net().listen(&ground.listen_address()).await.expect("listen");
    let address = listener.local_address();
    assert!(!address.ends_with(":0"), "{address} is not the real port");
    let second = server.net().listen(&address).await.map(|_| ());
    assert_eq!(second.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    server.net().listen(&address).await.expect("free again");
}
