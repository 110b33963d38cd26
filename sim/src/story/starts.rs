//! God's eye on the starts of logs: each move that nobody asked for is judged while all segments are still there.
//!
//! Owns: the checks RET-2 and LOG-14 at the moment at which a start takes its place, and a segment loses its name; the
//! latest time that a process may believe. Promises: what retention may remove is told to the history before anybody can
//! miss it, and only if it was right. Leaves out: the rules themselves (`invariants::{retention, start}`).
//! Called by [`super::broker`] when a process starts and serves, and by the device.

use std::sync::{Arc, Mutex, MutexGuard};

use dejaq_storage::model_disk::{Op, Platter};

use super::plan::Plan;
use super::recorder::Recorder;
use crate::clock::WallClock;
use crate::disk::Device;
use crate::invariants::image::Logs;
use crate::invariants::retention::{Move, Rule};
use crate::invariants::{Broken, retention, start};
use crate::oracle::{Event, Part};
use crate::world::{NOBODY, World};

/// A broker slews its belief by one part in a thousand at most; rounding and looks at the clock cost some milliseconds.
const SLACK_MS: i64 = 50;

/// `retention.ms` of a topic that says nothing: 14 days.
const DEFAULT_MS: i64 = 14 * 24 * 3600 * 1000;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Starts(Arc<Inner>);

struct Inner {
    world: World,
    recorder: Recorder,
    clock: WallClock,
    /// By partition. Empty in a cluster, where a follower goes where its leader says.
    rules: Vec<Rule>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The wall clock minus virtual time: the most that this process can have seen while it started.
    ahead_ms: i64,
    since_ms: i64,
    is_starting: bool,
    broken: Option<Broken>,
}

impl Starts {
    /// Watches `device` from now on.
    pub fn watch(
        world: &World,
        plan: &Plan,
        recorder: &Recorder,
        device: &Device,
        clock: WallClock,
    ) -> Starts {
        let number = |topic: &super::TopicPlan, name: &str, default: i64| -> Option<i64> {
            let value = topic.configs.get(name).map_or(Ok(default), |value| value.parse());
            value.ok().filter(|value| *value >= 0)
        };
        let rules = plan.topics.iter().flat_map(|topic| {
            let rule = Rule {
                keep_ms: number(topic, "retention.ms", DEFAULT_MS),
                keep_bytes: number(topic, "retention.bytes", -1).map(|bytes| bytes as u64),
            };
            (0..topic.partitions).map(move |_| rule)
        });
        let inner = Inner {
            world: world.clone(),
            recorder: recorder.clone(),
            clock,
            rules: if plan.brokers == 1 { rules.collect() } else { Vec::new() },
            state: Mutex::default(),
        };
        let starts = Starts(Arc::new(inner));
        let (watched, platter) = (starts.clone(), device.platter.clone());
        device.watch(Arc::new(move |op, path| watched.name(&platter, op, path)));
        starts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while the starts are locked")
    }

    fn virtual_ms(&self) -> i64 {
        (self.0.world.now_ns() / 1_000_000) as i64
    }

    /// A process starts: it believes the clock that it finds.
    pub fn process_starts(&self) {
        let (now_ms, shown_ms) = (self.virtual_ms(), self.0.clock.unix_ms(self.0.world.now_ns()));
        let mut state = self.lock();
        // From here on the clock is looked at with each operation of the disk, until the process serves.
        (state.is_starting, state.ahead_ms, state.since_ms) = (true, shown_ms - now_ms, now_ms);
    }

    /// The process serves: from now on it notices jumps.
    pub fn process_serves(&self) {
        self.look_at_clock();
        self.lock().is_starting = false;
    }

    /// The first finding.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.lock().broken.clone()
    }

    fn look_at_clock(&self) {
        let (now_ms, shown_ms) = (self.virtual_ms(), self.0.clock.unix_ms(self.0.world.now_ns()));
        let mut state = self.lock();
        if state.is_starting {
            state.ahead_ms = state.ahead_ms.max(shown_ms - now_ms);
        }
    }

    fn name(&self, platter: &Platter, op: Op, path: &str) {
        self.look_at_clock();
        let named = path.strip_prefix("partitions/").and_then(|rest| rest.split_once('/'));
        let Some((folder, file)) = named.filter(|_| op == Op::RenameTo) else { return };
        let found = if file == "start" {
            self.moved(platter, folder)
        } else if file.ends_with(".log.deleted") {
            start::check(&platter.files(), &platter.durable_files())
        } else {
            None
        };
        if let Some(broken) = found {
            self.0.world.event(NOBODY, "broken", &[], || format!("{broken:?}"));
            self.lock().broken.get_or_insert(broken);
        }
    }

    fn moved(&self, platter: &Platter, folder: &str) -> Option<Broken> {
        let part: Part = self.0.recorder.part_of_folder(folder)?;
        let rule = *self.0.rules.get(part)?;
        let files = platter.files();
        let to = start::told(&files, folder)?;
        let from = self.0.recorder.trimmed(folder);
        if to <= from {
            return None; // somebody asked for it, or it was judged before
        }
        let now_ms = {
            let state = self.lock();
            let passed_ms = self.virtual_ms() - state.since_ms;
            state.since_ms + state.ahead_ms + passed_ms + passed_ms / 1000 + SLACK_MS
        };
        let logs = Logs::undamaged(files, &platter.damage());
        let log = logs.0.get(folder).map_or(&[][..], Vec::as_slice);
        let broken = retention::check(folder, log, rule, Move { from, to, now_ms });
        if broken.is_none() {
            self.0.recorder.count("starts moved by retention");
            self.0.recorder.event(NOBODY, Event::Trimmed { part, to });
        }
        broken
    }
}
