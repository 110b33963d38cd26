//! How far a group is in each partition.
//!
//! Owns: [`Offsets`]: what is written, and how many commits of each partition are on their way.
//! Promises: what is told is what the last record below the watermark said (GRP-3). Leaves out: who may commit.

use std::collections::{BTreeMap, BTreeSet};

use dejaq_wire::ids::ProducerId;

use crate::coordinator::record::{At, Committed};

/// The offsets of one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offsets {
    kept: BTreeMap<At, Committed>,
    /// Commits that are being written; no count is 0.
    coming: BTreeMap<At, usize>,
    /// What is kept when the transaction of a producer is committed; no map is empty.
    pending: BTreeMap<ProducerId, BTreeMap<At, Committed>>,
}

impl Offsets {
    /// Whether nothing is kept and nothing comes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.coming.is_empty() && self.pending.is_empty()
    }

    /// The offset of one partition.
    #[must_use]
    pub fn get(&self, at: &At) -> Option<&Committed> {
        self.kept.get(at)
    }

    /// All that are kept.
    pub fn iter(&self) -> impl Iterator<Item = (&At, &Committed)> {
        self.kept.iter()
    }

    /// Every partition of which something is kept or comes.
    #[must_use]
    pub fn known(&self) -> BTreeSet<At> {
        self.kept.keys().chain(self.coming.keys()).chain(self.unstable()).cloned().collect()
    }

    /// Partitions whose offset depends on a transaction that is not decided.
    pub fn unstable(&self) -> impl Iterator<Item = &At> {
        self.pending.values().flat_map(BTreeMap::keys)
    }

    /// Producers in whose transactions offsets wait.
    pub fn producers(&self) -> impl Iterator<Item = ProducerId> {
        self.pending.keys().copied()
    }

    /// Whether the offset of this partition depends on a transaction that is not decided.
    #[must_use]
    pub fn is_pending(&self, at: &At) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(at))
    }

    /// An offset waits for the end of a transaction.
    pub(super) fn pend(&mut self, producer: ProducerId, at: At, committed: Committed) {
        self.pending.entry(producer).or_default().insert(at, committed);
    }

    /// The transaction of a producer has ended.
    pub(super) fn txn_ended(&mut self, producer: ProducerId, commit: bool) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        if commit {
            self.kept.extend(offsets);
        }
    }

    /// Whether a commit of this partition is being written.
    #[must_use]
    pub fn is_coming(&self, at: &At) -> bool {
        self.coming.contains_key(at)
    }

    /// A commit is on its way.
    pub(super) fn comes(&mut self, at: &At) {
        *self.coming.entry(at.clone()).or_default() += 1;
    }

    /// A commit is no longer on its way.
    pub(super) fn came(&mut self, at: &At) {
        let count = self.coming.get_mut(at).unwrap_or_else(|| panic!("no commit of {at} was on its way"));
        *count -= 1;
        if *count == 0 {
            self.coming.remove(at);
        }
    }

    /// Keeps an offset.
    pub(super) fn keep(&mut self, at: At, committed: Committed) {
        self.kept.insert(at, committed);
    }

    /// Forgets an offset, and what waits for a transaction.
    pub(super) fn forget(&mut self, at: &At) {
        self.kept.remove(at);
        self.pending.retain(|_, offsets| {
            offsets.remove(at);
            !offsets.is_empty()
        });
    }
}
