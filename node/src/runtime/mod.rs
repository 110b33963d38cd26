//! The seam between our logic and the world: time, tasks, entropy, disk and network.
//!
//! Owns: the traits [`Runtime`] and, in [`net`], `Net`; the instants and durations of our logic.
//! Promises: logic written against `R: Runtime` behaves as a function of what the runtime answers.
//! Leaves out: channels. `tokio::sync` runs on any executor and is used as it is.
//! Implementations: `tokio.rs` here (production, the only user of tokio's net and time), `sim::runtime` (a seed).
//! One conformance suite, [`conformance`], runs on both.

mod buffers;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod memory;
pub mod net;
pub mod tokio;
pub mod tokio_net;
mod tokio_reader;

use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::time::Duration;

use dejaq_storage::Disk;
use net::Net;

/// An instant of a node's monotonic clock, in nanoseconds since an arbitrary origin of that process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Time passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `wait` later, saturating at the end of time (584 years).
    #[must_use]
    pub fn plus(self, wait: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, wait: Duration) -> Mono {
        self.plus(wait)
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// What a node may ask of the world. Cheap to clone; every clone is the same node.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// The node's data directory.
    type Disk: Disk;
    /// The node's network.
    type Net: Net;

    /// The only clock that logic may decide by. Never goes back. A process that was stopped finds that it went on; on
    /// a machine that was suspended it may have stood.
    fn now(&self) -> Mono;

    /// Milliseconds since 1970 by the wall clock: for record timestamps and retention only. It may jump.
    fn unix_ms(&self) -> i64;

    /// Returns at or soon after `at`; at once if `at` is past. Cancel safe.
    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + Send;

    /// Starts a task of this node. It ends with the node: a simulated kill drops it wherever it stands.
    /// A panic in it ends the process (production) or fails the run (simulation).
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static);

    /// Entropy: from the system in production, from the seed in simulation.
    fn random_u64(&self) -> u64;

    /// The node's disk.
    fn disk(&self) -> &Self::Disk;

    /// The node's network.
    fn net(&self) -> &Self::Net;

    /// Sleeps for `wait`.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        self.sleep_until(self.now().plus(wait))
    }

    /// Runs `work` until it ends or `deadline` comes; the work wins a tie. `None` is the deadline.
    fn before<T: Send>(
        &self,
        deadline: Mono,
        work: impl Future<Output = T> + Send,
    ) -> impl Future<Output = Option<T>> + Send {
        async move {
            ::tokio::select! {
                biased; // the work first: a result that is there is never thrown away
                done = work => Some(done),
                () = self.sleep_until(deadline) => None,
            }
        }
    }
}
