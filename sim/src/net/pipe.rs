//! One connection: two bounded pipes of frames that arrive in order, each at its time.
//!
//! Owns: queues, arrival times, backpressure, the end of each side. Promises: nothing arrives while its way is cut; a
//! frame above the reader's limit is refused by its length. Leaves out: who may connect (see the parent).

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
    /// The reading side was dropped: further frames go nowhere.
    unread: bool,
    /// Nobody sends any more, and the reader knows or will.
    ended: bool,
}

impl Pipe {
    fn new() -> Self {
        Pipe {
            queue: VecDeque::new(),
            bytes: 0,
            last_at: 0,
            arrived: Arc::default(),
            space: Arc::default(),
            unread: false,
            ended: false,
        }
    }

    fn push(&mut self, at: u64, packet: Packet) {
        if let Packet::Frame(frame) = &packet {
            self.bytes += frame.len();
        }
        self.last_at = self.last_at.max(at);
        self.queue.push_back((self.last_at, packet));
        self.arrived.notify_one();
    }
}

/// A connection between two processes.
pub struct Conn {
    ends: [Who; 2],
    alive: [bool; 2],
    /// The end's machine lost power, so that it sent no farewell.
    silent: [bool; 2],
    /// The end was told that the connection is gone.
    reset: [bool; 2],
    /// `pipes[i]` carries what end `i` sends.
    pipes: [Pipe; 2],
}

impl Conn {
    pub fn new(ends: [Who; 2]) -> Self {
        let pipes = [Pipe::new(), Pipe::new()];
        Conn { ends, alive: [true; 2], silent: [false; 2], reset: [false; 2], pipes }
    }

    pub fn halves(&self, world: &World, id: ConnId, end: usize) -> (SimReader, SimWriter) {
        let dice = world.streams().dice("net", id * 2 + end as u64);
        let half = |world: &World| Half { world: world.clone(), id, end };
        let (arrived, space) = (self.pipes[1 - end].arrived.clone(), self.pipes[end].space.clone());
        (SimReader { half: half(world), arrived }, SimWriter { half: half(world), space, dice })
    }

    pub fn wake(&self) {
        self.pipes.iter().for_each(|pipe| pipe.arrived.notify_one());
    }

    fn wake_all(&self) {
        self.wake();
        self.pipes.iter().for_each(|pipe| pipe.space.notify_one());
    }

    pub fn is_between(&self, one: u32, other: u32) -> bool {
        let nodes = [self.ends[0].node, self.ends[1].node];
        nodes == [one, other] || nodes == [other, one]
    }

    pub fn reset_both(&mut self) {
        self.reset = [true; 2];
        self.wake_all();
    }

    pub fn end_died(&mut self, who: Who, power: bool, now: u64) {
        for end in 0..2 {
            if self.ends[end] == who && self.alive[end] {
                self.alive[end] = false;
                self.silent[end] = power;
                if !power {
                    self.pipes[end].push(now, Packet::Reset);
                }
            }
        }
        self.wake_all();
    }

    pub fn is_over(&self) -> bool {
        !self.alive[0] && !self.alive[1]
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
        if conn.reset[*end] {
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
        } else if matches!(verdict, Err(RecvError::Lost(_))) {
            conn.reset[*end] = true;
            conn.pipes[*end].space.notify_one();
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
}

impl Drop for SimReader {
    fn drop(&mut self) {
        let mut state = self.half.world.network().lock();
        if let Some(conn) = state.conns.get_mut(&self.half.id) {
            let pipe = &mut conn.pipes[1 - self.half.end];
            pipe.unread = true;
            pipe.queue.clear();
            pipe.bytes = 0;
            pipe.space.notify_one();
            let over = (0..2).all(|end| conn.pipes[end].unread && conn.pipes[end].ended);
            if over {
                state.conns.remove(&self.half.id);
            }
        }
    }
}

/// The sending half of a simulated connection.
pub struct SimWriter {
    half: Half,
    space: Arc<Notify>,
    dice: Dice,
}

impl SimWriter {
    /// Puts one frame on its way; `false` if there is no room for it yet.
    fn put(&mut self, frame: &Bytes) -> io::Result<bool> {
        let Half { world, id, end } = &self.half;
        let now = world.now_ns();
        let mut state = world.network().lock();
        let Some(conn) = state.conns.get(id) else { return Err(gone()) };
        let (me, peer) = (conn.ends[*end], conn.ends[1 - end]);
        let reachable = !state.is_cut(me.node, peer.node) && !state.is_cut(peer.node, me.node);
        let rebooted = state.up.contains(&peer.node);
        let (low, high) = state.latency_ns;
        let latency = self.dice.between(low, high + 1) + state.extra_ns(me.node, peer.node);
        let conn = state.conns.get_mut(id).expect("it was there a line ago");
        if conn.reset[*end] || (reachable && conn.pipes[*end].unread) {
            conn.reset[*end] = true;
            return Err(gone());
        }
        if !conn.alive[1 - end] && reachable {
            if !conn.silent[1 - end] {
                return Err(gone());
            }
            if rebooted {
                // The machine is back and knows nothing of this connection: it answers with a reset.
                conn.pipes[1 - end].push(now + 2 * latency, Packet::Reset);
                return Ok(true);
            }
        }
        let pipe = &mut conn.pipes[*end];
        if pipe.bytes > 0 && pipe.bytes + frame.len() > PIPE_BYTES {
            return Ok(false);
        }
        pipe.push(now + latency + NS_PER_BYTE * frame.len() as u64, Packet::Frame(frame.clone()));
        drop(state);
        let sum = crc32fast::hash(frame);
        world.event(me, "send", &[*id, frame.len() as u64, u64::from(sum)], || {
            format!("{peer} conn {id} {} bytes {sum:08x}", frame.len())
        });
        Ok(true)
    }
}

impl FrameWriter for SimWriter {
    async fn send(&mut self, frames: Vec<Frame>) -> io::Result<()> {
        for chunks in frames {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            let frame = whole.freeze();
            while !self.put(&frame)? {
                self.space.notified().await;
            }
        }
        Ok(())
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        let world = self.half.world.clone();
        let now = world.now_ns();
        let mut state = world.network().lock();
        let high = state.latency_ns.1;
        if let Some(conn) = state.conns.get_mut(&self.half.id)
            && conn.alive[self.half.end]
        {
            let pipe = &mut conn.pipes[self.half.end];
            pipe.ended = true;
            pipe.push(now + high, Packet::End);
        }
    }
}
