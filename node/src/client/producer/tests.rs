//! The producer against a broker that fails by script, over real sockets.

use super::super::outcome::{Attempt, Verdict};
use super::super::testing::{Fault, TestBroker, quick};
use super::*;
use dejaq_wire::error_code::ErrorCode;

type Attempts = Arc<Mutex<Vec<Attempt>>>;

#[derive(Default)]
struct Recorder(Attempts);

impl Observer for Recorder {
    fn attempt(&self, attempt: &Attempt) {
        self.0.lock().expect("no test panics with it").push(attempt.clone());
    }
}

async fn broker(partitions: usize) -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create("t", partitions);
    broker
}

fn config() -> (ProducerConfig, Attempts) {
    let attempts = Attempts::default();
    let config = ProducerConfig {
        observer: Arc::new(Recorder(attempts.clone())),
        delivery_timeout: Duration::from_secs(20),
        retry: RetryPolicy {
            backoff: Duration::from_millis(2),
            max_backoff: Duration::from_millis(20),
            max_attempts: u32::MAX,
        },
        ..ProducerConfig::default()
    };
    (config, attempts)
}

fn producer(broker: &TestBroker, config: ProducerConfig) -> Producer<crate::runtime::tokio::TokioRuntime> {
    Producer::start(quick(broker), config).expect("the settings fit")
}

fn verdicts(attempts: &Attempts) -> Vec<Verdict> {
    attempts.lock().expect("no test panics with it").iter().map(|a| a.end.verdict()).collect()
}

fn numbered(from: usize, to: usize) -> Vec<bytes::Bytes> {
    (from..to).map(|n| format!("value {n}").into()).collect()
}

#[tokio::test]
async fn every_record_gets_its_offset_under_every_codec() {
    let broker = broker(1).await;
    for (round, compression) in Compression::ALL.into_iter().enumerate() {
        let producer = producer(&broker, ProducerConfig { compression, ..config().0 });
        let mut deliveries = Vec::new();
        for value in numbered(round * 100, round * 100 + 100) {
            deliveries.push(producer.send(Record::new("t", value)).await.expect("taken"));
        }
        producer.flush().await;
        for (n, delivery) in deliveries.iter().enumerate() {
            let stored = delivery.wait().await.expect("stored");
            assert_eq!(stored.offset, Some(Offset((round * 100 + n) as i64)), "{compression:?}");
        }
    }
    assert_eq!(broker.with("t", 0, |p| p.values()), numbered(0, 500));
}

#[tokio::test]
async fn a_lost_answer_is_a_maybe_and_its_retry_stores_nothing_twice() {
    let broker = broker(1).await;
    broker.script([Fault::DropAfter, Fault::None]);
    let (config, attempts) = config();
    let stored = producer(&broker, config).send_and_wait(Record::new("t", "once")).await.expect("stored");
    assert_eq!((stored.offset, stored.attempts), (Some(Offset(0)), 2));
    assert_eq!(verdicts(&attempts), [Verdict::Maybe, Verdict::Ok]);
    assert_eq!(broker.with("t", 0, |p| p.batches.len()), 1);
}

#[tokio::test]
async fn a_lost_connection_without_retry_is_reported_as_a_maybe() {
    let broker = broker(1).await;
    for fault in [Fault::DropBefore, Fault::DropAfter, Fault::Stall] {
        broker.script([fault]);
        let once = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        let producer = producer(&broker, ProducerConfig { retry: once, ..config().0 });
        let error = producer.send_and_wait(Record::new("t", "?")).await.expect_err("no answer came");
        assert_eq!((error.verdict, error.attempts), (Verdict::Maybe, 1), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_refusal_is_a_definite_no_and_says_why() {
    let broker = broker(1).await;
    broker.script([Fault::Refuse(ErrorCode::MESSAGE_TOO_LARGE)]);
    let producer = producer(&broker, config().0);
    let error = producer.send_and_wait(Record::new("t", "x")).await.expect_err("refused");
    assert_eq!((error.verdict, error.attempts), (Verdict::DefiniteNo, 1));
    assert!(error.to_string().contains("MESSAGE_TOO_LARGE"), "{error}");
    assert!(error.cure().contains("max.message.bytes"), "{}", error.cure());
    assert_eq!(broker.with("t", 0, |p| p.batches.len()), 0);
}

/// Faults in every position, many batches in flight: what is confirmed is there, once, in order.
#[tokio::test]
async fn idempotence_survives_any_mix_of_faults_without_repeat_or_reorder() {
    let broker = broker(3).await;
    let faults = [
        Fault::DropAfter,
        Fault::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS),
        Fault::None,
        Fault::StoreAndSay(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        Fault::DropBefore,
        Fault::StoreAndSay(ErrorCode::REQUEST_TIMED_OUT),
        Fault::None,
        Fault::None,
    ];
    broker.script((0..160).map(|n| faults[(n * 7 + n / 8) % faults.len()]));
    let (mut config, attempts) = config();
    config.batch.batch_bytes = 300;
    let producer = producer(&broker, config);
    let mut deliveries = Vec::new();
    for n in 0..600 {
        let record = Record::new("t", format!("value {n}")).partition(PartitionId(n % 3));
        deliveries.push(producer.send(record).await.expect("taken"));
    }
    for delivery in &deliveries {
        delivery.wait().await.expect("every fault is transient");
    }
    for partition in 0..3 {
        let expected: Vec<bytes::Bytes> =
            (0..600).filter(|n| n % 3 == partition).map(|n| format!("value {n}").into()).collect();
        assert_eq!(broker.with("t", partition, |p| p.values()), expected);
    }
    let doubtful = verdicts(&attempts).iter().filter(|v| **v == Verdict::Maybe).count();
    assert!(doubtful > 10, "the faults struck {doubtful} times only");
}

#[tokio::test]
async fn keys_land_where_java_puts_them() {
    let broker = broker(7).await;
    let producer = producer(&broker, config().0);
    for key in ["21", "foobar", "a-little-bit-long-string", "abc"] {
        let stored = producer.send_and_wait(Record::new("t", "v").key(key)).await.expect("stored");
        assert_eq!(stored.partition, partition_of_key(key.as_bytes(), 7));
    }
}

#[tokio::test]
async fn acks_0_tells_no_offset_and_waits_for_no_answer() {
    let broker = broker(1).await;
    let producer = producer(&broker, ProducerConfig { acks: Acks::None, idempotent: false, ..config().0 });
    let stored = producer.send_and_wait(Record::new("t", "gone")).await.expect("sent");
    assert_eq!(stored.offset, None);
}

#[tokio::test]
async fn an_unknown_topic_is_an_error_with_a_cure() {
    let broker = broker(1).await;
    let producer = producer(&broker, ProducerConfig { max_block: Duration::from_millis(50), ..config().0 });
    let error = producer.send(Record::new("nope", "x")).await.expect_err("there is no such topic");
    assert_eq!(error.verdict, Verdict::DefiniteNo);
    assert!(error.cure().contains("dejaq topic create nope"), "{error}: {}", error.cure());
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait_and_then_fail() {
    let broker = broker(1).await;
    broker.script([Fault::Stall, Fault::Stall]);
    let producer = producer(
        &broker,
        ProducerConfig { buffer_bytes: 400, max_block: Duration::from_millis(60), ..config().0 },
    );
    let first = producer.send(Record::new("t", vec![0; 300])).await.expect("there is room for one");
    let error = producer.send(Record::new("t", vec![0; 300])).await.expect_err("and not for two");
    assert!(matches!(error.cause, ProduceCause::BufferFull(_)), "{error}");
    let huge = producer.send(Record::new("t", vec![0; 500])).await.expect_err("never fits");
    assert!(matches!(huge.cause, ProduceCause::TooLarge { .. }), "{huge}");
    first.wait().await.expect("retried");
    producer.send_and_wait(Record::new("t", vec![0; 300])).await.expect("the room came back");
}

#[tokio::test]
async fn dropping_the_producer_settles_everything() {
    let broker = broker(1).await;
    broker.script([Fault::Stall]);
    let producer = producer(&broker, config().0);
    let delivery = producer.send(Record::new("t", "x")).await.expect("taken");
    drop(producer);
    let error = delivery.wait().await.expect_err("nobody sends it any more");
    assert!(matches!(error.cause, ProduceCause::Closed), "{error}");
}

#[tokio::test]
async fn a_broker_that_hangs_up_is_called_again() {
    let broker = broker(1).await;
    broker.hang_up(4);
    let stored = producer(&broker, config().0).send_and_wait(Record::new("t", "x")).await.expect("stored");
    assert_eq!(stored.offset, Some(Offset(0)));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let cluster =
        Cluster::new(super::super::testing::runtime(), super::super::cluster::ClusterConfig::default());
    let refused = |config| Producer::start(cluster.clone(), config).expect_err("refused");
    let acks = ProducerConfig { acks: Acks::Leader, ..ProducerConfig::default() };
    assert_eq!(refused(acks), ConfigError::IdempotenceNeedsAcks);
    let wide = ProducerConfig { max_in_flight: 6, ..ProducerConfig::default() };
    assert_eq!(refused(wide), ConfigError::InFlight(6));
}
