//! Batches and requests that are encoded once, before the clock starts.

use dejaq_wire::ids::PartitionId;
use dejaq_wire::kafka::Records;
use dejaq_wire::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use dejaq_wire::record::{BatchBuilder, Compression, NewRecord};

use super::link;

/// Where the correlation id of a framed request lies.
const CORRELATION_AT: usize = 8;

/// A Produce request, ready but for its correlation id.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) frame: Vec<u8>,
    pub(super) records: u64,
    pub(super) batch_bytes: u64,
}

/// What requests to make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) record_bytes: usize,
    pub(super) batch_bytes: usize,
    /// Random payload, which nothing can compress; else zeros.
    pub(super) random: bool,
    pub(super) acks: i16,
    pub(super) version: i16,
}

impl Template {
    pub(super) fn new(shape: &Shape, topic: &str, partition: i32, seed: u64) -> anyhow::Result<Template> {
        let mut random = SplitMix(seed);
        let mut builder = BatchBuilder::new(Compression::None);
        let mut value = vec![0; shape.record_bytes];
        loop {
            if shape.random {
                value.iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
            let record =
                NewRecord { timestamp_ms: 1_700_000_000_000, value: Some(&value), ..NewRecord::default() };
            if !builder.is_empty() && builder.bytes() + builder.record_bytes(&record) > shape.batch_bytes {
                break;
            }
            builder.append(&record);
        }
        let records = builder.len() as u64;
        let batch = builder.build()?.to_bytes();
        let batch_bytes = batch.len() as u64;
        let request = ProduceRequest {
            transactional_id: None,
            acks: shape.acks,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name: topic.to_owned(),
                partition_data: vec![PartitionProduceData {
                    index: PartitionId(partition),
                    records: Some(Records::from(batch)),
                }],
                ..TopicProduceData::default()
            }],
        };
        Ok(Template { frame: link::request(shape.version, 0, &request)?, records, batch_bytes })
    }

    pub(super) fn number(&mut self, correlation: i32) {
        self.frame[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&correlation.to_be_bytes());
    }
}

/// Where the error code of a Produce response (versions 5 to 8) to one partition of `topic` lies, behind the prefix.
pub(super) fn error_code_at(topic: &str) -> usize {
    let (correlation, topics, name, partitions, index) = (4, 4, 2 + topic.len(), 4, 4);
    correlation + topics + name + partitions + index
}

/// Payload bytes that differ: quality is not needed, repetition is to be avoided.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
