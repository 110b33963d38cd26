//! SHELL. Damaged records of a follower: put back from its leader's copy, or given up and fetched again.
//!
//! Owns: the order of the two ways. Promises: nothing is cut while the leader may still have what was written here, so that
//! what else this copy holds stays, whatever is found damaged on the leader (LOG-5); what is given up nobody counts on; a
//! range is counted as mended when its records are here again.
//! Leaves out: what is damaged (`scrub`, reads), the proof that a copy is the right one (`dejaq_storage::patch`), whose word
//! counts meanwhile (`isr`). Called by `fetcher`, in the partition's turn or holding what moves its log.
//!
//! ```text
//!  damage ─► stand before it ─► the leader's batches ─► the same as ours were? ─ yes ► put back, loaded again
//!                                       └ damaged there, too: wait              └ no ► once nobody counts on us: cut, fetch
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::disk::is_failed_sync;
use dejaq_storage::{Patched, VerifiedBatch, mark};
use dejaq_wire::ids::{LeaderEpoch, Offset};

use super::following::damage;
use super::leader::Resigned;
use super::partition::Partition;
use super::role::Role;
use crate::runtime::Runtime;

/// A disk that refuses what is put back is asked again after this.
const REST: Duration = Duration::from_millis(1000);

/// What a follower's log needs.
pub(super) enum Mend {
    /// To be cut there.
    Cut(Offset),
    /// To be read back again, up to this end: what was made of it while it had a hole, such as the producers' state, lacks
    /// something.
    Load(Offset),
}

impl<R: Runtime> Partition<R> {
    /// Where to cut a damaged log, and in which epoch, so that the rest is fetched again: once nobody counts on this
    /// replica any more (LOG-5), and the leader has shown that it does not have what was written here.
    pub(super) fn mend(self: &Arc<Self>) -> Option<(LeaderEpoch, Mend)> {
        self.with_turn(|turn| {
            let (log, Role::Follower(follower)) = (turn.log.as_ref()?, &turn.role) else { return None };
            if log.was_loaded_around_damage() && log.damaged().is_empty() {
                let is_free = follower.resigned().is_none();
                return is_free.then(|| (follower.epoch(), Mend::Load(follower.local_end())));
            }
            let from = damage(log, follower.log_start())?;
            if turn.is_eligible || turn.foreign != Some(from) || follower.resigned().is_some() {
                return None;
            }
            mark!("a follower gives up its damaged log and what lies behind");
            tracing::warn!(partition = self.name(), %from, "damaged: fetched again from the leader");
            Some((follower.epoch(), Mend::Cut(from)))
        })
    }

    /// Puts the leader's batches back where ours are damaged, from `from` on.
    pub(super) async fn patch(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        from: Offset,
        batches: Vec<VerifiedBatch>,
    ) {
        let one = self.start_moves.lock().await;
        let is_ours = self.with_turn(|turn| {
            let (Some(log), Role::Follower(follower)) = (turn.log.as_ref(), &turn.role) else { return false };
            let is_damaged = damage(log, follower.log_start()) == Some(from);
            is_damaged && follower.epoch() == epoch && follower.resigned().is_none()
        });
        if !is_ours {
            return;
        }
        match self.view.reader().patch(&batches).await {
            Ok(Patched::Whole(range)) => {
                mark!("a follower puts back what was damaged");
                tracing::info!(partition = self.name(), from = %range.from, to = %range.to, "damaged records are put back");
                self.shared.health.counts.mended_ranges.add(1);
                self.with_turn(|turn| turn.foreign = None);
            }
            Ok(Patched::Below(_) | Patched::Nothing) => self.with_turn(|turn| turn.foreign = None),
            Ok(Patched::Foreign) => self.with_turn(|turn| turn.foreign = Some(from)),
            Err(error) if is_failed_sync(&error) => {
                self.shared.health.fail(&format!("{}: {error}", self.name()));
                self.with_turn(|turn| turn.role.resign(Resigned::Offline, &mut turn.effects));
            }
            Err(error) => {
                tracing::warn!(partition = self.name(), %error, "damaged records could not be put back");
                drop(one);
                let until = self.shared.runtime.now().plus(REST);
                self.shared.runtime.sleep_until(until).await;
            }
        }
    }

    /// Damage was found: if this is a follower, its leader hears of it; a leader lets another lead, if one can, and mends
    /// its log as a follower.
    pub fn notice_damage(self: &Arc<Self>) {
        let leader = self.with_turn(|turn| turn.role.follower().map(|follower| follower.leader()));
        match leader {
            None => self.shared.hub.may_change(self.place()),
            Some(leader) => {
                if let Some(feed) = self.shared.hub.feed(leader) {
                    feed.change(self.place());
                }
            }
        }
    }

    /// Whether another replica may have what is damaged here: as far as a follower knows, its leader; and as a leader, another
    /// one in sync.
    pub fn may_be_had_elsewhere(self: &Arc<Self>) -> bool {
        self.with_turn(|turn| turn.role.leader().is_none_or(|leader| leader.isr().members().len() > 1))
    }

    /// A follower that is not in sync asked for what is damaged here: it can only get it from another leader.
    pub(super) fn starve(self: &Arc<Self>) {
        self.with_turn(|turn| turn.starves = true);
        self.notice_damage();
    }
}
