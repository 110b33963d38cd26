//! A told story of transactions: a member that was replaced in its group commits the offsets of its transaction (KIP-447).
//!
//! Owns: the script, for both protocols of groups. Every member of a pipeline has a transactional id of its own, so that an
//! heir's id does not fence who it replaces: only the group can, by member and generation. Promises: what the zombie made is
//! not seen, each input is made into exactly one output (TXN-11), and the group's offset is the heir's (TXN-10, GRP-3).
//! Drawn: how many inputs, how far the zombie is, and how much of that it writes when it wakes.
//! Leaves out: chance (`pipes`). Run by `scenarios::group_stories`.
//!
//! ```text
//!  zombie  reads 0..n ─ begin ─ makes 0..j ─ stands still ························ makes j..k ─ offset k? ─ refused, abort
//!  heir                                      └ session over ─ reads 0..n ─ makes 0..n ─ offset n ─ commit
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq::client::group::Protocol;
use dejaq_wire::ids::Offset;

use super::meetings::{Cast, OPERATOR, claim, orders, told};
use super::telling::{Life, PATIENCE, born, put, soon, stuck, visible};
use super::{DURABLE, Plan, Stop, TopicPlan, producers};
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;

/// Where the outputs go.
const MADE: &str = "made";
/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Runs it.
#[must_use]
pub fn revenant(params: &RunParams) -> RunReport {
    let with_target = |plan: &mut Plan| {
        let made = TopicPlan { name: MADE.into(), ..plan.topics[0].clone() };
        plan.topics.push(made);
    };
    told(params, DURABLE, with_target, |cast| async move {
        let mut dice = cast.stage.world.streams().dice("revenant", 0);
        play(&cast, &mut dice, (Protocol::Classic, "classic-pipe"), 1).await?;
        play(&cast, &mut dice, (Protocol::Consumer, "new-pipe"), 2).await
    })
}

/// A transactional producer on a machine of its own.
struct Maker {
    life: Life,
    runtime: SimRuntime,
    /// Added to each input, so that the outputs of two groups differ.
    base: u64,
}

impl Maker {
    async fn new(cast: &Cast, machine: u32, id: &str, base: u64) -> Result<Maker, Stop> {
        let runtime = cast.stage.broker.machine(machine);
        let mut life = born(producers::cluster(&cast.stage, runtime.clone()), id, TIMEOUT).await?;
        life.begin().map_err(stuck("a transaction"))?;
        Ok(Maker { life, runtime, base })
    }

    async fn make(&self, inputs: std::ops::Range<i64>) -> Result<(), Stop> {
        for input in inputs {
            put(&self.life, &self.runtime, (MADE, 0), self.base + input.cast_unsigned()).await?;
        }
        Ok(())
    }
}

async fn play(cast: &Cast, dice: &mut Dice, group: (Protocol, &str), number: u32) -> Result<(), Stop> {
    let (name, machine, base) = (group.1, OPERATOR + 10 * number, 1000 * u64::from(number));
    cast.send(dice.between(3, 12) as usize).await;
    let end = cast.end().await?;
    let reached = dice.between(1, end.cast_unsigned() + 1).cast_signed();
    let early = dice.between(0, reached.cast_unsigned() + 1).cast_signed();

    let mut zombie = cast.member(machine, group, None);
    cast.read(&mut zombie, end as usize).await?;
    let mut doomed = Maker::new(cast, machine + 1, &format!("{name}-zombie"), base).await?;
    doomed.make(0..early).await?;

    let mut heir = cast.member(machine + 2, group, None);
    let handed = cast.read(&mut heir, end as usize).await?;
    claim("GRP-5", handed[0] == 0, || {
        format!("{name}: nothing is committed, the heir begins at {handed:?}")
    })?;
    let mut next = Maker::new(cast, machine + 3, &format!("{name}-heir"), base).await?;
    next.make(0..end).await?;
    let offsets = BTreeMap::from([(orders(), Offset(end))]);
    let due = soon(&next.runtime);
    next.life.send_offsets(offsets, heir.standing(), due).await.map_err(stuck("the heir's offsets"))?;
    next.life.commit(due).await.map_err(stuck("the heir's commit"))?;

    doomed.make(early..reached).await?;
    let offsets = BTreeMap::from([(orders(), Offset(reached))]);
    let due = soon(&doomed.runtime);
    let late = doomed.life.send_offsets(offsets, zombie.standing(), due).await;
    let over = match &late {
        Ok(()) => doomed.life.commit(due).await,
        Err(_) => doomed.life.abort(due).await,
    };
    over.map_err(stuck("the end of the zombie's transaction"))?;
    cast.stage.recorder.count("offsets that a zombie meant to commit in a transaction");

    let seen = visible(&cast.stage, machine + 4, (MADE, &[0]), PATIENCE).await?;
    let made: Vec<i64> = seen
        .iter()
        .filter(|value| (base..base + 1000).contains(*value))
        .map(|value| (value - base).cast_signed())
        .collect();
    let wanted: Vec<i64> = (0..end).collect();
    claim("TXN-11", made == wanted, || format!("{name}: of inputs {wanted:?} there are outputs {made:?}"))?;
    claim("TXN-10", late.is_err(), || format!("{name}: who was replaced commits offsets in a transaction"))?;
    let now = cast.committed(name).await?;
    claim("GRP-3", now == Some(end), || format!("{name}: committed {end}, now {now:?}"))
}
