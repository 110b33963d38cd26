//! Random values and hostile bytes, for tests and fuzzing; no production code calls this.
//!
//! Owns: [`Random`], a [`Source`] that makes every value up, so that the declaration of a message is
//! its own generator; [`Random::mutate`]; and the three targets [`fuzz_requests`], [`fuzz_peer`] and
//! [`fuzz_records`], which start from valid bytes, damage them with knowledge of lengths, and check
//! that decoding neither panics nor takes more memory than its bound.
//! Promises: the same seed gives the same inputs. The targets are generic over the [`Meter`], so that
//! who does not fuzz does not compile them. The bound counts all bytes ever allocated, not the peak.
//!
//!   valid message ──mutate──► bytes ──decode──► refused, or a value that encodes and decodes again

pub mod random;
pub mod targets;

pub use random::Random;
pub use targets::{FuzzReport, Meter, fuzz_peer, fuzz_records, fuzz_requests, message_bound, records_bound};
