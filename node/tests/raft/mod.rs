//! A quorum in memory: nodes, disks and a network as values, virtual time, one seed.
//!
//! The tour: [`world`] runs events in order; [`nemesis`] breaks things; [`disk`] forgets what was not synced; [`god`]
//! knows what must be true; [`directed`] tells single nodes what to hear, [`told`] whole quorums whom. No async, no threads, no clock: a seed is the run.

pub mod directed;
pub mod directed_votes;
pub mod disk;
pub mod god;
pub mod nemesis;
pub mod rng;
pub mod told;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A run in two acts.
pub fn run(seed: u64) -> Result<world::Stats, String> {
    caught(|| {
        let mut world = world::World::new(seed);
        nemesis::chaos(&mut world)?;
        nemesis::calm(&mut world)?;
        Ok(world.stats)
    })
}

/// An assertion of the core is a verdict like any other.
fn caught<T>(ran: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(ran)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!(
            "assertion: {}",
            text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
        ))
    })
}
