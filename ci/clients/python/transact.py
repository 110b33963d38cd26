"""One member of a pipeline for `cargo ci txn-failover` (ci/src/txn_failover.rs), with confluent-kafka.

transact.py FROM TO GROUP ID STOP: copies records in transactions until STOP is there. Every fifth transaction is aborted on
purpose, and what it writes begins with X. Behind an error that no repetition cures a new life of the id begins.
"""

import os
import sys

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

source, target, group, name, stop = sys.argv[1:6]
broker, turn = os.environ["DEJAQ_BROKER"], 0


def until_decided(act):
    while True:
        try:
            return act(30)
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
    producer = Producer({"bootstrap.servers": broker, "transactional.id": name, "transaction.timeout.ms": 30000, "linger.ms": 5})
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group, "isolation.level": "read_committed", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000})
    try:
        life(producer, consumer)
    except KafkaException as error:  # what is not committed is read again, by whoever owns it then
        print("a new life:", error, file=sys.stderr)
    consumer.close()
