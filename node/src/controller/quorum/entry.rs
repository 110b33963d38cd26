//! An entry of the quorum's log to one Kafka record batch, and back: pure.
//!
//! Owns: how each kind of entry lies in the log. Promises: what comes back is what went in, and everything else is
//! refused; a log from before there was a quorum reads as entries, too, because its batches are the same.
//! Leaves out: where the batch lies (`journal`), what its records mean (`batch`, `metadata`).
//!
//! ```text
//!  Records       ordinary batch, one record of the batch for each metadata record (as `batch::encode` made it)
//!  LeaderChange  control batch, type 2, empty         Voters   control batch, type 6 (KIP-853), postcard list
//! ```

use bytes::Bytes;
use dejaq_storage::VerifiedBatch;
use dejaq_wire::ids::Offset;
use dejaq_wire::peer::raft::{Batch, Content, Voter};
use dejaq_wire::record::control::ControlType;
use dejaq_wire::record::{Batch as Lying, BatchBuilder, BatchError, Batches, RecordError};

use crate::controller::batch::MAX_BATCH_BYTES;

/// What Kafka calls KRaftVoters.
const VOTERS: ControlType = ControlType::Other(6);

/// Why a batch is no entry: the node must not start.
#[derive(Debug, thiserror::Error)]
pub enum NoEntry {
    /// Not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Its record does not parse.
    #[error(transparent)]
    Framing(#[from] RecordError),
    /// A control batch that no quorum of ours wrote.
    #[error("a control batch of an unknown type or form")]
    Control,
}

/// The batch that goes into the log; its offsets and epoch are those of `entry` once it is there.
pub fn encode(entry: &Batch) -> VerifiedBatch {
    let bytes = match &entry.content {
        Content::Records(records) => records.clone(),
        Content::LeaderChange => control(ControlType::LeaderChange, &[]),
        Content::Voters(voters) => {
            let list = postcard::to_allocvec(voters).expect("a vector takes everything");
            control(VOTERS, &list)
        }
    };
    VerifiedBatch::verify(bytes).expect("a batch that a controller built carries its own CRC")
}

fn control(kind: ControlType, value: &[u8]) -> Bytes {
    // Without a time: the same entry has the same bytes on every node.
    BatchBuilder::control(kind, value, 0).build().expect("copying cannot fail").to_bytes()
}

/// Whether bytes that a peer sent as records are one whole batch of `count` records: checked before they are believed.
#[must_use]
pub fn is_sound(records: &Bytes, count: i64) -> bool {
    let Ok(batch) = VerifiedBatch::verify(records.clone()) else { return false };
    !batch.header().is_control() && i64::from(batch.header().last_offset_delta) + 1 == count
}

/// The entries of a run of batches, in order.
///
/// # Errors
/// [`NoEntry`].
pub fn decode(run: Bytes) -> Result<Vec<Batch>, NoEntry> {
    Batches::new(run).map(|batch| one(batch?)).collect()
}

fn one(batch: Lying) -> Result<Batch, NoEntry> {
    let header = &batch.header;
    let (base, epoch) = (header.base_offset, header.leader_epoch);
    let end: Offset = base.plus(i64::from(header.last_offset_delta) + 1);
    let content = if header.is_control() {
        let record = batch.records(MAX_BATCH_BYTES)?.next().ok_or(NoEntry::Control)??;
        match ControlType::of(&record) {
            Some(ControlType::LeaderChange) => Content::LeaderChange,
            Some(VOTERS) => Content::Voters(voters(record.value.as_deref()).ok_or(NoEntry::Control)?),
            Some(ControlType::Abort | ControlType::Commit | ControlType::Other(_)) | None => {
                return Err(NoEntry::Control);
            }
        }
    } else {
        Content::Records(batch.to_bytes())
    };
    Ok(Batch { base, end, epoch, content })
}

fn voters(value: Option<&[u8]>) -> Option<Vec<Voter>> {
    let (voters, rest) = postcard::take_from_bytes(value?).ok()?;
    rest.is_empty().then_some(voters)
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{BrokerId, LeaderEpoch};
    use dejaq_wire::peer::raft::{DirectoryId, ReplicaKey};

    use super::*;
    use crate::controller::batch;
    use crate::metadata::record::FeatureLevelSet;

    #[test]
    fn an_entry_comes_back_as_it_went() {
        let key = ReplicaKey { id: BrokerId(3), directory: DirectoryId([7; 16]) };
        let voter = Voter { key, address: "h:1".into() };
        let records = vec![FeatureLevelSet { name: "a".into(), level: 1 }.into(); 2];
        let records = batch::encode(&records, 5).bytes().clone();
        assert!(is_sound(&records, 2) && !is_sound(&records, 3) && !is_sound(&records.slice(1..), 2));
        for content in [Content::LeaderChange, Content::Voters(vec![voter]), Content::Records(records)] {
            let count = if matches!(content, Content::Records(_)) { 2 } else { 1 };
            let entry = Batch { base: Offset(0), end: Offset(count), epoch: LeaderEpoch::NONE, content };
            let lies = encode(&entry).bytes().clone();
            assert_eq!(decode(lies).expect("ours"), vec![entry]);
        }
        let marker = BatchBuilder::control(ControlType::Commit, &[0; 6], 0);
        let marker = marker.build().expect("uncompressed").to_bytes();
        assert!(matches!(decode(marker), Err(NoEntry::Control)));
    }
}
