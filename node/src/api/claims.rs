//! Memory of what requests become: decoded, worked on, answered. A few bytes on the wire are many times that in memory.
//!
//! Promises: a request of more than a few elements is decoded only under a claim on the one budget for all of them, which
//! lasts until its answer is sent; one that is larger than any client's closes its connection. Who waits for such a
//! claim holds none: one turn of a connection claims once.
//! Leaves out: the bytes of the request itself (its reader claims them), records, and answers that do not grow with what
//! was asked (`fetch`, `describe_configs` and `describe_producers` claim for theirs by themselves).
//! Called by `dispatch` and `produce`.
//!
//! ```text
//!  body ─► decoded within a little? ─ yes ─► no claim
//!              └ no ─► measured ─► claim ─► decoded again ─► until the answer is sent (a fetch that waits: a part of it)
//! ```

use std::time::Duration;

use bytes::Bytes;
use dejaq_storage::mark;
use dejaq_wire::kafka::{self, DecodeError, Malformed, Room};

use super::data_plane::DataPlane;
use super::reply;
use crate::runtime::Runtime;
use crate::runtime::memory::Claim;
use crate::server::service::Reply;

/// What a request may be without a claim: every connection may hold as much beyond the budget.
const LITTLE: Room = Room { bytes: 16 << 10, elements: 128 };
/// The most that a request may be. 100 000 partitions are the most of a cluster by default, and some requests name their topics too.
const MOST: Room = Room { bytes: 32 << 20, elements: 250_000 };
/// What one element takes until it is answered: its state, its answer with a text, and that answer encoded.
const ELEMENT_BYTES: usize = 512;
/// Copies of names and texts until then.
const COPIES: usize = 4;
/// Of all requests together; the largest one fits.
pub const CLAIMS_BYTES: usize = 256 << 20;
/// How long a request waits for memory that others hold.
pub const PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(price(MOST) <= CLAIMS_BYTES, "the largest request has its claim");

/// Memory that a request takes until it is answered, by what it takes decoded.
const fn price(room: Room) -> usize {
    room.elements * ELEMENT_BYTES + room.bytes * COPIES
}

/// A request, and the claim on what it becomes, if it is not little.
pub type Decoded<Q> = (Q, Option<Claim>);

/// Decodes a request, waiting for a claim if need be.
///
/// # Errors
/// The reply that closes the connection.
pub async fn decode<R: Runtime, Q: kafka::Request + Send>(
    data: &DataPlane<R>,
    version: i16,
    body: Bytes,
) -> Result<Decoded<Q>, Reply> {
    let tried = Tried::of(version, &body);
    if tried.price() <= price(LITTLE) {
        return tried.finish(None);
    }
    // In a box: few requests come here, and all would carry the room for it.
    Box::pin(async move {
        let Some(mut claim) = claim(data, tried.price()).await else { return Err(no_memory()) };
        tried.finish(Some(&mut claim))
    })
    .await
}

/// The requests of one turn under one claim, as many results in their order.
///
/// What a large one takes is found by decoding it, and it is decoded again under its claim: most of its bytes may be
/// records, which take nothing more, so that its length says little.
#[derive(Debug)]
pub struct Bodies<Q> {
    tried: std::vec::IntoIter<Tried<Q>>,
    price: usize,
    claim: Option<Claim>,
    is_refused: bool,
}

impl<Q: kafka::Request + Send> Bodies<Q> {
    /// Decodes those that are little, and measures the others.
    pub fn of<'a>(bodies: impl Iterator<Item = (i16, &'a Bytes)>) -> Bodies<Q> {
        let tried: Vec<_> = bodies.map(|(version, body)| Tried::of(version, body)).collect();
        let price = tried.iter().map(Tried::price).sum();
        Bodies { tried: tried.into_iter(), price, claim: None, is_refused: false }
    }

    /// Whether they are to be taken only after [`Bodies::claim`].
    pub fn wants_claim(&self) -> bool {
        self.price > price(LITTLE) && self.claim.is_none() && !self.is_refused
    }

    /// Waits for the claim.
    pub async fn claim<R: Runtime>(&mut self, data: &DataPlane<R>) {
        self.claim = claim(data, self.price).await;
        self.is_refused = self.claim.is_none();
    }
}

impl<Q: kafka::Request> Iterator for Bodies<Q> {
    type Item = Result<Decoded<Q>, Reply>;

    fn next(&mut self) -> Option<Result<Decoded<Q>, Reply>> {
        let tried = self.tried.next()?;
        Some(if self.is_refused { Err(no_memory()) } else { tried.finish(self.claim.as_mut()) })
    }
}

/// Waits for memory, for as long as a request does.
async fn claim<R: Runtime>(data: &DataPlane<R>, bytes: usize) -> Option<Claim> {
    let until = data.runtime.now().plus(PATIENCE);
    let claim = data.runtime.before(until, data.claims.claim(bytes)).await;
    if claim.is_none() {
        mark!("a request finds no memory");
    }
    claim
}

fn no_memory() -> Reply {
    Reply::Close("there was no memory for a request of so many elements: others hold it".to_owned())
}

/// A request that was decoded since it is little, or only measured.
#[derive(Debug)]
enum Tried<Q> {
    Decoded(Q, Room),
    Measured(i16, Bytes, Room),
    Malformed(DecodeError),
}

impl<Q: kafka::Request> Tried<Q> {
    fn of(version: i16, body: &Bytes) -> Tried<Q> {
        let decode = |most| Q::decode_within(version, body.clone(), most);
        match decode(LITTLE) {
            Ok((request, took)) => Tried::Decoded(request, took),
            Err(error) if is_too_much(&error) => match decode(MOST) {
                Ok((_, took)) => Tried::Measured(version, body.clone(), took),
                Err(error) => Tried::Malformed(error),
            },
            Err(error) => Tried::Malformed(error),
        }
    }

    fn price(&self) -> usize {
        match self {
            Tried::Decoded(_, took) | Tried::Measured(_, _, took) => price(*took),
            Tried::Malformed(_) => 0,
        }
    }

    /// The request, with its part of `claim`.
    fn finish(self, claim: Option<&mut Claim>) -> Result<Decoded<Q>, Reply> {
        let (request, took) = match self {
            Tried::Decoded(request, took) => (request, took),
            Tried::Measured(version, body, _) => {
                Q::decode_within(version, body, MOST).map_err(|error| reply::malformed(&error))?
            }
            Tried::Malformed(error) => return Err(reply::malformed(&error)),
        };
        Ok((request, claim.map(|claim| claim.split(price(took)))))
    }
}

fn is_too_much(error: &DecodeError) -> bool {
    matches!(error.reason, Malformed::TooMuchMemory { .. })
}
