//! What control batches hold: the end of a transaction, or a change of the metadata log's leader.

use super::batch::Batch;
use super::builder::{BatchBuilder, NewRecord};
use super::record::Record;
use crate::ids::{CoordinatorEpoch, ProducerEpoch, ProducerId};

/// The type of a control record, from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// The transaction of this producer on this partition is aborted.
    Abort,
    /// The transaction of this producer on this partition is committed.
    Commit,
    /// A leader of the metadata log starts.
    LeaderChange,
    /// A type that this version does not know; consumers skip it.
    Other(i16),
}

impl ControlType {
    /// The number in the key.
    pub const fn id(self) -> i16 {
        match self {
            ControlType::Abort => 0,
            ControlType::Commit => 1,
            ControlType::LeaderChange => 2,
            ControlType::Other(id) => id,
        }
    }

    /// The type of a control record; `None` if its key is damaged.
    pub fn of(record: &Record) -> Option<ControlType> {
        let [version, id] = shorts(record.key.as_ref()?)?;
        if version < 0 {
            return None;
        }
        Some(match id {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            2 => ControlType::LeaderChange,
            other => ControlType::Other(other),
        })
    }
}

fn shorts(bytes: &[u8]) -> Option<[i16; 2]> {
    let [a, b, c, d] = *bytes.first_chunk()?;
    Some([i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d])])
}

/// How a transaction ended, for one producer on one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// The producer whose transaction ends.
    pub producer_id: ProducerId,
    /// Its epoch, as the coordinator has it.
    pub producer_epoch: ProducerEpoch,
    /// Whether the transaction is committed.
    pub commit: bool,
    /// Epoch of the coordinator; fences older ones.
    pub coordinator_epoch: CoordinatorEpoch,
}

impl EndTxnMarker {
    /// The control batch that tells this; it is still to be placed.
    pub fn batch(&self, timestamp_ms: i64) -> Batch {
        let kind = if self.commit { ControlType::Commit } else { ControlType::Abort };
        let mut value = vec![0; 2];
        value.extend_from_slice(&self.coordinator_epoch.0.to_be_bytes());
        let mut builder = BatchBuilder::control(kind, &value, timestamp_ms);
        builder.transactional = true;
        builder.producer_id = self.producer_id;
        builder.producer_epoch = self.producer_epoch;
        builder.build_uncompressed()
    }

    /// Reads the marker out of a control record of `batch`; `None` if it is of another type or damaged.
    pub fn of(batch: &Batch, record: &Record) -> Option<EndTxnMarker> {
        let commit = match ControlType::of(record)? {
            ControlType::Commit => true,
            ControlType::Abort => false,
            ControlType::LeaderChange | ControlType::Other(_) => return None,
        };
        let [_, _, epoch @ ..] = *record.value.as_ref()?.first_chunk::<6>()?;
        let coordinator_epoch = CoordinatorEpoch(i32::from_be_bytes(epoch));
        let (producer_id, producer_epoch) = (batch.header.producer_id, batch.header.producer_epoch);
        Some(EndTxnMarker { producer_id, producer_epoch, commit, coordinator_epoch })
    }
}

impl BatchBuilder {
    /// A control batch of one record; `value` as the type has it.
    pub fn control(kind: ControlType, value: &[u8], timestamp_ms: i64) -> BatchBuilder {
        let mut key = [0; 4];
        key[2..].copy_from_slice(&kind.id().to_be_bytes());
        let mut builder = BatchBuilder::new(super::Compression::None);
        builder.control = true;
        builder.append(&NewRecord { timestamp_ms, key: Some(&key), value: Some(value), headers: &[] });
        builder
    }
}
