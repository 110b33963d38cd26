//! Planted bugs of the quorum, and who finds each: a story, or chaos within so many seeds.
//!
//! One test, because the active bug is the whole process's.
//! `cargo test --release -p dejaq --features mutants --test raft_mutants -- --ignored --nocapture`.
#![cfg(feature = "mutants")]

mod raft;

use dejaq_storage::probe::activate_mutant;

/// Number, what it breaks, who must find it (an invariant, or the claim of a story), seeds within which chaos must; 0: a story
/// does, of one node or of a whole quorum.
const MUTANTS: &[(u32, &str, &str, u64)] = &[
    (31, "a vote is said before it is durable", "MQ-2", 2000),
    (32, "an entry of an older epoch is committed by count", "MQ-5", 0),
    (33, "a follower reports what is not durable", "MQ-6", 20),
    (39, "one that does not vote is counted", "MQ-6", 20),
    (301, "no pre-vote", "story pre-vote", 0),
    (302, "no check-quorum", "MQ-17", 0),
    (303, "a cut that was meant for another end of the log", "MQ-7", 500),
    (304, "a snapshot from before what is committed", "MQ-7", 0),
    (305, "a read that nobody confirmed", "MQ-16", 100),
    (306, "a new quorum is founded by a majority", "LIVENESS", 100),
    (307, "a wiped disk votes on", "MQ-4", 1000),
    (308, "a second vote in one epoch", "MQ-2", 20),
    (309, "a leader counts what it has not synced", "story single voter", 20),
    (310, "a late completion of a write that was cut", "MQ-20", 0),
    (311, "two changes of the voters at once", "MQ-4", 0),
    (312, "a change of the voters before anything of its leader's epoch is committed", "MQ-4", 0),
    (313, "who steps down forgets its vote", "MQ-2", 0),
    (314, "a leader does not count itself among those who hear it", "story forgotten observer", 0),
];

fn killer(seeds: u64) -> Option<String> {
    for (name, story) in raft::directed::STORIES {
        let told = std::panic::catch_unwind(story).unwrap_or_else(|_| Err("assertion".into()));
        if let Err(why) = told {
            return Some(format!("story {name}: {why}"));
        }
    }
    if let Err(why) = raft::told::all() {
        return Some(format!("told: {why}"));
    }
    (0..seeds).find_map(|seed| raft::run(seed).err().map(|why| format!("seed {seed}: {:.100}", why)))
}

#[test]
#[ignore = "20 s with --release, minutes without"]
fn every_planted_bug_of_the_quorum_dies() {
    assert_eq!(killer(20), None, "without a bug, nothing is found");
    let mut survivors = Vec::new();
    for (number, about, named, seeds) in MUTANTS {
        activate_mutant(*number);
        match killer(*seeds) {
            Some(how) if how.contains(named) => println!("M{number} ({about}) dies: {how}"),
            Some(how) => survivors.push(format!("M{number} was found by another than {named}: {how}")),
            None => survivors.push(format!("M{number} survives")),
        }
    }
    activate_mutant(0);
    assert_eq!(survivors, [""; 0], "each planted bug dies of who is named");
}
