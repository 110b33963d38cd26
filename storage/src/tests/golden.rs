//! The bytes of every persisted format, held against files in `storage/tests/golden`. A change of one is a new version.
//!
//! `GOLDEN=write cargo test -p dejaq-storage golden` writes them anew.

use super::kit::*;
use crate::LogConfig;
use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use std::fmt::Write;

/// 32 bytes a line, so that a record of a side file is a line.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_persisted_format_is_as_it_was() {
    let mut pair = Pair::new(LogConfig { segment_bytes: 400, ..small() });
    pair.append(Spec::of(1, 0, 2)).expect("room");
    pair.flush();
    pair.append(Spec::plain(3, 30)).expect("room");
    pair.flush();
    pair.log.begin_epoch(LeaderEpoch(2)).expect("newer");
    pair.epoch = LeaderEpoch(2);
    pair.append(Spec::of(2, 5, 1)).expect("room");
    pair.append(Spec::plain(1, 100)).expect("room");
    pair.advance_start(Offset(1));
    let Pair { platter, log, .. } = pair;
    now(log.close()).expect("healthy");
    let mut story = String::from("storage format 1; file, bytes, content in hex\n");
    for (path, bytes) in platter.files() {
        let name = path.file_name().expect("a name").to_string_lossy();
        if name.starts_with("boot-") {
            continue; // the kit's own
        }
        write!(story, "\n{name} {}\n{}", bytes.len(), hex(&bytes)).expect("a string takes all");
    }
    golden("partition.txt", &story);
}

#[test]
fn the_truncation_intent_is_as_it_was() {
    let binding = crate::binding::Binding::new(identity().topic_id, identity().partition);
    let bytes = crate::small_file::encode(crate::recovery::TRUNCATE_KIND, &binding, &42_i64.to_be_bytes());
    golden("truncate.txt", &hex(&bytes));
}

#[test]
fn what_a_compaction_keeps_is_as_it_was() {
    use crate::log::swap::{CLEANED_KIND, SWAP_KIND, SwapRecord};
    let binding = crate::binding::Binding::new(identity().topic_id, identity().partition);
    let record = SwapRecord {
        base: Offset(7),
        end: Offset(30),
        bytes: 300,
        records: 5,
        others: vec![Offset(9), Offset(20)],
    };
    assert_eq!(SwapRecord::decode(record.encode()), Some(record.clone()));
    let swap = crate::small_file::encode(SWAP_KIND, &binding, &record.encode());
    let cleaned = crate::small_file::encode(CLEANED_KIND, &binding, &42_i64.to_be_bytes());
    golden("compaction.txt", &format!("swap\n{}cleaned\n{}", hex(&swap), hex(&cleaned)));
}

#[test]
fn a_list_of_what_is_not_open_is_as_it_was() {
    let names = [(TopicId::METADATA, PartitionId(0)), (identity().topic_id, PartitionId(3))];
    let of = |magic| hex(&crate::unopened::encode(magic, [7; 16], &names));
    golden("unopened.txt", &format!("closed\n{}boot\n{}", of(*b"DJcl"), of(*b"DJbt")));
}

#[expect(clippy::disallowed_methods, reason = "a test reads its golden file from the source tree")]
fn golden(name: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable tree");
        std::fs::write(&path, found).expect("a writable tree");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, kept, "the format of {name} changed: give it a new version, or run with GOLDEN=write");
}
