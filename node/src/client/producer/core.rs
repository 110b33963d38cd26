//! What a producer does next: pure, one step at a time.
//!
//! Owns: for every partition its [`Batcher`] and its [`Lane`], the batches under way, the producer's identity, the
//! requests that each broker has not answered. Promises: everything that leaves leaves in an order that a retry cannot
//! break; every record is settled exactly once; nothing waits longer than the delivery timeout.
//! Leaves out: the network, the clock, entropy (arguments), and who waits for a record (`shell`).
//!
//! ```text
//!   push ─► batcher ─► plan ─► (broker: batches with their stamps) ─► wire ─► ended ─► settled
//!              │                  ▲                                             │
//!              └─ expire ─► settled └──────────────── again, after a delay ◄────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{BrokerId, Offset, PartitionId};

use crate::client::batching::{Batch, BatchLimits, Batcher, Placed};
use crate::client::outcome::{AttemptEnd, BatchId, Stamp, Verdict};
use crate::client::retry::RetryPolicy;
use crate::client::sequence::{Heal, Identity, Lane, Next};
use crate::runtime::Mono;

/// When again, where the transaction before is still being ended: that takes its coordinator some milliseconds.
const SOON: RetryPolicy = RetryPolicy {
    backoff: Duration::from_millis(2),
    max_backoff: Duration::from_millis(50),
    max_attempts: u32::MAX,
};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The index.
    pub partition: PartitionId,
}

/// The rules of one producer.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// When a batch is complete.
    pub batch: BatchLimits,
    /// Whether batches carry sequence numbers.
    pub idempotent: bool,
    /// Whether batches belong to transactions: then nothing here gives itself a new epoch, and what would need one fails.
    pub transactional: bool,
    /// Requests that one broker has not answered, at most; 1 to 5.
    pub max_in_flight: usize,
    /// Bytes of batches in one request, unless one batch alone is larger.
    pub max_request_bytes: usize,
    /// When to try again.
    pub retry: RetryPolicy,
    /// After this long a record is given up.
    pub delivery_timeout: Duration,
}

/// One batch to be sent now.
#[derive(Debug)]
pub struct Send<T> {
    /// Where to.
    pub to: TopicPartition,
    /// The batch; shared with the core, which keeps it for a retry.
    pub batch: Arc<Batch<T>>,
    /// The numbers that it carries.
    pub stamp: Option<Stamp>,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// What to do now.
#[derive(Debug)]
pub struct Plan<T> {
    /// One request for each of these brokers.
    pub requests: BTreeMap<BrokerId, Vec<Send<T>>>,
    /// Brokers that have work and no connection.
    pub dial: BTreeSet<BrokerId>,
    /// Whether some partition with work has no known leader.
    pub leaderless: bool,
    /// Whether a producer id must be asked for before anything can be sent.
    pub needs_identity: bool,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Mono>,
}

/// The fate of one batch.
#[derive(Debug)]
pub struct Settled<T> {
    /// Where it was to go.
    pub to: TopicPartition,
    /// The batch.
    pub batch: Arc<Batch<T>>,
    /// Attempts that were made.
    pub attempts: u32,
    /// The offset of its first record (`None` where no broker told it), or why not.
    pub result: Result<Option<Offset>, GivenUp>,
}

/// Why a batch was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Over all attempts.
    pub verdict: Verdict,
    /// Whether the delivery timeout was the reason.
    pub expired: bool,
    /// How the last attempt ended, if one did.
    pub last: Option<AttemptEnd>,
}

/// Whether a broker can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Its connection is open.
    Open,
    /// It is not.
    Closed,
}

#[derive(Debug)]
struct UnderWay<T> {
    batch: Arc<Batch<T>>,
    last: Option<AttemptEnd>,
    /// Told to its owner as expired; kept until its answer comes.
    told: bool,
}

#[derive(Debug)]
struct Partition<T> {
    batcher: Batcher<T>,
    lane: Lane,
    under_way: BTreeMap<BatchId, UnderWay<T>>,
}

/// The state of a producer.
#[derive(Debug)]
pub struct Core<T> {
    rules: Rules,
    partitions: BTreeMap<TopicPartition, Partition<T>>,
    identity: Option<Identity>,
    next_batch: u64,
    /// Unanswered requests by broker; at most `rules.max_in_flight` each.
    unanswered: BTreeMap<BrokerId, usize>,
    /// Where the next plan begins, so that every partition gets its turn when requests are full.
    cursor: Option<TopicPartition>,
}

impl<T> Core<T> {
    /// A producer that has nothing to do.
    #[must_use]
    pub fn new(rules: Rules) -> Core<T> {
        assert!(rules.max_in_flight > 0, "a producer sends at least one request at a time");
        assert!(rules.max_request_bytes > 0, "a request holds at least one byte");
        Core {
            rules,
            partitions: BTreeMap::new(),
            identity: None,
            next_batch: 1,
            unanswered: BTreeMap::new(),
            cursor: None,
        }
    }

    /// Adds a record of `bytes` bytes.
    pub fn push(&mut self, to: &TopicPartition, record: T, bytes: usize, now: Mono) -> Placed {
        let rules = self.rules;
        let partition = match self.partitions.get_mut(to) {
            Some(partition) => partition,
            None => self.partitions.entry(to.clone()).or_insert_with(|| Partition {
                batcher: Batcher::new(rules.batch),
                lane: if rules.idempotent { Lane::idempotent(rules.max_in_flight) } else { Lane::plain() },
                under_way: BTreeMap::new(),
            }),
        };
        let next = &mut self.next_batch;
        partition.batcher.push(record, bytes, now, || {
            *next += 1;
            BatchId(*next - 1)
        })
    }

    /// Completes every open batch: nothing that is here now waits for company.
    pub fn close_batches(&mut self) {
        for partition in self.partitions.values_mut() {
            partition.batcher.close();
        }
    }

    /// Whether no record is here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partitions.values().all(|p| p.batcher.is_empty() && p.under_way.values().all(|u| u.told))
    }

    /// Takes the identity that the cluster gave.
    pub fn set_identity(&mut self, identity: Identity) {
        assert!(self.rules.idempotent, "an identity without a use");
        assert!(identity.producer.is_valid(), "{identity:?} is no producer");
        self.identity = Some(identity);
    }

    /// The identity that new batches get.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Decides what is sent now, and takes it onto the wire.
    ///
    /// `leader` names the leader of a partition, `link` the state of its connection.
    pub fn plan(
        &mut self,
        now: Mono,
        leader: impl Fn(&TopicPartition) -> Option<BrokerId>,
        link: impl Fn(BrokerId) -> Link,
    ) -> Plan<T> {
        let mut plan = Plan {
            requests: BTreeMap::new(),
            dial: BTreeSet::new(),
            leaderless: false,
            needs_identity: false,
            wake_at: None,
        };
        let mut sizes: BTreeMap<BrokerId, usize> = BTreeMap::new();
        for to in self.turns() {
            self.heal(&to, now, &mut plan);
            let identity = self.identity;
            let partition = self.partitions.get_mut(&to).expect("the turns are those of the map");
            let Some(at) = partition.ready_at(self.rules.delivery_timeout) else { continue };
            if at > now {
                plan.wake_at = Some(plan.wake_at.map_or(at, |wake| wake.min(at)));
            }
            let Some(bytes) = partition.can_send(now) else { continue };
            let Some(broker) = leader(&to) else {
                plan.leaderless = true;
                continue;
            };
            if link(broker) == Link::Closed {
                plan.dial.insert(broker);
                continue;
            }
            if self.rules.idempotent && identity.is_none() {
                plan.needs_identity = true;
                continue;
            }
            let size = sizes.entry(broker).or_default();
            let full = *size > 0 && size.saturating_add(bytes) > self.rules.max_request_bytes;
            let busy = self.unanswered.get(&broker).is_some_and(|n| *n >= self.rules.max_in_flight);
            if full || busy {
                // A full request leaves this turn to the next plan, which comes at once or with an answer.
                plan.wake_at = if full && !busy { Some(now) } else { plan.wake_at };
                continue;
            }
            *size += bytes;
            self.cursor = Some(to.clone());
            let send = partition.send(&to, now, self.rules.idempotent.then_some(identity).flatten());
            plan.requests.entry(broker).or_default().push(send);
        }
        for broker in plan.requests.keys() {
            *self.unanswered.entry(*broker).or_default() += 1;
        }
        plan
    }

    /// A request to `broker` was answered, or never will be.
    pub fn request_ended(&mut self, broker: BrokerId) {
        let unanswered = self.unanswered.get_mut(&broker).expect("a request that ends was counted");
        assert!(*unanswered > 0, "more answers than requests at {broker:?}");
        *unanswered -= 1;
    }

    /// Takes the end of one batch's attempt. Returns what is settled by it, and whether the leader must be asked for.
    pub fn ended(
        &mut self,
        to: &TopicPartition,
        batch: BatchId,
        end: &AttemptEnd,
        now: Mono,
        entropy: u64,
    ) -> (Option<Settled<T>>, bool) {
        let partition = self.partitions.get_mut(to).expect("an attempt belongs to a partition");
        if !partition.under_way.contains_key(&batch) {
            assert!(self.rules.transactional, "{batch:?} ended and is not under way");
            return (None, false); // of a transaction that is over
        }
        let attempts = partition.lane.attempts(batch);
        let policy = match end {
            AttemptEnd::Answered(ErrorCode::CONCURRENT_TRANSACTIONS, _) => SOON,
            _ => self.rules.retry,
        };
        let delay = policy.delay(attempts, entropy);
        let next = partition.lane.ended(batch, end, delay.map(|delay| now.plus(delay)));
        let next = match next {
            Next::Parked if self.rules.transactional => Next::Failed(partition.lane.abandon(batch)),
            next => next,
        };
        let result = match next {
            Next::Stored(offset) => Ok(offset),
            Next::Failed(verdict) => Err(GivenUp { verdict, expired: false, last: Some(end.clone()) }),
            Next::Forgotten => {
                partition.under_way.remove(&batch).expect("forgotten once");
                return (None, false);
            }
            Next::Retry { .. } | Next::Parked => {
                partition.under_way.get_mut(&batch).expect("kept for its retry").last = Some(end.clone());
                return (None, matches!(next, Next::Retry { elsewhere: true }));
            }
        };
        let held = partition.under_way.remove(&batch).expect("settled once");
        assert!(!held.told, "{batch:?} was told as expired and is told again");
        (Some(Settled { to: to.clone(), batch: held.batch, attempts, result }), false)
    }

    /// Gives up what is older than the delivery timeout.
    pub fn expire(&mut self, now: Mono) -> Vec<Settled<T>> {
        let Some(born) = now.0.checked_sub(nanos(self.rules.delivery_timeout)).map(Mono) else {
            return Vec::new();
        };
        let mut settled = Vec::new();
        for (to, partition) in &mut self.partitions {
            partition.give_up(to, born, true, &mut settled);
        }
        settled
    }

    /// Gives up everything that is here, for good: the producer, or its transaction, ends.
    pub fn give_up_all(&mut self) -> Vec<Settled<T>> {
        let mut settled = Vec::new();
        for (to, partition) in &mut self.partitions {
            partition.give_up(to, Mono(u64::MAX), false, &mut settled);
        }
        settled
    }

    /// Goes on under another identity, which the coordinator gave behind the end of a transaction.
    ///
    /// Everything was settled before. What is still on the wire counts no more: its epoch is over.
    pub fn renew(&mut self, identity: Identity) {
        assert!(self.rules.transactional, "only a coordinator gives a new identity");
        assert!(self.is_idle(), "a transaction ended before its records were settled");
        for partition in self.partitions.values_mut() {
            partition.under_way.clear();
            partition.lane.renew();
        }
        self.set_identity(identity);
    }

    /// Every partition once, beginning behind the one that was served last.
    fn turns(&self) -> Vec<TopicPartition> {
        let mut turns: Vec<_> = self.partitions.keys().cloned().collect();
        if let Some(cursor) = &self.cursor {
            let behind = turns.partition_point(|to| to <= cursor);
            turns.rotate_left(behind);
        }
        turns
    }

    /// Gives a lane that is home the identity it needs, or asks for one.
    fn heal(&mut self, to: &TopicPartition, now: Mono, plan: &mut Plan<T>) {
        let lane = &mut self.partitions.get_mut(to).expect("a turn is a partition").lane;
        let Some(heal) = lane.heal_due().filter(|_| !self.rules.transactional) else { return };
        if lane.identity() == self.identity {
            // Nobody has moved on since: bump the epoch ourselves, or ask for a new producer id.
            self.identity = self.identity.filter(|_| heal == Heal::NewEpoch).and_then(|identity| {
                identity.epoch.next().map(|epoch| Identity { producer: identity.producer, epoch })
            });
        }
        match self.identity {
            Some(fresh) => lane.heal(fresh, now),
            None => plan.needs_identity = true,
        }
    }
}

impl<T> Partition<T> {
    /// When something could be sent or expires here; `None` if there is nothing.
    fn ready_at(&self, delivery_timeout: Duration) -> Option<Mono> {
        let oldest = self.under_way.values().filter(|u| !u.told).map(|u| u.batch.born).min();
        let expires = oldest.or(self.batcher.oldest()).map(|born| born.plus(delivery_timeout));
        let sends = match self.lane.next_due() {
            Some((due, _)) => Some(due),
            None => self.batcher.ready_at().filter(|_| self.lane.can_start()),
        };
        [expires, sends].into_iter().flatten().min()
    }

    /// The size of what may be sent now.
    fn can_send(&self, now: Mono) -> Option<usize> {
        if let Some(batch) = self.lane.due(now) {
            return Some(self.under_way[&batch].batch.bytes);
        }
        let ready = self.lane.can_start() && self.batcher.ready_at().is_some_and(|at| at <= now);
        ready.then(|| self.batcher.next_bytes())
    }

    fn send(&mut self, to: &TopicPartition, now: Mono, identity: Option<Identity>) -> Send<T> {
        let to = to.clone();
        if let Some(batch) = self.lane.due(now) {
            let stamp = self.lane.resend(batch);
            let held = &self.under_way[&batch];
            return Send { to, batch: held.batch.clone(), stamp, attempt: self.lane.attempts(batch) };
        }
        let batch = Arc::new(self.batcher.take(now).expect("`can_send` saw it"));
        let stamp = self.lane.start(batch.id, batch.records.len() as u32, identity);
        let held = UnderWay { batch: batch.clone(), last: None, told: false };
        assert!(self.under_way.insert(batch.id, held).is_none(), "{:?} is sent anew", batch.id);
        Send { to, batch, stamp, attempt: 1 }
    }

    /// Settles every batch that was begun at or before `born`.
    fn give_up(&mut self, to: &TopicPartition, born: Mono, expired: bool, settled: &mut Vec<Settled<T>>) {
        let old: Vec<BatchId> = self
            .under_way
            .iter()
            .filter(|(_, u)| !u.told && u.batch.born <= born)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            let attempts = self.lane.attempts(id);
            let verdict = self.lane.abandon(id);
            let held = self.under_way.get_mut(&id).expect("just listed");
            held.told = true;
            let (batch, last) = (held.batch.clone(), held.last.clone());
            if self.lane.attempts(id) == 0 {
                self.under_way.remove(&id); // not on the wire: no answer comes
            }
            let result = Err(GivenUp { verdict, expired, last });
            settled.push(Settled { to: to.clone(), batch, attempts, result });
        }
        for batch in self.batcher.expire(born) {
            let result = Err(GivenUp { verdict: Verdict::DefiniteNo, expired, last: None });
            settled.push(Settled { to: to.clone(), batch: Arc::new(batch), attempts: 0, result });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
