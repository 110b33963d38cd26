//! A live group goes from the classic protocol to KIP-848 and back, step by step.

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, PartitionId};
use dejaq_wire::kafka::join_group::JoinGroupResponse;
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};

use super::super::ask::{Ask, Token};
use super::super::settings::Settings;
use super::super::subscription;
use super::super::tests::Join;
use super::convert::Migration;
use super::member::LEAVES;
use super::tests::{Beat, Kit, given};

const G: &str = "g";

impl Kit {
    /// A member of the classic protocol joins, or joins again, and owns nothing while it does.
    fn join(&mut self, member: &str) -> Token {
        let token = self.desk.join(Join { member, ..Join::default() });
        self.desk.pass(0);
        self.desk.settle();
        token
    }

    fn joined(&mut self, member: &str) -> JoinGroupResponse {
        let token = self.join(member);
        let joined = self.desk.joined(token);
        assert_eq!(joined.error_code, ErrorCode::NONE);
        joined
    }

    fn sync(&mut self, joined: &JoinGroupResponse, plan: &[(&str, i32)]) -> SyncGroupResponse {
        let mut parts: std::collections::BTreeMap<&str, Vec<subscription::Named>> = Default::default();
        for (member, partition) in plan {
            parts.entry(member).or_default().push(("t".into(), PartitionId(*partition)));
        }
        let part = |(member, owned): (&str, Vec<subscription::Named>)| SyncGroupRequestAssignment {
            member_id: member.into(),
            assignment: subscription::encode_assignment(1, &owned),
        };
        let token = self.desk.ask(Ask::Sync(SyncGroupRequest {
            group_id: G.into(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            protocol_type: joined.protocol_type.clone(),
            protocol_name: joined.protocol_name.clone(),
            assignments: parts.into_iter().map(part).collect(),
            ..Default::default()
        }));
        self.desk.settle();
        self.desk.synced(token)
    }

    fn commit(&mut self, member: &str, generation: i32) -> ErrorCode {
        let token = self.desk.commit(member, Generation(generation), "t", 7);
        self.desk.settle();
        self.desk.result(token)
    }

    /// A classic group of one member that owns both partitions of `t`, in generation 1.
    fn classic() -> (Kit, String) {
        let mut kit = Kit::new(&[("t", 2)]);
        let joined = kit.joined("");
        let id = joined.member_id.clone();
        let part = kit.sync(&joined, &[(&id, 0), (&id, 1)]);
        assert_eq!((joined.generation_id, partitions(&part.assignment)), (Generation(1), vec![0, 1]));
        (kit, id)
    }

    /// The same, and one of the new protocol beside it; each owns one partition, in epoch 2.
    fn mixed() -> (Kit, String) {
        let (mut kit, old) = Kit::classic();
        let told = kit.heard(Beat::join("new", &["t"]));
        assert_eq!((told.member_epoch, given(&told).len()), (Generation(2), 0), "the other owns all");
        assert_eq!(kit.desk.heartbeat(&old, Generation(1)), ErrorCode::REBALANCE_IN_PROGRESS);
        assert_eq!(kit.commit(&old, 1), ErrorCode::NONE, "it commits what it read before it joins");
        let joined = kit.joined(&old);
        assert_eq!((joined.generation_id, joined.leader.as_str()), (Generation(2), ""), "nobody leads");
        assert_eq!(partitions(&kit.sync(&joined, &[]).assignment).len(), 1);
        assert_eq!(kit.desk.heartbeat(&old, Generation(2)), ErrorCode::NONE);
        assert_eq!(given(&kit.heard(Beat::alive("new", 2))).len(), 1);
        assert_eq!(kit.state(), "Stable");
        (kit, old)
    }
}

fn partitions(assignment: &Bytes) -> Vec<i32> {
    let parts = subscription::assignment(assignment).expect("an assignment");
    parts.into_iter().map(|(_, partition)| partition.0).collect()
}

#[test]
fn a_live_group_goes_up_with_its_first_new_member_and_down_with_its_last() {
    let (mut kit, old) = Kit::mixed();
    assert_eq!(kit.commit(&old, 1), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(kit.desk.state(), "none", "it is no classic group");
    kit.reload();
    assert_eq!((kit.state().as_str(), kit.desk.offset("t")), ("Stable", Some(7)));
    kit.heard(Beat::alive("new", LEAVES.0));
    assert_eq!((kit.state().as_str(), kit.desk.state().as_str()), ("none", "PreparingRebalance"));
    kit.reload();
    assert_eq!(kit.desk.state(), "PreparingRebalance", "a partition has no owner, whoever coordinates");
    assert_eq!(kit.desk.heartbeat(&old, Generation(2)), ErrorCode::REBALANCE_IN_PROGRESS);
    let joined = kit.joined(&old);
    assert_eq!((joined.leader.as_str(), joined.members.len()), (old.as_str(), 1));
    assert!(joined.generation_id > Generation(2), "{joined:?}");
    assert_eq!(partitions(&kit.sync(&joined, &[(&old, 0), (&old, 1)]).assignment), [0, 1]);
    kit.reload();
    assert_eq!((kit.state().as_str(), kit.desk.state().as_str()), ("none", "Stable"));
}

/// A member holds what the last plan gave it until it comes to a rebalance of the new protocol, also when another classic
/// rebalance had begun and was never completed.
#[test]
fn what_members_hold_stays_theirs_when_a_group_goes_up_in_a_rebalance() {
    let (mut kit, old) = Kit::classic();
    let coming = kit.join("");
    let joined = kit.joined(&old);
    let second = kit.desk.joined(coming).member_id;
    assert_eq!(kit.desk.state(), "CompletingRebalance");
    kit.desk.leave(&second);
    let told = kit.heard(Beat::join("new", &["t"]));
    assert_eq!(given(&told).len(), 0, "the other still reads all of it");
    assert_eq!(kit.commit(&old, joined.generation_id.0), ErrorCode::NONE, "and says how far it came");
    let joined = kit.joined(&old);
    assert_eq!(partitions(&kit.sync(&joined, &[]).assignment).len(), 1);
    assert_eq!(kit.desk.heartbeat(&old, joined.generation_id), ErrorCode::NONE);
    assert_eq!(given(&kit.heard(Beat::alive("new", joined.generation_id.0))).len(), 1);
}

/// A cooperative plan takes something from a member, which gives it up only when it hears of that.
#[test]
fn what_a_plan_took_and_gave_to_nobody_is_still_held_when_a_group_goes_up() {
    let mut kit = Kit::new(&[("t", 2)]);
    let owned: Vec<subscription::Named> = vec![("t".into(), PartitionId(0)), ("t".into(), PartitionId(1))];
    let token = kit.desk.join(Join { owned: &owned, ..Join::default() });
    kit.desk.pass(0);
    kit.desk.settle();
    let joined = kit.desk.joined(token);
    let old = joined.member_id.clone();
    assert_eq!(partitions(&kit.sync(&joined, &[(&old, 0)]).assignment), [0]);
    let told = kit.heard(Beat::join("new", &["t"]));
    assert_eq!(given(&told).len(), 0, "nobody has said that the second one is free");
}

#[test]
fn a_member_that_goes_back_to_the_classic_protocol_is_called_by_its_heartbeat() {
    let (mut kit, old) = Kit::mixed();
    kit.heard(Beat::alive("new", LEAVES.0));
    assert_eq!(kit.desk.heartbeat(&old, Generation(2)), ErrorCode::REBALANCE_IN_PROGRESS, "it knows 2");
    let joined = kit.joined(&old);
    assert_eq!(joined.leader, old);
}

#[test]
fn a_member_of_the_classic_protocol_that_does_not_come_is_out_and_the_rest_gets_its_part() {
    let (mut kit, old) = Kit::classic();
    kit.heard(Beat::join("new", &["t"]));
    assert_eq!(kit.desk.heartbeat(&old, Generation(1)), ErrorCode::REBALANCE_IN_PROGRESS);
    for _ in 0..8 {
        kit.desk.pass(8_000); // REBALANCE_MS of the desk is 60 s
        kit.desk.settle();
        let _ = kit.desk.heartbeat(&old, Generation(1));
        kit.heard(Beat::alive("new", 2));
    }
    assert_eq!(kit.desk.heartbeat(&old, Generation(1)), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(kit.describe().expect("a group").members.len(), 1);
    let told = kit.heard(Beat { topics: Some(vec!["t"]), ..Beat::owns("new", 3, &kit.all("t")) });
    assert_eq!(given(&told), kit.all("t"));
}

#[test]
fn an_empty_group_is_of_the_protocol_of_whoever_comes() {
    let mut kit = Kit::new(&[("t", 2)]);
    kit.heard(Beat::join("a", &["t"]));
    kit.heard(Beat::alive("a", LEAVES.0));
    let joined = kit.joined("");
    assert_eq!(joined.leader, joined.member_id);
    kit.sync(&joined, &[]);
    kit.desk.leave(&joined.member_id);
    kit.desk.settle();
    assert_eq!(kit.desk.state(), "Empty");
    let told = kit.heard(Beat::join("b", &["t"]));
    assert!(told.member_epoch > joined.generation_id, "epochs rise whatever the protocol: {told:?}");
    kit.reload();
    assert_eq!((kit.state().as_str(), kit.desk.groups.members()), ("Stable", 1));
}

#[test]
fn a_way_that_is_closed_is_not_gone() {
    let closed = Migration { up: false, down: false };
    let mut kit = Kit::with(&[("t", 1)], Settings { migration: closed, ..Settings::default() });
    let token = kit.join("");
    kit.desk.pass(5_000);
    let joined = kit.desk.joined(token);
    kit.sync(&joined, &[]);
    let refused = kit.heard(Beat::join("new", &["t"]));
    assert_eq!(refused.error_code, ErrorCode::GROUP_ID_NOT_FOUND, "{refused:?}");
    assert_eq!(kit.desk.state(), "Stable");
}

#[test]
fn a_conversion_whose_write_failed_is_written_with_the_next() {
    let (mut kit, old) = Kit::classic();
    let token = kit.beat(Beat::join("new", &["t"]));
    kit.desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!(kit.answer(token).expect("told").error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    kit.heard(Beat::join("new", &["t"]));
    kit.reload();
    assert_eq!(kit.describe().expect("a group").members.len(), 2);
    // And the way back.
    let leaves = kit.beat(Beat::alive("new", LEAVES.0));
    kit.desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert!(kit.answer(leaves).expect("told").error_code.is_error());
    kit.desk.pass(1_000);
    kit.desk.settle();
    let joined = kit.joined(&old);
    kit.sync(&joined, &[(&old, 0)]);
    kit.reload();
    assert_eq!((kit.state().as_str(), kit.desk.state().as_str()), ("none", "Stable"));
}

/// A JoinGroup of a member under another instance id would leave the old one pointing to nobody.
#[test]
fn a_classic_member_does_not_change_its_instance() {
    let (mut kit, old) = Kit::mixed();
    let mut join = |member: &str, instance| {
        let token = kit.desk.join(Join { member, instance: Some(instance), ..Join::default() });
        kit.desk.pass(0);
        kit.desk.settle();
        kit.desk.joined(token)
    };
    assert_eq!(join(&old, "i").error_code, ErrorCode::UNKNOWN_MEMBER_ID, "it came without one");
    let first = join("", "i").member_id;
    assert_eq!(join(&first, "i").error_code, ErrorCode::NONE);
    assert_eq!(join(&first, "j").error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(join("", "j").error_code, ErrorCode::NONE, "another member");
}

#[test]
fn member_ids_that_are_promised_count_as_members() {
    let mut kit = Kit::with(&[("t", 2)], Settings { consumer_max_members: 2, ..Settings::default() });
    kit.heard(Beat::join("new", &["t"]));
    let mut join = |member: &str| {
        let token = kit.desk.join(Join { member, knows_member_ids: true, ..Join::default() });
        kit.desk.settle();
        let told = kit.desk.joined(token);
        (told.error_code, told.member_id)
    };
    let (code, promised) = join("");
    assert_eq!(code, ErrorCode::MEMBER_ID_REQUIRED);
    assert_eq!(join("").0, ErrorCode::GROUP_MAX_SIZE_REACHED);
    assert_eq!(join(&promised).0, ErrorCode::NONE, "it does not count against itself");
}
