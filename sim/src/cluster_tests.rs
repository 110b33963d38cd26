//! What the simulated world promises, on a small echo server: the seams conform, crashes do what they say, and a run
//! is a function of its seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dejaq::runtime::conformance::{self, Ground};
use dejaq::runtime::net::{FrameReader, FrameWriter, Listener, Net, RecvError};
use dejaq::runtime::{Mono, Runtime};
use dejaq_storage::model_disk::CrashMode;
use dejaq_storage::{Disk, DiskFile, Open};

use crate::cluster::Cluster;
use crate::runtime::SimRuntime;
use crate::world::World;

const MS: Duration = Duration::from_millis(1);

/// Runs a story in a world of its own, which must not panic.
fn world<F: Future>(seed: u64, story: impl FnOnce(World) -> F) -> F::Output {
    World::run(seed, None, story).unwrap_or_else(|panic| panic!("seed {seed}: {panic}"))
}

fn cluster(world: &World, machines: u32) -> Cluster {
    let cluster = Cluster::new(world, false);
    (1..=machines).for_each(|node| cluster.add(node, None));
    cluster
}

async fn idle(_: SimRuntime) {
    std::future::pending().await
}

/// Answers each frame with itself, and writes it to its disk first.
async fn echo(runtime: SimRuntime) {
    let path = Path::new("echoed");
    let how = if runtime.disk().exists(path) { Open::Write } else { Open::CreateNew };
    let file = runtime.disk().open(path, how).expect("open");
    let mut listener = runtime.net().listen("0.0.0.0:7").await.expect("listen");
    loop {
        let mut accepted = listener.accept().await.expect("accept");
        let file = file.clone();
        runtime.spawn("echo", async move {
            let mut frames = Vec::new();
            while accepted.reader.recv(&mut frames, 10, 1 << 20).await.is_ok() {
                let echoed: Vec<Vec<Bytes>> = frames.drain(..).map(|frame| vec![frame]).collect();
                file.append_at(file.len().expect("len"), &echoed.concat()).expect("append");
                if accepted.writer.send(echoed).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Asks machine 1 for an echo, within a second.
async fn ask(client: &SimRuntime, text: &'static str) -> Result<Bytes, String> {
    let deadline = client.now() + Duration::from_secs(1);
    let asked = client.before(deadline, async {
        let (mut reader, mut writer) =
            client.net().connect("n1:7").await.map_err(|error| error.to_string())?;
        writer
            .send(vec![vec![Bytes::from_static(text.as_bytes())]])
            .await
            .map_err(|error| error.to_string())?;
        let mut frames = Vec::new();
        reader.recv(&mut frames, 1, 100).await.map_err(|error| error.to_string())?;
        Ok(frames.remove(0))
    });
    asked.await.unwrap_or_else(|| Err("no answer".to_owned()))
}

struct Simulated {
    server: SimRuntime,
    client: SimRuntime,
}

impl Ground for Simulated {
    type Runtime = SimRuntime;
    fn server(&self) -> SimRuntime {
        self.server.clone()
    }
    fn client(&self) -> SimRuntime {
        self.client.clone()
    }
    fn listen_address(&self) -> String {
        "n1:0".to_owned()
    }
}

#[test]
fn the_simulated_runtime_conforms() {
    for seed in 0..2 {
        world(seed, |world| async move {
            let cluster = cluster(&world, 2);
            let ground = Simulated { server: cluster.start(1, idle), client: cluster.start(2, idle) };
            conformance::run_all(&ground).await;
        });
    }
}

struct Disks {
    world: World,
    devices: Vec<crate::disk::Device>,
}

impl dejaq_storage::contract::Ground for Disks {
    type Disk = crate::disk::SimDisk;
    fn fresh(&mut self) -> Self::Disk {
        self.devices.push(crate::disk::Device::new(&self.world, self.devices.len() as u32, None, false));
        self.reopened()
    }
    fn reopened(&mut self) -> Self::Disk {
        self.devices.last().expect("fresh() comes first").platter.mount()
    }
}

#[test]
fn the_simulated_disk_keeps_the_contract_in_virtual_time() {
    world(1, |world| async move {
        let mut disks = Disks { world, devices: Vec::new() };
        dejaq_storage::contract::run_all(&mut disks).await;
    });
}

#[test]
fn a_kill_keeps_what_was_written_and_a_power_cut_does_not() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        cluster.start(1, echo);
        let client = cluster.start(2, idle);
        let kept = |cluster: &Cluster| cluster.device(1).platter.files().pop().map(|(_, content)| content);
        world.sleep(MS).await;
        assert_eq!(ask(&client, "one").await, Ok(Bytes::from_static(b"one")));
        cluster.kill(1);
        assert!(ask(&client, "dead").await.is_err());
        cluster.start(1, echo);
        world.sleep(MS).await;
        assert_eq!(ask(&client, "two").await, Ok(Bytes::from_static(b"two")));
        assert_eq!(kept(&cluster), Some(b"onetwo".to_vec()));
        cluster.power_cut(1, CrashMode::Lose);
        assert_eq!(kept(&cluster), None, "nothing was synced, not even the name");
        assert_eq!(ask(&client, "dark").await, Err("no answer".to_owned()), "nobody refuses");
    });
}

#[test]
fn nothing_of_a_killed_process_runs_on() {
    world(1, |world| async move {
        let cluster = cluster(&world, 1);
        let beats = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&beats);
        let runtime = cluster.start(1, move |runtime| async move {
            loop {
                runtime.sleep(MS).await;
                *counted.lock().expect("no panic") += 1;
            }
        });
        world.sleep(10 * MS).await;
        cluster.kill(1);
        let before = *beats.lock().expect("no panic");
        assert!(before >= 9, "{before}");
        runtime.disk().open(Path::new("x"), Open::CreateNew).expect_err("the dead write no more");
        cluster.start(1, idle);
        world.sleep(10 * MS).await;
        assert_eq!(*beats.lock().expect("no panic"), before);
        assert_eq!(Arc::strong_count(&beats), 1, "its tasks are dropped");
    });
}

#[test]
fn a_paused_process_misses_its_deadlines_and_a_suspended_machine_does_not_see_the_time() {
    world(1, |world| async move {
        let cluster = cluster(&world, 1);
        let runtime = cluster.start(1, idle);
        let woke = Arc::new(Mutex::new(Vec::new()));
        let sleeper = |at: Mono| {
            let (runtime, woke) = (runtime.clone(), Arc::clone(&woke));
            let inner = runtime.clone();
            runtime.spawn("sleeper", async move {
                inner.sleep_until(at).await;
                woke.lock().expect("no panic").push(inner.now().since(at));
            });
        };
        sleeper(runtime.now() + 10 * MS);
        world.sleep(MS).await;
        cluster.pause(1, true);
        world.sleep(100 * MS).await;
        cluster.pause(1, false);
        world.sleep(MS).await;
        let late = woke.lock().expect("no panic").pop().expect("it woke");
        assert!(late > 89 * MS, "late by {late:?}");

        let before = runtime.now();
        sleeper(before + 10 * MS);
        world.sleep(MS).await;
        cluster.suspend(1, true);
        world.sleep(100 * MS).await;
        cluster.suspend(1, false);
        world.sleep(5 * MS).await;
        assert!(runtime.now().since(before) < 8 * MS, "{:?} passed", runtime.now().since(before));
        assert!(woke.lock().expect("no panic").is_empty(), "its time is not over");
        world.sleep(6 * MS).await;
        let late = woke.lock().expect("no panic").pop().expect("it woke");
        assert!(late < MS, "late by {late:?}");
    });
}

/// A connection from machine 2 to a process on machine 1 that accepts and does nothing.
async fn mute(cluster: &Cluster) -> (SimRuntime, crate::net::SimReader, crate::net::SimWriter) {
    let server = cluster.start(1, |runtime| async move {
        let mut listener = runtime.net().listen("n1:7").await.expect("listen");
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.expect("accept"));
        }
    });
    let client = cluster.start(2, idle);
    client.sleep(MS).await;
    let (reader, writer) = client.net().connect("n1:7").await.expect("connect");
    drop(server);
    (client, reader, writer)
}

fn frame(len: usize) -> Vec<Vec<Bytes>> {
    vec![vec![Bytes::from(vec![7; len])]]
}

#[test]
fn a_peer_without_power_is_half_open_until_its_machine_is_back() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        let (client, mut reader, mut writer) = mute(&cluster).await;
        cluster.power_cut(1, CrashMode::Lose);
        let heard =
            client.before(client.now() + Duration::from_secs(60), reader.recv(&mut Vec::new(), 1, 9)).await;
        assert!(heard.is_none(), "nobody says farewell: {heard:?}");
        writer.send(frame(10)).await.expect("taken by our own kernel");
        cluster.start(1, idle);
        let heard =
            client.before(client.now() + Duration::from_secs(1), reader.recv(&mut Vec::new(), 1, 9)).await;
        assert!(matches!(heard, Some(Err(RecvError::Lost(_)))), "the machine knows nothing of it: {heard:?}");
        writer.send(frame(10)).await.expect_err("and so does the sender");
    });
}

#[test]
fn a_killed_peer_takes_a_round_trip_to_notice_and_what_was_sent_meanwhile_is_lost() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        let (client, mut reader, mut writer) = mute(&cluster).await;
        cluster.kill(1);
        writer.send(frame(10)).await.expect("nobody knows yet");
        client.sleep(5 * MS).await;
        writer.send(frame(10)).await.expect_err("now it is known");
        let end = reader.recv(&mut Vec::new(), 1, 9).await;
        assert!(end.is_err(), "{end:?}");
    });
}

#[test]
fn a_one_way_cut_delays_one_way_until_it_heals() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        let server = cluster.start(1, idle);
        let client = cluster.start(2, idle);
        let mut listener = server.net().listen("n1:7").await.expect("listen");
        let connected = client.net().connect("n1:7").await.expect("connect");
        let (mut reader, mut writer) = connected;
        let mut accepted = listener.accept().await.expect("accept");
        world.network().set_cut(2, 1, true);
        writer.send(frame(3)).await.expect("the kernel keeps it");
        accepted.writer.send(frame(4)).await.expect("send");
        let mut frames = Vec::new();
        reader.recv(&mut frames, 1, 9).await.expect("the other way is open");
        let wait = server.before(server.now() + 100 * MS, accepted.reader.recv(&mut frames, 1, 9)).await;
        assert!(wait.is_none(), "{wait:?}");
        world.network().set_cut(2, 1, false);
        server
            .before(server.now() + MS, accepted.reader.recv(&mut frames, 1, 9))
            .await
            .expect("in time")
            .expect("a frame");
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(world.network().reset_between(1, 2), 1);
        writer.send(frame(1)).await.expect_err("torn");
        accepted.reader.recv(&mut frames, 1, 9).await.expect_err("torn");
    });
}

#[test]
fn closed_connections_are_forgotten() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        cluster.start(1, echo);
        let client = cluster.start(2, idle);
        world.sleep(MS).await;
        for _ in 0..50 {
            ask(&client, "x").await.expect("an echo");
        }
        world.sleep(100 * MS).await;
        assert_eq!(world.network().connections(), 0);
    });
}

#[test]
fn a_wiped_machine_starts_from_nothing() {
    world(1, |world| async move {
        let cluster = cluster(&world, 2);
        cluster.start(1, echo);
        let client = cluster.start(2, idle);
        world.sleep(MS).await;
        ask(&client, "x").await.expect("an echo");
        cluster.kill(1);
        cluster.wipe(1, None);
        assert_eq!(cluster.device(1).platter.files(), []);
    });
}

/// A cluster under fire: the digest and the number of events.
fn chaos(seed: u64) -> (u64, u64) {
    world(seed, |world| async move {
        let cluster = cluster(&world, 3);
        cluster.start(1, echo);
        let clients: Vec<SimRuntime> = (2..=3).map(|node| cluster.start(node, idle)).collect();
        let answers = Arc::new(Mutex::new(BTreeMap::<bool, u32>::new()));
        for client in &clients {
            for _ in 0..5 {
                let (asker, answers) = (client.clone(), Arc::clone(&answers));
                client.spawn("asker", async move {
                    loop {
                        let ok = ask(&asker, "hello").await.is_ok();
                        *answers.lock().expect("no panic").entry(ok).or_default() += 1;
                        asker.sleep(Duration::from_micros(asker.random_u64() % 2000)).await;
                    }
                });
            }
        }
        let mut dice = world.streams().dice("nemesis", 0);
        for _ in 0..10 {
            world.sleep(Duration::from_millis(dice.between(10, 60))).await;
            match dice.below(3) {
                0 => cluster.kill(1),
                1 => cluster.power_cut(1, CrashMode::Garbage),
                _ => {
                    world.network().set_cut(1, 2, true);
                    world.sleep(30 * MS).await;
                    world.network().heal();
                }
            }
            if !cluster.runs(1) {
                cluster.start(1, echo);
            }
        }
        let answers = answers.lock().expect("no panic").clone();
        assert!(answers.get(&true) > Some(&20), "{answers:?}");
        world.trace().digest()
    })
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for seed in 0..6 {
        assert_eq!(chaos(seed), chaos(seed), "seed {seed}");
        assert_ne!(chaos(seed).0, chaos(seed + 100).0, "seed {seed}");
    }
}

/// `cargo test --release -p dejaq-sim how_fast -- --ignored --nocapture`
#[test]
#[ignore = "measures, and proves nothing"]
#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "real time, outside of the simulated world"
)]
fn how_fast_the_simulator_is() {
    let start = std::time::Instant::now();
    let ((_, events), virtual_ns) = world(1, |world| async move {
        let cluster = cluster(&world, 4);
        cluster.start(1, echo);
        for node in 2..=4 {
            cluster.start(node, |runtime| async move {
                runtime.sleep(MS).await;
                for _ in 0..5 {
                    let client = runtime.clone();
                    runtime.spawn("asker", async move {
                        let (mut reader, mut writer) = client.net().connect("n1:7").await.expect("connect");
                        let mut frames = Vec::new();
                        for _ in 0..20_000 {
                            writer.send(frame(100)).await.expect("send");
                            let deadline = client.now() + Duration::from_secs(30);
                            let answer = client.before(deadline, reader.recv(&mut frames, 1, 1000)).await;
                            answer.expect("in time").expect("a frame");
                            frames.clear();
                        }
                    });
                }
            });
        }
        world.sleep(Duration::from_secs(8)).await;
        (world.trace().digest(), world.now_ns())
    });
    let wall = start.elapsed().as_secs_f64();
    println!(
        "{events} events in {wall:.2} s: {:.0} events/s, {:.1} virtual seconds a second",
        events as f64 / wall,
        virtual_ns as f64 / 1e9 / wall
    );
}
