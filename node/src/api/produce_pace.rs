//! How much one turn of Produce requests works before others get the thread, and how much one request may unpack.
//!
//! Promises: no turn keeps its thread for longer than [`SHARE_BYTES`] take, but for one batch that unpacks to more; of such
//! batches one is unpacked at a time in the whole node, whoever sends them; all batches of one request unpack to no more
//! than [`Pace::begin`] says. Leaves out: whether a batch is good (`produce_check`), and waiting: it says when (`produce` does).
//! Not bounded here: one batch of 64 MiB keeps its thread for 60 to 100 ms, and for longer where it is packed again, for a
//! topic with a codec of its own.

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;

use super::data_plane::Refusal;
use super::produce::refused;
use super::produce_check::{Admitted, BadBatch, DECOMPRESSED_BYTES, NotAdmitted};

/// Bytes of records that are looked at between two yields: some milliseconds.
const SHARE_BYTES: usize = 4 << 20;
/// The least that a partition of a request counts for, whatever is in it.
const LEAST_BYTES: usize = 4 << 10;
/// What the batches of any request may unpack to together, and what they may for each byte of it in addition. Honest
/// batches shrink to a tenth or a twentieth, made ones to a thousandth.
const UNPACKED_BYTES: (usize, usize) = (256 << 20, 32);

const _: () = assert!(DECOMPRESSED_BYTES <= UNPACKED_BYTES.0, "every batch that is allowed fits alone");

/// What a turn waits for before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Memory for what its requests become.
    Memory,
    /// Others, which get the thread: then a new share begins.
    Share,
    /// The permit to unpack the batch at hand, which is let go of as soon as that is done.
    Alone,
}

/// The pace of one turn.
#[derive(Debug)]
pub struct Pace {
    /// Bytes until the next yield.
    share: usize,
    /// Bytes that the request at hand may unpack, in all and from now on.
    most: usize,
    left: usize,
}

impl Pace {
    /// A turn begins.
    pub fn new() -> Pace {
        Pace { share: SHARE_BYTES, most: 0, left: 0 }
    }

    /// Others had the thread.
    pub fn renew(&mut self) {
        self.share = SHARE_BYTES;
    }

    /// The next request of the turn begins, of this many bytes.
    pub fn begin(&mut self, request_bytes: usize) {
        let (any, each) = UNPACKED_BYTES;
        self.most = request_bytes.saturating_mul(each).saturating_add(any);
        self.left = self.most;
    }

    /// Whether it is the turn of others.
    pub fn is_spent(&self) -> bool {
        self.share == 0
    }

    /// The next partition of the request is looked at.
    pub fn next(&mut self) {
        self.share = self.share.saturating_sub(LEAST_BYTES);
    }

    /// Has a batch admitted by `admit`, which is told how far it may unpack it: to a share or, `alone`, to all that is
    /// allowed.
    ///
    /// # Errors
    /// It is to be done alone.
    pub fn admit(
        &mut self,
        alone: bool,
        admit: impl FnOnce(usize) -> Result<Admitted, NotAdmitted>,
    ) -> Result<Result<Admitted, BadBatch>, Pause> {
        let most = if alone { DECOMPRESSED_BYTES } else { SHARE_BYTES }.min(self.left);
        match admit(most) {
            Err(NotAdmitted::TooMuch) if !alone && most < self.left => Err(Pause::Alone),
            admitted => Ok(self.spent(most, admitted)),
        }
    }

    /// Counts what a batch took that was allowed to unpack to `most`.
    fn spent(&mut self, most: usize, admitted: Result<Admitted, NotAdmitted>) -> Result<Admitted, BadBatch> {
        let (unpacked, looked_at, admitted) = match admitted {
            Ok(admitted) => (admitted.unpacked_bytes, admitted.looked_at_bytes, Ok(admitted)),
            // It may be damaged at its very end.
            Err(NotAdmitted::Bad(bad, is_unpacked)) => (if is_unpacked { most } else { 0 }, 0, Err(bad)),
            Err(NotAdmitted::TooMuch) => (most, most, Err(self.refusal())),
        };
        self.left -= unpacked.min(self.left);
        self.share = self.share.saturating_sub(looked_at.max(unpacked));
        admitted
    }

    fn refusal(&self) -> BadBatch {
        mark!("a produce request unpacks to too much");
        let most = self.most;
        let why = format!(
            "the batches of the request unpack to more than {most} bytes: send fewer in one request, or smaller ones"
        );
        // Nothing was appended; a producer sends it again, without those batches of the request that were.
        refused(Refusal::new(ErrorCode::REQUEST_TIMED_OUT, why))
    }
}
