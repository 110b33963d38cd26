//! How long a rebalance takes in simulated time: one member leaves a group of ten that reads 900 partitions (S51,
//! within one second).

use dejaq_sim::runner::Scenario;
use dejaq_sim::story;

/// The story.
pub const REBALANCE: Scenario = Scenario {
    name: "story_rebalance",
    about: "one of ten members over 900 partitions leaves: within a simulated second the others own everything once",
    run: story::rebalance,
    random: false,
};

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::{RunParams, Status};

    use super::*;

    #[test]
    fn nine_of_ten_members_own_900_partitions_within_a_second_of_the_leave() {
        let report = (REBALANCE.run)(&RunParams { seed: 1, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""));
        let took: Vec<u64> = report
            .counts
            .iter()
            .filter_map(|(name, ms)| name.starts_with("rebalance ms").then_some(*ms))
            .collect();
        assert!(took.len() == 3 && took.iter().all(|ms| (1..=1000).contains(ms)), "{took:?}");
    }
}
