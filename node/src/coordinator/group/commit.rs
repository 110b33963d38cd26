//! Commits, and how offsets go: by request, by time, with their topic, with their group.
//!
//! Promises: a commit of a generation that is over, of a member that is out or of one that was replaced changes nothing
//! (GRP-4); offsets go by time only where nobody can still want them (GRP-10).

use std::sync::Arc;

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::ProducerId;

use super::ask::{CommitAsk, Now, Reply, Token, TxnCommitAsk};
use super::classic::{Group, State};
use super::offsets::Place;
use super::settings::Settings;
use super::subscription;
use super::turn::{After, Turn};
use crate::coordinator::record::{At, Committed, Record};

/// What a commit writes, what is told of it, and what is kept.
type Taken = (Vec<Record>, Vec<(At, ErrorCode)>, Vec<(At, Committed)>);

impl Group {
    /// Takes a commit.
    pub(super) fn commit(&mut self, token: Token, ask: CommitAsk, turn: &mut Turn<'_>) {
        if let Some((records, results, offsets)) = self.take(token, ask, false, turn) {
            self.write(records, After::Commit { token, results, offsets }, turn);
        }
    }

    /// Takes a commit that counts when a transaction is committed.
    pub(super) fn commit_in_txn(&mut self, token: Token, ask: TxnCommitAsk, turn: &mut Turn<'_>) {
        let TxnCommitAsk { who, guard, commit } = ask;
        if let Some((records, results, offsets)) = self.take(token, commit, true, turn) {
            let producer = who.producer_id;
            self.writing += 1;
            let after = After::Pending { token, results, offsets, producer };
            turn.write_in_txn(&self.id, records, (who, guard), after);
        }
    }

    /// What is to be written of a commit; answers it if nothing is.
    fn take(&mut self, token: Token, ask: CommitAsk, in_txn: bool, turn: &mut Turn<'_>) -> Option<Taken> {
        if let Err(code) = self.may_commit(&ask, in_txn)
            && !mutant!(42)
        {
            let results = ask.offsets.into_iter().map(|(at, _)| (at, code)).collect();
            turn.reply(token, Reply::Partitions(results));
            return None;
        }
        self.touch(&ask.member, turn);
        let limit = turn.settings.max_metadata_bytes;
        let mut results = Vec::with_capacity(ask.offsets.len());
        let mut offsets = Vec::new();
        for (at, committed) in ask.offsets {
            let code = match committed.metadata.len() {
                long if long > limit => ErrorCode::OFFSET_METADATA_TOO_LARGE,
                _ => ErrorCode::NONE,
            };
            results.push((at.clone(), code));
            if code.is_none() {
                offsets.push((at, committed));
            }
        }
        if offsets.is_empty() {
            turn.reply(token, Reply::Partitions(results));
            return None;
        }
        let mut records = Vec::with_capacity(offsets.len());
        for (at, committed) in &offsets {
            self.offsets.comes(at);
            records.push(self.offset_record(at, Some(committed.clone())));
        }
        Some((records, results, offsets))
    }

    fn may_commit(&self, ask: &CommitAsk, in_txn: bool) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        if in_txn && mutant!(260) {
            return Ok(()); // the planted bug: it is left to the transactional id to fence, which each member has its own of
        }
        if let Some(consumer) = &self.consumer {
            let stale = |code| match code {
                // Clients know only this one in a transaction, and abort (KIP-848).
                ErrorCode::STALE_MEMBER_EPOCH if in_txn => ErrorCode::ILLEGAL_GENERATION,
                code => code,
            };
            return consumer.may_commit(ask).map_err(stale);
        }
        let is_nobody = !ask.generation.is_valid() && ask.member.is_empty() && ask.instance.is_none();
        if self.members.is_empty() && (is_nobody || !ask.generation.is_valid()) {
            return Ok(()); // a consumer that assigns by itself, or an operator
        }
        if is_nobody && in_txn {
            return Ok(()); // a client of before KIP-447: its transactional id fences it
        }
        if is_nobody {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID); // only members commit while there are any
        }
        self.check_member(&ask.member, ask.instance.as_deref())?;
        if ask.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        match self.state {
            // The member has joined the next generation, and does not know yet what it owns.
            State::Completing { .. } if !in_txn => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::Completing { .. } | State::Preparing(_) | State::Stable | State::Empty | State::Dead => {
                Ok(())
            }
        }
    }

    pub(super) fn offset_record(&self, at: &At, value: Option<Committed>) -> Record {
        Record::Offset { group: self.id.clone(), at: at.clone(), value }
    }

    /// The write of a commit ended, which stands at `place`; in the transaction of `producer`, if there is one.
    pub(super) fn committed(
        &mut self,
        (token, results): (Token, Vec<(At, ErrorCode)>),
        (offsets, producer, place): (Vec<(At, Committed)>, Option<ProducerId>, Place),
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        for (at, committed) in offsets {
            self.offsets.came(&at);
            match (result, producer) {
                (Ok(()), None) => self.offsets.keep(at, committed, place),
                (Ok(()), Some(producer)) => self.offsets.pend(producer, at, committed, place),
                (Err(_), _) => {}
            }
        }
        let failed = result.err();
        let told = results.into_iter().map(|(at, code)| match failed {
            Some(failed) if code.is_none() => (at, failed),
            Some(_) | None => (at, code),
        });
        turn.reply(token, Reply::Partitions(told.collect()));
    }

    /// Takes an OffsetDelete.
    pub(super) fn forget(&mut self, token: Token, wanted: Vec<At>, turn: &mut Turn<'_>) {
        if self.state == State::Dead {
            return turn.reply(token, Reply::Refused(ErrorCode::GROUP_ID_NOT_FOUND));
        }
        let has_members = self.size() > 0;
        if has_members && self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return turn.reply(token, Reply::Refused(ErrorCode::NON_EMPTY_GROUP));
        }
        let is_read = |at: &At| has_members && self.may_read(&at.topic);
        let judge = |at: At| {
            let code = if is_read(&at) { ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC } else { ErrorCode::NONE };
            (at, code)
        };
        let results: Vec<(At, ErrorCode)> = wanted.into_iter().map(judge).collect();
        let offsets: Vec<At> = results
            .iter()
            .filter(|(at, code)| code.is_none() && self.offsets.get(at).is_some())
            .map(|(at, _)| at.clone())
            .collect();
        self.write_forgotten(offsets, Some((token, Reply::Partitions(results))), turn);
    }

    /// Whether a member may read this topic; every topic if that is not known.
    fn may_read(&self, topic: &str) -> bool {
        match &self.consumer {
            Some(consumer) => !consumer.has_looked() || consumer.subscribed.contains(topic),
            None => self.subscribed.as_ref().is_none_or(|topics| topics.contains(topic)),
        }
    }

    /// Writes that offsets are gone, and then tells; tells at once if there is nothing to write.
    pub(super) fn write_forgotten(
        &mut self,
        offsets: Vec<At>,
        told: Option<(Token, Reply)>,
        turn: &mut Turn<'_>,
    ) {
        if offsets.is_empty() {
            if let Some((token, reply)) = told {
                turn.reply(token, reply);
            }
            return;
        }
        let records = offsets.iter().map(|at| self.offset_record(at, None)).collect();
        self.write(records, After::Forgotten { offsets, told }, turn);
    }

    /// The write of a deletion of offsets ended.
    pub(super) fn forgotten(
        &mut self,
        offsets: Vec<At>,
        told: Option<(Token, Reply)>,
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        if result.is_ok() {
            offsets.iter().for_each(|at| self.offsets.forget(at));
        }
        match (told, result) {
            (Some((token, reply)), Ok(())) => turn.reply(token, reply),
            (Some((token, _)), Err(code)) => turn.reply(token, Reply::Refused(code)),
            (None, _) => {}
        }
    }

    /// Takes a DeleteGroups: everything of the group goes, in one write.
    pub(super) fn delete(&mut self, token: Option<Token>, turn: &mut Turn<'_>) {
        let code = match self.state {
            State::Empty if self.promised.is_empty() && self.size() == 0 => ErrorCode::NONE,
            State::Dead => ErrorCode::GROUP_ID_NOT_FOUND,
            State::Empty | State::Preparing(_) | State::Completing { .. } | State::Stable => {
                ErrorCode::NON_EMPTY_GROUP
            }
        };
        if code.is_error() {
            if let Some(token) = token {
                turn.reply(token, Reply::Code(code));
            }
            return;
        }
        // What is being committed is deleted, too: this write comes behind it.
        let mut records: Vec<Record> =
            self.offsets.known().iter().map(|at| self.offset_record(at, None)).collect();
        records.push(Record::Group { group: self.id.clone(), value: None });
        if self.is_consumer() {
            records.extend(self.take_consumer_keys());
        }
        self.state = State::Dead;
        self.write(records, After::Deleted { token }, turn);
    }

    /// Forgets what is old and what nobody can still want, and an empty group with the last of it.
    pub(super) fn sweep(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::Dead {
            return;
        }
        let expired: Vec<At> = self
            .offsets
            .iter()
            .filter(|(at, committed)| {
                !self.offsets.is_coming(at)
                    && !self.offsets.is_pending(at)
                    && self.is_expired(at, committed, turn.now, turn.settings)
            })
            .map(|(at, _)| at.clone())
            .collect();
        let goes = self.state == State::Empty
            && self.size() == 0
            && self.promised.is_empty()
            && expired.len() == self.offsets.known().len();
        if goes {
            mark!("an empty group goes with its last offset");
            self.delete(None, turn);
        } else {
            self.write_forgotten(expired, None, turn);
        }
    }

    /// Whether an offset may go by now.
    fn is_expired(&self, at: &At, committed: &Committed, now: Now, settings: &Settings) -> bool {
        let old = |since_ms: i64| {
            let age_ms = u128::try_from(now.unix_ms.saturating_sub(since_ms)).unwrap_or(0);
            age_ms >= settings.retention.as_millis()
        };
        if let Some(expires_ms) = committed.expires_ms {
            return self.size() == 0 && now.unix_ms >= expires_ms;
        }
        if mutant!(46) {
            return old(committed.committed_ms); // whatever the group does
        }
        if self.is_consumer() && self.size() > 0 {
            return !self.may_read(&at.topic) && old(committed.committed_ms);
        }
        match (&self.state, &self.protocol_type) {
            // Nobody ever joined: only commits tell that it is used.
            (State::Empty, None) => old(committed.committed_ms),
            // Since it became empty; a commit of an operator counts, too.
            (State::Empty, Some(_)) => old(self.since_ms.unwrap_or(0).max(committed.committed_ms)),
            (State::Stable, Some(_)) => match &self.subscribed {
                Some(topics) => !topics.contains(&*at.topic) && old(committed.committed_ms),
                None => false,
            },
            (State::Stable | State::Preparing(_) | State::Completing { .. } | State::Dead, _) => false,
        }
    }

    /// Forgets offsets of topics that are gone.
    pub(super) fn topics_deleted(&mut self, topics: &[Arc<str>], turn: &mut Turn<'_>) {
        if self.state == State::Dead {
            return;
        }
        let gone: Vec<At> =
            self.offsets.known().into_iter().filter(|at| topics.contains(&at.topic)).collect();
        self.write_forgotten(gone, None, turn);
    }
}
