//! The planted bugs of this product, and who must find each. Source: CORRECTNESS.md 4.
//!
//! Planted in the code but not in the table yet, since their killers are missing or too weak: M23 (flushed advances
//! before the sync returns: survived 300 seeds of `power_cut`), M26 (clean marker kept: wants a LOG-8 checker), M36
//! (controller answers early: wants metadata in the client history), M29, M40, M47, M58 (never run).

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
        number: 28,
        about: "a segment is deleted before the new start is persisted",
        scenario: "retention_roll",
        checkers: &["LOG-14", "LOG-3", "LOG-1", "LostWrite", "DEEP", "assertion", "liveness"],
        budget: 1000,
    },
];

/// The tester's own: with them, the named mutants must survive.
pub const TESTERS: &[TesterMutant] =
    &[TesterMutant { number: 1, about: "a power cut keeps the page cache", survivors: &[25], seeds: 60 }];
