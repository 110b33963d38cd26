//! The planted bugs of this product, and who must find each. Source: CORRECTNESS.md 4; from 200 on our own, each for one
//! checker of `dejaq_sim::invariants` that nothing of the catalogue proves.
//!
//! Every planted bug that a scenario kills is here. Not here: M14, M49 and M240 (`acks.required` counts one copy fewer), which
//! the tests of `dejaq::replica` and of the controller kill; M32, which a story of the quorum's core kills
//! (`node/tests/raft_mutants.rs`); M223 and M224 of compaction beside transactions, which unit tests
//! are named for; M59 to M69 of delays, filters, the archive and reshaping; M35, since nothing of ours stores how far it was
//! applied: a start replays the log behind a snapshot, which is one file with its own place in it. Of the tester's own, T2
//! (its partner M53 is here since there are transactions) is not built, T4 has no partner before delays exist; T3 (the final
//! read stops at the first empty poll) cannot blind the oracle here: it takes what was not read for lost and would raise an
//! alarm.

use dejaq_sim::runner::{Mutant, TesterMutant};

/// The bugs that are planted in product code by `mutant!`.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        number: 1,
        about: "acks=all is answered on the local append, before the sync",
        scenario: "power_cut",
        checkers: &["REP-7", "LostWrite", "HoleAfterPowerCut", "InconsistentOffsets"],
        budget: 20,
    },
    Mutant {
        number: 21,
        about: "recovery ignores the CRC of the last batch",
        scenario: "torn_tail",
        checkers: &["LOG-3", "LOG-4", "DEEP", "Phantom", "Changed", "assertion"],
        budget: 500,
    },
    Mutant {
        number: 22,
        about: "the first bad CRC anywhere cuts the log",
        scenario: "bit_rot",
        checkers: &["LOG-3", "LostWrite"],
        budget: 200,
    },
    Mutant {
        number: 23,
        about: "the flushed end is told before the sync has returned",
        scenario: "power_cut",
        checkers: &["REP-7", "LostWrite"],
        budget: 100,
    },
    Mutant {
        number: 24,
        about: "a sync error is retried, and the second answer believed",
        scenario: "failed_sync",
        checkers: &["REP-7", "LostWrite", "LOG-3", "InconsistentOffsets"],
        budget: 200,
    },
    Mutant {
        number: 25,
        about: "the directory of a new segment is not synced",
        scenario: "torn_tail",
        checkers: &["REP-7", "LostWrite", "LOG-3", "LOG-1", "InconsistentOffsets"],
        budget: 50,
    },
    Mutant {
        number: 26,
        about: "the clean marker stays when the broker starts",
        scenario: "kill_restart",
        checkers: &["LOG-8"],
        budget: 50,
    },
    Mutant {
        number: 231,
        about: "a start on a full disk keeps the reserve, and fails",
        scenario: "disk_brim",
        checkers: &["LOG-10"],
        budget: 40,
    },
    Mutant {
        number: 232,
        about: "what an older broker does not know is written before the cluster's level is raised",
        scenario: "cluster_upgrade",
        checkers: &["LEVEL", "liveness"],
        budget: 20,
    },
    Mutant {
        number: 230,
        about: "a clean stop is forgotten by the first start after it, whether that gets through or not",
        scenario: "false_start",
        checkers: &["LOG-3", "LOG-5", "LostWrite", "InconsistentOffsets", "REP-7"],
        budget: 100,
    },
    Mutant {
        number: 28,
        about: "a segment is deleted before the new start is persisted",
        scenario: "retention_roll",
        checkers: &["LOG-14", "LOG-3", "LOG-1", "LostWrite", "DEEP", "assertion", "liveness"],
        budget: 1000,
    },
    Mutant {
        number: 29,
        about: "our checksums are not bound to the partition",
        scenario: "misplaced",
        // LOG-7 reads the list of epochs by its format, in which the checksum is bound: it is no list then.
        checkers: &["Phantom", "LOG-7"],
        budget: 300,
    },
    Mutant {
        number: 6,
        about: "a follower that begins cuts its log at the watermark that it knows",
        scenario: "cluster_power",
        checkers: &["REP-1g", "REP-5", "REP-8", "LostWrite"],
        budget: 60,
    },
    Mutant {
        number: 2,
        about: "the watermark counts the in-sync set that is committed, not the one that may be",
        scenario: "cluster_failover",
        checkers: &["REP-6", "REP-5", "REP-8"],
        budget: 100,
    },
    Mutant {
        number: 4,
        about: "a fetch of an earlier leader epoch counts",
        scenario: "cluster_failover",
        checkers: &["REP-6"],
        budget: 60,
    },
    Mutant {
        number: 5,
        about: "a follower is never asked to cut what its leader has not",
        scenario: "cluster_tails",
        checkers: &["LostWrite", "REP-16", "REP-2", "REP-8", "REP-5"],
        budget: 60,
    },
    Mutant {
        number: 8,
        about: "a leader does not write down the epoch that it begins",
        scenario: "cluster_steady",
        checkers: &["LOG-7"],
        budget: 10,
    },
    Mutant {
        number: 9,
        about: "the watermark of an answer is believed though the logs part",
        scenario: "cluster_tails",
        checkers: &["REP-8"],
        budget: 60,
    },
    Mutant {
        number: 10,
        about: "a follower of another leader epoch is served",
        scenario: "cluster_behind",
        checkers: &["assertion"],
        budget: 20,
    },
    Mutant {
        number: 11,
        about: "who lacks what an earlier leader committed is let into the in-sync set",
        scenario: "cluster_stragglers",
        checkers: &["REP-5"],
        budget: 60,
    },
    Mutant {
        number: 12,
        about: "a replica is let into the in-sync set for what its earlier life had",
        scenario: "cluster_behind",
        checkers: &["REP-13"],
        budget: 60,
    },
    Mutant {
        number: 15,
        about: "a broker that comes back after a bad end is counted on as before",
        scenario: "cluster_failover",
        checkers: &["REP-14"],
        budget: 20,
    },
    Mutant {
        number: 16,
        about: "who was eligible stays so though enough are in sync",
        scenario: "cluster_power",
        checkers: &["MQ-15"],
        budget: 40,
    },
    Mutant {
        number: 17,
        about: "a follower shows what nobody committed",
        scenario: "cluster_tails",
        checkers: &["REP-8"],
        budget: 20,
    },
    Mutant {
        number: 18,
        about: "the watermark is not looked at again when the in-sync set shrinks",
        scenario: "cluster_failover",
        checkers: &["REP-15"],
        budget: 40,
    },
    Mutant {
        number: 31,
        about: "a vote is said before it is durable",
        scenario: "cluster_power",
        checkers: &["MQ-2"],
        budget: 60,
    },
    Mutant {
        number: 33,
        about: "a voter tells of metadata that is not durable",
        scenario: "cluster_failover",
        checkers: &["MQ-6"],
        budget: 40,
    },
    Mutant {
        number: 37,
        about: "another disk is let in under the number of a broker that lives",
        scenario: "cluster_replaced",
        checkers: &["MQ-14"],
        budget: 60,
    },
    Mutant {
        number: 39,
        about: "who does not vote is counted as a voter",
        scenario: "cluster_chaos",
        checkers: &["MQ-6"],
        budget: 60,
    },
    Mutant {
        number: 201,
        about: "retention goes by whatever the wall clock shows",
        scenario: "retention_roll",
        checkers: &["RET-2"],
        budget: 200,
    },
    Mutant {
        number: 202,
        about: "a marker tells of what is only being synced",
        scenario: "power_cut",
        // The broker finds less than its marker tells, and refuses to start: LOG-2 never gets to look.
        checkers: &["LOG-2", "liveness"],
        budget: 20,
    },
    Mutant {
        number: 213,
        about: "producers change though the write failed",
        scenario: "disk_full",
        // A retry counts as a repetition of what is not there.
        checkers: &["LOG-13", "LostWrite", "assertion"],
        budget: 20,
    },
    Mutant {
        number: 206,
        about: "the newest timestamp before a place of the index counts the batch at that place",
        scenario: "retention_roll",
        checkers: &["LOG-6"],
        budget: 50,
    },
    Mutant {
        number: 207,
        about: "a new leader epoch is not written to the list of epochs",
        scenario: "kill_restart",
        checkers: &["LOG-7"],
        budget: 50,
    },
    Mutant {
        number: 220,
        about: "segments are swapped for a cleaned one before anything says so durably",
        scenario: "compaction",
        checkers: &["LOG-6", "LOG-3", "LOG-1", "LOG-4", "LostWrite", "DEEP", "liveness"],
        budget: 200,
    },
    Mutant {
        number: 221,
        about: "a delete marker goes with the first cleaning that sees it",
        scenario: "compaction",
        checkers: &["LostWrite"],
        budget: 50,
    },
    Mutant {
        number: 222,
        about: "the last batch of a producer is cleaned away",
        scenario: "compaction",
        checkers: &["LOG-13", "IDM-1", "Duplicate"],
        budget: 50,
    },
    Mutant {
        number: 225,
        about: "delete markers replace nothing, and go before what they should have deleted",
        scenario: "compaction",
        checkers: &["Resurrected"],
        budget: 100,
    },
    Mutant {
        number: 36,
        about: "the controller answers before its records are durable",
        scenario: "metadata",
        checkers: &["LostMetadata"],
        budget: 200,
    },
    Mutant {
        number: 40,
        about: "lost or unreadable metadata is taken for none",
        scenario: "metadata_lost",
        checkers: &["MQ-10"],
        budget: 50,
    },
    Mutant {
        number: 42,
        about: "a commit is not fenced by generation and member",
        scenario: "group_at_least_once",
        checkers: &["GRP-3", "GRP-5"],
        budget: 400,
    },
    Mutant {
        number: 43,
        about: "a commit is acknowledged on append",
        scenario: "group_at_most_once",
        checkers: &["GRP-3", "ONCE"],
        budget: 150,
    },
    Mutant {
        number: 45,
        about: "a partition is given before its old owner gave it up",
        scenario: "cluster_group_new_at_least_once",
        checkers: &["assertion", "GRP-1", "GRP-6"],
        budget: 20,
    },
    Mutant {
        number: 46,
        about: "offsets expire by age, whatever their group does",
        scenario: "story_group_staged",
        checkers: &["GRP-10"],
        budget: 1,
    },
    Mutant {
        number: 47,
        about: "four batches of a producer are remembered instead of five",
        scenario: "idempotent_retries",
        checkers: &["IDM-1", "Duplicate", "OffsetUntold", "FailedWriteVisible", "NonmonotonicSend"],
        budget: 50,
    },
    Mutant {
        number: 58,
        about: "sequence numbers do not wrap at 2^31",
        scenario: "idempotent_retries",
        checkers: &["IDM-3"],
        budget: 50,
    },
    Mutant {
        number: 50,
        about: "the last stable offset is the watermark",
        scenario: "transactions",
        checkers: &["AbortedRead", "PrecommittedRead", "OutcomeMismatch", "TornTxn", "EarlyStable"],
        budget: 20,
    },
    Mutant {
        number: 51,
        about: "a transaction is over when its marker is appended, replicated or not",
        scenario: "transactions",
        checkers: &["EarlyStable"],
        budget: 20,
    },
    Mutant {
        number: 52,
        about: "markers leave while the decision is being written",
        scenario: "story_txn_undecided",
        checkers: &["TXN-6"],
        budget: 10,
    },
    Mutant {
        number: 270,
        about: "a damaged copy is cut at its first hole, and with it what other copies lack",
        scenario: "cluster_rot_everywhere",
        checkers: &["liveness", "LostWrite", "REP-1"],
        budget: 100,
    },
    Mutant {
        number: 260,
        about: "offsets in a transaction are fenced by the transactional id alone, not by the group's generation",
        scenario: "story_txn_revenant",
        checkers: &["TXN-10", "TXN-11"],
        budget: 10,
    },
    Mutant {
        number: 55,
        about: "the list of aborted transactions goes when its segment is full",
        scenario: "transactions",
        checkers: &["AbortedRead", "OutcomeMismatch"],
        budget: 60,
    },
    Mutant {
        number: 53,
        about: "the end of a transaction is taken from an older epoch",
        scenario: "transactions",
        checkers: &["OutcomeMismatch", "TornTxn", "AbortedRead", "PrecommittedRead", "assertion"],
        budget: 50,
    },
    Mutant {
        number: 56,
        about: "what is open too long is aborted, and its producer goes on",
        scenario: "transactions",
        checkers: &["OutcomeMismatch", "TornTxn", "AbortedRead", "PrecommittedRead", "assertion"],
        budget: 100,
    },
];

/// The tester's own: with them, the named mutants must survive the checkers that are named for them. M1 cannot be one of
/// them: it answers before the batch has its record in the side file, so not even the page cache holds what was promised
/// (and the end offset is stale, which another checker sees). Nor can M24: a failed sync may drop the pages themselves.
pub const TESTERS: &[TesterMutant] =
    &[TesterMutant { number: 1, about: "a power cut keeps the page cache", survivors: &[23, 25], seeds: 60 }];
