"""One idempotent producer beside the load of `cargo ci failover`, `drain` and `mend` (ci/src/load.rs), with confluent-kafka.

load.py TOPIC PARTITIONS SECONDS FILE PRODUCER: produces with acks=all until the time is over, then waits for every record to be
acknowledged. A line of FILE: partition, offset, value, when (µs since 1970). An error that librdkafka does not cure by itself
ends the process.
"""

import os
import sys
import time

from confluent_kafka import Producer

topic, partitions, seconds, path, name = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5]
PAUSE, LIMIT = 0.02, 90  # seconds
out, waiting, failed = open(path, "w"), 0, None


counted = {}  # of a partition: what librdkafka numbers the next record with, where the broker told no offset


def placed(partition, offset):
    """The offset, or -1 where the broker said that the batch is there and not where (DUPLICATE_SEQUENCE_NUMBER): librdkafka counts
    the records of such a batch from -1 on, which its client shows as None, 0, 1, ..."""
    if offset is None or offset == counted.get(partition):
        counted[partition] = 0 if offset is None else offset + 1
        return -1
    counted.pop(partition, None)
    return offset


def acked(error, message):
    global waiting, failed
    waiting -= 1
    if error is not None:
        failed = failed or f"{message.value()}: {error}"
        return
    print(message.partition(), placed(message.partition(), message.offset()), message.value().decode(), time.time_ns() // 1000, file=out)


producer = Producer({"bootstrap.servers": os.environ["DEJAQ_BROKER"], "enable.idempotence": True, "acks": "all", "linger.ms": 2,
                     "retry.backoff.ms": 50})
until, number = time.monotonic() + seconds, 0
while time.monotonic() < until and not failed:
    partition = number % partitions
    value = f"{name}-{partition}-{number // partitions}"
    producer.produce(topic, value, partition=partition, on_delivery=acked)
    waiting, number = waiting + 1, number + 1
    producer.poll(PAUSE if number % 20 == 0 or waiting > 2000 else 0)
if left := producer.flush(LIMIT):
    sys.exit(f"{left} records have no answer after {LIMIT} s")
out.close()
if failed:
    sys.exit(failed)
