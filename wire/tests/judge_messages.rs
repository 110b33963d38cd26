//! Every API in every version that we serve, against kafka-protocol as an independent judge: random
//! values written by one and read by the other, both ways, byte for byte.

use bytes::{Bytes, BytesMut};
use dejaq_wire::ApiKey;
use dejaq_wire::fuzz::Random;
use dejaq_wire::kafka::{ApiVisitor, Request, Response, Wire, Writer, visit_apis};
use kafka_protocol::messages::{ApiKey as JudgeKey, RequestKind, ResponseKind};

type Outcome = Result<(usize, Bytes), String>;

const VALUES_PER_VERSION: u64 = 40;

/// Requests of Kafka 4.1 that the judge does not know.
const JUDGE_LACKS: &[(ApiKey, i16)] = &[(ApiKey::OffsetCommit, 10), (ApiKey::OffsetFetch, 10)];

fn random<T: Wire>(seed: u64, flexible: bool, version: i16) -> T {
    T::read(&mut Random::new(seed, flexible), version).expect("a random source never fails")
}

fn written<T: Wire>(value: &T, flexible: bool, version: i16) -> Bytes {
    let mut writer = Writer::new(flexible);
    value.write(&mut writer, version);
    writer.finish().expect("random values are short").concat().into()
}

fn request_again(key: JudgeKey, version: i16, ours: &Bytes) -> Outcome {
    let mut left = ours.clone();
    let read = RequestKind::decode(key, &mut left, version).map_err(|e| e.to_string())?;
    let mut bytes = BytesMut::new();
    read.encode(&mut bytes, version).map_err(|e| e.to_string())?;
    Ok((left.len(), bytes.freeze()))
}

fn response_again(key: JudgeKey, version: i16, ours: &Bytes) -> Outcome {
    let mut left = ours.clone();
    let read = ResponseKind::decode(key, &mut left, version).map_err(|e| e.to_string())?;
    let mut bytes = BytesMut::new();
    read.encode(&mut bytes, version).map_err(|e| e.to_string())?;
    Ok((left.len(), bytes.freeze()))
}

#[derive(Default)]
struct Judged {
    values: u64,
    bytes: usize,
}

impl ApiVisitor for Judged {
    fn visit<R: Request>(&mut self) {
        let api = R::API;
        let key = JudgeKey::try_from(api.key()).expect("the judge knows every API of ours");
        for version in api.min_version()..=api.max_version() {
            let flexible = api.is_flexible(version);
            for seed in 0..VALUES_PER_VERSION {
                let place = format!("{api:?} {version} seed {seed}");
                let request: R = random(seed, flexible, version);
                let ours = written(&request, flexible, version);
                assert_eq!(R::decode(version, ours.clone()).as_ref(), Ok(&request), "{place}");
                if !JUDGE_LACKS.contains(&(api, version)) {
                    assert_eq!(request_again(key, version, &ours), Ok((0, ours)), "{place} {request:?}");
                }
                let response: R::Response = random(seed, flexible, version);
                let ours = written(&response, flexible, version);
                assert_eq!(R::Response::decode(version, ours.clone()).as_ref(), Ok(&response), "{place}");
                self.values += 2;
                self.bytes += ours.len();
                assert_eq!(response_again(key, version, &ours), Ok((0, ours)), "{place} {response:?}");
            }
        }
    }
}

#[test]
fn the_judge_reads_what_we_write_and_we_read_what_it_writes() {
    let mut judged = Judged::default();
    visit_apis(&mut judged);
    assert!(judged.values > 10_000, "{} values", judged.values);
    assert!(judged.bytes > 1_000_000, "{} bytes", judged.bytes);
}
