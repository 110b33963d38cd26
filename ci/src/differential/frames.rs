//! Questions below the message level: versions, keys and lengths that no client sends on purpose.

use super::Case;
use crate::raw::Body;

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;

pub const CASES: &[Case] = &[
    ("ApiVersions of an unknown version answers 35 in the layout of version 0", |s| {
        // correlation id · error · count · one entry of six bytes per API
        let answer = s.frame(&header(API_VERSIONS, 99).raw(&[0]).0)?;
        Ok(match answer.as_deref() {
            Some([_, _, _, _, high, low, _, _, count_high, count_low, rest @ ..]) => {
                let count = usize::from(u16::from_be_bytes([*count_high, *count_low]));
                format!(
                    "error {}, entries fit: {}",
                    u16::from_be_bytes([*high, *low]),
                    rest.len() == count * 6
                )
            }
            other => format!("{other:?}"),
        })
    }),
    ("and the connection goes on", |s| {
        s.frames(&[header(API_VERSIONS, 99).raw(&[0]).0, header(API_VERSIONS, 0).0])
            .map(|told| answered(&told))
    }),
    ("an unknown API", |s| s.frames(&[header(9999, 0).0])),
    ("a negative API", |s| s.frames(&[header(-1, 0).0])),
    ("a version of the future", |s| s.frames(&[header(METADATA, 99).raw(&[0]).0])),
    ("a negative version", |s| s.frames(&[header(METADATA, -1).0])),
    ("an empty frame", |s| s.frames(&[Vec::new()])),
    ("a frame of three bytes", |s| s.frames(&[vec![0, 3, 0]])),
    ("a body that is cut", |s| s.frames(&[header(METADATA, 4).i32(1).raw(&[0]).0])),
    ("a body with bytes behind it, as librdkafka sends it", |s| {
        // Metadata 13 for all topics, whose null array takes four bytes instead of one.
        s.frames(&[header(METADATA, 13).raw(&[0, 0, 0, 0, 0, 1, 0, 0]).0]).map(|told| answered(&told))
    }),
    ("an array of two thousand million", |s| s.frames(&[header(METADATA, 4).i32(i32::MAX).0])),
    ("a string of a negative length", |s| s.frames(&[header(METADATA, 4).i32(1).i16(-5).0])),
    ("a client id of a negative length", |s| s.frames(&[Body::new().i16(METADATA).i16(4).i32(1).i16(-7).0])),
    ("acks 0 to an unknown topic closes the connection", |s| {
        // transactional id · acks · timeout · topics · name · partitions · index · records
        let body = header(PRODUCE, 3).i16(-1).i16(0).i32(1000).i32(1).string("nowhere").i32(1).i32(0).i32(-1);
        s.frames(&[body.0])
    }),
];

fn header(api: i16, version: i16) -> Body {
    Body::new().i16(api).i16(version).i32(77).string("dejaq-ci")
}

/// The length of a list of versions is the broker's own affair.
fn answered(told: &str) -> String {
    if told.starts_with("an answer") { "answered".to_owned() } else { told.to_owned() }
}
