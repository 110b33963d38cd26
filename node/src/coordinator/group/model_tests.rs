//! Random members against a tiny model: one owner of each partition in a generation, offsets that never go back
//! (GRP-3), refused zombies (GRP-4), and a live shard that equals its log read back (GRP-7).

use std::collections::BTreeMap;

use bytes::Bytes;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::Generation;
use dejaq_wire::kafka::join_group::JoinGroupResponse;
use proptest::prelude::*;

use super::ask::{Ask, Event, Reply, Token};
use super::classic::State;
use super::load::Loading;
use super::settings::Settings;
use super::tests::{Desk, Join, at};
use crate::coordinator::record::Record;

const G: &str = "g";
const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: usize = 4;
/// Client 3 is a static member.
const STATIC: usize = 3;

/// A consumer that reads from the committed offset on, and commits what it read.
#[derive(Default)]
struct Client {
    id: String,
    generation: Generation,
    /// What it owns, and how far it read there.
    owned: BTreeMap<String, i64>,
    joining: Option<Token>,
    syncing: Option<Token>,
    committing: Vec<Token>,
    /// It does not know any more what it owns, and asks for it.
    is_unsure: bool,
}

struct World {
    desk: Desk,
    clients: [Client; CLIENTS],
    /// Who was told to own what in which generation.
    owners: BTreeMap<(Generation, String), String>,
    /// Replies and records looked at so far.
    seen: usize,
    kept: BTreeMap<String, i64>,
}

impl World {
    fn new() -> World {
        let clients = std::array::from_fn(|_| Client { generation: Generation::NONE, ..Client::default() });
        World { desk: Desk::quick(), clients, owners: BTreeMap::new(), seen: 0, kept: BTreeMap::new() }
    }

    fn act(&mut self, op: u8, who: usize, x: u16) {
        match op {
            0 | 1 => self.join(who),
            2 => self.heartbeat(who),
            3..=5 => self.commit(who, x),
            6 => self.leave(who),
            7 => self.clients[who] = Client { generation: Generation::NONE, ..Client::default() },
            8 => self.desk.pass(u64::from(x)),
            9..=13 if !self.desk.writing.is_empty() => self.desk.end_write(Ok(())),
            14 if !self.desk.writing.is_empty() && x.is_multiple_of(4) => {
                self.desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
            }
            15 if x.is_multiple_of(4) => self.reload(),
            _ => {}
        }
        self.hear();
        self.check();
    }

    fn join(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if client.joining.is_some() || client.syncing.is_some() {
            return;
        }
        client.is_unsure = false;
        client.owned.clear(); // eager: nothing is owned in a rebalance
        let member = client.id.clone();
        let join = Join {
            member: &member,
            instance: (who == STATIC).then_some("i"),
            topics: &TOPICS,
            knows_skipping: true,
            ..Join::default()
        };
        let token = self.desk.join(join);
        self.clients[who].joining = Some(token);
    }

    fn heartbeat(&mut self, who: usize) {
        if self.clients[who].is_unsure {
            return self.join(who);
        }
        let (id, generation) = (self.clients[who].id.clone(), self.clients[who].generation);
        match self.desk.heartbeat(&id, generation) {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS => self.join(who),
            _ => self.clients[who].id.clear(),
        }
    }

    fn commit(&mut self, who: usize, x: u16) {
        let client = &mut self.clients[who];
        let Some((topic, position)) = client.owned.iter_mut().nth(usize::from(x) % TOPICS.len()) else {
            return;
        };
        *position += i64::from(x % 3) + 1;
        let (topic, position) = (topic.clone(), *position);
        let (id, generation) = (client.id.clone(), client.generation);
        let token = self.desk.commit(&id, generation, &topic, position);
        self.clients[who].committing.push(token);
    }

    fn leave(&mut self, who: usize) {
        let id = std::mem::take(&mut self.clients[who].id);
        if !id.is_empty() {
            let members =
                vec![dejaq_wire::kafka::leave_group::MemberIdentity { member_id: id, ..Default::default() }];
            self.desk.ask(Ask::Leave(super::ask::LeaveAsk { group: G.into(), members }));
        }
        self.clients[who] = Client { generation: Generation::NONE, ..Client::default() };
    }

    /// The coordinator dies: nobody is answered, and what was being written is lost.
    fn reload(&mut self) {
        self.desk.reload();
        for client in &mut self.clients {
            client.is_unsure |= client.joining.take().is_some() | client.syncing.take().is_some();
            client.committing.clear();
        }
        self.desk.replies.clear();
    }

    /// Clients take their answers.
    fn hear(&mut self) {
        for who in 0..CLIENTS {
            if let Some(token) = self.clients[who].joining
                && let Some(Reply::Join(joined)) = self.desk.replies.remove(&token)
            {
                self.clients[who].joining = None;
                self.joined(who, &joined);
            }
        }
        for who in 0..CLIENTS {
            if let Some(token) = self.clients[who].syncing
                && let Some(Reply::Sync(part)) = self.desk.replies.remove(&token)
            {
                self.clients[who].syncing = None;
                self.synced(who, part.error_code, &part.assignment);
            }
            let committing = std::mem::take(&mut self.clients[who].committing);
            for token in committing {
                match self.desk.replies.remove(&token) {
                    None => self.clients[who].committing.push(token),
                    Some(Reply::Partitions(results)) if results[0].1.is_error() => {
                        self.clients[who].owned.clear();
                        self.clients[who].is_unsure = true;
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn joined(&mut self, who: usize, joined: &JoinGroupResponse) {
        let client = &mut self.clients[who];
        if joined.error_code.is_error() {
            client.id.clear();
            return;
        }
        client.id.clone_from(&joined.member_id);
        client.generation = joined.generation_id;
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        let members: Vec<&str> = joined.members.iter().map(|member| member.member_id.as_str()).collect();
        let mut plan: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (index, topic) in TOPICS.iter().enumerate().filter(|_| leads) {
            plan.entry(members[index % members.len()]).or_default().push(topic);
        }
        let plan: Vec<(&str, &'static str)> =
            plan.into_iter().map(|(id, topics)| (id, &*topics.join(",").leak())).collect();
        let (id, generation) = (joined.member_id.clone(), joined.generation_id);
        let token = self.desk.sync(&id, generation, &plan);
        self.clients[who].syncing = Some(token);
    }

    fn synced(&mut self, who: usize, code: ErrorCode, part: &Bytes) {
        if code.is_error() {
            return;
        }
        let text = std::str::from_utf8(part).expect("our own").to_owned();
        let client_name = if who == STATIC { "i".to_owned() } else { self.clients[who].id.clone() };
        let generation = self.clients[who].generation;
        for topic in text.split(',').filter(|topic| !topic.is_empty()) {
            let owner = self.owners.entry((generation, topic.to_owned())).or_insert(client_name.clone());
            assert_eq!(*owner, client_name, "two own {topic} in {generation:?}");
            // A commit that is on its way may become the position of the group after it was asked for.
            let coming =
                self.desk.writing.iter().flat_map(|(_, records)| records).filter_map(|one| match one {
                    Record::Offset { at, value: Some(committed), .. } if &*at.topic == topic => {
                        Some(committed.offset.0)
                    }
                    _ => None,
                });
            let coming = coming.max().unwrap_or(0);
            let from = self.desk.offset(topic).unwrap_or(0).max(coming);
            self.clients[who].owned.insert(topic.to_owned(), from);
        }
    }

    fn check(&mut self) {
        for record in &self.desk.log[self.seen..] {
            if let Record::Offset { at, value: Some(committed), .. } = record {
                let before = self.kept.insert(at.topic.to_string(), committed.offset.0).unwrap_or(0);
                assert!(before <= committed.offset.0, "{at} goes back from {before} to {committed:?}");
            }
        }
        self.seen = self.desk.log.len();
        let live: Vec<_> =
            self.desk.groups.offsets().map(|(g, a, c)| (g.clone(), a.clone(), c.clone())).collect();
        let mut loading = Loading::default();
        self.desk.log.iter().cloned().for_each(|record| loading.replay(record));
        let again = loading.finish(Settings::default(), self.desk.now);
        let back: Vec<_> = again.offsets().map(|(g, a, c)| (g.clone(), a.clone(), c.clone())).collect();
        assert_eq!(live, back, "the live offsets are those of the log");
        if let Some(group) = self.desk.groups.group(G)
            && group.state == State::Stable
            && self.desk.writing.is_empty()
        {
            let kept = again.group(G).expect("a stable group is in the log");
            let parts = |group: &super::classic::Group| {
                let part =
                    |m: &super::member::Member| (m.id.clone(), m.instance.clone(), m.assignment.clone());
                group.members.values().map(part).collect::<Vec<_>>()
            };
            assert_eq!((kept.generation, &kept.leader), (group.generation, &group.leader));
            assert_eq!(parts(kept), parts(group), "the live members are those of the log");
        }
    }

    /// Faults end: everyone comes, and exactly one member owns each partition.
    fn calm(&mut self) {
        for _ in 0..40 {
            for who in 0..CLIENTS {
                if self.clients[who].id.is_empty() { self.join(who) } else { self.heartbeat(who) }
            }
            while !self.desk.writing.is_empty() {
                self.desk.end_write(Ok(()));
                self.hear();
            }
            self.hear();
            self.desk.pass(3_000);
            self.hear();
            self.check();
        }
        let mut owned: Vec<&str> =
            self.clients.iter().flat_map(|c| c.owned.keys().map(String::as_str)).collect();
        owned.sort_unstable();
        assert_eq!(owned, TOPICS, "in a calm group each partition has one owner");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_members_never_break_the_promises_of_a_group(
        acts in proptest::collection::vec((0u8..16, 0usize..CLIENTS, 0u16..12_000), 1..150),
    ) {
        let mut world = World::new();
        for (op, who, x) in acts {
            world.act(op, who, x);
        }
        world.calm();
    }
}

#[test]
fn an_event_of_time_is_never_needed_twice_at_once() {
    let mut desk = Desk::quick();
    desk.join(Join::default());
    desk.step(Event::Tick);
    let deadline = desk.groups.next_deadline();
    assert!(deadline > desk.now.mono, "{deadline:?} is past: time would not go on");
    let _ = at("t");
}
