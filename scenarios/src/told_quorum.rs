//! The metadata quorum of a fleet, told (S35, S39, S40), and what it loses by chance.

use dejaq_sim::runner::Scenario;
use dejaq_sim::story::{self, DURABLE, Fault, Plan};

/// Damage on a minority.
pub const HARMED: Scenario = Scenario {
    name: "cluster_harmed_voters",
    about: "a minority of the voters loses its metadata log, snapshot or vote, in every way: it refuses to serve and deletes nothing \
            while the others go on, and the quorum rests on it when it has them back (S35)",
    run: story::harmed,
    random: true,
};

/// The same by chance, under load.
pub const METADATA_LOST: Scenario = Scenario {
    name: "cluster_metadata_lost",
    about: "brokers of three or five are started without their metadata log, snapshot or vote, a minority at a time, while others end: \
            none serves so, and nothing acked is lost",
    run: |params| {
        story::run(params, |world| {
            let mut dice = world.streams().dice("plan", 0);
            let plan = Plan::drawn(&mut dice).with_durability(DURABLE);
            let voters = *dice.pick(&[3, 3, 5]);
            let mut plan = plan.fleet((voters, voters), (3, 2)).settled();
            plan.config.snapshot_bytes = *dice.pick(&[4096, 8 << 20]);
            plan.fault(5, Fault::MetadataLost)
                .fault(dice.between(1, 3), Fault::Kill)
                .fault(dice.below(2), Fault::PowerCut)
                .fault(dice.below(2), Fault::Restart)
                .fault(dice.below(2), Fault::Pause)
        })
    },
    random: true,
};

/// Snapshots that are half made.
pub const HALF_MADE: Scenario = Scenario {
    name: "cluster_half_snapshots",
    about: "a voter ends while it makes a snapshot of the metadata, and while one takes the place of its log: it comes back with the \
            state that all have, and the quorum rests on it (S39)",
    run: story::half_made,
    random: true,
};

/// The controller ends at the worst moment.
pub const FAILED_OVER: Scenario = Scenario {
    name: "cluster_failover_at",
    about: "the active controller of five ends while a registration, a fencing, a smaller set, a move, a topic or a block of ids is \
            decided: what was answered stands, no id is told twice, every broker comes back (S40)",
    run: story::failed_over,
    random: true,
};

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::{RunParams, Status};

    use super::*;
    use crate::telling::brings;

    #[test]
    fn a_quorum_rests_on_voters_that_were_harmed_and_have_their_files_back() {
        brings(HARMED, 3, &["harm SnapshotRots", "starts refused", "quorums that rested on who was harmed"]);
    }

    #[test]
    fn the_controller_ends_while_something_is_decided() {
        let report = (FAILED_OVER.run)(&RunParams { seed: 3, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""));
        let ended = report.counts.keys().filter(|count| count.starts_with("controllers ended at"));
        assert_eq!(ended.count(), 3, "{:?}", report.counts);
    }

    #[test]
    fn a_voter_comes_back_from_a_snapshot_that_was_half_made() {
        brings(HALF_MADE, 1, &["voters that ended at Install", "quorums that rested on who ended half way"]);
    }

    #[test]
    fn metadata_is_lost_by_chance_and_no_start_serves_without() {
        brings(METADATA_LOST, 1, &["starts refused"]);
    }
}
