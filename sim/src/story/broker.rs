//! A broker's machine in a story: starting, stopping and crashing it, with the log invariants at each recovery.
//!
//! Owns: which incarnation runs, whether it is ready; in a fleet, how each member is configured.
//! Promises: when an incarnation says that it is ready, its logs are checked against every crash since the last check.
//! Leaves out: when to crash (see `nemesis`).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dejaq::broker::Broker;
use dejaq::config::{Config, QuorumNode};
use dejaq::metadata::Image;
use dejaq::replica::inspect::Inspection;
use dejaq_storage::model_disk::{CrashMode, Platter, Rates};
use dejaq_storage::{LastStop, Log, LogConfig, OpenOptions, RESERVE_BYTES, SpaceGuard};
use dejaq_wire::ids::BrokerId;
use tokio::sync::Notify;

use super::ghost::Ghost;
use super::plan::Plan;
use super::recorder::Recorder;
use super::settings;
use super::starts::Starts;
use crate::clock::WallClock;
use crate::cluster::Cluster;
use crate::disk::Device;
use crate::invariants::image::{self, Logs};
use crate::invariants::inside::{Inside, Leading, Proposed, Reported};
use crate::invariants::insight::Sight;
use crate::invariants::{Broken, start};
use crate::oracle::Event;
use crate::runtime::SimRuntime;
use crate::trace::Who;
use crate::world::{NOBODY, World};

/// The machine of the only broker, or of the first one; the others of a fleet follow.
pub const BROKER: u32 = 1;
/// Where the brokers of a fleet talk to each other.
const PEER_PORT: u16 = 9192;

/// The broker of a story. Cheap to clone.
#[derive(Clone)]
pub struct BrokerNode(Arc<Inner>);

struct Inner {
    node: u32,
    /// Whether it is one of several.
    is_member: bool,
    world: World,
    cluster: Cluster,
    recorder: Recorder,
    config: Config,
    /// Whether each start but the first has settings of its own.
    resettles: bool,
    starts: Starts,
    state: Mutex<State>,
    changed: Notify,
}

/// Looks into the process that runs; empty when it is gone.
type Look = Box<dyn Fn() -> Vec<Sight> + Send>;

#[derive(Default)]
struct State {
    look: Option<Look>,
    /// How many elections its metadata says to have lost something.
    losses: Option<Box<dyn Fn() -> usize + Send>>,
    /// The committed metadata that it acts on.
    image: Option<Box<dyn Fn() -> Option<Arc<Image>> + Send>>,
    /// What the processes that ended acted on last.
    last_image: Option<Arc<Image>>,
    /// Whose controller is active, as far as it knows.
    active: Option<Box<dyn Fn() -> Option<BrokerId> + Send>>,
    /// How often its process was ended badly while it served.
    bad_ends: u64,
    /// What processes believed right before they died, that nobody has taken yet.
    last_sights: Vec<(u64, Vec<Sight>)>,
    stop: Option<Arc<Notify>>,
    /// The feature level to which it is held from its next start on; `None` is that of this build.
    level: Option<u16>,
    /// That of the process that was started last.
    runs_at: u16,
    /// The story ends: it is not started any more.
    is_retired: bool,
    /// Its files are in somebody's hands: nobody else starts it.
    is_held: bool,
    /// Whether somebody works at its disk, from the stop before to the start behind.
    is_in_hand: bool,
    ready: Option<Who>,
    failed: Option<String>,
    ghost: Ghost,
    broken: Option<Broken>,
    starts: u64,
    unclean_starts: u64,
    /// Errors of the device before the last start.
    errors_before: u64,
    /// How often the device had no room before this process began.
    refused_before: u64,
    /// Which of its processes were killed or lost their power: god was told what they believed last.
    fallen: BTreeSet<u32>,
    /// The device failed the last start, so that some partition may be left closed until the next.
    is_lame: bool,
}

impl BrokerNode {
    /// The brokers of the plan, on machines of one cluster.
    pub(super) fn fleet(
        world: &World,
        plan: &Plan,
        recorder: &Recorder,
        keeps_page_cache: bool,
    ) -> Vec<Self> {
        let cluster = Cluster::new(world, keeps_page_cache);
        let least = if plan.nothing_late { plan.latency.1 } else { plan.latency.0 };
        world.network().set_latency(least, plan.latency.1);
        let nodes = BROKER..BROKER + plan.brokers;
        let one = |node| {
            cluster.add(node, plan.capacity);
            cluster.device(node).set_speed(plan.disk);
            let rates = Rates { cold_read_ppm: plan.cold_ppm, ..Rates::default() };
            cluster.device(node).platter.set_rates(rates);
            BrokerNode(Arc::new(Inner {
                node,
                is_member: plan.brokers > 1,
                world: world.clone(),
                cluster: cluster.clone(),
                recorder: recorder.clone(),
                config: member(plan, node),
                resettles: plan.resettles,
                starts: Starts::watch(world, plan, recorder, &cluster.device(node), cluster.clock(node)),
                state: Mutex::new(State { ghost: Ghost::of_fleet(plan.brokers > 1), ..State::default() }),
                changed: Notify::new(),
            }))
        };
        nodes.map(one).collect()
    }

    /// The number of its machine, and of the broker.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.0.node
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while the broker's state is locked")
    }

    /// Starts the broker, if it does not run.
    pub async fn start(&self) {
        self.begin_start();
    }

    /// Starts the broker, if it does not run; it becomes ready by and by.
    pub fn begin_start(&self) {
        if self.runs() || self.lock().is_retired || self.is_held() {
            return;
        }
        let stop = Arc::new(Notify::new());
        let errors_before = self.device_errors();
        let mut config = self.0.config.clone();
        {
            let mut state = self.lock();
            state.stop = Some(stop.clone());
            state.failed = None;
            (state.errors_before, state.is_lame) = (errors_before, false);
            state.refused_before = self.device().platter.faults().disk_full;
            state.starts += 1;
            if self.0.resettles {
                config = settings::at_start(&self.0.world, &config, (self.0.node, state.starts));
            }
            config.feature_level_max = state.level.unwrap_or(config.feature_level_max);
            state.runs_at = config.feature_level_max;
        }
        self.0.starts.process_starts();
        let node = self.clone();
        self.0
            .cluster
            .start(self.0.node, move |runtime| async move { node.main(runtime, config, stop).await });
    }

    /// Whether somebody works at its disk, for who takes it in hand or lets it go.
    pub fn in_hand<T>(&self, look: impl FnOnce(&mut bool) -> T) -> T {
        look(&mut self.lock().is_in_hand)
    }

    /// Nobody else starts it while it is held.
    pub fn hold(&self, held: bool) {
        self.lock().is_held = held;
    }

    /// Whether its files are in somebody's hands.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().is_held
    }

    /// From its next start on it is a release of this feature level.
    pub fn set_level(&self, level: u16) {
        self.lock().level = Some(level);
    }

    /// The feature level of the process that was started last.
    #[must_use]
    pub fn runs_at(&self) -> u16 {
        self.lock().runs_at
    }

    /// Whether the process that was started last is not of the release that was set.
    #[must_use]
    pub fn runs_at_another(&self) -> bool {
        let state = self.lock();
        state.level.is_some_and(|level| level != state.runs_at)
    }

    /// Whether it serves, as the release that was set.
    #[must_use]
    pub fn serves_as_set(&self) -> bool {
        !self.runs_at_another() && self.runs() && self.lock().ready.is_some()
    }

    async fn main(self, runtime: SimRuntime, config: Config, stop: Arc<Notify>) {
        let who = runtime.who();
        match Broker::start(runtime, config).await {
            Ok(broker) => {
                self.lock().look = Some(looks_into(&broker, who));
                let directory = Arc::downgrade(broker.directory());
                let losses =
                    move || directory.upgrade().map_or(0, |directory| directory.image().losses().count());
                self.lock().losses = Some(Box::new(losses));
                self.lock().active = Some(Box::new(broker.active_controller()));
                let directory = Arc::downgrade(broker.directory());
                self.lock().image = Some(Box::new(move || directory.upgrade().map(|one| one.image())));
                self.recovered(who);
                stop.notified().await;
                self.lock().ready = None;
                let stopped = broker.shutdown().await;
                self.0.world.event(who, "stopped", &[u64::from(stopped.is_ok())], || format!("{stopped:?}"));
            }
            Err(error) => {
                self.0.world.event(who, "unfit", &[], || error.to_string());
                self.lock().failed = Some(error.to_string());
            }
        }
        self.lock().stop = None;
        // From outside of the task that ends here, since the machine's end ends its tasks.
        self.0.cluster.ended(who);
        self.0.changed.notify_waiters();
    }

    /// The broker serves: now its logs must hold what the crashes had to leave.
    fn recovered(&self, who: Who) {
        self.0.starts.process_serves();
        let (device, errors) = (self.device(), self.device_errors());
        let mut state = self.lock();
        state.is_lame = errors > state.errors_before;
        // Without room what is derived from a log is in memory only, and derived again at the next start.
        let had_room = device.platter.faults().disk_full == state.refused_before;
        let (unclean, is_whole) = (state.ghost.is_unclean(), !state.is_lame && had_room);
        let (now, broken) = state.ghost.recovered(&device, &self.0.recorder, is_whole);
        self.0.world.event(who, "ready", &[now.batches() as u64], || format!("{} batches", now.batches()));
        state.ready = Some(who);
        state.unclean_starts += u64::from(unclean);
        self.note(&mut state, broken);
        drop(state);
        self.0.changed.notify_waiters();
    }

    fn note(&self, state: &mut State, broken: Option<Broken>) {
        if let Some(first) = broken {
            self.0.world.event(NOBODY, "broken", &[], || format!("{first:?}"));
            state.broken.get_or_insert(first);
        }
    }

    /// Watches for a while that nothing is deleted too early; then waits for ever.
    pub async fn watch_start(&self) {
        for _ in 0..60 {
            self.0.world.sleep(Duration::from_micros(250)).await;
            let platter = self.device().platter;
            if let Some(broken) = start::check(&platter.files(), &platter.durable_files()) {
                self.blame(broken);
                break;
            }
        }
        std::future::pending::<()>().await;
    }

    /// A finding of a checker outside of this module; the first one counts.
    pub fn blame(&self, broken: Broken) {
        let mut state = self.lock();
        self.note(&mut state, Some(broken));
    }

    /// Waits until the broker serves.
    pub async fn ready(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.lock().ready.is_some() && self.runs() {
                return;
            }
            if !self.runs() {
                self.begin_start();
            }
            tokio::select! {
                biased; // either is a reason to look again
                () = changed => {}
                () = self.0.world.sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// Starts the broker and waits for it to serve, or to give up.
    ///
    /// # Errors
    /// Why it gave up.
    pub async fn try_start(&self) -> Result<(), String> {
        self.begin_start();
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.lock();
                if let Some(failed) = &state.failed {
                    return Err(failed.clone());
                }
                if state.ready.is_some() {
                    return Ok(());
                }
            }
            tokio::select! {
                biased; // either is a reason to look again
                () = changed => {}
                () = self.0.world.sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// Stops the broker gracefully and for good: whoever would start it again later does not.
    pub async fn retire(&self) {
        self.lock().is_retired = true;
        self.stop().await;
    }

    /// Stops the broker gracefully; returns when its process has ended.
    pub async fn stop(&self) {
        let stop = self.lock().stop.clone();
        if let Some(stop) = stop {
            stop.notify_one();
        }
        while self.runs() {
            let changed = self.0.changed.notified();
            tokio::select! {
                biased; // either is a reason to look again
                () = changed => {}
                () = self.0.world.sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    fn down(&self, power: bool) {
        let device = self.device();
        let mut state = self.lock();
        let serves = state.ready.is_some();
        let broken = state.ghost.down(&device, (power, serves), &self.0.recorder);
        self.note(&mut state, broken);
        state.bad_ends += u64::from(serves);
        let fell = state.ready.take().map(|who| who.incarnation);
        state.fallen.extend(fell);
        state.stop = None;
        let last = state.look.take().map(|look| (self.0.world.now_ns(), look()));
        let led = last.iter().flat_map(|(_, sights)| sights).filter(|sight| serves && sight.leads);
        led.for_each(|sight| self.0.recorder.leader_ended(&sight.folder));
        state.last_sights.extend(last);
        let image = state.image.as_ref().and_then(|image| image());
        state.last_image = image.or(state.last_image.take());
    }

    /// What its processes believed right before they died, and what the one that runs believes now, each with its time.
    #[must_use]
    pub fn sights(&self) -> Vec<(u64, Vec<Sight>)> {
        let mut state = self.lock();
        let mut sights = std::mem::take(&mut state.last_sights);
        sights.extend(state.look.as_ref().map(|look| (self.0.world.now_ns(), look())));
        sights
    }

    /// What the process that runs believes now.
    #[must_use]
    pub fn believes(&self) -> Vec<Sight> {
        self.lock().look.as_ref().map(|look| look()).unwrap_or_default()
    }

    /// Whether this process of it was killed or lost its power while it served.
    #[must_use]
    pub fn fell(&self, incarnation: u32) -> bool {
        self.lock().fallen.contains(&incarnation)
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.down(false);
        self.0.cluster.kill(self.0.node);
    }

    /// The power fails.
    pub fn power_cut(&self, mode: CrashMode) {
        self.down(true);
        self.0.recorder.event(NOBODY, Event::PowerCut { at: self.0.world.now_ns() });
        self.0.cluster.power_cut(self.0.node, mode);
    }

    /// Stops the process where it stands.
    pub fn pause(&self) {
        self.0.cluster.pause(self.0.node, true);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.0.cluster.pause(self.0.node, false);
    }

    /// `kill -9`, and an empty disk in place of the broker's.
    pub fn wipe(&self, plan: &Plan) {
        self.down(true);
        self.0.cluster.kill(self.0.node);
        self.0.cluster.wipe(self.0.node, plan.capacity);
        self.device().set_speed(plan.disk);
        self.device().platter.set_rates(Rates { cold_read_ppm: plan.cold_ppm, ..Rates::default() });
    }

    /// `kill -9` of what still runs, and an older copy of the disk in place of what is on it.
    pub fn put_back(&self, copy: &Platter) {
        self.down(true);
        self.lock().bad_ends += 1; // however it ended: what it had is not all there
        self.0.cluster.kill(self.0.node);
        self.0.cluster.put_back(self.0.node, copy);
    }

    /// How many elections its metadata says to have lost something.
    #[must_use]
    pub fn losses_told(&self) -> usize {
        self.lock().losses.as_ref().map_or(0, |losses| losses())
    }

    /// The committed metadata that the process which runs acts on.
    #[must_use]
    pub fn image(&self) -> Option<Arc<Image>> {
        let state = self.lock();
        state.ready.and_then(|_| state.image.as_ref()).and_then(|image| image())
    }

    /// The newest committed metadata that a process of it ever acted on.
    #[must_use]
    pub fn newest_image(&self) -> Option<Arc<Image>> {
        let last = self.lock().last_image.clone();
        self.image().into_iter().chain(last).max_by_key(|image| image.end())
    }

    /// The broker whose controller is active, as far as this one knows.
    #[must_use]
    pub fn active_controller(&self) -> Option<u32> {
        let state = self.lock();
        let active = state.ready.and_then(|_| state.active.as_ref()).and_then(|active| active());
        active.map(|broker| broker.0 as u32)
    }

    /// How often its process was ended badly while it served.
    #[must_use]
    pub fn bad_ends(&self) -> u64 {
        self.lock().bad_ends
    }

    /// Which incarnation of its process is ready.
    #[must_use]
    pub fn incarnation(&self) -> Option<u32> {
        self.lock().ready.map(|who| who.incarnation)
    }

    /// Whether this incarnation of its process serves now.
    #[must_use]
    pub fn lives(&self, incarnation: u32) -> bool {
        self.runs() && self.lock().ready.is_some_and(|who| who.incarnation == incarnation)
    }

    /// Batches of the plan's partitions on its disk that are damaged now, by partition folder.
    #[must_use]
    pub fn struck(&self) -> Vec<String> {
        let platter = self.device().platter;
        let damage = platter.damage();
        if damage.is_empty() {
            return Vec::new();
        }
        let of_plan = |folder: &String| self.0.recorder.part_of_folder(folder).is_some();
        let struck = Logs::struck(platter.files(), &damage).into_iter();
        let struck = struck.filter(|(folder, ranges)| of_plan(folder) && !ranges.is_empty());
        struck.map(|(folder, ranges)| format!("{folder} {ranges:?}")).collect()
    }

    /// Whether it was ever started.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.lock().starts > 0
    }

    /// How far its life is: how often it was started, how many of its processes fell, whether one is there, and serves.
    #[must_use]
    pub fn life(&self) -> (u64, usize, bool, bool) {
        let runs = self.runs();
        let state = self.lock();
        (state.starts, state.fallen.len(), runs, state.ready.is_some())
    }

    /// Whether a process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.0.cluster.runs(self.0.node)
    }

    /// Whether the file that is given up for room is on the disk.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        let is_it =
            |(path, length): &(PathBuf, u64)| path == Path::new("reserve") && *length == RESERVE_BYTES;
        self.device().platter.lengths().iter().any(is_it)
    }

    /// Whether it serves before so much time is over, started again whenever a start fails.
    pub async fn serves_within(&self, limit: Duration) -> bool {
        tokio::select! {
            biased; // an answer at the last moment counts
            () = self.ready() => true,
            () = self.0.world.sleep(limit) => false,
        }
    }

    /// Says that a promise is broken.
    pub fn breaks(&self, broken: Broken) {
        let mut state = self.lock();
        self.note(&mut state, Some(broken));
    }

    /// Whether the device failed this process, so that a person would restart it.
    #[must_use]
    pub fn is_sick(&self) -> bool {
        let faults = self.device().platter.faults();
        let state = self.lock();
        faults.sync_errors + faults.write_errors > 0 || state.failed.is_some() || state.is_lame
    }

    fn device_errors(&self) -> u64 {
        let faults = self.device().platter.faults();
        faults.read_errors + faults.write_errors + faults.sync_errors
    }

    /// The first invariant that was found broken.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.lock().broken.clone().or_else(|| self.0.starts.broken())
    }

    /// What a stuck story tells about the broker.
    #[must_use]
    pub fn state(&self) -> String {
        let state = self.lock();
        let sights = state.look.as_ref().map(|look| look()).unwrap_or_default();
        let of_plan = |sight: &&Sight| self.0.recorder.part_of_folder(&sight.folder).is_some();
        let sights: Vec<String> = sights.iter().filter(of_plan).map(Sight::short).collect();
        format!(
            "runs {}, ready {:?}, failed {:?}, starts {}, {}",
            self.runs(),
            state.ready,
            state.failed,
            state.starts,
            sights.join(" ")
        )
    }

    /// The broker's disk.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.cluster.device(self.0.node)
    }

    /// The broker's wall clock.
    #[must_use]
    pub fn clock(&self) -> WallClock {
        self.0.cluster.clock(self.0.node)
    }

    /// A runtime on another machine, for a client that lives as long as the story.
    #[must_use]
    pub fn machine(&self, node: u32) -> SimRuntime {
        if self.0.cluster.runs(node) {
            self.0.cluster.kill(node);
        } else if !self.0.cluster.has(node) {
            self.0.cluster.add(node, None);
        }
        self.0.cluster.start(node, |_| std::future::pending())
    }

    /// Runs something of the story beside its acts, on no machine.
    pub fn aside(&self, work: impl Future<Output = ()> + 'static) {
        self.0.cluster.aside(work);
    }

    /// Runs a client on a machine of its own.
    pub fn client<F>(&self, node: u32, main: impl FnOnce(SimRuntime) -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        self.0.cluster.add(node, None);
        self.0.cluster.start(node, main);
    }

    /// Runs a client on a machine of its own, anew if it was there.
    pub fn reborn<F>(&self, node: u32, main: impl FnOnce(SimRuntime) -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        if !self.0.cluster.has(node) {
            self.0.cluster.add(node, None);
        }
        self.0.cluster.start(node, main);
    }

    /// `kill -9` of a client.
    pub fn strike_machine(&self, node: u32) {
        self.0.cluster.kill(node);
    }

    /// Stops a client where it stands, or lets it go on.
    pub fn pause_machine(&self, node: u32, paused: bool) {
        self.0.cluster.pause(node, paused);
    }

    /// Whether byte `at` of a segment belongs to a batch of a partition of the plan.
    #[must_use]
    pub fn is_of_a_batch(&self, path: &Path, at: u64) -> bool {
        self.batch_at(path, at).is_some()
    }

    /// The first offset of the batch of a partition of the plan that byte `at` of a segment belongs to.
    #[must_use]
    pub fn batch_at(&self, path: &Path, at: u64) -> Option<i64> {
        let platter = self.device().platter;
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let logs = Logs::undamaged(platter.durable_files(), &platter.damage());
        let base = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        let (folder, base) = folder.zip(base)?;
        self.0.recorder.part_of_folder(folder)?;
        let mut log = logs.0.get(folder)?.iter();
        log.find(|batch| batch.segment == base && (batch.at..batch.at + batch.bytes).contains(&at))
            .map(|batch| batch.base)
    }

    /// Learns what was damaged in silence, and tells the history that it is destroyed.
    pub fn learn_damage(&self) {
        let device = self.device();
        self.lock().ghost.learn(&device, &self.0.recorder);
    }

    /// Whether bytes of this partition were damaged on purpose.
    #[must_use]
    pub fn has_damage(&self, topic: &str, index: i32) -> bool {
        let folder = self.0.recorder.folder_of(topic, index);
        folder.is_some_and(|folder| self.lock().ghost.is_damaged(&folder))
    }

    /// The offset behind a damaged batch that holds `offset`, if there is one.
    #[must_use]
    pub fn behind_damage(&self, topic: &str, index: i32, offset: i64) -> Option<i64> {
        if self.0.is_member {
            return None; // another broker has it, and this one is to get it from there
        }
        self.learn_damage();
        let folder = self.0.recorder.folder_of(topic, index)?;
        self.lock().ghost.behind(&folder, offset)
    }

    /// Opens every log that a graceful stop left, and lets the product compare each with a rebuild of itself.
    ///
    /// # Errors
    /// What differs, and where.
    pub async fn check_deep(&self) -> Result<(), String> {
        let platter = self.device().platter;
        platter.set_rates(Rates::default());
        self.learn_damage();
        let disk = platter.mount();
        let mut folders: Vec<_> =
            platter.lengths().iter().filter_map(|(path, _)| path.parent().map(Path::to_owned)).collect();
        folders.dedup();
        for folder in folders.iter().filter(|folder| folder.parent() == Some(Path::new("partitions"))) {
            let name = folder.display();
            let identity =
                Log::identity_of(&disk, folder).await.map_err(|error| format!("{name}: {error}"))?;
            let options = OpenOptions {
                last_stop: LastStop::CLEAN,
                now_ms: 0,
                space: SpaceGuard::new(0, 0),
                verify_all: false,
            };
            let folder_name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let config = LogConfig { gaps: self.0.recorder.has_gaps(folder_name), ..LogConfig::default() };
            let opened = Log::open(disk.clone(), folder.clone(), identity, config, options).await;
            let (log, _) = opened.map_err(|error| format!("{name}: {error}"))?;
            let rotten = self.lock().ghost.is_damaged(folder_name);
            match log.check_deep().await {
                Err(difference) if rotten && difference.starts_with("LOG-5") => {}
                checked => checked.map_err(|difference| format!("{name}: {difference}"))?,
            }
        }
        Ok(())
    }

    /// What the device counted of its faults.
    pub fn fault_counts(&self, counts: &mut BTreeMap<String, u64>) {
        let faults = self.device().platter.faults();
        let state = self.lock();
        for (name, count) in [
            ("disk read errors", faults.read_errors),
            ("disk write errors", faults.write_errors),
            ("disk full answers", faults.disk_full),
            ("disk sync errors", faults.sync_errors),
            ("disk places damaged", faults.damaged),
            ("disk damage that was read", faults.damage_read),
            ("broker starts", state.starts),
            ("broker recoveries checked", state.unclean_starts),
        ] {
            *counts.entry(name.into()).or_default() += count;
        }
    }
}

fn looks_into(broker: &Broker<SimRuntime>, who: Who) -> Look {
    // Weak: what watches must not keep a dead process's directory in use.
    let directory = Arc::downgrade(broker.directory());
    Box::new(move || {
        let Some(directory) = directory.upgrade() else { return Vec::new() };
        let one = |partition: &Arc<dejaq::replica::Partition<SimRuntime>>| {
            let (identity, view) = (partition.identity(), partition.view());
            Sight {
                node: who.node,
                incarnation: who.incarnation,
                folder: image::folder(identity.topic_id.0, identity.partition.0),
                leads: view.stopped().is_none(),
                epoch: view.epoch().0,
                start: view.reader().start().0,
                watermark: view.watermark().0,
                end: view.reader().end().0,
                inside: partition.inspect().map(inside),
            }
        };
        directory.partitions().iter().map(one).collect()
    })
}

fn inside(seen: Inspection) -> Inside {
    let number = |broker: BrokerId| broker.0 as u32;
    let leading = seen.leading.map(|leading| Leading {
        epoch_start: leading.epoch_start.0,
        replicas: leading.replicas.iter().copied().map(number).collect(),
        members: leading.members.iter().copied().map(number).collect(),
        proposed: leading.proposed.map(|proposal| Proposed {
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr.iter().map(|(one, life)| (number(*one), life.0)).collect(),
        }),
        reports: leading
            .reports
            .into_iter()
            .map(|(one, report)| {
                let (epoch, life) = (report.epoch.0, report.life.0);
                (number(one), Reported { epoch, life, fetched: report.fetched.0, durable: report.durable.0 })
            })
            .collect(),
    });
    let latest_epoch = seen.latest_epoch.map_or(-1, |epoch| epoch.0);
    Inside { latest_epoch, flushed: seen.flushed_end.0, leading }
}

/// The settings of one member of the plan's fleet; those of the plan if it is the only one.
fn member(plan: &Plan, node: u32) -> Config {
    let mut config = plan.config.clone();
    if plan.brokers == 1 {
        return config;
    }
    config.node_id = node;
    config.listen = format!("n{node}:9092");
    config.peer_listen = format!("n{node}:{PEER_PORT}");
    let voters = BROKER..BROKER + plan.voters;
    let voter = |id| QuorumNode { id, address: format!("n{id}:{PEER_PORT}") };
    config.quorum = voters.map(voter).collect();
    if plan.racks > 0 {
        config.rack = Some(format!("r{}", node % plan.racks));
    }
    config
}
