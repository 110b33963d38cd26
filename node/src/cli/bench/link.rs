//! A blocking connection to a broker: typed calls for the set-up, raw frames for the load.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use dejaq_wire::ErrorCode;
use dejaq_wire::frame::{decode_response, encode_request};
use dejaq_wire::ids::CorrelationId;
use dejaq_wire::kafka::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use dejaq_wire::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use dejaq_wire::kafka::{Request, Response};

const CLIENT_ID: &str = "dejaq-bench";
const RECEIVE_BYTES: usize = 256 << 10;
/// A broker that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same for every broker of a comparison. A system whose default is BBR paces loopback by what it takes for the
/// bandwidth, which on shared cores is anything.
pub(super) const CONGESTION: &str = "cubic";

/// No delay, and the congestion control of all comparisons where it is allowed.
pub(super) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A system that does not allow it measures with its own; the broker at the other end does the same.
    let _ = rustix::net::sockopt::set_tcp_congestion(stream, CONGESTION);
    Ok(())
}

/// A connection.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    received: BytesMut,
    scratch: Vec<u8>,
}

/// The chunks of one request as one run with its length prefix.
pub(super) fn framed(chunks: &[Bytes]) -> Vec<u8> {
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&u32::try_from(length).expect("a request is below 4 GiB").to_be_bytes());
    for chunk in chunks {
        frame.extend_from_slice(chunk);
    }
    frame
}

/// A request of this version as a frame.
pub(super) fn request<R: Request>(version: i16, correlation: i32, request: &R) -> anyhow::Result<Vec<u8>> {
    Ok(framed(&encode_request(version, CorrelationId(correlation), Some(CLIENT_ID), request)?))
}

impl Link {
    pub(super) fn connect(address: &str) -> anyhow::Result<Link> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        set_up(&stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Link { stream, received: BytesMut::new(), scratch: vec![0; RECEIVE_BYTES] })
    }

    /// The same connection, for a thread that only sends.
    pub(super) fn sender(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Waits for the next response, without its length prefix.
    pub(super) fn receive(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(frame);
            }
            let read = self.stream.read(&mut self.scratch)?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed the connection"));
            }
            self.received.extend_from_slice(&self.scratch[..read]);
        }
    }

    /// A response that is already here.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        let prefix = self.received.first_chunk::<4>()?;
        let length = u32::from_be_bytes(*prefix) as usize;
        if self.received.len() < 4 + length {
            self.received.reserve(4 + length - self.received.len());
            return None;
        }
        self.received.advance(4);
        Some(self.received.split_to(length).freeze())
    }

    /// One request, one response.
    pub(super) fn call<R: Request>(&mut self, version: i16, body: &R) -> anyhow::Result<R::Response>
    where
        R::Response: Response,
    {
        self.stream.write_all(&request(version, 0, body)?)?;
        let (_, response) = decode_response::<R>(version, self.receive()?)?;
        Ok(response)
    }
}

/// Leader addresses of a topic's partitions, by index. Creates the topic if it is not there.
pub(super) fn find_topic(
    broker: &str,
    topic: &str,
    partitions: i32,
    configs: &[String],
) -> anyhow::Result<BTreeMap<i32, String>> {
    let configs = configs.iter().map(|pair| config(pair)).collect::<anyhow::Result<_>>()?;
    let mut link = Link::connect(broker)?;
    let created = link.call(
        4,
        &CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.to_owned(),
                num_partitions: partitions,
                replication_factor: 1,
                configs,
                ..CreatableTopic::default()
            }],
            timeout_ms: 30_000,
            validate_only: false,
        },
    )?;
    for answer in created.topics {
        if answer.error_code != ErrorCode::NONE && answer.error_code != ErrorCode::TOPIC_ALREADY_EXISTS {
            bail!("cannot create topic {topic}: {:?} {:?}", answer.error_code, answer.error_message);
        }
    }
    for _ in 0..100 {
        if let Some(leaders) = leaders(&mut link, topic)? {
            return Ok(leaders);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("topic {topic} has no leaders after 5 s")
}

fn config(pair: &str) -> anyhow::Result<CreatableTopicConfig> {
    let (name, value) = pair.split_once('=').with_context(|| format!("{pair:?} is not KEY=VALUE"))?;
    Ok(CreatableTopicConfig { name: name.to_owned(), value: Some(value.to_owned()) })
}

fn leaders(link: &mut Link, topic: &str) -> anyhow::Result<Option<BTreeMap<i32, String>>> {
    let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..MetadataRequestTopic::default() };
    let request = MetadataRequest { topics: Some(vec![asked]), ..MetadataRequest::default() };
    let metadata = link.call(4, &request)?;
    let address =
        |id| metadata.brokers.iter().find(|b| b.node_id == id).map(|b| format!("{}:{}", b.host, b.port));
    let Some(found) = metadata.topics.iter().find(|found| found.error_code == ErrorCode::NONE) else {
        return Ok(None);
    };
    let leader = |p: &dejaq_wire::kafka::metadata::MetadataResponsePartition| {
        address(p.leader_id).map(|address| (p.partition_index.0, address))
    };
    Ok(found.partitions.iter().map(leader).collect::<Option<BTreeMap<_, _>>>().filter(|all| !all.is_empty()))
}
