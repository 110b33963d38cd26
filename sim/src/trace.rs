//! The digest over every event of a run with its payload, and the same as lines for a person.
//!
//! Owns: the rolling digest, the event count, the optional line log. Promises: two runs with one digest did the same
//! things with the same bytes at the same virtual times, as far as disk, network, faults, clients and spawned tasks
//! go. Leaves out: what the events mean. Fed by every part of `sim`; compared by `runner::twice`.
//!
//! A line: `seconds.nanos  node.incarnation  kind  text`, for example
//! `    1.204000351  n1.2   recv   n9.1 conn 14 33 bytes 9f3c00e1`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Who an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The machine.
    pub node: u32,
    /// Which start of it.
    pub incarnation: u32,
}

impl std::fmt::Debug for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}.{}", self.node, self.incarnation)
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{self:?}");
        f.pad(&text)
    }
}

/// The trace of one run. Cheap to clone; clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    digest: u64,
    events: u64,
    lines: Option<BufWriter<File>>,
    now_ns: u64,
}

impl Trace {
    /// A trace that writes its lines to `file`, if any.
    ///
    /// # Panics
    /// If the file cannot be created: then the run that was asked for cannot be shown.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the trace file is for the person outside of the simulated world"
    )]
    pub fn new(file: Option<&Path>) -> Self {
        let lines = file.map(|path| {
            let file = File::create(path).unwrap_or_else(|error| panic!("trace {}: {error}", path.display()));
            BufWriter::new(file)
        });
        Trace(Arc::new(Mutex::new(Inner { digest: 0x9e37_79b9_7f4a_7c15, events: 0, lines, now_ns: 0 })))
    }

    /// Notes an event: its virtual time, whose it is, what kind, its numbers, and (for the lines only) its text.
    pub fn event(
        &self,
        now_ns: u64,
        who: Who,
        kind: &'static str,
        words: &[u64],
        text: impl FnOnce() -> String,
    ) {
        let mut inner = self.0.lock().expect("no event panics while it is noted");
        inner.events += 1;
        inner.now_ns = now_ns;
        let label = u64::from(crc32fast::hash(kind.as_bytes()));
        let owner = u64::from(who.node) << 32 | u64::from(who.incarnation);
        let mut digest = inner.digest;
        for word in [now_ns, owner, label].iter().chain(words) {
            digest = (digest ^ word).wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(29);
            digest ^= digest >> 32;
        }
        inner.digest = digest;
        if let Some(lines) = &mut inner.lines {
            let (seconds, nanos) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
            let _ = writeln!(lines, "{seconds:>6}.{nanos:09}  {who:<6} {kind:<8} {}", text());
        }
    }

    /// The digest so far, and over how many events.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let mut inner = self.0.lock().expect("no event panics while it is noted");
        if let Some(lines) = &mut inner.lines {
            let _ = lines.flush();
        }
        (inner.digest, inner.events)
    }
}
