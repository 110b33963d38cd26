//! SHELL. Damaged records of a follower: put back from its leader's copy, or given up and fetched again.
//!
//! Owns: the order of the two ways. Promises: nothing is cut while the leader may still have what was written here, so that
//! what else this copy holds stays, whatever is found damaged on the leader (LOG-5); what is given up nobody counts on, and the
//! leader says so after it heard of the loss (what we know of the metadata may be old, and a proposal of the leader that counts
//! on us under way); a range is counted as mended when its records are here again.
//! Leaves out: what is damaged (`scrub`, reads), the proof that a copy is the right one (`dejaq_storage::patch`), whose word
//! counts meanwhile (`isr`). Called by `fetcher`, in the partition's turn or holding what moves its log.
//!
//! ```text
//!  damage ─► stand before it ─► the leader's batches ─► the same as ours were? ─ yes ► put back, loaded again
//!                                       └ damaged there, too: wait              └ no ► tell that it is lost
//!  leader: counts on us? ─ yes ► disown us: isr, elr and last known elr lose us ─► no, no more ─► let go ─► cut, fetch
//!             └ has a hole that begins behind ours: another leads, and we mend it first
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::disk::{is_failed_sync, is_want};
use dejaq_storage::{Disk, OffsetRange, Patched, VerifiedBatch, mark, mutant};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::replica::{News, Standing};

use super::follower::{Found, Heard};
use super::following::{Outcome, damage, holes, last_epoch};
use super::leader::{Event, Leader, Resigned};
use super::partition::{Partition, Turn};
use super::role::Role;
use crate::runtime::{Mono, Runtime};

/// A disk that refuses what is put back is asked again after this.
const REST: Duration = Duration::from_millis(1000);
/// So often; then the log is cut there.
const MOST_REFUSALS: u32 = 5;
/// A leader and a follower that wait for each other's records so long wait for ever.
const STALEMATE: Duration = Duration::from_secs(10);

/// How the mending of a partition stands, in its turn.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// Where our damage begins whose records this leader does not have as they were written here.
    foreign: Option<Offset>,
    /// The leader lets us cut there.
    let_go: Option<Offset>,
    /// How often the disk did not take what was put back.
    refusals: u32,
    /// Damaged ranges that were given up, and up to where what was visible went: when the log reaches there they are mended.
    given_up: Option<(u64, Offset)>,
    /// As a leader: since when a follower waits that may have what we lack, and whether that was told.
    stalemate: Option<(Mono, bool)>,
}

impl Mending {
    /// Of damage that begins there it is known that it cannot be put back.
    pub(super) fn is_foreign(&self, from: Offset) -> bool {
        // The planted bug M270: whatever the leader has, a damaged log is cut at its first hole.
        self.foreign == Some(from) || mutant!(270)
    }

    /// Another leader, or other damage: what was known of the last one does not hold.
    pub(super) fn begin(&mut self) {
        (self.foreign, self.let_go, self.refusals) = (None, None, 0);
    }

    /// The leader lets us cut there; whether that is new and of use.
    fn hear_let_go(&mut self, at: Offset) -> bool {
        self.is_foreign(at) && self.let_go.replace(at) != Some(at)
    }

    /// Whether damage that begins there may be cut away.
    fn may_cut(&self, from: Offset) -> bool {
        self.is_foreign(from) && self.let_go == Some(from)
    }

    /// What to do with what a leader has where our damage begins.
    pub(super) fn offered(&mut self, batches: Vec<VerifiedBatch>, heard: &Heard) -> Outcome {
        if !batches.is_empty() {
            return Outcome::Patch(heard.epoch, heard.at, batches);
        }
        if heard.found == Found::Agrees && heard.watermark > heard.at {
            return Outcome::Same; // only how far it is: what it has there comes by itself
        }
        self.foreign = Some(heard.at); // its log parts from ours there, or ends
        Outcome::Moved
    }

    /// The disk did not take what was put back; whether that is tried again. A cut frees the place, and what is fetched again
    /// lies elsewhere.
    fn refused(&mut self, from: Offset) -> bool {
        self.refusals += 1;
        if self.refusals >= MOST_REFUSALS {
            mark!("a disk does not take what is put back");
            self.foreign = Some(from);
        }
        self.refusals < MOST_REFUSALS
    }

    /// So many damaged ranges are cut away, of which what lies below `visible` may have been seen.
    pub(super) fn give_up(&mut self, ranges: u64, visible: Offset) {
        if ranges > 0 {
            let (before, to) = self.given_up.unwrap_or((0, visible));
            self.given_up = Some((before + ranges, to.max(visible)));
        }
    }

    /// The log ends there: how many ranges are mended by that.
    pub(super) fn reached(&mut self, end: Offset) -> u64 {
        self.given_up.take_if(|(_, to)| end >= *to).map_or(0, |(ranges, _)| ranges)
    }
}

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
    /// replica any more (LOG-5), as its leader said when it had heard of the damage.
    pub(super) fn mend(self: &Arc<Self>) -> Option<(LeaderEpoch, Mend)> {
        self.with_turn(|turn| {
            let (log, Role::Follower(follower)) = (turn.log.as_ref()?, &turn.role) else { return None };
            if log.was_loaded_around_damage() && log.damaged().is_empty() {
                let is_free = follower.resigned().is_none();
                return is_free.then(|| (follower.epoch(), Mend::Load(follower.local_end())));
            }
            let from = damage(log, follower.log_start())?;
            if turn.is_eligible || !turn.mending.may_cut(from) || follower.resigned().is_some() {
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
                self.with_turn(|turn| turn.mending.begin());
            }
            Ok(Patched::Below(_) | Patched::Nothing) => self.with_turn(|turn| turn.mending.begin()),
            Ok(Patched::Foreign) => self.with_turn(|turn| turn.mending.foreign = Some(from)),
            Err(error) if is_failed_sync(&error) => {
                self.shared.health.fail(&format!("{}: {error}", self.name()));
                self.with_turn(|turn| turn.role.resign(Resigned::Offline, &mut turn.effects));
            }
            Err(error) => {
                tracing::warn!(partition = self.name(), %error, "damaged records could not be put back");
                drop(one);
                // Room comes back; a place that cannot be written is given up in the end.
                if is_want(&error) || self.with_turn(|turn| turn.mending.refused(from)) {
                    let until = self.shared.runtime.now().plus(REST);
                    self.shared.runtime.sleep_until(until).await;
                }
            }
        }
    }

    /// The leader lets us cut our log.
    pub(super) fn hear_let_go(self: &Arc<Self>, leader: BrokerId, news: &News) -> Outcome {
        self.with_turn(|turn| {
            let (Some(log), Role::Follower(follower)) = (turn.log.as_ref(), &turn.role) else {
                return Outcome::Same;
            };
            let ours = damage(log, follower.log_start()).map(|from| (from, last_epoch(log, follower, from)));
            let is_it = (follower.leader(), follower.epoch()) == (leader, news.epoch)
                && ours == Some((news.at, news.last_epoch));
            // What we know of the metadata may be older than what the leader knows: then it wakes us when it comes.
            if is_it && turn.mending.hear_let_go(news.at) && !turn.is_eligible {
                return Outcome::Moved;
            }
            Outcome::Same
        })
    }

    /// As a leader: a follower told that it wants to cut its log, or tells so no more.
    pub(super) fn note_loss(
        &self,
        turn: &mut Turn<R::Disk>,
        broker: BrokerId,
        life: BrokerEpoch,
        at: &Standing,
    ) {
        let from = at.lost.then_some(at.end);
        let Role::Leader(leader) = &turn.role else { return };
        let is_ours = leader.epoch() == at.epoch && leader.resigned().is_none();
        if !is_ours || leader.isr().lost_from(broker) == from {
            return;
        }
        mark!("a leader hears that a follower lost records");
        turn.step(Event::FollowerLost { broker, life, from });
        self.shared.hub.may_change(self.place());
    }

    /// As a leader: whether a follower that stands there may cut its log; `None` if it is not known that it wants to.
    pub(super) fn lets_go(self: &Arc<Self>, broker: BrokerId, at: &Standing) -> Option<bool> {
        self.with_turn(|turn| {
            let Role::Leader(leader) = &turn.role else { return Some(false) };
            // Of who is no replica, as far as we know, nothing is noted, however often it tells: once it is one, it tells again.
            let is_replica = leader.isr().replicas().contains(&broker);
            if leader.epoch() != at.epoch || leader.resigned().is_some() || !is_replica {
                return Some(false);
            }
            let is_known = leader.isr().lost_from(broker) == Some(at.end);
            is_known.then(|| turn.lets_go(leader, broker))
        })
    }

    /// As a leader: tells once, loudly, where two copies are damaged so that neither can be put back from the other, and neither
    /// is cut, since it may have what the other lacks. Nothing changes by itself then, and a person must say what may go.
    pub(super) fn look_for_stalemate(&self, turn: &mut Turn<R::Disk>, holes: Option<OffsetRange>, now: Mono) {
        let Role::Leader(leader) = &turn.role else { return };
        let withheld = holes.and_then(|holes| Some((holes, leader.isr().withheld(holes)?)));
        let Some((holes, (follower, lacks_from))) = withheld else {
            turn.mending.stalemate = None;
            return;
        };
        let (since, is_told) = turn.mending.stalemate.get_or_insert((now, false));
        if *is_told || now.since(*since) < STALEMATE {
            return;
        }
        *is_told = true;
        tracing::error!(
            partition = self.name(), from = %holes.from, to = %holes.to, follower = follower.0, %lacks_from,
            "records from..to are damaged here, and those of the follower behind lacks_from: neither copy proves the other right \
             (damaged sums, or another layout), and neither is cut, since it may have what the other lacks. Let those below `to` go \
             (dejaq topic trim), or stop one of the two brokers and put the partition's files back from a backup"
        );
    }

    /// As a leader: who may be let go now is told so.
    pub(super) fn look_at_lost(&self, turn: &Turn<R::Disk>) {
        let Role::Leader(leader) = &turn.role else { return };
        let free: Vec<BrokerId> = leader.isr().waiting().filter(|one| turn.lets_go(leader, *one)).collect();
        if !free.is_empty() {
            self.shared.hub.appended(self.place(), free.into_iter());
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

impl<D: Disk> Turn<D> {
    /// Whether it was told that two copies wait for each other.
    pub(super) fn is_stalemate(&self) -> bool {
        self.mending.stalemate.is_some_and(|(_, is_told)| is_told)
    }

    fn lets_go(&self, leader: &Leader, broker: BrokerId) -> bool {
        let holes = self.log.as_ref().and_then(holes);
        self.log.is_some() && leader.isr().lets_go(broker, &self.eligible, holes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(found: Found, watermark: i64) -> Heard {
        let (epoch, watermark) = (LeaderEpoch(3), Offset(watermark));
        let (start, first) = (Offset(0), None);
        Heard { epoch, at: Offset(5), last_epoch: LeaderEpoch(2), watermark, start, first, found }
    }

    #[test]
    fn only_a_leader_that_has_nothing_there_has_shown_that_it_lacks_it() {
        let mut mending = Mending::default();
        assert!(matches!(mending.offered(Vec::new(), &heard(Found::Agrees, 9)), Outcome::Same));
        assert!(!mending.is_foreign(Offset(5)), "it only said how far it is");
        assert!(matches!(mending.offered(Vec::new(), &heard(Found::Agrees, 5)), Outcome::Moved));
        assert!(mending.is_foreign(Offset(5)) && !mending.is_foreign(Offset(6)));
        mending.begin();
        assert!(!mending.is_foreign(Offset(5)), "another leader may have it");
        assert!(matches!(mending.offered(Vec::new(), &heard(Found::Below(Offset(9)), 20)), Outcome::Moved));
        assert!(mending.is_foreign(Offset(5)));
    }

    #[test]
    fn a_log_is_cut_only_where_the_leader_lets_us_and_only_while_the_same_is_damaged() {
        let mut mending = Mending::default();
        assert!(!mending.hear_let_go(Offset(5)), "it may be put back yet");
        mending.offered(Vec::new(), &heard(Found::Agrees, 5));
        assert!(!mending.may_cut(Offset(5)), "somebody may count on it");
        assert!(mending.hear_let_go(Offset(5)) && mending.may_cut(Offset(5)));
        assert!(!mending.hear_let_go(Offset(5)), "it was told before");
        assert!(!mending.may_cut(Offset(4)), "more was found damaged: it is told anew");
        mending.begin();
        assert!(!mending.may_cut(Offset(5)), "another leader may not let us");
    }

    #[test]
    fn a_place_that_the_disk_refuses_is_given_up_in_the_end() {
        let mut mending = Mending::default();
        let tries = (1..).find(|_| !mending.refused(Offset(5)));
        assert_eq!(tries, Some(MOST_REFUSALS));
        assert!(mending.is_foreign(Offset(5)));
    }

    #[test]
    fn what_was_given_up_is_mended_when_it_is_here_again() {
        let mut mending = Mending::default();
        mending.give_up(0, Offset(50));
        assert_eq!(mending.reached(Offset(5)), 0, "nothing was damaged");
        mending.give_up(2, Offset(9));
        mending.give_up(1, Offset(7));
        assert_eq!((mending.reached(Offset(8)), mending.reached(Offset(9))), (0, 3));
        assert_eq!(mending.reached(Offset(20)), 0, "once");
        mending.give_up(1, Offset(3));
        assert_eq!(mending.reached(Offset(4)), 1, "nobody ever saw what lay behind");
    }
}
