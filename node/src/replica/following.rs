//! SHELL. A partition's part as a follower, and what it does as a leader about its followers.
//!
//! Owns: nothing; these are the partition's own steps, in its turn. Promises: a batch of a leader is appended only
//! whole, checked, where it follows, and never of a later epoch than was asked for (S10); a cut is durable before the
//! position is told again (LOG-4); a follower's word counts only where its log agrees with ours (REP-6, REP-11).
//! Leaves out: rules (`follower`, `isr`), talking (`fetcher`, `serve`).
//!
//! ```text
//!  fetcher: standing ─► (leader) ─► hear ─► take │ cut │ restart        serve: report ─► isr ─► watermark ─► acks
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::{
    AppendError, Disk, EpochEnd, Log, LogReader, OffsetRange, TruncateError, Truncation, VerifiedBatch, mark,
    mutant,
};
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::replica::{Found, News, Standing, Why};
use dejaq_wire::record::BatchHeader;

use super::directory::Replication;
use super::follower::{self, Follower, Heard, Next};
use super::isr::{Lives, Proposal, Report};
use super::leader::{Event, Resigned};
use super::partition::{Partition, Turn};
use super::role::Role;
use crate::runtime::{Mono, Runtime};

/// When a leader says that it does not lead in our epoch, the metadata will tell soon.
const REST_EPOCH: Duration = Duration::from_millis(50);
/// What cannot be read there, or written here, is tried again after this.
const REST_TROUBLE: Duration = Duration::from_millis(1000);
/// Cuts are tried so often while a sync runs; each try waits for it.
const CUT_TRIES: usize = 100;

/// What became of an answer.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The position is where it was.
    Same,
    /// The position moved: tell it.
    Moved,
    /// Cut the log, in this epoch, at this offset.
    Cut(LeaderEpoch, Offset),
    /// Put these batches back where ours are damaged, from this offset on; in this epoch.
    Patch(LeaderEpoch, Offset, Vec<VerifiedBatch>),
    /// Move the start there, where the leader has it: what is damaged goes with what lies below.
    Start(Offset),
    /// Give the log up and begin another there.
    Restart(Offset),
    /// Leave it alone for a while.
    Rest(Duration),
}

/// What a position is worth against a leader's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Against {
    /// The logs agree up to the position.
    Agrees,
    /// They part.
    Diverged(EpochEnd),
    /// It lies before the log's start, and no epoch that is known tells the logs apart. The start may lie inside of a batch,
    /// which is served to who stands where it begins.
    Before,
    /// It lies before the log in another one, or beyond its end without any record to compare.
    Outside,
}

/// Compares a follower's position with a leader's log (KIP-101, KIP-595).
pub(super) fn compare<D: Disk>(reader: &LogReader<D>, at: &Standing) -> Against {
    let lineage = compare_lineage(reader, at);
    if at.end >= reader.start() {
        return lineage;
    }
    if lineage == Against::Agrees && !mutant!(272) { Against::Before } else { Against::Outside }
}

fn compare_lineage<D: Disk>(reader: &LogReader<D>, at: &Standing) -> Against {
    if !at.last_epoch.is_valid() {
        return if at.end <= reader.end() { Against::Agrees } else { Against::Outside };
    }
    let ours = reader.end_offset_for_epoch(at.last_epoch);
    if !ours.epoch.is_valid() {
        return Against::Outside; // a later epoch than we know: not in an epoch that we lead
    }
    // The planted bug M320: an epoch that we never saw is as good as ours, up to the end of our log.
    let is_blind = mutant!(320) && ours.epoch < at.last_epoch && at.end <= reader.end();
    if (ours.epoch == at.last_epoch && ours.end >= at.end) || is_blind {
        return Against::Agrees;
    }
    Against::Diverged(ours)
}

/// As a follower.
impl<R: Runtime> Partition<R> {
    /// Where it stands, if it follows `leader`.
    pub(super) fn standing(self: &Arc<Self>, leader: BrokerId) -> Option<Standing> {
        self.with_turn(|turn| {
            let (log, Role::Follower(follower)) = (turn.log.as_ref()?, &turn.role) else { return None };
            if follower.leader() != leader || follower.resigned().is_some() {
                return None;
            }
            // What lies behind damage is not ours until the damage is mended: we tell that we have lost it.
            let damage = damage(log, follower.log_start());
            let end = damage.map_or(follower.local_end(), |from| from.min(follower.local_end()));
            let last_epoch = last_epoch(log, follower, end);
            let durable = follower.flushed_end().min(end);
            let lost = damage.is_some_and(|from| turn.mending.is_foreign(from));
            Some(Standing { place: self.place(), epoch: follower.epoch(), end, last_epoch, durable, lost })
        })
    }

    /// Whether it is a replica that only comes.
    pub(super) fn is_coming(self: &Arc<Self>) -> bool {
        self.with_turn(|turn| turn.is_coming)
    }

    /// Visible records that it lacks as a follower, as far as its leader told; 0 if it leads.
    pub fn lag(self: &Arc<Self>) -> i64 {
        self.with_turn(|turn| turn.role.follower().map_or(0, |follower| follower.lag()))
    }

    /// Offsets that are damaged here.
    pub fn damaged(&self) -> Vec<dejaq_storage::OffsetRange> {
        self.view.reader().damaged()
    }

    /// The batches of an answer, if it is one about the log.
    fn batches(self: &Arc<Self>, leader: BrokerId, news: &News) -> Result<Vec<VerifiedBatch>, Outcome> {
        match &news.found {
            Found::LetGo => Err(self.hear_let_go(leader, news)),
            Found::Batches(bytes) => split(bytes.clone(), news.epoch).map_err(|why| {
                mark!("a follower refuses what its leader sent");
                tracing::error!(partition = self.name(), leader = leader.0, why, "not appended");
                Outcome::Rest(REST_TROUBLE)
            }),
            Found::Refused(Why::NotLeader | Why::FencedEpoch | Why::UnknownEpoch) => {
                Err(Outcome::Rest(REST_EPOCH))
            }
            Found::Refused(Why::Unreadable) => Err(Outcome::Rest(REST_TROUBLE)),
            Found::Diverged { epoch, end } if !epoch.is_valid() || !end.is_valid() => {
                Err(Outcome::Rest(REST_TROUBLE))
            }
            Found::Diverged { .. } | Found::Below { .. } => Ok(Vec::new()),
        }
    }

    /// Takes an answer of `leader`; also the start to move to, if the leader's moved.
    pub(super) fn hear(self: &Arc<Self>, leader: BrokerId, news: News) -> (Outcome, Option<Offset>) {
        let batches = match self.batches(leader, &news) {
            Ok(batches) => batches,
            Err(outcome) => return (outcome, None),
        };
        let now_ms = self.shared.runtime.unix_ms();
        self.with_turn(|turn| {
            let (Some(log), Role::Follower(follower)) = (turn.log.as_mut(), &mut turn.role) else {
                return (Outcome::Same, None);
            };
            if follower.leader() != leader {
                return (Outcome::Same, None);
            }
            let heard = heard(&news, &batches, log);
            let damage = damage(log, follower.log_start()).map(|from| from.min(follower.local_end()));
            let end = damage.unwrap_or(follower.local_end());
            let last_epoch = last_epoch(log, follower, end);
            // Where the logs part before the damage, all of it goes with the cut, as it would if it were whole.
            if let Some(from) = damage
                && !matches!(heard.found, follower::Found::Diverged { .. })
            {
                let is_it = (heard.epoch, heard.at, heard.last_epoch) == (follower.epoch(), from, last_epoch);
                if !is_it || turn.mending.is_foreign(from) {
                    return (Outcome::Same, None);
                }
                let start = follower.leave_below(&heard).map(Outcome::Start);
                return (start.unwrap_or_else(|| turn.mending.offered(batches, &heard)), None);
            }
            match follower.judge_at(&heard, end, last_epoch) {
                Next::Ignore => (Outcome::Same, None),
                Next::Cut(to) => {
                    if mutant!(9) {
                        follower.learn_early(news.watermark, &mut turn.effects);
                    }
                    (Outcome::Cut(news.epoch, to), None)
                }
                Next::Restart(base) => (Outcome::Restart(base), None),
                Next::Take => {
                    let outcome = match append(log, follower, &batches, now_ms, &mut turn.effects) {
                        Ok(()) if batches.is_empty() => Outcome::Same,
                        Ok(()) => Outcome::Moved,
                        Err(error @ (AppendError::Io(_) | AppendError::Sealed)) => {
                            self.shared.health.fail(&format!("{}: {error}", self.name()));
                            turn.role.resign(Resigned::Offline, &mut turn.effects);
                            return (Outcome::Same, None);
                        }
                        Err(error) => {
                            tracing::warn!(partition = self.name(), %error, "a leader's batch is not appended");
                            Outcome::Rest(REST_TROUBLE)
                        }
                    };
                    let start = follower.learn(news.watermark, news.start, &mut turn.effects);
                    self.shared.health.counts.mended_ranges.add(turn.mending.reached(follower.local_end()));
                    (outcome, start)
                }
            }
        })
    }

    /// Cuts the log at `to`, durably, if it still follows in `epoch`. Not cancel safe.
    pub(super) async fn cut(self: &Arc<Self>, epoch: LeaderEpoch, to: Offset) {
        let one = self.start_moves.lock().await;
        tracing::info!(partition = self.name(), %to, "cut: the leader's log parts here");
        let may =
            |follower: &Follower, _: &Log<R::Disk>| follower.epoch() == epoch && to < follower.local_end();
        let found_room = self.cut_in_turn(may, to).await;
        drop(one);
        if !found_room {
            tracing::warn!(partition = self.name(), %to, "no room to cut the log: it is tried again");
            let until = self.shared.runtime.now().plus(REST_TROUBLE);
            self.shared.runtime.sleep_until(until).await;
        }
    }

    /// Reads a log that was read back around damage back as a start does, now that it is whole, and cuts nothing.
    pub(super) async fn load_again(self: &Arc<Self>, epoch: LeaderEpoch, end: Offset) {
        let one = self.start_moves.lock().await;
        let may = |follower: &Follower, log: &Log<R::Disk>| {
            let is_whole = log.was_loaded_around_damage() && log.damaged().is_empty();
            is_whole && follower.epoch() == epoch && end == follower.local_end()
        };
        self.cut_in_turn(may, end).await;
        drop(one);
        let is_owed = |turn: &mut Turn<R::Disk>| turn.log.as_ref().is_some_and(Log::was_loaded_around_damage);
        if self.with_turn(is_owed) {
            let until = self.shared.runtime.now().plus(REST_TROUBLE); // no room, or no moment between syncs
            self.shared.runtime.sleep_until(until).await;
        }
    }

    /// Returns whether there was room for it; without it is asked for again, and that only after a pause.
    async fn cut_in_turn(
        self: &Arc<Self>,
        may: impl Fn(&Follower, &Log<R::Disk>) -> bool,
        to: Offset,
    ) -> bool {
        for _ in 0..CUT_TRIES {
            match self.begin_cut(&may, to) {
                Ok(None) => return true,
                Ok(Some(truncation)) => {
                    let done = truncation.run().await;
                    self.with_turn(|turn| {
                        let (Some(log), Role::Follower(follower)) = (turn.log.as_mut(), &mut turn.role)
                        else {
                            panic!("the role and the log stay while the log is cut");
                        };
                        match log.end_truncate(done) {
                            Ok(end) => {
                                follower.cut(end, &mut turn.effects);
                                turn.mending.begin();
                                if log.owes_marker() {
                                    self.shared.flusher.mark_soon(self);
                                }
                            }
                            Err(sealed) => {
                                self.shared.health.fail(&format!("{}: {sealed}", self.name()));
                                turn.role.resign(Resigned::Offline, &mut turn.effects);
                            }
                        }
                    });
                    return true;
                }
                Err(TruncateError::Busy) => {
                    mark!("a cut waits for a sync");
                    self.shared.flusher.settled().await;
                }
                Err(TruncateError::Full) => return false,
                Err(TruncateError::BelowStart { .. }) => return true, // asked for again
                Err(TruncateError::Sealed(sealed)) => {
                    self.shared.health.fail(&format!("{}: {sealed}", self.name()));
                    return true;
                }
            }
        }
        tracing::warn!(partition = self.name(), "a cut found no moment between syncs: it is asked for again");
        true
    }

    fn begin_cut(
        self: &Arc<Self>,
        may: &impl Fn(&Follower, &Log<R::Disk>) -> bool,
        to: Offset,
    ) -> Result<Option<Truncation<R::Disk>>, TruncateError> {
        self.with_turn(|turn| {
            let (Some(log), Role::Follower(follower)) = (turn.log.as_mut(), &mut turn.role) else {
                return Ok(None);
            };
            if !may(follower, log) || follower.resigned().is_some() {
                return Ok(None);
            }
            let given_up = log.damaged().iter().filter(|range| range.to > to).count() as u64;
            let truncation = log.begin_truncate(to)?;
            // Right after a start it does not know what was visible: all that was durable may have been.
            let knows = follower.watermark() > follower.log_start();
            let visible = if knows { follower.watermark() } else { follower.flushed_end() };
            turn.mending.give_up(given_up, visible);
            self.shared.health.counts.mended_ranges.add(turn.mending.reached(to)); // at once what nobody ever saw
            follower.cutting(to, &mut turn.effects);
            Ok(Some(truncation))
        })
    }

    /// Whether its start is still to move there, because its leader's is there.
    pub(super) fn wants_start(self: &Arc<Self>, to: Offset) -> bool {
        self.with_turn(|turn| {
            let follower = turn.role.follower().filter(|follower| follower.resigned().is_none());
            follower.is_some_and(|follower| follower.wanted_start() == to && follower.log_start() < to)
        })
    }

    /// Whether it follows somebody, or would.
    pub(super) fn is_following(self: &Arc<Self>) -> bool {
        self.with_turn(|turn| turn.role.follower().is_some_and(|follower| follower.resigned().is_none()))
    }
}

/// As a leader.
impl<R: Runtime> Partition<R> {
    /// Counts how far a follower is, in this life of it, if its log agrees with ours.
    pub(super) fn report(self: &Arc<Self>, follower: BrokerId, life: BrokerEpoch, at: &Standing, now: Mono) {
        self.with_turn(|turn| {
            let (Some(log), Role::Leader(leader)) = (turn.log.as_ref(), &turn.role) else { return };
            // The planted bug M04 counts a fetch of an earlier epoch, whatever its log is.
            let is_bug = mutant!(4) && at.epoch < leader.epoch();
            let agrees = compare(&log.reader(), at) == Against::Agrees || is_bug;
            let counts = leader.resigned().is_none() && at.end <= leader.local_end() && agrees;
            self.note_loss(turn, follower, life, at);
            if !counts {
                return;
            }
            let report = Report { epoch: at.epoch, life, fetched: at.end, durable: at.durable };
            turn.step(Event::FollowerAt { broker: follower, report, moves_on: false, now });
            let Role::Leader(leader) = &turn.role else { return };
            let may_grow = leader.isr().members().len() < leader.isr().replicas().len()
                && leader.wants_to_grow(&self.shared.hub.live());
            if may_grow || leader.is_broken() {
                self.shared.hub.may_change(self.place());
            }
        });
    }

    /// Whether we lead, and this replica's position in our epoch is not known to us.
    pub(super) fn has_not_heard(self: &Arc<Self>, follower: BrokerId) -> bool {
        self.with_turn(|turn| turn.role.leader().is_some_and(|leader| !leader.isr().has_heard(follower)))
    }

    /// The follower that a reader should ask instead of us: one of those that `is_near`, in sync, and with everything up
    /// to `offset` (KIP-392). The one that has most, and of equals the first.
    pub fn nearer(self: &Arc<Self>, offset: Offset, is_near: impl Fn(BrokerId) -> bool) -> Option<BrokerId> {
        self.with_turn(|turn| {
            let isr = turn.role.leader()?.isr();
            let fit = |(broker, end): &(BrokerId, Offset)| {
                isr.members().contains(broker) && *end >= offset && is_near(*broker)
            };
            let best =
                isr.fetched().filter(fit).max_by_key(|(broker, end)| (*end, std::cmp::Reverse(*broker)));
            best.map(|(broker, _)| broker)
        })
    }

    /// Adds what is to be said of it to `seen`.
    pub(super) fn count_replication(self: &Arc<Self>, seen: &mut Replication) {
        seen.damaged += u64::from(!self.damaged().is_empty());
        self.with_turn(|turn| {
            let Role::Leader(leader) = &turn.role else {
                seen.followed += 1;
                return;
            };
            let isr = leader.isr();
            seen.led += 1;
            seen.stalemates += u64::from(turn.is_stalemate());
            seen.epochs += u64::try_from(leader.epoch().0).unwrap_or(0);
            // A replica that only comes is no copy that is missing.
            seen.under_replicated += u64::from(isr.members().len() + turn.coming < isr.replicas().len());
            seen.under_min_insync += u64::from(!isr.is_enough(leader.policy().min_insync));
            let lag = isr.fetched().map(|(_, end)| leader.local_end().since(end)).max().unwrap_or(0);
            seen.lag = seen.lag.max(lag.unsigned_abs());
        });
    }

    /// What a follower told does not count any more: it begins anew.
    pub(super) fn follower_gone(self: &Arc<Self>, follower: BrokerId) {
        self.with_turn(|turn| turn.step(Event::FollowerGone { broker: follower }));
    }

    /// Brokers began new lives.
    pub(super) fn see_lives(self: &Arc<Self>) {
        let live = self.shared.hub.live();
        self.with_turn(|turn| {
            let has_followers = turn.role.leader().is_some_and(|leader| leader.isr().replicas().len() > 1);
            if has_followers {
                turn.step(Event::Lives((*live).clone()));
            }
        });
    }

    /// The in-sync set to propose now, if another is called for.
    pub(super) fn propose(self: &Arc<Self>, now: Mono, lag: Duration, lives: &Lives) -> Option<Proposal> {
        self.with_turn(|turn| {
            // What was made of a log that was read back around damage is made again by a follower only.
            let holes = turn.log.as_ref().and_then(holes);
            self.look_at_lost(turn);
            self.look_for_stalemate(turn, holes, now);
            let (starves, eligible) = (turn.starves, &turn.eligible);
            let leader = turn.role.leader()?;
            let handed_over = holes.and_then(|holes| leader.hand_over(lives, starves, holes));
            let proposed = handed_over.or_else(|| leader.propose(now, lag, lives, holes));
            // Who has a hole of its own lets nobody cut a log that may have what it lacks.
            let disowned = proposed.or_else(|| leader.disown(eligible, lives, holes));
            disowned.or_else(|| holes.and_then(|holes| leader.give_up(starves, eligible, holes)))
        })
    }

    /// What became of a proposal: not known, or refused.
    pub(super) fn proposal_failed(self: &Arc<Self>, proposal: &Proposal, is_sure: bool, now: Mono) {
        let partition_epoch = proposal.partition_epoch;
        self.with_turn(|turn| {
            if turn.role.epoch() == proposal.leader_epoch {
                turn.step(match is_sure {
                    true => Event::ProposalRefused { partition_epoch, now },
                    false => Event::ProposalUnsure { partition_epoch, now },
                });
            }
        });
    }
}

/// Epoch of the last record before `end`, which with it names the log.
pub(super) fn last_epoch<D: Disk>(log: &Log<D>, follower: &Follower, end: Offset) -> LeaderEpoch {
    if mutant!(5) {
        return follower.epoch(); // the planted bug: whatever it has, it takes for its leader's, and is never asked to cut
    }
    let last = (end > follower.log_start()).then(|| log.reader().epoch_at(end.previous())).flatten();
    last.unwrap_or(LeaderEpoch::NONE)
}

/// Where damage begins, if there is any.
pub(super) fn damage<D: Disk>(log: &Log<D>, start: Offset) -> Option<Offset> {
    let from = log.damaged().iter().filter(|range| range.to > start).map(|range| range.from).min()?;
    Some(from.max(start))
}

/// In what range a leader's log is damaged; an empty one if it is whole, and only what was made of it may lack something.
pub(super) fn holes<D: Disk>(log: &Log<D>) -> Option<OffsetRange> {
    let owes_load = || log.was_loaded_around_damage().then(|| log.start());
    let from = damage(log, log.start()).or_else(owes_load)?;
    let to = log.damaged().iter().map(|range| range.to).max().unwrap_or(from);
    Some(OffsetRange { from, to: to.max(from) })
}

fn heard<D: Disk>(news: &News, batches: &[VerifiedBatch], log: &Log<D>) -> Heard {
    let found = match &news.found {
        Found::Diverged { epoch, end } => follower::Found::Diverged {
            theirs: EpochEnd { epoch: *epoch, end: *end },
            ours: log.reader().end_offset_for_epoch(*epoch),
        },
        Found::Below { base } => follower::Found::Below(*base),
        Found::Batches(_) | Found::Refused(_) | Found::LetGo => follower::Found::Agrees,
    };
    let News { epoch, at, last_epoch, watermark, start, .. } = *news;
    let first = batches.first().map(|batch| batch.header().base_offset);
    Heard { epoch, at, last_epoch, watermark, start, first, found }
}

/// Appends what a leader sent; part of it may be in when that fails.
fn append<D: Disk>(
    log: &mut Log<D>,
    follower: &mut Follower,
    batches: &[VerifiedBatch],
    now_ms: i64,
    effects: &mut Vec<super::leader::Effect>,
) -> Result<(), AppendError> {
    if batches.is_empty() {
        return Ok(());
    }
    let result = log.append_follower(batches, now_ms);
    let end = log.end();
    if end > follower.local_end() {
        let is_in = |batch: &&VerifiedBatch| batch.header().base_offset < end;
        let bytes = batches.iter().take_while(is_in).map(|batch| batch.bytes().len() as u64).sum();
        follower.appended(end, bytes, effects);
    }
    result.map(drop)
}

/// The batches of an answer, each checked: whole, its CRC right, of no later epoch than was asked for.
fn split(mut bytes: bytes::Bytes, epoch: LeaderEpoch) -> Result<Vec<VerifiedBatch>, String> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(&bytes).map_err(|error| error.to_string())?;
        if header.batch_bytes() > bytes.len() {
            return Err(format!("a batch of {} bytes, {} are there", header.batch_bytes(), bytes.len()));
        }
        let batch =
            VerifiedBatch::verify(bytes.split_to(header.batch_bytes())).map_err(|error| error.to_string())?;
        let of = batch.header().leader_epoch;
        // The planted bug M284: it is not asked of which epoch a batch is; its other half is the leader's.
        if (of > epoch && !mutant!(284)) || !of.is_valid() {
            return Err(format!("a batch of epoch {of}, asked for in {epoch}"));
        }
        batches.push(batch);
    }
    Ok(batches)
}
