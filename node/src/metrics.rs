//! What a broker counts: names, units, help and buckets in one table, shown as Prometheus text.
//!
//! Owns: [`Metrics`], one instance a broker (a simulated process runs many). Promises: counting is one relaxed atomic
//! add and never allocates or waits; the text lists everything in the order of the table, so that equal counts give
//! equal text. Leaves out: serving the text (see `admin`), rates and percentiles (Prometheus computes them).
//! Called by everyone: a new metric is one row of the table.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dejaq_wire::api::ApiKey;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Raises it to a sum that is kept elsewhere.
    pub fn reach(&self, total: u64) {
        self.0.fetch_max(total, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, never below zero.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// So many less.
    pub fn sub(&self, count: u64) {
        let before = self.0.fetch_sub(count, Ordering::Relaxed);
        assert!(before >= count, "a gauge went from {before} to {count} below");
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of every duration, in microseconds: three a decade, from 50 µs to 50 s.
pub const BUCKETS_US: [u64; 19] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000,
];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS_US.len()],
    above: AtomicU64,
    sum_us: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slot = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets.get(slot).unwrap_or(&self.above).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Raises it to what was counted elsewhere.
    pub fn reach(&self, other: &Durations) {
        let raise =
            |to: &AtomicU64, from: &AtomicU64| to.fetch_max(from.load(Ordering::Relaxed), Ordering::Relaxed);
        self.buckets.iter().zip(&other.buckets).for_each(|(to, from)| {
            raise(to, from);
        });
        raise(&self.above, &other.above);
        raise(&self.sum_us, &other.sum_us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        let within: u64 = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum();
        within + self.above.load(Ordering::Relaxed)
    }
}

/// One of `T` for each API.
#[derive(Debug)]
pub struct ByApi<T>([T; ApiKey::ALL.len()]);

impl<T: Default> Default for ByApi<T> {
    fn default() -> ByApi<T> {
        ByApi(std::array::from_fn(|_| T::default()))
    }
}

impl<T> ByApi<T> {
    /// The one of `api`.
    pub fn of(&self, api: ApiKey) -> &T {
        let index = ApiKey::ALL.binary_search(&api).unwrap_or_else(|_| panic!("{api:?} is in ALL"));
        &self.0[index]
    }
}

/// Something that the table can hold.
trait Metric {
    const KIND: &'static str;
    /// Writes sample lines of `name`; `labels` is empty or `key="value"`.
    fn show(&self, name: &str, labels: &str, out: &mut String);
    /// Whether it was ever touched; samples with labels appear only then.
    fn is_zero(&self) -> bool;
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let written = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
    written.expect("writing to a String does not fail");
}

impl Metric for Counter {
    const KIND: &'static str = "counter";
    fn show(&self, name: &str, labels: &str, out: &mut String) {
        sample(out, name, labels, self.get());
    }
    fn is_zero(&self) -> bool {
        self.get() == 0
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";
    fn show(&self, name: &str, labels: &str, out: &mut String) {
        sample(out, name, labels, self.get());
    }
    fn is_zero(&self) -> bool {
        self.get() == 0
    }
}

impl Metric for Durations {
    const KIND: &'static str = "histogram";
    fn show(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        for (bound, count) in BUCKETS_US.iter().zip(&self.buckets) {
            sum += count.load(Ordering::Relaxed);
            let seconds = *bound as f64 / 1e6;
            sample(out, &bucket, &format!("{labels}{comma}le=\"{seconds}\""), sum);
        }
        sum += self.above.load(Ordering::Relaxed);
        sample(out, &bucket, &format!("{labels}{comma}le=\"+Inf\""), sum);
        let seconds = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        sample(out, &format!("{name}_sum"), labels, seconds);
        sample(out, &format!("{name}_count"), labels, sum);
    }
    fn is_zero(&self) -> bool {
        self.count() == 0
    }
}

impl<T: Metric> Metric for ByApi<T> {
    const KIND: &'static str = T::KIND;
    fn show(&self, name: &str, _labels: &str, out: &mut String) {
        for (api, metric) in ApiKey::ALL.iter().zip(&self.0) {
            if !metric.is_zero() {
                metric.show(name, &format!("api=\"{}\"", api.name()), out);
            }
        }
    }
    fn is_zero(&self) -> bool {
        self.0.iter().all(Metric::is_zero)
    }
}

macro_rules! metrics {
    ($($field:ident: $kind:ty = $name:literal, $help:literal;)*) => {
        /// Everything that one broker counts. Names carry the unit: `bytes`, `seconds`, or none for counts.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            /// All of it in Prometheus' text format, version 0.0.4.
            #[must_use]
            pub fn text(&self) -> String {
                let mut out = String::with_capacity(8 << 10);
                $(
                    let kind = <$kind as Metric>::KIND;
                    writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", $name, $help, $name)
                        .expect("writing to a String does not fail");
                    self.$field.show($name, "", &mut out);
                )*
                out
            }
        }
    };
}

metrics! {
    connections: Gauge = "dejaq_connections", "Open client connections.";
    connections_accepted: Counter = "dejaq_connections_accepted_total", "Client connections accepted.";
    connections_refused: Counter = "dejaq_connections_refused_total", "Connections closed at once because there were too many.";
    connections_broken: Counter = "dejaq_connections_broken_total", "Connections closed by the broker because of what the client sent or did not take.";
    requests: ByApi<Counter> = "dejaq_requests_total", "Requests started.";
    request_seconds: ByApi<Durations> = "dejaq_request_duration_seconds", "From the last byte of a request to its reply leaving.";
    requests_in_flight: Gauge = "dejaq_requests_in_flight", "Requests started and not answered.";
    turns: Counter = "dejaq_turns_total", "Times that one connection started requests; requests per turn is how much one read brought.";
    request_bytes: Counter = "dejaq_request_bytes_total", "Bytes of requests received.";
    reply_bytes: Counter = "dejaq_reply_bytes_total", "Bytes of replies sent.";
    topics: Gauge = "dejaq_topics", "Topics in the metadata.";
    quorum_has_leader: Gauge = "dejaq_quorum_has_leader", "1 while this node knows who leads the metadata quorum.";
    quorum_is_leader: Gauge = "dejaq_quorum_is_leader", "1 on the node that leads the metadata quorum; of all nodes, one.";
    metadata_end: Gauge = "dejaq_metadata_offset", "End of the committed metadata that this node acts on; behind that of the leader by its lag.";
    partitions: Gauge = "dejaq_partitions", "Partitions that this broker serves.";
    unsynced_bytes: Gauge = "dejaq_unsynced_bytes", "Bytes appended that no finished sync covers.";
    syncs: Counter = "dejaq_syncs_total", "Syncs of the data directory that ended well; each covers all that was asked for meanwhile.";
    sync_microseconds: Counter = "dejaq_sync_microseconds_total", "Time that those syncs took.";
    synced_partitions: Counter = "dejaq_synced_partitions_total", "Partitions that those syncs covered.";
    groups: Gauge = "dejaq_groups", "Consumer groups that this broker coordinates.";
    group_members: Gauge = "dejaq_group_members", "Members of those groups.";
    rebalances: Counter = "dejaq_group_rebalances_total", "Rebalances of those groups that began.";
    transactional_ids: Gauge = "dejaq_transactional_ids", "Transactional ids that this broker coordinates.";
    open_transactions: Gauge = "dejaq_open_transactions", "Transactions of those ids that are open or being ended.";
    timed_out_transactions: Counter = "dejaq_timed_out_transactions_total", "Transactions of those ids that were aborted for their age.";
    rebalance_seconds: Durations = "dejaq_group_rebalance_duration_seconds", "From the moment at which the members of a classic group had to come together to that at which the plan was known.";
    partitions_led: Gauge = "dejaq_partitions_led", "Partitions that this broker leads.";
    under_replicated: Gauge = "dejaq_under_replicated_partitions", "Partitions that this broker leads with fewer replicas in sync than there are to be; one that only comes is not missing.";
    under_min_insync: Gauge = "dejaq_under_min_insync_partitions", "Partitions that this broker leads with fewer replicas in sync than min.insync.replicas.";
    unclean_elections: Gauge = "dejaq_unclean_elections", "Partitions whose last unclean election is remembered: acknowledged records may have been lost then; it goes with the topic.";
    leader_epochs: Gauge = "dejaq_leader_epochs", "Sum of the leader epochs of the partitions that this broker leads; it grows with every election of theirs, and changes when leadership comes or goes.";
    follower_lag_records: Gauge = "dejaq_follower_lag_records", "Records that the slowest follower of this broker lacks.";
    insync_shrinks: Counter = "dejaq_insync_shrinks_total", "Times that an in-sync set of a partition led here lost members.";
    insync_expands: Counter = "dejaq_insync_expands_total", "Times that an in-sync set of a partition led here gained members.";
    damaged_partitions: Gauge = "dejaq_damaged_partitions", "Partitions with damaged records on this broker's disk; a leader lets another lead, a follower gets them from its leader.";
    unmendable_partitions: Gauge = "dejaq_unmendable_partitions", "Partitions led here with damaged records on two disks of which neither can be put back from the other, and nothing is given up: the log names them and says what can be done.";
    unopened_partitions: Gauge = "dejaq_unopened_partitions", "Partitions that belong on this broker's disk and do not open; the log says why. One that it leads is led by another replica that has everything, if there is one.";
    failed_syncs: Counter = "dejaq_failed_syncs_total", "Syncs that failed; the first takes the data directory offline.";
    free_bytes: Gauge = "dejaq_disk_free_bytes", "Bytes free on the disk of the data directory, as it last said.";
    lacks_room: Gauge = "dejaq_disk_full", "1 while the disk is full, or so nearly that writes are refused.";
    refused_for_room: Counter = "dejaq_batches_refused_for_room_total", "Batches refused because the disk is full, or nearly.";
    damaged_ranges: Counter = "dejaq_damaged_ranges_total", "Ranges of durable records that were found damaged when a partition was opened, or by a scrub.";
    mended_ranges: Counter = "dejaq_mended_ranges_total", "Damaged ranges whose records are here again: put back, or fetched again, from the leader.";
    scrubbed_bytes: Counter = "dejaq_scrubbed_bytes_total", "Bytes that were read in the background to look for damage.";
    damaged_reads: Counter = "dejaq_damaged_reads_total", "Reads that met damaged records and were refused.";
    tails_cut: Counter = "dejaq_torn_tails_cut_total", "Torn tails, that no sync had covered, cut when a partition was opened.";
    cut_bytes: Counter = "dejaq_torn_bytes_cut_total", "Bytes of those tails.";
    cleanings: Counter = "dejaq_cleaner_rounds_total", "Rounds of compaction over a log that ended well.";
    cleaner_read_bytes: Counter = "dejaq_cleaner_read_bytes_total", "Bytes of logs read by compaction.";
    cleaner_written_bytes: Counter = "dejaq_cleaner_written_bytes_total", "Bytes of logs written by compaction.";
    cleaner_freed_bytes: Counter = "dejaq_cleaner_freed_bytes_total", "Bytes that compaction took out of logs.";
    dirty_permille: Gauge = "dejaq_cleaner_dirty_permille", "Share of bytes never compacted in the dirtiest compacted log, in thousandths.";
    offline: Gauge = "dejaq_data_directory_offline", "1 after a failed sync: everything is refused until the broker is restarted.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let durations = Durations::default();
        for us in [0, 50, 51, 50_000_000, 50_000_001] {
            durations.observe(Duration::from_micros(us));
        }
        let counts: Vec<u64> = durations.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[18]), (2, 1, 1));
        assert_eq!((durations.above.load(Ordering::Relaxed), durations.count()), (1, 5));
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.connections.add(1);
        metrics.requests.of(ApiKey::Fetch).add(3);
        metrics.request_seconds.of(ApiKey::Fetch).observe(Duration::from_millis(3));
        let text = metrics.text();
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        dejaq_connections 1
        dejaq_requests_total{api="Fetch"} 3
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.005"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.01"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.02"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.05"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.1"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.2"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="0.5"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="1"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="2"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="5"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="10"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="20"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="50"} 1
        dejaq_request_duration_seconds_bucket{api="Fetch",le="+Inf"} 1
        dejaq_request_duration_seconds_sum{api="Fetch"} 0.003
        dejaq_request_duration_seconds_count{api="Fetch"} 1
        "#);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            assert!(name.starts_with("dejaq_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn every_name_is_described_once_and_counters_end_in_total() {
        let text = Metrics::default().text();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        for name in &names {
            let (name, kind) = name.split_once(' ').expect("name and kind");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
