//! Time passes: who is silent is fenced, what nobody leads is led again, what is missing is made anew.
//!
//! Called by the driver of the active controller, several times in a session timeout. Promises: nothing at all happens
//! in a cluster of one broker; a look that finds nothing to do costs nothing until something changes.

use std::collections::BTreeSet;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ids::BrokerId;

use super::reassign::begin;
use crate::controller::draft::{Context, Decide, Draft};
use crate::controller::planner::{Why, any_under_way, in_flight, plan};
use crate::controller::succession::{Election, Wanted};
use crate::controller::sweep::{ALL, retire, sweep};
use crate::metadata::Partition;
use crate::metadata::record::RebalanceChanged;

/// How often the driver lets time pass.
pub const TICK: Duration = Duration::from_millis(250);
/// Leaderships that go back to their preferred replicas in one tick.
const LEADERS_PER_TICK: usize = 50;

/// The request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick;

impl Decide for Tick {
    type Answer = ();

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) {
        if draft.image().brokers().count() < 2 {
            return;
        }
        let healing = &context.settings.healing;
        let (now, session) = (context.now, healing.session_timeout);
        context.liveness.watch(now, session);
        context.liveness.meet(now, draft.image());
        for broker in context.liveness.silent(now, draft.image(), context.settings.node, session) {
            mark!("a silent broker is fenced");
            let stopping = draft.image().broker(broker).is_some_and(|known| known.shutting_down);
            retire(draft, context, broker, true, stopping);
        }
        let missing = match context.settings.healing.recreate_after {
            Some(after) => context.liveness.missing(now, after),
            None => BTreeSet::new(),
        };
        let rests = draft.records().is_empty() && context.liveness.is_at_rest(draft.image().end(), &missing);
        if !rests {
            let before = draft.records().len();
            sweep(draft, context, ALL, |_, _, partition| orphan(partition).then(Wanted::default));
            heal(draft, context, &missing);
            if draft.records().len() == before {
                context.liveness.rest(draft.image().end(), missing);
            }
        }
        if let Some(every) = context.settings.healing.leader_round
            && context.liveness.is_leader_round(now, every)
        {
            prefer(draft, context);
        }
    }
}

fn orphan(partition: &Partition) -> bool {
    partition.leader == BrokerId::NONE
}

/// Begins the moves of the plan: as many new ones as there is room for, and whatever is to go elsewhere than it is going.
fn heal(draft: &mut Draft, context: &mut Context<'_>, missing: &BTreeSet<BrokerId>) {
    let healing = &context.settings.healing;
    assert!(healing.max_moves >= 2, "two partitions could never change places");
    let room = healing.max_moves.saturating_sub(in_flight(draft.image()));
    // Who is away for a moment still holds what it holds, and the plan does not count it. The rebalance goes on with it when it is
    // back; until then, once the others are even, what a person moves stays where it is.
    let is_away = |id: BrokerId, live: bool, draining: bool| !live && !draining && !missing.contains(&id);
    let some_away = draft.image().brokers().any(|one| is_away(one.id, one.is_live(), one.draining));
    context.liveness.waits &= some_away;
    let mut moves = plan(draft.image(), missing, room);
    moves.retain(|one| !(context.liveness.waits && one.why == Why::Balance));
    let idle = moves.is_empty();
    for one in moves {
        let at = (one.topic_id, one.partition);
        let begun = begin(draft, context, at, &one.target).is_ok();
        context.liveness.waits &= !begun; // what it moves may leave others uneven
        if begun && one.why != Why::Balance && healing.auto_rebalance && !draft.image().is_rebalancing() {
            draft.push(RebalanceChanged { active: true });
        }
    }
    let at_rest = idle && room > 0 && in_flight(draft.image()) == 0;
    if at_rest && draft.image().is_rebalancing() && !any_under_way(draft.image()) {
        context.liveness.waits = some_away;
        if !some_away {
            mark!("a rebalance comes to rest");
            draft.push(RebalanceChanged { active: false });
            context.liveness.hasten_leader_round(context.now);
        }
    }
}

/// Leaderships go back to who should have them, a few at a time.
fn prefer(draft: &mut Draft, context: &mut Context<'_>) {
    let moved = sweep(draft, context, LEADERS_PER_TICK, |_, _, partition| {
        let elsewhere = !orphan(partition) && partition.leader != partition.replicas[0];
        let wanted = Wanted { election: Election::Preferred, ..Wanted::default() };
        (elsewhere && partition.isr.contains(&partition.replicas[0])).then_some(wanted)
    });
    if moved == LEADERS_PER_TICK {
        context.liveness.hasten_leader_round(context.now);
    }
}
