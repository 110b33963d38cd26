"""The members of one group for `cargo ci group-failover` (ci/src/group_failover.rs), with confluent-kafka.

member.py TOPIC GROUP PROTOCOL FILE: two members, each on a thread, until FILE.stop is there. A line of FILE, with the number
of the member and the time in µs since 1970: `r` a record (partition, offset, value), `c` a commit that was answered, `o` what
it owns now.
"""

import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException

topic, group, protocol, path = sys.argv[1:5]
out, lock = open(path, "w"), threading.Lock()


def tell(kind, number, *words):
    with lock:
        print(kind, number, time.time_ns() // 1000, *words, file=out, flush=kind != "r")


def member(number):
    config = {"bootstrap.servers": os.environ["DEJAQ_BROKER"], "group.id": group, "group.protocol": protocol,
              "auto.offset.reset": "earliest", "enable.auto.commit": False}
    if protocol == "classic":
        config |= {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
    consumer, owned = Consumer(config), []
    consumer.subscribe([topic])
    while not os.path.exists(path + ".stop"):
        messages = consumer.consume(200, timeout=0.2)
        for message in messages:
            if message.error():
                print(message.error(), file=sys.stderr)
            else:
                tell("r", number, message.partition(), message.offset(), message.value().decode())
        now = sorted(p.partition for p in consumer.assignment())
        if now != owned:
            owned = now
            tell("o", number, *owned)
        if messages:
            try:
                consumer.commit(asynchronous=False)
                tell("c", number)
            except KafkaException as error:  # a rebalance, or no coordinator: what is not committed is read again
                print(error, file=sys.stderr)
    consumer.close()


threads = [threading.Thread(target=member, args=[number]) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out.close()
