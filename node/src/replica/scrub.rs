//! SHELL. Looks for damage before a reader meets it.
//!
//! Owns: when a pass over the partitions begins, and how fast it reads. Promises: never more bytes a second than the
//! settings allow, on average over a segment's stride; what is found is counted, told in the log once, and not served; a
//! follower's leader hears of it, a leader lets another lead, and both mend (`following`). It keeps nothing back: a crash
//! begins the pass anew.
//! Leaves out: what damage is (`storage::scrub`), mending (`following`, `fetcher`).
//! One task a data directory.
//!
//! ```text
//!  every interval ─► partition after partition ─► segment after segment, slowly ─► damage ─► notice_damage
//! ```

use std::sync::Arc;
use std::time::Duration;

use dejaq_storage::mark;

use super::directory::Directory;
use super::partition::Partition;
use crate::runtime::Runtime;

/// The first pass begins at most so long after the start: a broker that restarts often is looked at, too.
const FIRST: Duration = Duration::from_secs(600);

/// How a data directory is scrubbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// From the end of one pass to the beginning of the next.
    pub every: Duration,
    /// Most bytes read in a second; 0 is no scrub at all.
    pub bytes_per_second: u64,
}

/// Scrubs every partition, again and again, until the directory stops.
pub(super) async fn run<R: Runtime>(directory: Arc<Directory<R>>) {
    let Scrub { every, bytes_per_second } = directory.settings.scrub;
    if bytes_per_second == 0 {
        return;
    }
    let mut wait = every.min(FIRST);
    while !directory.is_stopping() {
        directory.pause_until(directory.runtime.now().plus(wait)).await;
        for partition in directory.partitions() {
            if directory.is_stopping() || partition.is_offline() {
                break;
            }
            look_at(&directory, &partition, bytes_per_second).await;
        }
        wait = every;
    }
}

async fn look_at<R: Runtime>(directory: &Arc<Directory<R>>, partition: &Arc<Partition<R>>, rate: u64) {
    let reader = partition.view().reader().clone();
    let mut at = Some(reader.start());
    while let Some(from) = at {
        let pace = |bytes: u64| {
            directory.health().counts.scrubbed_bytes.add(bytes);
            let due = directory.runtime.now().plus(Duration::from_nanos(
                u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX),
            ));
            async move {
                directory.pause_until(due).await;
                !directory.is_stopping()
            }
        };
        let scrubbed = match reader.scrub_segment(from, pace).await {
            Ok(scrubbed) => scrubbed,
            Err(error) => {
                tracing::warn!(partition = partition.name(), %error, "a scrub ends early");
                return;
            }
        };
        for damage in &scrubbed.damage {
            mark!("a scrub finds damage");
            let (from, to) = (damage.range.from, damage.range.to);
            tracing::error!(partition = partition.name(), %from, %to, why = damage.why, "records are damaged: they are not served");
        }
        if !scrubbed.damage.is_empty() {
            directory.health().counts.damaged_ranges.add(scrubbed.damage.len() as u64);
            partition.notice_damage();
        }
        at = scrubbed.next.filter(|next| *next > from);
    }
}
