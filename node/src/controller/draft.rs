//! A change of the metadata in the making: the records so far, and the image as they make it.
//!
//! Owns: [`Draft`]; the trait [`Decide`] that every request implements; [`Refusal`].
//! Promises: the image of a draft is always the first image with the draft's records applied, by the same `replay`
//! that every node uses; nobody but the decider sees it before the records are durable.
//! Leaves out: durability and publishing (`driver`).

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Offset;

use super::liveness::Liveness;
use super::settings::Settings;
use crate::metadata::{Image, Record};
use crate::runtime::Mono;

/// Most partitions that one request may create, as in Kafka.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// Longest text of a refusal in bytes; old versions of the protocol have room for 32767.
pub const MAX_MESSAGE_BYTES: usize = 2000;

/// Records that are decided but not durable.
#[derive(Debug, Clone)]
pub struct Draft {
    image: Image,
    records: Vec<Record>,
}

impl Draft {
    /// Starts from this image.
    #[must_use]
    pub fn on(image: &Image) -> Draft {
        Draft { image: image.clone(), records: Vec::new() }
    }

    /// The image with every record so far.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The records so far.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds a record.
    ///
    /// # Panics
    /// If it does not fit the image: the decision contradicts itself, which must not become durable.
    pub fn push(&mut self, record: impl Into<Record>) {
        let record = record.into();
        if let Err(why) = self.image.apply(&record) {
            panic!("decided a record that does not apply: {why}: {record:?}");
        }
        self.records.push(record);
    }

    /// Where the draft stands now, to come back to.
    #[must_use]
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { image: self.image.clone(), records: self.records.len() }
    }

    /// Forgets every record since the savepoint: the request only wanted to know.
    pub fn roll_back(&mut self, to: Savepoint) {
        assert!(to.records <= self.records.len(), "{} records, {} before", self.records.len(), to.records);
        self.records.truncate(to.records);
        self.image = to.image;
    }

    /// The image to publish once the records are durable, and the log ends at `end`.
    #[must_use]
    pub fn into_image(self, end: Offset) -> Image {
        let records = i64::try_from(self.records.len()).expect("a draft is far smaller than 2^63 records");
        assert!(
            end >= self.image.end().plus(records),
            "{records} records from {:?} to {end:?}",
            self.image.end()
        );
        self.image.after(&[], end).expect("no record is left to apply")
    }
}

/// A state of a draft to which it can go back.
#[derive(Debug)]
pub struct Savepoint {
    image: Image,
    records: usize,
}

/// What a decision may depend on beside the image.
pub struct Context<'a> {
    /// The node's settings.
    pub settings: &'a Settings,
    /// Randomness for ids.
    pub entropy: &'a mut dyn FnMut() -> u64,
    /// The controller's monotonic clock, for sessions.
    pub now: Mono,
    /// Who is heard. Memory of the active controller: what a decision changes in it stays, durable or not.
    pub liveness: &'a mut Liveness,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A request to change the metadata: pure, one file each in `decide`.
pub trait Decide: Send + 'static {
    /// What the one who asked gets, once the records are durable.
    type Answer: Send + 'static;

    /// Decides: pushes the records onto the draft, and says what to answer.
    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer;
}

/// Why a request, or a part of it, is refused: as a client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {}", .message.as_deref().unwrap_or_default())]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// Which value, and why; `None` where Kafka says nothing more than the code.
    pub message: Option<String>,
}

impl Refusal {
    /// With a text for people, cut to [`MAX_MESSAGE_BYTES`]: it may repeat what a client sent.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        assert!(code.is_error(), "a refusal is an error, not {code:?}");
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.push('…');
        }
        Refusal { code, message: Some(message) }
    }

    /// With the code's own text.
    #[must_use]
    pub fn of(code: ErrorCode) -> Refusal {
        Refusal::new(code, code.message())
    }
}
