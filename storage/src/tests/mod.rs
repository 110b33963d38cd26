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
