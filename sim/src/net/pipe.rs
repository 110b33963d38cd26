//! One connection: two bounded pipes of frames that arrive in order, each at its time.
//!
//! Owns: queues, arrival times, backpressure, the end of each side. Promises: nothing arrives while its way is cut; a
//! frame above the reader's limit is refused by its length; who sends to an end that is gone hears of it a round trip
//! later (and believes until then that it was sent), or never, if that machine has no power.
//! Leaves out: who may connect (see the parent).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dejaq::runtime::net::{Frame, FrameReader, FrameWriter, RecvError};
use tokio::sync::Notify;

use crate::rng::Dice;
use crate::trace::Who;
use crate::world::World;

/// A connection's number, in the order in which they were made.
pub type ConnId = u64;

/// What the kernels on both sides hold of one direction before a sender waits.
const PIPE_BYTES: usize = 512 * 1024;
/// One byte takes this long on the wire: about 1 GB/s.
const NS_PER_BYTE: u64 = 1;

enum Packet {
    Frame(Bytes),
    End,
    Reset,
}

/// One direction.
struct Pipe {
    queue: VecDeque<(u64, Packet)>,
    bytes: usize,
    last_at: u64,
    arrived: Arc<Notify>,
    space: Arc<Notify>,
}

impl Pipe {
    fn new() -> Self {
        Pipe { queue: VecDeque::new(), bytes: 0, last_at: 0, arrived: Arc::default(), space: Arc::default() }
    }

    fn push(&mut self, at: u64, packet: Packet) {
        if let Packet::Frame(frame) = &packet {
            self.bytes += frame.len();
        }
        self.last_at = self.last_at.max(at);
        self.queue.push_back((self.last_at, packet));
        self.arrived.notify_one();
    }

    fn has_frames(&self) -> bool {
        self.queue.iter().any(|(_, packet)| matches!(packet, Packet::Frame(_)))
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

/// How an end left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Its process closed it or ended: the kernel says farewell, and answers what still comes with a reset.
    Closed,
    /// Its machine lost power: nobody says anything until it is up again, which then knows nothing of it.
    PowerLost,
}

/// A connection between two processes.
pub struct Conn {
    ends: [Who; 2],
    /// Halves (reader, writer) of each end that are not dropped.
    halves: [u8; 2],
    left: [Option<Leave>; 2],
    /// From when on the end knows that the connection is gone.
    reset_at: [Option<u64>; 2],
    /// `pipes[i]` carries what end `i` sends.
    pipes: [Pipe; 2],
}

impl Conn {
    pub fn new(ends: [Who; 2]) -> Self {
        let pipes = [Pipe::new(), Pipe::new()];
        Conn { ends, halves: [2; 2], left: [None; 2], reset_at: [None; 2], pipes }
    }

    pub fn halves(&self, world: &World, id: ConnId, end: usize) -> (SimReader, SimWriter) {
        let dice = world.streams().dice("net", id * 2 + end as u64);
        let half = |world: &World| Half { world: world.clone(), id, end };
        let (arrived, space) = (self.pipes[1 - end].arrived.clone(), self.pipes[end].space.clone());
        (SimReader { half: half(world), arrived }, SimWriter { half: half(world), space, dice })
    }

    pub fn wake(&self) {
        for pipe in &self.pipes {
            pipe.arrived.notify_one();
            pipe.space.notify_one();
        }
    }

    pub fn is_between(&self, one: u32, other: u32) -> bool {
        let nodes = [self.ends[0].node, self.ends[1].node];
        nodes == [one, other] || nodes == [other, one]
    }

    /// Tears the connection at once, for both ends.
    pub fn reset_both(&mut self) {
        self.reset_at = [Some(0); 2];
        self.wake();
    }

    /// The process `who` is gone. `farewell_at` is when its peers can hear of it.
    pub fn process_left(&mut self, who: Who, how: Leave, farewell_at: u64) {
        for end in 0..2 {
            if self.ends[end] == who {
                self.leave(end, how, farewell_at);
            }
        }
    }

    fn leave(&mut self, end: usize, how: Leave, farewell_at: u64) {
        if self.left[end].is_some() {
            return;
        }
        self.left[end] = Some(how);
        if how == Leave::Closed {
            // As TCP: bytes that nobody will read are answered with a reset, else the end is an orderly one.
            let unread = self.pipes[1 - end].has_frames();
            self.pipes[1 - end].clear();
            self.pipes[end].push(farewell_at, Packet::End);
            if unread {
                self.reset(1 - end, farewell_at);
            }
        }
        self.wake();
    }

    /// `end` hears at `at` that its peer knows nothing of the connection.
    fn reset(&mut self, end: usize, at: u64) {
        let earlier = self.reset_at[end].is_some_and(|known| known <= at);
        if !earlier {
            self.reset_at[end] = Some(at);
            self.pipes[1 - end].push(at, Packet::Reset);
            self.pipes[end].space.notify_one();
        }
    }

    /// A machine is up again: what peers sent to its former process and still send is answered with a reset.
    pub fn machine_up(&mut self, node: u32, answer_at: u64) {
        for end in 0..2 {
            let lost = self.left[end] == Some(Leave::PowerLost) && self.ends[end].node == node;
            if lost && self.pipes[1 - end].has_frames() {
                self.reset(1 - end, answer_at);
            }
        }
    }

    /// Whether `end`, which the way from its peer reaches, knows that the connection is gone.
    fn is_reset(&self, end: usize, now: u64, heard: bool) -> bool {
        self.reset_at[end].is_some_and(|at| at == 0 || (heard && at <= now))
    }

    pub fn is_over(&self) -> bool {
        self.left[0].is_some() && self.left[1].is_some()
    }
}

/// What both halves of one end share.
struct Half {
    world: World,
    id: ConnId,
    end: usize,
}

/// The receiving half of a simulated connection.
pub struct SimReader {
    half: Half,
    arrived: Arc<Notify>,
}

enum Look {
    Got,
    WaitUntil(u64),
    WaitForNews,
}

impl SimReader {
    fn look(&self, frames: &mut Vec<Bytes>, max_frames: usize, max_bytes: usize) -> Result<Look, RecvError> {
        let Half { world, id, end } = &self.half;
        let now = world.now_ns();
        let mut state = world.network().lock();
        let Some(conn) = state.conns.get(id) else { return Err(gone().into()) };
        let (me, peer) = (conn.ends[*end], conn.ends[1 - end]);
        let cut = state.is_cut(peer.node, me.node);
        let conn = state.conns.get_mut(id).expect("it was there a line ago");
        if conn.reset_at[*end] == Some(0) {
            return Err(gone().into());
        }
        let before = frames.len();
        let pipe = &mut conn.pipes[1 - end];
        let mut verdict = Ok(Look::WaitForNews);
        while !cut && frames.len() - before < max_frames {
            match pipe.queue.front() {
                Some((at, _)) if *at > now => {
                    verdict = Ok(Look::WaitUntil(*at));
                    break;
                }
                None => break,
                Some((_, Packet::Frame(frame))) if frame.len() > max_bytes => {
                    verdict = Err(RecvError::TooLarge { announced: frame.len() as i64, limit: max_bytes });
                    break;
                }
                Some((_, Packet::Frame(_))) => {
                    let Some((_, Packet::Frame(frame))) = pipe.queue.pop_front() else {
                        unreachable!("just seen")
                    };
                    pipe.bytes -= frame.len();
                    frames.push(frame);
                }
                Some((_, Packet::End)) => {
                    verdict = Err(RecvError::Closed);
                    break;
                }
                Some((_, Packet::Reset)) => {
                    verdict = Err(gone().into());
                    break;
                }
            }
        }
        if frames.len() > before {
            pipe.space.notify_one();
            verdict = Ok(Look::Got);
        }
        drop(state);
        for frame in &frames[before..] {
            let sum = crc32fast::hash(frame);
            world.event(me, "recv", &[*id, frame.len() as u64, u64::from(sum)], || {
                format!("{peer} conn {id} {} bytes {sum:08x}", frame.len())
            });
        }
        verdict
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection is gone")
}

impl FrameReader for SimReader {
    async fn recv(
        &mut self,
        frames: &mut Vec<Bytes>,
        max_frames: usize,
        max_frame_bytes: usize,
    ) -> Result<(), RecvError> {
        loop {
            match self.look(frames, max_frames.max(1), max_frame_bytes)? {
                Look::Got => return Ok(()),
                Look::WaitForNews => self.arrived.notified().await,
                Look::WaitUntil(at) => {
                    let world = self.half.world.clone();
                    tokio::select! {
                        biased; // news first: it may be a reset, and the time is looked at again anyhow
                        () = self.arrived.notified() => {}
                        () = world.sleep_until(at) => {}
                    }
                }
            }
        }
    }

    fn is_closed_by_peer(&mut self) -> bool {
        let Half { world, id, end } = &self.half;
        let now = world.now_ns();
        let state = world.network().lock();
        let Some(conn) = state.conns.get(id) else { return true };
        let (me, peer) = (conn.ends[*end], conn.ends[1 - end]);
        let heard = !state.is_cut(peer.node, me.node);
        let mut is_here = conn.pipes[1 - end].queue.iter().take_while(|(at, _)| heard && *at <= now);
        conn.reset_at[*end] == Some(0) || is_here.any(|(_, packet)| !matches!(packet, Packet::Frame(_)))
    }
}

impl Half {
    /// One half is dropped; with the second the end is closed. What a killed process drops is nothing to its peers.
    fn dropped(&self, is_writer: bool) {
        let now = self.world.now_ns();
        let mut state = self.world.network().lock();
        let farewell_at = now + state.latency_ns.1;
        let Some(conn) = state.conns.get_mut(&self.id) else { return };
        conn.halves[self.end] -= 1;
        if conn.left[self.end].is_some() {
            return;
        }
        if conn.halves[self.end] == 0 {
            conn.leave(self.end, Leave::Closed, farewell_at);
        } else if is_writer {
            conn.pipes[self.end].push(farewell_at, Packet::End);
        }
        if conn.is_over() {
            state.conns.remove(&self.id);
        }
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        self.half.dropped(false);
    }
}

/// The sending half of a simulated connection.
pub struct SimWriter {
    half: Half,
    space: Arc<Notify>,
    dice: Dice,
}

enum Put {
    Done,
    /// No room; look again when there is, or at this time.
    Wait(Option<u64>),
}

impl SimWriter {
    /// Puts one frame on its way.
    fn put(&mut self, frame: &Bytes) -> io::Result<Put> {
        let Half { world, id, end } = &self.half;
        let now = world.now_ns();
        let mut state = world.network().lock();
        let Some(conn) = state.conns.get(id) else { return Err(gone()) };
        let (me, peer) = (conn.ends[*end], conn.ends[1 - end]);
        let (sent, heard) = (!state.is_cut(me.node, peer.node), !state.is_cut(peer.node, me.node));
        let up = state.up.contains(&peer.node);
        let (low, high) = state.latency_ns;
        let there = self.dice.between(low, high + 1) + state.extra_ns(me.node, peer.node);
        let back = high + state.extra_ns(peer.node, me.node);
        let conn = state.conns.get_mut(id).expect("it was there a line ago");
        if conn.is_reset(*end, now, heard) {
            return Err(gone());
        }
        // Whoever is not there any more takes nothing, and its kernel says so when the bytes reach it.
        let nobody = match conn.left[1 - end] {
            None => false,
            Some(Leave::Closed) => true,
            Some(Leave::PowerLost) => up,
        };
        if nobody && sent {
            conn.reset(*end, now + there + back);
        } else {
            let pipe = &mut conn.pipes[*end];
            if pipe.bytes > 0 && pipe.bytes + frame.len() > PIPE_BYTES {
                return Ok(Put::Wait(conn.reset_at[*end].filter(|at| *at > now)));
            }
            pipe.push(now + there + NS_PER_BYTE * frame.len() as u64, Packet::Frame(frame.clone()));
        }
        drop(state);
        let sum = crc32fast::hash(frame);
        world.event(me, "send", &[*id, frame.len() as u64, u64::from(sum)], || {
            format!("{peer} conn {id} {} bytes {sum:08x}", frame.len())
        });
        Ok(Put::Done)
    }

    async fn room(&self, at: Option<u64>) {
        let news = self.space.notified();
        match at {
            None => news.await,
            Some(at) => {
                tokio::select! {
                    biased; // either is looked at again
                    () = news => {}
                    () = self.half.world.sleep_until(at) => {}
                }
            }
        }
    }
}

impl FrameWriter for SimWriter {
    async fn send(&mut self, frames: Vec<Frame>) -> io::Result<()> {
        for chunks in frames {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            let frame = whole.freeze();
            while let Put::Wait(at) = self.put(&frame)? {
                self.room(at).await;
            }
        }
        Ok(())
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        self.half.dropped(true);
    }
}
