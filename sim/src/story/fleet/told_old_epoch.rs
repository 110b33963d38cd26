//! A leader leads again in a later epoch, and a follower that has not heard of that goes on to tell it how far it is: that does
//! not count (S06; the note in Kip320FirstTry.tla).
//!
//! Owns: two elections behind the back of one follower. Promises: the run fails unless the follower, in the epoch of the first
//! time, spoke to its leader of the second time long enough, and nothing was committed meanwhile (`told::lost`); and unless all of
//! it was when the follower had heard. Most often the follower has a record that the other leader never had, at an offset where
//! another one stands now; else it has the same, and nothing but the epoch tells that its word is old. Nobody is elected twice in
//! a row with us, so that another one leads in between. Drawn: who is who, whether there is such a record, how long the follower
//! is deaf, the network, the load before. Who finds what comes of it: REP-6.
//!
//! ```text
//!  C  leads ─ stops, starts          │ ✂ A    elected: x', e2 │ follows
//!  A         leads, e1: x            │               cuts x   │ leads, e3: must not show x' for what B tells
//!  B                    x            │ ✂ K, C: follows A in e1, "I have x" ───────────────────► hears: cuts x
//! ```

use std::time::Duration;

use super::desk::Desk;
use super::scripts::State;
use super::told::{Cast, lost, told};
use super::told_script::{Script, Sender};
use super::told_turns::{first_elected, second_leads, takes_the_log_of, three_of_four};
use crate::runner::{RunParams, RunReport};
use crate::story::Stop;

/// So many that the replicas of some are not on the active controller, whoever that is.
const PARTITIONS: i32 = 8;

/// Tells it.
#[must_use]
pub fn old_epoch(params: &RunParams) -> RunReport {
    told(params, PARTITIONS, three_of_four, |Cast { stage, mut dice }: Cast| async move {
        let (script, state, active) = Script::begin(&stage, &mut dice).await?;
        let deaf = Duration::from_millis(dice.between(300, 2000));
        let (has_tail, sender) = (dice.chance(700), Sender::new(&script, &mut dice));
        let again = Again { script, sender, active, deaf, has_tail };
        let state = second_leads(&again.script, &state).await?;
        again.play(&state).await
    })
}

struct Again {
    script: Script,
    sender: Sender,
    /// The controller, which has no replica.
    active: u32,
    /// How long the follower speaks in the old epoch.
    deaf: Duration,
    /// Whether the follower has a record that the other leader never had.
    has_tail: bool,
}

impl Again {
    async fn play(&self, state: &State) -> Result<(), Stop> {
        let Again { script, sender, active, deaf, has_tail } = self;
        let (scene, leader, first) = (&script.scene, state.leader, state.replicas[0]);
        let follower = state.replicas.iter().copied().find(|one| *one != leader && *one != first);
        let follower = follower.ok_or_else(|| lost("a third replica"))?;
        let desk = Desk::at(script.stage(), *active);
        if !desk.sits_down().await {
            return Err(lost("the active controller answers its operator"));
        }
        for (one, other) in [(leader, first), (follower, first), (follower, *active)] {
            scene.cut(one, other, true);
        }
        let base = script.sight(leader)?.end;
        let end = base + i64::from(*has_tail);
        if *has_tail {
            sender.send().await;
            script.until("the follower has the record", || script.sees(follower, |it| it.end == end)).await?;
        }
        let between = first_elected(script, &desk, state).await?;
        if *has_tail {
            takes_the_log_of(script, &between, (leader, end)).await?;
        }
        // Nobody ends: with the deaf follower that might leave no quorum.
        let is_taken = desk.reassign(scene.index, &[leader, first, follower]).await
            && desk.elect_first(scene.index).await;
        if !is_taken {
            return Err(lost("the leader of before is elected"));
        }
        let again = script.deposed(&between).await?;
        if again.leader != leader {
            return Err(lost("the leader of before leads again"));
        }
        let sent = if *has_tail { None } else { Some(sender.send().await) };
        // The sender may have to look for who leads now.
        script.until("something is not committed yet", || script.sees(leader, |it| it.end > base)).await?;
        script.pause(*deaf).await;
        let is_old = script.sees(follower, |it| !it.leads && it.epoch == state.epoch && it.end == end);
        let shows = script.sight(leader)?;
        if !is_old || shows.epoch != again.epoch || shows.watermark >= shows.end {
            return Err(lost(&format!(
                "nothing is committed for what a follower of before tells: {shows:?}"
            )));
        }
        script.count("followers of an epoch that was over, and are not counted");
        scene.cut(follower, *active, false);
        let end = shows.end;
        let is_shown = || script.sees(leader, |it| it.watermark >= end);
        script.until("all is committed when the follower has heard", is_shown).await?;
        let is_told = || sent.as_ref().is_none_or(|sent| sent.offset().is_some());
        script.until("the record is acknowledged", is_told).await
    }
}
