//! Tests of the log as a whole, on the model disk: a short reference, random histories, every crash point, every fault.

mod kit;

mod basics;
mod compaction;
mod compaction_kit;
mod compaction_txn;
mod crash;
mod damage;
mod full;
mod golden;
mod history;
mod layout;
mod patch;
mod reserve;
mod torn;
mod txn;

#[cfg(feature = "mutants")]
use crate::producers::tests as producers;

/// Which planted bugs die here, and of which test. Its assertions are what names them.
#[cfg(feature = "mutants")]
const MUTANTS: [(u32, fn()); 3] = [
    (223, compaction_txn::no_snapshot_tells_of_a_transaction_whose_marker_is_gone),
    (224, compaction::an_open_transaction_holds_the_cleaner_back),
    (332, producers::a_batch_from_before_the_row_began_is_not_taken_for_one_that_is_there),
];

/// `cargo test -p dejaq-storage --features mutants -- --ignored mutants_of_the_cleaner_die`
#[cfg(feature = "mutants")]
#[test]
#[ignore = "switches a planted bug on for the whole process: run it alone"]
fn mutants_of_the_cleaner_die() {
    for (mutant, test) in MUTANTS {
        test();
        crate::probe::activate_mutant(mutant);
        let ended = std::panic::catch_unwind(test);
        crate::probe::activate_mutant(0);
        assert!(ended.is_err(), "M{mutant} survived");
        println!("M{mutant} killed");
    }
}
