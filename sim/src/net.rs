//! The simulated network: whole frames in virtual time, with everything that goes wrong between machines.
//!
//! Owns: listeners, connections, links with latency and one-way cuts, bounded buffers, resets, half-open peers.
//! Promises: the contract of `dejaq::runtime::net`; frames of one connection arrive in order; a cut link delays what is
//! under way until it is healed, as TCP does; a killed process resets its connections, a machine without power does
//! not. Leaves out: lost or doubled frames inside a connection (TCP excludes them); a client that reconnects and
//! sends again is the client's doing.

mod pipe;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dejaq::runtime::net::{Accepted, Listener, Net};
use tokio::sync::mpsc;

use crate::trace::Who;
use crate::world::World;
use pipe::{Conn, ConnId, Leave};
pub use pipe::{SimReader, SimWriter};

/// How long a connect to a machine that does not answer takes to fail.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// All links, listeners and connections. Cheap to clone.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    latency_ns: (u64, u64),
    links: BTreeMap<(u32, u32), Link>,
    up: BTreeSet<u32>,
    listeners: BTreeMap<String, Listening>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    next_connect: u64,
    next_port: u16,
}

#[derive(Default, Clone, Copy)]
struct Link {
    cut: bool,
    extra_ns: u64,
}

struct Listening {
    who: Who,
    queue: mpsc::Sender<Accepted<SimReader, SimWriter>>,
}

impl Default for State {
    fn default() -> Self {
        State {
            latency_ns: (50_000, 500_000),
            links: BTreeMap::new(),
            up: BTreeSet::new(),
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            next_connect: 0,
            next_port: 40_000,
        }
    }
}

impl State {
    fn is_cut(&self, from: u32, to: u32) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    fn extra_ns(&self, from: u32, to: u32) -> u64 {
        self.links.get(&(from, to)).map_or(0, |link| link.extra_ns)
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while the network is locked")
    }

    /// Sets the latency of every link, one way, as a range from which each frame draws.
    pub fn set_latency(&self, from: Duration, to: Duration) {
        self.lock().latency_ns = (from.as_nanos() as u64, to.as_nanos() as u64);
    }

    /// Cuts or heals the way from one machine to another; what is under way waits.
    pub fn set_cut(&self, from: u32, to: u32, cut: bool) {
        let mut state = self.lock();
        state.links.entry((from, to)).or_default().cut = cut;
        state.conns.values().for_each(Conn::wake);
    }

    /// Makes one way slower by this much, or normal again.
    pub fn set_slow(&self, from: u32, to: u32, extra: Duration) {
        self.lock().links.entry((from, to)).or_default().extra_ns = extra.as_nanos() as u64;
    }

    /// Heals every link.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.links.clear();
        state.conns.values().for_each(Conn::wake);
    }

    /// Resets the connections between two machines, as a middlebox does; returns how many.
    pub fn reset_between(&self, one: u32, other: u32) -> usize {
        let mut state = self.lock();
        let between = |conn: &&mut Conn| conn.is_between(one, other);
        state.conns.values_mut().filter(between).map(Conn::reset_both).count()
    }

    /// Connections of which either end may still be used.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lock().conns.len()
    }

    /// A machine has power: a process may start on it.
    pub fn machine_up(&self, world: &World, node: u32) {
        let mut state = self.lock();
        state.up.insert(node);
        let answer_at = world.now_ns() + 2 * state.latency_ns.1;
        state.conns.values_mut().for_each(|conn| conn.machine_up(node, answer_at));
    }

    /// A process ended. Its connections are reset, unless its machine lost power: then the peers hear nothing.
    pub fn process_down(&self, world: &World, who: Who, power: bool) {
        let mut state = self.lock();
        if power {
            state.up.remove(&who.node);
        }
        state.listeners.retain(|_, listening| listening.who != who);
        let how = if power { Leave::PowerLost } else { Leave::Closed };
        let farewell_at = world.now_ns() + state.latency_ns.1;
        state.conns.values_mut().for_each(|conn| conn.process_left(who, how, farewell_at));
        state.conns.retain(|_, conn| !conn.is_over());
    }

    fn draw_round_trip(&self, world: &World, from: u32, to: u32) -> u64 {
        let mut state = self.lock();
        let mut dice = world.streams().dice("connect", state.next_connect);
        state.next_connect += 1;
        let (low, high) = state.latency_ns;
        let ways = dice.between(low, high + 1) + dice.between(low, high + 1);
        ways + state.extra_ns(from, to) + state.extra_ns(to, from)
    }

    /// Whether nothing comes back from a machine.
    fn is_silent(&self, from: u32, to: u32) -> bool {
        let state = self.lock();
        state.is_cut(from, to) || state.is_cut(to, from) || !state.up.contains(&to)
    }

    fn take_port(&self) -> u16 {
        let mut state = self.lock();
        state.next_port += 1;
        state.next_port
    }
}

/// A node's network.
#[derive(Clone)]
pub struct SimNet {
    world: World,
    who: Who,
}

impl SimNet {
    pub(crate) fn new(world: World, who: Who) -> Self {
        SimNet { world, who }
    }

    /// `host:port` with this machine's own name for the wildcard and loopback hosts.
    fn normal(&self, address: &str) -> io::Result<String> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` is no host:port"));
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let mut port: u16 = port.parse().map_err(|_| bad())?;
        if port == 0 {
            port = self.world.network().take_port();
        }
        let own = matches!(host, "" | "0.0.0.0" | "127.0.0.1" | "localhost");
        Ok(if own { format!("n{}:{port}", self.who.node) } else { format!("{host}:{port}") })
    }
}

fn node_of(address: &str) -> Option<u32> {
    address.strip_prefix('n')?.split(':').next()?.parse().ok()
}

impl Net for SimNet {
    type Listener = SimListener;
    type Reader = SimReader;
    type Writer = SimWriter;

    async fn listen(&self, address: &str) -> io::Result<SimListener> {
        let address = self.normal(address)?;
        let (queue, accepted) = mpsc::channel(BACKLOG);
        let mut state = self.world.network().lock();
        if state.listeners.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is taken")));
        }
        state.listeners.insert(address.clone(), Listening { who: self.who, queue });
        drop(state);
        self.world.event(self.who, "listen", &[], || address.clone());
        Ok(SimListener { world: self.world.clone(), who: self.who, address, accepted })
    }

    async fn connect(&self, address: &str) -> io::Result<(SimReader, SimWriter)> {
        let address = self.normal(address)?;
        let unknown =
            || io::Error::new(io::ErrorKind::NotFound, format!("no machine is called like `{address}`"));
        let to = node_of(&address).ok_or_else(unknown)?;
        let round_trip = self.world.network().draw_round_trip(&self.world, self.who.node, to);
        self.world.sleep(Duration::from_nanos(round_trip)).await;
        if self.world.network().is_silent(self.who.node, to) {
            self.world.sleep(CONNECT_TIMEOUT).await;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")));
        }
        self.established(&address)
    }
}

impl SimNet {
    fn established(&self, address: &str) -> io::Result<(SimReader, SimWriter)> {
        let refused =
            || io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address}"));
        let mut guard = self.world.network().lock();
        let state = &mut *guard;
        let listening = state.listeners.get(address).ok_or_else(refused)?;
        let id = state.next_conn;
        let conn = Conn::new([self.who, listening.who]);
        let (near, far) = (conn.halves(&self.world, id, 0), conn.halves(&self.world, id, 1));
        let (near_who, far_who) = (self.who, listening.who);
        let accepted =
            Accepted { reader: far.0, writer: far.1, peer: format!("n{}:{}", near_who.node, 50_000 + id) };
        // A try: the queue of a process that does not accept is bounded, as a kernel's is. The halves of a refused
        // connection are forgotten without a word, so the lock may be held while they are dropped.
        if let Err(error) = listening.queue.try_send(accepted) {
            drop(guard);
            drop((near, error));
            return Err(refused());
        }
        state.next_conn += 1;
        state.conns.insert(id, conn);
        drop(guard);
        self.world.event(self.who, "connect", &[id], || format!("{far_who} conn {id} {address}"));
        Ok(near)
    }
}

/// A simulated listening socket.
pub struct SimListener {
    world: World,
    who: Who,
    address: String,
    accepted: mpsc::Receiver<Accepted<SimReader, SimWriter>>,
}

impl Listener for SimListener {
    type Reader = SimReader;
    type Writer = SimWriter;

    async fn accept(&mut self) -> io::Result<Accepted<SimReader, SimWriter>> {
        let gone = || io::Error::other("the listener was taken away");
        self.accepted.recv().await.ok_or_else(gone)
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.world.network().lock();
        if state.listeners.get(&self.address).is_some_and(|listening| listening.who == self.who) {
            state.listeners.remove(&self.address);
        }
    }
}
