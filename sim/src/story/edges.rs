//! Records with times at the edges of what a time can be, and a client that asks for the offsets of such times.
//!
//! Owns: the times that are drawn, who asks, and a model that a child could check: the log as a list of times, in which the
//! first that is late enough, and the first of the newest, are looked for from the front. Promises, a finding (TIME): every
//! answer is that of the model, for some end of the log that was there while it was asked; and so is every answer in the calm
//! act, when the end is known. Leaves out: logs from which records may go.
//!
//! ```text
//! asks: the end, a time, the end ─► ... ─► calm: the whole log as times ─► each answer beside the model's
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dejaq::runtime::Runtime;
use dejaq_wire::ids::{BrokerId, PartitionId};
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};

use super::reader::{Fetched, Reader};
use super::{Stage, Stop, producers};
use crate::invariants::Broken;
use crate::oracle::Part;
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the client that asks.
const MACHINE: u32 = 700;
/// The machine of the one that reads everything in the end.
const READER: u32 = 701;
/// Asks for the newest time that a record has (KIP-734).
const NEWEST: i64 = -3;
/// No record is there, or none has a time.
const NOTHING: (i64, i64) = (-1, -1);

/// A question with its answer.
#[derive(Debug, Clone, Copy)]
struct Answered {
    part: Part,
    /// The time that was asked for; [`NEWEST`].
    at_ms: i64,
    /// The ends of the log that were told before and after.
    ends: (i64, i64),
    /// Offset and time.
    told: (i64, i64),
}

/// What was answered in the first act. Clones are the same.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<Answered>>>);

/// A time for record number `value`, if the plan wants such: near an edge, or of now.
#[must_use]
pub(super) fn time_of(stage: &Stage, value: u64, now_ms: i64) -> Option<i64> {
    let mut dice = stage.world.streams().dice("edge", value);
    (stage.plan.edges && dice.chance(700)).then(|| drawn(&mut dice, now_ms))
}

fn drawn(dice: &mut Dice, now_ms: i64) -> i64 {
    let near = dice.below(5) as i64;
    let edges = [0, 1 << 31, 1 << 32, 1 << 47, now_ms, now_ms - 3_600_000, now_ms + 3_600_000];
    match dice.below(12) {
        0 => i64::MAX - near,
        1 => -1, // no time at all
        2 => dice.log_between(1, 1 << 62) as i64,
        _ => *dice.pick(&edges) + near,
    }
}

/// Starts the client that asks, if the plan has one.
pub(super) fn start(stage: &Stage) -> Asked {
    let asked = Asked::default();
    if !stage.plan.edges {
        return asked;
    }
    let (stage, into) = (stage.clone(), asked.clone());
    stage.clone().broker.client(MACHINE, move |runtime| async move {
        let mut dice = stage.world.streams().dice("edges", 0);
        let reader = Reader { cluster: producers::cluster(&stage, runtime.clone()) };
        while !stage.recorder.is_calm() {
            let topic = dice.pick(&stage.plan.topics);
            let index = dice.below(topic.partitions as u64) as i32;
            let at_ms = wanted(&mut dice, runtime.unix_ms());
            let before = reader.list(&topic.name, index, -1).await;
            let told = ask(&reader, &runtime, (&topic.name, index), at_ms).await;
            let after = reader.list(&topic.name, index, -1).await;
            if let (Some(before), Some(told), Some(after)) = (before, told, after) {
                let part = stage.recorder.part(&topic.name, index);
                let answered = Answered { part, at_ms, ends: (before, after), told };
                into.0.lock().expect("nobody panics with it").push(answered);
                stage.recorder.count("times asked for");
            }
            runtime.sleep(Duration::from_millis(dice.log_between(1, 200))).await;
        }
    });
    asked
}

fn wanted(dice: &mut Dice, now_ms: i64) -> i64 {
    if dice.chance(300) { NEWEST } else { drawn(dice, now_ms).max(0) }
}

/// The offset of a time, and the time that is there; `None` if there was no answer.
async fn ask(
    reader: &Reader,
    runtime: &SimRuntime,
    (topic, index): (&str, i32),
    at_ms: i64,
) -> Option<(i64, i64)> {
    let deadline = runtime.now().plus(Duration::from_secs(5));
    let (connection, _) = reader.cluster.leader(topic, PartitionId(index), deadline).await.ok()?;
    let part =
        ListOffsetsPartition { partition_index: PartitionId(index), timestamp: at_ms, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: topic.into(), partitions: vec![part] }];
    let request = ListOffsetsRequest { replica_id: BrokerId::NONE, topics, ..Default::default() };
    let answer = connection.call(&request, deadline).await.ok()?;
    let part = answer.topics.first()?.partitions.first()?;
    part.error_code.is_none().then_some((part.offset.0, part.timestamp))
}

/// Reads every log of the plan, asks a few times more, and lays all answers beside the model.
pub(super) async fn judge(stage: &Stage, asked: &Asked) -> Result<(), Stop> {
    if !stage.plan.edges {
        return Ok(());
    }
    let runtime = stage.broker.machine(READER);
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let mut dice = stage.world.streams().dice("edges", 1);
    let mut logs: BTreeMap<Part, Vec<(i64, i64)>> = BTreeMap::new();
    let mut answers = asked.0.lock().expect("nobody panics with it").clone();
    for topic in &stage.plan.topics {
        for index in 0..topic.partitions {
            let part = stage.recorder.part(&topic.name, index);
            let log = times(&runtime, &reader, &topic.name, index).await;
            let end = log.last().map_or(0, |(offset, _)| offset + 1);
            logs.insert(part, log);
            for _ in 0..10 {
                let at_ms = wanted(&mut dice, runtime.unix_ms());
                if let Some(told) = ask(&reader, &runtime, (&topic.name, index), at_ms).await {
                    answers.push(Answered { part, at_ms, ends: (end, end), told });
                }
            }
        }
    }
    let wrong = answers.iter().find_map(|answered| compare(&logs[&answered.part], answered));
    wrong.map_or(Ok(()), |evidence| Err(Stop::Broken(Broken { name: "TIME", evidence })))
}

/// Offset and time of every record of a partition.
async fn times(runtime: &SimRuntime, reader: &Reader, topic: &str, index: i32) -> Vec<(i64, i64)> {
    let (mut at, mut all) = (0, Vec::new());
    loop {
        let end = reader.list(topic, index, -1).await;
        if end.is_some_and(|end| at >= end) {
            return all;
        }
        if let (Some(_), Some(id)) = (end, reader.topic_id(topic).await) {
            let answer = reader.whole(topic, id, index, at, (100, false)).await;
            if let Fetched::Records { next, .. } = answer.fetched {
                all.extend(answer.times);
                at = next;
                continue;
            }
        }
        runtime.sleep(Duration::from_millis(100)).await;
    }
}

/// What is wrong with an answer.
fn compare(log: &[(i64, i64)], answered: &Answered) -> Option<String> {
    let Answered { at_ms, ends: (from, to), told, .. } = *answered;
    // The only ends at which the answer changes are those behind a record.
    let mut ends = log.iter().map(|(offset, _)| offset + 1).filter(|end| (from..=to).contains(end));
    let is_right = |end: i64| model(log, at_ms, end) == told;
    let right = is_right(from) || ends.any(is_right);
    (!right).then(|| format!("{answered:?}, and the log says {:?} or later", model(log, at_ms, from)))
}

/// What a log of these offsets and times answers, as far as its end is known.
fn model(log: &[(i64, i64)], at_ms: i64, end: i64) -> (i64, i64) {
    let mut seen = log.iter().copied().take_while(|(offset, _)| *offset < end);
    if at_ms != NEWEST {
        return seen.find(|(_, time)| *time >= at_ms).unwrap_or(NOTHING);
    }
    seen.filter(|(_, time)| *time >= 0).fold(NOTHING, |best, one| if one.1 > best.1 { one } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_finds_the_first_that_is_late_enough_and_the_first_of_the_newest() {
        let log = [(0, 5), (1, i64::MAX), (2, 0), (3, i64::MAX), (4, -1)];
        assert_eq!(model(&log, 0, 5), (0, 5));
        assert_eq!(model(&log, 6, 5), (1, i64::MAX));
        assert_eq!(model(&log, 6, 1), NOTHING);
        assert_eq!(model(&log, NEWEST, 5), (1, i64::MAX));
        assert_eq!(model(&log, NEWEST, 1), (0, 5));
        assert_eq!(model(&[], NEWEST, 0), NOTHING);
        assert_eq!(model(&[(0, -1), (1, -1)], NEWEST, 2), NOTHING, "no record has a time");
        assert_eq!(model(&[(0, -1), (1, 0)], NEWEST, 2), (1, 0));
    }

    #[test]
    fn an_answer_may_be_of_any_end_that_was_there_meanwhile_and_of_no_other() {
        let log = [(0, 5), (1, 9), (2, 11)];
        let wrong = |ends, told| compare(&log, &Answered { part: 0, at_ms: NEWEST, ends, told }).is_some();
        assert!(!wrong((1, 2), (0, 5)));
        assert!(!wrong((1, 2), (1, 9)));
        assert!(wrong((1, 2), (2, 11)));
        assert!(wrong((2, 3), (0, 5)));
        assert!(wrong((0, 0), (0, 5)));
    }
}
