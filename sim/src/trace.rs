//! The digest over every event of a run with its payload, and the same as lines for a person or a program.
//!
//! Owns: the rolling digest, the event count, the optional lines. Promises: two runs with one digest did the same
//! things with the same bytes at the same virtual times, as far as disk, network, faults, clients and spawned tasks
//! go; writing lines changes nothing of a run. Leaves out: what the events mean. Fed by every part of `sim`; compared by
//! `runner::twice`; drawn by `timeline`.
//!
//! A line for a person: `seconds.nanos  node.incarnation  kind  text`, for example
//! `    1.204000351  n1.2   recv   n9.1 conn 14 33 bytes 9f3c00e1`. A file whose name ends in `.jsonl` gets a [`Line`]
//! in JSON for each event instead, with its number, its words and the place in the source that noted it, and further
//! ones for what is no event: what the product logs (see `logs`) and the marks that it reaches.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::panic::Location;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

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

/// One line of a `.jsonl` trace. Names are short because there are many of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The number of the event from 0; none for what is no event and not in the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<u64>,
    /// Virtual nanoseconds.
    pub t: u64,
    /// The machine.
    pub n: u32,
    /// Which start of it.
    pub i: u32,
    /// The kind.
    pub k: String,
    /// Its numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub w: Vec<u64>,
    /// Its text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub x: String,
    /// Where in the source it was noted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// The call stack, if it was asked for this event (see [`stack_at`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = Who { node: self.n, incarnation: self.i };
        let (seconds, nanos) = (self.t / 1_000_000_000, self.t % 1_000_000_000);
        write!(f, "{seconds:>6}.{nanos:09}  {who:<6} {:<8} {}", self.k, self.x)
    }
}

/// The event whose call stack is written into its line, if lines are; for the runner of determinism checks.
static STACK_AT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Asks for the call stack of event number `event` (from 0) of this process's run, in a `.jsonl` trace.
pub fn stack_at(event: u64) {
    STACK_AT.store(event, Ordering::Relaxed);
}

/// The trace of one run. Cheap to clone; clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    digest: u64,
    events: u64,
    lines: Option<Lines>,
    now_ns: u64,
    ledger: Ledger,
}

enum Lines {
    Text(BufWriter<File>),
    Json { file: BufWriter<File>, marks: usize },
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
            let file = BufWriter::new(file);
            match path.extension().is_some_and(|ending| ending == "jsonl") {
                true => Lines::Json { file, marks: dejaq_storage::probe::marks_since(0).len() },
                false => Lines::Text(file),
            }
        });
        Trace(Arc::new(Mutex::new(Inner {
            digest: 0x9e37_79b9_7f4a_7c15,
            events: 0,
            lines,
            now_ns: 0,
            ledger: Ledger::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no event panics while it is noted")
    }

    /// Whether its lines are for a program, and so hold what is no event, too.
    #[must_use]
    pub fn wants_notes(&self) -> bool {
        matches!(self.lock().lines, Some(Lines::Json { .. }))
    }

    /// Notes an event: its virtual time, whose it is, what kind, its numbers, and (for the lines only) its text.
    #[track_caller]
    pub fn event(
        &self,
        now_ns: u64,
        who: Who,
        kind: &'static str,
        words: &[u64],
        text: impl FnOnce() -> String,
    ) {
        let mut inner = self.lock();
        let number = inner.events;
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
        let text = Once::of(text);
        inner.ledger.note(now_ns, who, kind, words, || text.get());
        if inner.lines.is_some() {
            let line = Line {
                e: Some(number),
                t: now_ns,
                n: who.node,
                i: who.incarnation,
                k: kind.to_owned(),
                w: words.to_vec(),
                x: text.get(),
                at: Location::caller().to_string(),
                stack: (number == STACK_AT.load(Ordering::Relaxed))
                    .then(|| std::backtrace::Backtrace::force_capture().to_string()),
            };
            inner.write(line);
        }
    }

    /// Writes what is no event into a trace for a program; it is not in the digest.
    pub fn note(&self, now_ns: u64, who: Who, kind: &str, words: &[u64], text: String) {
        let mut inner = self.lock();
        if matches!(inner.lines, Some(Lines::Json { .. })) {
            let (n, i, k) = (who.node, who.incarnation, kind.to_owned());
            inner.write(Line { t: now_ns, n, i, k, w: words.to_vec(), x: text, ..Line::default() });
        }
    }

    /// What the faults of the run did so far, and how long things took.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock().ledger)
    }

    /// The digest so far, and over how many events.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let mut inner = self.lock();
        inner.flush();
        (inner.digest, inner.events)
    }
}

/// A text that is made when somebody wants it, and then kept: nobody wants most of them.
struct Once<F>(std::cell::OnceCell<String>, std::cell::Cell<Option<F>>);

impl<F: FnOnce() -> String> Once<F> {
    fn of(make: F) -> Self {
        Once(std::cell::OnceCell::new(), std::cell::Cell::new(Some(make)))
    }

    fn get(&self) -> String {
        self.0.get_or_init(|| self.1.take().map_or_else(String::new, |make| make())).clone()
    }
}

impl Inner {
    fn write(&mut self, line: Line) {
        // A full disk of the person who looks is no finding.
        match &mut self.lines {
            None => {}
            Some(Lines::Text(file)) => drop(writeln!(file, "{line}")),
            Some(Lines::Json { file, marks }) => {
                for mark in dejaq_storage::probe::marks_since(*marks) {
                    *marks += 1;
                    let (t, k) = (line.t, "mark".to_owned());
                    let mark = Line { t, n: line.n, i: line.i, k, x: mark.to_owned(), ..Line::default() };
                    put(file, &mark);
                }
                put(file, &line);
            }
        }
    }

    fn flush(&mut self) {
        match &mut self.lines {
            None => {}
            Some(Lines::Text(file) | Lines::Json { file, .. }) => drop(file.flush()),
        }
    }
}

fn put(file: &mut BufWriter<File>, line: &Line) {
    let json = serde_json::to_string(line).expect("plain data has a JSON form");
    drop(writeln!(file, "{json}"));
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test of a file")]
mod tests {
    use super::*;

    const ME: Who = Who { node: 7, incarnation: 2 };

    fn some(trace: &Trace) {
        trace.event(5, ME, "one", &[1, u64::MAX], || "first".into());
        trace.note(6, ME, "log", &[], "said".into());
        trace.event(7, ME, "two", &[], String::new);
    }

    #[test]
    fn lines_change_no_digest_and_a_note_is_in_none() {
        let folder = std::env::temp_dir().join(format!("dejaq-trace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of our own");
        let (text, json) = (folder.join("a.trace"), folder.join("a.jsonl"));
        let digests = [None, Some(&text), Some(&json)].map(|file| {
            let trace = Trace::new(file.map(|path| path.as_path()));
            some(&trace);
            trace.digest()
        });
        assert_eq!(digests[0].1, 2);
        assert!(digests.iter().all(|digest| *digest == digests[0]));
        let text = std::fs::read_to_string(text).expect("it was written");
        assert_eq!(text.lines().count(), 2, "{text}");
        let json = std::fs::read_to_string(json).expect("it was written");
        let lines: Vec<Line> =
            json.lines().map(|line| serde_json::from_str(line).expect("a line of ours")).collect();
        let events: Vec<&Line> = lines.iter().filter(|line| line.e.is_some()).collect();
        assert_eq!((events[0].k.as_str(), events[0].w.as_slice()), ("one", &[1, u64::MAX][..]));
        assert!(events[0].at.contains("trace.rs"), "{:?}", events[0]);
        assert_eq!(events[0].to_string(), text.lines().next().expect("two lines"));
        assert_eq!(lines.iter().filter(|line| line.k == "log").count(), 1);
        drop(std::fs::remove_dir_all(folder));
    }
}
