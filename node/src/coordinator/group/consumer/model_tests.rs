//! Random members of KIP-848 against a tiny model: one owner of each partition at any time, as members believe and as
//! the coordinator does (GRP-1, GRP-6), epochs that only rise (GRP-12), no commit of a member that is behind (GRP-4),
//! a live shard that equals its log read back (GRP-7), and a plan that is reached when all is calm (GRP-11).

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{Generation, PartitionId, TopicId};
use dejaq_wire::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatResponse;
use proptest::prelude::*;

use super::super::ask::{Reply, Token};
use super::super::classic::Group;
use super::super::load::Loading;
use super::super::settings::Settings;
use super::keep::Key;
use super::member::LEAVES;
use super::tests::{Beat, Kit, given};
use crate::coordinator::consumer_record::Parts;
use crate::coordinator::record::Record;

const G: &str = "g";
const CLIENTS: usize = 4;
/// Client 3 is a static member.
const STATIC: usize = 3;
const NAMES: [&str; 3] = ["ta", "tb", "x"];
/// What each client reads: by name, and by pattern.
const READS: [(&[&str], Option<&str>); CLIENTS] =
    [(&["ta", "tb"], None), (&["ta", "tb"], None), (&["x"], Some("t.*")), (&["tb", "x"], None)];

/// A consumer that does as it is told, sooner or later.
#[derive(Default)]
struct Client {
    /// Which life of it this is; its id.
    life: usize,
    /// 0 while it is no member.
    epoch: i32,
    /// What it believes that it owns.
    owned: Parts,
    /// What it was told to own, if it has not done that yet.
    shall: Option<Parts>,
    beating: Option<Token>,
    /// What it says next: everything, as after a heartbeat whose answer did not come.
    says_all: bool,
}

impl Client {
    /// An answer does not come: the next heartbeat tells and asks for everything.
    fn loses(&mut self) {
        (self.says_all, self.shall) = (true, None);
    }
}

struct World {
    kit: Kit,
    clients: [Client; CLIENTS],
    /// The largest epoch that anyone was told.
    told: i32,
    commits: Vec<(Token, bool)>,
}

impl World {
    fn new() -> World {
        let kit = Kit::new(&[("ta", 3), ("tb", 2)]);
        World { kit, clients: Default::default(), told: 0, commits: Vec::new() }
    }

    fn id(&self, who: usize) -> String {
        format!("c{who}-{}", self.clients[who].life)
    }

    fn act(&mut self, op: u8, who: usize, x: u16) {
        match op {
            0..=4 => self.beat(who),
            5 | 6 => self.obey(who),
            7 => self.leave(who),
            // It dies: nobody believes anything, and the coordinator does not know.
            8 => {
                let life = self.clients[who].life + 1;
                self.clients[who] = Client { life, ..Client::default() };
            }
            // Its answer is lost.
            9 => {
                if let Some(token) = self.clients[who].beating.take() {
                    self.kit.desk.replies.remove(&token);
                    self.clients[who].loses();
                }
            }
            10 => self.kit.desk.pass(u64::from(x)),
            11..=14 if !self.kit.desk.writing.is_empty() => self.kit.desk.end_write(Ok(())),
            15 if !self.kit.desk.writing.is_empty() && x.is_multiple_of(3) => {
                self.kit.desk.end_write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
            }
            16 if x.is_multiple_of(4) => self.reload(),
            17 if x.is_multiple_of(3) => self.change_topics(usize::from(x / 3)),
            18 => self.commit(who, x),
            _ => {}
        }
        self.hear();
        self.check();
    }

    fn beat(&mut self, who: usize) {
        let (id, client) = (self.id(who), &self.clients[who]);
        if client.beating.is_some() {
            return;
        }
        let (topics, pattern) = READS[who];
        let beat = Beat {
            epoch: client.epoch,
            instance: (who == STATIC).then_some("i"),
            // A member that joins owns nothing, and says so.
            owned: Some(client.owned.clone()),
            pattern,
            ..Beat::join(&id, topics)
        };
        let is_full = client.epoch == 0 || client.says_all;
        let beat = match is_full {
            true => beat,
            // It says what it owns when it has done what it was told.
            false if client.shall.is_none() => Beat { topics: None, pattern: None, ..beat },
            false => Beat { topics: None, pattern: None, owned: None, ..beat },
        };
        let token = self.kit.beat(beat);
        let client = &mut self.clients[who];
        client.beating = Some(token);
        if is_full {
            client.shall = None; // it said what it owns, and will be told anew
        }
    }

    /// Gives up first, and takes what is new.
    fn obey(&mut self, who: usize) {
        if let Some(shall) = self.clients[who].shall.take() {
            self.clients[who].owned = shall;
        }
    }

    fn leave(&mut self, who: usize) {
        let (id, client) = (self.id(who), &mut self.clients[who]);
        if client.epoch == 0 || client.beating.is_some() {
            return;
        }
        *client = Client { life: client.life + 1, ..Client::default() };
        // A static member comes back in some lives, and not in others.
        let epoch = if who == STATIC && client.life % 2 == 0 { -2 } else { LEAVES.0 };
        let instance = (who == STATIC).then_some("i");
        self.kit.beat(Beat { instance, epoch, ..Beat::alive(&id, 0) });
    }

    fn reload(&mut self) {
        self.kit.reload();
        for client in &mut self.clients {
            if client.beating.take().is_some() {
                client.loses();
            }
        }
        self.commits.clear();
        self.kit.desk.replies.clear();
    }

    fn change_topics(&mut self, x: usize) {
        let name = NAMES[x % NAMES.len()];
        match (self.kit.exists(name), x % 4) {
            (false, _) => self.kit.create(name, 1 + x % 3),
            (true, 0) => self.kit.delete(name),
            (true, _) if self.kit.all(name).len() < 6 => self.kit.grow(name, 1),
            (true, _) => {}
        }
    }

    fn commit(&mut self, who: usize, x: u16) {
        let (id, epoch) = (self.id(who), self.clients[who].epoch - i32::from(x.is_multiple_of(2)));
        let is_own = self.member_epoch(&id) == Some(Generation(epoch));
        let is_alone = epoch < 0 && self.group().is_none_or(|group| group.size() == 0);
        let token = self.kit.desk.commit(&id, Generation(epoch), "ta", i64::from(x));
        self.commits.push((token, is_own || is_alone));
    }

    fn group(&self) -> Option<&Group> {
        self.kit.desk.groups.group(G)
    }

    fn member_epoch(&self, id: &str) -> Option<Generation> {
        let consumer = self.group()?.consumer.as_ref()?;
        consumer.members.get(id).map(|member| member.epoch)
    }

    fn hear(&mut self) {
        for who in 0..CLIENTS {
            let Some(token) = self.clients[who].beating else { continue };
            if let Some(told) = self.kit.answer(token) {
                self.clients[who].beating = None;
                self.told(who, &told);
            }
        }
        let commits = std::mem::take(&mut self.commits);
        for (token, may) in commits {
            match self.kit.desk.replies.remove(&token) {
                None => self.commits.push((token, may)),
                Some(Reply::Partitions(results)) => {
                    assert!(may || results[0].1.is_error(), "a commit of a member that is behind is kept");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn told(&mut self, who: usize, told: &ConsumerGroupHeartbeatResponse) {
        let client = &mut self.clients[who];
        match told.error_code {
            ErrorCode::NONE => {
                let epoch = told.member_epoch.0;
                assert!(epoch >= client.epoch, "client {who} goes back from {} to {epoch}", client.epoch);
                self.told = self.told.max(epoch);
                (client.epoch, client.says_all) = (epoch, false);
                if told.assignment.is_some() {
                    client.shall = Some(given(told));
                }
            }
            ErrorCode::COORDINATOR_NOT_AVAILABLE => client.loses(),
            // Fenced: it gives up everything, and joins under a new id.
            _ => *client = Client { life: client.life + 1, ..Client::default() },
        }
    }

    fn check(&mut self) {
        let mut owners: BTreeMap<(TopicId, PartitionId), usize> = BTreeMap::new();
        for who in 0..CLIENTS {
            // One that the coordinator took for gone does not know it yet, and cannot commit.
            if self.member_epoch(&self.id(who)).is_none_or(|epoch| epoch < Generation(0)) {
                continue;
            }
            for part in &self.clients[who].owned {
                let other = owners.insert(*part, who);
                assert!(other.is_none(), "{part:?} is owned by {other:?} and {who}");
            }
        }
        let Some(group) = self.group() else { return };
        if let Some(consumer) = &group.consumer {
            assert!(self.told <= consumer.epoch.0, "the group goes back behind {}", self.told);
        }
        if self.kit.desk.writing.is_empty() && group.keep.is_idle() {
            let mut loading = Loading::default();
            self.kit.desk.log.iter().cloned().for_each(|record| loading.replay(record));
            let again = loading.finish(Settings::default(), self.kit.desk.now);
            let kept = again.group(G).map(picture).unwrap_or_default();
            assert_eq!(kept, picture(group), "the live group is that of the log");
        }
    }

    /// Faults end: all come, and the plan is reached.
    fn calm(&mut self) {
        for _ in 0..60 {
            for who in 0..CLIENTS {
                self.obey(who);
                self.beat(who);
                while !self.kit.desk.writing.is_empty() {
                    self.kit.desk.end_write(Ok(()));
                    self.hear();
                }
                self.hear();
                self.check();
            }
            self.kit.desk.pass(2_000);
            self.kit.desk.settle();
        }
        assert_eq!(self.kit.state(), "Stable");
        let wanted: Parts =
            NAMES.iter().filter(|name| self.kit.exists(name)).flat_map(|name| self.kit.all(name)).collect();
        let owned: Vec<_> = self.clients.iter().flat_map(|client| client.owned.iter().copied()).collect();
        assert_eq!(owned.len(), wanted.len(), "nothing is owned twice");
        assert_eq!(owned.into_iter().collect::<Parts>(), wanted, "and all of it is");
    }
}

/// Everything that the log is to know of a group.
fn picture(group: &Group) -> BTreeMap<Key, Option<Record>> {
    let Some(consumer) = &group.consumer else { return BTreeMap::new() };
    if consumer.epoch == Generation(0) {
        return BTreeMap::new();
    }
    let ids = consumer.members.keys();
    let of = |id: &std::sync::Arc<str>| {
        [Key::Member(id.clone()), Key::Target(id.clone()), Key::Current(id.clone())]
    };
    let keys = ids.flat_map(of).chain([Key::Epoch, Key::TargetEpoch]);
    keys.map(|key| (key.clone(), group.record_of(&key))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_members_never_break_the_promises_of_a_group(
        acts in proptest::collection::vec((0u8..19, 0usize..CLIENTS, 0u16..12_000), 1..200),
    ) {
        let mut world = World::new();
        for (op, who, x) in acts {
            world.act(op, who, x);
        }
        world.calm();
    }
}
