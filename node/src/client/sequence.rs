//! One partition's window of batches under way: their stamps, their retries, their order.
//!
//! Owns: which batches were sent and not settled, the sequence numbers they carry, and what an ended attempt means
//! for them (KIP-98, and KIP-360's epoch bump as far as a producer without transactions needs it; one with transactions gets
//! its epochs from the coordinator, see [`Lane::renew`]).
//! Promises: a batch keeps its stamp over retries, so the broker can tell a repeat; a batch is stamped anew only when
//! every one of its attempts is a proven no, so that a forgotten request that arrives late can never store it twice;
//! retries go out in sequence order and before anything new; without idempotence one batch is under way, so order
//! holds there too. Leaves out: the records, the clock (passed in) and the network.
//!
//!   start ─► on wire ─► stored
//!              │  ▲
//!              ▼  │ resend, same stamp
//!            waiting                        a batch left without being stored: there may be a gap, so the lane HEALS:
//!              │ gap before it              nothing new starts; what is on the wire comes home; then all that are
//!              ▼                            parked get a new epoch and sequences from 0
//!            parked ─► heal ─► waiting

use std::collections::VecDeque;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{Offset, ProducerEpoch, ProducerId, Sequence};

use super::outcome::{AttemptEnd, BatchId, Move, Stamp, Verdict, produce_move};
use crate::runtime::Mono;

/// Batches of one partition and producer that a broker remembers (Kafka's number): more in flight cannot be retried.
pub const MAX_IN_FLIGHT: usize = 5;

/// A producer id with its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The producer id that the cluster gave.
    pub producer: ProducerId,
    /// Its epoch, bumped by ourselves (only transactions need the coordinator for that).
    pub epoch: ProducerEpoch,
}

/// What the lane needs before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heal {
    /// Any identity newer than its present one.
    NewEpoch,
    /// A fresh producer id: the broker knows a newer epoch of ours than we do.
    NewProducer,
}

/// What an ended attempt means for its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Stored, from this offset on; `None` where the broker could not say (acks=0, or a repeat it no longer knows).
    Stored(Option<Offset>),
    /// It will be sent again; ask for the leader first if so marked.
    Retry {
        /// Whether the broker that was asked may not be the leader any more.
        elsewhere: bool,
    },
    /// It will get a new stamp when the lane heals.
    Parked,
    /// It is given up; the verdict is over all its attempts.
    Failed(Verdict),
    /// The caller abandoned it before; nothing is left to tell.
    Forgotten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    OnWire,
    Waiting { not_before: Mono },
    Parked,
}

#[derive(Debug)]
struct Flight {
    batch: BatchId,
    /// How many batches were started before it.
    number: u64,
    records: i32,
    stamp: Option<Stamp>,
    place: Place,
    attempts: u32,
    /// Over the attempts that ended: `DefiniteNo` or `Maybe`.
    verdict: Verdict,
    abandoned: bool,
}

/// The window of one partition.
#[derive(Debug)]
pub struct Lane {
    idempotent: bool,
    max_in_flight: usize,
    identity: Option<Identity>,
    /// The sequence that the next new batch gets.
    next: Sequence,
    /// In sequence order; `flights.len() <= max_in_flight`.
    flights: VecDeque<Flight>,
    /// Batches started so far.
    started: u64,
    healing: Option<Heal>,
    /// The producer of whom this partition's broker has stored a batch. A broker takes any first sequence from one
    /// that it does not know, so until then a second batch could be stored in front of the first.
    known: Option<ProducerId>,
}

impl Lane {
    /// A lane of an idempotent producer: at most `max_in_flight` batches (up to [`MAX_IN_FLIGHT`]) are under way.
    #[must_use]
    pub fn idempotent(max_in_flight: usize) -> Lane {
        assert!(
            (1..=MAX_IN_FLIGHT).contains(&max_in_flight),
            "{max_in_flight} batches in flight cannot be told apart by a broker that remembers {MAX_IN_FLIGHT}"
        );
        Lane::new(true, max_in_flight)
    }

    /// A lane without sequence numbers: one batch under way, so that a retry cannot overtake.
    #[must_use]
    pub fn plain() -> Lane {
        Lane::new(false, 1)
    }

    fn new(idempotent: bool, max_in_flight: usize) -> Lane {
        Lane {
            idempotent,
            max_in_flight,
            identity: None,
            next: Sequence::ZERO,
            flights: VecDeque::new(),
            started: 0,
            healing: None,
            known: None,
        }
    }

    /// Whether a batch that was never sent may go now: the window has room and no retry waits before it. The window begins at the
    /// first batch that is not settled, and those behind it count though they are: were that one sent again behind more, the broker would
    /// not remember where it is.
    #[must_use]
    pub fn can_start(&self) -> bool {
        self.healing.is_none()
            && self
                .flights
                .front()
                .is_none_or(|first| self.started - first.number < self.max_in_flight as u64)
            && (self.is_known() || self.flights.is_empty())
            && self.flights.iter().all(|f| f.place == Place::OnWire)
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Takes a new batch of `records` records onto the wire and returns its stamp (`None` without idempotence).
    ///
    /// `newest` is the producer's identity; a lane with batches under way keeps the one that those carry.
    pub fn start(&mut self, batch: BatchId, records: u32, newest: Option<Identity>) -> Option<Stamp> {
        assert!(self.can_start(), "{batch:?} started out of turn in {self:?}");
        assert_eq!(newest.is_some(), self.idempotent, "an identity exactly where sequences are used");
        let records = i32::try_from(records).expect("a batch holds far fewer than 2^31 records");
        assert!(records > 0, "an empty batch has no sequence");
        if self.flights.is_empty() && self.identity != newest {
            self.identity = newest;
            self.next = Sequence::ZERO;
        }
        let stamp = self.stamp(records);
        let number = self.started;
        self.started += 1;
        self.flights.push_back(Flight {
            batch,
            number,
            records,
            stamp,
            place: Place::OnWire,
            attempts: 1,
            verdict: Verdict::DefiniteNo,
            abandoned: false,
        });
        self.check();
        stamp
    }

    /// The batch to send again now, if any: always the earliest that is not on the wire.
    #[must_use]
    pub fn due(&self, now: Mono) -> Option<BatchId> {
        self.next_due().filter(|(at, _)| *at <= now).map(|(_, batch)| batch)
    }

    /// When the next retry is due, and of which batch.
    #[must_use]
    pub fn next_due(&self) -> Option<(Mono, BatchId)> {
        if !self.is_known() && self.flights.iter().any(|f| f.place == Place::OnWire) {
            return None; // one at a time until the broker knows us
        }
        let first = self.flights.iter().find(|f| f.place != Place::OnWire)?;
        match first.place {
            Place::Waiting { not_before } => Some((not_before, first.batch)),
            Place::Parked | Place::OnWire => self.flights.iter().find_map(|f| match f.place {
                Place::Waiting { not_before } => Some((not_before, f.batch)),
                Place::Parked | Place::OnWire => None,
            }),
        }
    }

    /// Takes a batch that is due onto the wire again and returns its stamp.
    pub fn resend(&mut self, batch: BatchId) -> Option<Stamp> {
        let flight = self.flight_mut(batch).expect("only a batch that `due` named is sent again");
        assert!(matches!(flight.place, Place::Waiting { .. }), "{batch:?} is {:?}", flight.place);
        flight.place = Place::OnWire;
        flight.attempts += 1;
        flight.stamp
    }

    /// How many attempts of this batch were begun; 0 if it is not under way.
    #[must_use]
    pub fn attempts(&self, batch: BatchId) -> u32 {
        self.flights.iter().find(|f| f.batch == batch).map_or(0, |f| f.attempts)
    }

    /// Takes the end of the attempt that was on the wire. `retry_at` is when it may go again, `None` for never.
    pub fn ended(&mut self, batch: BatchId, end: &AttemptEnd, retry_at: Option<Mono>) -> Next {
        let at = self.index_of(batch).expect("an attempt that ends belongs to a batch under way");
        let flight = &mut self.flights[at];
        assert_eq!(flight.place, Place::OnWire, "{batch:?} ended an attempt that it did not make");
        let verdict = end.verdict();
        if let Some(offset) = stored(end) {
            let abandoned = flight.abandoned;
            self.flights.remove(at);
            self.known = self.identity.map(|identity| identity.producer);
            // The broker takes no gap: what lies before is stored too, or the broker forgot us meanwhile. Asking
            // again under the old stamp tells which; a new stamp could store it twice, or behind this one.
            for earlier in self.flights.range_mut(..at) {
                earlier.verdict = Verdict::Maybe;
                if earlier.place == Place::Parked {
                    earlier.place = Place::Waiting { not_before: Mono(0) };
                }
            }
            self.check();
            return if abandoned { Next::Forgotten } else { Next::Stored(offset) };
        }
        flight.verdict = flight.verdict.and(verdict);
        let next = if flight.abandoned {
            self.leave(at);
            Next::Forgotten
        } else {
            self.decide(at, end, retry_at)
        };
        self.check();
        next
    }

    /// Gives a batch up for the delivery timeout and returns the verdict over its attempts.
    ///
    /// One that is on the wire stays in the window until its answer comes: only that tells whether there is a gap.
    pub fn abandon(&mut self, batch: BatchId) -> Verdict {
        let at = self.index_of(batch).expect("only a batch under way is abandoned");
        let flight = &mut self.flights[at];
        let verdict = if flight.place == Place::OnWire {
            flight.abandoned = true;
            Verdict::Maybe
        } else {
            self.leave(at)
        };
        self.check();
        verdict
    }

    /// What the lane needs now that all that remains is parked; `None` while it is well or not yet home.
    #[must_use]
    pub fn heal_due(&self) -> Option<Heal> {
        self.healing.filter(|_| self.flights.iter().all(|f| f.place == Place::Parked))
    }

    /// The identity that the lane's stamps carry.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Stamps what is parked under `fresh`, from sequence 0, in the old order; all of it is due at `now`.
    pub fn heal(&mut self, fresh: Identity, now: Mono) {
        assert!(self.heal_due().is_some(), "healed while batches were still out: {self:?}");
        assert_ne!(Some(fresh), self.identity, "a gap is only closed by another epoch");
        self.healing = None;
        self.identity = Some(fresh);
        self.next = Sequence::ZERO;
        for at in 0..self.flights.len() {
            // What was stored between them has the epoch of before, of which the broker remembers nothing then.
            self.flights[at].number = self.started + at as u64 - self.flights.len() as u64;
            assert_eq!(
                self.flights[at].verdict,
                Verdict::DefiniteNo,
                "a batch that may be stored keeps its stamp"
            );
            let stamp = self.stamp(self.flights[at].records);
            self.flights[at].stamp = stamp;
            self.flights[at].place = Place::Waiting { not_before: now };
        }
        self.check();
    }

    /// Begins anew under an identity that is to come: what is under way is no longer this lane's, because the broker
    /// refuses it by its old epoch. What the broker knows of the producer stays known.
    pub fn renew(&mut self) {
        self.flights.clear();
        self.healing = None;
        self.identity = None;
        self.next = Sequence::ZERO;
        self.check();
    }

    fn is_known(&self) -> bool {
        !self.idempotent || self.known.is_some() && self.known == self.identity.map(|i| i.producer)
    }

    fn stamp(&mut self, records: i32) -> Option<Stamp> {
        let identity = self.identity?;
        let base = self.next;
        self.next = base.plus(records);
        Some(Stamp { producer: identity.producer, epoch: identity.epoch, base })
    }

    /// The fate of a batch whose attempt failed and that is still wanted.
    fn decide(&mut self, at: usize, end: &AttemptEnd, retry_at: Option<Mono>) -> Next {
        let AttemptEnd::Answered(code, _) = end else {
            return self.again(at, retry_at, true);
        };
        match produce_move(*code) {
            Move::Done => unreachable!("success was handled before"),
            Move::Retry => self.again(at, retry_at, false),
            Move::RetryElsewhere => self.again(at, retry_at, true),
            Move::GiveUp => Next::Failed(self.leave(at)),
            Move::Sequence if !self.idempotent => Next::Failed(self.leave(at)),
            Move::Sequence => self.disagree(at, *code, retry_at),
        }
    }

    fn again(&mut self, at: usize, retry_at: Option<Mono>, elsewhere: bool) -> Next {
        match retry_at {
            Some(not_before) => {
                self.flights[at].place = Place::Waiting { not_before };
                Next::Retry { elsewhere }
            }
            None => Next::Failed(self.leave(at)),
        }
    }

    /// The broker remembers another sequence or epoch than ours; nothing was appended by this attempt.
    fn disagree(&mut self, at: usize, code: ErrorCode, retry_at: Option<Mono>) -> Next {
        if code == ErrorCode::INVALID_PRODUCER_EPOCH {
            self.healing = Some(Heal::NewProducer);
            return self.park(at);
        }
        if self.healing.is_some() {
            return self.park(at);
        }
        if at > 0 {
            // The batches before it are not settled: it came too early, no more than that.
            return self.again(at, retry_at, false);
        }
        self.healing = Some(Heal::NewEpoch);
        if code == ErrorCode::UNKNOWN_PRODUCER_ID {
            return self.park(at); // retention took all that the broker knew of us: begin anew
        }
        // The first unsettled batch does not follow the last stored one: the broker lost what it had confirmed.
        // Whoever produced must hear of it; what comes later begins anew.
        Next::Failed(self.leave(at))
    }

    fn park(&mut self, at: usize) -> Next {
        if self.flights[at].verdict == Verdict::DefiniteNo {
            self.flights[at].place = Place::Parked;
            Next::Parked
        } else {
            // A copy that was sent before may still be on its way; under a new stamp it would be stored twice.
            Next::Failed(self.leave(at))
        }
    }

    /// Removes a batch that was not stored, or may not have been.
    fn leave(&mut self, at: usize) -> Verdict {
        let flight = self.flights.remove(at).expect("the index was just found");
        assert_ne!(flight.verdict, Verdict::Ok, "a stored batch does not leave a gap");
        if let Some(stamp) = flight.stamp {
            let last = stamp.base.plus(flight.records) == self.next;
            if last && flight.verdict == Verdict::DefiniteNo && self.healing.is_none() {
                self.next = stamp.base; // neither the broker nor a later batch used these numbers
            } else {
                self.healing = self.healing.max(Some(Heal::NewEpoch));
            }
        }
        flight.verdict
    }

    fn index_of(&self, batch: BatchId) -> Option<usize> {
        self.flights.iter().position(|f| f.batch == batch)
    }

    fn flight_mut(&mut self, batch: BatchId) -> Option<&mut Flight> {
        self.flights.iter_mut().find(|f| f.batch == batch)
    }

    /// Every invariant of the lane; the window is at most five long, so it costs nothing.
    fn check(&self) {
        assert!(self.flights.len() <= self.max_in_flight, "{} in flight", self.flights.len());
        assert!(self.idempotent || self.healing.is_none(), "without sequences there is no gap");
        let mut end: Option<Sequence> = None;
        for flight in &self.flights {
            assert!(flight.attempts > 0, "{:?} is under way without an attempt", flight.batch);
            assert_eq!(flight.stamp.is_some(), self.idempotent, "{:?} has {:?}", flight.batch, flight.stamp);
            assert_ne!(flight.verdict, Verdict::Ok, "{:?} is stored and still under way", flight.batch);
            assert!(flight.place != Place::Parked || self.healing.is_some(), "parked in a lane that is well");
            let Some(stamp) = flight.stamp else { continue };
            // One in the middle may be gone: it was stored while the one before it awaits its retry.
            assert!(
                end.is_none_or(|end| follows(end, stamp.base)),
                "{stamp:?} overlaps what ends at {end:?}"
            );
            end = Some(stamp.base.plus(flight.records));
        }
        assert!(end.is_none_or(|end| follows(end, self.next)), "next is {:?} before {end:?}", self.next);
    }
}

/// Whether `later` is `end` or comes soon after it, around the wrap at 2^31.
fn follows(end: Sequence, later: Sequence) -> bool {
    (later.0.wrapping_sub(end.0) & 0x7fff_ffff) < 1 << 30
}

/// The offset of a batch that is stored by this end; `None` if it is not.
fn stored(end: &AttemptEnd) -> Option<Option<Offset>> {
    match end {
        AttemptEnd::Answered(code, base) if produce_move(*code) == Move::Done => {
            Some(Some(*base).filter(|offset| code.is_none() && offset.is_valid()))
        }
        AttemptEnd::NoReply => Some(None),
        AttemptEnd::Answered(..) | AttemptEnd::NotSent(_) | AttemptEnd::Lost(_) => None,
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
