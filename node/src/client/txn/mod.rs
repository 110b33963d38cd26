//! Transactions of the native client: records of several partitions, and offsets of a group, all or none.
//!
//! The tour: [`rules`] (pure) says what an answer means; [`life`] (pure) is what a producer may do when; [`error`] tells a
//! user what to do next; [`producer`] (SHELL) is the producer; [`pipeline`] (SHELL) consumes, transforms and produces,
//! each input once; [`tools`] (SHELL) lists, describes and ends what others left.
//!
//! Two ways lead to one promise. Where the cluster has `transaction.version` 2 (KIP-890), partitions join a transaction as
//! they are written to, and each end gives the producer its next epoch, so that what is late belongs to nobody. With
//! older clusters each partition is added before its first record, and a new epoch is asked for after a failure.
//!
//! ```text
//!  init ─► begin ─► send … send_offsets ─► commit │ abort ─► begin …
//!    │                │ a record is given up          │
//!    └ fences the     └ Abortable: only abort          └ Retriable: call the same again, its outcome is decided
//!      life before                                       Fenced, Fatal: this producer is over
//! ```

pub mod error;
pub mod life;
pub mod pipeline;
pub mod producer;
pub mod rules;
pub mod tools;

pub use error::{TxnCause, TxnError, TxnErrorKind};
pub use pipeline::{Pipeline, PipelineConfig, PipelineError, Step};
pub use producer::{TxnConfig, TxnProducer, TxnVersion};
