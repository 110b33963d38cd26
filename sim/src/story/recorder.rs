//! What clients saw, written down as it happens, and what the nemesis did.
//!
//! Owns: the history of the run, unique values, counters. Promises: an event is in the trace, too.
//! Leaves out: judging (see `oracle`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::invariants::image;
use crate::invariants::resurrection::is_metadata;
use crate::oracle::{Acks, Event, History, Outcome, Part, PartInfo, SendOp};
use crate::story::plan::{Plan, TopicPlan};
use crate::trace::Who;
use crate::world::{NOBODY, World};

/// The history of a run. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    world: World,
    parts: BTreeMap<(String, i32), Part>,
    state: Mutex<State>,
    looks: OnceLock<Look>,
}

/// Looks at the world after an event.
type Look = Box<dyn Fn(&Event) + Send + Sync>;

#[derive(Default)]
struct State {
    history: History,
    counts: BTreeMap<String, u64>,
    next_value: u64,
    next_process: u32,
    working: i64,
    calm: bool,
    folders: BTreeMap<String, (String, i32)>,
    spans: BTreeMap<String, Vec<u64>>,
    /// The offset behind the last record that a reader was given, by partition.
    shown: BTreeMap<Part, i64>,
    /// The newest leader epoch in which somebody was seen to lead.
    epochs: BTreeMap<Part, i32>,
    /// When the leader of a partition was ended, and since when a send waits for another one.
    fallen: BTreeMap<Part, (u64, Option<u64>)>,
}

/// From the end of a leader, or from the first send behind it, to an acknowledgement of the next one.
pub const FAILOVER: &str = "a leader ended to the next ack";

impl Recorder {
    /// An empty history over the plan's partitions.
    #[must_use]
    pub fn new(world: &World, plan: &Plan) -> Self {
        let mut parts = BTreeMap::new();
        let mut history = History::default();
        for topic in &plan.topics {
            for index in 0..topic.partitions {
                parts.insert((topic.name.clone(), index), history.partitions.len());
                let name = format!("{}-{index}", topic.name);
                history.partitions.push(PartInfo {
                    name,
                    durable: topic.durable || topic.survives_one,
                    replicated: topic.replicas > 1,
                    compacted: topic.compacted(),
                });
            }
        }
        let state = Mutex::new(State { history, ..State::default() });
        Recorder(Arc::new(Inner { world: world.clone(), parts, state, looks: OnceLock::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while the history is locked")
    }

    /// The number of a partition.
    ///
    /// # Panics
    /// If the plan does not have it.
    #[must_use]
    pub fn part(&self, topic: &str, index: i32) -> Part {
        *self.0.parts.get(&(topic.to_owned(), index)).expect("the partition is in the plan")
    }

    /// Learns the id of a topic, and so the folders of its partitions.
    pub fn topic_has_id(&self, topic: &str, id: [u8; 16]) {
        let mut state = self.lock();
        for ((name, index), part) in self.0.parts.iter().filter(|((name, _), _)| name == topic) {
            let folder = image::folder(id, *index);
            // Whoever draws the trace wants to know which partition a file belongs to.
            let world = &self.0.world;
            world.trace().note(world.now_ns(), NOBODY, "folder", &[*part as u64], folder.clone());
            state.folders.insert(folder, (name.clone(), *index));
        }
    }

    /// Which partition lives in a folder.
    #[must_use]
    pub fn part_of_folder(&self, folder: &str) -> Option<Part> {
        self.lock().folders.get(folder).map(|of| self.0.parts[of])
    }

    /// The topic of a partition.
    ///
    /// # Panics
    /// If the plan does not have it.
    #[must_use]
    pub fn topic_of<'a>(&self, part: Part, plan: &'a Plan) -> &'a TopicPlan {
        let of = self.0.parts.iter().find(|(_, number)| **number == part);
        let (name, _) = of.expect("the partition is in the plan").0;
        plan.topics.iter().find(|topic| topic.name == *name).expect("the topic is in the plan")
    }

    /// In which folder a partition lives.
    #[must_use]
    pub fn folder_of(&self, topic: &str, index: i32) -> Option<String> {
        let state = self.lock();
        let at = state.folders.iter().find(|(_, (name, number))| name == topic && *number == index);
        at.map(|(folder, _)| folder.clone())
    }

    /// A value that nobody sent before; never 0.
    #[must_use]
    pub fn fresh_value(&self) -> u64 {
        let mut state = self.lock();
        state.next_value += 1;
        state.next_value
    }

    /// A number for a producer session or a consumer.
    #[must_use]
    pub fn fresh_process(&self) -> u32 {
        let mut state = self.lock();
        state.next_process += 1;
        state.next_process
    }

    /// Calls `look` after each event from now on; it must not add one.
    ///
    /// # Panics
    /// If somebody looks already.
    pub fn on_event(&self, look: Box<dyn Fn(&Event) + Send + Sync>) {
        assert!(self.0.looks.set(look).is_ok(), "somebody looks already");
    }

    /// In which folder a partition of the plan lives, once its topic has an id.
    #[must_use]
    pub fn folder_of_part(&self, part: Part) -> Option<String> {
        let state = self.lock();
        let at = state.folders.iter().find(|(_, of)| self.0.parts[of] == part);
        at.map(|(folder, _)| folder.clone())
    }

    /// Notes that a partition was given up from an offset on: what readers were shown of that counts no more.
    pub fn gives_up(&self, part: Part, from: i64) {
        let at = self.0.world.now_ns();
        self.event(NOBODY, Event::GivenUp { part, from, at });
        if let Some(shown) = self.lock().shown.get_mut(&part) {
            *shown = (*shown).min(from);
        }
    }

    /// Adds an event, which `who` saw.
    #[track_caller]
    pub fn event(&self, who: Who, event: Event) {
        let (kind, words) = words_of(&event);
        self.0.world.event(who, kind, &words, || format!("{event:?}"));
        let mut state = self.lock();
        if let Event::Poll(poll) = &event
            && let Some(last) = poll.records.last()
        {
            let shown = state.shown.entry(poll.part).or_default();
            *shown = (*shown).max(last.offset + 1);
        }
        if let Event::Send(send) = &event {
            state.answered(send);
        }
        state.history.events.push(event.clone());
        drop(state);
        if let Some(look) = self.0.looks.get() {
            look(&event);
        }
    }

    /// The offset behind the last record that any reader was given, by the folder of the partition.
    #[must_use]
    pub fn shown(&self) -> Vec<(String, i64)> {
        let state = self.lock();
        let of = |(folder, of): (&String, &(String, i32))| {
            Some((folder.clone(), *state.shown.get(&self.0.parts[of])?))
        };
        state.folders.iter().filter_map(of).collect()
    }

    /// Notes that the process of a leader was ended, if there are others that may lead.
    pub fn leader_ended(&self, folder: &str) {
        let Some(part) = self.part_of_folder(folder) else { return };
        let now = self.0.world.now_ns();
        let mut state = self.lock();
        if state.history.partitions[part].replicated {
            // Who waits since an earlier end waits since then.
            state.fallen.entry(part).or_insert((now, None));
        }
    }

    /// Notes that somebody leads in this epoch.
    pub fn leads(&self, folder: &str, epoch: i32) {
        let Some(part) = self.part_of_folder(folder) else { return };
        let mut state = self.lock();
        let newest = state.epochs.entry(part).or_insert(epoch);
        *newest = (*newest).max(epoch);
    }

    /// The newest leader epoch in which somebody was seen to lead.
    #[must_use]
    pub fn newest_epoch(&self, part: Part) -> Option<i32> {
        self.lock().epochs.get(&part).copied()
    }

    /// Counts something that the report tells.
    pub fn count(&self, what: impl Into<String>) {
        *self.lock().counts.entry(what.into()).or_default() += 1;
    }

    /// Says that so many more producers work, or have ended.
    pub fn working(&self, change: i64) {
        self.lock().working += change;
    }

    /// Whether a producer still works.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.lock().working > 0
    }

    /// Whether the faults are over.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.lock().calm
    }

    /// The highest offset that a send to this partition was told.
    #[must_use]
    pub fn highest_acked(&self, part: Part) -> Option<i64> {
        let state = self.lock();
        let told = state.history.events.iter().filter_map(|event| match event {
            Event::Send(send) if send.part == part => match send.outcome {
                Outcome::Ok { offset } => offset,
                Outcome::Fail | Outcome::Info => None,
            },
            _ => None,
        });
        told.max()
    }

    /// Folder and highest offset of what acks=all acknowledged, for each partition where that is a promise.
    #[must_use]
    pub fn promised(&self) -> Vec<(String, i64)> {
        let state = self.lock();
        let mut highest: BTreeMap<Part, i64> = BTreeMap::new();
        for event in &state.history.events {
            if let Event::GivenUp { part, from, .. } = event {
                // All before it in the history was acknowledged before.
                highest.entry(*part).and_modify(|top| *top = (*top).min(from - 1));
            }
            if let Event::Send(SendOp {
                part,
                acks: Acks::All,
                outcome: Outcome::Ok { offset: Some(offset) },
                ..
            }) = event
                && state.history.partitions[*part].durable
            {
                let top = highest.entry(*part).or_insert(*offset);
                *top = (*top).max(*offset);
            }
        }
        let place =
            |(topic, index): &(String, i32)| highest.get(&self.0.parts[&(topic.clone(), *index)]).copied();
        state.folders.iter().filter_map(|(folder, of)| Some((folder.clone(), place(of)?))).collect()
    }

    /// The highest start that was asked for in the partition of a folder; 0 if none was.
    #[must_use]
    pub fn trimmed(&self, folder: &str) -> i64 {
        let Some(part) = self.part_of_folder(folder) else { return 0 };
        let state = self.lock();
        let asked = state.history.events.iter().filter_map(|event| match event {
            Event::Trimmed { part: of, to } if *of == part => Some(*to),
            _ => None,
        });
        asked.max().unwrap_or(0)
    }

    /// Whether the story allows that a batch that ends with offset `last` is missing: it lies below a start that was
    /// asked for, or its topic is not one of the plan (then the admin clients may have deleted it).
    #[must_use]
    pub fn is_let_go(&self, folder: &str, last: i64) -> bool {
        match self.part_of_folder(folder) {
            Some(_) => last < self.trimmed(folder),
            None => !is_metadata(folder),
        }
    }

    /// Whether offsets of a log may have gaps: its topic is compacted. Topics that are not of the plan hold no records, but
    /// for the brokers' own, which are.
    #[must_use]
    pub fn has_gaps(&self, folder: &str) -> bool {
        match self.part_of_folder(folder) {
            Some(part) => self.lock().history.partitions[part].compacted.is_some(),
            None => !is_metadata(folder),
        }
    }

    /// Notes the beginning of the calm act.
    pub fn phase(&self, name: &'static str) {
        self.lock().calm = true;
        self.0
            .world
            .event(NOBODY, "phase", &[u64::from(crc32fast::hash(name.as_bytes()))], || name.to_owned());
    }

    /// Notes what a step took.
    pub fn took(&self, step: &str, ms: u64) {
        self.lock().spans.entry(step.to_owned()).or_default().push(ms);
    }

    /// What steps took, in simulated milliseconds.
    #[must_use]
    pub fn spans(&self) -> BTreeMap<String, Vec<u64>> {
        self.lock().spans.clone()
    }

    /// The history so far.
    #[must_use]
    pub fn history(&self) -> History {
        self.lock().history.clone()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.lock().counts.clone()
    }
}

impl State {
    /// Measures how long a partition is without a leader: what was sent before its end says nothing of the next.
    fn answered(&mut self, send: &SendOp) {
        let Some((ended, since)) = self.fallen.get_mut(&send.part) else { return };
        let waits = send.begun >= *ended || send.attempts > 1;
        if send.acks == Acks::None || !waits {
            return;
        }
        let waits_since = since.unwrap_or(u64::MAX).min(send.begun.max(*ended));
        match send.outcome {
            Outcome::Ok { .. } => {
                self.fallen.remove(&send.part);
                let ms = send.done.saturating_sub(waits_since) / 1_000_000;
                self.spans.entry(FAILOVER.to_owned()).or_default().push(ms);
            }
            Outcome::Fail | Outcome::Info => *since = Some(waits_since),
        }
    }
}

fn words_of(event: &Event) -> (&'static str, Vec<u64>) {
    match event {
        Event::Send(send) => {
            let outcome = match send.outcome {
                Outcome::Ok { offset } => offset.map_or(1, |offset| offset as u64 + 2),
                Outcome::Fail => u64::MAX,
                Outcome::Info => u64::MAX - 1,
            };
            (
                "sent",
                vec![send.part as u64, send.value, outcome, u64::from(send.attempts), send.begun, send.done],
            )
        }
        Event::Poll(poll) => {
            let mut words =
                vec![poll.part as u64, poll.from as u64, poll.next as u64, poll.records.len() as u64];
            words.extend(poll.records.iter().map(|seen| seen.value ^ u64::from(seen.digest) << 32));
            ("polled", words)
        }
        Event::Seek { part, offset, .. } => ("seek", vec![*part as u64, *offset as u64]),
        Event::EndOffset { part, offset, .. } => ("end", vec![*part as u64, *offset as u64]),
        Event::Admin(op) => {
            let act = u64::from(crc32fast::hash(format!("{} {:?}", op.topic, op.act).as_bytes()));
            ("admin", vec![act, op.told as u64, op.begun, op.done])
        }
        Event::Consumer { process, read_committed, group } => {
            let group = group.as_ref().map_or(0, |group| crc32fast::hash(group.as_bytes()));
            ("consumer", vec![u64::from(*process), u64::from(*read_committed), u64::from(group)])
        }
        Event::Group(op) => {
            let act = u64::from(crc32fast::hash(format!("{} {:?}", op.group, op.act).as_bytes()));
            ("group", vec![act, op.generation as u64, op.told as u64, op.begun, op.done])
        }
        Event::Txn(op) => {
            let act = u64::from(crc32fast::hash(format!("{:?}", op.act).as_bytes()));
            ("txn", vec![act, u64::from(op.process), op.told as u64, op.begun, op.done])
        }
        Event::Keyed { value, key, deletes } => ("keyed", vec![*value, *key, u64::from(*deletes)]),
        Event::Moved { value, transfer, amount } => ("moved", vec![*value, *transfer, *amount as u64]),
        Event::Derived { from, value, .. } => ("derived", vec![*from, *value]),
        Event::DrainedCommitted { part, records } => ("committed", vec![*part as u64, records.len() as u64]),
        Event::Stable { part, watermark, stable } => {
            ("stable", vec![*part as u64, *watermark as u64, *stable as u64])
        }
        Event::Ended { part, txns } => ("ended", vec![*part as u64, txns.len() as u64]),
        Event::Trimmed { part, to } => ("trim", vec![*part as u64, *to as u64]),
        Event::Destroyed { part, from, last } => ("rotten", vec![*part as u64, *from as u64, *last as u64]),
        Event::GivenUp { part, from, at } => ("given up", vec![*part as u64, *from as u64, *at]),
        Event::PowerCut { at } => ("dark", vec![*at]),
        Event::Drained { part, start, end, records } => {
            ("drained", vec![*part as u64, *start as u64, *end as u64, records.len() as u64])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn send((begun, done): (u64, u64), attempts: u32, outcome: Outcome) -> SendOp {
        SendOp {
            process: 1,
            part: 0,
            value: 1,
            digest: 0,
            acks: Acks::All,
            idempotent: false,
            attempts,
            begun: begun * MS,
            done: done * MS,
            outcome,
        }
    }

    #[test]
    fn a_failover_lasts_from_the_first_send_that_needs_the_next_leader_to_its_first_ack() {
        let ok = Outcome::Ok { offset: Some(1) };
        let mut state = State::default();
        state.fallen.insert(0, (100 * MS, None));
        state.answered(&send((90, 101), 1, ok)); // the dead leader's last word
        state.answered(&send((300, 900), 1, Outcome::Info));
        state.answered(&send((400, 1_000), 2, ok));
        state.answered(&send((1_000, 9_000), 1, ok)); // the next leader is there
        assert_eq!(state.spans[FAILOVER], [700]);
    }
}
