//! A node's runtime in the simulated world.
//!
//! Owns: [`SimRuntime`], which is one incarnation of one node. Promises: the contract of `dejaq::runtime::Runtime`;
//! entropy differs between incarnations and depends on the seed only. Leaves out: starting and killing (see `cluster`).

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use dejaq::runtime::{Mono, Runtime};
use madsim::runtime::NodeHandle;

use crate::clock::{ProcessClock, WallClock};
use crate::disk::SimDisk;
use crate::net::SimNet;
use crate::rng::Dice;
use crate::trace::Who;
use crate::world::World;

/// One incarnation of one node. Cheap to clone.
#[derive(Clone)]
pub struct SimRuntime(Arc<Inner>);

struct Inner {
    world: World,
    who: Who,
    node: NodeHandle,
    clock: WallClock,
    mono: ProcessClock,
    disk: SimDisk,
    net: SimNet,
    dice: Mutex<Dice>,
    spawned: AtomicU32,
}

/// Tasks spawned between two sweeps of madsim's list of them, which keeps a little of each that ended.
const SWEEP_AFTER: u32 = 1024;

impl SimRuntime {
    pub(crate) fn new(
        world: World,
        who: Who,
        node: NodeHandle,
        (clock, mono): (WallClock, ProcessClock),
        disk: SimDisk,
    ) -> Self {
        let net = SimNet::new(world.clone(), who);
        let number = u64::from(who.node) << 32 | u64::from(who.incarnation);
        let dice = Mutex::new(world.streams().dice("entropy", number));
        let spawned = AtomicU32::new(0);
        SimRuntime(Arc::new(Inner { world, who, node, clock, mono, disk, net, dice, spawned }))
    }

    /// Which incarnation of which node this is.
    #[must_use]
    pub fn who(&self) -> Who {
        self.0.who
    }

    /// The world it lives in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.0.world
    }
}

impl Runtime for SimRuntime {
    type Disk = SimDisk;
    type Net = SimNet;

    fn now(&self) -> Mono {
        let now = self.0.world.now_ns();
        Mono(now - self.0.mono.behind_ns(now))
    }

    fn unix_ms(&self) -> i64 {
        self.0.clock.unix_ms(self.0.world.now_ns())
    }

    async fn sleep_until(&self, at: Mono) {
        // Again, if the machine was suspended meanwhile: then that much time is still to pass.
        while self.now() < at {
            let world = &self.0.world;
            world.sleep_until(at.0.saturating_add(self.0.mono.behind_ns(world.now_ns()))).await;
        }
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0
            .world
            .event(self.0.who, "spawn", &[u64::from(crc32fast::hash(name.as_bytes()))], || name.to_owned());
        drop(self.0.node.spawn(task)); // dropping the handle detaches the task
        if self.0.spawned.fetch_add(1, Ordering::Relaxed) % SWEEP_AFTER == SWEEP_AFTER - 1 {
            let _swept = self.0.world.handle().metrics().num_tasks();
        }
    }

    fn random_u64(&self) -> u64 {
        let drawn = self.0.dice.lock().expect("nothing panics in here").any();
        self.0.world.event(self.0.who, "random", &[drawn], || format!("{drawn:016x}"));
        drawn
    }

    fn disk(&self) -> &SimDisk {
        &self.0.disk
    }

    fn net(&self) -> &SimNet {
        &self.0.net
    }
}
