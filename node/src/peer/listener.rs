//! SHELL. Accepts connections of other nodes, on an address of its own.
//!
//! Owns: [`PeerServer`], who is connected. Promises: one connection a node, the newest (an older one is that of a
//! process or a link that is gone); a peer that does not greet in time is closed; at most [`GREETING`] greet at a time;
//! [`PeerServer::stop`] returns when no task of a connection runs any more, or at its deadline.
//! Leaves out: what happens on a connection (`served`), answers (`service`). Called by `broker`.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::BrokerId;
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, info, warn};

use super::greeting::{GreetingError, Identity, welcome};
use super::served::Served;
use super::service::{PeerSession, Routes};
use super::{PeerLimits, outbox};
use crate::runtime::Runtime;
use crate::runtime::memory::MemoryBudget;
use crate::runtime::net::{Accepted, FrameReader, Listener, Net};

/// Connections that may greet at a time; one more is closed at once.
const GREETING: usize = 64;
/// How long to wait after an error of `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Shared<R: Runtime> {
    pub runtime: R,
    pub me: Identity,
    pub limits: PeerLimits,
    pub routes: Routes,
    memory: MemoryBudget,
    stop: Arc<Signal>,
    greeting: AtomicUsize,
    connected: Mutex<BTreeMap<BrokerId, (u64, Arc<Signal>)>>,
    /// Tasks of connections that run.
    running: AtomicUsize,
    ended: Notify,
}

/// Raised once; stays so, however many wait for it.
#[derive(Debug)]
pub(super) struct Signal(Semaphore);

impl Signal {
    pub fn new() -> Arc<Signal> {
        Arc::new(Signal(Semaphore::new(0)))
    }

    pub fn raise(&self) {
        self.0.close();
    }

    pub fn is_raised(&self) -> bool {
        self.0.is_closed()
    }

    /// Cancel safe.
    pub async fn raised(&self) {
        let closed = self.0.acquire().await;
        assert!(closed.is_err(), "a signal has no permits");
    }
}

/// A bound address that does not accept yet.
pub struct PeerBound<R: Runtime> {
    runtime: R,
    listener: <R::Net as Net>::Listener,
}

impl<R: Runtime> PeerBound<R> {
    /// Takes the address. Connections queue in the transport until [`PeerBound::serve`].
    ///
    /// # Errors
    /// The address is taken or is none of this machine.
    pub async fn bind(runtime: &R, address: &str) -> io::Result<PeerBound<R>> {
        Ok(PeerBound { runtime: runtime.clone(), listener: runtime.net().listen(address).await? })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.listener.local_address()
    }

    /// Starts to accept.
    #[must_use]
    pub fn serve(self, me: Identity, limits: PeerLimits, routes: Routes) -> PeerServer<R> {
        let address = self.address();
        let shared = Arc::new(Shared {
            runtime: self.runtime.clone(),
            me,
            limits,
            routes,
            memory: MemoryBudget::new(limits.memory_bytes),
            stop: Signal::new(),
            greeting: AtomicUsize::new(0),
            connected: Mutex::default(),
            running: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        self.runtime.spawn("peer-accept", accept_loop(shared.clone(), self.listener));
        PeerServer { shared, address }
    }
}

/// Accepts until it is stopped. Dropping it stops it at once.
pub struct PeerServer<R: Runtime> {
    shared: Arc<Shared<R>>,
    address: String,
}

impl<R: Runtime> PeerServer<R> {
    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Nodes that are connected.
    #[must_use]
    pub fn connected(&self) -> Vec<BrokerId> {
        self.shared.lock().keys().copied().collect()
    }

    /// Ends every connection, and waits until none holds on to a service, at most `drain_timeout`.
    pub async fn stop(self) {
        self.shared.stop.raise();
        self.shared.lock().values().for_each(|(_, gone)| gone.raise());
        let deadline = self.shared.runtime.now() + self.shared.limits.drain_timeout;
        let ended = async {
            while self.shared.running.load(Ordering::Acquire) > 0 {
                self.shared.ended.notified().await;
            }
        };
        if self.shared.runtime.before(deadline, ended).await.is_none() {
            warn!("calls of peers are still being answered");
        }
    }
}

impl<R: Runtime> Drop for PeerServer<R> {
    fn drop(&mut self) {
        self.shared.stop.raise();
        self.shared.lock().values().for_each(|(_, gone)| gone.raise());
    }
}

/// Counts a task of a connection for as long as it lives, also when it is dropped.
pub(super) struct Running<R: Runtime>(pub Arc<Shared<R>>);

impl<R: Runtime> Drop for Running<R> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_one();
        }
    }
}

impl<R: Runtime> Shared<R> {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<BrokerId, (u64, Arc<Signal>)>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn running(self: &Arc<Self>) -> Running<R> {
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(self.clone())
    }

    /// Makes this the connection of `node`; an older one ends.
    fn enter(&self, node: BrokerId, connection_id: u64) -> Arc<Signal> {
        let gone = Signal::new();
        let mut connected = self.lock();
        if let Some((_, older)) = connected.insert(node, (connection_id, gone.clone())) {
            mark!("a peer connects again before its old connection is gone");
            older.raise();
        }
        if self.stop.is_raised() {
            gone.raise();
        }
        gone
    }

    fn leave(&self, node: BrokerId, connection_id: u64) {
        let mut connected = self.lock();
        if connected.get(&node).is_some_and(|(id, _)| *id == connection_id) {
            connected.remove(&node);
        }
    }
}

async fn accept_loop<R: Runtime>(shared: Arc<Shared<R>>, mut listener: <R::Net as Net>::Listener) {
    let mut next_id = 0;
    loop {
        let accepted = tokio::select! {
            biased; // a stop first: it must not lose to a flood of connections
            () = shared.stop.raised() => return,
            accepted = listener.accept() => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a peer, waiting {ACCEPT_PAUSE:?}");
                shared.runtime.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if shared.greeting.fetch_add(1, Ordering::AcqRel) >= GREETING {
            shared.greeting.fetch_sub(1, Ordering::AcqRel);
            mark!("too many peers greet at a time");
            continue;
        }
        next_id += 1;
        let running = shared.running();
        shared.runtime.spawn("peer-connection", serve(running, accepted, next_id));
    }
}

type AcceptedOf<R> = Accepted<<<R as Runtime>::Net as Net>::Reader, <<R as Runtime>::Net as Net>::Writer>;

/// One connection from its first word to its end.
async fn serve<R: Runtime>(running: Running<R>, accepted: AcceptedOf<R>, connection_id: u64) {
    let shared = running.0.clone();
    let Accepted { mut reader, mut writer, peer } = accepted;
    let deadline = shared.runtime.now() + shared.limits.connect_timeout;
    let greeted = tokio::select! {
        biased; // a stop first: whoever has not greeted is not served
        () = shared.stop.raised() => None,
        met = shared.runtime.before(deadline, welcome(&shared.me, &mut reader, &mut writer)) => met,
    };
    shared.greeting.fetch_sub(1, Ordering::AcqRel);
    let met = match greeted {
        Some(Ok(met)) => met,
        // Whoever only looks whether somebody listens says nothing.
        Some(Err(error @ GreetingError::Recv(_))) => return debug!(peer, %error, "a peer did not greet"),
        Some(Err(error)) => return warn!(peer, %error, "a peer was not taken"),
        None => return debug!(peer, "a peer did not greet in time"),
    };
    let (node, feature_level) = (met.node, met.feature_level);
    let gone = shared.enter(node, connection_id);
    info!(%node, peer, "a peer is connected");
    reader.set_memory(shared.memory.clone());
    let session = Arc::new(PeerSession { connection_id, node, feature_level });
    let out = outbox::start(&shared.runtime, &shared.limits, writer);
    Served::new(&shared, session.clone(), reader, out, gone.clone()).run().await;
    gone.raise();
    shared.leave(node, connection_id);
    shared.routes.ended(&session);
    debug!(%node, peer, "a peer is disconnected");
    drop(running);
}
