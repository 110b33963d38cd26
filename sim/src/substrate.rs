//! A small world without a broker, whose digest tells what a seed means to the simulator itself.
//!
//! Owns: a fixed workload on everything that stands below the product: the order of ready tasks (madsim), the streams of
//! randomness (rand_chacha), the simulated network, disk and clocks, kills, power cuts, pauses. Promises: nothing of the
//! product runs in here, so its digest changes only when a dependency or the simulator's substrate does; that is what
//! `cargo ci corpus` compares with `ci/corpus/substrate.txt`. Leaves out: whether all that is right (the contracts say so).
//!
//! ```text
//!  n2 ── asks ──┐             a nemesis: kill, power, cut, slow, reset,
//!  n3 ── asks ──┼─► n1 keeps ─► its disk          pause, suspend, clock,
//!  n4: 8 tasks that become ready at one instant   failing and full disk
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use dejaq::runtime::Runtime;
use dejaq::runtime::net::{FrameReader, FrameWriter, Listener, Net};
use dejaq_storage::model_disk::{CrashMode, Fault as DiskFault, Plan as DiskPlan, Rates};
use dejaq_storage::{Disk, DiskFile, Open};

use crate::cluster::Cluster;
use crate::disk::Speed;
use crate::rng::Dice;
use crate::runner::{RunParams, RunReport, Status};
use crate::runtime::SimRuntime;
use crate::world::{NOBODY, World};

const MS: Duration = Duration::from_millis(1);
/// The machine that is struck.
const KEEPER: u32 = 1;
const ASKERS: std::ops::RangeInclusive<u32> = 2..=3;
/// The machine whose tasks become ready together.
const CROWD: u32 = 4;
/// How often the nemesis strikes; each kind of strike comes once before any comes again.
const STRIKES: u64 = 26;
const KINDS: u64 = 13;

/// Runs the small world.
#[must_use]
pub fn run(params: &RunParams) -> RunReport {
    let ended = World::run(params.seed, params.trace.as_deref(), |world| async move {
        act(&world).await;
        let (digest, events) = world.trace().digest();
        RunReport {
            status: Status::Pass,
            checker: String::new(),
            message: String::new(),
            digest,
            events,
            sim_ms: world.now_ns() / 1_000_000,
            counts: BTreeMap::new(),
            marks: Vec::new(),
            spans: BTreeMap::new(),
        }
    });
    ended.unwrap_or_else(RunReport::crash)
}

async fn act(world: &World) {
    let cluster = Cluster::new(world, false);
    (KEEPER..=CROWD).for_each(|node| cluster.add(node, Some(1 << 20)));
    begin(&cluster);
    for node in ASKERS {
        cluster.start(node, asks);
    }
    cluster.start(CROWD, crowd);
    for number in 0..STRIKES {
        let mut dice = world.streams().dice("substrate-strike", number);
        world.sleep(Duration::from_micros(dice.log_between(200, 40_000))).await;
        strike(world, &cluster, number % KINDS, &mut dice).await;
        begin(&cluster);
    }
    world.sleep(20 * MS).await;
    for node in KEEPER..=CROWD {
        let checksum = u64::from(cluster.device(node).platter.checksum());
        world.event(NOBODY, "platter", &[u64::from(node), checksum], || format!("n{node} {checksum:08x}"));
    }
}

fn begin(cluster: &Cluster) {
    if !cluster.runs(KEEPER) {
        cluster.start(KEEPER, keeps);
    }
}

async fn strike(world: &World, cluster: &Cluster, kind: u64, dice: &mut Dice) {
    let network = world.network();
    let platter = cluster.device(KEEPER).platter;
    let other = u32::try_from(dice.between(2, 4)).expect("below four");
    let wait = Duration::from_micros(dice.log_between(100, 30_000));
    world.event(NOBODY, "strike", &[kind, u64::from(other), wait.as_nanos() as u64], String::new);
    let fail = |fault, after| platter.plan(DiskPlan { fault, path_contains: "kept".into(), after });
    match kind {
        0 => cluster.kill(KEEPER),
        1 | 2 => cluster.power_cut(KEEPER, CrashMode::draw(dice.rng())),
        3 => {
            network.set_cut(KEEPER, other, true);
            world.sleep(wait).await;
            network.heal();
        }
        4 => network.set_slow(other, KEEPER, wait / 10),
        5 => {
            let torn = network.reset_between(KEEPER, other) as u64;
            world.event(NOBODY, "torn", &[torn], String::new);
        }
        6 => {
            cluster.pause(KEEPER, true);
            world.sleep(wait).await;
            cluster.pause(KEEPER, false);
        }
        7 => {
            cluster.suspend(KEEPER, true);
            world.sleep(wait).await;
            cluster.suspend(KEEPER, false);
        }
        8 => {
            cluster.clock(other).step(dice.below(20_000) as i64 - 10_000);
            cluster.clock(KEEPER).freeze(world.now_ns(), dice.chance(500));
        }
        9 => fail(*dice.pick(&[DiskFault::SyncError, DiskFault::WriteError]), dice.below(3)),
        10 => fail(*dice.pick(&[DiskFault::LostWrite, DiskFault::MisdirectedWrite]), dice.below(2)),
        11 => {
            platter.set_capacity(Some(dice.below(2000)));
            world.sleep(wait).await;
            platter.set_capacity(Some(1 << 20));
        }
        _ => {
            platter.set_rates(Rates { cold_read_ppm: 300_000, read_error_ppm: 20_000, ..Rates::default() });
            cluster.device(KEEPER).set_speed(Speed { stall: wait / 20, ..Speed::default() });
        }
    }
}

/// Keeps what it is told in files of its own, syncs them, reads them back, and answers what it read.
async fn keeps(runtime: SimRuntime) {
    for (path, content) in left_behind(&runtime).await {
        let (name, sum) = (crc32fast::hash(path.as_bytes()), crc32fast::hash(&content));
        let words = [u64::from(name), content.len() as u64, u64::from(sum)];
        runtime.world().event(runtime.who(), "found", &words, || format!("{path} {} {sum:08x}", words[1]));
    }
    let Ok(mut listener) = runtime.net().listen("0.0.0.0:7").await else { return };
    while let Ok(mut accepted) = listener.accept().await {
        let inner = runtime.clone();
        runtime.spawn("keep", async move {
            let mut frames = Vec::new();
            while accepted.reader.recv(&mut frames, 4, 1 << 16).await.is_ok() {
                let mut answers = Vec::new();
                for frame in frames.drain(..) {
                    let answer = keep(&inner, &frame).await;
                    answers.push(vec![
                        answer.unwrap_or_else(|error| Bytes::from(format!("{:?}", error.kind()))),
                    ]);
                }
                if accepted.writer.send(answers).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The files of the disk as a start finds them; what cannot be read is empty.
async fn left_behind(runtime: &SimRuntime) -> Vec<(String, Bytes)> {
    let disk = runtime.disk();
    let mut found = Vec::new();
    for entry in disk.list(Path::new("kept")).unwrap_or_default() {
        let path = PathBuf::from("kept").join(&entry.name);
        let Ok(file) = disk.open(&path, Open::Read) else { continue };
        let len = file.len().unwrap_or(0);
        let content = file.read_at(0, len as usize).await.unwrap_or_default();
        found.push((path.display().to_string(), content));
    }
    found
}

/// Appends, syncs, renames now and then, and reads the end of the file back.
async fn keep(runtime: &SimRuntime, frame: &Bytes) -> std::io::Result<Bytes> {
    let (disk, dir) = (runtime.disk(), Path::new("kept"));
    disk.create_dir_all(dir)?;
    let path = dir.join(format!("f{}", frame.first().map_or(0, |byte| byte % 4)));
    let how = if disk.exists(&path) { Open::Write } else { Open::CreateNew };
    let file = disk.open(&path, how)?;
    let at = file.len()?;
    file.append_at(at, std::slice::from_ref(frame))?;
    match runtime.random_u64() % 8 {
        0 => disk.sync_dir(dir).await?,
        1 => disk.rename(&path, &dir.join("kept-last"))?,
        2 => file.truncate(at / 2)?,
        3 => disk.remove(&path).await?,
        _ => disk.sync_many(vec![file.clone()]).await?,
    }
    let end = file.len()?;
    let from = end.saturating_sub(16);
    file.read_at(from, (end - from) as usize).await
}

/// Asks the keeper again and again, from two tasks, with deadlines of its own.
async fn asks(runtime: SimRuntime) {
    for _ in 0..2 {
        let asker = runtime.clone();
        runtime.spawn("ask", async move {
            loop {
                let deadline = asker.now() + 60 * MS;
                let answer = asker.before(deadline, ask(&asker)).await;
                let sum = answer.flatten().map_or(0, |bytes| u64::from(crc32fast::hash(&bytes)) + 1);
                let words = [sum, asker.unix_ms() as u64, asker.now().0];
                asker.world().event(asker.who(), "answer", &words, || format!("{sum:x} at {}", words[1]));
                asker.sleep(Duration::from_micros(asker.random_u64() % 3000)).await;
            }
        });
    }
}

async fn ask(runtime: &SimRuntime) -> Option<Bytes> {
    let (mut reader, mut writer) = runtime.net().connect("n1:7").await.ok()?;
    let draw = runtime.random_u64();
    let body = Bytes::from(draw.to_be_bytes().repeat(1 + (draw % 200) as usize));
    writer.send(vec![vec![body.slice(..1), body.slice(1..)]]).await.ok()?;
    let mut frames = Vec::new();
    reader.recv(&mut frames, 1, 1 << 16).await.ok()?;
    frames.pop()
}

/// Tasks that wait for one instant: who of them goes first is the executor's choice, and only its.
async fn crowd(runtime: SimRuntime) {
    for number in 0_u64..8 {
        let one = runtime.clone();
        runtime.spawn("one of a crowd", async move {
            for round in 1.. {
                one.sleep_until(dejaq::runtime::Mono(round * 10_000_000)).await;
                one.world().event(one.who(), "turn", &[number, round], || format!("{number} in {round}"));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(seed: u64) -> (u64, u64) {
        let report = run(&RunParams { seed, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""));
        (report.digest, report.events)
    }

    #[test]
    fn the_small_world_is_a_function_of_its_seed_and_much_happens_in_it() {
        assert_eq!(digest(3), digest(3));
        assert_ne!(digest(3).0, digest(4).0);
        assert!(digest(3).1 > 1000, "{:?}", digest(3));
    }
}
