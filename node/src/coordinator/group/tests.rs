//! Claims about one group, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, LeaderEpoch, Offset, PartitionId};
use dejaq_wire::kafka::heartbeat::HeartbeatRequest;
use dejaq_wire::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use dejaq_wire::kafka::leave_group::MemberIdentity;
use dejaq_wire::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};

use super::Groups;
use super::ask::{Ask, CommitAsk, Effect, Event, JoinAsk, LeaveAsk, Now, Reply, Ticket, Token};
use super::load::Loading;
use super::settings::Settings;
use super::subscription;
use crate::coordinator::record::{At, Committed, Record};
use crate::runtime::Mono;

const G: &str = "g";
const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

/// A shard in memory: what is written is kept in order, and reported when a test says so.
pub(super) struct Desk {
    pub groups: Groups,
    pub now: Now,
    pub log: Vec<Record>,
    pub writing: Vec<(Ticket, Vec<Record>)>,
    pub replies: BTreeMap<Token, Reply>,
    pub next: u64,
}

impl Desk {
    pub fn new(settings: Settings) -> Desk {
        let now = Now { mono: Mono(0), unix_ms: 1_800_000_000_000 };
        let groups = Loading::default().finish(settings, now);
        Desk { groups, now, log: Vec::new(), writing: Vec::new(), replies: BTreeMap::new(), next: 0 }
    }

    /// Without a delay for the first rebalance.
    pub fn quick() -> Desk {
        Desk::new(Settings { initial_delay: Duration::ZERO, ..Settings::default() })
    }

    pub fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.groups.step(event, self.now, &mut effects);
        self.groups.check_deep();
        for effect in effects {
            match effect {
                Effect::Reply { token, reply } => {
                    assert!(self.replies.insert(token, reply).is_none(), "{token:?} is answered twice");
                }
                Effect::Write { ticket, records } => self.writing.push((ticket, records)),
                Effect::WriteInTxn { .. } | Effect::WriteMarker { .. } => panic!("{effect:?}"),
            }
        }
    }

    pub fn ask(&mut self, ask: Ask) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.step(Event::Asked { token, ask });
        token
    }

    /// The oldest write ends.
    pub fn end_write(&mut self, result: Result<(), ErrorCode>) {
        let (ticket, records) = self.writing.remove(0);
        if result.is_ok() {
            self.log.extend(records);
        }
        self.step(Event::Written { ticket, result });
    }

    pub fn settle(&mut self) {
        while !self.writing.is_empty() {
            self.end_write(Ok(()));
        }
    }

    pub fn pass(&mut self, ms: u64) {
        let until = self.now.mono.plus(Duration::from_millis(ms));
        while self.groups.next_deadline() <= until {
            let at = self.groups.next_deadline().max(self.now.mono);
            self.set(at);
            self.step(Event::Tick);
        }
        self.set(until);
    }

    fn set(&mut self, at: Mono) {
        self.now.unix_ms += i64::try_from(at.since(self.now.mono).as_millis()).expect("short");
        self.now.mono = at;
    }

    pub fn joined(&mut self, token: Token) -> JoinGroupResponse {
        match self.replies.remove(&token) {
            Some(Reply::Join(joined)) => joined,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub fn synced(&mut self, token: Token) -> SyncGroupResponse {
        match self.replies.remove(&token) {
            Some(Reply::Sync(part)) => part,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub fn join(&mut self, join: Join) -> Token {
        let entropy = u128::from(self.next) << 64;
        self.ask(Ask::Join(Box::new(JoinAsk {
            request: JoinGroupRequest {
                group_id: G.into(),
                session_timeout_ms: SESSION_MS,
                rebalance_timeout_ms: REBALANCE_MS,
                member_id: join.member.into(),
                group_instance_id: join.instance.map(str::to_owned),
                protocol_type: "consumer".into(),
                protocols: join
                    .protocols
                    .iter()
                    .map(|name| JoinGroupRequestProtocol {
                        name: (*name).into(),
                        metadata: subscription::encode_owning(join.topics, join.owned),
                    })
                    .collect(),
                reason: None,
            },
            client_id: "c".into(),
            client_host: "/h".into(),
            knows_member_ids: join.knows_member_ids,
            knows_skipping: join.knows_skipping,
            entropy,
        })))
    }

    pub fn sync(&mut self, member: &str, generation: Generation, plan: &[(&str, &'static str)]) -> Token {
        let part = |(id, part): &(&str, &'static str)| SyncGroupRequestAssignment {
            member_id: (*id).into(),
            assignment: Bytes::from_static(part.as_bytes()),
        };
        self.ask(Ask::Sync(SyncGroupRequest {
            group_id: G.into(),
            generation_id: generation,
            member_id: member.into(),
            assignments: plan.iter().map(part).collect(),
            ..Default::default()
        }))
    }

    pub fn heartbeat(&mut self, member: &str, generation: Generation) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: G.into(),
            generation_id: generation,
            member_id: member.into(),
            ..Default::default()
        };
        let token = self.ask(Ask::Heartbeat(request));
        self.code(token)
    }

    pub fn code(&mut self, token: Token) -> ErrorCode {
        match self.replies.remove(&token) {
            Some(Reply::Code(code)) => code,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub fn commit(&mut self, member: &str, generation: Generation, topic: &str, offset: i64) -> Token {
        let committed = Committed {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: String::new(),
            committed_ms: self.now.unix_ms,
            expires_ms: None,
        };
        self.ask(Ask::Commit(CommitAsk {
            group: G.into(),
            member: member.into(),
            instance: None,
            generation,
            offsets: vec![(at(topic), committed)],
        }))
    }

    /// The one result of a commit or a deletion.
    pub fn result(&mut self, token: Token) -> ErrorCode {
        match self.replies.remove(&token) {
            Some(Reply::Partitions(results)) => results[0].1,
            Some(Reply::Refused(code)) => code,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub fn offset(&mut self, topic: &str) -> Option<i64> {
        let token = self.ask(Ask::Fetch { group: G.into(), wanted: Some(vec![at(topic)]), member: None });
        match self.replies.remove(&token) {
            Some(Reply::Offsets(offsets, _)) => offsets[0].1.as_ref().map(|kept| kept.offset.0),
            other => panic!("{other:?}"),
        }
    }

    pub fn leave(&mut self, member: &str) {
        let identity = MemberIdentity { member_id: member.into(), ..Default::default() };
        let token = self.ask(Ask::Leave(LeaveAsk { group: G.into(), members: vec![identity] }));
        match self.replies.remove(&token) {
            Some(Reply::Leave(results)) => assert_eq!(results[0].error_code, ErrorCode::NONE),
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self) -> String {
        let token = self.ask(Ask::Describe { group: G.into() });
        match self.replies.remove(&token) {
            Some(Reply::Described(Some(group))) => group.group_state,
            Some(Reply::Described(None)) => "none".into(),
            other => panic!("{other:?}"),
        }
    }

    /// Kills the shard and reads its log back.
    pub fn reload(&mut self) {
        self.writing.clear();
        let mut loading = Loading::default();
        self.log.iter().cloned().for_each(|record| loading.replay(record));
        let settings = Settings { initial_delay: Duration::ZERO, ..Settings::default() };
        self.groups = loading.finish(settings, self.now);
        self.groups.check_deep();
    }

    /// A stable group of one member that reads `topics`.
    pub fn with_one(topics: &[&'static str]) -> (Desk, String, Generation) {
        let mut desk = Desk::quick();
        let token = desk.join(Join { topics: topics.to_vec().leak(), ..Join::default() });
        desk.pass(0);
        let joined = desk.joined(token);
        desk.finish_rebalance(&joined, &[(&joined.member_id, "all")]);
        (desk, joined.member_id, joined.generation_id)
    }

    /// The leader hands in a plan, and it is written.
    pub fn finish_rebalance(&mut self, leader: &JoinGroupResponse, plan: &[(&str, &'static str)]) {
        let token = self.sync(&leader.member_id, leader.generation_id, plan);
        self.settle();
        assert_eq!(self.synced(token).error_code, ErrorCode::NONE);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Join<'a> {
    pub member: &'a str,
    pub instance: Option<&'a str>,
    pub protocols: &'a [&'a str],
    pub topics: &'a [&'a str],
    /// What it says that it owns.
    pub owned: &'a [subscription::Named],
    pub knows_member_ids: bool,
    pub knows_skipping: bool,
}

impl Default for Join<'_> {
    fn default() -> Self {
        Join {
            member: "",
            instance: None,
            protocols: &["range"],
            topics: &["t"],
            owned: &[],
            knows_member_ids: false,
            knows_skipping: false,
        }
    }
}

pub(super) fn at(topic: &str) -> At {
    At { topic: topic.into(), partition: PartitionId(0) }
}

/// A stable group of two: the leader's join, the other's.
fn two() -> (Desk, JoinGroupResponse, JoinGroupResponse) {
    let (mut desk, first, generation) = Desk::with_one(&["t"]);
    let other = desk.join(Join::default());
    assert_eq!(desk.heartbeat(&first, generation), ErrorCode::REBALANCE_IN_PROGRESS);
    let again = desk.join(Join { member: &first, ..Join::default() });
    let (leader, other) = (desk.joined(again), desk.joined(other));
    assert_eq!((leader.leader.as_str(), leader.members.len()), (first.as_str(), 2));
    assert_eq!((other.leader.as_str(), other.members.len()), (first.as_str(), 0));
    let waits = desk.sync(&other.member_id, other.generation_id, &[]);
    desk.finish_rebalance(&leader, &[(&leader.member_id, "a"), (&other.member_id, "b")]);
    assert_eq!(desk.synced(waits).assignment, "b");
    (desk, leader, other)
}

#[test]
fn a_new_member_is_given_its_id_before_it_counts() {
    let mut desk = Desk::quick();
    let token = Token(1000);
    let join = |member: &str| {
        let request = JoinGroupRequest {
            group_id: G.into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            member_id: member.into(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new() }],
            ..Default::default()
        };
        Ask::Join(Box::new(JoinAsk {
            request,
            client_id: "c".into(),
            client_host: "/h".into(),
            knows_member_ids: true,
            knows_skipping: true,
            entropy: 7,
        }))
    };
    desk.step(Event::Asked { token, ask: join("") });
    let told = desk.joined(token);
    assert_eq!(told.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    assert!(told.member_id.starts_with("c-"), "{}", told.member_id);
    assert_eq!(desk.groups.members(), 0);
    let token = desk.ask(join(&told.member_id));
    desk.pass(0);
    assert_eq!(desk.joined(token).member_id, told.member_id);
    // One that was given out and never used is forgotten, and the group with it.
    let mut desk = Desk::quick();
    desk.ask(join(""));
    assert_eq!(desk.groups.len(), 1);
    desk.pass(SESSION_MS as u64);
    assert_eq!(desk.groups.len(), 0);
}

#[test]
fn the_first_rebalance_waits_for_more_members_and_longer_while_they_come() {
    let mut desk = Desk::new(Settings::default());
    let first = desk.join(Join::default());
    desk.pass(2_900);
    let second = desk.join(Join::default());
    desk.pass(200); // the delay of 3 s is over, but somebody came
    assert!(desk.replies.is_empty(), "{:?}", desk.replies);
    desk.pass(3_000);
    let (first, second) = (desk.joined(first), desk.joined(second));
    assert_eq!((first.generation_id, second.generation_id), (Generation(1), Generation(1)));
    assert_eq!(first.members.len() + second.members.len(), 2, "one of them leads");
}

#[test]
fn the_leaders_plan_reaches_every_member_only_when_it_is_written() {
    let (mut desk, first, _) = Desk::with_one(&["t"]);
    let other = desk.join(Join::default());
    let leader = desk.join(Join { member: &first, ..Join::default() });
    let (leader, other) = (desk.joined(leader), desk.joined(other));
    let waits = desk.sync(&other.member_id, other.generation_id, &[]);
    let plan = desk.sync(&first, leader.generation_id, &[(&first, "a"), (&other.member_id, "b")]);
    assert!(desk.replies.is_empty(), "the plan is not written yet");
    assert_eq!(desk.state(), "CompletingRebalance");
    desk.end_write(Ok(()));
    assert_eq!((desk.synced(plan).assignment, desk.synced(waits).assignment), ("a".into(), "b".into()));
    assert_eq!(desk.state(), "Stable");
}

#[test]
fn a_plan_that_cannot_be_written_begins_another_rebalance() {
    let mut desk = Desk::quick();
    let token = desk.join(Join::default());
    desk.pass(0);
    let joined = desk.joined(token);
    let plan = desk.sync(&joined.member_id, joined.generation_id, &[]);
    desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!(desk.synced(plan).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_plan_of_a_generation_that_is_over_changes_nothing() {
    let mut desk = Desk::quick();
    let token = desk.join(Join::default());
    desk.pass(0);
    let joined = desk.joined(token);
    let plan = desk.sync(&joined.member_id, joined.generation_id, &[(&joined.member_id, "old")]);
    let other = desk.join(Join::default());
    assert_eq!(desk.synced(plan).error_code, ErrorCode::REBALANCE_IN_PROGRESS);
    desk.end_write(Ok(()));
    assert_eq!(desk.state(), "PreparingRebalance");
    let again = desk.join(Join { member: &joined.member_id, ..Join::default() });
    assert_eq!(desk.joined(again).generation_id, Generation(2));
    assert_eq!(desk.joined(other).generation_id, Generation(2));
}

#[test]
fn a_silent_member_is_out_after_its_session_and_the_others_rebalance() {
    let (mut desk, leader, other) = two();
    for _ in 0..3 {
        desk.pass(4_000);
        desk.heartbeat(&leader.member_id, leader.generation_id);
    }
    assert_eq!(desk.state(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(&other.member_id, other.generation_id), ErrorCode::UNKNOWN_MEMBER_ID);
    let again = desk.join(Join { member: &leader.member_id, ..Join::default() });
    assert_eq!(desk.joined(again).members.len(), 1);
}

#[test]
fn a_member_that_leaves_makes_the_others_rebalance_and_the_last_one_empties_the_group() {
    let (mut desk, leader, other) = two();
    desk.leave(&leader.member_id);
    let again = desk.join(Join { member: &other.member_id, ..Join::default() });
    let joined = desk.joined(again);
    assert_eq!((&joined.leader, joined.members.len()), (&other.member_id, 1));
    desk.leave(&other.member_id);
    assert_eq!(desk.state(), "Empty");
    desk.settle();
    desk.reload();
    assert_eq!(desk.state(), "Empty");
}

#[test]
fn a_member_that_does_not_come_to_a_rebalance_is_out_after_the_rebalance_timeout() {
    let (mut desk, leader, other) = two();
    let third = desk.join(Join::default());
    let again = desk.join(Join { member: &leader.member_id, ..Join::default() });
    for _ in 0..7 {
        desk.pass(8_500); // it says that it lives, and does not come
        desk.heartbeat(&other.member_id, other.generation_id);
    }
    desk.pass(1_000);
    assert_eq!(desk.joined(again).members.len(), 2);
    assert_eq!(desk.joined(third).error_code, ErrorCode::NONE);
    assert_eq!(desk.heartbeat(&other.member_id, other.generation_id), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_that_joined_and_never_asks_for_its_part_is_out() {
    let (mut desk, leader, _) = two();
    let third = desk.join(Join::default());
    desk.pass(5_000);
    let again = desk.join(Join { member: &leader.member_id, ..Join::default() });
    desk.pass(6_000); // the session of the other one ends
    let (joined, third) = (desk.joined(again), desk.joined(third));
    desk.finish_rebalance(&joined, &[]);
    for _ in 0..8 {
        desk.pass(8_000);
        desk.heartbeat(&joined.member_id, joined.generation_id);
        desk.heartbeat(&third.member_id, third.generation_id);
    }
    assert_eq!(desk.heartbeat(&third.member_id, third.generation_id), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn the_protocol_is_one_that_all_offer_and_most_like_best() {
    let mut desk = Desk::quick();
    let one = desk.join(Join { protocols: &["range", "sticky"], ..Join::default() });
    desk.pass(0);
    let one = desk.joined(one);
    assert_eq!(one.protocol_name.as_deref(), Some("range"));
    let two = desk.join(Join { protocols: &["sticky", "range"], ..Join::default() });
    let three = desk.join(Join { protocols: &["sticky", "range"], ..Join::default() });
    let again =
        desk.join(Join { member: &one.member_id, protocols: &["range", "sticky"], ..Join::default() });
    for token in [two, three, again] {
        assert_eq!(desk.joined(token).protocol_name.as_deref(), Some("sticky"));
    }
    let stranger = desk.join(Join { protocols: &["other"], ..Join::default() });
    assert_eq!(desk.joined(stranger).error_code, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn a_leader_that_joins_again_begins_a_rebalance_and_another_member_does_not() {
    let (mut desk, leader, other) = two();
    let again = desk.join(Join { member: &other.member_id, ..Join::default() });
    assert_eq!(desk.joined(again).generation_id, other.generation_id);
    desk.join(Join { member: &leader.member_id, ..Join::default() });
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn a_member_with_another_subscription_begins_a_rebalance() {
    let (mut desk, _, other) = two();
    desk.join(Join { member: &other.member_id, topics: &["t", "u"], ..Join::default() });
    assert_eq!(desk.state(), "PreparingRebalance");
}

#[test]
fn who_is_not_of_now_is_refused_whatever_it_asks() {
    let (mut desk, leader, other) = two();
    let (old, now) = (Generation(1), leader.generation_id);
    assert_eq!(desk.heartbeat(&other.member_id, old), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(desk.heartbeat("nobody", now), ErrorCode::UNKNOWN_MEMBER_ID);
    let sync = desk.sync(&other.member_id, old, &[]);
    assert_eq!(desk.synced(sync).error_code, ErrorCode::ILLEGAL_GENERATION);
    let join = desk.join(Join { member: "nobody", ..Join::default() });
    assert_eq!(desk.joined(join).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
}

/// Kills M42.
#[test]
fn a_commit_of_a_zombie_changes_nothing() {
    let (mut desk, leader, other) = two();
    let good = desk.commit(&leader.member_id, leader.generation_id, "t", 10);
    desk.settle();
    assert_eq!(desk.result(good), ErrorCode::NONE);
    for (member, generation, code) in [
        (other.member_id.as_str(), Generation(1), ErrorCode::ILLEGAL_GENERATION),
        ("nobody", leader.generation_id, ErrorCode::UNKNOWN_MEMBER_ID),
        ("", Generation::NONE, ErrorCode::UNKNOWN_MEMBER_ID),
    ] {
        let refused = desk.commit(member, generation, "t", 5);
        assert!(desk.writing.is_empty(), "{member} at {generation:?} writes");
        assert_eq!(desk.result(refused), code, "{member} at {generation:?}");
    }
    assert_eq!(desk.offset("t"), Some(10));
}

#[test]
fn a_member_commits_before_it_joins_again_and_not_before_it_knows_its_part() {
    let (mut desk, leader, other) = two();
    desk.join(Join::default());
    let before = desk.commit(&other.member_id, other.generation_id, "t", 3);
    desk.settle();
    assert_eq!(desk.result(before), ErrorCode::NONE);
    desk.join(Join { member: &other.member_id, ..Join::default() });
    let again = desk.join(Join { member: &leader.member_id, ..Join::default() });
    let joined = desk.joined(again);
    let after = desk.commit(&leader.member_id, joined.generation_id, "t", 4);
    assert_eq!(desk.result(after), ErrorCode::REBALANCE_IN_PROGRESS);
}

#[test]
fn an_offset_is_told_when_it_is_written_and_not_before() {
    let mut desk = Desk::quick();
    let first = desk.commit("", Generation::NONE, "t", 1);
    assert_eq!(desk.offset("t"), None);
    let second = desk.commit("", Generation::NONE, "t", 2);
    desk.end_write(Ok(()));
    assert_eq!((desk.result(first), desk.offset("t")), (ErrorCode::NONE, Some(1)));
    desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    assert_eq!((desk.result(second), desk.offset("t")), (ErrorCode::COORDINATOR_NOT_AVAILABLE, Some(1)));
}

#[test]
fn text_that_is_too_long_is_refused_for_its_partition_only() {
    let mut desk = Desk::quick();
    let committed = |metadata: String| Committed {
        offset: Offset(1),
        leader_epoch: LeaderEpoch(0),
        metadata,
        committed_ms: 0,
        expires_ms: None,
    };
    let token = desk.ask(Ask::Commit(CommitAsk {
        group: G.into(),
        member: String::new(),
        instance: None,
        generation: Generation::NONE,
        offsets: vec![(at("t"), committed("x".repeat(4097))), (at("u"), committed("x".repeat(4096)))],
    }));
    desk.settle();
    let codes = [ErrorCode::OFFSET_METADATA_TOO_LARGE, ErrorCode::NONE];
    let told = vec![(at("t"), codes[0]), (at("u"), codes[1])];
    assert_eq!(desk.replies.remove(&token), Some(Reply::Partitions(told)));
    assert_eq!((desk.offset("t"), desk.offset("u")), (None, Some(1)));
}

#[test]
fn a_static_member_that_comes_back_takes_its_place_without_a_rebalance() {
    let mut desk = Desk::quick();
    let first = desk.join(Join { instance: Some("i"), ..Join::default() });
    desk.pass(0);
    let old = desk.joined(first);
    desk.finish_rebalance(&old, &[(&old.member_id, "all")]);
    let back = desk.join(Join { instance: Some("i"), knows_skipping: true, ..Join::default() });
    assert!(!desk.replies.contains_key(&back), "its new id is not written yet");
    desk.settle();
    let new = desk.joined(back);
    assert_eq!((new.generation_id, new.skip_assignment), (old.generation_id, true));
    assert_ne!(new.member_id, old.member_id);
    let part = desk.sync(&new.member_id, new.generation_id, &[]);
    assert_eq!(desk.synced(part).assignment, "all");
    // The old process is told that somebody took its place.
    let mut request = HeartbeatRequest {
        group_id: G.into(),
        generation_id: old.generation_id,
        member_id: old.member_id,
        group_instance_id: Some("i".into()),
    };
    let token = desk.ask(Ask::Heartbeat(request.clone()));
    assert_eq!(desk.code(token), ErrorCode::FENCED_INSTANCE_ID);
    // And the new one lives on, also after the coordinator moved.
    desk.reload();
    request.member_id = new.member_id;
    let token = desk.ask(Ask::Heartbeat(request));
    assert_eq!(desk.code(token), ErrorCode::NONE);
}

#[test]
fn a_static_member_that_comes_back_with_another_subscription_makes_all_rebalance() {
    let mut desk = Desk::quick();
    let first = desk.join(Join { instance: Some("i"), ..Join::default() });
    desk.pass(0);
    let old = desk.joined(first);
    desk.finish_rebalance(&old, &[]);
    let back = desk.join(Join { instance: Some("i"), topics: &["u"], ..Join::default() });
    assert_eq!(
        desk.joined(back).generation_id,
        Generation(2),
        "it is alone, so the rebalance is over at once"
    );
}

#[test]
fn an_operator_takes_a_static_member_out_by_its_instance() {
    let mut desk = Desk::quick();
    let first = desk.join(Join { instance: Some("i"), ..Join::default() });
    desk.pass(0);
    desk.joined(first);
    let identity =
        MemberIdentity { member_id: String::new(), group_instance_id: Some("i".into()), reason: None };
    let token = desk.ask(Ask::Leave(LeaveAsk { group: G.into(), members: vec![identity] }));
    assert!(matches!(&desk.replies[&token], Reply::Leave(r) if r[0].error_code.is_none()));
    assert_eq!(desk.state(), "Empty");
}

#[test]
fn a_stable_group_outlives_its_coordinator() {
    let (mut desk, leader, other) = two();
    let commit = desk.commit(&other.member_id, other.generation_id, "t", 42);
    desk.settle();
    assert_eq!(desk.result(commit), ErrorCode::NONE);
    desk.reload();
    assert_eq!((desk.state(), desk.offset("t")), ("Stable".into(), Some(42)));
    assert_eq!(desk.heartbeat(&leader.member_id, leader.generation_id), ErrorCode::NONE);
    let part = desk.sync(&other.member_id, other.generation_id, &[]);
    assert_eq!(desk.synced(part).assignment, "b");
    desk.pass(SESSION_MS as u64);
    assert_eq!(desk.groups.members(), 0, "sessions began anew, and ended");
}

const WEEK_MS: u64 = 7 * 86_400_000;

/// Kills M46.
#[test]
fn offsets_of_what_members_read_do_not_expire() {
    let (mut desk, member, generation) = Desk::with_one(&["t"]);
    for topic in ["t", "u"] {
        desk.commit(&member, generation, topic, 7);
    }
    desk.settle();
    let mut passed = 0;
    while passed < WEEK_MS + 1_200_000 {
        desk.pass(9_000); // and it is heard all the time
        passed += 9_000;
        desk.heartbeat(&member, generation);
        if passed % 9_000_000 == 0 {
            desk.settle();
        }
    }
    desk.settle();
    assert_eq!(desk.offset("t"), Some(7), "a member reads it");
    assert_eq!(desk.offset("u"), None, "nobody reads it any more");
}

/// Kills M46, too.
#[test]
fn offsets_count_their_age_from_when_the_group_became_empty() {
    let (mut desk, member, generation) = Desk::with_one(&["t"]);
    desk.commit(&member, generation, "t", 7);
    desk.settle();
    // The wall clock goes on while the member lives: the commit is old when the group becomes empty.
    desk.now.unix_ms += WEEK_MS as i64;
    desk.leave(&member);
    desk.settle();
    desk.pass(1_200_000);
    desk.settle();
    assert_eq!(desk.offset("t"), Some(7), "it is empty for twenty minutes only");
    desk.pass(WEEK_MS);
    desk.settle();
    assert_eq!((desk.offset("t"), desk.state()), (None, "none".into()));
    desk.reload();
    assert_eq!(desk.groups.len(), 0, "nothing of it is left");
}

#[test]
fn offsets_of_a_topic_that_members_read_are_not_deleted() {
    let (mut desk, member, generation) = Desk::with_one(&["t"]);
    for topic in ["t", "u"] {
        desk.commit(&member, generation, topic, 7);
    }
    desk.settle();
    let token = desk.ask(Ask::Forget { group: G.into(), offsets: vec![at("t"), at("u")] });
    desk.settle();
    let told = vec![(at("t"), ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC), (at("u"), ErrorCode::NONE)];
    assert_eq!(desk.replies.remove(&token), Some(Reply::Partitions(told)));
    assert_eq!((desk.offset("t"), desk.offset("u")), (Some(7), None));
    let none = desk.ask(Ask::Forget { group: "other".into(), offsets: vec![at("t")] });
    assert_eq!(desk.result(none), ErrorCode::GROUP_ID_NOT_FOUND);
}

#[test]
fn a_group_is_deleted_only_when_it_is_empty_and_then_with_all_that_is_being_committed() {
    let (mut desk, member, generation) = Desk::with_one(&["t"]);
    let token = desk.ask(Ask::Delete { group: G.into() });
    assert_eq!(desk.code(token), ErrorCode::NON_EMPTY_GROUP);
    desk.commit(&member, generation, "t", 7);
    desk.leave(&member);
    desk.settle();
    let late = desk.commit("", Generation::NONE, "u", 9);
    let token = desk.ask(Ask::Delete { group: G.into() });
    let again = desk.ask(Ask::Forget { group: G.into(), offsets: vec![at("t")] });
    assert_eq!(desk.result(again), ErrorCode::GROUP_ID_NOT_FOUND);
    let refused = desk.join(Join::default());
    assert_eq!(desk.joined(refused).error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    desk.settle();
    assert_eq!((desk.result(late), desk.code(token)), (ErrorCode::NONE, ErrorCode::NONE));
    assert_eq!((desk.groups.len(), desk.state()), (0, "none".into()));
    desk.reload();
    assert_eq!(desk.groups.len(), 0);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut desk = Desk::quick();
    desk.commit("", Generation::NONE, "t", 7);
    desk.commit("", Generation::NONE, "u", 8);
    desk.settle();
    desk.step(Event::TopicsDeleted(vec![Arc::from("t")]));
    desk.settle();
    assert_eq!((desk.offset("t"), desk.offset("u")), (None, Some(8)));
}

#[test]
fn two_deletions_of_one_offset_at_a_time_end_well() {
    let mut desk = Desk::quick();
    desk.commit("", Generation::NONE, "t", 7);
    desk.settle();
    let tokens = [0, 1].map(|_| desk.ask(Ask::Forget { group: G.into(), offsets: vec![at("t")] }));
    desk.settle();
    for token in tokens {
        assert_eq!(desk.result(token), ErrorCode::NONE);
    }
    assert_eq!(desk.groups.len(), 0);
}

#[test]
fn what_a_member_may_not_ask_is_refused_before_a_group_is_made() {
    let mut desk = Desk::quick();
    let mut ask = |change: &dyn Fn(&mut JoinGroupRequest)| {
        let mut request = JoinGroupRequest {
            group_id: G.into(),
            session_timeout_ms: SESSION_MS,
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol::default()],
            ..Default::default()
        };
        change(&mut request);
        let ask = JoinAsk {
            request,
            client_id: String::new(),
            client_host: String::new(),
            knows_member_ids: false,
            knows_skipping: false,
            entropy: 0,
        };
        let token = desk.ask(Ask::Join(Box::new(ask)));
        let code = desk.joined(token).error_code;
        assert_eq!(desk.groups.len(), 0);
        code
    };
    assert_eq!(ask(&|r| r.group_id.clear()), ErrorCode::INVALID_GROUP_ID);
    assert_eq!(ask(&|r| r.session_timeout_ms = 5_999), ErrorCode::INVALID_SESSION_TIMEOUT);
    assert_eq!(ask(&|r| r.session_timeout_ms = 1_800_001), ErrorCode::INVALID_SESSION_TIMEOUT);
    assert_eq!(ask(&|r| r.protocols.clear()), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(ask(&|r| r.protocol_type.clear()), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(ask(&|r| r.member_id = "m".into()), ErrorCode::UNKNOWN_MEMBER_ID);
    let long = Bytes::from(vec![0; (1 << 20) + 1]);
    assert_eq!(ask(&|r| r.protocols[0].metadata = long.clone()), ErrorCode::INVALID_REQUEST);
}

#[test]
fn a_group_takes_no_more_members_than_it_may() {
    let mut desk =
        Desk::new(Settings { initial_delay: Duration::ZERO, max_members: 1, ..Settings::default() });
    let first = desk.join(Join::default());
    desk.pass(0);
    desk.joined(first);
    let second = desk.join(Join::default());
    assert_eq!(desk.joined(second).error_code, ErrorCode::GROUP_MAX_SIZE_REACHED);
}
