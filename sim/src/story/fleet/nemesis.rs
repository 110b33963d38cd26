//! Makes the plan's faults happen to a fleet: to one broker, to some, to the network between them, to all at once.
//!
//! Owns: the chaos act of a fleet. Promises: each strike draws from its own stream; what a strike broke is mended in the
//! background after a drawn time, so that strikes overlap; after [`heal`] nothing is broken any more.
//! Leaves out: what may strike (the plan).

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use dejaq_storage::layout::{CLEAN_MARKER, named_clean};
use dejaq_storage::model_disk::{CrashMode, Fault as DiskFault, Plan as DiskPlan};
use dejaq_wire::ids::BrokerId;

use super::god::God;
use super::harm;
use super::operator::Operator;
use super::overwrite;
use super::rot::Rot;
use super::scripts;
use crate::disk::Speed;
use crate::rng::Dice;
use crate::story::nemesis::span;
use crate::story::{BrokerNode, Fault, Stage, producers};
use crate::world::NOBODY;

/// Strikes until the chaos act is over.
pub(super) async fn strike(stage: &Stage, god: &God, (operator, rot): (&Operator, &Rot)) {
    let end = stage.world.now_ns() + stage.plan.chaos.as_nanos() as u64;
    let weights: Vec<u64> = stage.plan.faults.iter().map(|(weight, _)| *weight).collect();
    for number in 0_u64.. {
        let is_cut = stage.plan.cuts.strikes.contains(&number);
        if is_cut && stage.plan.cuts.quick {
            continue;
        }
        let mut dice = stage.world.streams().dice("strike", number);
        let (from, to) = (stage.plan.gap.0.as_nanos() as u64, stage.plan.gap.1.as_nanos() as u64);
        let gap = Duration::from_nanos(dice.between(from, to + 1));
        if stage.world.now_ns() + gap.as_nanos() as u64 >= end || god.broken().is_some() {
            break;
        }
        stage.world.sleep(gap).await;
        stage.recorder.count("strikes drawn");
        if is_cut {
            continue;
        }
        let Some(place) = dice.weighted(&weights) else { continue };
        let fault = stage.plan.faults[place].1;
        let at = dice.below(stage.brokers.len() as u64) as usize;
        if fault != Fault::Join && !stage.brokers[at].has_come() {
            continue; // nothing is there yet
        }
        if stage.brokers[at].is_held() {
            continue; // somebody is writing its files, with no process that could end
        }
        stage.recorder.count(format!("fault {fault:?}"));
        let words = [number, fault as u64, at as u64];
        stage.world.event(NOBODY, "fault", &words, || format!("{fault:?} at n{}", stage.brokers[at].node()));
        match fault {
            Fault::Reassign | Fault::Drain | Fault::Voters | Fault::Trim => {
                operator.act(stage, fault, &stage.brokers[at], &mut dice)
            }
            Fault::Rot => rot.strike(stage, &stage.brokers[at], &mut dice),
            Fault::MetadataLost => harm::strike(stage, &stage.brokers[at], &mut dice),
            Fault::Join => join(stage),
            Fault::Overwrite => overwrite::strike(stage, &mut dice),
            Fault::Depose | Fault::Bounce | Fault::Readd | Fault::Straggle => {
                scripts::strike(stage, fault, operator, &mut dice)
            }
            Fault::PutBack => put_back(stage, operator),
            Fault::Wipe if !operator.wipe(stage, &stage.brokers[at]) => {}
            _ => one(stage, fault, &stage.brokers[at], &mut dice),
        }
        if matches!(fault, Fault::PowerCut | Fault::PowerCutAll) {
            god.look(stage);
        }
        if stage.plan.spaced {
            whole_again(stage, &stage.brokers[at]).await;
        }
    }
    stage.world.sleep_until(end).await;
}

/// The next of those that were never there comes.
fn join(stage: &Stage) {
    let Some(broker) = stage.brokers.iter().find(|broker| !broker.has_come()) else { return };
    stage.recorder.count("brokers joined under load");
    broker.begin_start();
}

/// The last broker, which votes on nothing, stops twice; after the second time it has the disk of the first.
fn put_back(stage: &Stage, operator: &Operator) {
    let Some(broker) = stage.brokers.last().filter(|broker| operator.may_put_back(broker)) else { return };
    assert!(broker.node() > stage.plan.voters, "a voter that forgets its vote may break any quorum");
    // Of its own: a strike draws nothing that another one drew before this one was there.
    let mut dice = stage.world.streams().dice("put back", 0);
    let (acked, pause) = (span(&mut dice, 500, 8000), span(&mut dice, 1, 3000));
    let (stage, broker, operator) = (stage.clone(), broker.clone(), operator.clone());
    stage.broker.clone().aside(async move {
        broker.stop().await;
        let copy = broker.device().platter.fork();
        let marker = copy.files().into_iter().find(|(path, _)| path == Path::new(CLEAN_MARKER));
        let is_clean = marker.is_some_and(|(_, bytes)| named_clean(&bytes).0);
        broker.begin_start();
        stage.world.sleep(acked).await;
        // Before that, the copy is as good as what followed.
        let has_served = broker.image().is_some_and(|image| {
            let known = image.broker(BrokerId(broker.node() as i32));
            known.is_some_and(|known| known.let_in == known.epoch)
        });
        if !is_clean || !has_served || stage.recorder.is_calm() {
            return;
        }
        broker.stop().await;
        if !stage.recorder.is_calm() {
            operator.has_put_back(&broker);
            broker.put_back(&copy);
            stage.recorder.count("older copies put back");
            stage.world.sleep(pause).await;
        }
        broker.begin_start(); // it took until now, and nobody else knows of it
    });
}

/// Waits until what was struck is back, and in sync.
async fn whole_again(stage: &Stage, broker: &BrokerNode) {
    stage.world.sleep(Duration::from_secs(7)).await; // longer than anything of a fleet stays down
    broker.ready().await;
    stage.world.sleep(Duration::from_secs(1)).await;
    tokio::select! {
        biased; // in sync first
        () = super::in_sync(stage) => {}
        () = stage.world.sleep(Duration::from_secs(120)) => {} // the calm act says so
    }
}

/// Ends every fault; every broker is on its way up when this returns.
pub(super) fn heal(stage: &Stage) {
    stage.world.network().heal();
    for broker in stage.brokers.iter() {
        let device = broker.device();
        device.platter.heal();
        device.set_speed(stage.plan.disk);
        device.platter.set_capacity(stage.plan.capacity.map(|bytes| bytes * 4));
        broker.resume();
        broker.clock().freeze(stage.world.now_ns(), false);
        if broker.is_held() {
            continue; // who writes its files starts it
        }
        if device.platter.is_read_only() {
            power_cut(stage, broker, &mut stage.world.streams().dice("boot", u64::from(broker.node())));
        }
        if broker.is_sick() {
            broker.kill();
        }
        broker.begin_start();
    }
}

/// Does something after a while, whatever else happens meanwhile; not in the calm act, which heals by itself.
pub(super) fn later(stage: &Stage, wait: Duration, work: impl Future<Output = ()> + 'static) {
    let stage = stage.clone();
    stage.broker.clone().aside(async move {
        stage.world.sleep(wait).await;
        if !stage.recorder.is_calm() {
            work.await;
        }
    });
}

fn back_after(stage: &Stage, broker: &BrokerNode, wait: Duration) {
    let broker = broker.clone();
    later(stage, wait, async move { broker.begin_start() });
}

fn power_cut(stage: &Stage, broker: &BrokerNode, dice: &mut Dice) {
    let mode = CrashMode::draw(dice.rng());
    stage.recorder.count(format!("power cut {mode:?}"));
    broker.power_cut(mode);
}

fn one(stage: &Stage, fault: Fault, broker: &BrokerNode, dice: &mut Dice) {
    match fault {
        Fault::Wipe => back_after(stage, broker, span(dice, 1, 6000)), // the operator has done it
        Fault::Kill => {
            broker.kill();
            back_after(stage, broker, span(dice, 1, 6000));
        }
        Fault::PowerCut | Fault::PowerCutTwice => {
            power_cut(stage, broker, dice);
            back_after(stage, broker, span(dice, 1, 6000));
        }
        Fault::PowerCutAll => {
            for broker in stage.brokers.iter() {
                power_cut(stage, broker, dice);
                back_after(stage, broker, span(dice, 1, 3000));
            }
        }
        Fault::Restart => {
            let (stage, broker, pause) = (stage.clone(), broker.clone(), span(dice, 1, 3000));
            stage.broker.clone().aside(async move {
                broker.stop().await;
                if stage.recorder.is_calm() {
                    broker.begin_start(); // it took until now, and nobody else knows of it
                } else {
                    back_after(&stage, &broker, pause);
                }
            });
        }
        Fault::Pause => {
            broker.pause();
            let paused = broker.clone();
            later(stage, span(dice, 5, 15_000), async move { paused.resume() });
        }
        Fault::SlowDisk => {
            let stall = span(dice, 1, 400);
            broker.device().set_speed(Speed { stall, ..stage.plan.disk });
            let (device, speed) = (broker.device(), stage.plan.disk);
            later(stage, span(dice, 50, 4000), async move { device.set_speed(speed) });
        }
        Fault::ClockStep => broker.clock().step(dice.below(7_200_000) as i64 - 3_600_000),
        Fault::FailedSync | Fault::FailedWrite => fail_disk(stage, fault, broker, dice),
        Fault::CutOff | Fault::Isolate | Fault::Reset => disturb_network(stage, fault, broker, dice),
        Fault::Swizzle => swizzle(stage, broker, dice),
        Fault::FailedReads
        | Fault::DiskFull
        | Fault::DiskBrim
        | Fault::Rot
        | Fault::PutBack
        | Fault::Reassign
        | Fault::Drain
        | Fault::Voters
        | Fault::Depose
        | Fault::Bounce
        | Fault::Readd
        | Fault::Straggle
        | Fault::Join
        | Fault::Overwrite
        | Fault::LyingDisk
        | Fault::Trim
        | Fault::Misplaced
        | Fault::FalseStart
        | Fault::MetadataLost => unreachable!("{fault:?} is not drawn for fleets"),
    }
}

/// An error of the device; after a while its machine is booted.
fn fail_disk(stage: &Stage, fault: Fault, broker: &BrokerNode, dice: &mut Dice) {
    let platter = broker.device().platter;
    let (fault, path) = match fault {
        Fault::FailedWrite => (DiskFault::WriteError, "partitions"),
        _ => (*dice.pick(&[DiskFault::SyncError, DiskFault::SyncError, DiskFault::DirSyncError]), ""),
    };
    platter.plan(DiskPlan { fault, path_contains: path.into(), after: dice.below(6) });
    let mode = CrashMode::draw(dice.rng());
    let (wait, pause) = (span(dice, 20, 3000), span(dice, 1, 3000));
    let (owner, broker) = (stage.clone(), broker.clone());
    later(stage, wait, async move {
        broker.power_cut(mode);
        platter.heal();
        platter.set_rates(owner.rates());
        back_after(&owner, &broker, pause);
    });
}

fn disturb_network(stage: &Stage, fault: Fault, broker: &BrokerNode, dice: &mut Dice) {
    let network = stage.world.network().clone();
    let node = broker.node();
    let brokers: Vec<u32> =
        stage.brokers.iter().map(BrokerNode::node).filter(|other| *other != node).collect();
    let clients = producers::machines(stage);
    let others = match fault {
        // Cut off from its peers, but clients still reach it: it must not go on as if it led (S20, S36).
        Fault::Isolate => brokers.clone(),
        _ => brokers.iter().chain(&clients).copied().filter(|_| dice.chance(600)).collect(),
    };
    if fault == Fault::Reset {
        let cut: usize = others.iter().map(|other| network.reset_between(*other, node)).sum();
        stage.world.event(NOBODY, "reset", &[cut as u64], || format!("{cut} connections"));
        return;
    }
    let (out, back) = *dice.pick(&[(true, false), (false, true), (true, true), (true, true)]);
    for other in &others {
        network.set_cut(node, *other, out);
        network.set_cut(*other, node, back);
    }
    later(stage, span(dice, 20, 15_000), async move {
        for other in others {
            network.set_cut(node, other, false);
            network.set_cut(other, node, false);
        }
    });
}

/// Cuts the links of a broker to its peers one by one, and mends them one by one in another order (FoundationDB's swizzle).
fn swizzle(stage: &Stage, broker: &BrokerNode, dice: &mut Dice) {
    let node = broker.node();
    for other in stage.brokers.iter().map(BrokerNode::node) {
        if other == node || !dice.chance(800) {
            continue;
        }
        let (cut, back) = (span(dice, 1, 3000), span(dice, 50, 10_000));
        for (wait, is_cut) in [(cut, true), (cut + back, false)] {
            let network = stage.world.network().clone();
            later(stage, wait, async move {
                network.set_cut(node, other, is_cut);
                network.set_cut(other, node, is_cut);
            });
        }
    }
}
