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
    let mut decoded = decode_all(data, vec![(version, body)]).await;
    decoded.pop().expect("one for one")
}

/// Decodes the requests of one turn under one claim, waiting for it if need be; as many results in their order.
///
/// What a large one takes is found by decoding it, and it is decoded again under its claim: most of its bytes may be
/// records, which take nothing more, so that its length says little.
pub async fn decode_all<R: Runtime, Q: kafka::Request + Send>(
    data: &DataPlane<R>,
    bodies: Vec<(i16, Bytes)>,
) -> Vec<Result<Decoded<Q>, Reply>> {
    let since = data.runtime.now();
    let mut room = 0;
    let mut first = Vec::with_capacity(bodies.len());
    for (version, body) in bodies {
        let tried = match Q::decode_within(version, body.clone(), LITTLE) {
            Ok((request, took)) => Ok((Some(request), took)),
            Err(error) if is_too_much(&error) => {
                Q::decode_within(version, body.clone(), MOST).map(|(_, took)| (None, took))
            }
            Err(error) => Err(error),
        };
        room += tried.as_ref().map_or(0, |(_, took)| price(*took));
        first.push((version, body, tried));
    }
    let mut claim = match room <= price(LITTLE) {
        true => None,
        false => match data.runtime.before(since.plus(PATIENCE), data.claims.claim(room)).await {
            Some(claim) => Some(claim),
            None => {
                mark!("a request finds no memory");
                let why = "there was no memory for a request of so many elements: others hold it";
                return first.iter().map(|_| Err(Reply::Close(why.to_owned()))).collect();
            }
        },
    };
    let claimed = |(version, body, tried): Tried<Q>| {
        let (request, took) = tried.map_err(|error| reply::malformed(&error))?;
        let request = match request {
            Some(request) => request,
            None => Q::decode_within(version, body, MOST).map_err(|error| reply::malformed(&error))?.0,
        };
        Ok((request, claim.as_mut().map(|claim| claim.split(price(took)))))
    };
    first.into_iter().map(claimed).collect() // what is left of the claim goes back
}

/// A request that was decoded if it is little, or only measured.
type Tried<Q> = (i16, Bytes, Result<(Option<Q>, Room), DecodeError>);

fn is_too_much(error: &DecodeError) -> bool {
    matches!(error.reason, Malformed::TooMuchMemory { .. })
}
