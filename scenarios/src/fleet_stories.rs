//! Told stories of several brokers, in which who and how long is drawn: each brings one interleaving about that chance hardly
//! ever finds, and fails if it did not.

use dejaq_sim::runner::Scenario;
use dejaq_sim::story;

/// Raft, figure 8.
pub const OLD_ENTRY: Scenario = Scenario {
    name: "cluster_old_entry",
    about: "of five voters three have an entry of an older epoch, one of them no newer one (Raft, figure 8): it is not committed, and \
            another log wins",
    run: story::overwritten,
    random: true,
};

/// Remove and add.
pub const READDED: Scenario = Scenario {
    name: "cluster_readded",
    about: "a replica loses its place and its log and gets the place back before its leader hears of either: what it told before does \
            not count",
    run: story::readded,
    random: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telling::brings;

    #[test]
    fn an_entry_of_an_older_epoch_on_a_majority_is_overwritten() {
        brings(OLD_ENTRY, 1, &["old entries overwritten"]);
    }

    #[test]
    fn a_replica_that_was_away_is_not_taken_for_who_it_was() {
        brings(READDED, 1, &["replicas that have nothing yet, and whose leader knows it"]);
    }
}
