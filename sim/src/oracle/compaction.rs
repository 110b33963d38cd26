//! What of a compacted partition may be missing, and what must not come back.
//!
//! Owns: which records a newer one of their key has taken the place of, and delete markers whose time is over.
//! Promises: a record is excused only if one that is certainly there, or certainly was, stands behind it with the same key;
//! the newest one of a key never is, but for a delete marker. Offsets never change, nothing is reordered and nothing is
//! invented: that is for the other checks, to which gaps are no reason to look away. Source: CORRECTNESS.md 1.9 (RET-9), KIP-534.
//! Called by [`super::judge`] and by `presence`.
//!
//! ```text
//! key a:  1 acked ── 4 acked ── 7 in the final read      1 and 4 may be gone
//! key b:  2 acked ── 5 delete marker, gone               2 must be gone, 5 may be
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Index, PartIndex};
use super::{Anomaly, Outcome, SendOp, Verdict};

/// The newest record of each key, as far as it is certain.
#[derive(Debug, Default)]
pub struct Newest {
    by_key: BTreeMap<u64, i64>,
    /// Keys with a delete marker of which nobody knows whether it was there.
    vague: BTreeSet<u64>,
}

impl Newest {
    /// Of one partition; empty if it is not compacted.
    pub fn of(index: &Index<'_>, part: &PartIndex<'_>) -> Newest {
        let mut newest = Newest::default();
        if part.info.compacted.is_none() {
            return newest;
        }
        for send in &part.sends {
            let Some((key, deletes)) = index.keyed.get(&send.value).copied() else { continue };
            match certain(index, part, send) {
                Some(offset) => {
                    let known = newest.by_key.entry(key).or_insert(offset);
                    *known = offset.max(*known);
                }
                None if deletes && !matches!(send.outcome, Outcome::Fail) => drop(newest.vague.insert(key)),
                None => {}
            }
        }
        newest
    }

    /// Whether the record of `send`, which was at `offset`, may be missing.
    pub fn lets_go(&self, index: &Index<'_>, part: &PartIndex<'_>, send: &SendOp, offset: i64) -> bool {
        let Some(compacted) = part.info.compacted else { return false };
        let Some((key, deletes)) = index.keyed.get(&send.value).copied() else { return false };
        let is_replaced = self.by_key.get(&key).is_some_and(|newest| *newest > offset);
        is_replaced || (compacted.markers_go && (deletes || self.vague.contains(&key)))
    }
}

/// Where a record is, or was for certain: nothing but a newer one, or time, can have taken it away.
fn certain(index: &Index<'_>, part: &PartIndex<'_>, send: &SendOp) -> Option<i64> {
    let told = match send.outcome {
        Outcome::Ok { offset } if index.promised(send) => offset,
        Outcome::Ok { .. } | Outcome::Fail | Outcome::Info => None,
    };
    part.final_offset.get(&send.value).copied().or(told)
}

/// A delete marker goes after what it deletes, never before.
pub fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for part in index.parts.iter().filter(|part| part.info.compacted.is_some()) {
        let mut gone: BTreeMap<u64, (i64, u64)> = BTreeMap::new();
        for send in part.sends.iter().filter(|send| !part.final_offset.contains_key(&send.value)) {
            let Some((key, true)) = index.keyed.get(&send.value).copied() else { continue };
            let Some(offset) = certain(index, part, send) else { continue };
            let newest = gone.entry(key).or_insert((offset, send.value));
            *newest = (*newest).max((offset, send.value));
        }
        for (value, offset) in &part.final_offset {
            let key = index.keyed.get(value).map(|(key, _)| *key);
            if let Some((marker, deleted_by)) =
                key.and_then(|key| gone.get(&key)).filter(|gone| gone.0 > *offset)
            {
                let text = format!(
                    "value {value} stands at {offset}; it was deleted by value {deleted_by} at {marker}, which is gone"
                );
                verdict.report(Anomaly::Resurrected, &part.info.name, text);
            }
        }
    }
}
