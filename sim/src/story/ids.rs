//! Told stories of transactional ids: one that is forgotten and comes back (S48), one whose epochs are used up (S54), and
//! one that two clients have, of which the first asks for its next epoch (KIP-360).
//!
//! Owns: the scripts. Promises, each a finding: an id is forgotten when it was silent for long enough, not sooner, and never
//! while its transaction is open (TXN-4); who had it before is nobody then, and nobody's when it comes back (TXN-8), through
//! an end of the broker, too; an epoch is given out once, and behind the last one there is another producer id (TXN-14),
//! however the last one was used. Drawn: times, what ends the broker, how the last epoch is used.
//! Leaves out: producers that partitions forget (`storage`). Run by `scenarios::group_stories`.
//!
//! ```text
//!  S48  commit 1 ─ silent ─ hour after hour ─ forgotten ─ the old life: refused ─ end of the broker ─ a new life: commit 4
//!       open 2 ───────────────────────────── known ──────────────────────────────────────────────── commit 2
//!  S54  32 765 lives ─ the last epoch ─┬ another life          ─┐
//!                                      ├ a commit               ├─► another producer id, epoch 0; the old one is over
//!                                      └ open, another life     ─┘
//!  two  commit 1 ─ another life ─ the first names itself, to go on: fenced ─ the other: commit 2 ─ names itself, twice: one answer
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq::client::cluster::Cluster;
use dejaq::client::group::coordinator::Coordinator;
use dejaq::client::txn::tools::{self, ToolError};
use dejaq::runtime::Runtime;
use dejaq_storage::model_disk::CrashMode;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};
use dejaq_wire::kafka::init_producer_id::InitProducerIdRequest;

use super::meetings::{begin, claim};
use super::rebalance::quiet;
use super::recorder::Recorder;
use super::telling::{Life, PATIENCE, born, put, soon, stuck, try_put, visible};
use super::{DURABLE, Plan, Stage, Stop, bounds, producers, report, within};
use crate::disk::Speed;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport};
use crate::runtime::SimRuntime;
use crate::world::World;

const TOPIC: &str = "accounts";
/// The machine of the first client; the others follow.
const CLIENT: u32 = 500;
/// How often the coordinator looks for silent ids.
const SWEEP: Duration = Duration::from_secs(3600);
/// How often the story looks for the one.
const LOOK: Duration = Duration::from_secs(300);
/// Longer than any story.
const LONG: Duration = Duration::from_secs(8 * 3600);
/// The last epoch that a producer is given.
const LAST_EPOCH: i16 = i16::MAX - 1;

/// Runs S48.
#[must_use]
pub fn forgotten(params: &RunParams) -> RunReport {
    told(params, |plan, dice| {
        let expiry = Duration::from_secs(dice.between(600, 5400));
        plan.config.transactions.id_expiry = expiry;
        plan.config.transactions.max_timeout = LONG;
        move |cast: Cast| async move { cast.forgotten(expiry).await }
    })
}

/// Runs S54.
#[must_use]
pub fn used_up(params: &RunParams) -> RunReport {
    told(params, |plan, dice| {
        plan.config.transactions.max_timeout = LONG;
        // Time is virtual, but 32 765 answers are not.
        let quick = Duration::from_micros(50);
        plan.latency = (quick, quick);
        plan.disk = Speed { sync_from: quick, sync_to: quick, stall: Duration::ZERO };
        let last = *dice.pick(&[Last::Life, Last::Commit, Last::Open]);
        move |cast: Cast| async move { cast.used_up(last).await }
    })
}

/// Runs the one of two clients.
#[must_use]
pub fn comes_back(params: &RunParams) -> RunReport {
    told(params, |plan, _| {
        plan.config.transactions.max_timeout = LONG;
        move |cast: Cast| async move { cast.comes_back().await }
    })
}

/// How the last epoch of a producer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// For nothing; another life of the id begins.
    Life,
    /// For a transaction that is committed.
    Commit,
    /// For a transaction that is open when another life begins.
    Open,
}

fn told<S, F>(params: &RunParams, shape: impl FnOnce(&mut Plan, &mut Dice) -> S) -> RunReport
where
    S: FnOnce(Cast) -> F,
    F: Future<Output = Result<(), Stop>>,
{
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        let mut plan = quiet(&world, (TOPIC, 1), DURABLE);
        let mut dice = world.streams().dice("ids", 0);
        plan.config.transactions.partitions = dice.between(1, 5) as u32;
        let script = shape(&mut plan, &mut dice);
        let plan = Arc::new(plan);
        let recorder = Recorder::new(&world, &plan);
        let stage = Stage::new(&world, plan, recorder, false);
        let outcome = match begin(&stage).await {
            Ok(()) => script(Cast::new(&stage, dice)).await,
            Err(stop) => Err(stop),
        };
        report(&stage, outcome)
    });
    ended.unwrap_or_else(RunReport::crash)
}

/// A client machine on which all lives of this story are, and its dice.
struct Cast {
    stage: Stage,
    runtime: SimRuntime,
    cluster: Cluster<SimRuntime>,
    dice: Dice,
}

impl Cast {
    fn new(stage: &Stage, dice: Dice) -> Cast {
        let runtime = stage.broker.machine(CLIENT);
        Cast { stage: stage.clone(), cluster: producers::cluster(stage, runtime.clone()), runtime, dice }
    }

    async fn life(&self, id: &str, timeout: Duration) -> Result<Life, Stop> {
        born(self.cluster.clone(), id, timeout).await
    }

    async fn put(&self, life: &mut Life, value: u64) -> Result<(), Stop> {
        life.begin().map_err(stuck("a transaction"))?;
        put(life, &self.runtime, (TOPIC, 0), value).await
    }

    async fn commit(&self, life: &mut Life) -> Result<(), Stop> {
        life.commit(soon(&self.runtime)).await.map_err(stuck("a commit"))
    }

    /// Who was, tries a transaction; whether anything says that it was committed.
    async fn haunts(&self, life: &mut Life, value: u64) -> bool {
        // Where a transaction is open it goes on with that.
        let begun = life.in_transaction() || life.begin().is_ok();
        let wrote = begun && try_put(life, &self.runtime, (TOPIC, 0), value).await.is_ok();
        let told = life.commit(soon(&self.runtime)).await;
        self.stage.recorder.count("lives that were over and went on");
        wrote || told.is_ok()
    }

    /// Whose the id is, and in which state; `None` where nobody knows it.
    async fn describe(&self, id: &str) -> Result<Option<(ProducerId, String)>, Stop> {
        match tools::describe(&self.cluster, id, soon(&self.runtime)).await {
            Ok(told) => Ok(Some((told.producer, told.state))),
            Err(ToolError::Refused { code: ErrorCode::TRANSACTIONAL_ID_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(Stop::Stuck(format!("nobody describes {id}: {error}"))),
        }
    }

    async fn again(&mut self) -> Result<(), Stop> {
        match self.dice.chance(500) {
            true => self.stage.broker.power_cut(CrashMode::Lose),
            false => self.stage.broker.kill(),
        }
        self.stage.broker.begin_start();
        within(&self.stage, bounds::READY, self.stage.broker.ready()).await
    }

    async fn visible(&self) -> Result<Vec<u64>, Stop> {
        visible(&self.stage, CLIENT + 1, (TOPIC, &[0]), PATIENCE).await
    }

    async fn forgotten(mut self, expiry: Duration) -> Result<(), Stop> {
        let mut silent = self.life("silent", Duration::from_secs(60)).await?;
        let mut open = self.life("open", LONG).await?;
        let begun = self.runtime.now();
        self.put(&mut silent, 1).await?;
        self.commit(&mut silent).await?;
        let (was, _) = silent.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        self.put(&mut open, 2).await?;
        while self.describe("silent").await?.is_some() {
            let silent_for = self.runtime.now().since(begun);
            claim("IDM-7", silent_for < expiry + SWEEP + LOOK, || {
                format!(
                    "an id is known that was silent for {silent_for:?}, and may be forgotten after {expiry:?}"
                )
            })?;
            self.stage.world.sleep(LOOK).await;
        }
        let silent_for = self.runtime.now().since(begun);
        claim("IDM-7", silent_for >= expiry, || {
            format!("an id is forgotten that was silent for {silent_for:?}, and not for {expiry:?}")
        })?;
        self.stage.recorder.count("transactional ids forgotten");
        self.is_open("open").await?;
        let told = self.haunts(&mut silent, 3).await;
        claim("TXN-8", !told, || "a producer goes on whose transactional id was forgotten".into())?;
        if self.dice.chance(700) {
            self.again().await?;
            let now = self.describe("silent").await?;
            claim("TXN-8", now.is_none(), || format!("an id that was forgotten is back: {now:?}"))?;
            self.is_open("open").await?;
        }
        let mut next = self.life("silent", Duration::from_secs(60)).await?;
        let (now, epoch) = next.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        claim("TXN-8", now != was, || format!("an id comes back as {now:?} {epoch:?}, which it was before"))?;
        self.put(&mut next, 4).await?;
        let told = self.haunts(&mut silent, 5).await;
        claim("TXN-8", !told, || "a producer goes on whose transactional id another one has".into())?;
        self.commit(&mut next).await?;
        self.commit(&mut open).await?;
        let seen = self.visible().await?;
        claim("TXN-7", seen == [1, 2, 4], || format!("1, 2 and 4 are committed, readers see {seen:?}"))
    }

    /// However long it is open, its coordinator knows of it.
    async fn is_open(&self, id: &str) -> Result<(), Stop> {
        let now = self.describe(id).await?;
        let is_open = now.as_ref().is_some_and(|(_, state)| state == "Ongoing");
        claim("TXN-4", is_open, || format!("`{id}` has a transaction open, and its coordinator says {now:?}"))
    }

    async fn used_up(mut self, last: Last) -> Result<(), Stop> {
        let old = self.spend().await?;
        let mut first = self.life("spender", LONG).await?;
        let identity = first.identity_now();
        claim("TXN-14", identity == Some((old, ProducerEpoch(LAST_EPOCH))), || {
            format!("behind the one before the last epoch of {old:?} comes {identity:?}")
        })?;
        self.stage.recorder.count(format!("producers with their epochs used up: {last:?}"));
        let mut wanted = Vec::new();
        let mut next = match last {
            Last::Life => self.life("spender", LONG).await?,
            Last::Commit => {
                self.put(&mut first, 1).await?;
                self.commit(&mut first).await?;
                wanted.push(1);
                let told = first.identity_now();
                claim("TXN-14", told.is_some_and(|now| is_fresh(old, now)), || {
                    format!("behind the last epoch of {old:?} a commit gives {told:?}")
                })?;
                self.put(&mut first, 2).await?;
                self.commit(&mut first).await?;
                wanted.push(2);
                self.life("spender", LONG).await?
            }
            Last::Open => {
                self.put(&mut first, 3).await?;
                self.life("spender", LONG).await?
            }
        };
        let (now, epoch) = next.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        claim("TXN-14", now != old && epoch.0 <= 4, || {
            format!("behind the last epoch of {old:?} another life is {now:?} {epoch:?}")
        })?;
        self.put(&mut next, 4).await?;
        let told = self.haunts(&mut first, 5).await;
        claim("TXN-8", !told, || "a life goes on that another one followed".into())?;
        self.commit(&mut next).await?;
        self.again().await?;
        let mut after = self.life("spender", LONG).await?;
        let (later, _) = after.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        claim("TXN-14", later == now, || format!("{now:?} has epochs left, and the next life is {later:?}"))?;
        self.put(&mut after, 6).await?;
        self.commit(&mut after).await?;
        wanted.extend([4, 6]);
        let seen = self.visible().await?;
        claim("TXN-7", seen == wanted, || format!("{wanted:?} are committed, readers see {seen:?}"))
    }

    async fn comes_back(mut self) -> Result<(), Stop> {
        let id = "twins";
        let mut first = self.life(id, LONG).await?;
        self.put(&mut first, 1).await?;
        self.commit(&mut first).await?;
        if self.dice.chance(300) {
            self.again().await?;
        }
        let mut next = self.life(id, LONG).await?;
        let begun = self.dice.chance(500);
        if begun {
            self.put(&mut next, 2).await?;
        }
        // As a client does that must give up a record: it asks for the epoch behind its own.
        let was = first.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        let told = self.names(id, was).await?;
        claim("TXN-8", told.is_err(), || format!("{was:?} is fenced, asks to go on, and is told {told:?}"))?;
        let told = self.haunts(&mut first, 3).await;
        claim("TXN-8", !told, || "a producer goes on whose transactional id another one has".into())?;
        if !begun {
            self.put(&mut next, 2).await?;
        }
        self.commit(&mut next).await?;
        let now = next.identity_now().ok_or_else(|| Stop::Stuck("nobody".into()))?;
        let told = (self.names(id, now).await?, self.names(id, now).await?);
        let is_one = matches!(told, (Ok(one), Ok(again)) if one == again && one.0 == now.0 && one.1 > now.1);
        claim("TXN-8", is_one, || format!("{now:?} asks twice for its next epoch, and is told {told:?}"))?;
        let told = self.names(id, was).await?;
        claim("TXN-8", told.is_err(), || format!("{was:?} was fenced long ago, and is told {told:?}"))?;
        let seen = self.visible().await?;
        claim("TXN-7", seen == [1, 2], || format!("1 and 2 are committed, readers see {seen:?}"))
    }

    /// What a client is told that asks for its next epoch and says who it is (KIP-360).
    async fn names(
        &self,
        id: &str,
        (producer_id, producer_epoch): (ProducerId, ProducerEpoch),
    ) -> Result<Result<(ProducerId, ProducerEpoch), ErrorCode>, Stop> {
        let coordinator = Coordinator::of_transactions(self.cluster.clone(), id);
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: 60_000,
            producer_id,
            producer_epoch,
        };
        let until = self.runtime.now().plus(PATIENCE);
        while self.runtime.now() < until {
            match coordinator.ask(&request, i16::MAX, soon(&self.runtime)).await {
                Ok(told) if told.error_code.is_none() => {
                    return Ok(Ok((told.producer_id, told.producer_epoch)));
                }
                Ok(told) if told.error_code == ErrorCode::PRODUCER_FENCED => return Ok(Err(told.error_code)),
                Ok(told) => drop(coordinator.is_elsewhere(told.error_code)),
                Err(_) => {}
            }
            self.stage.world.sleep(Duration::from_millis(50)).await;
        }
        Err(Stop::Stuck(format!("{id} asks for its next epoch for {PATIENCE:?}")))
    }

    /// Begins life after life, until the last epoch but one; the producer id.
    async fn spend(&self) -> Result<ProducerId, Stop> {
        let coordinator = Coordinator::of_transactions(self.cluster.clone(), "spender");
        let request = InitProducerIdRequest {
            transactional_id: Some("spender".into()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let mut last: Option<(ProducerId, ProducerEpoch)> = None;
        let until = self.runtime.now().plus(LONG);
        while last.is_none_or(|(_, epoch)| epoch.0 < LAST_EPOCH - 1) {
            if self.runtime.now() >= until {
                return Err(Stop::Stuck(format!("after {LONG:?} the id is at {last:?}")));
            }
            match coordinator.ask(&request, i16::MAX, soon(&self.runtime)).await {
                Ok(told) if told.error_code.is_none() => {
                    let now = (told.producer_id, told.producer_epoch);
                    let follows = last.is_none_or(|(id, epoch)| now == (id, ProducerEpoch(epoch.0 + 1)));
                    claim("TXN-14", follows, || format!("behind {last:?} comes {now:?}"))?;
                    last = Some(now);
                }
                Ok(told) => {
                    coordinator.is_elsewhere(told.error_code);
                    self.stage.world.sleep(Duration::from_millis(20)).await;
                }
                Err(_) => self.stage.world.sleep(Duration::from_millis(50)).await,
            }
        }
        last.map(|(id, _)| id).ok_or_else(|| Stop::Stuck("nobody".into()))
    }
}

/// Whether this is another producer, at its beginning.
fn is_fresh(old: ProducerId, (id, epoch): (ProducerId, ProducerEpoch)) -> bool {
    id != old && epoch == ProducerEpoch(0)
}
