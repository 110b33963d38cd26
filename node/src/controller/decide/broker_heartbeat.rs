//! A broker says that it lives: it is let in once it has followed, and let go once it has given everything away.
//!
//! ```text
//!  fenced ── caught up ──► live ── wants to stop ──► leaving: leaderships move, a few a heartbeat
//!    ▲                      │                          └─ none left ─► stopping ── all know ──► fenced: may stop
//!    └── wants it, silence ─┘
//! ```

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, Offset};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::{Election, Wanted};
use crate::controller::sweep::{admit, retire, sweep};
use crate::metadata::level::Levels;

/// Leaderships that a leaving broker gives away with one heartbeat: each stops its producers for a moment, and they
/// should not all stop at once.
pub const LEADERS_PER_HEARTBEAT: usize = 50;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHeartbeat {
    /// Who.
    pub broker: BrokerId,
    /// In which life.
    pub broker_epoch: BrokerEpoch,
    /// It has applied everything before this metadata offset.
    pub metadata_end: Offset,
    /// It must not lead or be in sync, for example because its disk failed.
    pub want_fence: bool,
    /// It wants to stop.
    pub want_shutdown: bool,
    /// The levels of `dejaq.version` that it supports.
    pub levels: Levels,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Whether it has followed the metadata beyond its registration.
    pub caught_up: bool,
    /// Whether it is fenced.
    pub fenced: bool,
    /// Whether it may stop now.
    pub should_shut_down: bool,
}

impl Decide for BrokerHeartbeat {
    type Answer = Result<HeartbeatAnswer, Refusal>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let BrokerHeartbeat { broker, broker_epoch, .. } = self;
        let registered = draft.image().broker(broker).filter(|known| known.epoch == broker_epoch);
        let Some(known) = registered.cloned() else {
            let why = format!("broker {broker} with epoch {broker_epoch} is not registered");
            return Err(Refusal::new(ErrorCode::STALE_BROKER_EPOCH, why));
        };
        context.liveness.watch(context.now, context.settings.healing.session_timeout);
        context.liveness.heard(context.now, broker, broker_epoch, self.metadata_end);
        context.liveness.leaves(broker, self.want_shutdown);
        context.liveness.supports(broker, broker_epoch, self.levels);
        let caught_up = context.liveness.is_caught_up(broker);
        let mut should_shut_down = false;
        if known.fenced {
            should_shut_down = self.want_shutdown;
            if !self.want_shutdown && !self.want_fence && caught_up {
                admit(draft, context, broker);
            }
        } else if self.want_fence {
            mark!("a broker asks to be fenced");
            retire(draft, context, broker, true, known.shutting_down);
        } else if self.want_shutdown {
            should_shut_down = leave(draft, context, broker, known.shutting_down);
        }
        let now = draft.image().broker(broker).expect("a heartbeat unregisters nobody");
        Ok(HeartbeatAnswer { caught_up, fenced: now.fenced, should_shut_down })
    }
}

/// One step of a controlled shutdown; whether it is done.
fn leave(draft: &mut Draft, context: &mut Context<'_>, broker: BrokerId, stopping: bool) -> bool {
    if stopping {
        let end = context.liveness.stopping_at(broker, draft.image().end());
        let known = context.liveness.have_all_applied(draft.image(), end, broker);
        if known {
            mark!("a broker that gave everything away may stop");
            retire(draft, context, broker, true, true);
        }
        return known;
    }
    let step_down = |partition: &crate::metadata::Partition| {
        let wanted = Wanted { election: Election::StepDown, ..Wanted::default() };
        (partition.leader == broker).then_some(wanted)
    };
    let moved = sweep(draft, context, LEADERS_PER_HEARTBEAT, |_, _, partition| step_down(partition));
    if moved == 0 {
        // What nobody else can lead goes offline with it; what it follows goes on without it.
        retire(draft, context, broker, false, true);
        let records = i64::try_from(draft.records().len()).expect("a draft is small");
        context.liveness.stops_at(broker, draft.image().end().plus(records));
    }
    false
}
