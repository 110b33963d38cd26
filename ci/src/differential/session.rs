//! One conversation with a broker, and its answers as text that two brokers can be compared by.
//!
//! Owns: sending typed and raw requests; what is left out of an answer: ids, places, times and wording.
//! Promises: a closed connection is an answer too. Leaves out: which questions are asked (`data`, `admin`, `frames`).

use crate::raw::Connection;
use anyhow::{Context, Result};
use bytes::Bytes;
use dejaq_wire::frame::{decode_response, encode_request};
use dejaq_wire::ids::{CorrelationId, TopicId};
use dejaq_wire::kafka::Request;
use std::fmt::Debug;

/// Fields whose values no two brokers share, and texts that are worded freely.
const LEFT_OUT: &[&str] = &[
    "throttle_time_ms",
    "topic_id",
    "cluster_id",
    "controller_id",
    "error_message",
    "batch_index_error_message",
    "host",
    "port",
    "rack",
    "node_id",
    "broker_id",
    "leader_id",
    "leader_epoch",
    "replica_nodes",
    "isr_nodes",
    "session_id",
    "producer_id",
    "log_append_time_ms",
    "last_timestamp",
    "coordinator_epoch",
    "log_dir",
    "total_bytes",
    "usable_bytes",
    "partition_size",
    "preferred_read_replica",
    "node_endpoints",
    // Tagged fields of our own, which no other client looks at.
    "damaged_records",
    "mended_ranges",
    // Only there in some versions, and then only ids or always the same.
    "brokers",
    "current_leader",
    "diverging_epoch",
    "snapshot_id",
    "topic_authorized_operations",
    "cluster_authorized_operations",
    "topic_config_error_code",
];

/// A broker under question.
#[derive(Debug)]
pub struct Session {
    address: String,
    connection: Option<Connection>,
    correlation: i32,
    /// Ids of the topics that the setup made.
    pub single: TopicId,
}

impl Session {
    pub fn new(address: &str) -> Session {
        Session { address: address.to_owned(), connection: None, correlation: 0, single: TopicId::ZERO }
    }

    /// The next request opens a connection of its own.
    pub fn reconnect(&mut self) {
        self.connection = None;
    }

    /// Sends frames as they are and tells what came back for the last.
    pub fn frames(&mut self, frames: &[Vec<u8>]) -> Result<String> {
        let mut connection = Connection::open(&self.address)?;
        for frame in frames {
            // A broker may close before the last frame is out: that shows when receiving.
            let _ = connection.send(frame);
        }
        Ok(match connection.receive() {
            Ok(answer) => format!("an answer of {} bytes", answer.len()),
            Err(_) => "closed".to_owned(),
        })
    }

    /// Sends one frame and returns the raw answer; `None` when the connection was closed instead.
    pub fn frame(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut connection = Connection::open(&self.address)?;
        connection.send(frame)?;
        Ok(connection.receive().ok())
    }

    /// Asks and returns the typed answer; `None` when the connection was closed instead.
    pub fn answer<R: Request>(&mut self, version: i16, request: &R) -> Result<Option<R::Response>> {
        self.correlation += 1;
        let id = CorrelationId(self.correlation);
        let frame = encode_request(version, id, Some("dejaq-ci"), request)?.concat();
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.address)?);
        }
        let connection = self.connection.as_mut().context("just opened")?;
        connection.send(&frame)?;
        let Ok(answer) = connection.receive() else {
            self.connection = None;
            return Ok(None);
        };
        let (answered, body) = decode_response::<R>(version, Bytes::from(answer))
            .with_context(|| format!("decoding the answer to {:?} {version}", R::API))?;
        anyhow::ensure!(answered == id, "answer {answered:?} to request {id:?}");
        Ok(Some(body))
    }

    /// Asks and renders the answer.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<String> {
        Ok(self.answer(version, request)?.map_or_else(|| "closed".to_owned(), |answer| render(&answer)))
    }
}

/// The answer without what is left out, as one line.
pub fn render(answer: &impl Debug) -> String {
    let pretty = format!("{answer:#?}");
    let mut kept = String::new();
    let mut skipping: Option<usize> = None;
    for line in pretty.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim();
        if let Some(outer) = skipping {
            if indent <= outer {
                skipping = None;
            }
            continue;
        }
        let field = text.split(':').next().unwrap_or_default();
        if LEFT_OUT.contains(&field) {
            if text.ends_with(['[', '{', '(']) {
                skipping = Some(indent);
            }
            continue;
        }
        kept.push_str(text);
        kept.push(' ');
    }
    kept.trim_end()
        .replace(", }", " }")
        .replace(", ]", " ]")
        .replace(", )", " )")
        .trim_end_matches(',')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "only its Debug text is looked at")]
    struct Answer {
        topic_id: u8,
        error_code: i16,
        replica_nodes: Vec<u8>,
        node_endpoints: Vec<Option<u8>>,
        offset: i64,
    }

    #[test]
    fn ids_and_places_are_left_out_and_the_rest_stays() {
        let answer = Answer {
            topic_id: 1,
            error_code: 3,
            replica_nodes: vec![1, 2],
            node_endpoints: vec![Some(1)],
            offset: 7,
        };
        assert_eq!(render(&answer), "Answer { error_code: 3, offset: 7 }");
    }
}
