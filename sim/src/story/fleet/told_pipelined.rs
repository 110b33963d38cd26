//! A producer that does not wait for the answers of one leader before it sends to the next: five batches are on all replicas and not
//! answered, the next leader takes those behind them, and then the five come again (what Kafka's Java client does).
//!
//! Owns: who leads when, and how many batches the second leader takes. Promises: the run fails unless another replica led that had all
//! five (`told::lost`). Each of them must then be told to be there: at its offset, or, where later ones of its producer have pushed it out
//! of the last sixteen, at none (IDM-2, DUPLICATE_SEQUENCE_NUMBER, which clients take for success). Refused as out of order, Java sends it
//! again until its time is over, and tells of an error where there is none. Drawn: how the leader ends, what was there before, how many
//! batches go to whom, the network. That an answer is lost and that nobody looks at it is one thing to a broker: it is not looked at.
//! Who finds what else comes of it: the oracle (Duplicate, OffsetMismatch).
//!
//! ```text
//!  A  0 1 2 3 4, no answer │ ends, sleeps or stops
//!  B  0 1 2 3 4            │ leads ◄─ 5 6 … n, and then 0 1 2 3 4: "it is there"
//! ```

use std::time::Duration;

use super::scripts::State;
use super::told::{Cast, TOPIC, lost, told};
use super::told_script::{SENDER, Script};
use super::told_turns::three_of_four;
use crate::invariants::Broken;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::sequencer::{Sequencer, Told};
use crate::story::{Plan, Stage, Stop, bounds, within};

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;
/// Batches that a producer may have under way to one leader.
const BATCHES: usize = 5;
/// Batches of a producer whose place a leader remembers that has not read its log anew.
const REMEMBERED: usize = 16;

/// Tells it.
#[must_use]
pub fn pipelined(params: &RunParams) -> RunReport {
    let plan = |plan: &mut Plan, dice: &mut Dice| {
        three_of_four(plan, dice);
        plan.config.healing.session_timeout = Duration::from_millis(dice.between(2500, 6000));
    };
    told(params, PARTITIONS, plan, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, _) = Script::begin(&stage, &mut dice).await?;
        let machine = stage.broker.machine(SENDER);
        let topic = stage.plan.topics.iter().find(|topic| topic.name == TOPIC);
        let topic = topic.cloned().ok_or_else(|| lost("the topic of the story is in its plan"))?;
        let own = stage.world.streams().dice("pipeline", 0);
        let mut sequencer = Sequencer::of(&stage, machine, own, (topic, script.scene.index));
        within(&stage, bounds::PRODUCERS, sequencer.ready()).await?;
        let before = dice.below(4) as usize;
        sends(&stage, &mut sequencer, before + BATCHES).await?;
        script.level(&state.replicas).await?;
        let heir = succeeds(&script, &state, &mut dice).await?;
        let sight = script.sight(heir.leader)?;
        if !sight.leads || sequencer.kept() != before + BATCHES {
            return Err(lost("the next leader has what its producer sent to the one before"));
        }
        sends(&stage, &mut sequencer, dice.between(1, 24) as usize).await?;
        if script.sight(heir.leader)?.end <= sight.end {
            return Err(lost("the next leader takes what follows"));
        }
        script.count("leaders that took batches behind those that nobody has answered");
        for nth in before..before + BATCHES {
            again(&script, &sequencer, nth).await?;
        }
        Ok(())
    })
}

async fn sends(stage: &Stage, sequencer: &mut Sequencer, count: usize) -> Result<(), Stop> {
    for _ in 0..count {
        within(stage, bounds::PRODUCERS, sequencer.send()).await?;
    }
    Ok(())
}

/// Another replica leads; the one before is back, as a follower, or on its way.
async fn succeeds(script: &Script, state: &State, dice: &mut Dice) -> Result<State, Stop> {
    let leader = script.scene.node(state.leader).clone();
    match dice.below(3) {
        0 => leader.kill(),
        1 => leader.pause(),
        _ => within(script.stage(), bounds::STOP, leader.stop()).await?,
    }
    let heir = script.deposed(state).await?;
    script.pause(Duration::from_millis(dice.log_between(1, 1000))).await;
    if leader.runs() {
        leader.resume()
    } else {
        leader.begin_start()
    }
    Ok(heir)
}

/// A batch comes again, until it is told what became of it.
async fn again(script: &Script, sequencer: &Sequencer, nth: usize) -> Result<(), Stop> {
    loop {
        let (base, told) = within(script.stage(), bounds::PRODUCERS, sequencer.again(nth)).await?;
        let is_early = sequencer.kept() - nth > REMEMBERED;
        match told {
            Told::Maybe => script.pause(Duration::from_millis(50)).await,
            Told::Ok(offset) if offset == base => return Ok(()),
            Told::Ok(-1) if is_early => {
                script.count("batches told to be there, nobody knows where");
                return Ok(());
            }
            answer => {
                let of = sequencer.kept();
                let evidence = format!("batch {nth} of {of} stands at {base}, its retry was told {answer:?}");
                return Err(Stop::Broken(Broken { name: "IDM-2", evidence }));
            }
        }
    }
}
