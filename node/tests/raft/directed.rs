//! Stories of one node, told message by message: what chaos reaches too rarely. More of them: `directed_votes`.

use std::time::Duration;

use bytes::Bytes;
use dejaq::controller::raft::{
    Input, Limits, Lost, Raft, Restored, Settings, Standing, Ticket, Timing, Token, Turn, Write,
};
use dejaq::runtime::Mono;
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{
    Batch, Content, DirectoryId, Envelope, Fetched, Message, Position, ReplicaKey, SnapshotId, Voter,
};

use super::directed_votes;
use super::god::Verdict;

pub const ELECTION: Duration = Duration::from_millis(150);

/// A node with what it said last.
pub struct Story {
    pub raft: Raft,
    pub now: Mono,
    pub ticket: Option<Ticket>,
}

pub fn key(id: i32) -> ReplicaKey {
    ReplicaKey { id: BrokerId(id), directory: DirectoryId([id as u8; 16]) }
}

pub fn at(end: i64, epoch: i32) -> Position {
    Position { epoch: LeaderEpoch(epoch), end: Offset(end) }
}

pub fn batch(base: i64, end: i64, epoch: i32) -> Batch {
    let content = Content::Records(Bytes::from(vec![epoch as u8; 8]));
    Batch { base: Offset(base), end: Offset(end), epoch: LeaderEpoch(epoch), content }
}

impl Story {
    /// Node 1 of `voters`, with an empty disk.
    pub fn of(voters: i32) -> (Story, Turn) {
        Story::found(voters, Restored::default(), Mono(1))
    }

    /// Its process ends, and begins anew with what its disk kept.
    pub fn begins_anew(&mut self, restored: Restored) {
        *self = Story::found(3, restored, self.now).0;
        self.durable();
    }

    fn found(voters: i32, restored: Restored, now: Mono) -> (Story, Turn) {
        let settings = Settings {
            me: key(1),
            timing: Timing::of(ELECTION),
            limits: Limits::default(),
            bootstrap: (1..=voters).map(|id| Voter { key: key(id), address: String::new() }).collect(),
            contacts: Vec::new(),
            snapshot_reads: |bytes| bytes == b"good",
        };
        let mut turn = Turn::default();
        let raft = Raft::open(settings, restored, 7, now, &mut turn).expect("voters");
        let ticket = turn.ticket;
        (Story { raft, now, ticket }, turn)
    }

    pub fn step(&mut self, input: Input) -> Turn {
        let mut turn = Turn::default();
        self.raft.step(self.now, input, &mut turn);
        self.ticket = turn.ticket.or(self.ticket);
        turn
    }

    pub fn durable(&mut self) -> Turn {
        let ticket = self.ticket.take().expect("something was written");
        self.step(Input::Durable(ticket))
    }

    pub fn hears(&mut self, from: i32, epoch: i32, leader: Option<i32>, message: Message) -> Turn {
        let (epoch, leader) = (LeaderEpoch(epoch), leader.map(BrokerId));
        self.step(Input::Received(Envelope { from: key(from), to: BrokerId(1), epoch, leader, message }))
    }

    /// Follows node 2 in this epoch, durably.
    pub fn follows(&mut self, epoch: i32) {
        self.hears(2, epoch, Some(2), Message::Leading);
        self.durable();
    }

    pub fn is_told(&mut self, epoch: i32, position: Position, fetched: Fetched, commit: i64) -> Turn {
        let reply = Message::FetchReply { at: position, fetched, commit: Offset(commit), round: 0 };
        self.hears(2, epoch, Some(2), reply)
    }

    pub fn leads(&self) -> bool {
        matches!(self.raft.view().standing, Standing::Leader { .. })
    }

    /// Elected by node 2; nothing of its epoch is committed.
    pub fn elected() -> Story {
        let (mut story, _) = Story::of(3);
        story.durable();
        story.now = story.raft.deadline();
        story.step(Input::Tick);
        story.hears(2, 0, None, Message::VoteReply { pre: true, granted: true });
        story.durable();
        story.hears(2, 1, None, Message::VoteReply { pre: false, granted: true });
        assert!(story.leads(), "{:?}", story.raft.view());
        story
    }
}

pub fn must(what: bool, text: impl Into<String>) -> Verdict {
    if what { Ok(()) } else { Err(text.into()) }
}

/// No timeout is waited for by the only voter, and nothing rests on a vote that is not durable.
pub fn a_single_voter_leads_as_soon_as_its_vote_is_durable() -> Verdict {
    let (mut story, turn) = Story::of(1);
    must(!story.leads(), "leads before its vote is durable")?;
    must(turn.writes.iter().any(|write| matches!(write, Write::HardState(_))), "its vote is not written")?;
    story.durable();
    must(story.leads(), "waits for something")?;
    must(story.raft.marks().0 == Offset(0), "commits what is not durable")?;
    let turn = story.durable();
    must(turn.applies.len() == 2, "voters and leader change are committed")?;
    must(story.raft.view().standing == Standing::Leader { ready: true }, "not ready")?;
    let propose = Input::Propose { token: Token(1), count: 5, records: Bytes::from_static(b"x") };
    must(story.step(propose).done.is_empty(), "acked before it is durable")?;
    must(story.durable().done == [(Token(1), Ok(Offset(7)))], "not acked")
}

/// MQ-17: others may have elected someone else.
pub fn a_leader_that_nobody_fetches_from_goes() -> Verdict {
    let mut story = Story::elected();
    let patient_until = story.now.plus(ELECTION * 3);
    let propose = Input::Propose { token: Token(9), count: 1, records: Bytes::from_static(b"x") };
    story.step(propose);
    while story.leads() && story.now < patient_until {
        story.now = story.raft.deadline().max(story.now.plus(Duration::from_nanos(1)));
        let turn = story.step(Input::Tick);
        if !story.leads() {
            return must(turn.done == [(Token(9), Err(Lost::Unknown))], "its proposal has no answer");
        }
    }
    Err("MQ-17: it leads on, alone".into())
}

/// MQ-20: the bytes that the first write was about were cut away while it was under way.
pub fn a_late_completion_does_not_speak_for_bytes_that_replaced_others() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    story.follows(1);
    story.is_told(1, Position::EMPTY, Fetched::Batches(vec![batch(0, 5, 1), batch(5, 9, 1)]), 0);
    let first = story.ticket.take().expect("it appended");
    story.hears(2, 2, Some(2), Message::Leading);
    story.is_told(2, at(9, 1), Fetched::Diverged { to: at(5, 1) }, 0);
    story.is_told(2, at(5, 1), Fetched::Batches(vec![batch(5, 9, 2)]), 0);
    must(story.raft.entries().end() == at(9, 2), "it did not cut and append")?;
    story.step(Input::Durable(first));
    let (.., durable) = story.raft.marks();
    must(durable == Offset(5), format!("MQ-20: {durable:?} is durable, the new bytes are not"))?;
    story.durable();
    must(story.raft.marks().2 == Offset(9), "the new bytes are durable now")
}

/// The bug that a design before ours had at seed 1204: acknowledged entries, erased by a snapshot from before them.
pub fn a_snapshot_from_before_erases_nothing() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    story.follows(1);
    let voters = (1..=3).map(|id| Voter { key: key(id), address: String::new() }).collect();
    let old = Fetched::Snapshot(SnapshotId { position: at(5, 1), bytes: 4, voters });
    story.is_told(1, Position::EMPTY, Fetched::Batches(vec![batch(0, 5, 1), batch(5, 9, 1)]), 9);
    story.durable();
    must(story.raft.marks() == (Offset(9), Offset(9), Offset(9)), "nine are committed")?;
    story.is_told(1, Position::EMPTY, old, 9);
    let bytes = Bytes::from_static(b"good");
    story.hears(2, 1, Some(2), Message::SnapshotChunk { at: at(9, 1), snapshot: at(5, 1), from: 0, bytes });
    let end = story.raft.entries().end();
    must(end == at(9, 1), format!("MQ-7: erased by an old snapshot: ends at {end:?}"))
}

/// Pre-vote (KIP-996): the epoch of a node that hears nobody stays, so that it unseats nobody when it comes back.
pub fn a_node_that_hears_nobody_stays_in_its_epoch() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    story.follows(4);
    for _ in 0..50 {
        story.now = story.raft.deadline().max(story.now.plus(Duration::from_nanos(1)));
        story.step(Input::Tick);
    }
    let epoch = story.raft.view().epoch;
    must(epoch == LeaderEpoch(4), format!("alone, it went on to {epoch:?}"))?;
    story.is_told(4, Position::EMPTY, Fetched::Batches(vec![]), 0);
    must(
        story.raft.view().standing == Standing::Follower,
        "it does not follow the leader that it hears again",
    )
}

/// Figure 8 of Raft, at one node: what a majority has is not committed before something of this epoch is (MQ-5).
pub fn an_entry_of_an_older_epoch_is_not_committed_by_count() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    story.follows(1);
    story.is_told(1, Position::EMPTY, Fetched::Batches(vec![batch(0, 4, 1)]), 0);
    story.durable();
    story.now = story.raft.deadline().plus(ELECTION * 2);
    story.step(Input::Tick);
    story.hears(3, 1, None, Message::VoteReply { pre: true, granted: true });
    story.durable();
    story.hears(3, 2, None, Message::VoteReply { pre: false, granted: true });
    must(story.leads(), "not elected")?;
    let fetch = |end, epoch, durable| Message::Fetch {
        log: at(end, epoch),
        durable: Offset(durable),
        commit: Offset(0),
        round: 0,
    };
    story.hears(3, 2, None, fetch(4, 1, 4));
    must(story.raft.marks().0 == Offset(0), "MQ-5: committed what is of an older epoch by count")?;
    story.durable();
    story.hears(3, 2, None, fetch(6, 2, 6));
    must(story.raft.marks().0 == Offset(6), "not committed with its own")
}

/// A disk that was replaced, or a voter that was removed, is not listed for ever; a voter that is silent is.
pub fn an_observer_that_is_gone_is_forgotten_and_a_voter_is_not() -> Verdict {
    let mut story = Story::elected();
    story.durable();
    let fetch = || Message::Fetch { log: at(0, 0), durable: Offset(0), commit: Offset(0), round: 0 };
    let listed = |story: &Story, id: i32| {
        story.raft.leading().is_some_and(|leading| leading.replicas.contains_key(&key(id)))
    };
    story.hears(9, 1, None, fetch());
    story.hears(3, 1, None, fetch());
    let gone_at = story.now.plus(ELECTION * 2 * 10);
    let mut was_listed_until = story.now;
    while story.now < gone_at.plus(ELECTION * 2) {
        story.now = story.raft.deadline().max(story.now.plus(Duration::from_nanos(1)));
        story.step(Input::Tick);
        story.hears(2, 1, None, fetch());
        was_listed_until = if listed(&story, 9) { story.now } else { was_listed_until };
    }
    must(story.leads(), "it has a majority")?;
    must(listed(&story, 2) && listed(&story, 3), "a voter is not listed")?;
    must(!listed(&story, 9), "an observer that is gone is listed")?;
    must(was_listed_until.plus(ELECTION) > gone_at, "forgotten too early")?;
    story.hears(9, 1, None, fetch());
    must(listed(&story, 9), "one that comes back is not listed")
}

/// A name, and what tells whether it holds.
type Named = (&'static str, fn() -> Verdict);

/// Every story, by name.
pub const STORIES: &[Named] = &[
    ("single voter", a_single_voter_leads_as_soon_as_its_vote_is_durable),
    ("alone", a_leader_that_nobody_fetches_from_goes),
    ("late completion", a_late_completion_does_not_speak_for_bytes_that_replaced_others),
    ("old snapshot", a_snapshot_from_before_erases_nothing),
    ("pre-vote", a_node_that_hears_nobody_stays_in_its_epoch),
    ("forgotten observer", an_observer_that_is_gone_is_forgotten_and_a_voter_is_not),
    ("older epoch", an_entry_of_an_older_epoch_is_not_committed_by_count),
    ("forgotten vote", directed_votes::a_vote_that_the_power_took_was_never_said),
    ("vote of who steps down", directed_votes::who_steps_down_has_voted_still),
    ("two catch-ups", directed_votes::late_entries_of_another_catch_up_change_nothing),
];
