//! Whole quorums, told cut by cut: what chaos meets too seldom. Sources: CORRECTNESS.md 3.3 (S36, S37, S38).
//!
//! Owns: who is cut off when, and who asks for what. Promises: god judges every step, as under chaos; a quorum that did not do
//! what a story needs fails it by name, so that none shows nothing; afterwards all is healed, and must work (`nemesis::calm`).
//! Who is who, and how long messages and syncs take, is the seed's: each story is told with [`SEEDS`] of them.
//! Leaves out: one node that is told message by message (`directed`).

use std::time::Duration;

use dejaq::controller::raft::{Change, Standing};
use dejaq_wire::ids::{LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Position, Voter};

use super::disk::Disk;
use super::god::Verdict;
use super::nemesis;
use super::world::{Event, World};

/// Each story is told with so many seeds.
const SEEDS: u64 = 12;
/// How long the quorum may take for a step: some elections.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it is looked whether a step is done; less than a message takes.
const GLANCE: Duration = Duration::from_micros(50);
/// A leader that nobody hears has gone by then: its patience, a beat, and the way of what it hears last.
const GONE: Duration = Duration::from_millis(400);

fn must(what: bool, text: &str) -> Verdict {
    if what { Ok(()) } else { Err(text.into()) }
}

/// A quorum, and what a script does to it. Nodes are named by their places.
struct Tale {
    world: World,
}

impl Tale {
    /// So many voters, and others that follow; one leads, and everybody has everything.
    fn of(seed: u64, voters: usize, others: usize) -> Result<(Tale, usize), String> {
        let mut tale = Tale { world: World::told(seed, voters, others) };
        tale.until("one leads", |tale| tale.ready_leader().is_some())?;
        let leader = tale.ready_leader().expect("it was seen");
        tale.commits(leader)?;
        Ok((tale, leader))
    }

    fn everybody(&self) -> Vec<usize> {
        (0..self.world.nodes.len()).collect()
    }

    fn pass(&mut self, time: Duration) -> Verdict {
        let until = self.world.now.plus(time);
        self.world.run_until(until)
    }

    fn until(&mut self, step: &str, is_so: impl Fn(&Tale) -> bool) -> Verdict {
        self.within(PATIENCE, step, is_so)
    }

    fn within(&mut self, time: Duration, step: &str, is_so: impl Fn(&Tale) -> bool) -> Verdict {
        let end = self.world.now.plus(time);
        while !is_so(self) {
            must(self.world.now < end, &format!("not within {time:?}: {step}"))?;
            self.pass(GLANCE)?;
        }
        Ok(())
    }

    fn cut_way(&mut self, from: usize, to: usize, is_cut: bool) {
        let way = (self.world.nodes[from].id, self.world.nodes[to].id);
        if is_cut {
            self.world.cuts.insert(way)
        } else {
            self.world.cuts.remove(&way)
        };
    }

    fn cut(&mut self, one: usize, other: usize, is_cut: bool) {
        self.cut_way(one, other, is_cut);
        self.cut_way(other, one, is_cut);
    }

    /// Those of one group hear each other, and nobody else.
    fn part(&mut self, groups: &[&[usize]]) {
        self.world.cuts.clear();
        let group_of = |one: usize| groups.iter().position(|group| group.contains(&one));
        for one in self.everybody() {
            for other in self.everybody() {
                if one < other && (group_of(one).is_none() || group_of(one) != group_of(other)) {
                    self.cut(one, other, true);
                }
            }
        }
    }

    fn ask(&mut self, node: usize, event: Event) {
        self.world.after(1, node, None, event);
    }

    fn standing(&self, node: usize) -> Option<(LeaderEpoch, Standing)> {
        let process = self.world.nodes[node].process.as_ref()?;
        let view = process.raft.view();
        Some((view.epoch, view.standing))
    }

    fn leads(&self, node: usize) -> bool {
        matches!(self.standing(node), Some((_, Standing::Leader { .. })))
    }

    fn leader_of(&self, nodes: &[usize]) -> Option<usize> {
        nodes.iter().copied().find(|node| self.leads(*node))
    }

    fn ready_leader(&self) -> Option<usize> {
        let is_ready =
            |node: &usize| matches!(self.standing(*node), Some((_, Standing::Leader { ready: true })));
        self.everybody().into_iter().find(is_ready)
    }

    fn end(&self, node: usize) -> Position {
        self.world.nodes[node]
            .process
            .as_ref()
            .map_or(Position::EMPTY, |process| process.raft.entries().end())
    }

    /// The voters in effect at a node, by their places.
    fn voters(&self, node: usize) -> Vec<usize> {
        let Some(process) = &self.world.nodes[node].process else { return Vec::new() };
        process.raft.entries().voters().ids().map(|id| id.0 as usize - 1).collect()
    }

    fn add(&mut self, leader: usize, node: usize) {
        let key = self.world.nodes[node].key();
        self.ask(leader, Event::Change(Change::Add(Voter { key, address: String::new() })));
    }

    fn remove(&mut self, leader: usize, node: usize) {
        let key = self.world.nodes[node].key();
        self.ask(leader, Event::Change(Change::Remove(key)));
    }

    /// A proposal to this leader is answered, and applied by all whom it reaches; it knows that.
    fn commits(&mut self, leader: usize) -> Verdict {
        let before = self.world.stats.acked;
        self.ask(leader, Event::Propose);
        self.until("a proposal is answered", |tale| tale.world.stats.acked > before)?;
        let way = |tale: &Tale, other: usize| {
            let ids = (tale.world.nodes[leader].id, tale.world.nodes[other].id);
            let runs = tale.world.nodes[other].process.is_some();
            runs && !tale.world.cuts.contains(&ids) && !tale.world.cuts.contains(&(ids.1, ids.0))
        };
        let goal = self.world.god.committed_end;
        let has = |tale: &Tale, other: usize| !way(tale, other) || tale.world.applied(other) >= goal;
        self.until("all have it", |tale| tale.everybody().into_iter().all(|other| has(tale, other)))?;
        let is_known = |tale: &Tale, other: usize| {
            let process = tale.world.nodes[leader].process.as_ref();
            let leading = process.and_then(|process| process.raft.leading());
            let told = leading.and_then(|leading| leading.replicas.get(&tale.world.nodes[other].key()));
            other == leader || !way(tale, other) || told.is_some_and(|told| told.durable >= goal)
        };
        self.until("its leader knows", |tale| tale.everybody().into_iter().all(|other| is_known(tale, other)))
    }

    /// All is healed, and works; these vote then.
    fn ends(mut self, voters: &[usize]) -> Verdict {
        nemesis::calm(&mut self.world)?;
        let end = self.world.god.committed_end;
        self.until("all vote alike", |tale| {
            tale.everybody()
                .into_iter()
                .all(|node| tale.voters(node) == voters && tale.world.applied(node) >= end)
        })
    }
}

fn rest(of: &[usize], without: &[usize]) -> Vec<usize> {
    of.iter().copied().filter(|node| !without.contains(node)).collect()
}

/// MQ-13, with one leader: of two changes that it writes one behind the other the old voters know neither, so that they and
/// the voters of the second make two majorities that share nobody (NATS 434b02b). Both commit, with M311. Then what nobody
/// committed is cut, and its voter with it, also by one that begins anew in between (NATS 12fff3a).
fn two_changes_of_one_leader(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 2)?;
    let old = rest(&[0, 1, 2], &[leader]);
    tale.part(&[&[leader, 3, 4], &old]);
    tale.add(leader, 3);
    tale.add(leader, 4);
    tale.until("the first change is at the leader and at whom it adds", |tale| {
        [leader, 3].iter().all(|node| tale.voters(*node).contains(&3))
    })?;
    tale.ask(leader, Event::Propose);
    tale.until("the old voters elect one of them", |tale| tale.leader_of(&old).is_some())?;
    let other = tale.leader_of(&old).expect("it was seen");
    tale.commits(other)?;
    tale.until("the old leader goes", |tale| !tale.leads(leader))?;
    must(tale.voters(leader).contains(&3), "the change stands in the old leader's log")?;
    tale.world.stop(3);
    tale.ask(3, Event::Start);
    tale.pass(Duration::from_millis(20))?;
    must(tale.voters(3).contains(&3), "whom it adds believes so after a restart")?;
    tale.ends(&[0, 1, 2])
}

/// MQ-13, with two leaders (Ongaro, raft-dev 2015): the first adds one and is cut off, the second removes the first before
/// anything of its own epoch is committed. By the second's set two of three are enough, by the first's three of five, and
/// these share nobody: with M312 both commit.
fn two_changes_of_two_leaders(seed: u64) -> Verdict {
    let (mut tale, first) = Tale::of(seed, 4, 1)?;
    let others = rest(&[0, 1, 2, 3], &[first]);
    tale.part(&[&[first, 4], &others]);
    tale.add(first, 4);
    tale.until("one more votes, by those who have the change", |tale| tale.voters(4).contains(&4))?;
    tale.until("the others elect one of them", |tale| tale.leader_of(&others).is_some())?;
    let second = tale.leader_of(&others).expect("it was seen");
    let follower = rest(&others, &[second])[0];
    let free = rest(&others, &[second, follower])[0];
    let (had, epoch) = (tale.end(free), tale.standing(second).map(|(epoch, _)| epoch));
    tale.part(&[&[first, 4], &[second, follower], &[free]]);
    tale.remove(second, first);
    tale.until("a follower has what begins the second's epoch", |tale| {
        tale.end(follower) == tale.end(second)
    })?;
    tale.pass(Duration::from_millis(30))?;
    must(tale.end(free) == had, "the third one has nothing of that epoch")?;
    tale.part(&[&[first, 4, free], &[second], &[follower]]);
    let again = |tale: &Tale| {
        let is_new = |one: &usize| tale.leads(*one) && tale.standing(*one).map(|(now, _)| now) > epoch;
        [first, 4].into_iter().find(is_new)
    };
    tale.until("one that has the first's change leads, by its set", |tale| again(tale).is_some())?;
    let third = again(&tale).expect("it was seen");
    tale.commits(third)?;
    tale.ends(&[0, 1, 2, 3, 4])
}

/// A leader removes itself, and all it does is cut right then: whoever has the change is elected once more to commit it
/// (Ongaro's thesis, 4.2.2), or nobody has it and all vote as before. Its own log is not counted any more (M39).
fn a_leader_removes_itself(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 1)?;
    let others = rest(&[0, 1, 2], &[leader]);
    tale.cut(leader, others[1], true);
    tale.remove(leader, leader);
    tale.until("one other has the change", |tale| tale.voters(others[0]) == others)?;
    let is_heard = seed.is_multiple_of(2);
    tale.part(&[&[leader], &others]);
    tale.until("one of the others leads", |tale| tale.leader_of(&others).is_some())?;
    let heir = tale.leader_of(&others).expect("it was seen");
    must(heir == others[0], "the one that has the change leads")?;
    if is_heard {
        tale.world.stop(leader);
        tale.world.cuts.clear();
        tale.ask(leader, Event::Start);
    }
    tale.commits(heir)?;
    tale.until("the old leader leads no more", |tale| !tale.leads(leader))?;
    tale.ends(&others)
}

/// One voter more and one less, each asked of a leader that is cut off or killed at once: whatever comes of it, all vote alike
/// in the end, and a change that was answered stands.
fn one_comes_and_one_goes(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 1)?;
    let others = rest(&[0, 1, 2], &[leader]);
    tale.add(leader, 3);
    tale.remove(leader, others[0]);
    tale.pass(Duration::from_micros(100 + 400 * seed))?;
    if seed.is_multiple_of(2) {
        tale.world.stop(leader)
    } else {
        tale.part(&[&[leader], &[others[0], others[1], 3]])
    }
    let left = [others[0], others[1], 3];
    tale.until("one of those that are left leads", |tale| tale.leader_of(&left).is_some())?;
    let next = tale.leader_of(&left).expect("it was seen");
    tale.commits(next)?;
    let more = tale.voters(next);
    tale.remove(next, leader);
    tale.until("the old leader is removed", |tale| tale.voters(next) == rest(&more, &[leader]))?;
    tale.ends(&rest(&more, &[leader]))
}

/// MQ-17: of five, the leader and one more are parted from three. It goes in bounded time, answers no read and no proposal, and
/// the others lead on; what it could not commit is cut.
fn two_are_parted_from_three(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 5, 1)?;
    let others = rest(&[0, 1, 2, 3, 4], &[leader]);
    let (few, many) = ([leader, others[0]], &others[1..]);
    tale.part(&[&few, many]);
    let answered = tale.world.stats;
    tale.ask(leader, Event::Propose);
    tale.ask(leader, Event::Read);
    tale.within(GONE, "MQ-17: a leader without a majority goes", |tale| !tale.leads(leader))?;
    let now = tale.world.stats;
    must((now.acked, now.reads) == (answered.acked, answered.reads), "MQ-16: a minority answers")?;
    tale.until("the majority elects one", |tale| tale.leader_of(many).is_some())?;
    let next = tale.leader_of(many).expect("it was seen");
    tale.commits(next)?;
    must(tale.end(leader).epoch < tale.end(next).epoch, "the minority has its own end")?;
    tale.ends(&[0, 1, 2, 3, 4])
}

/// KAFKA-15489: the leader says on that it leads, and hears nobody. It must go, and who hears it must elect another one.
fn a_leader_that_hears_nobody(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 0)?;
    let others = rest(&[0, 1, 2], &[leader]);
    others.iter().for_each(|other| tale.cut_way(*other, leader, true));
    tale.within(GONE, "MQ-17: a leader that hears nobody goes", |tale| !tale.leads(leader))?;
    tale.until("one of the others leads", |tale| tale.leader_of(&others).is_some())?;
    let next = tale.leader_of(&others).expect("it was seen");
    tale.commits(next)?;
    tale.ends(&[0, 1, 2])
}

/// The other way round: it hears all of them, and none hears it.
fn a_leader_that_nobody_hears(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 0)?;
    let others = rest(&[0, 1, 2], &[leader]);
    others.iter().for_each(|other| tale.cut_way(leader, *other, true));
    tale.until("one of the others leads", |tale| tale.leader_of(&others).is_some())?;
    let next = tale.leader_of(&others).expect("it was seen");
    tale.until("the old one leads no more", |tale| !tale.leads(leader))?;
    tale.commits(next)?;
    tale.ends(&[0, 1, 2])
}

/// KIP-996: the link of one voter comes and goes; it unseats nobody, and the others answer on.
fn a_link_that_flaps_unseats_nobody(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 0)?;
    let others = rest(&[0, 1, 2], &[leader]);
    let (epoch, _) = tale.standing(leader).expect("it runs");
    let mut asked_around = false;
    for beat in 0..20 {
        tale.cut(leader, others[0], beat % 2 == 0);
        let time = tale.world.rng.within(200, 500);
        for _ in 0..time / 20 {
            tale.pass(Duration::from_millis(20))?;
            asked_around |=
                tale.standing(others[0]).is_some_and(|(_, standing)| standing == Standing::Prospective);
        }
        tale.commits(leader)?;
        must(
            tale.leads(leader) && tale.standing(leader).is_some_and(|(now, _)| now == epoch),
            "KIP-996: unseated",
        )?;
    }
    must(asked_around, "the voter behind the link misses its leader")?;
    tale.ends(&[0, 1, 2])
}

/// etcd #20418: a leader stands still while another is elected and answers; the read that waits when it wakes sees that.
fn a_leader_that_slept_reads_nothing_old(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 0)?;
    let others = rest(&[0, 1, 2], &[leader]);
    let wakes = tale.world.now.plus(Duration::from_millis(1500));
    tale.world.nodes[leader].paused_until = wakes;
    tale.ask(leader, Event::Read);
    tale.until("one of the others leads", |tale| tale.leader_of(&others).is_some())?;
    let next = tale.leader_of(&others).expect("it was seen");
    tale.part(&[&others, &[leader]]);
    tale.commits(next)?;
    let reads = tale.world.stats.reads;
    must(tale.world.now < wakes && tale.leads(leader), "it sleeps, and believes that it leads")?;
    tale.pass(wakes.since(tale.world.now) + Duration::from_millis(5))?;
    must(tale.world.stats.reads == reads, "MQ-16: it answers without asking anybody")?;
    tale.ends(&[0, 1, 2])
}

/// MQ-17's other half: who votes alone hears nobody, and leads on (KAFKA-15489).
fn who_votes_alone_never_goes(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 1, 1)?;
    tale.part(&[&[0], &[1]]);
    let (epoch, _) = tale.standing(leader).expect("it runs");
    for _ in 0..100 {
        tale.pass(Duration::from_millis(100))?;
        must(tale.leads(leader), "MQ-17: the only voter went")?;
    }
    tale.commits(leader)?;
    must(tale.standing(leader).is_some_and(|(now, _)| now == epoch), "the only voter led on")?;
    tale.ends(&[0])
}

/// MQ-19 (KIP-853): two of three have an entry; one of these comes back with an empty disk, and together with the third one is
/// a majority by number, but not of those who vote. Nobody leads before the other one that has it is back.
fn an_empty_disk_elects_nobody(seed: u64) -> Verdict {
    let (mut tale, leader) = Tale::of(seed, 3, 0)?;
    let [wiped, behind] = rest(&[0, 1, 2], &[leader])[..] else { unreachable!("two others") };
    tale.part(&[&[leader, wiped], &[behind]]);
    tale.commits(leader)?;
    must(tale.end(behind).end < tale.world.god.acked_end, "one is behind")?;
    tale.world.stop(leader);
    tale.world.stop(wiped);
    let directory = tale.world.new_directory();
    let key = tale.world.nodes[wiped].key();
    let old = std::mem::replace(&mut tale.world.nodes[wiped].disk, Disk::empty(directory));
    tale.world.gone.insert(key, old);
    tale.world.cuts.clear();
    tale.ask(wiped, Event::Start);
    for _ in 0..100 {
        tale.pass(Duration::from_millis(20))?;
        must(!tale.leads(wiped) && !tale.leads(behind), "MQ-19: an empty disk elects")?;
    }
    must(tale.end(wiped).end == Offset::ZERO, "it asked with nothing")?;
    tale.ends(&[0, 1, 2])
}

/// A name, and what tells whether it holds with a seed.
type Named = (&'static str, fn(u64) -> Verdict);

const STORIES: &[Named] = &[
    ("two changes of one leader", two_changes_of_one_leader),
    ("two changes of two leaders", two_changes_of_two_leaders),
    ("a leader removes itself", a_leader_removes_itself),
    ("one comes and one goes", one_comes_and_one_goes),
    ("two of five", two_are_parted_from_three),
    ("hears nobody", a_leader_that_hears_nobody),
    ("heard by nobody", a_leader_that_nobody_hears),
    ("a link that flaps", a_link_that_flaps_unseats_nobody),
    ("asleep", a_leader_that_slept_reads_nothing_old),
    ("votes alone", who_votes_alone_never_goes),
    ("empty disk", an_empty_disk_elects_nobody),
];

/// Tells all of them; the first that does not hold, by name and seed.
pub fn all() -> Verdict {
    for (name, story) in STORIES {
        for seed in 0..SEEDS {
            super::caught(|| story(seed)).map_err(|why| format!("{name}, seed {seed}: {why}"))?;
        }
    }
    Ok(())
}
