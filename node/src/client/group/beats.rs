//! A member of the new protocol (KIP-848), as it tells of itself to the coordinator. Pure.
//!
//! Owns: [`Beats`]: its id and epoch, what the coordinator knows of it, and what the coordinator wants it to own.
//! Promises: a change is told once, and everything is told again when an answer may be lost or another broker answers; an
//! epoch counts from the answer that brought it on; who was put out comes again under a fresh id, owning nothing.
//! Leaves out: sending, and what owning means (`member`).
//!
//! ```text
//!  request ─► ConsumerGroupHeartbeat ─► take ─► Well: own `target`, and say so with the next request
//!     ▲  (until then: unsure)            ├────► Later: the same again ─┐
//!     └──────────────────────────────────┴────► Out: begin_anew ───────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Generation, PartitionId, TopicId};
use dejaq_wire::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};

/// Epoch of a member that joins.
const JOINS: Generation = Generation(0);
/// Epoch of a member that leaves.
const LEAVES: Generation = Generation(-1);
/// Epoch of a static member that leaves and will be back.
const PAUSES: Generation = Generation(-2);

/// Partitions by the ids of their topics.
pub(super) type Parts = BTreeSet<(TopicId, PartitionId)>;

/// What a member is, as long as it is one.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub group: String,
    pub instance: Option<String>,
    pub rebalance_timeout_ms: i32,
    pub topics: Vec<String>,
    /// How it wants the plan to be made; the group's own way if it does not say.
    pub assignor: Option<String>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is a member.
    Well,
    /// The same again, after a pause.
    Later(ErrorCode),
    /// The group has put it out.
    Out,
    /// No repetition cures this.
    Refused(ErrorCode),
}

/// The heartbeats of one member.
#[derive(Debug)]
pub(super) struct Beats {
    person: Person,
    id: String,
    epoch: Generation,
    /// Whether the coordinator may not know what was told last.
    unsure: bool,
    /// What was told last.
    told: Parts,
    target: Parts,
    interval: Duration,
}

impl Beats {
    /// One that has not joined; `id` is nobody else's.
    pub(super) fn new(person: Person, id: String) -> Beats {
        assert!(!id.is_empty(), "a member of the new protocol names itself");
        Beats {
            person,
            id,
            epoch: JOINS,
            unsure: true,
            told: Parts::new(),
            target: Parts::new(),
            interval: Duration::ZERO,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its epoch, for commits.
    pub(super) fn epoch(&self) -> Generation {
        self.epoch
    }

    pub(super) fn is_member(&self) -> bool {
        self.epoch > JOINS
    }

    /// What it shall own, by what was heard last.
    pub(super) fn target(&self) -> &Parts {
        &self.target
    }

    /// How often the coordinator wants to hear it.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The next heartbeat of a member that owns `owned`. Until its answer is taken nothing of it counts as known.
    pub(super) fn request(&mut self, owned: Parts) -> ConsumerGroupHeartbeatRequest {
        assert!(self.is_member() || owned.is_empty(), "{} owns {owned:?} before it joined", self.id);
        let tells_all = self.unsure || !self.is_member();
        let tells_owned = tells_all || owned != self.told;
        let person = &self.person;
        let request = ConsumerGroupHeartbeatRequest {
            group_id: person.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: person.instance.clone(),
            rack_id: None,
            rebalance_timeout_ms: if tells_all { person.rebalance_timeout_ms } else { -1 },
            subscribed_topic_names: tells_all.then(|| person.topics.clone()),
            subscribed_topic_regex: None,
            server_assignor: person.assignor.clone().filter(|_| tells_all),
            topic_partitions: tells_owned.then(|| by_topic(&owned)),
        };
        (self.told, self.unsure) = (owned, true);
        request
    }

    /// Takes an answer.
    pub(super) fn take(&mut self, answer: &ConsumerGroupHeartbeatResponse) -> Heard {
        match answer.error_code {
            ErrorCode::NONE => {
                assert!(
                    answer.member_epoch >= JOINS,
                    "a member that lives has the epoch {:?}",
                    answer.member_epoch
                );
                self.epoch = answer.member_epoch;
                if let Some(id) = answer.member_id.as_ref().filter(|id| !id.is_empty()) {
                    self.id.clone_from(id);
                }
                self.interval =
                    Duration::from_millis(u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0));
                if let Some(assignment) = &answer.assignment {
                    self.target = to_parts(&assignment.topic_partitions);
                }
                self.unsure = false;
                Heard::Well
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::FENCED_INSTANCE_ID => {
                Heard::Out
            }
            // Its last life is not over for the group yet.
            code @ ErrorCode::UNRELEASED_INSTANCE_ID => Heard::Later(code),
            code if code.is_retriable() => Heard::Later(code),
            code => Heard::Refused(code),
        }
    }

    /// The coordinator may have moved on without us: everything is told with the next heartbeat.
    pub(super) fn doubt(&mut self) {
        self.unsure = true;
    }

    /// Comes again as somebody new.
    pub(super) fn begin_anew(&mut self, id: String) {
        *self = Beats::new(self.person.clone(), id);
    }

    /// The last heartbeat. A static member keeps its partitions for its next life, if it `will_be_back`.
    pub(super) fn leave(&self, will_be_back: bool) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: self.person.group.clone(),
            member_id: self.id.clone(),
            member_epoch: if will_be_back && self.person.instance.is_some() { PAUSES } else { LEAVES },
            instance_id: self.person.instance.clone(),
            ..Default::default()
        }
    }
}

fn by_topic(parts: &Parts) -> Vec<TopicPartitions> {
    let mut topics: BTreeMap<TopicId, Vec<PartitionId>> = BTreeMap::new();
    for (topic, partition) in parts {
        topics.entry(*topic).or_default().push(*partition);
    }
    topics.into_iter().map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions }).collect()
}

fn to_parts(told: &[TopicPartitions]) -> Parts {
    let each = |one: &TopicPartitions| {
        let topic = one.topic_id;
        one.partitions.iter().map(move |partition| (topic, *partition)).collect::<Vec<_>>()
    };
    told.iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use dejaq_wire::kafka::consumer_group_heartbeat::Assignment;

    use super::*;

    const T: TopicId = TopicId([7; 16]);

    fn beats() -> Beats {
        let person = Person {
            group: "g".into(),
            instance: None,
            rebalance_timeout_ms: 1000,
            topics: vec!["t".into()],
            assignor: None,
        };
        Beats::new(person, "m".into())
    }

    fn parts(indexes: &[i32]) -> Parts {
        indexes.iter().map(|index| (T, PartitionId(*index))).collect()
    }

    fn answer(epoch: i32, part: Option<&[i32]>) -> ConsumerGroupHeartbeatResponse {
        let assignment = part.map(|part| Assignment { topic_partitions: by_topic(&parts(part)) });
        ConsumerGroupHeartbeatResponse {
            member_epoch: Generation(epoch),
            heartbeat_interval_ms: 500,
            assignment,
            ..Default::default()
        }
    }

    fn refusal(error_code: ErrorCode) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse { error_code, ..Default::default() }
    }

    #[test]
    fn everything_is_told_at_first_and_then_only_what_changed() {
        let mut beats = beats();
        let first = beats.request(parts(&[]));
        assert_eq!((first.member_epoch, first.rebalance_timeout_ms), (JOINS, 1000));
        assert_eq!(
            (first.subscribed_topic_names, first.topic_partitions),
            (Some(vec!["t".into()]), Some(vec![]))
        );
        assert_eq!(beats.take(&answer(3, Some(&[0, 1]))), Heard::Well);
        assert_eq!((beats.epoch(), beats.target()), (Generation(3), &parts(&[0, 1])));
        let second = beats.request(parts(&[0, 1]));
        assert_eq!((second.subscribed_topic_names, second.rebalance_timeout_ms), (None, -1));
        assert_eq!(second.topic_partitions, Some(by_topic(&parts(&[0, 1]))), "it says what it took");
        assert_eq!(beats.take(&answer(3, None)), Heard::Well);
        assert_eq!(beats.request(parts(&[0, 1])).topic_partitions, None);
        assert_eq!(beats.target(), &parts(&[0, 1]), "an answer without a part changes none");
    }

    #[test]
    fn what_was_not_answered_is_told_again_in_full_and_in_the_epoch_before() {
        let mut beats = beats();
        beats.request(parts(&[]));
        beats.take(&answer(3, Some(&[0])));
        beats.request(parts(&[0]));
        let again = beats.request(parts(&[0]));
        assert_eq!((again.member_epoch, again.rebalance_timeout_ms), (Generation(3), 1000));
        assert_eq!(again.topic_partitions, Some(by_topic(&parts(&[0]))));
        assert_eq!(
            beats.take(&refusal(ErrorCode::NOT_COORDINATOR)),
            Heard::Later(ErrorCode::NOT_COORDINATOR)
        );
        assert!(
            beats.request(parts(&[0])).subscribed_topic_names.is_some(),
            "who coordinates now may not know"
        );
    }

    #[test]
    fn who_is_put_out_comes_again_as_somebody_new_who_owns_nothing() {
        for code in [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::FENCED_MEMBER_EPOCH] {
            let mut beats = beats();
            beats.request(parts(&[]));
            beats.take(&answer(3, Some(&[0])));
            beats.request(parts(&[0]));
            assert_eq!(beats.take(&refusal(code)), Heard::Out);
            beats.begin_anew("n".into());
            assert!(!beats.is_member() && beats.target().is_empty());
            let request = beats.request(parts(&[]));
            assert_eq!((request.member_id.as_str(), request.member_epoch), ("n", JOINS));
        }
        let refused = beats().take(&refusal(ErrorCode::UNSUPPORTED_ASSIGNOR));
        assert_eq!(refused, Heard::Refused(ErrorCode::UNSUPPORTED_ASSIGNOR));
    }

    #[test]
    fn only_a_static_member_will_be_back() {
        let mut beats = beats();
        assert_eq!(beats.leave(true).member_epoch, LEAVES);
        beats.person.instance = Some("i".into());
        assert_eq!((beats.leave(true).member_epoch, beats.leave(false).member_epoch), (PAUSES, LEAVES));
    }
}
