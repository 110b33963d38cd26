//! The three targets: damaged requests and responses, peer messages, record batches.
//!
//! Promises: an input that breaks a bound or a claim ends the run with a panic that shows it.

use bytes::Bytes;

use super::random::Random;
use crate::api::ApiKey;
use crate::frame::{decode_request_header, decode_response, encode_request, encode_response};
use crate::ids::{BrokerId, CorrelationId, LeaderEpoch, Offset};
use crate::kafka::{ApiVisitor, Request, Wire, visit_apis};
use crate::peer::{Call, Hello, HelloReply, HelloVerdict, Parts, PeerMessage, Refusal};
use crate::record::compression::LZ4_BUFFER_BYTES;
use crate::record::lookup::{find_max_timestamp, find_timestamp};
use crate::record::produced::{check_produced, check_records};
use crate::record::{Batch, BatchBuilder, Batches, Compression, NewRecord};

/// Counts the memory that a piece of work allocates.
pub trait Meter {
    /// Runs `work` and tells how many bytes it allocated in total.
    fn measure<T>(&self, work: impl FnOnce() -> T) -> (T, usize);
}

/// What a target did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FuzzReport {
    /// Inputs that were decoded.
    pub inputs: u64,
    /// Inputs that decoded to a value.
    pub accepted: u64,
    /// Bytes of all inputs.
    pub bytes: u64,
    /// Most bytes that one input allocated.
    pub most_allocated: usize,
}

impl FuzzReport {
    fn note(&mut self, bytes: &[u8], accepted: bool, allocated: usize, bound: usize) {
        let input = || bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(allocated <= bound, "{allocated} bytes allocated, {bound} are allowed, for {}", input());
        self.inputs += 1;
        self.accepted += u64::from(accepted);
        self.bytes += bytes.len() as u64;
        self.most_allocated = self.most_allocated.max(allocated);
    }
}

/// Memory in bytes that decoding a message of `bytes` may allocate.
pub const fn message_bound(bytes: usize) -> usize {
    16 * bytes + 64 * 1024
}

/// Limit in bytes that the record target passes to decompression.
pub const RECORD_LIMIT_BYTES: usize = 128 * 1024;

/// Memory in bytes that one walk over a batch of `bytes` may allocate: the output grows by doubling,
/// and the codecs bring their own buffers.
pub const fn records_bound(bytes: usize) -> usize {
    16 * bytes + 8 * RECORD_LIMIT_BYTES + 256 * 1024 + LZ4_BUFFER_BYTES
}

/// How one API makes valid frames and decodes hostile ones.
#[derive(Clone, Copy)]
struct Target {
    api: ApiKey,
    request: fn(&mut Random, i16) -> Vec<u8>,
    response: fn(&mut Random, i16) -> Vec<u8>,
    decode_request: fn(Bytes) -> bool,
    decode_response: fn(i16, Bytes) -> bool,
    again: fn(Bytes),
}

#[derive(Default)]
struct Targets(Vec<Target>);

impl ApiVisitor for Targets {
    fn visit<R: Request>(&mut self) {
        self.0.push(Target {
            api: R::API,
            request: valid_request::<R>,
            response: valid_response::<R>,
            decode_request: |frame| hostile_request::<R>(frame).is_some(),
            decode_response: |version, frame| decode_response::<R>(version, frame).is_ok(),
            again: encode_again::<R>,
        });
    }
}

const ID: CorrelationId = CorrelationId(7);

fn valid_request<R: Request>(random: &mut Random, version: i16) -> Vec<u8> {
    random.flexible = R::API.is_flexible(version);
    random.elements = 64;
    let request = R::read(random, version).expect("a random source never fails");
    encode_request(version, ID, Some("fuzz"), &request).expect("random values are short").concat()
}

fn valid_response<R: Request>(random: &mut Random, version: i16) -> Vec<u8> {
    random.flexible = R::API.is_flexible(version);
    random.elements = 64;
    let response = R::Response::read(random, version).expect("a random source never fails");
    encode_response(version, ID, &response).expect("random values are short").concat()
}

fn hostile_request<R: Request>(frame: Bytes) -> Option<(i16, R)> {
    let (header, body) = decode_request_header(frame).ok()?;
    // The mutation may have changed the key: the body is hostile to this API all the more.
    let version = header.version.clamp(R::API.min_version(), R::API.max_version());
    Some((version, R::decode(version, body).ok()?))
}

/// What was decoded encodes, and decodes to itself.
fn encode_again<R: Request>(frame: Bytes) {
    if let Some((version, request)) = hostile_request::<R>(frame) {
        let chunks = encode_request(version, ID, None, &request).expect("what came in fits");
        let again = hostile_request::<R>(chunks.concat().into());
        assert_eq!(again, Some((version, request)));
    }
}

/// Feeds `inputs` damaged frames to the decoders of all requests, and of responses in every fourth.
///
/// # Panics
/// When a decoder panics, takes more than [`message_bound`], or contradicts the encoder.
pub fn fuzz_requests<M: Meter>(seed: u64, inputs: u64, meter: &M) -> FuzzReport {
    let mut targets = Targets::default();
    visit_apis(&mut targets);
    let mut random = Random::new(seed, false);
    let mut report = FuzzReport::default();
    while report.inputs < inputs {
        let target = targets.0[random.below(targets.0.len())];
        let versions = target.api.max_version() - target.api.min_version() + 1;
        let version = target.api.min_version() + random.below(versions as usize) as i16;
        let is_response = random.one_in(4);
        let make = if is_response { target.response } else { target.request };
        let mut bytes = make(&mut random, version);
        random.mutate(&mut bytes);
        let frame = Bytes::copy_from_slice(&bytes);
        let (accepted, allocated) = meter.measure(|| match is_response {
            true => (target.decode_response)(version, frame),
            false => (target.decode_request)(frame),
        });
        report.note(&bytes, accepted, allocated, message_bound(bytes.len()));
        if accepted && !is_response {
            (target.again)(bytes.into());
        }
    }
    report
}

/// Feeds `inputs` damaged messages between brokers to their decoder.
///
/// # Panics
/// As [`fuzz_requests`].
pub fn fuzz_peer<M: Meter>(seed: u64, inputs: u64, meter: &M) -> FuzzReport {
    let mut random = Random::new(seed, false);
    let mut report = FuzzReport::default();
    while report.inputs < inputs {
        let hello = Hello {
            cluster_id: "c".repeat(random.below(40)),
            node_id: BrokerId(random.draw() as i32),
            feature_level: random.draw() as u16,
            build: "0.1.0".repeat(random.below(3)),
        };
        let reply = HelloReply { hello: hello.clone(), verdict: HelloVerdict::Accepted };
        let why = [Refusal::Unknown, Refusal::Stopping][random.below(2)];
        let (head, tail) = (vec![7; random.below(30)].into(), vec![vec![9; random.below(30)].into()]);
        let tag = [0x0101, 0x0281, 0x0301][random.below(3)];
        let message = match random.below(5) {
            0 => PeerMessage::Hello(hello),
            1 => PeerMessage::HelloReply(reply),
            2 => PeerMessage::Refused { correlation: random.draw(), why },
            3 => PeerMessage::Ping,
            _ => {
                let parts = Parts { tag, version: 0, head, tail };
                PeerMessage::Call(Call { correlation: random.draw(), parts })
            }
        };
        let mut bytes = message.encode().expect("short texts").concat();
        random.mutate(&mut bytes);
        let bytes = Bytes::from(bytes);
        let (decoded, allocated) = meter.measure(|| PeerMessage::decode(&bytes).ok());
        report.note(&bytes, decoded.is_some(), allocated, message_bound(bytes.len()));
        if let Some(message) = decoded {
            let again = message.clone().encode().expect("what came in fits").concat().into();
            assert_eq!(PeerMessage::decode(&again), Ok(message));
        }
    }
    report
}

fn valid_batch(random: &mut Random) -> Batch {
    let mut builder = BatchBuilder::new(Compression::ALL[random.below(5)]);
    let value = vec![random.draw() as u8; random.below(60)];
    for at in 0..1 + random.below(6) {
        let value = Some(&value[..value.len() / (at + 1)]);
        let headers: &[(&str, Option<&[u8]>)] = &[("name", Some(b"value")), ("null", None)];
        let headers = &headers[..random.below(3)];
        builder.append(&NewRecord { timestamp_ms: at as i64, key: None, value, headers });
    }
    builder.build().expect("the codecs work on valid memory")
}

/// Everything that broker and client do with a run of batches from outside.
fn walk(run: &Bytes, version: i16) -> bool {
    let produced = check_produced(run, version);
    for batch in Batches::new(run.clone()).flatten() {
        let header = &batch.header;
        assert!(header.last_offset() < header.next_offset(), "{header:?}");
        assert_eq!(header.last_sequence().is_some(), header.base_sequence.is_valid());
        let _ = batch.check_crc();
        let _ = check_records(&batch, RECORD_LIMIT_BYTES);
    }
    let Ok(mut batch) = produced else { return false };
    batch.place(Offset(1 << 40), LeaderEpoch(3));
    let sound = check_records(&batch, RECORD_LIMIT_BYTES).is_ok();
    let found = find_timestamp(&batch, Offset::ZERO, i64::MIN, RECORD_LIMIT_BYTES);
    assert!(!sound || found.is_ok_and(|found| found.is_some()), "a sound batch has a first record");
    let max = find_max_timestamp(&batch, RECORD_LIMIT_BYTES);
    assert!(!sound || max.is_ok(), "a sound batch has a largest timestamp");
    sound
}

/// Feeds `inputs` damaged record batches to the checks and walks; in half of them the payload is
/// damaged under a valid checksum.
///
/// # Panics
/// As [`fuzz_requests`], with [`records_bound`] for each of the four walks.
pub fn fuzz_records<M: Meter>(seed: u64, inputs: u64, meter: &M) -> FuzzReport {
    let mut random = Random::new(seed, false);
    let mut report = FuzzReport::default();
    while report.inputs < inputs {
        let mut batch = valid_batch(&mut random);
        let bytes = if random.one_in(2) {
            let mut payload = batch.payload.to_vec();
            random.mutate(&mut payload);
            batch.header.length += payload.len() as i32 - batch.payload.len() as i32;
            batch.payload = payload.into();
            batch.header.crc = batch.header.compute_crc(&batch.payload);
            batch.to_bytes()
        } else {
            let mut bytes = batch.to_bytes().to_vec();
            random.mutate(&mut bytes);
            bytes.into()
        };
        let (sound, allocated) = meter.measure(|| walk(&bytes, 9));
        report.note(&bytes, sound, allocated, 4 * records_bound(bytes.len()));
    }
    report
}
