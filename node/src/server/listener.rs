//! Accepts connections and ends them: the server of one address.
//!
//! Owns: [`Server`], the accept loop, the count of connections. Promises: never more connections than allowed; an
//! error of `accept` (no descriptors left, say) is waited out, never fatal; [`Server::stop`] returns when every request
//! that was started is answered, or at its deadline. Leaves out: what happens on a connection.
//! Called by `broker`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

use super::connection::Connection;
use super::log_limit::LogLimit;
use super::service::{Service, Session};
use super::stop::Stop;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::runtime::Runtime;
use crate::runtime::memory::MemoryBudget;
use crate::runtime::net::{Listener, Net};

/// How long to wait after an error of `accept`, at first and at most.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a server is made of.
pub struct Parts {
    /// Answers the requests.
    pub service: Arc<dyn Service>,
    /// Bounds of connections, requests and bytes.
    pub limits: Limits,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// What clients are told to connect to; empty for the address that it listens on.
    pub advertised: String,
}

/// What all connections of a server share.
pub(super) struct Shared<R: Runtime> {
    pub(super) runtime: R,
    pub(super) service: Arc<dyn Service>,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memory: MemoryBudget,
    pub(super) stop: Stop,
    pub(super) log_limit: LogLimit,
    advertised: String,
    open: AtomicUsize,
    /// Told when the last connection ends; only `Server::stop` waits.
    closed: Notify,
}

/// A bound address that does not accept yet, so that a broker can know its port before it is ready to serve.
pub struct Bound<R: Runtime> {
    runtime: R,
    listener: <R::Net as Net>::Listener,
}

impl<R: Runtime> Bound<R> {
    /// Takes the address. Connections queue in the transport until [`Bound::serve`].
    ///
    /// # Errors
    /// The address is taken or is none of this machine.
    pub async fn bind(runtime: &R, address: &str) -> io::Result<Bound<R>> {
        Ok(Bound { runtime: runtime.clone(), listener: runtime.net().listen(address).await? })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.listener.local_address()
    }

    /// Starts to accept.
    #[must_use]
    pub fn serve(self, parts: Parts) -> Server<R> {
        let address = self.address();
        let advertised = if parts.advertised.is_empty() { address.clone() } else { parts.advertised };
        let shared = Arc::new(Shared {
            runtime: self.runtime.clone(),
            service: parts.service,
            memory: MemoryBudget::for_requests(parts.limits.memory_bytes),
            limits: parts.limits,
            metrics: parts.metrics,
            stop: Stop::new(),
            log_limit: LogLimit::default(),
            advertised,
            open: AtomicUsize::new(0),
            closed: Notify::new(),
        });
        self.runtime.spawn("accept", accept_loop(Arc::clone(&shared), self.listener));
        Server { shared, address }
    }
}

/// A server that accepts connections until it is stopped. Dropping it stops it at once.
pub struct Server<R: Runtime> {
    shared: Arc<Shared<R>>,
    address: String,
}

impl<R: Runtime> Server<R> {
    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What clients are told to connect to.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.shared.advertised
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Accepts and starts nothing more, waits until all that was started is answered, at most `drain_timeout`.
    pub async fn stop(self) {
        self.shared.stop.drain();
        let deadline = self.shared.runtime.now() + self.shared.limits.drain_timeout;
        let gone = async {
            while self.connections() > 0 {
                self.shared.closed.notified().await;
            }
        };
        if self.shared.runtime.before(deadline, gone).await.is_none() {
            warn!(
                connections = self.connections(),
                "requests are still unanswered; closing their connections"
            );
        }
    }
}

impl<R: Runtime> Drop for Server<R> {
    fn drop(&mut self) {
        self.shared.stop.leave();
    }
}

/// Counts a connection for as long as it lives, also when its task is dropped.
struct Open<R: Runtime>(Arc<Shared<R>>);

impl<R: Runtime> Open<R> {
    fn count(shared: &Arc<Shared<R>>) -> Open<R> {
        shared.open.fetch_add(1, Ordering::AcqRel);
        shared.metrics.connections.add(1);
        Open(Arc::clone(shared))
    }
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        self.0.metrics.connections.sub(1);
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.notify_one();
        }
    }
}

async fn accept_loop<R: Runtime>(shared: Arc<Shared<R>>, mut listener: <R::Net as Net>::Listener) {
    let mut backoff = ACCEPT_BACKOFF.0;
    let mut next_id = 0;
    loop {
        let accepted = tokio::select! {
            biased; // a stop first: it must not lose to a flood of connections
            () = shared.stop.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(kept_back) = shared.log_limit.pass(shared.runtime.now()) {
                    warn!(%error, kept_back, "cannot accept, waiting {backoff:?}");
                }
                shared.runtime.sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF.1);
                continue;
            }
        };
        backoff = ACCEPT_BACKOFF.0;
        if shared.open.load(Ordering::Acquire) >= shared.limits.max_connections {
            shared.metrics.connections_refused.add(1);
            if let Some(kept_back) = shared.log_limit.pass(shared.runtime.now()) {
                let limit = shared.limits.max_connections;
                warn!(peer = accepted.peer, limit, kept_back, "too many connections, one was closed");
            }
            continue;
        }
        shared.metrics.connections_accepted.add(1);
        next_id += 1;
        let session = Session::new(next_id, accepted.peer.clone(), shared.advertised.clone());
        let open = Open::count(&shared);
        let connection = Connection::new(Arc::clone(&shared), Arc::new(session), accepted);
        shared.runtime.spawn("connection", async move {
            connection.run().await;
            drop(open);
        });
    }
}

impl<R: Runtime> std::fmt::Debug for Server<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).field("open", &self.connections()).finish()
    }
}
