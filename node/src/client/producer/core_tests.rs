//! The producer's core: order, fairness, one settlement per record, and time.

use dejaq_wire::error_code::ErrorCode;
use dejaq_wire::ids::{ProducerEpoch, ProducerId};
use proptest::prelude::*;

use super::*;

const BROKER: BrokerId = BrokerId(1);

fn rules() -> Rules {
    Rules {
        batch: BatchLimits { batch_bytes: 100, linger: Duration::from_millis(5), batch_records: 100 },
        idempotent: true,
        transactional: false,
        max_in_flight: 5,
        max_request_bytes: 250,
        retry: RetryPolicy::default(),
        delivery_timeout: Duration::from_secs(10),
    }
}

fn at(ms: u64) -> Mono {
    Mono(20_000_000_000 + ms * 1_000_000)
}

fn to(partition: i32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition: PartitionId(partition) }
}

fn identity() -> Identity {
    Identity { producer: ProducerId(7), epoch: ProducerEpoch(0) }
}

fn core(rules: Rules) -> Core<u32> {
    let mut core = Core::new(rules);
    if rules.idempotent {
        core.set_identity(identity());
    }
    core
}

fn plan(core: &mut Core<u32>, now: Mono) -> Plan<u32> {
    core.plan(now, |_| Some(BROKER), |_| Link::Open)
}

fn records(plan: &Plan<u32>) -> Vec<u32> {
    plan.requests.values().flatten().flat_map(|send| send.batch.records.iter().copied()).collect()
}

fn stored(offset: i64) -> AttemptEnd {
    AttemptEnd::Answered(ErrorCode::NONE, Offset(offset))
}

#[test]
fn a_record_waits_for_its_linger_and_then_leaves() {
    let mut core = core(rules());
    core.push(&to(0), 1, 10, at(0));
    let early = plan(&mut core, at(0));
    assert_eq!((records(&early), early.wake_at), (vec![], Some(at(5))));
    assert_eq!(records(&plan(&mut core, at(5))), [1]);
}

#[test]
fn a_flush_lets_nothing_linger() {
    let mut core = core(rules());
    core.push(&to(0), 1, 10, at(0));
    core.close_batches();
    assert_eq!(records(&plan(&mut core, at(0))), [1]);
}

#[test]
fn nothing_leaves_without_an_identity() {
    let mut core = Core::new(rules());
    core.push(&to(0), 1, 100, at(0));
    assert!(plan(&mut core, at(0)).needs_identity);
    core.set_identity(identity());
    let sent = plan(&mut core, at(0));
    assert_eq!(sent.requests[&BROKER][0].stamp.map(|s| s.producer), Some(ProducerId(7)));
}

#[test]
fn a_partition_without_leader_or_connection_says_what_it_lacks() {
    let mut core = core(rules());
    core.push(&to(0), 1, 100, at(0));
    assert!(core.plan(at(0), |_| None, |_| Link::Open).leaderless);
    let closed = core.plan(at(0), |_| Some(BROKER), |_| Link::Closed);
    assert_eq!(closed.dial.into_iter().collect::<Vec<_>>(), [BROKER]);
    assert_eq!(records(&plan(&mut core, at(0))), [1], "and loses nothing meanwhile");
}

#[test]
fn full_requests_serve_every_partition_in_turn() {
    let mut core = core(rules());
    for partition in 0..5 {
        core.push(&to(partition), partition as u32, 100, at(0));
    }
    let first = plan(&mut core, at(0));
    assert_eq!((records(&first), first.wake_at), (vec![0, 1], Some(at(0))), "250 bytes hold two batches");
    core.push(&to(0), 9, 100, at(0));
    assert_eq!(records(&plan(&mut core, at(0))), [2, 3]);
    assert_eq!(
        records(&plan(&mut core, at(0))),
        [4],
        "partition 0 waits: the broker does not know us there yet"
    );
}

#[test]
fn a_broker_that_does_not_answer_gets_no_more_than_its_share() {
    let mut core = core(Rules { max_in_flight: 2, ..rules() });
    for partition in 0..6 {
        core.push(&to(partition), partition as u32, 200, at(0));
    }
    assert_eq!(records(&plan(&mut core, at(0))), [0]);
    assert_eq!(records(&plan(&mut core, at(0))), [1]);
    let busy = plan(&mut core, at(0));
    assert!(records(&busy).is_empty() && busy.wake_at.is_none_or(|wake| wake > at(0)), "{busy:?}");
    core.request_ended(BROKER);
    assert_eq!(records(&plan(&mut core, at(0))), [2]);
}

#[test]
fn a_lost_connection_is_retried_and_then_expires_as_a_maybe() {
    let mut core = core(rules());
    core.push(&to(0), 1, 100, at(0));
    let sent = plan(&mut core, at(0));
    let batch = sent.requests[&BROKER][0].batch.id;
    core.request_ended(BROKER);
    let (settled, elsewhere) = core.ended(&to(0), batch, &AttemptEnd::Lost("reset".into()), at(1), 0);
    assert!(settled.is_none() && elsewhere);
    assert!(core.expire(at(9_999)).is_empty());
    let expired = core.expire(at(10_000));
    assert_eq!(expired.len(), 1);
    let given_up = expired[0].result.clone().expect_err("it expired");
    assert_eq!((given_up.verdict, given_up.expired), (Verdict::Maybe, true));
    assert!(core.is_idle());
}

#[test]
fn a_record_that_was_never_sent_expires_as_a_definite_no() {
    let mut core = core(rules());
    core.push(&to(0), 1, 10, at(0));
    let expired = core.expire(at(10_000));
    assert_eq!(expired[0].result.as_ref().expect_err("it expired").verdict, Verdict::DefiniteNo);
}

#[test]
fn an_answer_after_the_expiry_is_told_to_nobody() {
    let mut core = core(rules());
    core.push(&to(0), 1, 100, at(0));
    let sent = plan(&mut core, at(0));
    assert_eq!(core.expire(at(10_000)).len(), 1);
    core.request_ended(BROKER);
    let (settled, _) = core.ended(&to(0), sent.requests[&BROKER][0].batch.id, &stored(0), at(10_001), 0);
    assert!(settled.is_none());
    assert!(core.is_idle());
}

#[test]
fn a_refused_batch_makes_the_ones_behind_it_start_a_new_epoch() {
    let mut core = core(rules());
    let send = |core: &mut Core<u32>, record| {
        core.push(&to(0), record, 100, at(0));
        plan(core, at(0)).requests.remove(&BROKER).expect("sent").remove(0)
    };
    let known = send(&mut core, 0);
    core.ended(&to(0), known.batch.id, &stored(0), at(0), 0);
    let (refused, behind) = (send(&mut core, 1), send(&mut core, 2));
    let answer = |code| AttemptEnd::Answered(code, Offset::NONE);
    core.ended(&to(0), refused.batch.id, &answer(ErrorCode::INVALID_RECORD), at(0), 0);
    core.ended(&to(0), behind.batch.id, &answer(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), at(0), 0);
    (0..3).for_each(|_| core.request_ended(BROKER));
    let again = plan(&mut core, at(0)).requests.remove(&BROKER).expect("sent").remove(0);
    let stamp = again.stamp.expect("stamped");
    assert_eq!((again.batch.id, stamp.epoch, stamp.base.0), (behind.batch.id, ProducerEpoch(1), 0));
}

proptest! {
    #[test]
    fn every_record_is_settled_exactly_once(
        steps in proptest::collection::vec((0u8..8, 0i32..3, 1usize..150), 1..200),
        idempotent: bool,
    ) {
        let mut core = core(Rules { idempotent, ..rules() });
        let (mut now, mut next, mut settled) = (0, 0u32, Vec::new());
        let mut wire: Vec<Send<u32>> = Vec::new();
        let mut requests = 0;
        let mut take = |batch: &Batch<u32>| settled.extend(batch.records.iter().copied());
        for (step, partition, bytes) in steps {
            match step {
                0..=2 => {
                    core.push(&to(partition), next, bytes, at(now));
                    next += 1;
                }
                3 => now += bytes as u64 * 50,
                4 => core.expire(at(now)).iter().for_each(|s| take(&s.batch)),
                5 | 6 => {
                    let sent = plan(&mut core, at(now));
                    requests += sent.requests.len();
                    wire.extend(sent.requests.into_values().flatten());
                }
                _ => for send in wire.drain(..) {
                    let end = match bytes % 4 {
                        0 => AttemptEnd::Lost("reset".into()),
                        1 => AttemptEnd::Answered(ErrorCode::INVALID_RECORD, Offset::NONE),
                        _ => stored(0),
                    };
                    let (done, _) = core.ended(&send.to, send.batch.id, &end, at(now), 1);
                    done.iter().for_each(|s| take(&s.batch));
                },
            }
            if wire.is_empty() {
                (0..requests).for_each(|_| core.request_ended(BROKER));
                requests = 0;
            }
        }
        for send in wire {
            let (done, _) = core.ended(&send.to, send.batch.id, &stored(0), at(now), 1);
            done.iter().for_each(|s| take(&s.batch));
        }
        core.give_up_all().iter().for_each(|s| take(&s.batch));
        prop_assert!(core.is_idle());
        settled.sort_unstable();
        prop_assert_eq!(settled, (0..next).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_late_of_a_transaction_that_ended_settles_nothing_and_the_next_one_begins_at_zero() {
    let mut core = core(Rules { transactional: true, ..rules() });
    for value in 1..=2 {
        core.push(&to(0), value, 100, at(0));
    }
    let first = plan(&mut core, at(0));
    assert_eq!(records(&first), [1], "one goes alone until the broker knows the producer");
    let late = first.requests[&BROKER][0].batch.id;
    assert_eq!(core.give_up_all().len(), 2, "on the wire and waiting");
    let next = Identity { epoch: ProducerEpoch(1), ..identity() };
    core.renew(next);
    core.push(&to(0), 3, 100, at(1));
    let second = plan(&mut core, at(1));
    let stamp = second.requests[&BROKER][0].stamp.expect("numbered");
    assert_eq!((stamp.epoch, stamp.base.0), (ProducerEpoch(1), 0));
    core.request_ended(BROKER);
    let (settled, elsewhere) = core.ended(&to(0), late, &stored(0), at(2), 0);
    assert!(settled.is_none() && !elsewhere);
    let (settled, _) = core.ended(&to(0), second.requests[&BROKER][0].batch.id, &stored(1), at(2), 0);
    assert_eq!(settled.expect("it is stored").result, Ok(Some(Offset(1))));
}

#[test]
fn in_a_transaction_nothing_waits_for_an_epoch_that_only_a_coordinator_can_give() {
    for code in [ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::UNKNOWN_PRODUCER_ID] {
        let mut core = core(Rules { transactional: true, ..rules() });
        core.push(&to(0), 1, 100, at(0));
        let sent = plan(&mut core, at(0));
        let end = AttemptEnd::Answered(code, Offset::NONE);
        let (settled, _) = core.ended(&to(0), sent.requests[&BROKER][0].batch.id, &end, at(1), 0);
        let given_up = settled.expect("it fails at once").result.expect_err("it is not stored");
        assert_eq!(given_up.verdict, Verdict::DefiniteNo);
        assert!(!plan(&mut core, at(1)).needs_identity, "{code:?}");
        assert_eq!(core.identity(), Some(identity()), "and nobody bumps an epoch here");
    }
}

#[test]
fn while_the_transaction_before_is_being_ended_the_next_one_asks_again_soon() {
    let mut core = core(Rules { transactional: true, ..rules() });
    core.push(&to(0), 1, 100, at(0));
    let sent = plan(&mut core, at(0));
    let end = AttemptEnd::Answered(ErrorCode::CONCURRENT_TRANSACTIONS, Offset::NONE);
    core.request_ended(BROKER);
    core.ended(&to(0), sent.requests[&BROKER][0].batch.id, &end, at(0), 0);
    assert_eq!(records(&plan(&mut core, at(5))), [1], "not after the 100 ms of other errors");
}
