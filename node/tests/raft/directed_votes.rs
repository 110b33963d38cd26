//! Stories of one node: what it forgets at a power cut or when it steps down (S32), and what comes late from leaders that
//! were (S34).

use dejaq::controller::raft::{HardState, Input, Restored, Turn};
use dejaq_wire::ids::{BrokerId, LeaderEpoch, Offset};
use dejaq_wire::peer::raft::{Fetched, Message, Position, SnapshotId, Voter};

use super::directed::{Story, at, batch, key, must};
use super::god::Verdict;

const ASKS: Message = Message::Vote { pre: false, log: Position::EMPTY };

/// Whether it says a vote to this node.
fn votes_for(turn: &Turn, node: i32) -> bool {
    let is_yes = |message: &Message| matches!(message, Message::VoteReply { pre: false, granted: true });
    turn.sends.iter().any(|sent| sent.to == BrokerId(node) && is_yes(&sent.message))
}

/// What a node says at once, and once everything is durable.
fn said(story: &mut Story, mut turn: Turn) -> Turn {
    if story.ticket.is_some() {
        turn.sends.extend(story.durable().sends);
    }
    turn
}

fn epoch_of(epoch: i32, voted: Option<i32>) -> Restored {
    let hard = HardState { epoch: LeaderEpoch(epoch), voted: voted.map(key) };
    Restored { hard: Some(hard), ..Restored::default() }
}

/// MQ-2 (NATS bf8ebe7): the power goes between a vote and its sync. The vote was not said, and another one may be given; what
/// was synced is given to nobody else, in no life.
pub fn a_vote_that_the_power_took_was_never_said() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    let turn = story.hears(2, 5, None, ASKS);
    must(!votes_for(&turn, 2), "MQ-2: a vote is said before it is durable")?;
    story.begins_anew(epoch_of(0, None));
    story.hears(3, 5, None, ASKS);
    must(votes_for(&story.durable(), 3), "the vote is free: nobody has heard of the other one")?;
    story.begins_anew(epoch_of(5, Some(3)));
    let turn = story.hears(2, 5, None, ASKS);
    must(!votes_for(&said(&mut story, turn), 2), "MQ-2: it votes twice, in two lives")?;
    must(votes_for(&story.hears(3, 5, None, ASKS), 3), "who has its vote is told so again")
}

/// MQ-2 (NATS 860e236): who gives up leading, standing or following stays in its epoch, and its vote in that is gone.
pub fn who_steps_down_has_voted_still() -> Verdict {
    let refuses = |mut story: Story, epoch: i32, what: &str| {
        let turn = story.hears(3, epoch, None, Message::Vote { pre: false, log: at(99, epoch) });
        must(!votes_for(&said(&mut story, turn), 3), format!("MQ-2: {what} votes twice"))
    };
    let mut leader = Story::elected();
    leader.step(Input::Resign);
    must(!leader.leads(), "it resigned")?;
    refuses(leader, 1, "a leader that went")?;

    let (mut candidate, _) = Story::of(3);
    candidate.durable();
    candidate.now = candidate.raft.deadline();
    candidate.step(Input::Tick);
    candidate.hears(2, 0, None, Message::VoteReply { pre: true, granted: true });
    candidate.durable();
    candidate.now = candidate.raft.deadline().plus(super::directed::ELECTION * 3);
    candidate.step(Input::Tick);
    must(candidate.raft.view().epoch == LeaderEpoch(1), "it stood, and asks around")?;
    refuses(candidate, 1, "a candidate that was not elected")?;

    let (mut voter, _) = Story::of(3);
    voter.durable();
    voter.hears(2, 1, None, ASKS);
    must(votes_for(&voter.durable(), 2), "its vote is free")?;
    voter.now = voter.raft.deadline();
    voter.step(Input::Tick);
    refuses(voter, 1, "a voter that heard nothing of whom it elected")
}

/// MQ-7 (NATS f871570, d2ae011, 233851a): two leaders, and what each sent to catch this node up. What the first one sent
/// arrives when the second's is committed, and so do copies of the second's: none cuts, appends or commits anything, and
/// nothing is reported that is not there.
pub fn late_entries_of_another_catch_up_change_nothing() -> Verdict {
    let (mut story, _) = Story::of(3);
    story.durable();
    story.follows(1);
    story.is_told(1, Position::EMPTY, Fetched::Batches(vec![batch(0, 5, 1)]), 0);
    story.durable();
    story.hears(3, 2, Some(3), Message::Leading);
    story.durable();
    let told = |place: Position, fetched, commit| Message::FetchReply {
        at: place,
        fetched,
        commit: Offset(commit),
        round: 0,
    };
    let second = || Fetched::Batches(vec![batch(5, 9, 2)]);
    story.hears(3, 2, Some(3), told(at(5, 1), second(), 9));
    story.durable();
    let nine = (Offset(9), Offset(9), Offset(9));
    must(story.raft.marks() == nine, "the second's entries are committed")?;
    let voters: Vec<Voter> = (1..=3).map(|id| Voter { key: key(id), address: String::new() }).collect();
    let old = SnapshotId { position: at(7, 1), bytes: 4, voters };
    let late = [
        Fetched::Batches(vec![batch(5, 7, 1), batch(7, 12, 1)]),
        Fetched::Diverged { to: at(3, 1) },
        Fetched::Snapshot(old),
        second(),
    ];
    for (leader, epoch) in [(2, 1), (3, 2)] {
        for fetched in &late {
            story.hears(leader, epoch, Some(leader), told(at(5, 1), fetched.clone(), 12));
            let (end, marks) = (story.raft.entries().end(), story.raft.marks());
            let is_same = end == at(9, 2) && marks == nine;
            must(is_same, format!("MQ-7: {fetched:?} of {leader}, late, leaves {end:?} {marks:?}"))?;
        }
    }
    story.hears(2, 2, Some(3), told(at(9, 2), Fetched::NotLeader, 0));
    must(story.raft.view().leader == Some(BrokerId(3)), "one that leads no more speaks for itself")?;
    let turn = story.hears(3, 2, Some(3), told(at(9, 2), Fetched::Batches(vec![batch(9, 12, 2)]), 12));
    let reported = turn.sends.iter().find_map(|sent| match sent.message {
        Message::Fetch { durable, .. } => Some(durable),
        _ => None,
    });
    must(reported == Some(Offset(9)), format!("MQ-6: {reported:?} is reported, and not durable"))?;
    must(story.raft.marks().1 == Offset(9), "it shows what a power cut takes back")
}
