//! Production: tokio's executor and timers, the system's clocks and entropy, a [`FileDisk`] and TCP.
//!
//! Owns: [`TokioRuntime`]. Promises what [`Runtime`] asks; a panic in any task ends the process at once, so that no
//! half-made state is served or synced by the tasks that would be left ([`abort_on_panic`]).
//! Leaves out: building the executor (`main` and tests do). Called by `main`, by tests and by embedders.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dejaq_storage::file_disk::FileDisk;

use super::tokio_net::{SocketOptions, TokioNet};
use super::{Mono, Runtime};

/// The world as it is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    disk: FileDisk,
    net: TokioNet,
    origin: Instant,
}

impl TokioRuntime {
    /// A runtime on this disk. Its tasks run on the tokio runtime that is current when they are spawned.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this file is the production side of the clock seam")]
    pub fn new(disk: FileDisk, sockets: SocketOptions) -> TokioRuntime {
        TokioRuntime { disk, net: TokioNet::new(sockets), origin: Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "this file is the production side of the seam")]
impl Runtime for TokioRuntime {
    type Disk = FileDisk;
    type Net = TokioNet;

    fn now(&self) -> Mono {
        Mono::default().plus(self.origin.elapsed())
    }

    fn unix_ms(&self) -> i64 {
        let signed = |wait: Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => signed(after),
            Err(before) => -signed(before.duration()),
        }
    }

    async fn sleep_until(&self, at: Mono) {
        ::tokio::time::sleep_until((self.origin + Duration::from_nanos(at.0)).into()).await;
    }

    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // The handle is not kept: a panic ends the process by the hook, and nothing waits for a task by its handle.
        drop(::tokio::spawn(task));
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
        assert_eq!(got, Ok(bytes.len()), "the system has no entropy");
        u64::from_ne_bytes(bytes)
    }

    fn disk(&self) -> &FileDisk {
        &self.disk
    }

    fn net(&self) -> &TokioNet {
        &self.net
    }
}

/// From now on a panic in any thread or task of this process prints its message and ends the process with an abort.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::conformance::{Ground, run_all};

    /// One node on loopback, with a data directory of its own.
    struct Loopback(TokioRuntime);

    impl Ground for Loopback {
        type Runtime = TokioRuntime;

        fn server(&self) -> TokioRuntime {
            self.0.clone()
        }

        fn client(&self) -> TokioRuntime {
            self.0.clone()
        }

        fn listen_address(&self) -> String {
            "127.0.0.1:0".to_owned()
        }
    }

    #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_production_runtime_keeps_the_contract() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = FileDisk::open(dir.path()).expect("it opens");
        run_all(&Loopback(TokioRuntime::new(disk, SocketOptions::default()))).await;
    }
}
