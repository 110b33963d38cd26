//! What the tests of told stories have in common: the story passes, and brought about what it is for.

use dejaq_sim::runner::{RunParams, Scenario, Status};

/// Tells it with this seed; each of `counts` was counted.
pub fn brings(scenario: Scenario, seed: u64, counts: &[&str]) {
    let report = (scenario.run)(&RunParams { seed, ..RunParams::default() });
    assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{}", scenario.name);
    for count in counts {
        let is_counted = report.counts.get(*count).is_some_and(|times| *times > 0);
        assert!(is_counted, "{count}: {:?}", report.counts);
    }
}
