//! One fetch session with one broker (KIP-227): after the first request only what changed is named. Pure.
//!
//! Owns: the session's id and epoch, and what the broker remembers. Promises: what the broker fetches for is always
//! what was asked last; after any doubt the next request is a full one that starts anew.
//! Leaves out: sending, and what is in the answers.
//!
//! ```text
//!   id 0, epoch 0: everything ──► answer with an id ──► epoch 1, 2, …: changes and forgotten ones only
//!        ▲                              │ id 0: the broker keeps none; everything is named each time
//!        └── lost · 70 · 71 · 106 ◄─────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};

/// What names a partition in a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Its id; zero where the broker has none.
    pub id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// From where a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The first offset that is wanted.
    pub offset: Offset,
    /// The leader epoch that we believe in; fences a broker that is behind or ahead of us.
    pub leader_epoch: LeaderEpoch,
    /// Bytes of this partition in one answer, unless one batch alone is larger.
    pub max_bytes: i32,
}

/// A session with one broker.
#[derive(Debug, Default)]
pub struct Session {
    id: i32,
    epoch: i32,
    /// What the broker fetches for when nothing is named.
    remembered: BTreeMap<Key, Ask>,
}

impl Session {
    /// Fills in the session and the partitions of the next request for `asks`, all that is wanted of this broker.
    pub fn fill(&mut self, request: &mut FetchRequest, asks: &BTreeMap<Key, Ask>) {
        let full = self.epoch == 0;
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        let named = asks.iter().filter(|(key, ask)| full || self.remembered.get(key) != Some(ask));
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (key, ask) in named {
            let partition = FetchPartition {
                partition: key.partition,
                current_leader_epoch: ask.leader_epoch,
                fetch_offset: ask.offset,
                partition_max_bytes: ask.max_bytes,
                ..FetchPartition::default()
            };
            match topics.last_mut().filter(|t| *t.topic == *key.topic && t.topic_id == key.id) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic {
                    topic: key.topic.to_string(),
                    topic_id: key.id,
                    partitions: vec![partition],
                }),
            }
        }
        request.topics = topics;
        if !full {
            let gone = self.remembered.keys().filter(|key| !asks.contains_key(key));
            request.forgotten_topics_data = gone
                .map(|key| ForgottenTopic {
                    topic: key.topic.to_string(),
                    topic_id: key.id,
                    partitions: vec![key.partition],
                })
                .collect();
        }
        self.remembered = asks.clone();
    }

    /// Takes the head of an answer. `false`: the session is gone, and the next request starts a new one.
    pub fn accept(&mut self, error: ErrorCode, session_id: i32) -> bool {
        if error.is_error() {
            self.reset();
            return false;
        }
        if self.epoch == 0 {
            // An id of 0 means that the broker keeps no session: every request names everything.
            self.id = session_id;
            self.epoch = i32::from(session_id != 0);
        } else if session_id != self.id {
            self.reset();
            return false;
        } else {
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        }
        true
    }

    /// Forgets everything: what the broker remembers is not known any more.
    pub fn reset(&mut self) {
        *self = Session::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(partition: i32) -> Key {
        Key { topic: "t".into(), id: TopicId([7; 16]), partition: PartitionId(partition) }
    }

    fn asks(offsets: &[(i32, i64)]) -> BTreeMap<Key, Ask> {
        let ask = |offset| Ask { offset: Offset(offset), leader_epoch: LeaderEpoch(0), max_bytes: 100 };
        offsets.iter().map(|(partition, offset)| (key(*partition), ask(*offset))).collect()
    }

    fn named(request: &FetchRequest) -> Vec<(i32, i64)> {
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|p| (p.partition.0, p.fetch_offset.0)).collect()
    }

    fn next(session: &mut Session, offsets: &[(i32, i64)]) -> FetchRequest {
        let mut request = FetchRequest::default();
        session.fill(&mut request, &asks(offsets));
        request
    }

    #[test]
    fn after_the_first_request_only_changes_are_named() {
        let mut session = Session::default();
        let first = next(&mut session, &[(0, 0), (1, 0)]);
        assert_eq!((first.session_id, first.session_epoch), (0, 0));
        assert_eq!(named(&first), [(0, 0), (1, 0)]);
        assert!(session.accept(ErrorCode::NONE, 42));
        let second = next(&mut session, &[(0, 5), (2, 0)]);
        assert_eq!((second.session_id, second.session_epoch), (42, 1));
        assert_eq!(named(&second), [(0, 5), (2, 0)]);
        assert_eq!(second.forgotten_topics_data[0].partitions, [PartitionId(1)]);
        assert!(session.accept(ErrorCode::NONE, 42));
        assert_eq!(named(&next(&mut session, &[(0, 5), (2, 0)])), [], "nothing changed");
    }

    #[test]
    fn a_broker_without_sessions_is_told_everything_each_time() {
        let mut session = Session::default();
        next(&mut session, &[(0, 0)]);
        assert!(session.accept(ErrorCode::NONE, 0));
        assert_eq!(named(&next(&mut session, &[(0, 0)])), [(0, 0)]);
    }

    #[test]
    fn a_lost_session_starts_anew() {
        let mut session = Session::default();
        next(&mut session, &[(0, 0)]);
        session.accept(ErrorCode::NONE, 42);
        next(&mut session, &[(0, 5)]);
        assert!(!session.accept(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0));
        let again = next(&mut session, &[(0, 5)]);
        assert_eq!((again.session_id, again.session_epoch, named(&again)), (0, 0, vec![(0, 5)]));
    }

    proptest! {
        #[test]
        fn the_broker_always_fetches_for_what_was_asked_last(
            rounds in proptest::collection::vec((proptest::collection::btree_map(0i32..4, 0i64..3, 0..4), any::<bool>()), 1..30),
        ) {
            let (mut session, mut broker) = (Session::default(), BTreeMap::new());
            for (wanted, lost) in rounds {
                let wanted: Vec<_> = wanted.into_iter().collect();
                let request = next(&mut session, &wanted);
                if request.session_epoch == 0 {
                    broker.clear();
                }
                broker.extend(named(&request));
                for gone in &request.forgotten_topics_data {
                    gone.partitions.iter().for_each(|p| assert!(broker.remove(&p.0).is_some()));
                }
                prop_assert_eq!(broker.iter().map(|(p, o)| (*p, *o)).collect::<Vec<_>>(), wanted);
                if lost { session.reset() } else { session.accept(ErrorCode::NONE, 9); }
            }
        }
    }
}
