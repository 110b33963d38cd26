//! God's view: what must hold on the disks whatever the clients saw, one property a file.
//!
//! Owns: reading partition logs out of disk images without the product's code, and the checks on them.
//! Promises: draws no randomness, never reads the product's metrics, changes nothing.
//! Leaves out: client histories (see `oracle`). Called by stories after each crash and at the end.
//!
//! | file | property | source |
//! |---|---|---|
//! | `bounds` | LOG-2: the first segment, the start, what is durable and the end are in order | CORRECTNESS 1.1 |
//! | `index` | LOG-6: an index file is what a rebuild gives | CORRECTNESS 1.1 |
//! | `epochs` | LOG-7: the list of leader epochs is what the log says | CORRECTNESS 1.1 |
//! | `producers` | LOG-13, IDM-4: a snapshot of the producers is what a replay gives | CORRECTNESS 1.1, 1.5 |
//! | `order` | LOG-1: offsets ascend without a gap or a repeat within a log | CORRECTNESS 1.1 |
//! | `recovery` | LOG-3, LOG-12: what a sync covered is there after a crash, the same bytes | CORRECTNESS 1.1, PAR FAST'18 |
//! | `resurrection` | LOG-4: what was deleted or never written does not appear after a crash | CORRECTNESS 1.1 |
//! | `retention` | RET-2: retention removes only what is too old or too much | CORRECTNESS 1.9 |
//! | `clean` | LOG-8: where the marker of a clean shutdown stands, nothing is unsynced | CORRECTNESS 1.1 |
//! | `start` | LOG-14: nothing is deleted before the start that permits it is durable | CORRECTNESS 1.1 |
//! | `insight` | REP-1, REP-10, LOG-2: what the processes of all brokers believe of a partition | CORRECTNESS 1.1, 1.2 |
//! | `inside` | REP-6, REP-13, REP-15, LOG-7: what a leader does with what it believes of its followers | CORRECTNESS 1.1, 1.2 |
//! | `committed` | MQ-15, REP-4, REP-5, REP-13, REP-14: the committed metadata, beside what the replicas have | CORRECTNESS 1.2, 1.3 |
//! | `quorum` | MQ-2, MQ-6: what the voters' disks hold of what the quorum says | CORRECTNESS 1.3 |
//! | `replicas` | REP-1g, REP-2, REP-8, REP-16, MQ-3: what the copies of a log on several disks have in common | CORRECTNESS 1.2, 1.3 |
//! | `decisions` | TXN-5, TXN-6: markers of transactions, beside the decisions that their coordinators' log has replicated | CORRECTNESS 1.6 |
//! | `moves` | RSG-1, RSG-2: how replicas change from one committed state to the next | CORRECTNESS 1.10 |
//! | `same` | MQ-8, MQ-9: whoever applied the metadata up to one offset has the same | CORRECTNESS 1.3 |
//! | `acknowledged` | REP-7: what was acknowledged as durable is on the platter | CORRECTNESS 1.2 |

pub mod acknowledged;
pub mod bounds;
pub mod clean;
pub mod committed;
mod crc;
pub mod decisions;
pub mod epochs;
pub mod files;
pub mod image;
pub mod index;
pub mod inside;
pub mod insight;
pub mod moves;
pub mod order;
pub mod producers;
pub mod quorum;
pub mod recovery;
pub mod replicas;
pub mod resurrection;
pub mod retention;
pub mod same;
mod side_file;
pub mod start;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The invariant's name, as in CORRECTNESS.md.
    pub name: &'static str,
    /// The evidence.
    pub evidence: String,
}
