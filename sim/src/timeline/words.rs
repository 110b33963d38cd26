//! What a line of the trace is about, and how it reads: kinds, lanes and partitions.
//!
//! Owns: which kinds are chatter, whose lane a machine has, the partition that a line is about, and short texts for what
//! clients saw (their own are the whole operation). Leaves out: numbers for drawing (`model`). Pure.

use std::collections::BTreeMap;

use crate::trace::Line;

/// Kinds of which there are thousands; only these are thinned.
pub const CHATTER: &[&str] = &["disk", "send", "recv", "spawn", "random"];

/// Whether this line may be left out when there are too many: chatter that does not tell of a failure.
pub fn is_chatter(line: &Line) -> bool {
    CHATTER.contains(&line.k.as_str()) && !(line.k == "disk" && line.x.contains("FAILED"))
}

/// What a machine is, by its number (see TESTING.md, "A trace line").
pub fn role(node: u32) -> &'static str {
    match node {
        0 => "story",
        1..=89 => "broker",
        90..=99 => "admin",
        100..=199 => "producer",
        200..=299 => "consumer",
        300..=399 => "reader",
        400..=499 => "hostile",
        _ => "client",
    }
}

/// The partition that a line is about, by its number in the history; `folders` knows the folders of some.
pub fn part_of(line: &Line, folders: &BTreeMap<String, usize>) -> Option<usize> {
    match line.k.as_str() {
        "sent" | "polled" | "seek" | "end" | "trim" | "rotten" | "drained" | "committed" => {
            line.w.first().map(|part| *part as usize)
        }
        "disk" => {
            let path = line.x.split_once("partitions/")?.1;
            folders.get(path.split(['/', ' ']).next()?).copied()
        }
        _ => None,
    }
}

/// The text of a line as the page shows it.
pub fn text(line: &Line, parts: &[String]) -> String {
    let word = |at: usize| line.w.get(at).copied().unwrap_or_default();
    let part = parts.get(word(0) as usize).map_or_else(|| format!("p{}", word(0)), Clone::clone);
    match line.k.as_str() {
        "sent" if line.w.len() >= 6 => {
            let outcome = match word(2) {
                u64::MAX => "refused".to_owned(),
                told if told == u64::MAX - 1 => "outcome unknown".to_owned(),
                1 => "ok, no offset".to_owned(),
                told => format!("ok at {}", told - 2),
            };
            let attempts = if word(3) > 1 { format!(" after {} attempts", word(3)) } else { String::new() };
            format!("{part} value {} {outcome}{attempts} ({} µs)", word(1), (word(5) - word(4)) / 1000)
        }
        "polled" if line.w.len() >= 4 => {
            let found = match word(3) {
                0 if line.x.contains("out_of_range: true") => "out of range".to_owned(),
                1 => "1 record".to_owned(),
                count => format!("{count} records"),
            };
            format!("{part} from {} to {}: {found}", word(1), word(2))
        }
        "seek" => format!("{part} to {}", word(1) as i64),
        "end" => format!("{part} end is {}", word(1) as i64),
        "trim" => format!("{part} start to {}", word(1)),
        "rotten" => format!("{part} every copy of {} to {} was destroyed", word(1), word(2)),
        "drained" => format!("{part} [{}, {}): {} records", word(1), word(2), word(3)),
        "committed" => format!("{part}: {} committed records", word(1)),
        _ => shortened(&line.x, 400),
    }
}

/// At most `most` characters.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The numbers behind the word `value` in a message: what a finding is about.
pub fn values_named(message: &str) -> Vec<u64> {
    let words: Vec<&str> = message.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let named = words.windows(2).filter(|pair| pair[0] == "value");
    named.filter_map(|pair| pair[1].parse().ok()).collect()
}
