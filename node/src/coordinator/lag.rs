//! How far groups are behind, for those who watch: records of a partition that a group has not committed yet.
//!
//! Owns: the question to the coordinators of this node, and the text. Promises: at most [`MOST`] samples, those of the
//! groups that are furthest behind, and the number of the others; equal states give equal text; a shard that does not
//! answer in time is left out. Only of partitions that this node has a copy of: of the others a coordinator does not know
//! the end, and their number is told. Leaves out: the counters of groups (`shards`), serving the text.
//! Called by `broker::Watch` when somebody looks; costs nothing before.
//!
//! ```text
//! shards ─► groups ─► offsets ─┐
//!                              ├─ end − offset ─► the MOST largest ─► text
//! directory ─► watermarks ─────┘
//! ```

use std::cmp::Reverse;
use std::fmt::Write;

use crate::coordinator::Shards;
use crate::coordinator::group::{Ask, Groups, Reply};
use crate::coordinator::record::{At, Committed};
use crate::replica::Directory;
use crate::runtime::{Mono, Runtime};

/// Samples that are shown at most: what a scraper must be able to store, whatever groups do.
pub const MOST: usize = 2_000;

/// How far one group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lag {
    group: String,
    at: At,
    records: u64,
}

/// How far all groups of a node are behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lags {
    /// By group, topic and partition.
    shown: Vec<Lag>,
    /// Behind less than every one that is shown.
    hidden: u64,
    /// Of partitions of which this node has no copy.
    unknown: u64,
}

/// Asks every coordinator of this node.
pub async fn look<R: Runtime>(shards: &Shards<R, Groups>, directory: &Directory<R>, deadline: Mono) -> Lags {
    let mut lags = Lags::default();
    let Ok(replies) = shards.ask_all(|| Ask::List, deadline).await else { return lags };
    let listed = |reply| match reply {
        Reply::Listed(groups) => groups,
        other => unreachable!("a list is answered with {other:?}"),
    };
    let mut groups: Vec<String> = replies.into_iter().flat_map(listed).map(|group| group.group_id).collect();
    groups.sort_unstable();
    for id in groups {
        let ask = Ask::Fetch { group: id.clone(), wanted: None, member: None };
        let Ok(Reply::Offsets(offsets, _)) = shards.ask(&id, ask, deadline).await else { continue };
        for (at, committed) in offsets {
            if let Some(committed) = committed {
                lags.add(&id, at, &committed, |at| end_of(directory, at));
            }
        }
        lags.bound(2 * MOST); // between two groups, so that memory is bounded, too
    }
    lags.bound(MOST);
    lags
}

fn end_of<R: Runtime>(directory: &Directory<R>, at: &At) -> Option<i64> {
    let table = directory.table();
    let partition = table.named(&at.topic)?.partition(at.partition).ok()?.clone();
    Some(partition.view().watermark().0)
}

impl Lags {
    fn add(&mut self, group: &str, at: At, committed: &Committed, end: impl FnOnce(&At) -> Option<i64>) {
        match end(&at) {
            Some(end) => {
                // A follower may not have heard of the end that a member has read to.
                let records = u64::try_from(end.saturating_sub(committed.offset.0)).unwrap_or(0);
                self.shown.push(Lag { group: group.to_owned(), at, records });
            }
            None => self.unknown += 1,
        }
    }

    /// Leaves the `most` that are furthest behind.
    fn bound(&mut self, most: usize) {
        let order = |lag: &Lag| (lag.group.clone(), lag.at.topic.clone(), lag.at.partition);
        if self.shown.len() > most {
            self.shown.sort_by_cached_key(|lag| (Reverse(lag.records), order(lag)));
            self.hidden += (self.shown.len() - most) as u64;
            self.shown.truncate(most);
        }
        self.shown.sort_by_cached_key(order);
    }

    /// Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        head(&mut out, "dejaq_group_lag", "Records of a partition that a group has not committed yet.");
        for Lag { group, at, records } in &self.shown {
            let (group, topic, partition) = (escaped(group), escaped(&at.topic), at.partition);
            let line = format!(
                "dejaq_group_lag{{group=\"{group}\",topic=\"{topic}\",partition=\"{partition}\"}} {records}\n"
            );
            out.push_str(&line);
        }
        head(
            &mut out,
            "dejaq_group_lag_hidden",
            "Partitions of groups that are behind less than those shown.",
        );
        writeln!(out, "dejaq_group_lag_hidden {}", self.hidden).expect("writing to a String does not fail");
        let about = "Partitions that groups of this broker read, and of which it has no copy to see the end.";
        head(&mut out, "dejaq_group_lag_unknown", about);
        writeln!(out, "dejaq_group_lag_unknown {}", self.unknown).expect("writing to a String does not fail");
        out
    }
}

fn head(out: &mut String, name: &str, help: &str) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
}

/// As the format wants label values.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use dejaq_wire::ids::{LeaderEpoch, Offset, PartitionId};

    use super::*;

    fn lags(all: &[(&str, i32, i64, Option<i64>)]) -> Lags {
        let mut lags = Lags::default();
        for (group, partition, offset, end) in all {
            let committed = Committed {
                offset: Offset(*offset),
                leader_epoch: LeaderEpoch(0),
                metadata: String::new(),
                committed_ms: 0,
                expires_ms: None,
            };
            let at = At { topic: "t".into(), partition: PartitionId(*partition) };
            lags.add(group, at, &committed, |_| *end);
        }
        lags
    }

    #[test]
    fn a_lag_beyond_all_numbers_is_the_largest() {
        let lags = lags(&[("g", 0, i64::MIN, Some(9))]);
        assert_eq!(lags.shown[0].records, i64::MAX as u64);
    }

    #[test]
    fn the_text_tells_of_each_partition_and_of_what_it_does_not_know() {
        let mut lags = lags(&[("g\"1", 1, 4, Some(9)), ("g\"1", 0, 7, Some(5)), ("g", 2, 0, None)]);
        lags.bound(MOST);
        let samples: Vec<String> =
            lags.text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        assert_eq!(
            samples,
            [
                r#"dejaq_group_lag{group="g\"1",topic="t",partition="0"} 0"#,
                r#"dejaq_group_lag{group="g\"1",topic="t",partition="1"} 5"#,
                "dejaq_group_lag_hidden 0",
                "dejaq_group_lag_unknown 1",
            ]
        );
    }

    #[test]
    fn of_too_many_the_ones_that_are_furthest_behind_are_shown() {
        let mut lags =
            lags(&[("a", 0, 0, Some(1)), ("b", 0, 0, Some(9)), ("b", 1, 0, Some(3)), ("c", 0, 0, Some(3))]);
        lags.bound(2);
        let shown: Vec<(&str, u64)> = lags.shown.iter().map(|lag| (&*lag.group, lag.records)).collect();
        assert_eq!((shown, lags.hidden), (vec![("b", 9), ("b", 3)], 2));
    }
}
