//! What a broker does to be a member of its cluster: it registers, says that it lives, and leaves in peace.
//!
//! Owns: [`enroll`], and [`Member`], which keeps the session with the active controller alive from then on.
//! Promises: a broker that does not know its registration to be applied serves nothing, because [`enroll`] does not return
//! before (MQ-14); the same process registers once, however often it has to ask; every wait has a bound, [`Member::leave`]
//! above all.
//! Leaves out: what the controller makes of it (`decide::register_broker`, `decide::broker_heartbeat`), finding it (`reach`).
//! SHELL.
//!
//! ```text
//!  enroll ─► registered, applied here ─► heartbeat: often while fenced or while somebody leaves, else a quarter of a session
//!  leave  ─► heartbeat says so ─► leaderships move away, a few at a time ─► may stop │ too long
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::decide::broker_heartbeat::{BrokerHeartbeat, HeartbeatAnswer};
use super::decide::register_broker::RegisterBroker;
use super::draft::Refusal;
use super::lease::Lease;
use super::reach::Reach;
use crate::metadata::level::Levels;
use crate::metadata::{Image, Published};
use crate::runtime::{Mono, Runtime};

/// How long one attempt to register, or a wait for its effect, takes at most.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two refused attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Between heartbeats while something waits for them.
const HURRY: Duration = Duration::from_millis(50);

/// Why a broker is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotEnrolled {
    /// The cluster does not want it; its text says why.
    #[error("the cluster refuses this broker: {0}")]
    Refused(Refusal),
    /// This node's own part in the quorum ended.
    #[error("{0}")]
    Stopped(String),
}

/// Registers this life of the broker, and waits until that is applied here. Waits for a quorum as long as it takes.
///
/// # Errors
/// [`NotEnrolled`].
pub async fn enroll<R: Runtime>(
    runtime: &R,
    reach: &Reach<R>,
    published: &Published,
    register: RegisterBroker,
    session_timeout: Duration,
) -> Result<BrokerEpoch, NotEnrolled> {
    // A process that is gone, and whose disk is replaced, is told from one that lives by two sessions of silence.
    let give_up = runtime.now().plus(session_timeout * 2);
    loop {
        let answered = reach.ask(register.clone(), runtime.now().plus(ATTEMPT)).await;
        if let Some(why) = reach.controller().stopped() {
            return Err(NotEnrolled::Stopped(why.to_owned()));
        }
        match answered.result {
            Ok(epoch) => {
                let applied = is_applied(published, register.broker, epoch);
                if runtime.before(runtime.now().plus(ATTEMPT), applied).await.is_some() {
                    return Ok(epoch);
                }
                info!(broker = register.broker.0, "registered, and still following the metadata");
            }
            Err(why) if why.code == ErrorCode::DUPLICATE_BROKER_REGISTRATION => {
                if runtime.now() >= give_up {
                    return Err(NotEnrolled::Refused(why));
                }
                warn!(%why, "this broker is not let in yet");
                runtime.sleep(PAUSE).await;
            }
            Err(why) if is_transient(why.code) => info!(%why, "waiting for the quorum"),
            Err(why) => return Err(NotEnrolled::Refused(why)),
        }
    }
}

fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_CONTROLLER | ErrorCode::KAFKA_STORAGE_ERROR)
}

async fn is_applied(published: &Published, broker: BrokerId, epoch: BrokerEpoch) {
    let mut image = published.current();
    while image.broker(broker).is_none_or(|known| known.epoch < epoch) {
        image = published.after(image.end()).await;
    }
}

/// A broker that is registered.
#[derive(Debug)]
pub struct Member {
    me: BrokerId,
    epoch: BrokerEpoch,
    /// What it supports: the controller hears it again and again, because no record of level 1 says it.
    levels: Levels,
    state: Mutex<State>,
    /// One waiter: the heartbeat.
    told: Notify,
    /// One waiter: who leaves.
    let_go: Notify,
}

#[derive(Debug)]
struct State {
    lease: Lease,
    leaving: bool,
    /// Why the cluster knows this life no more, if that was its last word.
    lost: Option<String>,
    may_stop: bool,
    ended: bool,
    /// Somebody waits for what the next heartbeats say.
    hurry: bool,
}

/// Whether this broker must not lead or be in sync, because its disk failed.
pub type IsUnfit = Box<dyn Fn() -> bool + Send + Sync>;

impl Member {
    /// A member that says nothing yet.
    #[must_use]
    pub fn new(me: BrokerId, epoch: BrokerEpoch, levels: Levels, lease: Lease) -> Arc<Member> {
        let (leaving, lost, may_stop, ended, hurry) = (false, None, false, false, false);
        let state = Mutex::new(State { lease, leaving, lost, may_stop, ended, hurry });
        Arc::new(Member { me, epoch, levels, state, told: Notify::new(), let_go: Notify::new() })
    }

    /// Begins to say that it lives.
    pub fn start<R: Runtime>(
        self: &Arc<Member>,
        runtime: &R,
        reach: Reach<R>,
        published: Published,
        session_timeout: Duration,
        is_unfit: IsUnfit,
    ) {
        let pulse = Pulse { member: self.clone(), reach, published, session_timeout, is_unfit };
        runtime.spawn("heartbeat", pulse.run(runtime.clone()));
    }

    /// There is a newer image, and it is in effect here.
    pub fn follow(&self, image: &Image) {
        let fenced = image.broker(self.me).is_none_or(|me| me.fenced);
        let somebody_stops = image.brokers().any(|broker| broker.shutting_down && !broker.fenced);
        let mut state = self.lock();
        let hurry = fenced || somebody_stops;
        if hurry || state.hurry {
            state.hurry = hurry;
            drop(state);
            self.told.notify_one();
        }
    }

    /// Gives everything away, until `deadline` at most; whether nothing is left.
    pub async fn leave<R: Runtime>(&self, runtime: &R, deadline: Mono) -> bool {
        self.lock().leaving = true;
        self.told.notify_one();
        let let_go = async {
            // Who is no member has nothing to give away, and nobody to wait for.
            while !self.is_let_go() {
                self.let_go.notified().await;
            }
        };
        let left = runtime.before(deadline, let_go).await.is_some();
        if !left {
            mark!("a broker stops before everything is given away");
            warn!(
                "not everything was given away in time: its partitions will be led elsewhere once this broker is missed"
            );
        }
        left
    }

    /// Its life, as the cluster numbered it.
    #[must_use]
    pub fn epoch(&self) -> BrokerEpoch {
        self.epoch
    }

    /// Whether what this broker leads, by the metadata before `applied`, is led by nobody else for certain (see [`lease`]).
    ///
    /// [`lease`]: super::lease
    #[must_use]
    pub fn holds_lease(&self, now: Mono, applied: Offset) -> bool {
        self.lock().lease.holds(now, applied)
    }

    /// Why the cluster has thrown this broker out, if it has: only a new life, which a restart begins, is let in.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Says nothing any more.
    pub fn end(&self) {
        self.lock().ended = true;
        self.told.notify_one();
    }

    fn is_let_go(&self) -> bool {
        let state = self.lock();
        state.may_stop || state.lost.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Pulse<R: Runtime> {
    member: Arc<Member>,
    reach: Reach<R>,
    published: Published,
    session_timeout: Duration,
    is_unfit: IsUnfit,
}

impl<R: Runtime> Pulse<R> {
    async fn run(self, runtime: R) {
        loop {
            let begun = runtime.now();
            let pause = self.beat(&runtime).await;
            let next = begun.plus(pause);
            if self.member.lock().ended {
                return;
            }
            // Whatever is told meanwhile is said with the next one, which is never sooner than a hurried one.
            let _ = runtime.before(next, self.member.told.notified()).await;
            runtime.sleep_until(begun.plus(HURRY)).await;
        }
    }

    /// The end of this life as a member. It is asked on all the same: a controller that was deposed may be wrong.
    fn lose(&self, why: &Refusal) {
        let told = "the cluster does not know this life of this broker any more: restart it";
        let known = {
            let mut state = self.member.lock();
            state.lease.lose();
            state.lost.replace(format!("{told} ({why})"))
        };
        if known.is_none() {
            error!(%why, "{told}");
        }
        self.member.let_go.notify_one();
    }

    /// One heartbeat; how long until the next.
    async fn beat(&self, runtime: &R) -> Duration {
        let quarter = self.session_timeout / 4;
        let (leaving, hurry) = {
            let state = self.member.lock();
            (state.leaving, state.hurry || state.leaving)
        };
        let heartbeat = BrokerHeartbeat {
            broker: self.member.me,
            broker_epoch: self.member.epoch,
            metadata_end: self.published.applied_end(),
            want_fence: (self.is_unfit)(),
            want_shutdown: leaving,
            levels: self.member.levels,
        };
        let sent = runtime.now();
        let answered = self.reach.ask(heartbeat, sent.plus(quarter)).await;
        match answered.result {
            Ok(HeartbeatAnswer { fenced, should_shut_down, .. }) => {
                {
                    let mut state = self.member.lock();
                    state.lost = None;
                    if fenced {
                        state.lease.lose();
                    } else {
                        state.lease.renew(sent, answered.end);
                    }
                }
                if leaving && should_shut_down {
                    self.member.lock().may_stop = true;
                    self.member.let_go.notify_one();
                }
                if fenced || hurry { HURRY } else { quarter }
            }
            Err(why) if why.code == ErrorCode::STALE_BROKER_EPOCH => {
                self.lose(&why);
                quarter
            }
            Err(why) => {
                debug!(%why, "a heartbeat was not heard");
                HURRY
            }
        }
    }
}
