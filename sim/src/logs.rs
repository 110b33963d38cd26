//! What the product logs during a run, as notes in the trace: elections, brokers that come and go, topics, refusals.
//!
//! Owns: a subscriber of `tracing` for one run. Promises: it changes nothing of the run (no draw, no wait, nothing in the
//! digest); it is there only while a trace for a program is written. Leaves out: choosing what is worth a word: the
//! product's levels do that; debug is taken, trace is not, since it tells of every frame. Called by `world`.
//!
//! Whose words they are: madsim enters a span for each task that it polls, below the span of the task's node, and the
//! node's name there is our `n1.2`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use madsim::time::TimeHandle;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::trace::{Trace, Who};
use crate::world::NOBODY;

/// Writes what is logged in this thread into the trace, until the guard is dropped.
pub(crate) fn listen(trace: &Trace) -> DefaultGuard {
    let logs = Logs { trace: trace.clone(), spans: Mutex::default() };
    tracing::subscriber::set_default(logs)
}

struct Logs {
    trace: Trace,
    spans: Mutex<Spans>,
}

#[derive(Default)]
struct Spans {
    last: u64,
    whose: BTreeMap<u64, Who>,
    entered: Vec<u64>,
}

impl Spans {
    fn now(&self) -> Who {
        self.entered.iter().rev().find_map(|span| self.whose.get(span)).copied().unwrap_or(NOBODY)
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("dejaq");
        metadata.is_span() || (ours && *metadata.level() <= Level::DEBUG)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut words = Words::default();
        span.record(&mut words);
        let mut spans = self.spans.lock().expect("nothing panics in here");
        spans.last += 1;
        let number = spans.last;
        let parent = span.parent().map(Id::into_u64);
        let whose = words.node().or_else(|| match parent {
            Some(parent) => spans.whose.get(&parent).copied(),
            None => Some(spans.now()),
        });
        if let Some(whose) = whose {
            spans.whose.insert(number, whose);
        }
        Id::from_u64(number)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let who = self.spans.lock().expect("nothing panics in here").now();
        let mut words = Words::default();
        event.record(&mut words);
        let metadata = event.metadata();
        let place = metadata.target().strip_prefix("dejaq::").unwrap_or(metadata.target());
        let text = format!("{} {place}: {}{}", metadata.level(), words.message, words.fields);
        let now = TimeHandle::try_current().map_or(0, |time| time.elapsed().as_nanos() as u64);
        self.trace.note(now, who, "log", &[], text);
    }

    fn enter(&self, span: &Id) {
        self.spans.lock().expect("nothing panics in here").entered.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let mut spans = self.spans.lock().expect("nothing panics in here");
        if let Some(at) = spans.entered.iter().rposition(|entered| *entered == span.into_u64()) {
            spans.entered.remove(at);
        }
    }
}

#[derive(Default)]
struct Words {
    message: String,
    fields: String,
    name: String,
}

impl Words {
    /// `n1.2`, if that is the name of the span.
    fn node(&self) -> Option<Who> {
        let (node, incarnation) = self.name.strip_prefix('n')?.split_once('.')?;
        Some(Who { node: node.parse().ok()?, incarnation: incarnation.parse().ok()? })
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "name" => {
                self.name = value.to_owned();
                self.fields += &format!(" name={value}");
            }
            name => self.fields += &format!(" {name}={value}"),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }
}
