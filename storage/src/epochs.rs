//! Leader epochs.
use dejaq_wire::ids::{LeaderEpoch, Offset};
/// Where an epoch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset.
    pub start: Offset,
}
/// Where an epoch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// Largest known epoch that is not above the asked one, or none.
    pub epoch: LeaderEpoch,
    /// Its end, or none.
    pub end: Offset,
}
