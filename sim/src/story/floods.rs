//! Clients that ask for many thousand things in one request: a few bytes on the wire, many times that in memory.
//!
//! Owns: floods. Promises: they stop when the calm act begins; then a last large request, of an honest client, is answered
//! within its bound, so that whatever the others claimed is given back. Leaves out: how much memory a request may take (tests of `api`).
//! Most requests say the same thing again and again; some name what is not there; half of the answers are never read.

use std::time::Duration;

use bytes::Bytes;
use dejaq::runtime::Runtime;
use dejaq::runtime::net::{FrameReader, FrameWriter, Net};
use dejaq_wire::frame::encode_request;
use dejaq_wire::ids::{CorrelationId, PartitionId};
use dejaq_wire::kafka::describe_producers::{DescribeProducersRequest, TopicRequest};
use dejaq_wire::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use dejaq_wire::kafka::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::kafka::{EncodeError, Request};

use super::{BROKER, Stage, producers};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

const FIRST_MACHINE: u32 = 450;
/// The machine of the honest one.
const LAST_MACHINE: u32 = 449;
/// The largest answer that is read.
const ANSWER_BYTES: usize = 64 << 20;
/// Elements of the last request: its claim is a twentieth of what all requests may become.
const LAST_ELEMENTS: usize = 25_000;

/// Starts the plan's floods.
pub(super) fn start(stage: &Stage) {
    for number in 0..stage.plan.floods {
        let stage = stage.clone();
        stage.clone().broker.client(FIRST_MACHINE + number as u32, move |runtime| async move {
            let mut dice = stage.world.streams().dice("flood", number as u64);
            while !stage.recorder.is_calm() {
                flood(&stage, &runtime, &mut dice).await;
                runtime.sleep(Duration::from_millis(dice.log_between(1, 1000))).await;
            }
        });
    }
}

async fn flood(stage: &Stage, runtime: &SimRuntime, dice: &mut Dice) {
    let Ok((mut reader, mut writer)) = runtime.net().connect(&format!("n{BROKER}:9092")).await else {
        return;
    };
    for _ in 0..dice.between(1, 5) {
        let request = drawn(stage, dice).expect("the request is of its form");
        let deadline = runtime.now().plus(Duration::from_secs(5));
        let sent = runtime.before(deadline, writer.send(vec![request])).await;
        if !matches!(sent, Some(Ok(()))) {
            return;
        }
        stage.recorder.count("floods sent");
        if dice.chance(500) {
            let mut frames = Vec::new();
            let deadline = runtime.now().plus(Duration::from_secs(2));
            match runtime.before(deadline, reader.recv(&mut frames, 8, ANSWER_BYTES)).await {
                Some(Ok(())) => stage.recorder.count("floods answered"),
                Some(Err(_)) => return stage.recorder.count("floods cut off"),
                None => {}
            }
        }
    }
    // Some stay for a while, and hold what waits for them.
    runtime.sleep(Duration::from_millis(dice.log_between(1, 20_000))).await;
}

/// One request of very many elements.
fn drawn(stage: &Stage, dice: &mut Dice) -> Result<Vec<Bytes>, EncodeError> {
    let topic = dice.pick(&stage.plan.topics).name.clone();
    let name = if dice.chance(700) { topic } else { "nobody".to_owned() };
    let count = dice.log_between(100, 60_000) as usize;
    let parts = if dice.chance(700) { 1 } else { i32::MAX };
    let index = |number: usize| PartitionId(number as i32 % parts);
    match dice.below(4) {
        0 => framed(9, &metadata(&name, count)),
        1 => {
            let partition_indexes = (0..count).map(index).collect();
            framed(0, &DescribeProducersRequest { topics: vec![TopicRequest { name, partition_indexes }] })
        }
        2 => {
            let part = |number| ListOffsetsPartition {
                partition_index: index(number),
                timestamp: -1,
                ..Default::default()
            };
            let topics = vec![ListOffsetsTopic { name, partitions: (0..count).map(part).collect() }];
            framed(7, &ListOffsetsRequest { topics, ..Default::default() })
        }
        _ => {
            let part = |number| FetchPartition {
                partition: index(number),
                partition_max_bytes: 1 << 10,
                ..Default::default()
            };
            let topics = vec![FetchTopic {
                topic: name,
                partitions: (0..count).map(part).collect(),
                ..Default::default()
            }];
            framed(11, &FetchRequest { max_wait_ms: 500, min_bytes: 1, topics, ..Default::default() })
        }
    }
}

fn metadata(name: &str, count: usize) -> MetadataRequest {
    let one = || MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some((0..count).map(|_| one()).collect()), ..Default::default() }
}

fn framed<Q: Request>(version: i16, request: &Q) -> Result<Vec<Bytes>, EncodeError> {
    encode_request(version, CorrelationId(7), Some("flood"), request)
}

/// Asks for very much until there is an answer: there is memory for it again.
pub(super) async fn judge(stage: &Stage) {
    if stage.plan.floods == 0 {
        return;
    }
    let runtime = stage.broker.machine(LAST_MACHINE);
    let cluster = producers::cluster(stage, runtime.clone());
    let request = metadata("nobody", LAST_ELEMENTS);
    loop {
        let deadline = runtime.now().plus(Duration::from_secs(40));
        if cluster.ask_any(&request, deadline).await.is_ok() {
            return;
        }
        runtime.sleep(Duration::from_millis(200)).await;
    }
}
