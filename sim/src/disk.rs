//! The simulated disk: the model of `dejaq_storage::model_disk` with virtual time and the trace.
//!
//! Owns: how long operations take, and noting each in the trace. Promises: what the model promises.
//! Leaves out: what a power cut leaves and how a device fails (the model's), and when (see `nemesis`).

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq_storage::model_disk::{DiskEvent, Latency, ModelDisk, Observer, Op, Pause, Platter, Setup};

use crate::invariants::resurrection::is_metadata;
use crate::rng::Dice;
use crate::trace::Who;
use crate::world::World;

/// What a simulated node sees.
pub type SimDisk = ModelDisk;

/// How slow a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// The fastest sync.
    pub sync_from: Duration,
    /// The slowest sync.
    pub sync_to: Duration,
    /// Everything takes this much longer: a stall.
    pub stall: Duration,
}

impl Default for Speed {
    fn default() -> Self {
        Speed {
            sync_from: Duration::from_micros(200),
            sync_to: Duration::from_millis(4),
            stall: Duration::ZERO,
        }
    }
}

/// The machine's device, with a knob for its speed. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    /// The model.
    pub platter: Platter,
    speed: Arc<Mutex<Speed>>,
    /// How much longer a read that waits takes than everything else.
    slow_reads: Arc<Mutex<Duration>>,
    metadata_writes: Arc<Mutex<Vec<LogWrite>>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

/// Is told each operation that changed a name, and the name: for checkers that look while things happen.
pub type Watcher = Arc<dyn Fn(Op, &str) + Send + Sync>;

/// One write to a segment of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWrite {
    /// The partition's folder.
    pub folder: String,
    /// The base offset in the segment's name.
    pub segment: u64,
    /// Where it begins.
    pub at: u64,
    /// Where it ends.
    pub end: u64,
}

impl Device {
    /// A new, empty device of machine `node`.
    #[must_use]
    pub fn new(world: &World, node: u32, capacity: Option<u64>, keeps_page_cache: bool) -> Self {
        let speed = Arc::new(Mutex::new(Speed::default()));
        let dice = Mutex::new(world.streams().dice("disk-time", u64::from(node)));
        let slow_reads: Arc<Mutex<Duration>> = Arc::default();
        let clock =
            Clockwork { world: world.clone(), dice, speed: speed.clone(), slow_reads: slow_reads.clone() };
        let metadata_writes: Arc<Mutex<Vec<LogWrite>>> = Arc::default();
        let watcher: Arc<Mutex<Option<Watcher>>> = Arc::default();
        let witness = Witness {
            world: world.clone(),
            node,
            metadata_writes: metadata_writes.clone(),
            watcher: watcher.clone(),
        };
        let platter = Platter::new(Setup {
            seed: world.streams().dice("disk", u64::from(node)).any(),
            capacity,
            crash_keeps_page_cache: keeps_page_cache,
            latency: Some(Arc::new(clock)),
            observer: Some(Arc::new(witness)),
        });
        Device { platter, speed, slow_reads, metadata_writes, watcher }
    }

    /// Calls `watcher` after each operation that changed a name, from now on.
    pub fn watch(&self, watcher: Watcher) {
        *self.watcher.lock().expect("nothing panics in here") = Some(watcher);
    }

    /// What was written to the metadata log since [`Device::forget_metadata_writes`], oldest first.
    #[must_use]
    pub fn metadata_writes(&self) -> Vec<LogWrite> {
        self.metadata_writes.lock().expect("nothing panics in here").clone()
    }

    /// Forgets them.
    pub fn forget_metadata_writes(&self) {
        self.metadata_writes.lock().expect("nothing panics in here").clear();
    }

    /// Changes the speed from now on.
    pub fn set_speed(&self, speed: Speed) {
        *self.speed.lock().expect("nothing panics in here") = speed;
    }

    /// Makes reads that begin from now on, and have to wait for the disk, take this much longer.
    pub fn set_slow_reads(&self, extra: Duration) {
        *self.slow_reads.lock().expect("nothing panics in here") = extra;
    }
}

struct Clockwork {
    world: World,
    dice: Mutex<Dice>,
    speed: Arc<Mutex<Speed>>,
    slow_reads: Arc<Mutex<Duration>>,
}

impl Latency for Clockwork {
    fn pause(&self, op: Op, bytes: u64) -> Pause {
        let speed = *self.speed.lock().expect("nothing panics in here");
        let mut dice = self.dice.lock().expect("nothing panics in here");
        let (from, to) = (speed.sync_from.as_nanos() as u64, speed.sync_to.as_nanos() as u64);
        let base = match op {
            Op::Sync | Op::SyncStart | Op::SyncDir => dice.between(from, to + 1) + bytes / 2, // 2 GB/s
            _ => dice.between(20_000, 200_000) + bytes / 2,
        };
        let extra = match op {
            Op::Read => *self.slow_reads.lock().expect("nothing panics in here"),
            _ => Duration::ZERO,
        };
        let wait = Duration::from_nanos(base) + speed.stall + extra;
        Box::pin(self.world.sleep(wait))
    }
}

struct Witness {
    world: World,
    node: u32,
    metadata_writes: Arc<Mutex<Vec<LogWrite>>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

impl Witness {
    fn note_metadata(&self, event: &DiskEvent<'_>) {
        let named = event.path.strip_prefix("partitions/").and_then(|rest| rest.split_once('/'));
        let Some((folder, name)) = named.filter(|(folder, _)| is_metadata(folder)) else { return };
        let base = name.strip_suffix(".log").and_then(|base| base.parse().ok());
        if let Some(segment) = base {
            let write =
                LogWrite { folder: folder.to_owned(), segment, at: event.at, end: event.at + event.len };
            self.metadata_writes.lock().expect("nothing panics in here").push(write);
        }
    }
}

impl Observer for Witness {
    fn event(&self, event: &DiskEvent<'_>, error: Option<ErrorKind>) {
        let who = Who { node: self.node, incarnation: 0 };
        if event.op == Op::Write && error.is_none() {
            self.note_metadata(event);
        }
        let path = u64::from(crc32fast::hash(event.path.as_bytes()));
        let failed = error.map_or(0, |kind| u64::from(crc32fast::hash(format!("{kind:?}").as_bytes())));
        let words = [event.op as u64, path, event.at, event.len, u64::from(event.crc), failed];
        self.world.event(who, "disk", &words, || {
            let DiskEvent { op, path, at, len, crc } = event;
            let error = error.map(|kind| format!(" FAILED {kind:?}")).unwrap_or_default();
            format!("{op:?} {path} at {at} len {len} {crc:08x}{error}")
        });
        if matches!(event.op, Op::RenameTo | Op::Create) && error.is_none() {
            let watcher = self.watcher.lock().expect("nothing panics in here").clone();
            if let Some(watcher) = watcher {
                watcher(event.op, event.path);
            }
        }
    }
}
