//! The native consumer as a consumer of the story: the same evidence, through the client that our users have.
//!
//! Owns: assignment, polls, seeks. Promises: what a poll returned is written down for each partition with the positions
//! before and after, as the reader of the stories does; damage that reaches the client is a finding.
//! Leaves out: groups. Called by [`super::consumers`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dejaq::client::consumer::{ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, OutOfRange, StartAt};
use dejaq::client::producer::core::TopicPartition;
use dejaq::runtime::Runtime;
use dejaq_wire::ids::{Offset, PartitionId};

use super::plan::ConsumerPlan;
use super::producers::{digest, number_of};
use super::{Stage, producers};
use crate::oracle::{Event, PollOp, Seen};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

struct Reading<'s> {
    stage: &'s Stage,
    runtime: &'s SimRuntime,
    consumer: Consumer<SimRuntime>,
    process: u32,
    dice: Dice,
}

/// Reads all partitions of all topics until the story ends.
pub async fn consume(stage: &Stage, runtime: &SimRuntime, plan: &ConsumerPlan, number: u64) {
    let mut dice = stage.world.streams().dice("consumer", number);
    let config = ConsumerConfig {
        max_wait: Duration::from_millis(*dice.pick(&[5, 20, 500])),
        max_bytes: 256 << 10,
        partition_max_bytes: dice.log_between(1 << 10, 64 << 10) as i32,
        max_poll_records: dice.log_between(1, 500) as usize,
        decompressed_limit: 64 << 20,
        out_of_range: OutOfRange::Error,
        ..ConsumerConfig::default()
    };
    let consumer = Consumer::new(producers::cluster(stage, runtime.clone()), config);
    let process = stage.recorder.fresh_process();
    let mut reading = Reading { stage, runtime, consumer, process, dice };
    reading.assign().await;
    loop {
        reading.poll().await;
        if reading.dice.chance(plan.seeks) {
            reading.seek_back().await;
        }
        let think = reading.dice.below(plan.think.as_micros() as u64 + 1) + 100;
        runtime.sleep(Duration::from_micros(think)).await;
    }
}

impl Reading<'_> {
    async fn assign(&mut self) {
        let partitions = |topic: &super::TopicPlan| {
            let name: std::sync::Arc<str> = topic.name.as_str().into();
            (0..topic.partitions)
                .map(move |index| TopicPartition { topic: name.clone(), partition: PartitionId(index) })
        };
        let all = self.stage.plan.topics.iter().flat_map(partitions);
        let starts: BTreeMap<_, _> = all.map(|at| (at, StartAt::Offset(Offset::ZERO))).collect();
        let deadline = self.runtime.now().plus(Duration::from_secs(60));
        let assigned = self.consumer.assign(starts, deadline).await;
        assigned.expect("offsets that are given need not be found");
    }

    fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        let position = |at: &TopicPartition| {
            let position = self.consumer.position(at).expect("it is of the assignment");
            (at.clone(), position.0)
        };
        self.consumer.assignment().map(position).collect()
    }

    async fn poll(&mut self) {
        let (before, begun) = (self.positions(), self.stage.world.now_ns());
        let wait = Duration::from_millis(*self.dice.pick(&[5, 20, 500]));
        let polled = self.consumer.poll(wait).await;
        let done = self.stage.world.now_ns();
        match polled {
            Ok(records) => self.note(&before, records, begun, done),
            Err(error) => self.recover(error, begun, done).await,
        }
    }

    fn note(
        &self,
        before: &BTreeMap<TopicPartition, i64>,
        records: Vec<ConsumedRecord>,
        begun: u64,
        done: u64,
    ) {
        let mut given: BTreeMap<TopicPartition, Vec<Seen>> = BTreeMap::new();
        for record in records {
            given.entry(record.at.clone()).or_default().push(seen(&record));
        }
        let after = self.positions();
        for (at, from) in before {
            let records = given.remove(at).unwrap_or_default();
            let next = after[at];
            if records.is_empty() && next == *from {
                continue; // nothing was told of this partition
            }
            let part = self.stage.recorder.part(&at.topic, at.partition.0);
            let (process, from) = (self.process, *from);
            let op = PollOp { process, part, from, records, next, out_of_range: false, begun, done };
            self.stage.recorder.event(self.runtime.who(), Event::Poll(op));
        }
    }

    /// Does what a user does about an error of one partition.
    async fn recover(&mut self, error: ConsumeError, begun: u64, done: u64) {
        match error {
            ConsumeError::OutOfRange { at, offset, .. } => {
                self.stage.recorder.count("polls out of range");
                let part = self.stage.recorder.part(&at.topic, at.partition.0);
                let (process, from) = (self.process, offset.0);
                let op = PollOp {
                    process,
                    part,
                    from,
                    records: vec![],
                    next: from,
                    out_of_range: true,
                    begun,
                    done,
                };
                self.stage.recorder.event(self.runtime.who(), Event::Poll(op));
                self.seek(&at, StartAt::Beginning).await;
            }
            ConsumeError::Refused { at, offset, .. } => {
                self.stage.recorder.count("polls refused");
                let behind = self.stage.broker.behind_damage(&at.topic, at.partition.0, offset.0);
                self.seek(&at, StartAt::Offset(Offset(behind.unwrap_or(offset.0)))).await;
            }
            ConsumeError::Damaged { at, damage } => panic!("the broker served damage of {at:?}: {damage}"),
            ConsumeError::Cluster(_) | ConsumeError::Offsets(_) => {
                self.stage.recorder.count("polls failed");
                // Errors stay until the user seeks: here, to where each stands.
                for (at, position) in self.positions() {
                    self.seek(&at, StartAt::Offset(Offset(position))).await;
                }
            }
        }
    }

    async fn seek_back(&mut self) {
        let positions: Vec<_> = self.positions().into_iter().filter(|(_, position)| *position > 0).collect();
        if !positions.is_empty() {
            let (at, position) = self.dice.pick(&positions).clone();
            let to = self.dice.below(position as u64) as i64;
            self.seek(&at, StartAt::Offset(Offset(to))).await;
        }
    }

    async fn seek(&mut self, at: &TopicPartition, to: StartAt) {
        let deadline = self.runtime.now().plus(Duration::from_secs(5));
        if let Ok(offset) = self.consumer.seek(at, to, deadline).await {
            let part = self.stage.recorder.part(&at.topic, at.partition.0);
            let seek = Event::Seek { process: self.process, part, offset: offset.0 };
            self.stage.recorder.event(self.runtime.who(), seek);
        }
    }
}

/// What a consumer was given, as the oracle wants it.
pub fn seen(record: &ConsumedRecord) -> Seen {
    let headers: Vec<(String, Option<Bytes>)> = record
        .headers
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value))
        .collect();
    let value = number_of(record.value.as_deref(), &headers);
    let digest = digest(record.key.as_deref(), record.value.as_deref().unwrap_or_default(), &headers);
    Seen { offset: record.offset.0, value, digest }
}
