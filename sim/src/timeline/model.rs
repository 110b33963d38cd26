//! The numbers of the page: what is drawn where, and what the list says.
//!
//! Owns: [`Model`], the JSON that the page embeds. Promises: one pass over the lines; every column of the events has one
//! length; indexes point into them. Leaves out: looks (`page`), words (`words`). Called by `page`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::words;
use crate::oracle::{Event, History};
use crate::runner::{Replay, RunReport, Status};
use crate::trace::Line;

/// What is known of a run.
pub struct Run<'a> {
    /// The line by which anyone can have it again.
    pub replay: &'a Replay,
    /// What came out.
    pub report: &'a RunReport,
    /// Its `.jsonl` trace.
    pub lines: &'a [Line],
    /// What clients saw; a run that panicked has none.
    pub history: Option<&'a History>,
    /// At most this many events are kept.
    pub limit: usize,
}

/// One lane.
#[derive(Debug, Serialize)]
pub struct Lane {
    /// `n1`.
    pub name: String,
    /// `broker`, `producer` …
    pub role: &'static str,
}

/// A process, from its start to its end.
#[derive(Debug, Serialize)]
pub struct Life {
    /// Its lane.
    pub lane: usize,
    /// Which start of its machine.
    pub incarnation: u32,
    /// When it was started.
    pub from: u64,
    /// When it served, if it did.
    pub ready: Option<u64>,
    /// When it ended.
    pub to: u64,
    /// How: `kill`, `power`, `stopped`, or empty for the end of the run.
    pub how: String,
}

/// A send, from the call to its end.
#[derive(Debug, Serialize)]
pub struct Bar {
    /// Its event.
    pub event: usize,
    /// When it was called.
    pub from: u64,
    /// 0 ok, 1 refused, 2 unknown.
    pub outcome: u8,
    /// Its value.
    pub value: u64,
    /// Its offset, if that was told; else -1.
    pub offset: i64,
    /// How often it was sent.
    pub attempts: u64,
}

/// A poll.
#[derive(Debug, Serialize)]
pub struct Poll {
    /// Its event.
    pub event: usize,
    /// The position before.
    pub from: u64,
    /// The position after.
    pub next: u64,
    /// How many records it gave.
    pub records: u64,
}

/// Everything that the page shows.
#[derive(Debug, Default, Serialize)]
pub struct Model {
    /// The replay line.
    pub replay: String,
    /// `Pass`, `Violation` …
    pub status: String,
    /// Which checker fired.
    pub checker: String,
    /// The evidence.
    pub message: String,
    /// The end of the run.
    pub end: u64,
    /// How many lines there were.
    pub total: usize,
    /// How many of each kind were left out.
    pub dropped: BTreeMap<String, usize>,
    /// What the run counted.
    pub counts: BTreeMap<String, u64>,
    /// The marks that it reached.
    pub marks: Vec<String>,
    /// The partitions.
    pub parts: Vec<String>,
    /// The lanes.
    pub lanes: Vec<Lane>,
    /// The kinds.
    pub kinds: Vec<String>,
    /// When each event was.
    pub t: Vec<u64>,
    /// Its lane.
    pub lane: Vec<usize>,
    /// Its kind.
    pub kind: Vec<usize>,
    /// Its partition, or -1.
    pub part: Vec<i64>,
    /// Its text.
    pub text: Vec<String>,
    /// Processes.
    pub lives: Vec<Life>,
    /// Pauses of processes: lane, from, to.
    pub pauses: Vec<(usize, u64, u64)>,
    /// Sends.
    pub sends: Vec<Bar>,
    /// Polls.
    pub polls: Vec<Poll>,
    /// Ends that clients were told: event, offset.
    pub ends: Vec<(usize, i64)>,
    /// Log starts that were asked for: event, offset.
    pub trims: Vec<(usize, i64)>,
    /// The event at which an invariant was found broken, if one was.
    pub broken: Option<usize>,
    /// Events about the records that the finding names.
    pub evidence: Vec<usize>,
}

impl Model {
    /// Reads a run.
    #[must_use]
    pub fn of(run: &Run<'_>) -> Model {
        let (replay, report) = (run.replay, run.report);
        let mut model = Model {
            replay: replay.to_string(),
            status: format!("{:?}", report.status),
            checker: report.checker.clone(),
            message: report.message.clone(),
            end: run.lines.iter().map(|line| line.t).max().unwrap_or(0),
            total: run.lines.len(),
            counts: report.counts.clone(),
            marks: report.marks.clone(),
            ..Model::default()
        };
        model.parts = run.history.map_or_else(Vec::new, |history| {
            history.partitions.iter().map(|part| part.name.clone()).collect()
        });
        model.name_lanes(run.lines);
        let mut reader = Reader { model, kinds: BTreeMap::new(), folders: BTreeMap::new(), chatter: 0 };
        let chatter = run.lines.iter().filter(|line| words::is_chatter(line)).count();
        let room = run.limit.saturating_sub(run.lines.len() - chatter).max(1);
        let stride = chatter.div_ceil(room).max(1);
        run.lines.iter().for_each(|line| reader.read(line, stride));
        let mut model = reader.model;
        model.close();
        if report.status != Status::Pass {
            model.find_evidence(&report.message, run.history);
        }
        model
    }

    /// The story first, then brokers, then clients, by number; each machine that an event is of has a lane.
    fn name_lanes(&mut self, lines: &[Line]) {
        let mut nodes: Vec<u32> = lines.iter().map(|line| line.n).collect();
        nodes.sort_unstable();
        nodes.dedup();
        self.lanes = nodes
            .into_iter()
            .map(|node| Lane { name: format!("n{node}"), role: words::role(node) })
            .collect();
    }

    /// What still runs at the end ends there.
    fn close(&mut self) {
        let end = self.end;
        self.lives.iter_mut().filter(|life| life.to == u64::MAX).for_each(|life| life.to = end);
        self.pauses.iter_mut().filter(|pause| pause.2 == u64::MAX).for_each(|pause| pause.2 = end);
    }

    /// The sends and polls of the records that a finding names.
    fn find_evidence(&mut self, message: &str, history: Option<&History>) {
        let values = words::values_named(message);
        let sent = self.sends.iter().filter(|bar| values.contains(&bar.value)).map(|bar| bar.event);
        self.evidence = sent.collect();
        // The events of the history are in the trace in the same order, each of its kind.
        let mut polls = self.polls.iter();
        for event in history.map_or(&[][..], |history| &history.events) {
            if let Event::Poll(op) = event {
                let Some(poll) = polls.next() else { break };
                if op.records.iter().any(|seen| values.contains(&seen.value)) {
                    self.evidence.push(poll.event);
                }
            }
        }
        self.evidence.sort_unstable();
    }
}

struct Reader {
    model: Model,
    kinds: BTreeMap<String, usize>,
    folders: BTreeMap<String, usize>,
    chatter: usize,
}

impl Reader {
    fn read(&mut self, line: &Line, stride: usize) {
        if line.k == "folder" {
            self.folders.insert(line.x.clone(), line.w.first().copied().unwrap_or_default() as usize);
            return;
        }
        if words::is_chatter(line) {
            self.chatter += 1;
            if !self.chatter.is_multiple_of(stride) {
                *self.model.dropped.entry(line.k.clone()).or_default() += 1;
                return;
            }
        }
        let lanes = &self.model.lanes;
        let lane = lanes.binary_search_by_key(&line.n, |lane| lane.name[1..].parse().unwrap_or(u32::MAX));
        let lane = lane.expect("every machine of a line has a lane");
        let fresh = self.kinds.len();
        let kind = *self.kinds.entry(line.k.clone()).or_insert(fresh);
        if kind == fresh {
            self.model.kinds.push(line.k.clone());
        }
        let event = self.model.t.len();
        let part = words::part_of(line, &self.folders);
        if let Some(part) = part {
            while self.model.parts.len() <= part && part < 10_000 {
                self.model.parts.push(format!("p{}", self.model.parts.len()));
            }
        }
        self.model.t.push(line.t);
        self.model.lane.push(lane);
        self.model.kind.push(kind);
        self.model.part.push(part.map_or(-1, |part| part as i64));
        self.model.text.push(words::text(line, &self.model.parts));
        self.life(line, lane);
        self.seen(line, event);
    }

    fn life(&mut self, line: &Line, lane: usize) {
        let model = &mut self.model;
        let open = model.lives.iter_mut().rev().find(|life| life.lane == lane && life.to == u64::MAX);
        match (line.k.as_str(), open) {
            ("start", _) => model.lives.push(Life {
                lane,
                incarnation: line.i,
                from: line.t,
                ready: None,
                to: u64::MAX,
                how: String::new(),
            }),
            ("ready", Some(life)) => life.ready = Some(line.t),
            ("kill" | "power", Some(life)) => {
                life.to = line.t;
                if life.how.is_empty() {
                    life.how = line.k.clone();
                }
            }
            // The machine is freed by a kill that follows.
            ("stopped" | "unfit", Some(life)) => life.how = line.k.clone(),
            ("pause", Some(_)) => model.pauses.push((lane, line.t, u64::MAX)),
            ("resume", Some(_)) => {
                let open = model.pauses.iter_mut().filter(|(of, _, to)| *of == lane && *to == u64::MAX);
                open.for_each(|(_, _, to)| *to = line.t);
            }
            _ => {}
        }
    }

    fn seen(&mut self, line: &Line, event: usize) {
        let model = &mut self.model;
        match (line.k.as_str(), line.w.as_slice()) {
            ("sent", &[_, value, told, attempts, begun, _done, ..]) => {
                let (outcome, offset) = match told {
                    u64::MAX => (1, -1),
                    told if told == u64::MAX - 1 => (2, -1),
                    told => (0, told as i64 - 2),
                };
                let offset = offset.max(-1);
                model.sends.push(Bar { event, from: begun, outcome, value, offset, attempts });
            }
            ("polled", &[_, from, next, records, ..]) => {
                model.polls.push(Poll { event, from, next, records });
            }
            ("end", &[_, offset, ..]) => model.ends.push((event, offset as i64)),
            ("trim", &[_, offset, ..]) => model.trims.push((event, offset as i64)),
            ("broken", _) => drop(model.broken.get_or_insert(event)),
            _ => {}
        }
    }
}

impl Model {
    /// Sends that were acknowledged, refused, unknown.
    #[must_use]
    pub fn outcomes(&self) -> [usize; 3] {
        [0, 1, 2].map(|outcome| self.sends.iter().filter(|bar| bar.outcome == outcome).count())
    }
}
