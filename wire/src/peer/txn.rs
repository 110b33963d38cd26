//! What coordinators of transactions and leaders of partitions say to each other.
//!
//! Owns: the marker that a coordinator brings to leaders, and the question of a leader whether a partition is in a
//! transaction. Promises: both may be repeated; each list and each text has its bound.
//! Leaves out: when a marker may leave, what a partition is vouched for (`coordinator` of the node), connections.
//!
//! ```text
//!  coordinator ── WriteMarkers: whose transaction ended how, where ──► leader ── MarkersWritten: a code a partition
//!  leader ── Vouch: is this partition in the transaction, or put it there ──► coordinator ── Vouched: a code
//! ```

use serde::{Deserialize, Serialize};

use super::{Ask, Body, MAX_TEXT_BYTES, Parts, PeerError};
use crate::ErrorCode;
use crate::ids::{CoordinatorEpoch, PartitionId, ProducerEpoch, ProducerId};

/// Most partitions in one message.
pub const MAX_PARTITIONS: usize = 100_000;
/// Longest transactional id, in bytes.
pub const MAX_ID_BYTES: usize = 8192;

/// A partition by the name of its topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The topic; at most [`MAX_TEXT_BYTES`].
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
}

/// Brings the end of a transaction to the leader of partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteMarkers {
    /// Whose transaction.
    pub producer_id: ProducerId,
    /// In which epoch.
    pub producer_epoch: ProducerEpoch,
    /// Whether it is committed.
    pub commit: bool,
    /// Of the one who says so.
    pub coordinator_epoch: CoordinatorEpoch,
    /// Where; at most [`MAX_PARTITIONS`].
    pub partitions: Vec<Named>,
}

/// What became of each marker, in the order of [`WriteMarkers::partitions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkersWritten {
    /// A code for each.
    pub codes: Vec<ErrorCode>,
}

/// Asks the coordinator whether partitions are in the open transaction of a producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouch {
    /// The transactional id; at most [`MAX_ID_BYTES`].
    pub id: String,
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// They join it if they are not in it.
    pub adds: bool,
    /// Which; at most [`MAX_PARTITIONS`].
    pub partitions: Vec<Named>,
}

/// The answer to [`Vouch`], for all of its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// No error: they are in it.
    pub code: ErrorCode,
}

fn bounded(partitions: &[Named]) -> Result<(), PeerError> {
    if partitions.len() > MAX_PARTITIONS {
        return Err(PeerError::TooMany(partitions.len()));
    }
    match partitions.iter().find(|named| named.topic.len() > MAX_TEXT_BYTES) {
        Some(named) => Err(PeerError::TextTooLong(named.topic.len())),
        None => Ok(()),
    }
}

trait Bounded {
    fn bounds(&self) -> Result<(), PeerError>;
}

impl Bounded for WriteMarkers {
    fn bounds(&self) -> Result<(), PeerError> {
        bounded(&self.partitions)
    }
}

impl Bounded for MarkersWritten {
    fn bounds(&self) -> Result<(), PeerError> {
        if self.codes.len() > MAX_PARTITIONS { Err(PeerError::TooMany(self.codes.len())) } else { Ok(()) }
    }
}

impl Bounded for Vouch {
    fn bounds(&self) -> Result<(), PeerError> {
        if self.id.len() > MAX_ID_BYTES {
            return Err(PeerError::TextTooLong(self.id.len()));
        }
        bounded(&self.partitions)
    }
}

impl Bounded for Vouched {
    fn bounds(&self) -> Result<(), PeerError> {
        Ok(())
    }
}

macro_rules! body {
    ($($body:ty = $tag:literal;)*) => {
        $(impl Body for $body {
            const TAG: u16 = $tag;
            const VERSION: u16 = 0;
            fn into_parts(self) -> Result<Parts, PeerError> {
                self.bounds()?;
                Parts::plain(&self)
            }
            fn from_parts(parts: Parts) -> Result<Self, PeerError> {
                let body: Self = parts.into_plain()?;
                body.bounds()?;
                Ok(body)
            }
        })*
    };
}

body! {
    WriteMarkers = 0x0401;
    MarkersWritten = 0x0481;
    Vouch = 0x0402;
    Vouched = 0x0482;
}

impl Ask for WriteMarkers {
    type Answer = MarkersWritten;
    const REPEATABLE: bool = true;
}

impl Ask for Vouch {
    type Answer = Vouched;
    const REPEATABLE: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(topic: &str, partition: i32) -> Named {
        Named { topic: topic.into(), partition: PartitionId(partition) }
    }

    fn markers() -> WriteMarkers {
        WriteMarkers {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(1),
            commit: true,
            coordinator_epoch: CoordinatorEpoch(3),
            partitions: vec![named("t", 2), named("u", 0)],
        }
    }

    fn vouch() -> Vouch {
        Vouch {
            id: "x".into(),
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(1),
            adds: true,
            partitions: vec![named("t", 2)],
        }
    }

    #[test]
    fn the_bytes_never_change() {
        let hex = |parts: Parts| parts.head.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let codes = MarkersWritten { codes: vec![ErrorCode::NONE, ErrorCode::NOT_LEADER_OR_FOLLOWER] };
        let lines = [
            hex(markers().into_parts().expect("short")),
            hex(codes.into_parts().expect("short")),
            hex(vouch().into_parts().expect("short")),
            hex(Vouched { code: ErrorCode::INVALID_TXN_STATE }.into_parts().expect("short")),
        ];
        assert_eq!(lines, ["0e02010602017404017500", "02000c", "01780e020101017404", "60"]);
    }

    #[test]
    fn a_message_comes_back_as_it_went_and_one_beyond_its_bounds_does_not_go() {
        let parts = markers().into_parts().expect("short");
        assert_eq!(WriteMarkers::from_parts(parts), Ok(markers()));
        let parts = vouch().into_parts().expect("short");
        assert_eq!(Vouch::from_parts(parts), Ok(vouch()));
        let long = Vouch { id: "x".repeat(MAX_ID_BYTES + 1), ..vouch() };
        assert_eq!(long.into_parts(), Err(PeerError::TextTooLong(MAX_ID_BYTES + 1)));
        let long = WriteMarkers { partitions: vec![named(&"t".repeat(256), 0)], ..markers() };
        assert_eq!(long.into_parts(), Err(PeerError::TextTooLong(256)));
    }
}
