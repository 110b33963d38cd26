//! How far a group is in each partition.
//!
//! Owns: [`Offsets`]: what is written, and how many commits of each partition are on their way.
//! Promises: what is told is what the last record below the watermark said (GRP-3). Leaves out: who may commit.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::record::{At, Committed};

/// The offsets of one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offsets {
    kept: BTreeMap<At, Committed>,
    /// Commits that are being written; no count is 0.
    coming: BTreeMap<At, usize>,
}

impl Offsets {
    /// Whether nothing is kept and nothing comes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.coming.is_empty()
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
        self.kept.keys().chain(self.coming.keys()).cloned().collect()
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

    /// Forgets an offset.
    pub(super) fn forget(&mut self, at: &At) {
        self.kept.remove(at);
    }
}
