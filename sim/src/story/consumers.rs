//! The consumers of a story: each reads every partition from the start, and writes down what it was given.
//!
//! Owns: positions, polls, voluntary seeks, end-offset questions. Promises: a poll that failed moves nothing and is
//! no poll. Leaves out: groups. Called by the story.

use std::time::Duration;

use dejaq::runtime::Runtime;
use dejaq_wire::ids::{BrokerId, PartitionId, TopicId};

use super::plan::ConsumerPlan;
use super::reader::{Fetched, Reader};
use super::{Stage, native, producers};
use crate::oracle::{Event, Part, PollOp};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

/// The machine of the first consumer; the others follow.
pub const FIRST_MACHINE: u32 = 200;

struct Cursor {
    topic: String,
    id: TopicId,
    index: i32,
    part: Part,
    position: i64,
}

/// Starts the consumers, each on a machine of its own.
pub fn start(stage: &Stage) {
    let plans = stage.plan.consumers.iter().enumerate();
    for (number, plan) in plans.filter(|(number, _)| !stage.plan.cuts.consumers.contains(&(*number as u64))) {
        let (stage, plan) = (stage.clone(), plan.clone());
        let machine = FIRST_MACHINE + number as u32;
        stage.clone().broker.client(machine, move |runtime| async move {
            if plan.native {
                native::consume(&stage, &runtime, &plan, number as u64).await;
            } else {
                consume(&stage, &runtime, &plan, number as u64).await;
            }
        });
    }
}

/// The machine of the neighbour.
const NEIGHBOUR: u32 = 290;

/// Starts a reader that asks any broker, leader or not, if the plan has one: it must see what is committed, and no more.
pub fn start_neighbour(stage: &Stage) {
    if !stage.plan.neighbour {
        return;
    }
    let stage = stage.clone();
    stage.clone().broker.client(NEIGHBOUR, move |runtime| async move {
        let mut dice = stage.world.streams().dice("neighbour", 0);
        let process = stage.recorder.fresh_process();
        let reader = Reader { cluster: producers::cluster(&stage, runtime.clone()) };
        let mut cursors = cursors(&stage, &runtime, &reader).await;
        loop {
            let at = dice.below(cursors.len() as u64) as usize;
            let (cursor, broker) = (&mut cursors[at], dice.pick(&stage.brokers).node());
            let (begun, from) = (runtime.world().now_ns(), cursor.position);
            let broker = BrokerId(broker as i32);
            let fetched = reader.fetch_at(broker, &cursor.topic, cursor.id, cursor.index, from).await;
            if let Fetched::Records { records, next } = fetched
                && !records.is_empty()
            {
                let (part, done) = (cursor.part, runtime.world().now_ns());
                cursor.position = next;
                let op = PollOp { process, part, from, records, next, out_of_range: false, begun, done };
                stage.recorder.event(runtime.who(), Event::Poll(op));
            }
            runtime.sleep(Duration::from_micros(dice.between(200, 3000))).await;
        }
    });
}

/// Lets the consumers end: they are only evidence, nobody waits for them.
pub async fn finish(stage: &Stage) {
    stage.world.sleep(Duration::from_millis(10)).await;
}

async fn consume(stage: &Stage, runtime: &SimRuntime, plan: &ConsumerPlan, number: u64) {
    let mut dice = stage.world.streams().dice("consumer", number);
    let process = stage.recorder.fresh_process();
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    let mut cursors = cursors(stage, runtime, &reader).await;
    loop {
        let at = dice.below(cursors.len() as u64) as usize;
        let cursor = &mut cursors[at];
        if dice.chance(plan.seeks) && cursor.position > 0 {
            cursor.position = dice.below(cursor.position as u64) as i64;
            let seek = Event::Seek { process, part: cursor.part, offset: cursor.position };
            stage.recorder.event(runtime.who(), seek);
        }
        poll(stage, runtime, &reader, cursor, process, &mut dice).await;
        if dice.chance(100) {
            ask_end(stage, runtime, &reader, cursor).await;
        }
        runtime.sleep(Duration::from_micros(dice.below(plan.think.as_micros() as u64 + 1) + 100)).await;
    }
}

async fn cursors(stage: &Stage, runtime: &SimRuntime, reader: &Reader) -> Vec<Cursor> {
    let mut cursors = Vec::new();
    for topic in &stage.plan.topics {
        let id = loop {
            match reader.topic_id(&topic.name).await {
                Some(id) => break id,
                None => runtime.sleep(Duration::from_millis(100)).await,
            }
        };
        cursors.extend((0..topic.partitions).map(|index| Cursor {
            topic: topic.name.clone(),
            id,
            index,
            part: stage.recorder.part(&topic.name, index),
            position: 0,
        }));
    }
    cursors
}

async fn poll(
    stage: &Stage,
    runtime: &SimRuntime,
    reader: &Reader,
    cursor: &mut Cursor,
    process: u32,
    dice: &mut Dice,
) {
    let begun = runtime.world().now_ns();
    let wait_ms = *dice.pick(&[0, 20, 500]);
    let from = cursor.position;
    let fetched = reader.fetch(&cursor.topic, cursor.id, cursor.index, from, wait_ms).await;
    let done = runtime.world().now_ns();
    let op = PollOp {
        process,
        part: cursor.part,
        from,
        records: vec![],
        next: from,
        out_of_range: false,
        begun,
        done,
    };
    match fetched {
        Fetched::Records { records, next } => {
            cursor.position = next;
            stage.recorder.event(runtime.who(), Event::Poll(PollOp { records, next, ..op }));
        }
        Fetched::OutOfRange => {
            stage.recorder.count("polls out of range");
            stage.recorder.event(runtime.who(), Event::Poll(PollOp { out_of_range: true, ..op }));
            if let Some(start) = reader.list(&cursor.topic, cursor.index, -2).await {
                cursor.position = start;
                let seek = Event::Seek { process, part: cursor.part, offset: start };
                stage.recorder.event(runtime.who(), seek);
            }
        }
        Fetched::Refused => {
            stage.recorder.count("polls refused");
            if let Some(behind) = stage.broker.behind_damage(&cursor.topic, cursor.index, from) {
                cursor.position = behind;
                let seek = Event::Seek { process, part: cursor.part, offset: behind };
                stage.recorder.event(runtime.who(), seek);
            }
        }
        Fetched::Failed => stage.recorder.count("polls failed"),
    }
}

async fn ask_end(stage: &Stage, runtime: &SimRuntime, reader: &Reader, cursor: &Cursor) {
    let begun = runtime.world().now_ns();
    let told = reader.list_with_epoch(&cursor.topic, cursor.index, -1).await;
    let Some((offset, epoch)) = told else { return };
    let done = runtime.world().now_ns();
    let superseded = is_superseded(stage, &cursor.topic, (cursor.id, cursor.index, epoch));
    if superseded {
        stage.recorder.count("ends told by who was replaced");
    }
    let (part, told) = (cursor.part, runtime.who());
    stage.recorder.event(told, Event::EndOffset { part, offset, begun, done, epoch, superseded });
}

/// Whether a newer leader epoch of a partition is committed by now than the one in which an end was told: REP-3 excuses that.
pub(super) fn is_superseded(stage: &Stage, topic: &str, (id, index, epoch): (TopicId, i32, i32)) -> bool {
    let known = stage.brokers.iter().filter_map(super::BrokerNode::image);
    let committed = known
        .filter_map(|image| image.topic(id)?.partition(PartitionId(index)).map(|one| one.leader_epoch.0));
    let newest = committed.max().max(stage.recorder.newest_epoch(stage.recorder.part(topic, index)));
    newest.is_some_and(|newest| (0..newest).contains(&epoch))
}
