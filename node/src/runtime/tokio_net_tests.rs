//! Real sockets and hostile bytes: what the simulated network, which moves whole frames, cannot show.

#![allow(clippy::disallowed_methods, reason = "tests on real sockets and the real clock")]

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::memory::MemoryBudget;
use crate::runtime::net::{FrameReader, RecvError};

const LIMIT: usize = 8 << 20;

/// A raw client socket and the reader and writer of our side.
async fn pair() -> (TcpStream, TokioReader, TokioWriter) {
    let net = TokioNet::default();
    let mut listener = net.listen("127.0.0.1:0").await.expect("a free port");
    let client = TcpStream::connect(listener.local_address()).await.expect("it listens");
    let accepted = listener.accept().await.expect("it was connected to");
    assert_eq!(accepted.peer, client.local_addr().expect("connected").to_string());
    (client, accepted.reader, accepted.writer)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = i32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes that no shift or swap of parts leaves the same.
fn body(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ salt) as u8).collect()
}

/// Receives until `count` frames are here.
async fn receive(reader: &mut TokioReader, count: usize) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let left = count - frames.len();
        reader.recv(&mut frames, left, LIMIT).await.expect("frames come");
    }
    frames
}

async fn refusal(sent: &[u8]) -> RecvError {
    let (mut client, mut reader, _writer) = pair().await;
    client.write_all(sent).await.expect("the socket takes it");
    drop(client);
    let mut frames = Vec::new();
    let error = loop {
        match reader.recv(&mut frames, 10, LIMIT).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(frames.is_empty(), "{} frames", frames.len());
    error
}

#[tokio::test]
async fn frames_of_every_size_arrive_whole_and_in_order_however_they_are_cut() {
    let sizes = [
        0, 1, 100, 4_000, 8_188, 9_000, 65_530, 65_536, 70_000, 300_000, 1_100_000, 3_000_000, 5, 2_200_000,
        64,
    ];
    for cut in [997, 65_536, 400_000, usize::MAX] {
        let (client, mut reader, _writer) = pair().await;
        reader.set_memory(MemoryBudget::new(16 << 20));
        let (_, mut client) = client.into_split();
        let stream: Vec<u8> = sizes.iter().enumerate().flat_map(|(i, n)| framed(&body(*n, i))).collect();
        let sender = tokio::spawn(async move {
            for piece in stream.chunks(cut) {
                client.write_all(piece).await.expect("the reader reads");
            }
            client
        });
        for (index, size) in sizes.iter().enumerate() {
            let frame = receive(&mut reader, 1).await.remove(0);
            assert!(frame == body(*size, index), "frame {index} of {size} bytes, pieces of {cut}");
        }
        drop(sender.await.expect("it sent all"));
        assert!(matches!(reader.recv(&mut Vec::new(), 1, LIMIT).await, Err(RecvError::Closed)));
    }
}

#[tokio::test]
async fn peers_are_asked_whether_they_are_there_on_both_sides() {
    let net = TokioNet::default();
    let mut listener = net.listen("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_address();
    let (accepted, connected) = tokio::join!(listener.accept(), net.connect(&address));
    let ends = [accepted.expect("it was connected to").writer, connected.expect("it listens").1];
    for stream in ends.iter().map(|writer| writer.half.as_ref()) {
        assert_eq!(sockopt::socket_keepalive(stream), Ok(true));
        let dead_after = sockopt::tcp_keepidle(stream).expect("an option")
            + sockopt::tcp_keepintvl(stream).expect("an option")
                * sockopt::tcp_keepcnt(stream).expect("an option");
        assert_eq!(dead_after, Duration::from_secs(120));
    }
}

#[tokio::test]
async fn a_peer_that_sends_one_byte_at_a_time_is_understood() {
    let (mut client, mut reader, _writer) = pair().await;
    let receiver = tokio::spawn(async move { receive(&mut reader, 2).await });
    for byte in [framed(b"hello"), framed(b"")].concat() {
        client.write_all(&[byte]).await.expect("the reader reads");
        tokio::task::yield_now().await;
    }
    assert_eq!(receiver.await.expect("two frames"), [&b"hello"[..], b""]);
}

#[tokio::test]
async fn all_frames_of_one_write_come_in_one_turn_and_no_more_than_asked_for() {
    let (mut client, mut reader, _writer) = pair().await;
    client.write_all(&framed(&body(300, 0)).repeat(100)).await.expect("sent");
    let mut turns = Vec::new();
    let mut frames = Vec::new();
    while frames.len() < 100 {
        let before = frames.len();
        reader.recv(&mut frames, 60, LIMIT).await.expect("frames");
        turns.push(frames.len() - before);
    }
    assert_eq!(turns, [60, 40]);
    assert!(frames.iter().all(|frame| frame == &body(300, 0)));
}

#[tokio::test]
async fn a_prefix_that_claims_too_much_is_refused_before_room_is_reserved() {
    for announced in [i32::MAX, -1, i32::MIN, LIMIT as i32 + 1] {
        let error = refusal(&announced.to_be_bytes()).await;
        let RecvError::TooLarge { announced: said, limit: LIMIT } = error else { panic!("{error}") };
        assert_eq!(said, i64::from(announced));
    }
    let http = refusal(b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n").await;
    assert!(matches!(http, RecvError::TooLarge { .. }), "{http}");
}

#[tokio::test]
async fn frames_before_a_bad_prefix_are_delivered_first() {
    let (mut client, mut reader, _writer) = pair().await;
    let sent = [framed(b"good"), (-5_i32).to_be_bytes().to_vec()].concat();
    client.write_all(&sent).await.expect("sent");
    assert_eq!(receive(&mut reader, 1).await, [&b"good"[..]]);
    assert!(matches!(reader.recv(&mut Vec::new(), 1, LIMIT).await, Err(RecvError::TooLarge { .. })));
}

#[tokio::test]
async fn an_end_inside_a_prefix_or_a_body_is_a_lost_connection_not_a_normal_end() {
    for torn in [&framed(b"hello")[..2], &framed(b"hello")[..7]] {
        assert!(matches!(refusal(torn).await, RecvError::Lost(_)), "{torn:?}");
    }
    assert!(matches!(refusal(b"").await, RecvError::Closed));
}

#[tokio::test]
async fn a_claimed_length_alone_reserves_no_memory_to_speak_of() {
    let (mut client, mut reader, _writer) = pair().await;
    client.write_all(&(LIMIT as i32).to_be_bytes()).await.expect("sent");
    client.write_all(&[7; 10]).await.expect("sent");
    let waited =
        tokio::time::timeout(Duration::from_millis(100), reader.recv(&mut Vec::new(), 1, LIMIT)).await;
    assert!(waited.is_err(), "the frame is not whole");
    assert!(reader.is_mid_frame());
    assert!(reader.reserved_bytes() <= 2 << 20, "{} bytes reserved for 14 received", reader.reserved_bytes());
}

#[tokio::test]
async fn lengths_that_are_only_announced_keep_nobody_waiting() {
    let memory = MemoryBudget::for_requests(8 << 20);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let (mut client, mut reader, _writer) = pair().await;
        reader.set_memory(memory.clone());
        // The first four say a length and no more, the others fill their first buffer, too, and hold the large part.
        let begun = if waiting.len() < 4 { 0 } else { 70_000 };
        client.write_all(&framed(&body(LIMIT, 0))[..4 + begun]).await.expect("sent");
        waiting.push((client, tokio::spawn(async move { receive(&mut reader, 1).await })));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut client, mut reader, _writer) = pair().await;
    reader.set_memory(memory.clone());
    client.write_all(&framed(&body(20_000, 1))).await.expect("sent");
    let honest = tokio::time::timeout(Duration::from_secs(5), receive(&mut reader, 1)).await;
    assert_eq!(honest.expect("at once"), [body(20_000, 1)]);
    for (_, task) in waiting {
        task.abort();
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer_and_no_claim() {
    let memory = MemoryBudget::new(16 << 20);
    let (mut client, mut reader, _writer) = pair().await;
    reader.set_memory(memory.clone());
    for size in [100, 100_000, 1_000_000] {
        client.write_all(&framed(&body(size, 0))).await.expect("sent");
        let frames = receive(&mut reader, 1).await;
        assert!(memory.claimed() >= size, "{} claimed for a frame of {size}", memory.claimed());
        let waited =
            tokio::time::timeout(Duration::from_millis(20), reader.recv(&mut Vec::new(), 1, LIMIT)).await;
        assert!(waited.is_err() && !reader.is_mid_frame());
        assert_eq!(reader.reserved_bytes(), 0);
        drop(frames);
        assert_eq!(memory.claimed(), 0, "after a frame of {size}");
    }
}

#[tokio::test]
async fn no_frame_is_handed_out_while_the_budget_is_spent_and_none_is_lost() {
    let memory = MemoryBudget::new(1 << 20);
    let (mut client, mut reader, _writer) = pair().await;
    reader.set_memory(memory.clone());
    let all = memory.try_claim(1 << 20).expect("free");
    client.write_all(&framed(&body(100_000, 1))).await.expect("sent");
    let mut frames = Vec::new();
    let waited = tokio::time::timeout(Duration::from_millis(50), reader.recv(&mut frames, 1, LIMIT)).await;
    assert!(waited.is_err() && frames.is_empty(), "it waits for memory");
    drop(all);
    assert!(receive(&mut reader, 1).await[0] == body(100_000, 1));
}

#[tokio::test]
async fn a_peer_that_closes_its_sending_half_still_gets_its_answer() {
    let (mut client, mut reader, mut writer) = pair().await;
    client.write_all(&framed(b"last words")).await.expect("sent");
    client.shutdown().await.expect("half closed");
    assert_eq!(receive(&mut reader, 1).await, [&b"last words"[..]]);
    assert!(matches!(reader.recv(&mut Vec::new(), 1, LIMIT).await, Err(RecvError::Closed)));
    writer.send(vec![vec![Bytes::from_static(b"answer")]]).await.expect("it still reads");
    drop((reader, writer));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("then the end");
    assert_eq!(answer, framed(b"answer"));
}

#[tokio::test]
async fn frames_of_small_and_large_chunks_are_sent_whole_to_a_slow_reader() {
    let (mut client, _reader, mut writer) = pair().await;
    let chunks: Vec<Vec<u8>> = (0..300).map(|i| body([3, 0, 900, 1_024, 50_000][i % 5], i)).collect();
    let frames: Vec<Frame> = chunks
        .chunks(7)
        .map(|frame| frame.iter().map(|chunk| Bytes::from(chunk.clone())).collect())
        .collect();
    let expected: Vec<u8> = chunks.chunks(7).flat_map(|frame| framed(&frame.concat())).collect();
    let sender = tokio::spawn(async move { writer.send(frames).await });
    let mut received = Vec::new();
    let mut piece = vec![0; 10_000];
    loop {
        tokio::task::yield_now().await;
        match client.read(&mut piece).await.expect("bytes come") {
            0 => break,
            read => received.extend_from_slice(&piece[..read]),
        }
        if received.len() == expected.len() {
            break;
        }
    }
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
    sender.await.expect("no panic").expect("sent");
}

#[tokio::test]
async fn sending_to_a_peer_that_is_gone_is_an_error() {
    let (client, _reader, mut writer) = pair().await;
    client.set_zero_linger().expect("an abrupt end");
    drop(client);
    let mut result = Ok(());
    for _ in 0..100 {
        result = writer.send(vec![vec![Bytes::from(body(100_000, 0))]]).await;
        if result.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(result.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_says_so() {
    let net = TokioNet::default();
    let first = net.listen("127.0.0.1:0").await.expect("a free port");
    let error = net.listen(&first.local_address()).await.expect_err("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
