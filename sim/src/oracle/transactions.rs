//! Are transactions all or nothing, and is what was answered about them true?
//!
//! Owns: what became of each transaction as far as clients can know, and what readers of committed records may be given.
//! Promises: near linear. A transaction that nobody asked to commit is aborted, whether or not anybody asked that; one whose
//! commit has no answer is what its records show. Leaves out: cycles between transactions (Kafka promises none of them
//! away: CORRECTNESS.md 2.2). Source: CORRECTNESS.md 1.6, 2.2. Called by [`super::judge`].
//!
//! ```text
//! Begin … Offsets … sends … Commit | Abort      a send belongs to the transaction that was open when it was called
//! ```

use std::collections::BTreeMap;

use super::index::{Index, PartIndex, Step};
use super::{Anomaly, Event, History, Outcome, Part, SendOp, Told, TxnAct, TxnOp, Verdict};

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Committed,
    Aborted,
    Unknown,
}

/// A position that a transaction sets if it is committed.
#[derive(Debug)]
pub struct TxnOffset<'h> {
    pub group: &'h str,
    pub part: Part,
    pub offset: i64,
    pub asked: u64,
}

/// One transaction.
#[derive(Debug)]
pub struct Txn<'h> {
    pub process: u32,
    pub number: usize,
    begun: u64,
    ends: Vec<&'h TxnOp>,
    pub sends: Vec<&'h SendOp>,
    pub offsets: Vec<TxnOffset<'h>>,
    /// By what was answered, and then by what is visible.
    pub fate: Fate,
}

/// All transactions of a history.
#[derive(Debug, Default)]
pub struct Txns<'h> {
    pub all: Vec<Txn<'h>>,
    /// Which transaction wrote a value.
    of: BTreeMap<u64, usize>,
    /// What each made record was made from: (group, input) to outputs.
    pub derived: BTreeMap<(&'h str, u64), Vec<u64>>,
}

impl<'h> Txn<'h> {
    fn new(op: &'h TxnOp, number: usize) -> Self {
        Txn {
            process: op.process,
            number,
            begun: op.begun,
            ends: Vec::new(),
            sends: Vec::new(),
            offsets: Vec::new(),
            fate: Fate::Unknown,
        }
    }

    fn commits(&self) -> impl Iterator<Item = &&'h TxnOp> {
        self.ends.iter().filter(|op| op.act == TxnAct::Commit)
    }

    /// When somebody first asked to commit it.
    pub fn asked(&self) -> Option<u64> {
        self.commits().map(|op| op.begun).min()
    }

    /// When it was known to be committed.
    pub fn known(&self) -> Option<u64> {
        self.commits().filter(|op| op.told == Told::Ok).map(|op| op.done).min()
    }

    fn told(&self) -> Fate {
        let aborted = self.ends.iter().any(|op| op.act == TxnAct::Abort && op.told == Told::Ok);
        if self.known().is_some() {
            Fate::Committed
        } else if !aborted && self.commits().any(|op| op.told == Told::Maybe) {
            Fate::Unknown
        } else {
            Fate::Aborted
        }
    }

    fn name(&self) -> String {
        format!("transaction {} of producer {}", self.number, self.process)
    }
}

impl<'h> Txns<'h> {
    pub fn of(history: &'h History, index: &Index<'h>) -> Txns<'h> {
        let mut ops: BTreeMap<u32, Vec<&TxnOp>> = BTreeMap::new();
        let mut txns = Txns::default();
        for event in &history.events {
            match event {
                Event::Txn(op) => ops.entry(op.process).or_default().push(op),
                Event::Derived { group, from, value } => {
                    txns.derived.entry((group, *from)).or_default().push(*value);
                }
                _ => {}
            }
        }
        let mut sends: BTreeMap<u32, Vec<&SendOp>> = BTreeMap::new();
        for send in index.parts.iter().flat_map(|part| &part.sends).filter(|s| ops.contains_key(&s.process)) {
            sends.entry(send.process).or_default().push(send);
        }
        for (process, mut ops) in ops {
            ops.sort_by_key(|op| op.begun);
            let mut sends = sends.remove(&process).unwrap_or_default();
            sends.sort_by_key(|send| (send.begun, send.value));
            txns.add(&ops, &sends);
        }
        for (number, txn) in txns.all.iter_mut().enumerate() {
            txn.fate = txn.told();
            txns.of.extend(txn.sends.iter().map(|send| (send.value, number)));
            if txn.fate == Fate::Unknown {
                let (visible, hidden) = sights(index, txn);
                if visible.is_some() {
                    txn.fate = Fate::Committed;
                } else if hidden.is_some() {
                    txn.fate = Fate::Aborted;
                }
            }
        }
        txns
    }

    /// The transactions of one session, which asks one thing at a time, and the sends that were called within each.
    fn add(&mut self, ops: &[&'h TxnOp], sends: &[&'h SendOp]) {
        let first = self.all.len();
        for op in ops {
            if op.act == TxnAct::Begin {
                let number = self.all.len() - first;
                self.all.push(Txn::new(op, number));
                continue;
            }
            let Some(open) = self.all[first..].last_mut() else { continue };
            match &op.act {
                TxnAct::Begin => {}
                TxnAct::Offsets { group, offsets } if op.told != Told::No => {
                    let set = |(part, offset): &(Part, i64)| TxnOffset {
                        group,
                        part: *part,
                        offset: *offset,
                        asked: op.begun,
                    };
                    open.offsets.extend(offsets.iter().map(set));
                }
                TxnAct::Offsets { .. } => {}
                TxnAct::Commit | TxnAct::Abort => open.ends.push(op),
            }
        }
        let mut sends = sends.iter().peekable();
        for txn in &mut self.all[first..] {
            let end = txn.ends.first().map_or(u64::MAX, |op| op.begun);
            while sends.next_if(|send| send.begun < txn.begun).is_some() {}
            while let Some(send) = sends.next_if(|send| send.begun <= end) {
                txn.sends.push(send);
            }
        }
    }

    fn writer(&self, value: u64) -> Option<&Txn<'h>> {
        self.of.get(&value).map(|number| &self.all[*number])
    }

    /// Whether a reader of committed records must be given this value when it passes it.
    pub fn is_certainly_visible(&self, value: u64) -> bool {
        self.writer(value).is_none_or(|txn| txn.fate == Fate::Committed)
    }
}

/// A record of a transaction that a final read of committed records shows, and one that it does not show although it is in
/// the log.
fn sights<'h>(index: &Index<'h>, txn: &Txn<'h>) -> (Option<&'h SendOp>, Option<&'h SendOp>) {
    let (mut visible, mut hidden) = (None, None);
    for send in &txn.sends {
        let part = &index.parts[send.part];
        let Some(committed) = &part.committed else { continue };
        if committed.contains(&send.value) {
            visible = Some(*send);
            continue;
        }
        let at = match (&part.drain, send.outcome) {
            (Some(_), _) => part.final_offset.get(&send.value).copied(),
            (None, Outcome::Ok { offset }) => offset,
            (None, Outcome::Fail | Outcome::Info) => None,
        };
        if at.is_some_and(|at| at >= part.trimmed && !part.is_destroyed(at)) {
            hidden = Some(*send);
        }
    }
    (visible, hidden)
}

pub fn check(index: &Index<'_>, txns: &Txns<'_>, verdict: &mut Verdict) {
    for txn in &txns.all {
        outcome(index, txn, verdict);
    }
    for part in &index.parts {
        if part.info.durable {
            stable(part, verdict); // else what was below a watermark may be gone, and its offset used again
        }
        for (process, steps) in part.consumers.iter().filter(|(of, _)| index.read_committed.contains(of)) {
            for step in steps {
                let Step::Poll(poll) = step else { continue };
                for seen in &poll.records {
                    let Some(txn) = txns.writer(seen.value) else { continue };
                    let text = |why: &str| {
                        let name = txn.name();
                        format!("consumer {process} was given value {} of {name}, {why}", seen.value)
                    };
                    if txn.fate == Fate::Aborted {
                        verdict.report(Anomaly::AbortedRead, &part.info.name, text("which is aborted"));
                    } else if txn.asked().is_some_and(|asked| poll.done < asked) {
                        let text = text("before anybody asked to commit it");
                        verdict.report(Anomaly::PrecommittedRead, &part.info.name, text);
                    }
                }
            }
        }
    }
}

/// A transaction counts as open until its marker is below the watermark (TXN-3).
fn stable(part: &PartIndex<'_>, verdict: &mut Verdict) {
    for (watermark, stable) in &part.stable {
        let open = part.ended.iter().find(|(first, marker)| first < stable && marker >= watermark);
        if let Some((first, marker)) = open {
            let text = format!(
                "everything below {stable} was called decided and below {watermark} replicated; the transaction that begins \
                 at {first} has its marker at {marker}"
            );
            verdict.report(Anomaly::EarlyStable, &part.info.name, text);
            return;
        }
    }
}

fn outcome(index: &Index<'_>, txn: &Txn<'_>, verdict: &mut Verdict) {
    let place = |send: &SendOp| index.parts[send.part].info.name.as_str();
    let answers: Vec<&TxnAct> = txn.ends.iter().filter(|op| op.told == Told::Ok).map(|op| &op.act).collect();
    if answers.contains(&&TxnAct::Commit) && answers.contains(&&TxnAct::Abort) {
        let at = txn.sends.first().map_or("", |send| place(send));
        verdict.report(Anomaly::OutcomeMismatch, at, format!("{} was committed and aborted", txn.name()));
    }
    match (txn.told(), sights(index, txn)) {
        (_, (Some(shown), Some(hidden))) => {
            let text = format!(
                "{}: value {} is visible, value {} in {} is not",
                txn.name(),
                shown.value,
                hidden.value,
                place(hidden)
            );
            verdict.report(Anomaly::TornTxn, place(shown), text);
        }
        (Fate::Committed, (None, Some(hidden))) => {
            let text = format!("{} was committed, value {} is not visible", txn.name(), hidden.value);
            verdict.report(Anomaly::OutcomeMismatch, place(hidden), text);
        }
        (Fate::Aborted, (Some(shown), None)) => {
            let text = format!("{} is aborted, value {} is visible", txn.name(), shown.value);
            verdict.report(Anomaly::OutcomeMismatch, place(shown), text);
        }
        (Fate::Committed, (Some(_), None))
        | (Fate::Aborted, (None, Some(_)))
        | (Fate::Unknown, _)
        | (_, (None, None)) => {}
    }
}
