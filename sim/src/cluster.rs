//! Machines: each with a disk and a clock that outlive its processes, and at most one process that runs.
//!
//! Owns: starting, killing, cutting the power, pausing. Promises: a start is always a new incarnation with a new
//! madsim node (so that nothing of the old one runs on); a kill keeps the page cache, a power cut does not.
//! Leaves out: what runs on a machine: a closure. Source of the crash rule: SIMULATION.md 6 (kill, then the disk's
//! rule, then restart). Called by stories and by the nemesis.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use dejaq_storage::model_disk::{CrashMode, Platter};
use madsim::runtime::NodeHandle;

use crate::clock::{ProcessClock, WallClock};
use crate::disk::Device;
use crate::runtime::SimRuntime;
use crate::trace::Who;
use crate::world::World;

/// The machines of a run. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    world: World,
    machines: Arc<Mutex<BTreeMap<u32, Machine>>>,
    keeps_page_cache: bool,
}

struct Machine {
    device: Device,
    clock: WallClock,
    mono: ProcessClock,
    incarnation: u32,
    crashes: u64,
    running: Option<NodeHandle>,
}

impl Cluster {
    /// No machines yet. With `keeps_page_cache` power cuts lose nothing: the tester's mutant T1.
    #[must_use]
    pub fn new(world: &World, keeps_page_cache: bool) -> Self {
        Cluster { world: world.clone(), machines: Arc::default(), keeps_page_cache }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Machine>> {
        self.machines.lock().expect("nothing panics while the machines are locked")
    }

    /// Adds machine `node` with a disk of `capacity` bytes.
    ///
    /// # Panics
    /// If it is there already, or is 0 (the supervisor).
    pub fn add(&self, node: u32, capacity: Option<u64>) {
        assert_ne!(node, 0, "machine 0 is the supervisor");
        let device = Device::new(&self.world, node, capacity, self.keeps_page_cache);
        let (clock, mono) = (WallClock::default(), ProcessClock::default());
        let machine = Machine { device, clock, mono, incarnation: 0, crashes: 0, running: None };
        let before = self.lock().insert(node, machine);
        assert!(before.is_none(), "machine {node} is there already");
    }

    /// Starts a process on machine `node`: `main` gets the runtime of a new incarnation.
    ///
    /// # Panics
    /// If one runs already.
    pub fn start<F>(&self, node: u32, main: impl FnOnce(SimRuntime) -> F + Send + 'static) -> SimRuntime
    where
        F: Future<Output = ()> + 'static,
    {
        let mut machines = self.lock();
        let machine = machines.get_mut(&node).expect("the machine was added");
        assert!(machine.running.is_none(), "machine {node} runs a process already");
        machine.incarnation += 1;
        let who = Who { node, incarnation: machine.incarnation };
        let handle = self.world.handle().create_node().name(format!("{who:?}")).build();
        machine.running = Some(handle.clone());
        let disk = machine.device.platter.mount();
        machine.mono = ProcessClock::default();
        let clocks = (machine.clock.clone(), machine.mono.clone());
        let runtime = SimRuntime::new(self.world.clone(), who, handle.clone(), clocks, disk);
        drop(machines);
        self.world.network().machine_up(&self.world, node);
        self.world.event(who, "start", &[], String::new);
        let given = runtime.clone();
        // The process's main need not be `Send`: rustc cannot prove that of futures that hold borrows of generic
        // ones (rust-lang/rust 100013), and everything runs in one thread here. What it spawns still must be.
        drop(handle.spawn(async move { drop(madsim::task::spawn_local(main(given))) }));
        runtime
    }

    /// Whether a process runs there.
    #[must_use]
    pub fn runs(&self, node: u32) -> bool {
        self.lock().get(&node).is_some_and(|machine| machine.running.is_some())
    }

    /// `kill -9`: the process is gone, what it wrote is kept, its connections are reset.
    pub fn kill(&self, node: u32) {
        self.end(node, false);
        let machines = self.lock();
        machines[&node].device.platter.kill();
    }

    /// The power fails: the process is gone, and of what was not synced any part; the peers hear nothing.
    pub fn power_cut(&self, node: u32, mode: CrashMode) {
        self.end(node, true);
        let mut machines = self.lock();
        let machine = machines.get_mut(&node).expect("the machine was added");
        machine.crashes += 1;
        let number = u64::from(node) << 32 | machine.crashes;
        let mut dice = self.world.streams().dice("crash", number);
        let platter = &machine.device.platter;
        let at_risk = platter.unsynced_bytes();
        platter.crash(dice.rng(), mode);
        let image = u64::from(platter.checksum());
        let who = Who { node, incarnation: machine.incarnation };
        self.world.event(who, "image", &[at_risk, image], || {
            format!("{mode:?} {at_risk} bytes at risk {image:08x}")
        });
    }

    fn end(&self, node: u32, power: bool) {
        let (handle, who) = {
            let mut machines = self.lock();
            let machine = machines.get_mut(&node).expect("the machine was added");
            (machine.running.take(), Who { node, incarnation: machine.incarnation })
        };
        let kind = if power { "power" } else { "kill" };
        self.world.event(who, kind, &[], String::new);
        if let Some(handle) = handle {
            self.world.handle().kill(handle.id());
        }
        self.world.network().process_down(&self.world, who, power);
    }

    /// Runs something of the story beside its acts, on no machine, for as long as the story lasts.
    pub fn aside(&self, work: impl Future<Output = ()> + 'static) {
        drop(madsim::task::spawn_local(work));
    }

    /// Notes that the process ended by itself (its main returned): the machine is free for the next start.
    pub fn ended(&self, who: Who) {
        if self.lock().get(&who.node).is_some_and(|machine| machine.incarnation == who.incarnation) {
            self.kill(who.node);
        }
    }

    /// Stops a process where it stands, as SIGSTOP or a long garbage collection does, or lets it go on: time passes,
    /// and it finds its deadlines missed.
    pub fn pause(&self, node: u32, paused: bool) {
        self.stop(node, paused, false);
    }

    /// Suspends a machine, as the move of a virtual machine does, or lets it go on: the time between does not exist for
    /// its monotonic clock; its wall clock jumps.
    pub fn suspend(&self, node: u32, suspended: bool) {
        self.stop(node, suspended, true);
    }

    fn stop(&self, node: u32, stop: bool, clock_stands: bool) {
        let machines = self.lock();
        let machine = machines.get(&node).expect("the machine was added");
        let Some(handle) = machine.running.as_ref() else { return };
        let who = Who { node, incarnation: machine.incarnation };
        let kind = if stop { "pause" } else { "resume" };
        self.world.event(who, kind, &[u64::from(clock_stands)], String::new);
        if clock_stands {
            machine.mono.suspend(self.world.now_ns(), stop);
        }
        if stop {
            self.world.handle().pause(handle.id());
        } else {
            self.world.handle().resume(handle.id());
        }
    }

    /// Whether there is such a machine.
    #[must_use]
    pub fn has(&self, node: u32) -> bool {
        self.lock().contains_key(&node)
    }

    /// A new, empty disk in place of the old one, of `capacity` bytes: what was on it is gone.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn wipe(&self, node: u32, capacity: Option<u64>) {
        let mut machines = self.lock();
        let machine = machines.get_mut(&node).expect("the machine was added");
        assert!(machine.running.is_none(), "machine {node} runs a process");
        self.world.event(Who { node, incarnation: machine.incarnation }, "wipe", &[], String::new);
        machine.device = Device::new(&self.world, node, capacity, self.keeps_page_cache);
    }

    /// An older copy of its disk in place of what is on it.
    ///
    /// # Panics
    /// If a process runs there.
    pub fn put_back(&self, node: u32, copy: &Platter) {
        let machines = self.lock();
        let machine = machines.get(&node).expect("the machine was added");
        assert!(machine.running.is_none(), "machine {node} runs a process");
        self.world.event(Who { node, incarnation: machine.incarnation }, "put back", &[], String::new);
        machine.device.platter.put_back(copy);
    }

    /// The device of a machine, for faults and for checkers.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn device(&self, node: u32) -> Device {
        self.lock().get(&node).expect("the machine was added").device.clone()
    }

    /// The wall clock of a machine, for faults.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn clock(&self, node: u32) -> WallClock {
        self.lock().get(&node).expect("the machine was added").clock.clone()
    }
}
