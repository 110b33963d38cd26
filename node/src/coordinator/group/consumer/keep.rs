//! What a group of KIP-848 writes, and who is told when it is written.
//!
//! Owns: [`Key`], [`Keep`]. Promises: the log holds the group as it stood at one moment, always: one write at a time,
//! with everything that changed since the last; a reply leaves when what it speaks of is written; a write that failed
//! is repeated with the next, or after a pause, and whoever waited is told to come again.
//!
//! ```text
//!  step ─► dirty keys ─┬─ nothing in flight ─► write all of them ─► replies
//!                      └─ one in flight ─► wait for it; then one write for all that came meanwhile
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;

use super::super::ask::{Reply, Ticket, Token};
use super::super::classic::{Group, State, refused_join, refused_sync};
use super::super::turn::{After, Turn};
use super::heartbeat::refused;
use super::member::Member;
use crate::coordinator::consumer_record::{ConsumerRecord, StoredEpoch};
use crate::coordinator::record::Record;
use crate::runtime::Mono;

/// How long a write that failed waits to be repeated when nothing else asks for one.
const RETRY: Duration = Duration::from_secs(1);

/// Names one record of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The record of the classic protocol.
    Classic,
    /// What a member said.
    Member(Arc<str>),
    /// The group's epoch.
    Epoch,
    /// What a member shall own.
    Target(Arc<str>),
    /// The plan's epoch.
    TargetEpoch,
    /// What a member owns.
    Current(Arc<str>),
}

impl Key {
    /// The record that takes it away, if it is one of the new protocol's.
    #[must_use]
    pub fn gone(&self) -> Option<ConsumerRecord> {
        Some(match self {
            Key::Classic => return None,
            Key::Member(id) => ConsumerRecord::Member(id.clone(), None),
            Key::Current(id) => ConsumerRecord::Current(id.clone(), None),
            Key::Target(id) => ConsumerRecord::Target(id.clone(), None),
            Key::TargetEpoch => ConsumerRecord::TargetEpoch(None),
            Key::Epoch => ConsumerRecord::Epoch(None),
        })
    }
}

/// A write on its way.
#[derive(Debug, Clone, PartialEq)]
struct Saving {
    keys: BTreeSet<Key>,
    replies: Vec<(Token, Reply)>,
}

/// What is to be written, what is being written, and who waits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keep {
    dirty: BTreeSet<Key>,
    saving: BTreeMap<Ticket, Saving>,
    waiting: Vec<(Token, Reply)>,
    retry_at: Option<Mono>,
}

impl Keep {
    /// Whether the log knows everything and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.saving.is_empty() && self.waiting.is_empty()
    }

    /// When a failed write is repeated.
    #[must_use]
    pub fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    /// The records that take away what was to be written or is being written.
    pub(super) fn gone(&self) -> impl Iterator<Item = ConsumerRecord> {
        let saving = self.saving.values().flat_map(|saving| &saving.keys);
        self.dirty.iter().chain(saving).filter_map(Key::gone)
    }

    /// Notes what the log has and should not have.
    pub(in super::super) fn owe(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.extend(keys);
    }
}

impl Group {
    /// Answers when everything up to now is written.
    pub(in super::super) fn tell(&mut self, token: Token, reply: Reply, turn: &mut Turn<'_>) {
        self.keep.waiting.push((token, reply));
        self.save(turn);
    }

    /// Writes what changed, unless a write is on its way; answers at once if there is nothing to write.
    pub(in super::super) fn save(&mut self, turn: &mut Turn<'_>) {
        if let Some(consumer) = &mut self.consumer {
            self.keep.dirty.append(&mut consumer.dirty);
        }
        if self.state == State::Dead {
            // Its end is being written: whoever waits asks again, and finds nothing or a group that lives on.
            for (token, reply) in std::mem::take(&mut self.keep.waiting) {
                turn.reply(token, refusal(reply, ErrorCode::COORDINATOR_NOT_AVAILABLE));
            }
        } else if self.keep.saving.is_empty() {
            self.save_now(turn);
        }
    }

    /// Writes what changed, behind whatever is on its way.
    pub(super) fn save_now(&mut self, turn: &mut Turn<'_>) {
        let keys = std::mem::take(&mut self.keep.dirty);
        let replies = std::mem::take(&mut self.keep.waiting);
        self.keep.retry_at = None;
        let records: Vec<Record> = keys.iter().filter_map(|key| self.record_of(key)).collect();
        if records.is_empty() {
            replies.into_iter().for_each(|(token, reply)| turn.reply(token, reply));
            return;
        }
        let ticket = self.write(records, After::Saved, turn);
        self.keep.saving.insert(ticket, Saving { keys, replies });
    }

    /// A write of [`Group::save`] ended.
    pub(in super::super) fn saved(
        &mut self,
        ticket: Ticket,
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        let saving = self.keep.saving.remove(&ticket).expect("every save ends once");
        match result {
            Ok(()) => {
                saving.replies.into_iter().for_each(|(token, reply)| turn.reply(token, reply));
                self.save(turn);
            }
            Err(code) => {
                mark!("a write of a group of the new protocol failed");
                self.keep.dirty.extend(saving.keys);
                // What came meanwhile stands on what was not written.
                let waiting = std::mem::take(&mut self.keep.waiting);
                for (token, reply) in saving.replies.into_iter().chain(waiting) {
                    turn.reply(token, refusal(reply, code));
                }
                self.keep.retry_at = Some(turn.now.mono.plus(RETRY));
            }
        }
    }

    /// Repeats a failed write whose pause is over.
    pub(in super::super) fn retry_save(&mut self, turn: &mut Turn<'_>) {
        if self.keep.retry_at.is_some_and(|at| at <= turn.now.mono) {
            self.keep.retry_at = None;
            self.save(turn);
        }
    }

    /// What the log shall say of a key.
    pub(super) fn record_of(&self, key: &Key) -> Option<Record> {
        let group = self.id.clone();
        let Some(consumer) = &self.consumer else {
            return self.classic_record_of(key);
        };
        let of = |id: &Arc<str>| consumer.members.get(id);
        let record = match key {
            Key::Classic => return Some(Record::Group { group, value: None }),
            Key::Member(id) => ConsumerRecord::Member(id.clone(), of(id).map(Member::to_stored)),
            Key::Current(id) => ConsumerRecord::Current(id.clone(), of(id).map(Member::to_current)),
            Key::Target(id) => ConsumerRecord::Target(id.clone(), consumer.target.get(id).cloned()),
            Key::TargetEpoch => ConsumerRecord::TargetEpoch(Some(consumer.target_epoch)),
            Key::Epoch => ConsumerRecord::Epoch(Some(StoredEpoch {
                epoch: consumer.epoch,
                topics_hash: consumer.topics_hash,
                empty_since_ms: self.since_ms.filter(|_| consumer.members.is_empty()),
            })),
        };
        Some(Record::Consumer { group, record })
    }

    /// The same for a group that is of the classic protocol by now: nothing is left of what it was.
    fn classic_record_of(&self, key: &Key) -> Option<Record> {
        match key.gone() {
            None => self.record_as_it_stands(),
            Some(record) => Some(Record::Consumer { group: self.id.clone(), record }),
        }
    }
}

/// What is told instead of a reply whose write failed.
fn refusal(reply: Reply, code: ErrorCode) -> Reply {
    match reply {
        Reply::Beat(_) => Reply::Beat(Box::new(refused((code, String::new())))),
        Reply::Join(joined) => refused_join(code, &joined.member_id),
        Reply::Sync(_) => refused_sync(code),
        Reply::Leave(mut members) => {
            members.iter_mut().for_each(|member| member.error_code = code);
            Reply::Leave(members)
        }
        Reply::Code(_) => Reply::Code(code),
        other => other,
    }
}
