"""One member of a pipeline for `cargo ci txn-failover` (ci/src/txn_failover.rs), with confluent-kafka.

transact.py FROM TO GROUP ID STOP: copies records in transactions until STOP is there. Every fifth transaction is aborted on
purpose, and what it writes begins with X. Behind an error that no repetition cures a new life of the id begins, and is
told in the log.

librdkafka drops a broker that metadata does not name any more, and keeps it as the remembered coordinator of a group all the
same: the next offsets wait for its connection past the limit of the call, until some other broker's connection changes (its
issues 5511 and 5456). So a call that outlives its limit ends the process, which begins anew: as a supervisor would have it.
"""

import os
import sys
import threading

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

source, target, group, name, stop = sys.argv[1:6]
broker, turn = os.environ["DEJAQ_BROKER"], 0
debug = {"debug": os.environ["DEJAQ_DEBUG"]} if os.environ.get("DEJAQ_DEBUG") else {}

LIMIT, GRACE = 10, 5  # seconds; together shorter than transaction.timeout.ms


def begin_anew():
    print("a new life: a call has outlived its limit", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def watched(act):
    watch = threading.Timer(LIMIT + GRACE, begin_anew)
    watch.daemon = True
    watch.start()
    try:
        return act(LIMIT)
    finally:
        watch.cancel()


def until_decided(act):
    while True:
        try:
            return watched(act)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            print("again:", error, file=sys.stderr)


def life(producer, consumer):
    global turn
    until_decided(producer.init_transactions)
    consumer.subscribe([source])
    while not os.path.exists(stop):
        messages = [m for m in consumer.consume(200, timeout=0.2) if not m.error()]
        if not messages:
            continue
        turn += 1
        doomed = turn % 5 == 0
        first, behind = {}, {}
        producer.begin_transaction()
        for m in messages:
            producer.produce(target, (b"X" if doomed else b"") + m.value())
            first.setdefault(m.partition(), m.offset())
            behind[m.partition()] = m.offset() + 1
        offsets = [TopicPartition(source, p, offset) for p, offset in behind.items()]
        meta = consumer.consumer_group_metadata()
        until_decided(lambda limit: producer.send_offsets_to_transaction(offsets, meta, limit))
        if not doomed:
            until_decided(producer.commit_transaction)
            continue
        until_decided(producer.abort_transaction)
        for p, offset in first.items():
            consumer.seek(TopicPartition(source, p, offset))


while not os.path.exists(stop):
    producer = Producer({"bootstrap.servers": broker, "transactional.id": name, "transaction.timeout.ms": 30000, "linger.ms": 5,
                         **debug})
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group, "isolation.level": "read_committed", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, **debug})
    try:
        life(producer, consumer)
    except KafkaException as error:  # what is not committed is read again, by whoever owns it then
        print("a new life:", error, file=sys.stderr)
    consumer.close()
