//! One simulated world: virtual time, the trace, the streams of randomness, the network, and who is alive.
//!
//! Owns: what all nodes share. Promises: everything in here is a function of the seed; [`World::run`] turns a panic of
//! any node into a value with its place. Leaves out: nodes (see `cluster`), faults (see `nemesis`).
//! madsim is the executor, the virtual time and the order of ready tasks, and nothing more.

#[cfg(not(madsim))]
compile_error!(
    "the simulator needs `--cfg madsim`; it is in `.cargo/config.toml` of this repository: build from inside it, \
     and do not set RUSTFLAGS (it replaces that setting)"
);

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use dejaq_storage::probe;
use madsim::runtime::{Handle, Runtime};
use madsim::time::{Sleep, TimeHandle};

use crate::net::Network;
use crate::rng::Streams;
use crate::trace::{Trace, Who};

/// Held by the one world that runs in this process.
static ONE: Mutex<()> = Mutex::new(());

/// The supervisor's own name in the trace.
pub const NOBODY: Who = Who { node: 0, incarnation: 0 };

/// The world of one run. Cheap to clone; clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    streams: Streams,
    trace: Trace,
    time: TimeHandle,
    handle: Handle,
    network: Network,
}

impl World {
    /// Runs `story` in a new world made from `seed`, to its end or to the first panic of anything in it. One at a time in a
    /// process, since marks, whims and the panic hook are the process's: tests that run worlds wait for one another.
    ///
    /// # Errors
    /// The panic's message and place.
    pub fn run<T, F>(seed: u64, trace: Option<&Path>, story: impl FnOnce(World) -> F) -> Result<T, String>
    where
        F: Future<Output = T>,
    {
        let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        probe::forget_marks();
        let place = note_panics();
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        // Past this the run is stuck, whatever the story thinks; no story takes an hour of virtual time.
        runtime.set_time_limit(Duration::from_secs(24 * 3600));
        let handle = runtime.handle().clone();
        let trace = Trace::new(trace);
        let told = trace.clone();
        let _logs = trace.wants_notes().then(|| crate::logs::listen(&trace));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async move {
                let time = TimeHandle::current();
                let world = World(Arc::new(Inner {
                    streams: Streams::new(seed),
                    trace,
                    time,
                    handle,
                    network: Network::default(),
                }));
                story(world).await
            })
        }));
        // The tasks of this world hold one another; the process ends with the seed, so nothing is gained by undoing it.
        std::mem::forget(runtime);
        // Of a run that panicked the lines are all that is left.
        let _flushed = told.digest();
        outcome.map_err(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            let place = place.lock().map(|place| place.clone()).unwrap_or_default();
            if place.is_empty() { text.to_owned() } else { place }
        })
    }

    /// Virtual time since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.time.elapsed().as_nanos() as u64
    }

    /// The streams of randomness.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.0.streams
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// Notes an event of `who` at this moment.
    #[track_caller]
    pub fn event(&self, who: Who, kind: &'static str, words: &[u64], text: impl FnOnce() -> String) {
        self.0.trace.event(self.now_ns(), who, kind, words, text);
    }

    /// Returns at virtual time `at_ns` or at once.
    #[must_use]
    pub fn sleep_until(&self, at_ns: u64) -> SimSleep {
        SimSleep { time: self.0.time.clone(), at_ns, timer: None }
    }

    /// Returns after this much virtual time.
    #[must_use]
    pub fn sleep(&self, wait: Duration) -> SimSleep {
        self.sleep_until(self.now_ns().saturating_add(wait.as_nanos() as u64))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

/// Waits in virtual time. Registers one timer however often it is polled (madsim's own adds one a poll), wakes nobody
/// once it is dropped, and has no least duration (madsim's is 1 ms).
pub struct SimSleep {
    time: TimeHandle,
    at_ns: u64,
    timer: Option<(Arc<Slot>, Pin<Box<Sleep>>)>,
}

#[derive(Default)]
struct Slot(Mutex<Option<Waker>>);

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        if let Some(waker) = self.0.lock().expect("nothing panics in here").take() {
            waker.wake();
        }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let now = self.time.elapsed();
        let left = Duration::from_nanos(self.at_ns).saturating_sub(now);
        if left.is_zero() {
            return Poll::Ready(());
        }
        let known = self.timer.as_ref().map(|(slot, _)| slot.clone());
        let slot = known.clone().unwrap_or_default();
        *slot.0.lock().expect("nothing panics in here") = Some(context.waker().clone());
        if known.is_none() {
            let deadline = self.time.now_instant() + left;
            let mut sleep = Box::pin(self.time.sleep_until(deadline));
            sleep.as_mut().reset(deadline);
            let waker = Waker::from(slot.clone());
            let _ = sleep.as_mut().poll(&mut Context::from_waker(&waker));
            self.timer = Some((slot, sleep));
        }
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some((slot, _)) = &self.timer {
            slot.0.lock().expect("nothing panics in here").take();
        }
    }
}

/// Keeps the first panic's place and words; prints nothing twice.
fn note_panics() -> Arc<Mutex<String>> {
    let place = Arc::new(Mutex::new(String::new()));
    let kept = place.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Ok(mut kept) = kept.lock()
            && kept.is_empty()
        {
            let words = info.payload().downcast_ref::<String>().cloned();
            let words =
                words.or_else(|| info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let at = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
            *kept = words.unwrap_or_default() + &at;
        }
        before(info);
    }));
    place
}
