//! How a partition, a batch and a record are printed. Pure, but for the writer.

use std::io::{self, Write};

use bytes::Bytes;
use dejaq_storage::{Damage, LogIdentity, RecoveryReport, ScrubReport, Visit};
use dejaq_wire::ids::Offset;
use dejaq_wire::record::{Batch, BatchHeader};
use serde_json::{Value, json};

use super::super::output::{bytes_json, size, time};
use super::DECOMPRESSED_LIMIT;

/// The columns of [`verified_row`].
pub(super) const VERIFIED: [&str; 9] =
    ["TOPIC", "PARTITION", "START", "END", "SEGMENTS", "BATCHES", "RECORDS", "SIZE", "STATE"];

/// Small files that are damaged: not those that are synced only later, and that a crash may leave torn.
pub(super) fn damaged_files(report: &RecoveryReport) -> impl Iterator<Item = &str> {
    let may_be_torn = |name: &str| name.ends_with(".producers") || name.ends_with(".aborted");
    report.damaged_files.iter().map(String::as_str).filter(move |name| report.clean || !may_be_torn(name))
}

pub(super) fn verified_row(
    identity: &LogIdentity,
    report: &RecoveryReport,
    scrubbed: &ScrubReport,
) -> Vec<String> {
    let damaged = scrubbed.damage.len().max(report.damaged.len());
    let files: Vec<_> = damaged_files(report).collect();
    let state = match (damaged, &report.cut) {
        (0, _) if !files.is_empty() => format!("DAMAGED: {}", files.join(", ")),
        (0, None) => "whole".to_owned(),
        (0, Some(cut)) => format!("whole, {} torn off the unsynced tail", size(cut.bytes)),
        (ranges, _) => format!("DAMAGED in {ranges} place(s)"),
    };
    vec![
        identity.topic.clone(),
        identity.partition.to_string(),
        report.start.to_string(),
        report.end.to_string(),
        scrubbed.segments.to_string(),
        scrubbed.batches.to_string(),
        scrubbed.records.to_string(),
        size(scrubbed.bytes),
        state,
    ]
}

pub(super) fn verified_json(
    identity: &LogIdentity,
    report: &RecoveryReport,
    scrubbed: &ScrubReport,
) -> Value {
    let damage: Vec<_> = scrubbed.damage.iter().map(damage_json).collect();
    let cut =
        report.cut.as_ref().map(|cut| json!({ "from": cut.from.0, "bytes": cut.bytes, "why": cut.reason }));
    json!({
        "topic": identity.topic, "topic_id": identity.topic_id.to_string(), "partition": identity.partition.0,
        "start": report.start.0, "end": report.end.0, "durable_end": report.durable_end.0, "clean": report.clean,
        "segments": scrubbed.segments, "batches": scrubbed.batches, "records": scrubbed.records,
        "bytes": scrubbed.bytes, "damage": damage,
        "damaged_files": damaged_files(report).collect::<Vec<_>>(), "torn_tail": cut, "notes": report.notes,
    })
}

fn damage_json(damage: &Damage) -> Value {
    json!({ "from": damage.range.from.0, "to": damage.range.to.0, "segment": damage.segment.0, "why": damage.why })
}

pub(super) fn heading(identity: &LogIdentity, report: &RecoveryReport) -> String {
    let (topic, partition, id) = (&identity.topic, identity.partition, identity.topic_id);
    let durable = if report.durable_end == report.end {
        String::new()
    } else {
        format!(", known to be durable to {}", report.durable_end)
    };
    format!("{topic}-{partition}  id {id}  offsets {} to {}{durable}", report.start, report.end)
}

/// The first offset of a finding and the one behind it.
pub(super) fn span(visit: &Visit) -> (Offset, Offset) {
    match visit {
        Visit::Batch { header, .. } => (header.base_offset, header.next_offset()),
        Visit::Damage(damage) => (damage.range.from, damage.range.to),
    }
}

pub(super) fn visit_text(out: &mut impl Write, visit: &Visit, records: bool) -> io::Result<()> {
    match visit {
        Visit::Damage(damage) => {
            let (from, to, why) = (damage.range.from, damage.range.to, damage.why);
            writeln!(out, "  DAMAGED offsets {from} to {to} in segment {}: {why}", damage.segment)
        }
        Visit::Batch { segment, position, header, bytes } => {
            writeln!(
                out,
                "  offset {}..{}  epoch {}  records {}  {} bytes at {segment}:{position}  {}  crc {:08x}  {}{}{}",
                header.base_offset,
                header.next_offset(),
                header.leader_epoch,
                header.records,
                bytes.len(),
                codec(header),
                header.crc,
                times(header),
                producer(header),
                kind(header),
            )?;
            if records { records_text(out, bytes) } else { Ok(()) }
        }
    }
}

fn codec(header: &BatchHeader) -> &'static str {
    header.compression().map_or("unknown codec", |codec| codec.name())
}

fn times(header: &BatchHeader) -> String {
    let kind = if header.is_append_time() { "appended" } else { "created" };
    format!("{kind} {}", time(header.max_timestamp_ms))
}

fn producer(header: &BatchHeader) -> String {
    if !header.has_producer() {
        return String::new();
    }
    format!(
        "  producer {}/{} from sequence {}",
        header.producer_id, header.producer_epoch, header.base_sequence
    )
}

fn kind(header: &BatchHeader) -> &'static str {
    match (header.is_control(), header.is_transactional()) {
        (true, _) => "  control",
        (false, true) => "  transactional",
        (false, false) => "",
    }
}

fn records_text(out: &mut impl Write, bytes: &Bytes) -> io::Result<()> {
    let walk = match Batch::parse(bytes).map(|batch| batch.records(DECOMPRESSED_LIMIT)) {
        Ok(Ok(walk)) => walk,
        Ok(Err(error)) => return writeln!(out, "    its records cannot be read: {error}"),
        Err(error) => return writeln!(out, "    it cannot be read: {error}"),
    };
    for record in walk {
        let record = match record {
            Ok(record) => record,
            Err(error) => return writeln!(out, "    its records cannot be read on: {error}"),
        };
        let key = record.key.as_deref().map_or("-".into(), escaped);
        let value = record.value.as_deref().map_or("-".into(), escaped);
        write!(out, "    {}  {}  key {key}  value {value}", record.offset, time(record.timestamp_ms))?;
        for (name, value) in record.headers.iter() {
            write!(out, "  {}={}", escaped(&name), value.as_deref().map_or("-".into(), escaped))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Bytes as text in quotes, with everything else than printable ASCII escaped.
fn escaped(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

pub(super) fn visit_json(
    out: &mut impl Write,
    identity: &LogIdentity,
    visit: &Visit,
    records: bool,
) -> io::Result<()> {
    let mut shown = match visit {
        Visit::Damage(damage) => json!({ "damage": damage_json(damage) }),
        Visit::Batch { segment, position, header, bytes } => {
            let mut shown = json!({
                "segment": segment.0, "position": position, "bytes": bytes.len(),
                "base_offset": header.base_offset.0, "last_offset": header.last_offset().0,
                "leader_epoch": header.leader_epoch.0, "records": header.records, "codec": codec(header),
                "crc": header.crc, "max_timestamp_ms": header.max_timestamp_ms,
                "append_time": header.is_append_time(), "control": header.is_control(),
                "transactional": header.is_transactional(),
            });
            if header.has_producer() {
                shown["producer_id"] = json!(header.producer_id.0);
                shown["producer_epoch"] = json!(header.producer_epoch.0);
                shown["base_sequence"] = json!(header.base_sequence.0);
            }
            if records {
                shown["content"] = records_json(bytes);
            }
            shown
        }
    };
    shown["topic"] = json!(identity.topic);
    shown["partition"] = json!(identity.partition.0);
    serde_json::to_writer(&mut *out, &shown)?;
    out.write_all(b"\n")
}

fn records_json(bytes: &Bytes) -> Value {
    let walk = match Batch::parse(bytes).map(|batch| batch.records(DECOMPRESSED_LIMIT)) {
        Ok(Ok(walk)) => walk,
        Ok(Err(error)) => return json!({ "unreadable": error.to_string() }),
        Err(error) => return json!({ "unreadable": error.to_string() }),
    };
    let record = |record: Result<dejaq_wire::record::Record, _>| match record {
        Ok(record) => json!({
            "offset": record.offset.0, "timestamp_ms": record.timestamp_ms,
            "key": bytes_json(record.key.as_deref()), "value": bytes_json(record.value.as_deref()),
            "headers": record.headers.iter()
                .map(|(name, value)| json!([String::from_utf8_lossy(&name), bytes_json(value.as_deref())]))
                .collect::<Vec<_>>(),
        }),
        Err(error) => {
            let error: dejaq_wire::record::RecordError = error;
            json!({ "unreadable": error.to_string() })
        }
    };
    walk.map(record).collect()
}
