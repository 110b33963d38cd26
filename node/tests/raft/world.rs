//! The nodes, the network and the order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dejaq::controller::raft::{
    Apply, Change, Input, Limits, Lost, Raft, Settings, Snapshot, Standing, Ticket, Timing, Token, Turn,
    Write,
};
use dejaq::runtime::Mono;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{DirectoryId, Envelope, Message, Position, ReplicaKey, SnapshotId, Voter};

use super::disk::{Covered, Disk};
use super::god::{God, Machine, Verdict};
use super::rng::Rng;

pub const MS: u64 = 1_000_000;
/// Bytes of a snapshot: more than one piece.
const SNAPSHOT_BYTES: usize = 200;

#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    pub elections: u64,
    pub committed: u64,
    pub acked: u64,
    pub reads: u64,
    pub changes: u64,
    pub snapshots: u64,
    pub crashes: u64,
    pub wipes: u64,
    /// From the calm on until a new proposal is applied everywhere.
    pub healed_ms: u64,
}

#[derive(Debug, Clone)]
pub enum Event {
    Deliver(Envelope),
    Synced(Covered, Ticket),
    Wake,
    Propose,
    Read,
    Change(Change),
    Resign,
    Gone(BrokerId),
    Start,
}

pub struct Process {
    pub raft: Raft,
    machine: Machine,
    machine_epoch: LeaderEpoch,
    floors: BTreeMap<Token, Offset>,
    /// Commit of a leader that was checked.
    counted: Offset,
    led: bool,
    syncing: bool,
    queued: Option<Ticket>,
    wake: Option<Mono>,
}

pub struct Node {
    pub id: BrokerId,
    pub life: u32,
    pub disk: Disk,
    pub process: Option<Process>,
    pub paused_until: Mono,
    pub slow_until: Mono,
    pub full: bool,
}

impl Node {
    pub fn key(&self) -> ReplicaKey {
        ReplicaKey { id: self.id, directory: self.disk.directory }
    }
}

pub struct World {
    pub rng: Rng,
    pub now: Mono,
    pub nodes: Vec<Node>,
    pub first_voters: usize,
    pub cuts: BTreeSet<(BrokerId, BrokerId)>,
    pub loss: u64,
    pub god: God,
    pub stats: Stats,
    /// Wiped disks: what they held when they went.
    pub gone: BTreeMap<ReplicaKey, Disk>,
    pub last_wipe: Mono,
    pub last_change: Mono,
    pub calm: bool,
    snapshot_every: u64,
    disorder: u64,
    formed: bool,
    next_token: u64,
    next_directory: u64,
    queue: BTreeMap<(Mono, u64), (usize, Option<u32>, Event)>,
    order: u64,
}

fn encode(machine: Machine) -> Bytes {
    let mut bytes = BytesMut::zeroed(SNAPSHOT_BYTES);
    bytes.put_i64(machine.applied.0);
    bytes.put_u64(machine.chain);
    bytes.put_u64(machine.chain ^ machine.applied.0 as u64 ^ 0x5a5a);
    bytes.freeze()
}

fn decode(bytes: &[u8]) -> Option<Machine> {
    let words: Vec<u64> = bytes
        .get(SNAPSHOT_BYTES..)?
        .chunks(8)
        .map(|word| u64::from_be_bytes(word.try_into().expect("whole words")))
        .collect();
    let [applied, chain, sum] = words[..] else { return None };
    let clean = bytes[..SNAPSHOT_BYTES].iter().all(|byte| *byte == 0) && sum == chain ^ applied ^ 0x5a5a;
    clean.then_some(Machine { applied: Offset(applied as i64), chain })
}

impl World {
    /// Everything of it is drawn.
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let first_voters = rng.pick(&[1, 3, 3, 3, 5, 5]);
        let spares = rng.pick(&[1, 2]);
        let formed = rng.percent(40);
        let snapshot_every = rng.pick(&[5, 12, 40, 1_000_000]);
        let disorder = rng.pick(&[0, 0, 3, 40]);
        World::made(rng, (first_voters, spares), formed, (snapshot_every, disorder))
    }

    /// For a script: so many voters and others, all known; messages come once and in order, and nobody makes snapshots.
    pub fn told(seed: u64, voters: usize, others: usize) -> World {
        World::made(Rng::new(seed), (voters, others), true, (1_000_000, 0))
    }

    fn made(
        rng: Rng,
        (first_voters, spares): (usize, usize),
        formed: bool,
        (snapshot_every, disorder): (u64, u64),
    ) -> World {
        let mut world = World {
            now: Mono(MS),
            nodes: Vec::new(),
            first_voters,
            cuts: BTreeSet::new(),
            loss: 0,
            god: God::default(),
            stats: Stats::default(),
            gone: BTreeMap::new(),
            last_wipe: Mono(0),
            last_change: Mono(0),
            calm: false,
            snapshot_every,
            disorder,
            formed,
            next_token: 1,
            next_directory: 1,
            queue: BTreeMap::new(),
            order: 0,
            rng,
        };
        for id in 1..=(first_voters + spares) as i32 {
            let disk = Disk::empty(world.new_directory());
            let node = Node {
                id: BrokerId(id),
                life: 0,
                disk,
                process: None,
                paused_until: Mono(0),
                slow_until: Mono(0),
                full: false,
            };
            world.nodes.push(node);
        }
        for node in 0..world.nodes.len() {
            let wait = world.rng.below(200 * MS);
            world.after(wait, node, None, Event::Start);
        }
        world
    }

    pub fn new_directory(&mut self) -> DirectoryId {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&self.next_directory.to_be_bytes());
        bytes[0] = self.next_directory as u8;
        self.next_directory += 1;
        DirectoryId(bytes)
    }

    fn settings(&self, node: usize) -> Settings {
        let voter = |id: usize| {
            let known = self.formed || self.first_voters == 1;
            let first = DirectoryId::UNKNOWN;
            let mut bytes = [7; 16];
            bytes[..8].copy_from_slice(&(id as u64).to_be_bytes());
            bytes[0] = id as u8;
            let directory = if known { DirectoryId(bytes) } else { first };
            Voter { key: ReplicaKey { id: BrokerId(id as i32), directory }, address: String::new() }
        };
        Settings {
            me: self.nodes[node].key(),
            timing: Timing::of(Duration::from_millis(150)),
            limits: Limits { fetch_bytes: 150, chunk_bytes: 90 },
            bootstrap: (1..=self.first_voters).map(voter).collect(),
            contacts: self.nodes.iter().map(|node| node.id).collect(),
            snapshot_reads: |bytes| decode(bytes).is_some(),
        }
    }

    pub fn after(&mut self, wait: u64, node: usize, life: Option<u32>, event: Event) {
        self.order += 1;
        let at = self.now + Duration::from_nanos(wait);
        self.queue.insert((at, self.order), (node, life, event));
    }

    /// Runs everything up to `end`.
    pub fn run_until(&mut self, end: Mono) -> Verdict {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), (node, life, event)) = entry.remove_entry();
            self.now = self.now.max(at);
            let paused = self.nodes[node].paused_until;
            if paused > self.now && !matches!(event, Event::Start) {
                let wait = paused.since(self.now).as_nanos() as u64;
                self.after(wait, node, life, event);
                continue;
            }
            if life.is_none_or(|life| life == self.nodes[node].life) {
                self.happen(node, event)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, at: usize, event: Event) -> Verdict {
        if matches!(event, Event::Start) {
            return self.start(at);
        }
        if self.nodes[at].process.is_none() {
            return Ok(());
        }
        let token = Token(self.next_token);
        let input = match event {
            Event::Deliver(envelope) => Input::Received(envelope),
            Event::Synced(covered, ticket) => {
                let node = &mut self.nodes[at];
                node.disk.end_sync(covered);
                node.process.as_mut().expect("it runs").syncing = false;
                Input::Durable(ticket)
            }
            Event::Wake => {
                let process = self.nodes[at].process.as_mut().expect("it runs");
                process.wake = None;
                if process.raft.deadline() > self.now {
                    self.schedule(at);
                    return Ok(());
                }
                Input::Tick
            }
            Event::Propose => {
                self.next_token += 1;
                let mut records = BytesMut::zeroed(0);
                records.put_u64(token.0);
                records.put_bytes(1, self.rng.below(60) as usize);
                let count = self.rng.within(1, 4) as u32;
                Input::Propose { token, count, records: records.freeze() }
            }
            Event::Read => {
                self.next_token += 1;
                let floor = self.god.acked_end;
                self.nodes[at].process.as_mut().expect("it runs").floors.insert(token, floor);
                Input::Read(token)
            }
            Event::Change(change) => {
                if !self.is_survivable(at, &change) {
                    return Ok(());
                }
                self.next_token += 1;
                self.last_change = self.now;
                Input::Change { token, change }
            }
            Event::Resign => Input::Resign,
            Event::Gone(node) => Input::Gone(node),
            Event::Start => unreachable!("handled above"),
        };
        let mut turn = Turn::default();
        let process = self.nodes[at].process.as_mut().expect("it runs");
        process.raft.step(self.now, input, &mut turn);
        self.carry_out(at, turn)
    }

    /// No operator asks for voters of whom a majority has lost its disk; a leader that slept may not know it yet.
    fn is_survivable(&self, at: usize, change: &Change) -> bool {
        let voters = self.nodes[at].process.as_ref().expect("it runs").raft.entries().voters();
        let mut keys: Vec<ReplicaKey> = voters.as_slice().iter().map(|voter| voter.key).collect();
        match change {
            Change::Add(voter) => keys.push(voter.key),
            Change::Remove(key) => keys.retain(|voter| voter != key),
        }
        keys.iter().filter(|key| !self.gone.contains_key(key)).count() * 2 > keys.len()
    }

    fn start(&mut self, at: usize) -> Verdict {
        if self.nodes[at].process.is_some() {
            return Ok(());
        }
        let (settings, seed) = (self.settings(at), self.rng.draw());
        let node = &mut self.nodes[at];
        node.full = false;
        let restored = node.disk.restore();
        let machine = restored.snapshot.as_ref().map_or(Machine::default(), |snapshot| {
            decode(&snapshot.bytes).expect("a snapshot on disk reads")
        });
        let machine_epoch = restored.snapshot.as_ref().map_or(LeaderEpoch::NONE, |s| s.id.position.epoch);
        let mut turn = Turn::default();
        let raft = Raft::open(settings, restored, seed, self.now, &mut turn).expect("the voters are a set");
        node.life += 1;
        node.process = Some(Process {
            raft,
            machine,
            machine_epoch,
            floors: BTreeMap::new(),
            counted: Offset::ZERO,
            led: false,
            syncing: false,
            queued: None,
            wake: None,
        });
        self.carry_out(at, turn)
    }

    fn carry_out(&mut self, at: usize, turn: Turn) -> Verdict {
        let key = self.nodes[at].key();
        let Turn { writes, ticket, sends, applies, done, reads, view } = turn;
        let appends = |write: &Write| matches!(write, Write::Append(_) | Write::Install(_));
        if self.nodes[at].full && writes.iter().any(appends) {
            self.stop(at); // a write error ends the process
            return Ok(());
        }
        for write in writes {
            self.saw_write(at, &write)?;
            self.nodes[at].disk.write(write);
        }
        let process = self.nodes[at].process.as_mut().expect("it runs");
        process.queued = ticket.or(process.queued);
        for sent in sends {
            self.god.saw_send(&sent)?;
            self.transmit(sent);
        }
        let mut snapshot_due = false;
        for apply in applies {
            snapshot_due |= self.apply(at, key, apply)?;
        }
        for (token, result) in done {
            self.answered(token, result)?;
        }
        let process = self.nodes[at].process.as_mut().expect("it runs");
        for (token, result) in reads {
            let floor = process.floors.remove(&token).expect("a read is answered once");
            if let Ok(end) = result {
                if process.machine.applied < end {
                    return Err(format!(
                        "{key:?} reads at {end:?}, applied is {:?}",
                        process.machine.applied
                    ));
                }
                self.stats.reads += 1;
                self.god.read(floor, end)?;
            }
        }
        let (commit, ..) = process.raft.marks();
        let news = commit > std::mem::replace(&mut process.counted, commit);
        let led = std::mem::replace(&mut process.led, process.raft.leading().is_some());
        if process.led && led && news {
            self.held_by_a_majority(at)?;
        }
        if let Some(view) = view {
            let process = self.nodes[at].process.as_ref().expect("it runs");
            self.god.saw_view(key, view, &process.raft)?;
        }
        if snapshot_due {
            self.compact(at)?;
        }
        self.sync(at);
        self.schedule(at);
        Ok(())
    }

    fn answered(&mut self, token: Token, result: Result<Offset, Lost>) -> Verdict {
        match result {
            Ok(end) => {
                let committed = self.god.committed.values().rev().find(|entry| entry.batch.end == end);
                if committed.is_some_and(|entry| super::god::token_of(&entry.batch).is_none()) {
                    self.stats.changes += 1; // a change has no token in the log
                    return Ok(());
                }
                self.stats.acked += 1;
                self.god.acked(token, end)
            }
            Err(Lost::Unknown) => Ok(()),
            Err(Lost::NotLeader | Lost::NotReady | Lost::Refused(_)) => {
                self.god.denied(token);
                Ok(())
            }
        }
    }

    fn saw_write(&mut self, at: usize, write: &Write) -> Verdict {
        let Write::Append(batches) = write else { return Ok(()) };
        let node = &self.nodes[at];
        let process = node.process.as_ref().expect("it runs");
        for batch in batches {
            if let Some(before) = process.raft.entries().epoch_before(batch.base) {
                self.god.saw_append(node.key(), before, batch)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, at: usize, key: ReplicaKey, apply: Apply) -> Result<bool, String> {
        let process = self.nodes[at].process.as_mut().expect("it runs");
        match apply {
            Apply::Snapshot(snapshot) => {
                let machine = decode(&snapshot.bytes).ok_or("a damaged snapshot was applied")?;
                if snapshot.id.position.end <= process.machine.applied {
                    return Err(format!("{key:?} goes back to the snapshot {:?}", snapshot.id.position));
                }
                process.machine = machine;
                process.machine_epoch = snapshot.id.position.epoch;
                self.stats.snapshots += 1;
                self.god.saw_snapshot(key, snapshot.id.position, machine)?;
                Ok(false)
            }
            Apply::Batch(batch) => {
                let mut machine = process.machine;
                let epoch = process.raft.view().epoch;
                let first = self.god.saw_apply(key, epoch, &mut machine, &batch)?;
                process.machine = machine;
                process.machine_epoch = batch.epoch;
                self.stats.committed += u64::from(first);
                Ok((machine.applied.0 as u64).is_multiple_of(self.snapshot_every))
            }
        }
    }

    /// MQ-6: what a leader counts as committed would survive on a majority of the voters in effect.
    fn held_by_a_majority(&self, at: usize) -> Verdict {
        let raft = &self.nodes[at].process.as_ref().expect("it runs").raft;
        let (entries, (commit, ..)) = (raft.entries(), raft.marks());
        let epoch = entries.epoch_before(commit).ok_or("committed inside of a batch")?;
        let position = Position { epoch, end: commit };
        let holds = |key: ReplicaKey| {
            let node = &self.nodes[(key.id.0 - 1) as usize];
            let disk = if node.key() == key { Some(&node.disk) } else { self.gone.get(&key) };
            disk.is_some_and(|disk| disk.holds_durably(position))
        };
        let held = entries.voters().as_slice().iter().filter(|voter| holds(voter.key)).count();
        if held * 2 > entries.voters().count() {
            return Ok(());
        }
        Err(format!(
            "MQ-6: {position:?} is committed, but not durable on a majority of {:?}",
            entries.voters()
        ))
    }

    fn compact(&mut self, at: usize) -> Verdict {
        let node = &mut self.nodes[at];
        let process = node.process.as_mut().expect("it runs");
        let machine = process.machine;
        if process.raft.entries().base().end >= machine.applied {
            return Ok(());
        }
        let position = Position { epoch: process.machine_epoch, end: machine.applied };
        let bytes = encode(machine);
        let voters = process.raft.entries().voters_at(machine.applied).as_slice().to_vec();
        let id = SnapshotId { position, bytes: bytes.len() as u64, voters };
        let snapshot = Arc::new(Snapshot { id, bytes });
        node.disk.write_own_snapshot(snapshot.clone());
        let mut turn = Turn::default();
        process.raft.step(self.now, Input::Compacted(snapshot), &mut turn);
        self.carry_out(at, turn)
    }

    fn sync(&mut self, at: usize) {
        let slow = self.nodes[at].slow_until > self.now;
        let latency = if slow { self.rng.within(50 * MS, 900 * MS) } else { self.rng.within(MS / 5, 6 * MS) };
        let node = &mut self.nodes[at];
        let process = node.process.as_mut().expect("it runs");
        if process.syncing {
            return;
        }
        let Some(ticket) = process.queued.take() else { return };
        process.syncing = true;
        let (covered, life) = (node.disk.begin_sync(), node.life);
        self.after(latency, at, Some(life), Event::Synced(covered, ticket));
    }

    fn schedule(&mut self, at: usize) {
        let life = self.nodes[at].life;
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let deadline = process.raft.deadline().max(self.now.plus(Duration::from_nanos(1)));
        if process.wake.is_some_and(|wake| wake <= deadline) {
            return;
        }
        process.wake = Some(deadline);
        let wait = deadline.since(self.now).as_nanos() as u64;
        self.after(wait, at, Some(life), Event::Wake);
    }

    fn transmit(&mut self, mut sent: Envelope) {
        let to = (sent.to.0 - 1) as usize;
        assert!(to < self.nodes.len(), "{sent:?} to nobody");
        let copies = 1 + u64::from(!self.calm && self.rng.percent(self.disorder.min(10)));
        for _ in 0..copies {
            if self.cuts.contains(&(sent.from.id, sent.to)) || self.rng.percent(self.loss) {
                continue;
            }
            let mut wait = self.rng.within(MS / 10, MS);
            if !self.calm && self.rng.below(100) < self.disorder {
                wait += self.rng.below(20 * MS);
                if self.rng.percent(5) {
                    wait += self.rng.below(3000 * MS);
                }
            }
            if let Message::SnapshotChunk { bytes, .. } = &mut sent.message
                && !self.calm
                && self.rng.percent(5)
            {
                let mut damaged = bytes.to_vec();
                damaged[0] ^= 1;
                *bytes = damaged.into();
            }
            self.after(wait, to, None, Event::Deliver(sent.clone()));
        }
    }

    pub fn stop(&mut self, at: usize) {
        if self.nodes[at].process.take().is_some() {
            self.stats.crashes += 1;
        }
        self.nodes[at].life += 1;
    }

    pub fn leaders(&self) -> Vec<usize> {
        let leads = |node: &Node| {
            let process = node.process.as_ref()?;
            matches!(process.raft.view().standing, Standing::Leader { .. }).then_some(())
        };
        (0..self.nodes.len()).filter(|at| leads(&self.nodes[*at]).is_some()).collect()
    }

    pub fn applied(&self, at: usize) -> Offset {
        self.nodes[at].process.as_ref().map_or(Offset::NONE, |process| process.machine.applied)
    }
}
