//! DeleteTopics (20): by name, from version 6 on also by id.

use std::collections::BTreeMap;

use dejaq_wire::ErrorCode;
use dejaq_wire::ids::TopicId;
use dejaq_wire::kafka::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};

use super::control_plane::{ControlPlane, outcome};
use crate::controller::Refusal;
use crate::controller::decide::delete_topics::{DeleteTopics, Deleted, Target};
use crate::runtime::Runtime;

/// Answers one request.
pub async fn answer<R: Runtime>(
    control: &ControlPlane<R>,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let timeout_ms = request.timeout_ms;
    let (targets, mut results) = targets(request);
    match control.change(DeleteTopics { targets: targets.clone() }, timeout_ms).await {
        Ok(deleted) => results.extend(deleted),
        Err(refusal) => results.extend(targets.into_iter().map(|target| refused(target, refusal.clone()))),
    }
    let response = |deleted: Deleted| {
        let (error_code, error_message) = outcome(&deleted.result);
        DeletableTopicResult { name: deleted.name, topic_id: deleted.topic_id, error_code, error_message }
    };
    DeleteTopicsResponse { responses: results.into_iter().map(response).collect(), ..Default::default() }
}

/// What to delete, each once, and what is refused at the door.
fn targets(request: DeleteTopicsRequest) -> (Vec<Target>, Vec<Deleted>) {
    let mut results = Vec::new();
    let mut given: Vec<Target> = request.topic_names.into_iter().map(Target::Name).collect();
    for topic in request.topics {
        let invalid = |name, topic_id, why: &str| {
            let result = Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
            Deleted { name, topic_id, result }
        };
        match (topic.name, topic.topic_id) {
            (None, id) if id.is_zero() => {
                results.push(invalid(None, id, "Neither topic name nor id were specified."));
            }
            (None, id) => given.push(Target::Id(id)),
            (Some(name), id) if id.is_zero() => given.push(Target::Name(name)),
            (name, id) => {
                results.push(invalid(name, id, "You may not specify both topic name and topic id."))
            }
        }
    }
    let mut count: BTreeMap<&Target, usize> = BTreeMap::new();
    given.iter().for_each(|target| *count.entry(target).or_default() += 1);
    let mut once = Vec::new();
    for (target, times) in count {
        let why = match (times, target) {
            (1, _) => {
                once.push(target.clone());
                continue;
            }
            (_, Target::Name(_)) => "Duplicate topic name.",
            (_, Target::Id(_)) => "Duplicate topic id.",
        };
        results.push(refused(target.clone(), Refusal::new(ErrorCode::INVALID_REQUEST, why)));
    }
    (once, results)
}

fn refused(target: Target, refusal: Refusal) -> Deleted {
    let (name, topic_id) = match target {
        Target::Name(name) => (Some(name), TopicId::ZERO),
        Target::Id(id) => (None, id),
    };
    Deleted { name, topic_id, result: Err(refusal) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejaq_wire::kafka::delete_topics::DeleteTopicState;

    #[test]
    fn contradictions_and_repetitions_are_refused_at_the_door() {
        let state = |name: Option<&str>, id: u8| DeleteTopicState {
            name: name.map(str::to_owned),
            topic_id: TopicId([id; 16]),
        };
        let topics = vec![
            state(Some("a"), 0),
            state(Some("a"), 0),
            state(Some("b"), 0),
            state(None, 0),
            state(Some("c"), 1),
            state(None, 2),
            state(None, 2),
            state(None, 3),
        ];
        let (targets, results) = targets(DeleteTopicsRequest { topics, ..Default::default() });
        assert_eq!(targets, [Target::Name("b".into()), Target::Id(TopicId([3; 16]))]);
        let messages: Vec<_> =
            results.iter().filter_map(|deleted| deleted.result.as_ref().err()?.message.clone()).collect();
        assert_eq!(
            messages,
            [
                "Neither topic name nor id were specified.",
                "You may not specify both topic name and topic id.",
                "Duplicate topic name.",
                "Duplicate topic id.",
            ]
        );
    }
}
