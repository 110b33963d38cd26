//! Makes the plan's faults happen, one after the other with pauses, then heals everything.
//!
//! Owns: the chaos act. Promises: each strike draws from its own stream (its number), so that taking one away leaves
//! the others as they were; when [`heal`] returns nothing is broken any more but what was damaged for good.
//! Leaves out: what may strike (the plan).

use std::time::Duration;

use dejaq_storage::model_disk::{CrashMode, Fault as DiskFault, Plan as DiskPlan};

use super::faults::Fault;
use super::{BROKER, Stage, damage, producers};
use crate::disk::Speed;
use crate::invariants::Broken;
use crate::rng::Dice;
use crate::world::NOBODY;

/// A broker whose disk is full serves again within this; recovery takes the most of it.
const START_FULL: Duration = Duration::from_secs(30);

/// Strikes until the chaos act is over.
pub async fn strike(stage: &Stage) {
    let end = stage.world.now_ns() + stage.plan.chaos.as_nanos() as u64;
    let weights: Vec<u64> = stage.plan.faults.iter().map(|(weight, _)| *weight).collect();
    stage.broker.device().platter.set_rates(stage.rates());
    for number in 0_u64.. {
        let is_cut = stage.plan.cuts.strikes.contains(&number);
        if is_cut && stage.plan.cuts.quick {
            continue;
        }
        let mut dice = stage.world.streams().dice("strike", number);
        let (from, to) = (stage.plan.gap.0.as_nanos() as u64, stage.plan.gap.1.as_nanos() as u64);
        let gap = Duration::from_nanos(dice.between(from, to + 1));
        if stage.world.now_ns() + gap.as_nanos() as u64 >= end {
            break;
        }
        stage.world.sleep(gap).await;
        stage.recorder.count("strikes drawn");
        if is_cut {
            continue;
        }
        let Some(place) = dice.weighted(&weights) else { continue };
        let fault = stage.plan.faults[place].1;
        stage.recorder.count(format!("fault {fault:?}"));
        stage.world.event(NOBODY, "fault", &[number, fault as u64], || format!("{fault:?}"));
        one(stage, fault, &mut dice).await;
    }
    stage.world.sleep_until(end).await;
}

/// Ends every fault; the broker runs when this returns.
pub async fn heal(stage: &Stage) {
    let device = stage.broker.device();
    device.platter.heal();
    device.set_speed(stage.plan.disk);
    device.platter.set_capacity(stage.plan.capacity.map(|bytes| bytes * 4));
    stage.world.network().heal();
    if device.platter.is_read_only() {
        power_cut(stage, &mut stage.world.streams().dice("boot", 0));
    }
    stage.broker.resume();
    stage.broker.clock().freeze(stage.world.now_ns(), false);
    if stage.broker.is_sick() {
        stage.broker.kill();
    }
    if !stage.broker.runs() {
        stage.broker.start().await;
    }
}

pub(super) fn span(dice: &mut Dice, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(dice.log_between(from_ms, to_ms))
}

async fn one(stage: &Stage, fault: Fault, dice: &mut Dice) {
    match fault {
        Fault::Kill => {
            stage.broker.kill();
            back_after(stage, span(dice, 1, 1500)).await;
        }
        Fault::PowerCut => {
            power_cut(stage, dice);
            back_after(stage, span(dice, 1, 1500)).await;
        }
        Fault::PowerCutTwice => {
            power_cut(stage, dice);
            stage.world.sleep(span(dice, 1, 300)).await;
            stage.broker.begin_start();
            stage.world.sleep(Duration::from_micros(dice.log_between(10, 200_000))).await;
            power_cut(stage, dice);
            back_after(stage, span(dice, 1, 500)).await;
        }
        Fault::Restart => {
            stage.broker.stop().await;
            back_after(stage, span(dice, 1, 300)).await;
        }
        Fault::Pause => {
            stage.broker.pause();
            stage.world.sleep(span(dice, 5, 3000)).await;
            stage.broker.resume();
        }
        Fault::CutOff | Fault::Reset => disturb_network(stage, fault, dice).await,
        Fault::PowerCutAll
        | Fault::Isolate
        | Fault::Swizzle
        | Fault::Reassign
        | Fault::Drain
        | Fault::Voters
        | Fault::Depose
        | Fault::Bounce
        | Fault::Readd
        | Fault::Straggle
        | Fault::Join
        | Fault::Overwrite
        | Fault::Wipe
        | Fault::PutBack => unreachable!("{fault:?} is drawn for fleets only"),
        Fault::SlowDisk => {
            let stall = span(dice, 1, 400);
            stage.broker.device().set_speed(Speed { stall, ..stage.plan.disk });
            stage.world.sleep(span(dice, 50, 2000)).await;
            stage.broker.device().set_speed(stage.plan.disk);
        }
        Fault::FailedSync | Fault::FailedWrite | Fault::FailedReads => fail_disk(stage, fault, dice).await,
        Fault::DiskFull | Fault::DiskBrim => fill_disk(stage, fault, dice).await,
        Fault::ClockStep => {
            let hours = dice.below(7_200_000) as i64 - 3_600_000;
            stage.broker.clock().step(hours);
        }
        Fault::Rot => damage::rot(stage, dice).await,
        Fault::LyingDisk => damage::lie(stage, dice).await,
        Fault::Misplaced => damage::misplace(stage, dice).await,
        Fault::FalseStart => damage::false_start(stage, dice).await,
        Fault::MetadataLost => damage::lose_metadata(stage, dice).await,
        Fault::Trim => tokio::select! {
            biased; // it looks first, and never ends
            () = stage.broker.watch_start() => {}
            () = producers::trim(stage, dice) => {}
        },
    }
}

async fn fill_disk(stage: &Stage, fault: Fault, dice: &mut Dice) {
    let platter = stage.broker.device().platter;
    let used: u64 = platter.lengths().iter().map(|(_, length)| length).sum();
    let room = if fault == Fault::DiskBrim { 32 } else { 8192 };
    platter.set_capacity(Some(used + dice.below(room)));
    stage.world.sleep(span(dice, 50, 2000)).await;
    if dice.chance(300) {
        start_full(stage, dice).await;
    }
    platter.set_capacity(stage.plan.capacity);
}

/// A stop and a start while the disk is full: it must serve, since only a broker that runs can be told to delete.
async fn start_full(stage: &Stage, dice: &mut Dice) {
    let had_reserve = stage.broker.has_reserve();
    match dice.below(3) {
        0 => stage.broker.kill(),
        1 => power_cut(stage, dice),
        _ => stage.broker.stop().await,
    }
    back_after(stage, span(dice, 1, 300)).await;
    if had_reserve && !stage.broker.serves_within(START_FULL).await {
        let evidence = format!("a full disk that had its reserve keeps the broker down for {START_FULL:?}");
        stage.broker.breaks(Broken { name: "LOG-10", evidence });
    }
}

pub(super) fn power_cut(stage: &Stage, dice: &mut Dice) {
    let mode = CrashMode::draw(dice.rng());
    stage.recorder.count(format!("power cut {mode:?}"));
    stage.broker.power_cut(mode);
}

pub(super) async fn back_after(stage: &Stage, wait: Duration) {
    stage.world.sleep(wait).await;
    stage.broker.start().await;
}

async fn disturb_network(stage: &Stage, fault: Fault, dice: &mut Dice) {
    let network = stage.world.network();
    let clients = producers::machines(stage);
    match fault {
        Fault::Reset => {
            let cut: usize = clients.iter().map(|client| network.reset_between(*client, BROKER)).sum();
            stage.world.event(NOBODY, "reset", &[cut as u64], || format!("{cut} connections"));
        }
        _ => {
            let (there, back) = *dice.pick(&[(true, false), (false, true), (true, true)]);
            let some: Vec<u32> = clients.into_iter().filter(|_| dice.chance(600)).collect();
            for client in &some {
                network.set_cut(*client, BROKER, there);
                network.set_cut(BROKER, *client, back);
            }
            stage.world.sleep(span(dice, 20, 5000)).await;
            for client in &some {
                network.set_cut(*client, BROKER, false);
                network.set_cut(BROKER, *client, false);
            }
        }
    }
}

/// An error of the device. What a broker makes of it is its business; after a while its machine is restarted.
async fn fail_disk(stage: &Stage, fault: Fault, dice: &mut Dice) {
    let platter = stage.broker.device().platter;
    let plan = |fault, path: &str, after| DiskPlan { fault, path_contains: path.into(), after };
    let mut reboot = dice.chance(500);
    match fault {
        Fault::FailedSync => {
            let kinds = [
                DiskFault::SyncError,
                DiskFault::SyncError,
                DiskFault::DirSyncError,
                DiskFault::JournalAbort,
            ];
            platter.plan(plan(*dice.pick(&kinds), "", dice.below(6)));
        }
        Fault::FailedWrite => platter.plan(plan(DiskFault::WriteError, "partitions", dice.below(6))),
        _ => {
            for _ in 0..dice.between(1, 6) {
                platter.plan(plan(DiskFault::ReadError, ".log", dice.below(20)));
            }
            stage.world.sleep(span(dice, 50, 1000)).await;
            return;
        }
    }
    stage.world.sleep(span(dice, 20, 1500)).await;
    if !reboot {
        stage.broker.kill();
        platter.heal();
        if platter.is_read_only() {
            // An aborted journal stays aborted: the new process can change nothing until the machine is booted.
            stage.recorder.count("starts on a read-only disk");
            stage.broker.begin_start();
            stage.world.sleep(span(dice, 50, 1500)).await;
            reboot = true;
        }
    }
    if reboot {
        power_cut(stage, dice);
    }
    platter.heal();
    platter.set_rates(stage.rates());
    back_after(stage, span(dice, 1, 500)).await;
}
