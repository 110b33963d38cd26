//! A reader is sent to a follower that lags (KIP-392); then that follower lies before the start of its leader's log, begins
//! another one there, and leads before it knows what is visible (S09).
//!
//! Owns: what the follower lacks, what is deleted meanwhile, and who is asked. Promises: the run fails unless the follower was
//! asked for what it did not know to be visible, on its log and behind its end; unless its log ended before its leader's start; and
//! unless it led, with that start and a lower watermark than readers had seen (`told::lost`). Nobody may be told that a position is
//! out of range which is not, since a reader would begin anew then, nor of an earlier end. That a lost tail lies before another
//! leader's start, too, is met by chance (`cluster_moves`). Drawn: who is who, how many records, where the start moves, the network,
//! the load before. Who finds what comes of it: the oracle, REP-17 (FalseOutOfRange) and REP-3 (StaleEndOffset); REP-5, REP-8.
//!
//! ```text
//!  A  leads: 0 … 100               start 60 │        104, shows it ✝                back
//!  B         0 … 100               start 60 │        104 ✂ C
//!  C  0 … 50, asked for 50 … 100            │ 60 …   104, ✂ A      leads from 60, does not know the end ─► 104
//!     "not available", not "out of range"
//! ```

use super::desk::Desk;
use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{Given, Onlooker, Script, Sender};
use super::told_turns::{second_leads, three_of_four};
use super::told_watermark::ask;
use crate::oracle::Event;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::story::{Stop, bounds, within};
use crate::world::NOBODY;

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;

/// Tells it.
#[must_use]
pub fn nearest(params: &RunParams) -> RunReport {
    told(
        params,
        PARTITIONS,
        |plan, dice| {
            three_of_four(plan, dice);
            plan.topics.iter_mut().for_each(|topic| topic.trims = true);
        },
        |Cast { stage, mut dice }: Cast| async move {
            let (script, state, active) = Script::begin(&stage, &mut dice).await?;
            let sender = Sender::new(&script, &mut dice);
            let onlooker = Onlooker::new(&script).await?;
            let state = second_leads(&script, &state).await?;
            let nearest = Nearest { script, sender, onlooker, state };
            let start = nearest.lags(active, &mut dice).await?;
            nearest.leads(start, &mut dice).await
        },
    )
}

struct Nearest {
    script: Script,
    sender: Sender,
    onlooker: Onlooker,
    state: State,
}

impl Nearest {
    /// The preferred replica, which follows, lags, is asked, and lies before the start of its leader. Returns that start.
    async fn lags(&self, active: u32, dice: &mut Dice) -> Result<i64, Stop> {
        let Nearest { script, sender, onlooker, state } = self;
        let (scene, leader, late) = (&script.scene, state.leader, state.replicas[0]);
        let had = script.sight(late)?.end;
        within(script.stage(), bounds::STOP, scene.node(late).stop()).await?;
        let end = had + dice.between(2, 6) as i64;
        for _ in had..end {
            sender.send().await;
        }
        script.until("more is visible", || script.sees(leader, |it| it.watermark == end)).await?;
        for other in state.replicas.iter().filter(|other| **other != late) {
            scene.cut(late, *other, true);
        }
        scene.node(late).begin_start();
        script.until("the follower is back", || script.sees(late, |it| !it.leads && it.end == had)).await?;
        for from in had..=end {
            match onlooker.read_at(late, from).await {
                Given::Refused => script.count("reads of what a follower does not know to be visible"),
                // On its own log there is nothing yet. The oracle judges what is out of range, when it has seen the whole log.
                Given::Records(0) | Given::OutOfRange => {}
                told => return Err(lost(&format!("a follower asks a reader at {from} to wait: {told:?}"))),
            }
        }
        let start = dice.between(had as u64 + 1, end as u64 + 1) as i64;
        let part = script.stage().recorder.part(&scene.topic, scene.index);
        script.stage().recorder.event(NOBODY, Event::Trimmed { part, to: start });
        let (desk, index) = (Desk::at(script.stage(), active), scene.index);
        script.stage().broker.clone().aside(async move { desk.delete_before(index, start).await });
        script
            .until("the start of the log has moved", || script.sees(leader, |it| it.start == start))
            .await?;
        script.count("followers before the start of their leader");
        Ok(start)
    }

    /// It begins another log there, is in sync, and leads before it knows what is visible.
    async fn leads(&self, start: i64, dice: &mut Dice) -> Result<(), Stop> {
        let Nearest { script, sender, onlooker, state } = self;
        let (scene, leader, late) = (&script.scene, state.leader, state.replicas[0]);
        let others: Vec<u32> = state.replicas.iter().copied().filter(|one| *one != late).collect();
        others.iter().for_each(|other| scene.cut(late, *other, false));
        let is_whole =
            || scene.state().is_some_and(|now| now.leader == leader && now.isr.len() == now.replicas.len());
        script.until("all are in sync", is_whole).await?;
        script
            .until("the follower's log begins at the start", || script.sees(late, |it| it.start == start))
            .await?;
        let end = script.sight(leader)?.end + dice.between(1, 4) as i64;
        for _ in script.sight(leader)?.end..end {
            sender.send().await;
        }
        let have_it = || others.iter().chain([&late]).all(|one| script.sees(*one, |it| it.end == end));
        script.until("all have the last records", have_it).await?;
        scene.stage.world.network().set_cut(leader, late, true);
        others.iter().filter(|other| **other != leader).for_each(|other| scene.cut(late, *other, true));
        script.until("the leader shows them", || script.sees(leader, |it| it.watermark == end)).await?;
        if onlooker.end_at(leader).await != Some(Ok(end)) {
            return Err(lost("the leader tells of the end"));
        }
        scene.node(leader).kill();
        let heir = script.deposed(state).await?;
        let sight = script.sight(late)?;
        if heir.leader != late || sight.start != start || sight.watermark >= end {
            return Err(lost(&format!(
                "it leads from the start, and does not know what was visible: {sight:?}"
            )));
        }
        ask(script, onlooker, late, (sight.watermark, end)).await?;
        script.count("leaders that began at a start, and do not know what was visible");
        others.iter().for_each(|other| scene.cut(late, *other, false));
        scene.node(leader).begin_start();
        script.until("it learns what was visible", || script.sees(late, |it| it.watermark >= end)).await
    }
}
