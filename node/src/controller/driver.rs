//! The shell of the controller: one task, one inbox, on every node; it carries Raft and, while it leads, decides.
//!
//! Owns: the order in which requests are decided, the image of what is committed, who is the active controller here.
//! Promises: an answer, and the image that it speaks of, leave only after their records are committed and applied
//! (MQ-12); decisions are made by the leader of the quorum alone, once everything of the leaders before is applied; one
//! proposal is under way at a time, each made on the committed image, so that who is deposed has nothing to take back; a
//! request whose asker has gone is decided all the same. A decision that changes nothing is answered from the committed
//! image without asking the quorum again: who was deposed and has not noticed, which takes two election timeouts at most,
//! may still say so; no read is claimed to be linearizable (MQ-16). A failed write, and a committed record that does not apply
//! (MQ-18), stop this node's part for good. Everything that waits shares the next entry.
//! Leaves out: what to decide (`decide`), the quorum's rules (`raft`), bytes and syncs (`quorum::writer`).
//! Called by the broker at start, by everyone else through its [`Controller`] handle, by peers through the rooms.
//!
//! ```text
//!  inbox ─► raft.step ─► writes ─► writer      messages ─► peers      committed ─► image ─► publish ─► answer
//!     └─ requests ─► (leader) decide all that is there on one draft ─► propose
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dejaq_storage::{DataDir, buggify, mark, mutant};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{
    Batch, Content, DirectoryId, Envelope, Position, ReplicaKey, SnapshotId, Voter,
};
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use super::batch;
use super::decide::tick::{TICK, Tick};
use super::draft::{Context, Decide, Draft};
use super::handle::{Controller, Quorum, Reached, Release, Unavailable};
use super::journal::{Found, Journal, JournalError};
use super::leader::Leader;
use super::liveness::Liveness;
use super::probe;
use super::quorum::inbox::{Errand, Inbox, Mail, Waiting};
use super::quorum::writer::{self, Orders};
use super::raft::{
    Apply, Input, Limits, Lost, Raft, Restored, Settings as RaftSettings, Snapshot, Standing, Timing, Token,
    Turn, View,
};
use super::settings::Settings;
use super::tell::tell;
use crate::metadata::level::Readable;
use crate::metadata::record::ClusterNamed;
use crate::metadata::{Image, Published, Record, snapshot};
use crate::peer::{ClusterId, Peers};
use crate::runtime::{Mono, Runtime};

/// Requests that share one entry at most.
const TURN_REQUESTS: usize = 64;
/// Records after which an entry takes no further request.
const TURN_RECORDS: usize = 10_000;
/// A message of the quorum that was not sent by then is of no use any more.
const MESSAGE_LIFE: Duration = Duration::from_secs(1);
/// How long the word that a process is gone is believed; who lives says so much sooner.
const GONE_LIFE: Duration = Duration::from_secs(2);
/// How long a leader that stops waits for another one.
const HANDOVER: Duration = Duration::from_millis(500);
/// How long a stop waits for what was asked: the other voters may not be able to write.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// Without anything that is due, the driver looks up this often.
const LONG: Duration = Duration::from_secs(3600);

/// What the controller of a node begins with.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The node's settings.
    pub settings: Settings,
    /// Who votes, if neither log nor snapshot says it; this node alone, if nobody is named.
    pub voters: Vec<Voter>,
    /// A follower of the quorum that hears nothing stands after one to two times this.
    pub election: Duration,
    /// Bytes of records after which a snapshot takes their place.
    pub snapshot_bytes: u64,
    /// The cluster, as far as this node knows it; learned from the quorum.
    pub cluster: ClusterId,
    /// Its id, if this node is the one that gives it.
    pub new_cluster_id: String,
}

impl Boot {
    /// Whether no other node can reach this one.
    fn stands_alone(&self) -> bool {
        self.voters.iter().all(|voter| voter.key.id == self.settings.node && voter.address.is_empty())
    }
}

/// A controller that runs.
#[derive(Debug)]
pub struct Started {
    /// To submit requests to.
    pub controller: Controller,
    /// What is committed, durable here, and applied.
    pub published: Published,
}

/// Reads the metadata back and starts the task, which takes its part in the quorum.
///
/// # Errors
/// [`JournalError`]: the node does not start, and deletes nothing.
pub async fn start<R: Runtime>(
    runtime: &R,
    data: &DataDir<R::Disk>,
    boot: Boot,
    peers: Peers<R>,
) -> Result<Started, JournalError> {
    let (journal, found) = Journal::open(runtime.disk().clone(), data, runtime.unix_ms()).await?;
    let levels = boot.settings.levels;
    found.check_level(levels.max)?;
    let Found { hard, snapshot, image, batches } = found;
    let me = ReplicaKey { id: boot.settings.node, directory: DirectoryId(data.meta().directory_id) };
    let bootstrap = match boot.voters.as_slice() {
        [] => vec![Voter { key: me, address: String::new() }],
        named => named.to_vec(),
    };
    let settings = RaftSettings {
        me,
        timing: Timing::of(boot.election),
        limits: Limits::default(),
        contacts: bootstrap.iter().map(|voter| voter.key.id).collect(),
        bootstrap,
        snapshot_reads: snapshot::reads,
    };
    let applied_epoch = snapshot.as_ref().map_or(LeaderEpoch::NONE, |snapshot| snapshot.id.position.epoch);
    let mut turn = Turn::default();
    let restored = Restored { hard, snapshot, batches };
    let raft = Raft::open(settings, restored, runtime.random_u64(), runtime.now(), &mut turn)?;
    let voters = raft.entries().voters();
    let news_from = raft.entries().end().end;
    if boot.voters.len() > 1 && voters.count() == 1 && voters.has(me) {
        return Err(JournalError::OtherQuorum { node: me.id, named: boot.voters.len() });
    }
    if boot.stands_alone() && voters.ids().any(|id| id != me.id) {
        return Err(JournalError::NoPeers { node: me.id, voters: voters.to_string() });
    }
    let newest = image.needs();
    let image = Arc::new(image);
    let published = Published::new(image.clone());
    let (inbox, leader, stopped) = (Inbox::new(), Leader::default(), Arc::new(OnceLock::new()));
    let driver = Driver {
        runtime: runtime.clone(),
        me,
        raft,
        orders: writer::start(runtime, journal, inbox.clone()),
        peers,
        inbox: inbox.clone(),
        image,
        news_from,
        compaction: Compaction {
            every: boot.snapshot_bytes,
            since: 0,
            epoch: applied_epoch,
            newest,
            under_way: None,
        },
        shown: Shown { published: published.clone(), leader: leader.clone(), stopped: stopped.clone() },
        named: Named { settings: boot.settings, cluster: boot.cluster, new_cluster_id: boot.new_cluster_id },
        active: None,
        waits: Waits::default(),
    };
    runtime.spawn("controller", driver.run(turn));
    Ok(Started { controller: Controller::new(inbox, stopped, leader), published })
}

/// When the next snapshot is due.
struct Compaction {
    /// Bytes of records after which one is made.
    every: u64,
    since: u64,
    /// Epoch of the last entry that is in the image.
    epoch: LeaderEpoch,
    /// The newest level that what a start reads needs: the last snapshot that was begun, and the records behind it.
    newest: i16,
    under_way: Option<Purpose>,
}

/// Why a snapshot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To keep the log short.
    Size,
    /// So that a node of the level to which the cluster went back need not read what is newer.
    Level {
        /// The newest level that the files of before may hold.
        newest: i16,
    },
}

/// What others see of the driver.
struct Shown {
    published: Published,
    leader: Leader,
    stopped: Arc<OnceLock<String>>,
}

/// What does not change.
struct Named {
    settings: Settings,
    cluster: ClusterId,
    new_cluster_id: String,
}

/// What only the active controller has: it dies with the leadership.
struct Active {
    liveness: Liveness,
    next_tick: Mono,
    /// What is proposed and not committed, with those who wait for it.
    proposal: Option<(Token, Vec<Release>)>,
}

/// Who waits for what.
#[derive(Default)]
struct Waits {
    next_token: u64,
    requests: VecDeque<Waiting>,
    changes: BTreeMap<Token, oneshot::Sender<Result<Offset, Lost>>>,
    /// Nodes whose process was gone, and when: who becomes active soon after need not look again.
    gone: BTreeMap<BrokerId, Mono>,
    /// No room on the disk: nothing new is begun.
    full: bool,
    closing: Option<Closing>,
}

struct Closing {
    done: oneshot::Sender<Result<(), String>>,
    /// When it is not waited for another leader any more; `None` before this node has resigned.
    handover: Option<Mono>,
    /// When what is under way ends in doubt.
    until: Mono,
}

struct Driver<R: Runtime> {
    runtime: R,
    me: ReplicaKey,
    raft: Raft,
    orders: Orders,
    peers: Peers<R>,
    inbox: Inbox,
    /// Everything in it is committed, durable here, and published.
    image: Arc<Image>,
    /// Where the log ended at the start: what lies below is no news.
    news_from: Offset,
    compaction: Compaction,
    shown: Shown,
    named: Named,
    active: Option<Active>,
    waits: Waits,
}

/// Why this node's part in the quorum ends.
enum End {
    /// The broker is gone, or it was closed.
    Gone,
    Failed(String),
}

impl<R: Runtime> Driver<R> {
    async fn run(mut self, turn: Turn) {
        self.acquaint(self.raft.entries().voters().as_slice());
        let mut result = self.carry_out(turn);
        while result.is_ok() {
            let wake = self.wake();
            let _ = self.runtime.before(wake, self.inbox.wait()).await;
            let mail = self.inbox.take();
            result = self.turn(mail);
        }
        if let Err(End::Failed(why)) = result {
            self.stop(why);
        }
        self.inbox.end();
    }

    /// When there is something to do without anything happening.
    fn wake(&self) -> Mono {
        let mut wake = self.runtime.now().plus(LONG);
        // A leader that nobody follows has nothing to look around for.
        let alone = self.raft.leading().is_some_and(|leading| leading.replicas.is_empty());
        if !alone {
            wake = wake.min(self.raft.deadline());
        }
        if let Some(active) = self.active.as_ref().filter(|active| active.proposal.is_none())
            && self.needs_ticks()
        {
            wake = wake.min(active.next_tick);
        }
        match self.waits.closing.as_ref().and_then(|closing| closing.handover) {
            Some(handover) => wake.min(handover),
            None => wake,
        }
    }

    /// Everything that happened, in an order in which news of the disk comes first.
    fn turn(&mut self, mail: Mail) -> Result<(), End> {
        let Mail {
            durable,
            failed,
            full,
            compacted,
            left_out,
            messages,
            requests,
            errands,
            gone,
            close,
            abandoned,
        } = mail;
        if abandoned {
            return Err(End::Gone);
        }
        if let Some(why) = failed {
            return Err(End::Failed(why));
        }
        if let Some(full) = full {
            self.disk_is_full(full)?;
        }
        if let Some(ticket) = durable {
            self.step(Input::Durable(ticket))?;
        }
        if left_out && let Some(Purpose::Level { newest }) = self.compaction.under_way.take() {
            mark!("a snapshot for an older release was left out");
            self.compaction.newest = newest; // it is due still
        }
        if let Some(snapshot) = compacted {
            let purpose = self.compaction.under_way.take();
            self.step(Input::Compacted(snapshot))?;
            if matches!(purpose, Some(Purpose::Level { .. })) {
                self.step(Input::Forget)?;
            }
            self.compact(); // the cluster may have gone to an older level meanwhile
        }
        for envelope in messages {
            self.step(Input::Received(envelope))?;
        }
        if self.runtime.now() >= self.raft.deadline() {
            self.step(Input::Tick)?;
        }
        for errand in errands {
            self.errand(errand)?;
        }
        for node in &gone {
            self.waits.gone.insert(*node, self.runtime.now());
            self.step(Input::Gone(*node))?;
        }
        if let Some(active) = &mut self.active
            && !gone.is_empty()
        {
            active.liveness.suspect(&gone);
            active.next_tick = self.runtime.now();
        }
        self.waits.requests.extend(requests);
        self.decide()?;
        match close {
            Some(done) => {
                let until = self.runtime.now().plus(LAST_ANSWERS);
                self.waits.closing = Some(Closing { done, handover: None, until });
            }
            None if self.waits.closing.is_none() => return Ok(()),
            None => {}
        }
        self.go_on_closing()
    }

    fn step(&mut self, input: Input) -> Result<(), End> {
        let mut turn = Turn::default();
        self.raft.step(self.runtime.now(), input, &mut turn);
        self.carry_out(turn)
    }

    fn carry_out(&mut self, turn: Turn) -> Result<(), End> {
        let Turn { writes, ticket, sends, applies, done, reads, view } = turn;
        assert!(reads.is_empty(), "nobody asked to read: {reads:?}");
        self.orders.write(writes, ticket);
        for envelope in sends {
            self.send(envelope);
        }
        if !applies.is_empty() {
            for apply in applies {
                self.apply(apply)?;
            }
            self.shown.published.publish(self.image.clone());
            self.compact();
        }
        for (token, result) in done {
            self.answered(token, result);
        }
        if let Some(view) = view {
            self.viewed(view);
        }
        Ok(())
    }

    fn send(&self, envelope: Envelope) {
        let deadline = self.runtime.now().plus(MESSAGE_LIFE);
        if let Err(why) = self.peers.tell(envelope.to, envelope, deadline) {
            debug!(%why, "a message of the quorum is not sent");
        }
    }

    /// Takes what is committed into the image. What does not fit ends this node's part: it means that nodes disagree.
    fn apply(&mut self, apply: Apply) -> Result<(), End> {
        let fatal = |why: String| End::Failed(format!("what the quorum committed cannot be applied: {why}"));
        let readable = Readable { up_to: self.named.settings.levels.max };
        match apply {
            Apply::Snapshot(snapshot) => {
                mark!("a snapshot of the leader takes the place of the metadata");
                let image = snapshot::decode(&snapshot.bytes).map_err(|why| fatal(why.to_string()))?;
                readable.image(&image).map_err(|why| fatal(why.to_string()))?;
                (self.compaction.since, self.compaction.newest) = (0, image.needs());
                self.compaction.epoch = snapshot.id.position.epoch;
                self.image = Arc::new(image);
                self.acquaint(&snapshot.id.voters);
            }
            Apply::Batch(Batch { end, epoch, content, .. }) => {
                let records = match &content {
                    Content::LeaderChange => Vec::new(),
                    Content::Voters(voters) => {
                        info!(?voters, "the voters of the quorum are agreed");
                        self.acquaint(voters);
                        Vec::new()
                    }
                    Content::Records(bytes) => {
                        self.compaction.since += bytes.len() as u64;
                        batch::decode(bytes.clone()).map_err(|why| fatal(why.to_string()))?
                    }
                };
                readable.records(&records).map_err(|why| fatal(why.to_string()))?;
                let newest = records.iter().map(Record::level).max();
                self.compaction.newest = self.compaction.newest.max(newest.unwrap_or(1));
                if end > self.news_from {
                    tell(&self.image, &records); // what it had when it started was told then
                }
                let image = self.image.after(&records, end).map_err(|why| fatal(why.to_string()))?;
                self.compaction.epoch = epoch;
                self.image = Arc::new(image);
            }
        }
        match self.image.cluster_id() {
            Some(id) if !self.named.cluster.learn(id) => Err(End::Failed(format!(
                "this node belongs to cluster {}, and the quorum is that of cluster {id}: give it the data directory \
                 of this cluster, or an empty one",
                self.named.cluster.get()
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Tells the peers where voters listen; what a broker said of itself counts more.
    fn acquaint(&self, voters: &[Voter]) {
        for voter in voters {
            if !voter.address.is_empty() && self.peers.address(voter.key.id).is_none() {
                self.peers.know(voter.key.id, &voter.address);
            }
        }
    }

    /// Begins a snapshot, if it is time.
    fn compact(&mut self) {
        let is_early = self.compaction.since > 0 && buggify!("metadata is compacted early", 50);
        let newest = self.compaction.newest;
        let is_lowered = newest > self.image.level() && newest > self.image.needs();
        let is_due = self.compaction.since >= self.compaction.every || is_early || is_lowered;
        if !is_due || self.compaction.under_way.is_some() {
            return;
        }
        if self.raft.entries().base().end > self.image.end() {
            mark!("no snapshot is made of what one that is being installed replaces");
            return; // the next image is of that, and looked at again
        }
        if is_lowered {
            mark!("a snapshot takes away what an older release cannot read");
        }
        let end = self.image.end();
        let bytes = snapshot::encode(&self.image);
        let voters = self.raft.entries().voters_at(end).as_slice().to_vec();
        let position = Position { epoch: self.compaction.epoch, end };
        let id = SnapshotId { position, bytes: bytes.len() as u64, voters };
        info!(end = end.0, bytes = bytes.len(), "a snapshot of the metadata is written");
        (self.compaction.since, self.compaction.newest) = (0, self.image.needs());
        self.compaction.under_way = Some(if is_lowered { Purpose::Level { newest } } else { Purpose::Size });
        self.orders.keep(Arc::new(Snapshot { id, bytes }));
    }

    fn viewed(&mut self, view: View) {
        let ready = view.standing == Standing::Leader { ready: true };
        match (&self.active, ready) {
            (None, true) => {
                let now = self.runtime.now();
                let mut liveness = Liveness::take_over(now, &self.image);
                self.waits.gone.retain(|_, at| now.since(*at) < GONE_LIFE);
                liveness.suspect(&self.waits.gone.keys().copied().collect());
                info!(epoch = view.epoch.0, "this node is the active controller");
                self.active = Some(Active { liveness, next_tick: now, proposal: None });
                for broker in self.image.brokers().filter(|broker| !broker.fenced && broker.id != self.me.id)
                {
                    probe::start(&self.runtime, &self.peers, &self.inbox, broker.id);
                }
            }
            (Some(_), false) => {
                mark!("the active controller renounces");
                info!(epoch = view.epoch.0, leader = ?view.leader, "this node is not the active controller any more");
                if let Some((_, releases)) = self.active.take().and_then(|active| active.proposal) {
                    release(releases, Err(Unavailable::Unsure));
                }
            }
            (Some(_), true) | (None, false) => {}
        }
        let leader = match view.standing {
            Standing::Leader { ready: true } => Some(self.me.id),
            Standing::Leader { ready: false } => None,
            Standing::Unattached | Standing::Follower | Standing::Prospective | Standing::Candidate => {
                view.leader
            }
        };
        self.shown.leader.set(leader);
    }

    fn answered(&mut self, token: Token, result: Result<Offset, Lost>) {
        if let Some(reply) = self.waits.changes.remove(&token) {
            let _ = reply.send(result); // whoever asked may have gone
            return;
        }
        let Some(active) = &mut self.active else { return };
        let Some((_, releases)) = active.proposal.take_if(|(proposed, _)| *proposed == token) else { return };
        release(
            releases,
            match result {
                Ok(end) => Ok(end),
                Err(Lost::NotLeader | Lost::NotReady) => Err(Unavailable::Elsewhere),
                Err(Lost::Unknown) => {
                    mark!("a change of the metadata ends in doubt");
                    Err(Unavailable::Unsure)
                }
                Err(Lost::Refused(why)) => unreachable!("records are not refused: {why}"),
            },
        );
    }

    fn errand(&mut self, errand: Errand) -> Result<(), End> {
        match errand {
            Errand::Look(reply) => {
                let _ = reply.send(self.look()); // whoever asked may have gone
                Ok(())
            }
            Errand::Change(change, reply) => {
                let token = self.token();
                self.waits.changes.insert(token, reply);
                self.step(Input::Change { token, change })
            }
        }
    }

    fn look(&self) -> Quorum {
        let (view, now) = (self.raft.view(), self.runtime.now());
        let (committed, ..) = self.raft.marks();
        let leading = self.raft.leading();
        let end = self.raft.entries().end().end;
        let reached = |key: ReplicaKey| {
            if key == self.me {
                return Reached { end, silent: Some(Duration::ZERO) };
            }
            let progress = leading.and_then(|leading| leading.replicas.get(&key));
            let heard = progress.filter(|progress| progress.end > Offset::ZERO);
            let silent = heard.map(|progress| now.since(progress.heard));
            Reached { end: heard.map_or(Offset::NONE, |progress| progress.end), silent }
        };
        let voters = self.raft.entries().voters();
        let fetch = leading.map(|leading| leading.replicas.keys().copied()).into_iter().flatten();
        let observers = fetch.filter(|key| !voters.has(*key)).map(|key| (key, reached(key))).collect();
        Quorum {
            epoch: view.epoch,
            leader: view.leader,
            is_leader: leading.is_some(),
            committed,
            voters: voters.as_slice().iter().map(|voter| (voter.clone(), reached(voter.key))).collect(),
            observers,
        }
    }

    fn token(&mut self) -> Token {
        self.waits.next_token += 1;
        Token(self.waits.next_token)
    }

    /// Nothing new is begun without room, and another node should lead.
    fn disk_is_full(&mut self, full: bool) -> Result<(), End> {
        self.waits.full = full;
        if full && self.raft.entries().voters().count() > 1 {
            return self.step(Input::Resign);
        }
        Ok(())
    }

    /// Whether anything can happen by the passing of time: a broker that stands alone watches nobody.
    fn needs_ticks(&self) -> bool {
        self.image.brokers().nth(1).is_some()
    }

    /// Answers those who wait: decides, if this node is the active controller and nothing is under way.
    fn decide(&mut self) -> Result<(), End> {
        let Some(active) = &self.active else {
            self.refuse_all(Unavailable::Elsewhere);
            return Ok(());
        };
        if self.waits.full {
            self.refuse_all(Unavailable::Full);
            return Ok(());
        }
        let now = self.runtime.now();
        let tick = self.needs_ticks() && now >= active.next_tick;
        if active.proposal.is_some() || (self.waits.requests.is_empty() && !tick) {
            return Ok(());
        }
        let (draft, releases) = self.draft(now, tick);
        if draft.records().is_empty() {
            release(releases, Ok(self.image.end()));
            // There may be more than fits one turn.
            return if self.waits.requests.is_empty() { Ok(()) } else { self.decide() };
        }
        self.propose(draft, releases)
    }

    fn refuse_all(&mut self, why: Unavailable) {
        for waiting in self.waits.requests.drain(..) {
            waiting.request.refuse(why);
        }
    }

    fn draft(&mut self, now: Mono, tick: bool) -> (Draft, Vec<Release>) {
        let active = self.active.as_mut().expect("only the active controller decides");
        let mut draft = Draft::on(&self.image);
        let mut entropy = || self.runtime.random_u64();
        let settings = &self.named.settings;
        let mut context = Context { settings, entropy: &mut entropy, now, liveness: &mut active.liveness };
        if draft.image().cluster_id().is_none() {
            let known = self.named.cluster.get();
            let id = if known.is_empty() { &self.named.new_cluster_id } else { known };
            draft.push(ClusterNamed { id: id.to_owned() });
        }
        if tick {
            active.next_tick = now.plus(TICK);
            Tick.decide(&mut draft, &mut context);
        }
        let mut releases = Vec::new();
        while releases.len() < TURN_REQUESTS && draft.records().len() < TURN_RECORDS {
            let Some(waiting) = self.waits.requests.pop_front() else { break };
            releases.push(waiting.request.decide(&mut draft, &mut context));
        }
        (draft, releases)
    }

    fn propose(&mut self, draft: Draft, mut releases: Vec<Release>) -> Result<(), End> {
        let records = batch::encode(draft.records(), self.runtime.unix_ms()).bytes().clone();
        let count = u32::try_from(draft.records().len()).expect("a draft is small");
        if mutant!(36) {
            // The planted bug: the change is published and answered before its records are committed.
            let end = self.raft.entries().end().end.plus(i64::from(count));
            self.shown.published.publish(Arc::new(draft.into_image(end)));
            release(std::mem::take(&mut releases), Ok(end));
        }
        let token = self.token();
        let active = self.active.as_mut().expect("only the active controller proposes");
        assert!(active.proposal.is_none(), "one proposal at a time");
        active.proposal = Some((token, releases));
        self.step(Input::Propose { token, count, records })
    }

    /// What was asked is answered, then another node leads, then the journal is closed. On a full disk nothing is waited
    /// for, and not for ever for voters whose disks do not write: a stop must not last until somebody makes room, and what is
    /// under way ends in doubt.
    fn go_on_closing(&mut self) -> Result<(), End> {
        let is_busy = self.active.as_ref().is_some_and(|active| active.proposal.is_some());
        let now = self.runtime.now();
        let is_late = self.waits.closing.as_ref().is_some_and(|closing| now >= closing.until);
        if self.waits.full && is_busy {
            mark!("a stop does not wait for room");
        } else if is_late {
            mark!("a stop does not wait for voters that do not write");
        } else if is_busy || !self.waits.requests.is_empty() {
            return Ok(());
        }
        let leads = self.raft.leading().is_some_and(|leading| !leading.replicas.is_empty());
        let closing = self.waits.closing.as_mut().expect("it was asked to close");
        let over = match closing.handover {
            None if leads => {
                closing.handover = Some(now.plus(HANDOVER));
                self.step(Input::Resign)?;
                false
            }
            None => true,
            Some(handover) => now >= handover || self.shown.leader.get().is_some(),
        };
        if !over {
            return Ok(());
        }
        let closing = self.waits.closing.take().expect("it was asked to close");
        self.leave_in_doubt();
        self.orders.close(closing.done);
        Err(End::Gone)
    }

    /// Nobody knows what becomes of the change that is under way: it may be in the log.
    fn leave_in_doubt(&mut self) {
        if let Some((_, releases)) = self.active.take().and_then(|active| active.proposal) {
            mark!("a change of the metadata ends in doubt");
            release(releases, Err(Unavailable::Unsure));
        }
        for (_, reply) in std::mem::take(&mut self.waits.changes) {
            let _ = reply.send(Err(Lost::Unknown)); // who asked may be gone
        }
    }

    /// Gives up for good. Everyone who waits, and everyone who comes, is told.
    fn stop(&mut self, why: String) {
        error!(why, "the controller of this node stops until the node is restarted");
        self.leave_in_doubt();
        self.shown.stopped.set(why).expect("the driver stops once");
        self.shown.leader.set(None);
    }
}

fn release(releases: Vec<Release>, durable: Result<Offset, Unavailable>) {
    for release in releases {
        release(durable);
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
pub(crate) mod tests;
