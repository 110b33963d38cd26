//! AlterPartitionReassignments: replicas move, by more of them for a while.
//!
//! Promises: a reassignment adds before it takes away, and adds nobody to the in-sync set by itself (RSG-1); neither
//! it, nor its change, nor its cancellation leaves fewer in-sync copies than commit something (RSG-2, RSG-4).
//!
//! ```text
//!  {1,2,3} ─ target {1,2,4} ─► {1,2,4,3} adding 4, removing 3 ─ 4 in sync ─► {1,2,4}
//!                                   └── cancel ─► {1,2,3}
//! ```

use dejaq_storage::mark;
use dejaq_wire::ErrorCode;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};
use serde::{Deserialize, Serialize};

use crate::controller::draft::{Context, Decide, Draft, Refusal};
use crate::controller::succession::{Replicas, Wanted};
use crate::controller::sweep::{TopicRules, change};
use crate::metadata::{Image, Partition};

/// The request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reassign {
    /// What is to move, by topic.
    pub topics: Vec<(String, Vec<(PartitionId, Target)>)>,
    /// Whether a target may have more or fewer replicas than there are.
    pub allow_factor_change: bool,
}

/// Where a partition is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// On these brokers, the preferred leader first.
    On(Vec<BrokerId>),
    /// Where it was before the reassignment that is under way.
    Back,
}

impl Decide for Reassign {
    /// One result for each partition, in the order of the request.
    type Answer = Vec<(String, Vec<(PartitionId, Result<(), Refusal>)>)>;

    fn decide(self, draft: &mut Draft, context: &mut Context<'_>) -> Self::Answer {
        let allow = self.allow_factor_change;
        let mut one = |name: &str, index: PartitionId, target: Target| {
            let topic = draft.image().topic_named(name).filter(|topic| topic.partition(index).is_some());
            let Some(id) = topic.map(|topic| topic.id) else {
                return Err(Refusal::of(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
            };
            match target {
                Target::Back => cancel(draft, context, (id, index)),
                Target::On(replicas) => {
                    check_target(&replicas, draft.image(), (id, index), allow)?;
                    begin(draft, context, (id, index), &replicas)
                }
            }
        };
        let mut answer = Vec::new();
        for (name, partitions) in self.topics {
            let results = partitions.into_iter().map(|(index, target)| (index, one(&name, index, target)));
            let results = results.collect();
            answer.push((name, results));
        }
        answer
    }
}

fn partition(image: &Image, (topic, index): (TopicId, PartitionId)) -> &Partition {
    let found = image.topic(topic).and_then(|topic| topic.partition(index));
    found.expect("the caller has seen the partition")
}

fn check_target(
    target: &[BrokerId],
    image: &Image,
    at: (TopicId, PartitionId),
    allow_factor_change: bool,
) -> Result<(), Refusal> {
    let refuse = |code, why: String| Err(Refusal::new(code, why));
    let code = ErrorCode::INVALID_REPLICA_ASSIGNMENT;
    if target.is_empty() {
        return refuse(code, "The manual partition assignment includes an empty replica list.".into());
    }
    for (nth, broker) in target.iter().enumerate() {
        if target[..nth].contains(broker) {
            return refuse(code, format!("The manual partition assignment includes broker {broker} twice."));
        }
        if image.broker(*broker).is_none() {
            return refuse(
                code,
                format!("The assignment includes broker {broker}, which is not registered."),
            );
        }
    }
    let factor = partition(image, at).original().len();
    if !allow_factor_change && target.len() != factor {
        let why = format!("The replication factor is changed from {factor} to {}.", target.len());
        return refuse(ErrorCode::INVALID_REPLICATION_FACTOR, why);
    }
    Ok(())
}

/// Begins to move a partition to `target`, or changes where it is moving to.
///
/// # Errors
/// INVALID_REPLICA_ASSIGNMENT if too few copies would stay in sync.
pub fn begin(
    draft: &mut Draft,
    context: &Context<'_>,
    at: (TopicId, PartitionId),
    target: &[BrokerId],
) -> Result<(), Refusal> {
    let old = partition(draft.image(), at);
    let original = old.original();
    let not_in = |list: &[BrokerId], other: &[BrokerId]| -> Vec<BrokerId> {
        list.iter().copied().filter(|broker| !other.contains(broker)).collect()
    };
    let (adding, removing) = (not_in(target, &original), not_in(&original, target));
    let mut all = target.to_vec();
    all.extend(&removing);
    check_copies(old, &all, draft.image(), context, at.0)?;
    let wanted = Wanted { replicas: Some(Replicas { all, adding, removing }), ..Wanted::default() };
    change(draft, context, at, &wanted);
    Ok(())
}

/// Takes a reassignment back.
///
/// # Errors
/// NO_REASSIGNMENT_IN_PROGRESS; INVALID_REPLICA_ASSIGNMENT if too few of the original replicas are in sync: the
/// reassignment stays as it was.
pub fn cancel(draft: &mut Draft, context: &Context<'_>, at: (TopicId, PartitionId)) -> Result<(), Refusal> {
    let old = partition(draft.image(), at);
    if !old.is_moving() {
        return Err(Refusal::of(ErrorCode::NO_REASSIGNMENT_IN_PROGRESS));
    }
    let all = old.original();
    check_copies(old, &all, draft.image(), context, at.0)?;
    mark!("a reassignment is taken back");
    let replicas = Replicas { all, adding: Vec::new(), removing: Vec::new() };
    change(draft, context, at, &Wanted { replicas: Some(replicas), ..Wanted::default() });
    Ok(())
}

/// What is dropped at once must not be needed: as many in-sync copies stay as commit something, or as there are.
fn check_copies(
    old: &Partition,
    stay: &[BrokerId],
    image: &Image,
    context: &Context<'_>,
    topic: TopicId,
) -> Result<(), Refusal> {
    let topic = image.topic(topic).expect("the caller has seen the topic");
    let min = TopicRules::of(topic, image, context.settings).min_isr.min(stay.len());
    let kept = old.isr.iter().filter(|member| stay.contains(member)).count();
    let candidates = old.isr.iter().chain(old.elr.iter()).chain(old.last_known_elr.iter());
    let heirs = candidates.clone().count();
    let kept_heirs = candidates.filter(|member| stay.contains(member)).count();
    if kept >= min.min(old.isr.len()) && (kept_heirs > 0 || heirs == 0) {
        return Ok(());
    }
    mark!("a reassignment that would leave too few copies is refused");
    let why = format!(
        "Only {kept} of the in-sync replicas {:?} would stay; at least {min} are needed. Wait until more are in sync.",
        old.isr
    );
    Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, why))
}
