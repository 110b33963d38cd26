//! Told stories of one replicated partition (CORRECTNESS 3.1), in which who and how long is drawn: each brings about one
//! interleaving of S01 to S20 that chance hardly ever finds, and fails if it did not.

use dejaq_sim::runner::Scenario;
use dejaq_sim::story;

/// S02.
pub const RESTARTED: Scenario = Scenario {
    name: "cluster_restarted",
    about: "a follower that does not know what is visible stops, starts, hears its leader once, and leads: it has kept what it had \
            (KIP-101, S02)",
    run: story::restarted,
    random: true,
};

/// S07.
pub const WATERMARK: Scenario = Scenario {
    name: "cluster_watermark",
    about: "a new leader does not know yet that what it has was visible: nobody is told of an end that lies before the one that \
            was told, and no reader is out of range (KIP-207, S07)",
    run: story::watermark,
    random: true,
};

/// S06.
pub const OLD_EPOCH: Scenario = Scenario {
    name: "cluster_old_epoch",
    about: "a leader leads again two epochs later, and a follower that has not heard of either tells it how far it is: nothing is \
            committed for that (S06)",
    run: story::old_epoch,
    random: true,
};

/// S01.
pub const RETRIES: Scenario = Scenario {
    name: "cluster_retries",
    about: "a leader stands still with five batches of a producer, of which its heir has two: the producer sends them again, each is \
            there once, and the old leader wakes and cuts what it alone has (KIP-98, S01)",
    run: story::retries,
    random: true,
};

/// Beside S01.
pub const PIPELINED: Scenario = Scenario {
    name: "cluster_pipelined",
    about: "another one leads, and takes batches behind five that the leader before has not answered; then the five come again, and each \
            is told to be there, wherever (Kafka's Java client)",
    run: story::pipelined,
    random: true,
};

/// S05.
pub const ELECTIONS: Scenario = Scenario {
    name: "cluster_elections",
    about: "five elections in which nobody writes; one replica led in an epoch that nobody heard of, and lacks a record of an older \
            one: all come in sync, and no log is cut (KAFKA-7415, S05)",
    run: story::elections,
    random: true,
};

/// S10.
pub const UNDER_WAY: Scenario = Scenario {
    name: "cluster_under_way",
    about: "a leader reads for a follower while its log is cut and other records are appended there: nothing of them is sent or taken \
            as what was asked for (KAFKA-18723, S10)",
    run: story::under_way,
    random: true,
};

/// S09.
pub const NEAREST: Scenario = Scenario {
    name: "cluster_nearest",
    about: "a reader is sent to a follower that lags; that one falls behind the start, begins anew there, and leads before it knows \
            what is visible: no reader is out of range (KIP-392, S09)",
    run: story::nearest,
    random: true,
};

/// S08.
pub const CUT_OFF: Scenario = Scenario {
    name: "cluster_cut_off",
    about: "a leader is cut off from all but its clients while another one leads: it shows nobody what it alone has, in the dark, as a \
            follower, nor while it cuts that (KAFKA-14704, S08)",
    run: story::cut_off,
    random: true,
};

/// S04.
pub const UNSEEN_EPOCH: Scenario = Scenario {
    name: "cluster_unseen_epoch",
    about: "two failovers in a row: a replica comes back with records of an epoch that its leader never saw, and goes back to where their \
            logs part (KIP-279, S04)",
    run: story::unseen,
    random: true,
};

/// S03.
pub const BLACKOUT: Scenario = Scenario {
    name: "cluster_blackout",
    about: "the power of both replicas fails when one has synced a record; the other leads, and has another one at that offset when they \
            meet: there is one (KIP-101, S03)",
    run: story::blackout,
    random: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telling::brings;

    #[test]
    fn a_follower_that_begins_anew_keeps_what_it_does_not_know_to_be_visible() {
        brings(RESTARTED, 1, &["followers that lead after they began anew"]);
    }

    #[test]
    fn the_end_of_a_log_never_goes_back_when_another_leads() {
        brings(WATERMARK, 1, &["ends told again when they were known"]);
    }

    #[test]
    fn what_a_follower_tells_in_an_epoch_that_is_over_does_not_count() {
        brings(OLD_EPOCH, 1, &["followers of an epoch that was over, and are not counted"]);
    }

    #[test]
    fn five_batches_under_way_are_there_once_when_another_leads() {
        brings(RETRIES, 1, &["leaders that woke, and follow"]);
    }

    #[test]
    fn what_nobody_answered_is_told_to_be_there_by_who_leads_next() {
        brings(PIPELINED, 1, &["batches told to be there, nobody knows where"]);
    }

    #[test]
    fn epochs_without_a_record_keep_nobody_out_of_sync() {
        brings(ELECTIONS, 1, &["replicas in sync after five elections without a record"]);
    }

    #[test]
    fn what_is_read_while_a_log_becomes_another_one_is_neither_sent_nor_taken() {
        brings(UNDER_WAY, 1, &["answers under way while the log became another one"]);
    }

    #[test]
    fn nobody_is_out_of_range_at_a_follower_that_lags_nor_when_it_leads() {
        brings(NEAREST, 1, &["leaders that began at a start, and do not know what was visible"]);
    }

    #[test]
    fn a_former_leader_shows_nobody_what_it_alone_has_and_cuts_it() {
        brings(
            CUT_OFF,
            1,
            &["former leaders that were asked in the dark", "former leaders that cut what they alone had"],
        );
    }

    #[test]
    fn nothing_stays_of_an_epoch_that_the_leader_never_saw() {
        brings(UNSEEN_EPOCH, 1, &["replicas that were rid of an epoch that their leader never saw"]);
    }

    #[test]
    fn after_a_power_cut_of_both_there_is_one_record_at_an_offset() {
        brings(
            BLACKOUT,
            1,
            &["offsets with two records after a power cut of both", "offsets with one record again"],
        );
    }
}
