//! The final read: a fresh reader takes every partition from its start to its end.
//!
//! Owns: what the oracle calls `Drained`. Promises: an empty answer below the end is no end: it reads on until the end
//! that the broker named, and retries what fails, until the story's limit (tester mutant T3 would stop earlier).

use std::collections::BTreeMap;
use std::time::Duration;

use dejaq::runtime::Runtime;
use dejaq_wire::ids::ProducerId;

use super::reader::{Fetched, Reader};
use super::{Stage, producers};
use crate::oracle::{Event, Seen};

/// The machine of the reader.
pub const MACHINE: u32 = 300;

/// Reads everything.
pub async fn drain(stage: &Stage) {
    let runtime = stage.broker.machine(MACHINE);
    let reader = Reader { cluster: producers::cluster(stage, runtime.clone()) };
    for topic in &stage.plan.topics {
        let id = loop {
            match reader.topic_id(&topic.name).await {
                Some(id) => break id,
                None => runtime.sleep(Duration::from_millis(100)).await,
            }
        };
        for index in 0..topic.partitions {
            let end = ask(&runtime, &reader, &topic.name, index, -1).await;
            let start = ask(&runtime, &reader, &topic.name, index, -2).await;
            let (mut at, mut all): (i64, Vec<Seen>) = (start, Vec::new());
            let mut txns = Txns::default();
            while at < end {
                let answer = reader.whole(&topic.name, id, index, at, (100, false)).await;
                match answer.fetched {
                    Fetched::Records { records, next } => {
                        txns.add(at, answer.txns);
                        all.extend(records);
                        at = next;
                    }
                    Fetched::OutOfRange => at = ask(&runtime, &reader, &topic.name, index, -2).await.max(at),
                    Fetched::Refused => match stage.broker.behind_damage(&topic.name, index, at) {
                        Some(behind) => at = behind,
                        None => runtime.sleep(Duration::from_millis(200)).await,
                    },
                    Fetched::Failed => runtime.sleep(Duration::from_millis(100)).await,
                }
            }
            let part = stage.recorder.part(&topic.name, index);
            stage.recorder.event(runtime.who(), Event::Drained { part, start, end, records: all });
            if stage.plan.transactors > 0 || stage.plan.pipes.is_some() {
                let ended = Event::Ended { part, txns: txns.ended };
                stage.recorder.event(runtime.who(), ended);
                super::transactor::drain(stage, &runtime, &reader, (&topic.name, id, index), end).await;
            }
        }
    }
}

/// The transactions of a log, as they are met.
#[derive(Default)]
struct Txns {
    open: BTreeMap<ProducerId, i64>,
    ended: Vec<(i64, i64)>,
}

impl Txns {
    fn add(&mut self, from: i64, more: Vec<(ProducerId, i64, bool)>) {
        for (id, at, is_marker) in more.into_iter().filter(|(_, at, _)| *at >= from) {
            if !is_marker {
                self.open.entry(id).or_insert(at);
            } else if let Some(first) = self.open.remove(&id) {
                self.ended.push((first, at));
            }
        }
    }
}

async fn ask(
    runtime: &crate::runtime::SimRuntime,
    reader: &Reader,
    topic: &str,
    index: i32,
    timestamp: i64,
) -> i64 {
    loop {
        match reader.list(topic, index, timestamp).await {
            Some(offset) => return offset,
            None => runtime.sleep(Duration::from_millis(100)).await,
        }
    }
}
