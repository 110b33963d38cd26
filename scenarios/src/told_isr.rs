//! Told stories of in-sync sets (S11 to S20): who may lead, who counts, what is lost when nobody may, and who is told of it.

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

/// S14.
pub const BOUNCE: Scenario = Scenario {
    name: "cluster_bounce",
    about: "the power of a follower fails, and it is back before its session ends: as one of two in sync it is not even eligible, and a \
            question to let it in that was under way is refused; what it had counts for nothing, durable or replicated",
    run: story::bounced,
    random: true,
};

/// S12.
pub const STALE: Scenario = Scenario {
    name: "cluster_stale_question",
    about: "a leader's question for another in-sync set arrives when another one leads, or when the partition has moved on under it: it \
            changes nothing",
    run: story::stale,
    random: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telling::brings;

    #[test]
    fn what_an_unclean_election_lost_is_told_to_everybody() {
        brings(UNCLEAN, 1, &["readers told behind the old end"]);
    }

    #[test]
    fn a_leader_counts_with_who_may_be_in_sync() {
        brings(MAXIMAL, 1, &["leaders that their predecessor did not know to be in sync"]);
    }

    #[test]
    fn producers_do_not_hang_when_a_set_shrinks() {
        brings(SHRINKS, 1, &["records acknowledged when who stopped had left"]);
    }

    #[test]
    fn who_is_eligible_is_so_for_as_long_as_it_has_all() {
        brings(ELIGIBLE, 1, &["remembered replicas that were away and not chosen"]);
    }

    #[test]
    fn a_lonely_leader_acknowledges_for_itself_alone() {
        brings(ALONE, 1, &["records that a lonely leader acknowledged, and that asked for no more"]);
    }

    #[test]
    fn who_stops_is_in_no_set_and_is_not_elected() {
        brings(STOPPING, 1, &["brokers that stopped, had everything, and were not elected"]);
    }

    #[test]
    fn who_was_away_for_a_moment_is_not_who_it_was() {
        let both = [
            "followers in sync that bounced, and were counted on no more",
            "followers that bounced, and were not let in for what they had",
        ];
        brings(BOUNCE, 0, &both);
        brings(BOUNCE, 1, &both);
    }

    #[test]
    fn a_question_of_a_state_that_is_over_changes_nothing() {
        brings(STALE, 1, &["questions to let somebody in that came when another one led"]);
        brings(STALE, 0, &["questions to shut somebody out that came when it led"]);
        brings(STALE, 17, &["questions that came when the partition had moved on"]);
    }

    #[test]
    fn the_last_one_standing_leads_with_what_it_comes_back_with() {
        brings(LAST_STANDING, 1, &["last ones that came back with everything"]);
        brings(LAST_STANDING, 3, &["last ones that came back with less than others have"]);
    }

    #[test]
    fn what_the_budget_bears_is_not_lost_and_what_it_does_not_is_told() {
        brings(BUDGET, 0, &["power cuts beyond what is borne"]);
        brings(BUDGET, 1, &["power cuts within what is borne"]);
    }
}
