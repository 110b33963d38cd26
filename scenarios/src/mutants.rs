//! The planted bugs of this product, and who must find each. Source: CORRECTNESS.md 4.

use dejaq_sim::runner::{Mutant, TesterMutant};

/// The bugs that are planted in product code by `mutant!`.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        number: 1,
        about: "acks=all is answered on the local append, before the sync",
        scenario: "power_cut",
        checkers: &["LostWrite", "HoleAfterPowerCut", "InconsistentOffsets"],
        budget: 200,
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
        about: "the flushed offset advances before the sync returns",
        scenario: "power_cut",
        checkers: &["LOG-3", "LostWrite", "HoleAfterPowerCut", "InconsistentOffsets"],
        budget: 300,
    },
    Mutant {
        number: 24,
        about: "a sync error is retried, and the second answer believed",
        scenario: "failed_sync",
        checkers: &["LostWrite", "LOG-3", "InconsistentOffsets"],
        budget: 1000,
    },
    Mutant {
        number: 25,
        about: "the directory of a new segment is not synced",
        scenario: "torn_tail",
        checkers: &["LostWrite", "LOG-3", "LOG-1", "InconsistentOffsets"],
        budget: 500,
    },
    Mutant {
        number: 26,
        about: "the clean marker is not removed at start",
        scenario: "power_cut",
        checkers: &["LOG-4", "LOG-3", "LOG-8", "DEEP", "LostWrite", "Phantom", "Changed", "assertion"],
        budget: 1000,
    },
    Mutant {
        number: 28,
        about: "a segment is deleted before the new start is persisted",
        scenario: "retention_roll",
        checkers: &["LOG-14", "LOG-3", "LOG-1", "LostWrite", "DEEP", "assertion", "liveness"],
        budget: 1000,
    },
    Mutant {
        number: 36,
        about: "the controller answers before its record is durable",
        scenario: "power_cut",
        checkers: &["liveness", "Phantom", "LostWrite", "assertion"],
        budget: 1000,
    },
    Mutant {
        number: 47,
        about: "four batches are remembered for a producer instead of five",
        scenario: "idempotent_retries",
        checkers: &["Duplicate", "NonmonotonicSend", "OffsetMismatch"],
        budget: 1000,
    },
];

/// The tester's own: with them, the named mutants must survive.
pub const TESTERS: &[TesterMutant] = &[TesterMutant {
    number: 1,
    about: "a power cut keeps the page cache",
    survivors: &[1, 23, 25],
    seeds: 60,
}];
