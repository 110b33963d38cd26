//! A few requests written byte by byte: independent of our own codec on purpose, because it judges it.
//!
//! Owns: one blocking connection and the handful of fields that ci needs. Promises: every read has a
//! deadline and a length limit. Leaves out: everything a client library does.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// No answer that ci asks for is larger.
const MAX_ANSWER_BYTES: usize = 16 << 20;
const IO_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a request body, in the classic (non-flexible) and the compact encodings.
#[derive(Clone, Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn new() -> Body {
        Body::default()
    }
    pub fn i8(self, value: i8) -> Body {
        self.raw(&value.to_be_bytes())
    }
    pub fn i16(self, value: i16) -> Body {
        self.raw(&value.to_be_bytes())
    }
    pub fn i32(self, value: i32) -> Body {
        self.raw(&value.to_be_bytes())
    }
    pub fn i64(self, value: i64) -> Body {
        self.raw(&value.to_be_bytes())
    }
    pub fn string(self, text: &str) -> Body {
        self.i16(text.len() as i16).raw(text.as_bytes())
    }
    pub fn raw(mut self, bytes: &[u8]) -> Body {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// One blocking connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub fn open(address: &str) -> Result<Connection> {
        let address: SocketAddr = address.parse().with_context(|| format!("{address} is not IP:PORT"))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(IO_LIMIT))?;
        stream.set_write_timeout(Some(IO_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, correlation: 0 })
    }

    /// Sends one request with header version 1 (or 2 where `flexible`) and returns the answer's bytes
    /// after the correlation id. A closed connection is an error.
    pub fn call(&mut self, api: i16, version: i16, flexible: bool, body: &[u8]) -> Result<Vec<u8>> {
        self.correlation += 1;
        let mut frame = Body::new().i16(api).i16(version).i32(self.correlation).string("dejaq-ci");
        if flexible {
            frame = frame.raw(&[0]);
        }
        self.send(&frame.raw(body).0)?;
        let answer = self.receive()?;
        let (head, rest) = answer.split_at_checked(4).context("an answer has a correlation id")?;
        ensure!(
            head == self.correlation.to_be_bytes(),
            "correlation id {head:?}, asked {}",
            self.correlation
        );
        Ok(rest.to_vec())
    }

    /// Sends one frame as it is, with its length in front.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        Ok(self.stream.write_all(&bytes)?)
    }

    /// Receives one frame.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = i32::from_be_bytes(length);
        ensure!((0..=MAX_ANSWER_BYTES as i32).contains(&length), "an answer of {length} bytes");
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }
}

/// The body of an HTTP answer, as it comes until the connection ends.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = Connection::open(address)?.stream;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_ANSWER_BYTES as u64).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer has a head and a body")?;
    ensure!(head.contains(" 200 "), "{path} answered {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// The value of a metric without labels, at a broker's admin address.
pub fn metric(admin: &str, name: &str) -> Result<u64> {
    let text = http_get(admin, "/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// Waits until the broker answers ApiVersions and then Metadata with itself in it.
pub fn wait_until_ready(address: &str, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        match probe(address) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => {
                return Err(error.context(format!("{address} did not answer within {limit:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn probe(address: &str) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let versions = connection.call(18, 0, false, &[])?;
    ensure!(versions.starts_with(&[0, 0]), "ApiVersions answered error {:?}", versions.get(..2));
    // Metadata v1 for no topics: the answer starts with the array of brokers.
    let metadata = connection.call(3, 1, false, &Body::new().i32(0).0)?;
    ensure!(metadata.get(..4).is_some_and(|count| count != [0; 4]), "no broker in the metadata yet");
    Ok(())
}

/// Creates a topic with one replica (CreateTopics version 2); an existing one is an error.
pub fn create_topic(address: &str, name: &str, partitions: i32) -> Result<()> {
    create_replicated(address, name, partitions, 1, &[])
}

/// Creates a topic; an existing one is an error.
pub fn create_replicated(
    address: &str,
    name: &str,
    partitions: i32,
    replicas: i16,
    configs: &[(&str, &str)],
) -> Result<()> {
    let body = Body::new().i32(1).string(name).i32(partitions).i16(replicas).i32(0);
    let set = |body: Body, (name, value): &(&str, &str)| body.string(name).string(value);
    let body = configs.iter().fold(body.i32(configs.len() as i32), set).i32(15_000).i8(0);
    let answer = Connection::open(address)?.call(19, 2, false, &body.0)?;
    // throttle (4) · count (4) · name (2 + n) · error (2)
    let at = 4 + 4 + 2 + name.len();
    match answer.get(at..at + 2) {
        Some([0, 0]) => Ok(()),
        Some(code) => bail!("creating {name}: error {}", i16::from_be_bytes([code[0], code[1]])),
        None => bail!("creating {name}: an answer of {} bytes", answer.len()),
    }
}

/// One partition as Metadata version 1 tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub index: i32,
    /// -1 if there is none.
    pub leader: i32,
    pub replicas: usize,
    pub in_sync: usize,
}

/// The partitions of a topic, by index.
pub fn partitions(address: &str, topic: &str) -> Result<Vec<Placed>> {
    let body = Body::new().i32(1).string(topic);
    let answer = Connection::open(address)?.call(3, 1, false, &body.0)?;
    let mut read = Reader(&answer);
    for _ in 0..read.i32()? {
        read.skip(4)?;
        read.string()?;
        read.skip(4)?;
        read.string()?;
    }
    read.skip(4)?; // the controller
    ensure!(read.i32()? == 1, "one topic was asked for");
    let error = read.i16()?;
    ensure!(error == 0, "metadata of {topic}: error {error}");
    read.string()?;
    read.skip(1)?;
    let mut found = Vec::new();
    for _ in 0..read.i32()? {
        read.i16()?; // what is wrong with it is seen by its leader
        let (index, leader) = (read.i32()?, read.i32()?);
        let replicas = read.i32()?.max(0) as usize;
        read.skip(4 * replicas)?;
        let in_sync = read.i32()?.max(0) as usize;
        read.skip(4 * in_sync)?;
        found.push(Placed { index, leader, replicas, in_sync });
    }
    found.sort_by_key(|placed| placed.index);
    Ok(found)
}

/// Which broker coordinates a group (FindCoordinator version 0).
pub fn coordinator(address: &str, group: &str) -> Result<i32> {
    let answer = Connection::open(address)?.call(10, 0, false, &Body::new().string(group).0)?;
    let mut read = Reader(&answer);
    let error = read.i16()?;
    ensure!(error == 0, "the coordinator of {group}: error {error}");
    read.i32()
}

/// How far a group is in a topic, by what its coordinator says (OffsetFetch version 2); without what it has no offset of.
pub fn committed(address: &str, group: &str, topic: &str, partitions: i32) -> Result<BTreeMap<i32, i64>> {
    let body = Body::new().string(group).i32(1).string(topic).i32(partitions);
    let body = (0..partitions).fold(body, Body::i32);
    let answer = Connection::open(address)?.call(9, 2, false, &body.0)?;
    let mut read = Reader(&answer);
    let mut offsets = BTreeMap::new();
    for _ in 0..read.i32()? {
        read.string()?;
        for _ in 0..read.i32()? {
            let (partition, offset) = (read.i32()?, read.i64()?);
            read.string()?;
            let error = read.i16()?;
            ensure!(error == 0, "the offset of {group} in {topic}-{partition}: error {error}");
            if offset >= 0 {
                offsets.insert(partition, offset);
            }
        }
    }
    let error = read.i16()?;
    ensure!(error == 0, "the offsets of {group}: error {error}");
    Ok(offsets)
}

/// The compression codecs (0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd) of the first batches of partition 0,
/// by Fetch version 4: what a producer really sent, whatever it was asked to do.
pub fn codecs_on_the_log(address: &str, topic: &str) -> Result<Vec<i16>> {
    // replica · wait · min bytes · max bytes · isolation · topics · partitions · index · offset · max bytes
    let body = Body::new().i32(-1).i32(500).i32(1).i32(1 << 20).i8(0).i32(1).string(topic);
    let body = body.i32(1).i32(0).i64(0).i32(1 << 20);
    let answer = Connection::open(address)?.call(1, 4, false, &body.0)?;
    let mut read = Reader(&answer);
    // throttle · topics · name · partitions · index
    read.skip(4 + 4 + 2 + topic.len() + 4 + 4)?;
    let error = read.i16()?;
    ensure!(error == 0, "fetching {topic}: error {error}");
    read.skip(8 + 8)?; // watermark · last stable offset
    let aborted = read.i32()?.max(0) as usize;
    read.skip(aborted * 16 + 4)?; // aborted transactions · bytes of records
    let mut codecs = Vec::new();
    // base offset 8 · length 4 · epoch 4 · magic 1 · crc 4 · attributes 2
    while read.0.len() >= 23 {
        let length = i32::from_be_bytes(read.0[8..12].try_into()?);
        codecs.push(i16::from_be_bytes([read.0[21], read.0[22]]) & 7);
        if read.skip(12 + length.max(11) as usize).is_err() {
            break; // the last batch may be cut at the limit
        }
    }
    Ok(codecs)
}

/// Fixed-size fields of an answer.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.get(bytes..).context("the answer ends early")?;
        Ok(())
    }
    fn i16(&mut self) -> Result<i16> {
        let (head, rest) = self.0.split_first_chunk().context("the answer ends early")?;
        self.0 = rest;
        Ok(i16::from_be_bytes(*head))
    }
    fn i64(&mut self) -> Result<i64> {
        let (head, rest) = self.0.split_first_chunk().context("the answer ends early")?;
        self.0 = rest;
        Ok(i64::from_be_bytes(*head))
    }
    /// Passes over a text, which may be null.
    fn string(&mut self) -> Result<()> {
        let bytes = self.i16()?.max(0) as usize;
        self.skip(bytes)
    }
    fn i32(&mut self) -> Result<i32> {
        let (head, rest) = self.0.split_first_chunk().context("the answer ends early")?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*head))
    }
}
