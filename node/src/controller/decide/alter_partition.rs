//! A leader proposes another in-sync set: checked against everything that may have changed since it looked.
//!
//! Promises: who is fenced, stopping or restarted is let into no in-sync set (KIP-841, KIP-903); a proposal made in an
//! old epoch changes nothing (KIP-497, REP-12); a leader that knows more than this controller is sent elsewhere and
//! never fenced (KAFKA-14154); a proposal whose answer was lost is answered again; a leader that leaves itself out, because
//! its log is damaged, is followed by a member that it names; one that cannot open its log, and is alone in sync, goes before
//! who is eligible, and stays eligible itself; who lost what was committed, to damage or with its files, is
//! counted on by nobody until it has that again (LOG-5).
//!
//! The leader must take the new set from the metadata and not from the answer: only there it stands in order with the
//! configs that decide how small a set may commit.

use dejaq_storage::{mark, mutant};
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionId, TopicId};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::{Election, Wanted};
use crate::controller::sweep::change;
use crate::metadata::{Image, Partition};

/// Most partitions of one request.
pub const MAX_PROPOSALS: usize = 10_000;

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    /// The leader.
    pub broker: BrokerId,
    /// Its life.
    pub broker_epoch: BrokerEpoch,
    /// What it proposes; at most [`MAX_PROPOSALS`].
    pub proposals: Vec<Proposal>,
}

/// What is proposed for one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which topic.
    pub topic_id: TopicId,
    /// Which partition.
    pub partition: PartitionId,
    /// In which epoch it leads.
    pub leader_epoch: LeaderEpoch,
    /// Which state of the partition it saw.
    pub partition_epoch: i32,
    /// Who is in sync, each with the life in which it fetched; without the leader if another is to lead.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
    /// Who lost what was committed: it may not be elected, though the set becomes too small to commit.
    pub lost: Vec<BrokerId>,
}

/// A partition as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Who leads.
    pub leader: BrokerId,
    /// In which epoch.
    pub leader_epoch: LeaderEpoch,
    /// Who is in sync.
    pub isr: Vec<BrokerId>,
    /// Counts changes of this partition.
    pub partition_epoch: i32,
}

impl Decide for AlterPartition {
    /// One result for each proposal, in their order; or the refusal of all.
    type Answer = Result<Vec<Result<Current, Refusal>>, Refusal>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let registered = draft.image().broker(self.broker).map(|broker| broker.epoch);
        if registered != Some(self.broker_epoch) {
            let why = format!("broker {} with epoch {} is not registered", self.broker, self.broker_epoch);
            return Err(Refusal::new(ErrorCode::STALE_BROKER_EPOCH, why));
        }
        if self.proposals.len() > MAX_PROPOSALS {
            let why = format!("{} proposals, at most {MAX_PROPOSALS} are taken", self.proposals.len());
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
        }
        Ok(self.proposals.iter().map(|proposal| alter(self.broker, proposal, draft, context)).collect())
    }
}

fn alter(
    broker: BrokerId,
    proposal: &Proposal,
    draft: &mut Draft,
    context: &Context<'_>,
) -> Result<Current, Refusal> {
    let at = (proposal.topic_id, proposal.partition);
    let partition = find(draft.image(), at)?;
    // The planted bug M330: whatever was decided since, a proposal counts as made on the state that is now.
    let is_now = mutant!(330);
    if !is_now {
        check_epochs(broker, proposal, partition)?;
    }
    let isr: Vec<BrokerId> = proposal.isr.iter().map(|(member, _)| *member).collect();
    if proposal.partition_epoch < partition.partition_epoch && !is_now {
        if same(&isr, &partition.isr) {
            mark!("a proposal whose answer was lost is answered again");
            return Ok(current(partition));
        }
        mark!("a proposal for a state that is over is refused");
        let why =
            format!("partition epoch {} is {} now", proposal.partition_epoch, partition.partition_epoch);
        return Err(Refusal::new(ErrorCode::INVALID_UPDATE_VERSION, why));
    }
    check_set(proposal, &isr, partition, draft.image())?;
    let wiped = proposal.lost.clone();
    if !wiped.is_empty() {
        mark!("a replica lost records to damage: nobody counts on it");
    }
    let election = if steps_aside(proposal, partition) { Election::StepDown } else { Election::Keep };
    change(draft, context, at, &Wanted { isr: Some(isr), wiped, election, ..Wanted::default() });
    find(draft.image(), at).map(current)
}

fn find(image: &Image, (topic_id, index): (TopicId, PartitionId)) -> Result<&Partition, Refusal> {
    let topic = image.topic(topic_id).ok_or_else(|| Refusal::of(ErrorCode::UNKNOWN_TOPIC_ID))?;
    topic.partition(index).ok_or_else(|| Refusal::of(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))
}

fn check_epochs(broker: BrokerId, proposal: &Proposal, partition: &Partition) -> Result<(), Refusal> {
    let ahead = proposal.leader_epoch > partition.leader_epoch
        || proposal.partition_epoch > partition.partition_epoch;
    if ahead {
        mark!("a leader knows more than this controller");
        let why = "the leader knows of a newer state than this controller, which is not the active one";
        return Err(Refusal::new(ErrorCode::NOT_CONTROLLER, why));
    }
    if proposal.leader_epoch < partition.leader_epoch {
        mark!("a proposal of a leader that was replaced is refused");
        let why = format!("leader epoch {} is {} now", proposal.leader_epoch, partition.leader_epoch);
        return Err(Refusal::new(ErrorCode::FENCED_LEADER_EPOCH, why));
    }
    if partition.leader != broker && !disowns_itself(broker, proposal, partition) {
        let why = format!("broker {broker} does not lead, {} does", partition.leader);
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
    }
    Ok(())
}

/// Of itself every replica may say that it lost what it had, while another leads; it changes nothing for the others.
fn disowns_itself(broker: BrokerId, proposal: &Proposal, partition: &Partition) -> bool {
    let others: Vec<BrokerId> = partition.isr.iter().copied().filter(|one| *one != broker).collect();
    let isr: Vec<BrokerId> = proposal.isr.iter().map(|(member, _)| *member).collect();
    partition.leader != BrokerId::NONE && proposal.lost == [broker] && same(&isr, &others)
}

/// A leader that is alone in sync and lost nothing lets another lead who is eligible: as if it were fenced for a moment.
fn steps_aside(proposal: &Proposal, partition: &Partition) -> bool {
    proposal.isr.is_empty() && proposal.lost.is_empty() && partition.isr[..] == [partition.leader]
}

fn check_set(
    proposal: &Proposal,
    isr: &[BrokerId],
    partition: &Partition,
    image: &Image,
) -> Result<(), Refusal> {
    let refuse = |code, why: String| Err(Refusal::new(code, why));
    // A leader may leave itself out, and nobody else may come in with that: whoever leads then was in sync before.
    let is_led = isr.contains(&partition.leader);
    let is_given_up = isr.is_empty() && proposal.lost.contains(&partition.leader);
    let is_part = !isr.is_empty() && isr.iter().all(|member| partition.isr.contains(member));
    let steps_aside = steps_aside(proposal, partition);
    if !(is_led || is_given_up || is_part || steps_aside) {
        let why = format!("the in-sync set {isr:?} lacks the leader, and is no part of {:?}", partition.isr);
        return refuse(ErrorCode::INVALID_REQUEST, why);
    }
    let is_wrong = |one: &BrokerId| !partition.replicas.contains(one) || isr.contains(one);
    if let Some(one) = proposal.lost.iter().find(|one| is_wrong(one)) {
        return refuse(
            ErrorCode::INVALID_REQUEST,
            format!("{one} lost something, and is in sync or no replica"),
        );
    }
    // Nobody is left in sync only if somebody else leads at once who has all that was committed.
    // Who was eligible only before an unclean stop takes the place of a copy that is lost, and of none that may be whole.
    let may_be_known = partition.elr.is_empty() && !steps_aside;
    let heirs = if may_be_known { &partition.last_known_elr } else { &partition.elr };
    let is_fit = |heir: &BrokerId| image.is_live(*heir) && !proposal.lost.contains(heir);
    if isr.is_empty() && !heirs.iter().any(is_fit) {
        let why = "nobody would be in sync, and nobody is there who could lead instead".to_owned();
        return refuse(ErrorCode::INELIGIBLE_REPLICA, why);
    }
    for (at, (member, epoch)) in proposal.isr.iter().enumerate() {
        if !partition.replicas.contains(member) || isr[..at].contains(member) {
            return refuse(ErrorCode::INVALID_REQUEST, format!("{member} is no replica, or is named twice"));
        }
        let Some(known) = image.broker(*member).filter(|known| known.is_live()) else {
            return refuse(ErrorCode::INELIGIBLE_REPLICA, format!("broker {member} is fenced or stopping"));
        };
        // The planted bug M12: a replica that restarted since it fetched is taken for the one that fetched.
        if known.epoch != *epoch && !mutant!(12) {
            mark!("a replica that restarted since it fetched is kept out");
            let why = format!("broker {member} is in epoch {} now, not {epoch}", known.epoch);
            return refuse(ErrorCode::INELIGIBLE_REPLICA, why);
        }
    }
    Ok(())
}

fn same(one: &[BrokerId], other: &[BrokerId]) -> bool {
    one.len() == other.len() && one.iter().all(|broker| other.contains(broker))
}

fn current(partition: &Partition) -> Current {
    Current {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        isr: partition.isr.to_vec(),
        partition_epoch: partition.partition_epoch,
    }
}
