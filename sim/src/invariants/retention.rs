//! RET-2: retention removes whole segments, oldest first, and only what is too old or too much.
//!
//! Source: CORRECTNESS.md 1.9 (KAFKA-4340, 14991). A segment is too old when its newest record is older than
//! `retention.ms`, by a clock that does not follow a jump forward; it is too much when at least `retention.bytes` stay
//! without it. Called when the start of a log moves, while all segments are still there.

use super::Broken;
use super::image::Batch;

/// What a topic says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Records older than this may go.
    pub keep_ms: Option<i64>,
    /// What is beyond this many bytes may go.
    pub keep_bytes: Option<u64>,
}

/// A move of the start that nobody asked for.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// The start before.
    pub from: i64,
    /// The start that is being written.
    pub to: i64,
    /// The latest time that the broker may go by.
    pub now_ms: i64,
}

/// A segment of which something is left at the old start.
struct Segment {
    base: u64,
    end: i64,
    bytes: u64,
    newest_ms: i64,
}

/// Every segment that the move gives up may go, and none is given up in part.
#[must_use]
pub fn check(folder: &str, log: &[Batch], rule: Rule, moved: Move) -> Option<Broken> {
    let mut segments: Vec<Segment> = Vec::new();
    for batch in log {
        let end = batch.last + 1;
        match segments.last_mut().filter(|segment| segment.base == batch.segment) {
            Some(segment) => {
                segment.end = end;
                segment.bytes += batch.bytes;
                segment.newest_ms = segment.newest_ms.max(batch.newest_ms);
            }
            None => {
                let (base, bytes, newest_ms) = (batch.segment, batch.bytes, batch.newest_ms);
                segments.push(Segment { base, end, bytes, newest_ms });
            }
        }
    }
    segments.retain(|segment| segment.end > moved.from);
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut reached = moved.from;
    for segment in segments.iter().take_while(|segment| segment.end <= moved.to) {
        let old = rule.keep_ms.is_some_and(|keep| segment.newest_ms < moved.now_ms.saturating_sub(keep));
        left -= segment.bytes;
        if !old && rule.keep_bytes.is_none_or(|keep| left < keep) {
            let text = format!(
                "{folder}: {moved:?} gives up segment {} of {} bytes, newest record {}: {left} bytes would stay, {rule:?}",
                segment.base, segment.bytes, segment.newest_ms
            );
            return Some(Broken { name: "RET-2", evidence: text });
        }
        reached = segment.end;
    }
    (reached != moved.to).then(|| Broken {
        name: "RET-2",
        evidence: format!(
            "{folder}: {moved:?} ends inside of a segment, the last whole one ends at {reached}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(segment: u64, base: i64, newest_ms: i64) -> Batch {
        Batch {
            base,
            last: base,
            epoch: 1,
            crc: 0,
            intact: true,
            newest_ms,
            segment,
            at: 0,
            bytes: 100,
            recorded: true,
        }
    }

    fn verdict(rule: Rule, from: i64, to: i64) -> Option<&'static str> {
        // Three segments of two batches each; the record at 1 is younger than the one at 3.
        let times = [10, 50, 20, 30, 60, 70];
        let log: Vec<Batch> =
            times.iter().enumerate().map(|(at, ms)| batch(at as u64 / 2 * 2, at as i64, *ms)).collect();
        check("a-0", &log, rule, Move { from, to, now_ms: 100 }).map(|broken| broken.name)
    }

    #[test]
    fn only_segments_whose_newest_record_is_too_old_may_go() {
        let rule = |keep_ms| Rule { keep_ms: Some(keep_ms), keep_bytes: None };
        assert_eq!(verdict(rule(49), 0, 4), None);
        assert_eq!(verdict(rule(50), 0, 2), Some("RET-2"), "the second record is not older than 50");
        assert_eq!(verdict(rule(49), 0, 6), Some("RET-2"), "the last segment is younger");
        assert_eq!(verdict(rule(49), 0, 3), Some("RET-2"), "half a segment");
        assert_eq!(verdict(Rule::default(), 0, 2), Some("RET-2"), "nothing may go without a rule");
    }

    #[test]
    fn by_size_enough_must_stay() {
        let rule = |keep| Rule { keep_ms: None, keep_bytes: Some(keep) };
        assert_eq!(verdict(rule(200), 0, 4), None);
        assert_eq!(verdict(rule(201), 0, 4), Some("RET-2"));
        assert_eq!(verdict(rule(200), 2, 4), None, "what is below the old start does not count");
        assert_eq!(verdict(rule(300), 2, 4), Some("RET-2"));
    }
}
