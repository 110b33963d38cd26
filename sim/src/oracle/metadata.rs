//! Does the cluster stand by what it answered to admin clients?
//!
//! Owns: what a topic may look like after the answers so far. Promises: a topic has one client, which asks one thing at a
//! time, so the possible pictures are a short list: an acknowledged change leaves one of each, a change of unknown outcome
//! adds its effect behind what was possible, and a look that shows a later picture rules out the earlier ones. Metadata is
//! always durable: no fault excuses anything here. Source: CORRECTNESS.md MQ-12 (answered before commit), MQ-10.
//! Called by [`super::judge`].

use std::collections::BTreeMap;

use super::{AdminAct, AdminOp, Anomaly, Event, History, Told, TopicSeen, Verdict};

/// What may be true of a topic, in the order in which it can become true.
struct Topic {
    possible: Vec<Option<TopicSeen>>,
    /// A change was acknowledged that no look has confirmed.
    unseen: bool,
}

/// Ids that nobody told are zeros, and match any.
fn same(left: &Option<TopicSeen>, right: &Option<TopicSeen>) -> bool {
    let unknown = |id: &str| id.bytes().all(|byte| byte == b'0');
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => {
            (left.partitions, left.value) == (right.partitions, right.value)
                && (left.id == right.id || unknown(&left.id) || unknown(&right.id))
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// The picture after a change, if it can be made there.
fn after(act: &AdminAct, topic: &Option<TopicSeen>) -> Option<Option<TopicSeen>> {
    match (act, topic.clone()) {
        (AdminAct::Create { partitions, value, id }, None) => {
            Some(Some(TopicSeen { id: id.clone(), partitions: *partitions, value: *value }))
        }
        (AdminAct::Delete, Some(_)) => Some(None),
        (AdminAct::Set { value }, Some(seen)) => Some(Some(TopicSeen { value: *value, ..seen })),
        (AdminAct::Grow { partitions }, Some(seen)) => {
            Some(Some(TopicSeen { partitions: *partitions, ..seen }))
        }
        (AdminAct::Look { .. }, topic) => Some(topic),
        (AdminAct::Create { .. }, Some(_))
        | (AdminAct::Delete | AdminAct::Set { .. } | AdminAct::Grow { .. }, None) => None,
    }
}

pub fn check(history: &History, verdict: &mut Verdict) {
    let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
    for event in &history.events {
        let Event::Admin(op) = event else { continue };
        let topic = topics.entry(&op.topic).or_insert(Topic { possible: vec![None], unseen: false });
        step(topic, op, verdict);
    }
    let unseen = topics.iter().filter(|(_, topic)| topic.unseen);
    verdict.undecided.extend(unseen.map(|(name, _)| format!("{name}: changed, and never looked at again")));
}

fn step(topic: &mut Topic, op: &AdminOp, verdict: &mut Verdict) {
    if let AdminAct::Look { found } = &op.act {
        topic.unseen = false;
        match topic.possible.iter().position(|picture| same(picture, found)) {
            Some(at) => drop(topic.possible.drain(..at)),
            None => {
                let text = format!("{found:?} at {} ns, possible is {:?}", op.done, topic.possible);
                verdict.report(Anomaly::LostMetadata, &op.topic, text);
                topic.possible = vec![found.clone()];
            }
        }
        return;
    }
    match op.told {
        Told::No => {}
        Told::Ok => {
            let made: Vec<_> = topic.possible.iter().filter_map(|picture| after(&op.act, picture)).collect();
            if made.is_empty() {
                let text = format!("{:?} was acknowledged, possible was {:?}", op.act, topic.possible);
                verdict.report(Anomaly::LostMetadata, &op.topic, text);
            } else {
                topic.possible = made;
            }
            topic.unseen = true;
        }
        Told::Maybe => {
            let made: Vec<_> = topic.possible.iter().filter_map(|picture| after(&op.act, picture)).collect();
            topic.possible.extend(made);
        }
    }
}
