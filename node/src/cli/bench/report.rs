//! Numbers of a run, as text and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What one connection, or all of them, did within the measured time.
pub(super) struct Sample {
    pub(super) requests: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
    latency_ns: Histogram<u64>,
}

/// A minute, in nanoseconds: slower than that is all the same.
const SLOWEST_NS: u64 = 60_000_000_000;

impl Sample {
    pub(super) fn new() -> Sample {
        let latency_ns = Histogram::new_with_bounds(1, SLOWEST_NS, 3).expect("the bounds are valid");
        Sample { requests: 0, records: 0, bytes: 0, errors: 0, latency_ns }
    }

    pub(super) fn answered(&mut self, records: u64, bytes: u64, latency: Duration) {
        self.requests += 1;
        self.records += records;
        self.bytes += bytes;
        self.latency_ns.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(SLOWEST_NS));
    }

    pub(super) fn join(&mut self, other: &Sample) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.latency_ns.add(&other.latency_ns).expect("equal bounds");
    }

    pub(super) fn summary(&self, took: Duration) -> Summary {
        let seconds = took.as_secs_f64();
        let at = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            seconds,
            requests: self.requests,
            errors: self.errors,
            requests_per_second: self.requests as f64 / seconds,
            records_per_second: self.records as f64 / seconds,
            mb_per_second: self.bytes as f64 / 1e6 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latency_ns.max() as f64 / 1e3,
        }
    }
}

/// One run in numbers. Megabytes are 10^6 bytes of record batches.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(super) struct Summary {
    pub(super) seconds: f64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) requests_per_second: f64,
    pub(super) records_per_second: f64,
    pub(super) mb_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

impl Summary {
    /// Prints it for eyes or for machines.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "{} requests in {:.1} s, {} errors\n{:.0} requests/s  {:.0} records/s  {:.1} MB/s",
            self.requests,
            self.seconds,
            self.errors,
            self.requests_per_second,
            self.records_per_second,
            self.mb_per_second
        );
        println!(
            "latency µs: p50 {:.0}  p99 {:.0}  p999 {:.0}  max {:.0}",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        );
        Ok(())
    }
}
