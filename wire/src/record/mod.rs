//! Record batches of magic 2: looked at without a copy, checked, restamped, built.
//!
//! Tour: [`BatchHeader`] is the first 61 bytes, parsed once; [`Batch`] is a header and the payload it
//! came with, [`Batches`] walks over a run of them; [`produced`] says what a client may send;
//! [`Record`] and [`RecordIter`] look inside, decompressing only then; [`lookup`] finds an offset by
//! its timestamp; [`BatchBuilder`] makes the batches that we originate; [`rewrite`] takes records out; [`Compression`] is the one
//! door to all codecs; [`control`] is what control batches hold.
//!
//! Promises: nothing here panics on any bytes, and nothing takes more memory than the limit that is
//! passed in. Base offset and leader epoch lie outside of the batch's CRC, so placing a batch in a
//! log changes 12 of its first 61 bytes and copies none of the rest.
//!
//! ```text
//!  0 base offset 8 │ 8 length 4 │ 12 leader epoch 4 │ 16 magic 1 │ 17 crc 4 │
//! 21 attributes 2 │ 23 last offset delta 4 │ 27 base timestamp 8 │ 35 max timestamp 8 │
//! 43 producer id 8 │ 51 producer epoch 2 │ 53 base sequence 4 │ 57 records 4 │ 61 payload …
//! └── the CRC-32C covers everything from 21 on; length counts from 12 on ──┘
//! ```

pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod header;
pub mod lookup;
pub mod produced;
#[allow(clippy::module_inception, reason = "a record is what the module is about")]
pub mod record;
pub mod rewrite;
pub(crate) mod varint;

pub use batch::{Batch, Batches};
pub use builder::{BatchBuilder, NewRecord};
pub use compression::{CodecError, Compression};
pub use header::{BatchError, BatchHeader};
pub use record::{Record, RecordError, RecordIter};
