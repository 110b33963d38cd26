//! Told stories of in-sync sets (S11, S13, S15 to S19): who may lead, who counts, what is lost when nobody may, and who is told of it.

use dejaq_sim::runner::Scenario;
use dejaq_sim::story;

/// S19.
pub const UNCLEAN: Scenario = Scenario {
    name: "cluster_unclean",
    about: "unclean.leader.election.enable: who was not in sync leads since nobody else is left: exactly what it lacks is told to be lost, \
            and readers of it are told by epoch that the log is another one, also when it has grown past them",
    run: story::unclean,
    random: true,
};

/// S11.
pub const MAXIMAL: Scenario = Scenario {
    name: "cluster_maximal_set",
    about: "a replica is let in sync, and its leader does not hear of it: nothing is acknowledged without it, and it leads next with all \
            that was",
    run: story::maximal,
    random: true,
};

/// S16.
pub const LAST_STANDING: Scenario = Scenario {
    name: "cluster_last_standing",
    about: "one replica is left in sync, and its power fails: it is waited for, loses nothing that was durable, and what else it lost, \
            with the good copies of others, is told",
    run: story::last_standing,
    random: true,
};

/// S18.
pub const BUDGET: Scenario = Scenario {
    name: "cluster_lossy_budget",
    about: "durability=replicated with nothing synced: the power of one of two in sync fails and nothing is lost; of both, and what is \
            lost is the end of the log, and told",
    run: story::budget,
    random: true,
};

/// S13.
pub const SHRINKS: Scenario = Scenario {
    name: "cluster_shrink",
    about: "records wait for a follower that lags, and for one that stops: they are acknowledged when it has left the in-sync set, and \
            not only when something else happens",
    run: story::shrinks,
    random: true,
};

/// S17.
pub const ELIGIBLE: Scenario = Scenario {
    name: "cluster_eligible",
    about: "a replica is eligible, leads, is not counted on after a bad end, is forgotten when enough are in sync, and is not chosen \
            while it is away",
    run: story::eligible,
    random: true,
};

/// S15.
pub const STOPPING: Scenario = Scenario {
    name: "cluster_stopping",
    about: "a broker that stops follows to the end, and is let in no in-sync set; both others end, and it is not elected",
    run: story::stopping,
    random: true,
};

/// S20.
pub const ALONE: Scenario = Scenario {
    name: "cluster_alone",
    about: "a leader that only clients reach acknowledges what asks for nobody else (acks=1), and nothing that asks for all; another one \
            leads, and the tail of the lonely one is gone",
    run: story::alone,
    random: true,
};

#[cfg(test)]
mod tests {
    use dejaq_sim::runner::{RunParams, Status};

    use super::*;

    fn check(scenario: Scenario, brought_about: &str) {
        let report = (scenario.run)(&RunParams { seed: 1, ..RunParams::default() });
        assert_eq!((report.status, &*report.message), (Status::Pass, ""), "{}", scenario.name);
        assert_eq!(report.counts.get(brought_about), Some(&1), "{:?}", report.counts);
    }

    #[test]
    fn what_an_unclean_election_lost_is_told_to_everybody() {
        check(UNCLEAN, "readers told behind the old end");
    }

    #[test]
    fn a_leader_counts_with_who_may_be_in_sync() {
        check(MAXIMAL, "leaders that their predecessor did not know to be in sync");
    }

    #[test]
    fn producers_do_not_hang_when_a_set_shrinks() {
        check(SHRINKS, "records acknowledged when who stopped had left");
    }

    #[test]
    fn who_is_eligible_is_so_for_as_long_as_it_has_all() {
        check(ELIGIBLE, "remembered replicas that were away and not chosen");
    }

    #[test]
    fn a_lonely_leader_acknowledges_for_itself_alone() {
        check(ALONE, "records that a lonely leader acknowledged, and that asked for no more");
    }
}
