//! Random clients, zombies, failed writes, restarts and late markers against a tiny model: legal states, decisions that
//! never flip (TXN-6), markers of durable decisions alone, fenced epochs (TXN-8), and nothing that hangs (TXN-4).

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};
use proptest::prelude::*;

use super::ask::{Ask, Reply, Token, Who};
use super::state::State;
use super::tests::{Desk, add, end};

const IDS: [&str; 2] = ["x", "y"];

#[derive(Default)]
struct Model {
    /// Whom each Init was told, by transactional id; a later one fences them.
    newest: BTreeMap<usize, Who>,
    /// To whom each producer was told first: to who named himself, or to nobody that is known.
    told: BTreeMap<(usize, ProducerId, ProducerEpoch), Option<Who>>,
    /// Everyone who was ever told to be a producer.
    known: Vec<(usize, Who)>,
    asked: BTreeMap<Token, (usize, Ask)>,
    seen: usize,
}

struct World {
    desk: Desk,
    model: Model,
}

impl World {
    fn act(&mut self, op: u8, id: usize, x: u8) {
        let someone = self
            .model
            .known
            .iter()
            .rev()
            .filter(|(of, _)| *of == id)
            .map(|(_, who)| *who)
            .nth(usize::from(x % 3));
        match (op, someone) {
            (0, _) => {
                self.desk.next_id += 1;
                self.ask(id, self.desk.init(None));
            }
            (1, Some(who)) => {
                self.desk.next_id += 1;
                self.ask(id, self.desk.init(Some(who)));
            }
            (2..=4, Some(who)) => self.ask(id, add(who, &[i32::from(x % 4)])),
            (5..=7, Some(who)) => self.ask(id, end(who, x.is_multiple_of(2), x % 8 < 6)),
            (8..=12, _) if !self.desk.writes.is_empty() => self.desk.write(Ok(())),
            (13, _) if !self.desk.writes.is_empty() => {
                self.desk.write(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE))
            }
            (14..=17, _) if !self.desk.markers.is_empty() => {
                self.desk.mark(usize::from(x) % self.desk.markers.len())
            }
            (18, _) => self.desk.pass(u64::from(x) * 50),
            (19, _) => {
                // What was being written may be in the log, in order, or not.
                for _ in 0..x % 3 {
                    if let Some((_, record)) = self.desk.writes.pop_front() {
                        self.desk.log.push(record);
                    }
                }
                self.desk.restart();
            }
            _ => {}
        }
        self.look();
    }

    fn ask(&mut self, id: usize, ask: Ask) {
        let before = self.desk.stored(IDS[id]);
        let token = self.desk.ask(IDS[id], ask.clone());
        if let Ask::Add { who, .. } = &ask
            && self.desk.reply(token).is_none()
        {
            assert_eq!(Some(*who), before.map(|stored| stored.who), "only who holds the id adds to it");
        }
        self.model.asked.insert(token, (id, ask));
    }

    /// Looks at every reply that came since.
    fn look(&mut self) {
        let new = self.desk.replies[self.model.seen..].to_vec();
        self.model.seen += new.len();
        for (token, reply) in new {
            let (id, ask) = self.model.asked.get(&token).expect("it was asked").clone();
            let Reply::Producer(told) = reply else { continue };
            self.model.known.push((id, told));
            self.one_client(id, &ask, told);
            let Ask::Init { was, .. } = ask else { continue };
            if let Some(before) = self.model.newest.insert(id, told).filter(|_| was.is_none()) {
                let is_later = told.producer_id != before.producer_id || told.epoch > before.epoch;
                assert!(is_later, "{told:?} is told after {before:?}");
            }
        }
    }

    /// No two clients are told the same epoch: only who repeats what he asked is told again.
    fn one_client(&mut self, id: usize, ask: &Ask, told: Who) {
        let asker = match ask {
            Ask::Init { was, .. } => *was,
            Ask::End { who, .. } if *who != told => Some(*who),
            _ => return,
        };
        if let Some(first) = self.model.told.insert((id, told.producer_id, told.epoch), asker) {
            assert!(asker.is_some() && asker == first, "{told:?} was told to {first:?} and to {asker:?}");
        }
    }

    fn check(&self) {
        for id in IDS {
            let records: Vec<_> = self.desk.log.iter().filter(|record| &*record.id == id).collect();
            for pair in records.windows(2) {
                let (Some(from), Some(to)) = (&pair[0].value, &pair[1].value) else { continue };
                assert!(from.state.may_become(to.state), "{from:?} became {to:?}");
                let is_later = to.who.producer_id != from.who.producer_id || to.who.epoch >= from.who.epoch;
                assert!(is_later, "{from:?} became {to:?}");
                let begins = from.state != State::Ongoing && to.state == State::Ongoing;
                let decided_before = from.state.prepared().is_some();
                assert!(!(begins && decided_before), "{from:?} became {to:?}");
            }
        }
        for (marker, stored) in &self.desk.sent {
            let stored = stored.as_ref().expect("a marker of what is in the log");
            assert_eq!(
                stored.state.prepared(),
                Some(marker.commit),
                "{marker:?} left while the log said {stored:?}"
            );
            assert_eq!(
                (stored.who.producer_id, stored.who.epoch),
                (marker.producer_id, marker.producer_epoch)
            );
        }
        let mut decisions = BTreeMap::new();
        for (marker, _) in
            self.desk.sent.iter().filter(|(_, stored)| stored.as_ref().is_some_and(|stored| stored.bumps))
        {
            let key = (marker.producer_id, marker.producer_epoch);
            let first = *decisions.entry(key).or_insert(marker.commit);
            assert_eq!(first, marker.commit, "a decision of {key:?} flips");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_decisions_stand_zombies_are_fenced_and_nothing_hangs(
        steps in prop::collection::vec((0u8..20, 0usize..2, any::<u8>()), 1..120)
    ) {
        let mut world = World { desk: Desk::new(), model: Model::default() };
        for (op, id, x) in steps {
            world.act(op, id, x);
        }
        world.check();
        // Calm: what is open is ended by its timeout, what is prepared is carried out.
        for _ in 0..4 {
            world.desk.calm();
            world.desk.pass(11_000);
        }
        world.desk.calm();
        world.look();
        world.check();
        for id in IDS {
            if let Some(stored) = world.desk.stored(id) {
                let is_over = stored.state != State::Ongoing && stored.state.prepared().is_none();
                prop_assert!(is_over, "{id} is left as {stored:?}");
            }
        }
    }
}
