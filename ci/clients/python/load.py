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


def acked(error, message):
    global waiting, failed
    waiting -= 1
    if error is not None:
        failed = failed or f"{message.value()}: {error}"
        return
    print(message.partition(), message.offset(), message.value().decode(), time.time_ns() // 1000, file=out)


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
