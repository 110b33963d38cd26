//! Told stories of groups and transactions: zombies, moving coordinators, compacted offsets, transactions beside plain commits, lost suffixes.

use dejaq_sim::runner::{RunParams, RunReport, Scenario};
use dejaq_sim::story;

const fn told(name: &'static str, about: &'static str, run: fn(&RunParams) -> RunReport) -> Scenario {
    Scenario { name, about, run, random: false }
}

/// As [`told`], of which seeds differ.
const fn drawn(name: &'static str, about: &'static str, run: fn(&RunParams) -> RunReport) -> Scenario {
    Scenario { name, about, run, random: true }
}

/// S41.
pub const ZOMBIE: Scenario = told(
    "story_group_zombie",
    "a member outlives its session, and a static one meets its twin: the commit of who is out is refused, in both protocols",
    story::zombie,
);
/// S42.
pub const MOVING: Scenario = told(
    "story_group_moving_coordinator",
    "a coordinator that is cut off from its peers answers no commit as done, and tells no offset once another one took a commit",
    story::moving_coordinator,
);
/// S43.
pub const COMPACTED: Scenario = told(
    "story_group_compacted",
    "a coordinator reads a compacted log with tombstones: the last offset is there, and no group that was deleted",
    story::compacted_offsets,
);
/// S44.
pub const STAGED: Scenario = told(
    "story_group_staged",
    "of a transaction's offset and a plain one the later record counts, after a failover, too; nothing that lives expires",
    story::staged_offsets,
);
/// S45.
pub const BEHIND: Scenario = told(
    "story_group_behind_the_end",
    "the power took what a group had read: it is told that it is out of range, and begins where it said",
    story::behind_the_end,
);
/// S50.
pub const LATE_END: Scenario = told(
    "story_txn_late_end",
    "a commit arrives when the next transaction has begun: with KIP-890 it does nothing, before it is counted",
    story::late_end,
);
/// TXN-9.
pub const LATE_MARKER: Scenario = told(
    "story_txn_late_marker",
    "a marker of a coordinator that was followed by another one arrives in the next transaction: it ends nothing",
    story::late_marker,
);
/// KIP-447.
pub const REVENANT: Scenario = drawn(
    "story_txn_revenant",
    "a member that was replaced commits offsets in its own transaction: it is refused, and each input has one output",
    story::revenant,
);
/// S48.
pub const FORGOTTEN: Scenario = drawn(
    "story_txn_forgotten",
    "a silent transactional id is forgotten, an open one is not; who had it is nobody, also when it comes back",
    story::forgotten,
);
/// S54.
pub const USED_UP: Scenario = drawn(
    "story_txn_used_up",
    "behind the last epoch of a producer the id has another one, however that epoch was used, and the old one is over",
    story::used_up,
);
/// KIP-360.
pub const COMES_BACK: Scenario = drawn(
    "story_txn_comes_back",
    "who was fenced names itself to go on: it is not taken for the one that fenced it; that one is told its epoch twice",
    story::comes_back,
);
/// TXN-6.
pub const UNDECIDED: Scenario = drawn(
    "story_txn_undecided",
    "its coordinator alone has a decision, and another one follows: aborted everywhere, and no marker came before",
    story::undecided,
);

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::Status;

    use super::*;

    fn check(scenario: Scenario) {
        let report = (scenario.run)(&RunParams { seed: 1, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{}", scenario.name);
    }

    #[test]
    fn the_commit_of_a_zombie_is_refused() {
        check(ZOMBIE);
    }

    #[test]
    fn a_commit_that_was_not_replicated_is_not_told() {
        check(MOVING);
    }

    #[test]
    fn a_compacted_log_tells_the_last_offsets() {
        check(COMPACTED);
    }

    #[test]
    fn the_later_record_counts_and_nothing_that_lives_expires() {
        check(STAGED);
    }

    #[test]
    fn a_late_marker_of_an_earlier_coordinator_ends_nothing() {
        check(LATE_MARKER);
    }

    #[test]
    fn a_late_end_does_nothing_to_the_next_transaction() {
        check(LATE_END);
    }

    #[test]
    fn who_was_replaced_commits_no_offsets() {
        check(REVENANT);
    }

    #[test]
    fn a_silent_id_is_forgotten_and_comes_back_as_another() {
        check(FORGOTTEN);
    }

    #[test]
    fn behind_the_last_epoch_there_is_another_producer() {
        check(USED_UP);
    }

    #[test]
    fn who_was_fenced_does_not_come_back() {
        check(COMES_BACK);
    }

    #[test]
    fn what_one_log_alone_has_decided_is_aborted() {
        check(UNDECIDED);
    }

    #[test]
    fn a_group_behind_the_end_of_its_log_is_told() {
        check(BEHIND);
    }
}
