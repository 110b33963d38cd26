//! What the faults of a run did: struck, and had a consequence; and how long things took in simulated time.
//!
//! Owns: the rule by which a strike counts as effective, and the spans. Promises: it only looks at events as they are
//! noted, draws nothing and changes nothing. Leaves out: bounds (the story's), sums over runs (`runner::hunt`). Fed by
//! `trace`; told by `story`.
//!
//! A strike had a consequence if, before the next one, a disk operation failed, bytes were at risk when the power went, a
//! connection was reset, a good record was destroyed or a start moved, a broker refused to start, or a client felt it: a
//! send that needed another attempt, ended unknown or refused, or took twice as long as the slowest before the first
//! strike. The latest strike gets the credit: where strikes overlap, an earlier one may get less than its due.

use std::collections::BTreeMap;

use crate::trace::Who;

/// Sends faster than this are never a consequence.
const QUICK_NS: u64 = 20_000_000;
/// A send that fails sooner was refused: the partition is there.
const REFUSED_NS: u64 = 1_000_000_000;
/// What a send with acks=0 is told: nothing.
const UNHEARD: u64 = 1;

/// From the start of a process to when it serves.
pub const STARTED: &str = "start to ready";

/// How often a kind of fault struck, and how often that had a consequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// Strikes.
    pub struck: u64,
    /// Strikes with a consequence.
    pub effective: u64,
}

/// The account of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// The latest strike, and whether it has had a consequence.
    latest: Option<(String, bool)>,
    slowest_ns: u64,
    started: BTreeMap<u32, u64>,
    calm_at: Option<u64>,
    now: u64,
    last_ack: BTreeMap<u64, u64>,
    silences: BTreeMap<u64, u64>,
    /// Since when sends of a partition wait in vain, one after the other.
    in_vain: BTreeMap<u64, u64>,
    recoveries: Vec<u64>,
}

impl Ledger {
    /// Looks at an event; `text` is called only for the few kinds whose text matters.
    pub fn note(&mut self, now: u64, who: Who, kind: &str, words: &[u64], text: impl FnOnce() -> String) {
        self.now = now;
        match (kind, words) {
            ("fault", _) => {
                let text = text();
                let name = text.split_whitespace().next().unwrap_or_default().to_owned();
                self.entries.entry(name.clone()).or_default().struck += 1;
                self.latest = Some((name, false));
            }
            ("phase", _) => self.calm_at = Some(now),
            ("start", _) => drop(self.started.insert(who.node, now)),
            ("ready", _) => {
                if let Some(started) = self.started.remove(&who.node) {
                    self.recoveries.push(now.saturating_sub(started));
                }
            }
            ("disk", &[.., failed]) if failed != 0 => self.consequence(),
            ("image", &[at_risk, ..]) if at_risk > 0 => self.consequence(),
            ("reset", &[connections, ..]) if connections > 0 => self.consequence(),
            ("rotten" | "trim" | "unfit", _) => self.consequence(),
            ("sent", &[part, _, told, attempts, begun, done, ..]) => {
                self.sent(part, told, attempts, begun, done);
            }
            _ => {}
        }
    }

    fn sent(&mut self, part: u64, told: u64, attempts: u64, begun: u64, done: u64) {
        let took = done.saturating_sub(begun);
        let is_ok = told < u64::MAX - 1;
        if self.latest.is_none() {
            self.slowest_ns = self.slowest_ns.max(took);
        }
        let is_slow = took > QUICK_NS && took > 2 * self.slowest_ns;
        if attempts > 1 || !is_ok || is_slow {
            self.consequence();
        }
        if told != UNHEARD {
            self.silent(part, is_ok, begun, done);
        }
    }

    /// While this send was open, nothing was acknowledged in its partition since the later of its call and the last one; if
    /// others before it had waited in vain, since theirs.
    fn silent(&mut self, part: u64, is_ok: bool, begun: u64, done: u64) {
        let waits_since = self.in_vain.get(&part).map_or(begun, |since| begun.min(*since));
        let since = self.last_ack.get(&part).copied().unwrap_or(0).max(waits_since);
        let silence = self.silences.entry(part).or_default();
        *silence = (*silence).max(done.saturating_sub(since));
        if is_ok {
            self.last_ack.insert(part, done);
            self.in_vain.remove(&part);
        } else if done.saturating_sub(begun) > REFUSED_NS {
            self.in_vain.insert(part, since);
        }
    }

    fn consequence(&mut self) {
        if let Some((name, had)) = &mut self.latest
            && !*had
        {
            *had = true;
            self.entries.entry(name.clone()).or_default().effective += 1;
        }
    }

    /// By the kind of fault.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Spans in simulated milliseconds, by name.
    #[must_use]
    pub fn spans_ms(&self) -> BTreeMap<String, Vec<u64>> {
        let ms = |spans: Vec<u64>| spans.into_iter().map(|ns| ns / 1_000_000).collect::<Vec<_>>();
        let silences = ms(self.silences.values().copied().collect());
        let calm = self.calm_at.map(|calm| self.now.saturating_sub(calm));
        BTreeMap::from([
            (STARTED.to_owned(), ms(self.recoveries.clone())),
            ("longest silence of a partition".to_owned(), silences),
            ("calm act".to_owned(), ms(calm.into_iter().collect())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const BROKER: Who = Who { node: 1, incarnation: 1 };

    fn note(ledger: &mut Ledger, now: u64, kind: &str, words: &[u64], text: &str) {
        ledger.note(now * MS, BROKER, kind, words, || text.to_owned());
    }

    fn sent(ledger: &mut Ledger, told: u64, attempts: u64, begun: u64, done: u64) {
        note(ledger, done, "sent", &[0, 7, told, attempts, begun * MS, done * MS], "");
    }

    #[test]
    fn a_strike_counts_once_and_only_with_a_consequence() {
        let mut ledger = Ledger::default();
        sent(&mut ledger, 2, 1, 0, 10);
        note(&mut ledger, 20, "fault", &[0, 0], "Kill at n2");
        sent(&mut ledger, 2, 2, 15, 30);
        sent(&mut ledger, u64::MAX - 1, 2, 15, 31);
        note(&mut ledger, 40, "fault", &[1, 0], "Kill");
        sent(&mut ledger, 2, 1, 41, 50);
        note(&mut ledger, 60, "fault", &[2, 1], "SlowDisk");
        sent(&mut ledger, 2, 1, 61, 120);
        assert_eq!(ledger.entries()["Kill"], Entry { struck: 2, effective: 1 });
        assert_eq!(ledger.entries()["SlowDisk"], Entry { struck: 1, effective: 1 });
    }

    #[test]
    fn spans_are_those_that_a_client_or_an_operator_would_measure() {
        let mut ledger = Ledger::default();
        note(&mut ledger, 0, "start", &[], "");
        note(&mut ledger, 35, "ready", &[], "");
        sent(&mut ledger, 2, 1, 40, 50);
        // Open since 45, acknowledged at 90: silent from 50, when the other was.
        sent(&mut ledger, 2, 1, 45, 90);
        // Given up after 1 500 ms, and the next one is through after 500 more: one silence.
        note(&mut ledger, 2_000, "sent", &[1, 7, u64::MAX - 1, 1, 500 * MS, 2_000 * MS], "");
        note(&mut ledger, 2_500, "sent", &[1, 7, 2, 1, 2_100 * MS, 2_500 * MS], "");
        note(&mut ledger, 2_501, "sent", &[1, 7, 1, 1, 2_500 * MS, 2_501 * MS], "");
        note(&mut ledger, 2_600, "phase", &[], "calm");
        note(&mut ledger, 2_630, "stopped", &[], "");
        let spans = ledger.spans_ms();
        assert_eq!(spans["start to ready"], [35]);
        assert_eq!(spans["longest silence of a partition"], [40, 2_000]);
        assert_eq!(spans["calm act"], [30]);
    }
}
