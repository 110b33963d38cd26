//! The simulator below the product, as a scenario, so that its digests can be asked for like any other's: what `cargo ci
//! corpus` compares.

use dejaq_sim::runner::Scenario;

/// The small world.
pub const SUBSTRATE: Scenario = Scenario {
    name: "substrate",
    about: "no broker: the executor's order, the streams, the network, the disk and the clocks; its digest changes when a dependency does",
    run: dejaq_sim::substrate::run,
    random: false,
};
