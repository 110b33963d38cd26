//! What brokers ask the active controller for, as it travels between nodes (room Control).
//!
//! Owns: tag and version of each call. Promises: neither changes its meaning (golden bytes below); what a broker asks
//! for itself may be repeated, because each is decided against the state that it names.
//! Leaves out: what is decided (`decide`), who the active controller is (`reach`), connections (`peer`), what clients
//! ask for (`errands`).
//!
//! ```text
//!  0x0301 register   0x0302 heartbeat   0x0303 alter partition   0x0304 producer ids
//!  0x0305 internal topic      answers: 0x0381 …
//! ```

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionId, TopicId};
use dejaq_wire::peer::{Ask, Body, Parts, PeerError};
use serde::{Deserialize, Serialize};

use super::decide::alter_partition::{AlterPartition, Current, Proposal};
use super::decide::broker_heartbeat::{BrokerHeartbeat, HeartbeatAnswer};
use super::decide::create_internal::{CreateInternal, Made};
use super::decide::producer_ids::{AllocateProducerIds, Block};
use super::decide::register_broker::{Entry, RegisterBroker};
use super::draft::{Decide, Refusal};
use super::handle::{Committed, Unavailable};
use crate::metadata::level::Levels;
use crate::metadata::record::Endpoint;

/// A request to the controller that any node may make: `Reach::ask` takes it there.
pub trait ControlCall: Ask + Decide + Clone {
    /// What the one who asked is told.
    type Told: Send + 'static;

    /// What was decided, as it is told.
    ///
    /// # Errors
    /// The refusal that was decided.
    fn told(decided: <Self as Decide>::Answer) -> Result<Self::Told, Refusal>;

    /// As it travels.
    fn pack(answered: Answered<Self::Told>) -> <Self as Ask>::Answer;

    /// The other way of [`ControlCall::pack`].
    fn unpack(answer: <Self as Ask>::Answer) -> Answered<Self::Told>;
}

/// The answer of the controller: what it decided and where the metadata ends with it, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered<T> {
    /// What was decided.
    pub result: Result<T, Refusal>,
    /// The metadata offset after it; [`Offset::NONE`] if nothing was decided.
    pub end: Offset,
}

impl<T> Answered<T> {
    /// From what the controller gave back.
    #[must_use]
    pub fn of<Q: ControlCall<Told = T>>(
        answer: Result<Committed<<Q as Decide>::Answer>, Unavailable>,
    ) -> Answered<T> {
        match answer {
            Ok(Committed { answer, end }) => Answered { result: Q::told(answer), end },
            Err(why) => Answered::refused(unavailable(why)),
        }
    }

    /// Nothing was decided.
    #[must_use]
    pub fn refused(why: Refusal) -> Answered<T> {
        Answered { result: Err(why), end: Offset::NONE }
    }
}

/// What a client, or another broker, is told when the controller gives no answer.
#[must_use]
pub fn unavailable(why: Unavailable) -> Refusal {
    let code = match why {
        Unavailable::Late | Unavailable::Unsure => ErrorCode::REQUEST_TIMED_OUT,
        Unavailable::Full => ErrorCode::KAFKA_STORAGE_ERROR,
        Unavailable::Stopped | Unavailable::Elsewhere => ErrorCode::NOT_CONTROLLER,
    };
    Refusal::new(code, why.to_string())
}

/// A body that is all postcard.
macro_rules! plain {
    ($tag:expr, $body:ty) => {
        impl Body for $body {
            const TAG: u16 = $tag;
            const VERSION: u16 = 0;
            fn into_parts(self) -> Result<Parts, PeerError> {
                Parts::plain(&self)
            }
            fn from_parts(parts: Parts) -> Result<Self, PeerError> {
                parts.into_plain()
            }
        }
    };
}

/// The answer to a call whose body is there, and how it is told: `decided |answer| told`.
macro_rules! answered {
    ($tag:literal $ask:ty, $repeatable:literal, |$decided:ident| $told:expr, $answer:ty) => {
        plain!($tag | 0x80, Answered<$answer>);

        impl Ask for $ask {
            type Answer = Answered<$answer>;
            const REPEATABLE: bool = $repeatable;
        }

        impl ControlCall for $ask {
            type Told = $answer;
            fn told($decided: <Self as Decide>::Answer) -> Result<$answer, Refusal> {
                $told
            }
            fn pack(answered: Answered<$answer>) -> Answered<$answer> {
                answered
            }
            fn unpack(answer: Answered<$answer>) -> Answered<$answer> {
                answer
            }
        }
    };
}
pub(super) use {answered, plain};

/// A body whose version 1 says more than version 0 did: the supported levels, which without it are those of the first
/// release, which life closed a directory, or who lost records. `|body| older` is version 0 as a tuple, `|tuple| body` the way back.
macro_rules! with_levels {
    ($tag:expr, $body:ident, $older:ty, |$this:ident| $down:expr, |$read:ident| $up:expr) => {
        impl Body for $body {
            const TAG: u16 = $tag;
            const VERSION: u16 = 1;
            fn into_parts(self) -> Result<Parts, PeerError> {
                Parts::plain(&self)
            }
            fn older(&self) -> Result<Option<Parts>, PeerError> {
                let $this = self;
                Parts::older_plain::<$body>(0, &$down).map(Some)
            }
            fn from_parts(parts: Parts) -> Result<Self, PeerError> {
                if parts.version > 0 {
                    return parts.into_plain();
                }
                let $read = parts.into_older_plain::<$body, $older>(0)?;
                Ok($up)
            }
        }
    };
}

type OldRegistration = (BrokerId, u128, Vec<Endpoint>, Option<String>, [u8; 16], bool, Entry);
type OldHeartbeat = (BrokerId, BrokerEpoch, Offset, bool, bool);
type OldProposals = (BrokerId, BrokerEpoch, Vec<OldProposal>);
type OldProposal = (TopicId, PartitionId, LeaderEpoch, i32, Vec<(BrokerId, BrokerEpoch)>);

fn old_proposal(new: &Proposal) -> OldProposal {
    (new.topic_id, new.partition, new.leader_epoch, new.partition_epoch, new.isr.clone())
}

fn new_proposal((topic_id, partition, leader_epoch, partition_epoch, isr): OldProposal) -> Proposal {
    // Of nobody in sync it told who lost something, and that went: it does not just step aside, and is refused.
    let lost = if isr.is_empty() { vec![BrokerId::NONE] } else { Vec::new() };
    Proposal { topic_id, partition, leader_epoch, partition_epoch, isr, lost }
}

with_levels!(
    0x0301,
    RegisterBroker,
    OldRegistration,
    |this| (
        this.broker,
        this.incarnation,
        &this.endpoints,
        &this.rack,
        this.directory_id,
        this.clean,
        this.entry
    ),
    |read| {
        let (broker, incarnation, endpoints, rack, directory_id, clean, entry) = read;
        let levels = Levels::FIRST;
        let closed_in = BrokerEpoch::NONE;
        RegisterBroker { broker, incarnation, endpoints, rack, directory_id, clean, closed_in, entry, levels }
    }
);
answered!(0x0301 RegisterBroker, true, |decided| decided, BrokerEpoch);
with_levels!(
    0x0302,
    BrokerHeartbeat,
    OldHeartbeat,
    |this| (this.broker, this.broker_epoch, this.metadata_end, this.want_fence, this.want_shutdown),
    |read| {
        let (broker, broker_epoch, metadata_end, want_fence, want_shutdown) = read;
        let levels = Levels::FIRST;
        BrokerHeartbeat { broker, broker_epoch, metadata_end, want_fence, want_shutdown, levels }
    }
);
answered!(0x0302 BrokerHeartbeat, true, |decided| decided, HeartbeatAnswer);
with_levels!(
    0x0303,
    AlterPartition,
    OldProposals,
    |this| (this.broker, this.broker_epoch, this.proposals.iter().map(old_proposal).collect::<Vec<_>>()),
    |read| {
        let (broker, broker_epoch, proposals) = read;
        let proposals = proposals.into_iter().map(new_proposal).collect();
        AlterPartition { broker, broker_epoch, proposals }
    }
);
answered!(0x0303 AlterPartition, true, |decided| decided, Vec<Result<Current, Refusal>>);
plain!(0x0304, AllocateProducerIds);
answered!(0x0304 AllocateProducerIds, true, |decided| decided, Block);
plain!(0x0305, CreateInternal);
answered!(0x0305 CreateInternal, true, |decided| decided, Made);

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::ProducerId;
    use dejaq_wire::peer::level_of;

    use super::*;

    fn line<B: Body + Clone + PartialEq + std::fmt::Debug>(body: &B) -> String {
        let parts = body.clone().into_parts().expect("short");
        let hex: String = parts.head.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(B::from_parts(parts.clone()).as_ref(), Ok(body));
        format!("{:04x}/{} {hex}", parts.tag, parts.version)
    }

    /// As it goes to a peer of the first release, and what that makes of it.
    fn older<B: Body + Clone + PartialEq + std::fmt::Debug>(body: &B, read: &B) -> String {
        let parts = body.older().expect("short").expect("there is an older version");
        assert_eq!((level_of(parts.tag, parts.version), level_of(B::TAG, B::VERSION)), (1, 2));
        assert_eq!(B::from_parts(parts.clone()).as_ref(), Ok(read));
        let hex: String = parts.head.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}/{} {hex}", parts.tag, parts.version)
    }

    #[test]
    fn who_gave_its_log_up_in_an_old_message_is_not_read_as_a_leader_that_steps_aside() {
        let (leader_epoch, partition_epoch) = (LeaderEpoch(5), 6);
        let (topic_id, partition, isr, lost) =
            (TopicId([1; 16]), PartitionId(4), Vec::new(), vec![BrokerId(2)]);
        let told = Proposal { topic_id, partition, leader_epoch, partition_epoch, isr, lost };
        assert_eq!(new_proposal(old_proposal(&told)).lost, [BrokerId::NONE]);
    }

    #[test]
    fn the_bytes_between_nodes_never_change() {
        let (broker, broker_epoch) = (BrokerId(2), BrokerEpoch(3));
        let register = RegisterBroker {
            broker,
            incarnation: 7,
            endpoints: vec![Endpoint { listener: "PEER".into(), host: "h".into(), port: 9192 }],
            rack: Some("r".into()),
            directory_id: [9; 16],
            clean: true,
            closed_in: BrokerEpoch(2),
            entry: Entry::Fenced,
            levels: Levels { min: 1, max: 2 },
        };
        let metadata_end = Offset(300);
        let levels = Levels { min: 1, max: 2 };
        let (want_fence, want_shutdown) = (false, true);
        let heartbeat =
            BrokerHeartbeat { broker, broker_epoch, metadata_end, want_fence, want_shutdown, levels };
        let proposal = Proposal {
            topic_id: TopicId([1; 16]),
            partition: PartitionId(4),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: 6,
            isr: vec![(broker, broker_epoch)],
            lost: vec![BrokerId(3)],
        };
        let told = Proposal { lost: Vec::new(), ..proposal.clone() };
        let told = AlterPartition { broker, broker_epoch, proposals: vec![told] };
        let alter = AlterPartition { broker, broker_epoch, proposals: vec![proposal] };
        let current =
            Current { leader: broker, leader_epoch: LeaderEpoch(5), isr: vec![broker], partition_epoch: 7 };
        let refusal = Refusal { code: ErrorCode::INELIGIBLE_REPLICA, message: None };
        let beat = HeartbeatAnswer { caught_up: true, fenced: false, should_shut_down: false };
        let end = Offset(301);
        let internal = CreateInternal {
            name: "i".into(),
            partitions: 16,
            max_replicas: 3,
            configs: vec![("a".into(), "b".into())],
        };
        let lines = [
            older(
                &register,
                &RegisterBroker { levels: Levels::FIRST, closed_in: BrokerEpoch::NONE, ..register.clone() },
            ),
            line(&register),
            line(&Answered { result: Ok(broker_epoch), end }),
            older(&heartbeat, &BrokerHeartbeat { levels: Levels::FIRST, ..heartbeat.clone() }),
            line(&heartbeat),
            line(&Answered { result: Ok(beat), end }),
            older(&alter, &told),
            line(&alter),
            line(&Answered { result: Ok(vec![Ok(current), Err(refusal.clone())]), end }),
            line(&AllocateProducerIds { broker, broker_epoch }),
            line(&Answered { result: Ok(Block { start: ProducerId(0), end: ProducerId(1000) }), end }),
            line(&Answered::<Block> { result: Err(refusal), end: Offset::NONE }),
            line(&internal),
            line(&Answered { result: Ok(Made { partitions: 16 }), end }),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        0301/0 04070104504545520168e847010172090909090909090909090909090909090100
        0301/1 04070104504545520168e847010172090909090909090909090909090909090104000204
        0381/0 0006da04
        0302/0 0406d8040001
        0302/1 0406d80400010204
        0382/0 00010000da04
        0303/0 04060101010101010101010101010101010101080a0c010406
        0303/1 04060101010101010101010101010101010101080a0c0104060106
        0383/0 000200040a01040e01d60100da04
        0304/0 0406
        0384/0 0000d00fda04
        0384/0 01d6010001
        0305/0 016920030101610162
        0385/0 0020da04
        ");
    }
}
