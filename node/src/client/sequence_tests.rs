//! The lane against a small broker that follows Kafka's sequence rules, over a network that loses, repeats and delays.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const RECORDS: u32 = 10;

fn identity(epoch: i16) -> Identity {
    Identity { producer: ProducerId(7), epoch: ProducerEpoch(epoch) }
}

fn answered(code: ErrorCode) -> AttemptEnd {
    AttemptEnd::Answered(code, if code.is_none() { Offset(0) } else { Offset::NONE })
}

fn lost() -> AttemptEnd {
    AttemptEnd::Lost("reset".into())
}

const NOW: Mono = Mono(0);
const OUT_OF_ORDER: ErrorCode = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;

/// A lane that the broker knows (batch 0, one record, is stored), with `batches` on the wire from sequence 1 on.
fn lane_with(batches: u64) -> Lane {
    let mut lane = Lane::idempotent(MAX_IN_FLIGHT);
    lane.start(BatchId(0), 1, Some(identity(0)));
    lane.ended(BatchId(0), &answered(ErrorCode::NONE), None);
    for batch in 1..=batches {
        let stamp = lane.start(BatchId(batch), RECORDS, Some(identity(0))).expect("stamped");
        assert_eq!(stamp.base, Sequence(1 + (batch as i32 - 1) * RECORDS as i32));
    }
    lane
}

#[test]
fn one_batch_goes_alone_until_the_broker_knows_the_producer() {
    let mut lane = Lane::idempotent(MAX_IN_FLIGHT);
    lane.start(BatchId(1), 1, Some(identity(0)));
    assert!(!lane.can_start(), "a broker takes any first sequence: batch 2 could be stored before batch 1");
    lane.ended(BatchId(1), &answered(ErrorCode::NONE), None);
    lane.start(BatchId(2), 1, Some(identity(0)));
    assert!(lane.can_start());
}

#[test]
fn a_retry_carries_the_same_stamp() {
    let mut lane = lane_with(1);
    assert_eq!(lane.ended(BatchId(1), &lost(), Some(NOW)), Next::Retry { elsewhere: true });
    assert_eq!(lane.due(NOW), Some(BatchId(1)));
    assert_eq!(lane.resend(BatchId(1)).map(|s| (s.base, s.epoch)), Some((Sequence(1), ProducerEpoch(0))));
    assert_eq!(lane.attempts(BatchId(1)), 2);
}

#[test]
fn nothing_new_starts_before_a_retry() {
    let mut lane = lane_with(2);
    lane.ended(BatchId(1), &answered(ErrorCode::NOT_ENOUGH_REPLICAS), Some(Mono(9)));
    assert!(!lane.can_start(), "batch 3 would overtake batch 1");
    assert_eq!((lane.due(Mono(8)), lane.due(Mono(9))), (None, Some(BatchId(1))));
}

#[test]
fn an_early_batch_waits_for_the_one_before_it() {
    let mut lane = lane_with(2);
    lane.ended(BatchId(1), &lost(), Some(NOW));
    let next = lane.ended(BatchId(2), &answered(OUT_OF_ORDER), Some(NOW));
    assert_eq!(next, Next::Retry { elsewhere: false });
    assert_eq!(lane.due(NOW), Some(BatchId(1)), "in order");
}

#[test]
fn batches_behind_a_refused_one_get_a_new_epoch_from_zero() {
    let mut lane = lane_with(3);
    let refused = lane.ended(BatchId(1), &answered(ErrorCode::MESSAGE_TOO_LARGE), Some(NOW));
    assert_eq!(refused, Next::Failed(Verdict::DefiniteNo));
    assert_eq!(lane.ended(BatchId(2), &answered(OUT_OF_ORDER), Some(NOW)), Next::Parked);
    assert_eq!(lane.heal_due(), None, "batch 3 is still on the wire");
    assert_eq!(lane.ended(BatchId(3), &answered(OUT_OF_ORDER), Some(NOW)), Next::Parked);
    assert_eq!(lane.heal_due(), Some(Heal::NewEpoch));
    lane.heal(identity(1), NOW);
    assert_eq!(lane.due(NOW), Some(BatchId(2)));
    assert_eq!(lane.resend(BatchId(2)).map(|s| (s.base, s.epoch)), Some((Sequence(0), ProducerEpoch(1))));
    assert_eq!(lane.resend(BatchId(3)).map(|s| s.base), Some(Sequence(10)));
}

#[test]
fn a_batch_that_may_be_stored_is_never_stamped_anew() {
    let mut lane = lane_with(2);
    lane.ended(BatchId(2), &lost(), Some(NOW));
    lane.ended(BatchId(1), &answered(ErrorCode::INVALID_RECORD), Some(NOW));
    lane.resend(BatchId(2));
    let next = lane.ended(BatchId(2), &answered(OUT_OF_ORDER), Some(NOW));
    assert_eq!(next, Next::Failed(Verdict::Maybe), "a copy of it may still be under way");
}

#[test]
fn the_last_batch_gives_its_numbers_back_when_it_is_refused() {
    let mut lane = lane_with(1);
    lane.ended(BatchId(1), &answered(ErrorCode::INVALID_RECORD), Some(NOW));
    assert!(lane.can_start(), "no gap, no healing");
    assert_eq!(lane.start(BatchId(2), 1, Some(identity(0))).map(|s| s.base), Some(Sequence(1)));
}

#[test]
fn an_abandoned_batch_stays_in_the_window_until_its_answer() {
    let mut lane = lane_with(1);
    assert_eq!(lane.abandon(BatchId(1)), Verdict::Maybe);
    assert_eq!(lane.heal_due(), None);
    assert_eq!(lane.ended(BatchId(1), &answered(ErrorCode::NONE), Some(NOW)), Next::Forgotten);
    assert!(lane.can_start(), "it was stored: there is no gap");
}

#[test]
fn no_more_than_five_go_on_behind_one_that_hangs() {
    let mut lane = lane_with(2);
    for batch in 3..=5 {
        lane.ended(BatchId(batch - 1), &answered(ErrorCode::NONE), None);
        lane.start(BatchId(batch), RECORDS, Some(identity(0)));
    }
    lane.ended(BatchId(5), &answered(ErrorCode::NONE), None);
    assert!(!lane.can_start(), "the broker remembers 1 to 5, and would forget the first");
    lane.ended(BatchId(1), &lost(), Some(NOW));
    lane.resend(BatchId(1));
    lane.ended(BatchId(1), &answered(ErrorCode::NONE), None);
    assert!(lane.can_start());
}

#[test]
fn a_repeat_that_the_broker_knows_is_stored_without_an_offset() {
    let mut lane = lane_with(1);
    let duplicate = AttemptEnd::Answered(ErrorCode::DUPLICATE_SEQUENCE_NUMBER, Offset::NONE);
    assert_eq!(lane.ended(BatchId(1), &duplicate, None), Next::Stored(None));
}

#[test]
fn an_idle_lane_adopts_a_newer_identity_and_starts_from_zero() {
    let mut lane = lane_with(1);
    lane.ended(BatchId(1), &answered(ErrorCode::NONE), None);
    let stamp = lane.start(BatchId(2), 1, Some(identity(1))).expect("stamped");
    assert_eq!((stamp.base, stamp.epoch), (Sequence(0), ProducerEpoch(1)));
}

#[test]
fn a_plain_lane_has_one_batch_under_way() {
    let mut lane = Lane::plain();
    assert_eq!(lane.start(BatchId(1), 1, None), None);
    assert!(!lane.can_start(), "without sequence numbers a retry could overtake");
}

#[derive(Debug, Clone, Copy)]
struct Request {
    batch: BatchId,
    stamp: Stamp,
}

/// Kafka's rules for one producer on one partition.
#[derive(Default)]
struct ModelBroker {
    log: Vec<(BatchId, Stamp)>,
    epoch: Option<ProducerEpoch>,
    recent: VecDeque<(Sequence, i64)>,
    next: Sequence,
}

impl ModelBroker {
    fn produce(&mut self, request: Request, is_late: bool) -> AttemptEnd {
        let Request { batch, stamp } = request;
        if self.epoch.is_some_and(|epoch| stamp.epoch < epoch) {
            return answered(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if self.epoch == Some(stamp.epoch) {
            if let Some((_, offset)) = self.recent.iter().find(|(base, _)| *base == stamp.base) {
                return AttemptEnd::Answered(ErrorCode::NONE, Offset(*offset));
            }
            if stamp.base != self.next {
                let is_there = self.log.contains(&(batch, stamp));
                assert!(is_late || !is_there, "{batch:?} came again when nobody remembered where it is");
                return answered(OUT_OF_ORDER);
            }
        } else if self.epoch.is_some() && stamp.base != Sequence::ZERO {
            return answered(OUT_OF_ORDER);
        }
        if self.epoch != Some(stamp.epoch) {
            self.recent.clear();
        }
        let offset = self.log.len() as i64;
        self.log.push((batch, stamp));
        self.epoch = Some(stamp.epoch);
        self.next = stamp.base.plus(RECORDS as i32);
        self.recent.push_back((stamp.base, offset));
        if self.recent.len() > MAX_IN_FLIGHT {
            self.recent.pop_front();
        }
        AttemptEnd::Answered(ErrorCode::NONE, Offset(offset))
    }
}

/// A producer with one lane, one live connection, and old connections whose requests may still arrive.
struct World {
    lane: Lane,
    newest: Identity,
    broker: ModelBroker,
    live: VecDeque<Request>,
    replies: VecDeque<(BatchId, AttemptEnd)>,
    zombies: Vec<VecDeque<Request>>,
    /// Whose answer does not come, nor any word that it does not.
    hanging: VecDeque<BatchId>,
    born: u64,
    told: BTreeMap<BatchId, Result<Option<Offset>, Verdict>>,
}

impl World {
    fn new() -> World {
        World {
            lane: Lane::idempotent(MAX_IN_FLIGHT),
            newest: identity(0),
            broker: ModelBroker::default(),
            live: VecDeque::new(),
            replies: VecDeque::new(),
            zombies: Vec::new(),
            hanging: VecDeque::new(),
            born: 0,
            told: BTreeMap::new(),
        }
    }

    fn send(&mut self) {
        if let Some(heal) = self.lane.heal_due() {
            let fresh = match heal {
                Heal::NewEpoch => self.newest.epoch.next().expect("far from the end"),
                Heal::NewProducer => ProducerEpoch(self.newest.epoch.0 + 10),
            };
            self.newest.epoch = fresh;
            self.lane.heal(self.newest, NOW);
        }
        if let Some(batch) = self.lane.due(NOW) {
            let stamp = self.lane.resend(batch).expect("stamped");
            self.live.push_back(Request { batch, stamp });
        } else if self.lane.can_start() {
            self.born += 1;
            let batch = BatchId(self.born);
            let stamp = self.lane.start(batch, RECORDS, Some(self.newest)).expect("stamped");
            self.live.push_back(Request { batch, stamp });
        }
    }

    fn end(&mut self, batch: BatchId, end: &AttemptEnd, retry: bool) {
        match self.lane.ended(batch, end, retry.then_some(NOW)) {
            Next::Stored(offset) => self.tell(batch, Ok(offset)),
            Next::Failed(verdict) => self.tell(batch, Err(verdict)),
            Next::Retry { .. } | Next::Parked | Next::Forgotten => {}
        }
    }

    fn tell(&mut self, batch: BatchId, result: Result<Option<Offset>, Verdict>) {
        assert_eq!(self.told.insert(batch, result), None, "{batch:?} was told twice");
    }

    fn serve(&mut self, refuse: Option<ErrorCode>) {
        if let Some(request) = self.live.pop_front() {
            let end = match refuse {
                Some(code) => answered(code),
                None => self.broker.produce(request, false),
            };
            self.replies.push_back((request.batch, end));
        }
    }

    fn reply(&mut self, retry: bool) {
        if let Some((batch, end)) = self.replies.pop_front() {
            self.end(batch, &end, retry);
        }
    }

    fn reset(&mut self, retry: bool) {
        let lost_batches: Vec<_> =
            self.replies.drain(..).map(|(b, _)| b).chain(self.live.iter().map(|r| r.batch)).collect();
        self.zombies.push(std::mem::take(&mut self.live));
        for batch in lost_batches {
            self.end(batch, &lost(), retry);
        }
    }

    fn zombie(&mut self) {
        if let Some(request) = self.zombies.first_mut().and_then(VecDeque::pop_front) {
            self.broker.produce(request, true);
        } else if !self.zombies.is_empty() {
            self.zombies.remove(0);
        }
    }

    fn time_out(&mut self) {
        if let Some(batch) = self.hanging.pop_front() {
            self.end(batch, &lost(), true);
        }
    }

    fn abandon(&mut self) {
        let oldest = self.lane.flights.iter().find(|f| !f.abandoned).map(|f| f.batch);
        if let Some(batch) = oldest {
            let verdict = self.lane.abandon(batch);
            self.tell(batch, Err(verdict));
        }
    }

    fn step(&mut self, step: u8) {
        match step {
            0..=5 => self.send(),
            6..=10 => self.serve(None),
            11..=15 => self.reply(true),
            16 => self.reset(true),
            17 => self.zombie(),
            18 => self.serve(Some(ErrorCode::NOT_ENOUGH_REPLICAS)),
            19 => self.serve(Some(ErrorCode::MESSAGE_TOO_LARGE)),
            20 => self.abandon(),
            21 => self.reply(false),
            22 => self.reset(false),
            23 => {
                // Stored, but answered as if leadership had moved.
                if let Some(request) = self.live.pop_front() {
                    self.broker.produce(request, false);
                    self.replies.push_back((request.batch, answered(ErrorCode::NOT_LEADER_OR_FOLLOWER)));
                }
            }
            24 => self.hanging.extend(self.replies.pop_front().map(|(batch, _)| batch)),
            25 => self.time_out(),
            _ => unreachable!("the generator stops at 25"),
        }
    }

    /// The network heals: everything under way is settled.
    fn calm(&mut self) {
        while !self.hanging.is_empty() {
            self.time_out();
        }
        let born = self.born;
        for _ in 0..200 {
            self.send();
            self.serve(None);
            self.reply(true);
        }
        assert!(self.born > born + 20, "the lane is stuck: {:?}", self.lane);
        while !self.zombies.is_empty() {
            self.zombie();
        }
        while !self.live.is_empty() || !self.replies.is_empty() {
            self.serve(None);
            self.reply(true);
        }
    }

    fn judge(&self) {
        let stored: Vec<_> = self.broker.log.iter().map(|(batch, _)| *batch).collect();
        for pair in stored.windows(2) {
            assert!(pair[0] < pair[1], "{:?} then {:?}: repeated or out of order", pair[0], pair[1]);
        }
        for (batch, told) in &self.told {
            let found = stored.iter().position(|b| b == batch);
            match told {
                Ok(offset) => {
                    let at = found.unwrap_or_else(|| panic!("{batch:?} was confirmed and is not stored"));
                    assert!(offset.is_none_or(|o| o.0 == at as i64), "{batch:?} is at {at}, told {offset:?}");
                }
                Err(Verdict::DefiniteNo) => {
                    assert_eq!(found, None, "{batch:?} was told a definite no and is stored");
                }
                Err(Verdict::Maybe) => {}
                Err(Verdict::Ok) => panic!("{batch:?} failed with success"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn retries_never_repeat_reorder_or_lie(steps in proptest::collection::vec(0u8..26, 0..300)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.calm();
        world.judge();
    }
}
