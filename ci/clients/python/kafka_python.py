"""Checks with kafka-python. Protocol of the output: ci/src/clients/mod.rs."""

import subprocess
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import ConfigResource, KafkaAdminClient, OffsetSpec
from harness import BROKER, CODECS, GROUPS, RUN, check, corpus, equal, eventually, numbers, raises, same

admin = KafkaAdminClient(bootstrap_servers=BROKER)


def topic(name, partitions=1, **configs):
    name = f"{RUN}-{name}"
    wanted = {name: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}
    admin.create_topics(wanted, wait_for_metadata=True)
    return name


def produce(name, records, **config):
    """Sends dicts of send() arguments and returns their offsets."""
    producer = KafkaProducer(bootstrap_servers=BROKER, linger_ms=20, **config)
    futures = [producer.send(name, **record) for record in records]
    producer.flush(30)
    sent = [future.get(20).offset for future in futures]
    producer.close()
    return sent


def values(lines):
    return [{"value": line, "partition": 0} for line in lines]


def messages(name, partitions, count, **config):
    """Reads so many messages of {partition: offset, or None for the start} with assign."""
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None, auto_offset_reset="earliest", **config)
    consumer.assign([TopicPartition(name, p) for p in partitions])
    for p, at in partitions.items():
        if at is None:
            consumer.seek_to_beginning(TopicPartition(name, p))
        else:
            consumer.seek(TopicPartition(name, p), at)
    got, until = [], time.monotonic() + 40
    while len(got) < count:
        assert time.monotonic() < until, f"{len(got)} of {count} records came"
        for batch in consumer.poll(1000).values():
            got += batch
    consumer.close()
    return got


def read(name, at, count, **config):
    return [m.value for m in messages(name, {0: at}, count, **config)]


def carry(codec):
    name = topic(codec)
    lines = corpus()
    produce(name, values(lines), compression_type=None if codec == "none" else codec)
    same(read(name, 0, len(lines)), lines)


def create_topics():
    name = topic("made", 3, **{"retention.ms": "604800000"})
    (described,) = admin.describe_topics([name])
    equal(len(described["partitions"]), 3, "partitions")
    equal(config_of(name)["retention.ms"], "604800000", "retention.ms")
    again = {name: {"num_partitions": 1, "replication_factor": 1}}
    raises(lambda e: isinstance(e, errors.TopicAlreadyExistsError), admin.create_topics, again)
    raises(lambda e: isinstance(e, errors.InvalidTopicError), admin.create_topics, {"no/slash": {}})
    admin.create_topics({f"{RUN}-dry": {}}, validate_only=True)
    assert f"{RUN}-dry" not in admin.list_topics(), "a validated topic was made"


def config_of(name):
    found = admin.describe_configs([ConfigResource("TOPIC", name)], config_filter="all")
    (configs,) = [entry for kind in found.values() for key, entry in kind.items() if key == name]
    return {key: entry["value"] for key, entry in configs.items()}


def list_topics():
    assert f"{RUN}-made" in admin.list_topics(), "the topic is not in the list"
    brokers = admin.describe_cluster()["brokers"]
    assert any(f"{b['host']}:{b['port']}" == BROKER for b in brokers), f"brokers: {brokers}"


def file_multi():
    name = topic("multi", 4)
    lines = corpus()
    produce(name, [{"value": line, "key": b"%d" % i, "partition": i % 4} for i, line in enumerate(lines)],
            compression_type="gzip")
    got = messages(name, {p: None for p in range(4)}, len(lines))
    for p in range(4):
        same([m.value for m in got if m.partition == p], lines[p::4])


def keys_headers():
    name = topic("keys")
    headers = [("a", b"1"), ("b", b"\x00\xff"), ("c", b"")]
    stamp = int(time.time() * 1000) - 5000
    produce(name, [{"key": b"k", "value": b"v", "headers": headers, "timestamp_ms": stamp, "partition": 0},
                   {"key": b"gone", "value": None, "partition": 0}, {"key": b"", "value": b"", "partition": 0}])
    got = messages(name, {0: 0}, 3)
    equal([(m.key, m.value) for m in got], [(b"k", b"v"), (b"gone", None), (b"", b"")], "keys and values")
    equal(list(got[0].headers), headers, "headers")
    equal(got[0].timestamp, stamp, "timestamp")


def acks(level):
    name = topic(f"acks-{level}")
    produce(name, values(numbers(0, 500)), acks=level, enable_idempotence=False)
    same(read(name, 0, 500), numbers(0, 500))


def idempotent():
    name = topic("idem")
    lines = corpus()
    offsets = produce(name, values(lines), enable_idempotence=True, batch_size=2000)
    equal(offsets, list(range(len(lines))), "offsets")
    same(read(name, 0, len(lines)), lines)


def seek_offset():
    name = topic("seek")
    produce(name, values(numbers(0, 100)))
    same(read(name, 42, 58), numbers(42, 100))
    same(read(name, 5000, 100), numbers(0, 100))  # out of range: the reset policy decides


def seek_time():
    name = topic("time")
    base = int(time.time() * 1000) - 3_600_000
    for n in range(10):
        produce(name, [{"value": b"%d" % n, "timestamp_ms": base + n * 1000, "partition": 0}])
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None)
    partition = TopicPartition(name, 0)
    find = lambda at: consumer.offsets_for_times({partition: at})[partition]
    equal([find(base - 1000).offset, find(base + 7000).offset, find(base + 6500).offset], [0, 7, 7], "offsets for times")
    equal(find(base + 6500).timestamp, base + 7000, "the timestamp found")
    assert find(base + 3_700_000) is None, "an offset for a later time"
    consumer.close()
    same(read(name, 7, 3), numbers(7, 10))


def list_offsets():
    name = topic("offsets")
    produce(name, values(numbers(0, 10)))
    partition = TopicPartition(name, 0)
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None)
    equal(consumer.beginning_offsets([partition]), {partition: 0}, "earliest")
    equal(consumer.end_offsets([partition]), {partition: 10}, "latest")
    consumer.close()
    listed = admin.list_partition_offsets({partition: OffsetSpec.MAX_TIMESTAMP})[partition]
    assert 0 <= listed.offset < 10, f"max timestamp: {listed}"


def long_poll():
    name = topic("poll")
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None, fetch_max_wait_ms=10000)
    consumer.assign([TopicPartition(name, 0)])
    consumer.seek(TopicPartition(name, 0), 0)
    for n in range(2):
        sender = threading.Timer(1.0, produce, (name, values([b"%d" % n])))
        sender.start()
        ((message,),) = consumer.poll(20000).values()
        late = time.time() * 1000 - message.timestamp
        sender.join()
        equal(message.value, b"%d" % n, "the awaited record")
        assert late < 2000, f"woke {late:.0f} ms after the record was made"
    consumer.close()


def create_partitions():
    name = topic("grow")
    admin.create_partitions({name: 3})
    eventually("three partitions", lambda: len(admin.describe_topics([name])[0]["partitions"]) == 3)
    raises(lambda e: isinstance(e, errors.InvalidPartitionsError), admin.create_partitions, {name: 2})
    produce(name, [{"value": b"new", "partition": 2}])
    equal(messages(name, {2: 0}, 1)[0].value, b"new", "the record in the new partition")


def configs():
    name = topic("configs")
    alter = lambda value, **how: admin.alter_configs([ConfigResource("TOPIC", name, value)], **how)
    alter({"retention.ms": "123456789"})
    eventually("the new retention.ms", lambda: config_of(name)["retention.ms"] == "123456789")
    admin.reset_configs([ConfigResource("TOPIC", name, ["retention.ms"])])
    eventually("the default retention.ms", lambda: config_of(name)["retention.ms"] != "123456789")
    alter({"segment.bytes": "12345678"}, incremental=False)
    eventually("segment.bytes by the old call", lambda: config_of(name)["segment.bytes"] == "12345678")


def delete_records():
    name = topic("cut")
    produce(name, values(numbers(0, 100)))
    partition = TopicPartition(name, 0)
    admin.delete_records({partition: 60})
    same(read(name, None, 40), numbers(60, 100))
    raises(lambda e: isinstance(e, errors.OffsetOutOfRangeError), admin.delete_records, {partition: 101})


def describe_log_dirs():
    name = topic("dirs")
    produce(name, values(numbers(0, 100)))
    assert name in str(admin.describe_log_dirs([name])), "the topic is in no log directory"


def describe_producers():
    name = topic("producers")
    produce(name, values(numbers(0, 10)))
    (state,) = admin.describe_producers([TopicPartition(name, 0)]).values()
    equal(len(state.active_producers), 1, "active producers")


def delete_topics():
    name = topic("doomed", 2)
    admin.delete_topics([name])
    eventually("the topic is gone", lambda: name not in admin.list_topics())
    raises(lambda e: isinstance(e, errors.UnknownTopicOrPartitionError), admin.delete_topics, [f"{RUN}-never"])


def group_consume():
    name = topic("group", 3)
    produce(name, [{"value": value, "key": value} for value in numbers(0, 1000)])
    consumer = KafkaConsumer(name, bootstrap_servers=BROKER, group_id=f"{RUN}-g", auto_offset_reset="earliest",
                             enable_auto_commit=False)
    got, until = [], time.monotonic() + 40
    while len(got) < 1000 and time.monotonic() < until:
        for batch in consumer.poll(1000).values():
            got += [m.value for m in batch]
    consumer.commit()
    committed = sum(consumer.committed(TopicPartition(name, p)) or 0 for p in range(3))
    consumer.close()
    same(sorted(got, key=int), numbers(0, 1000))
    equal(committed, 1000, "committed offsets")


MEMBER = """
import sys
from kafka import KafkaConsumer
consumer = KafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], group_id=sys.argv[3], session_timeout_ms=6000,
                         heartbeat_interval_ms=1000, auto_offset_reset="earliest", enable_auto_commit=False)
while True:
    consumer.poll(500)
    print(len(consumer.assignment()), flush=True)
"""


def group_crash():
    """A member is killed: the other one takes over its partitions after the session timeout."""
    name, group = topic("crash", 4), f"{RUN}-crash"
    produce(name, [{"value": value, "partition": int(value) % 4} for value in numbers(0, 100)])
    one = KafkaConsumer(name, bootstrap_servers=BROKER, group_id=group, session_timeout_ms=6000,
                        heartbeat_interval_ms=1000, auto_offset_reset="earliest", enable_auto_commit=False)
    other = subprocess.Popen([sys.executable, "-c", MEMBER, BROKER, name, group], stdout=subprocess.DEVNULL)
    try:
        got, until = set(), time.monotonic() + 60
        while len(one.assignment()) != 2:
            assert time.monotonic() < until, "the two never shared"
            for batch in one.poll(500).values():
                got |= {m.value for m in batch}
        other.kill()
        other.wait()
        while len(one.assignment()) != 4 or len(got) < 100:
            assert time.monotonic() < until, f"{len(one.assignment())} partitions, {len(got)} values"
            for batch in one.poll(500).values():
                got |= {m.value for m in batch}
        same(sorted(got, key=int), numbers(0, 100))
        one.commit()
    finally:
        other.kill()
        one.close()


def group_admin():
    name, group = topic("ops", 2), f"{RUN}-ops"
    produce(name, values(numbers(0, 10)))
    consumer = KafkaConsumer(name, bootstrap_servers=BROKER, group_id=group, auto_offset_reset="earliest")
    until = time.monotonic() + 30
    while not consumer.poll(500):
        assert time.monotonic() < until, "nothing came"
    consumer.commit()
    described = admin.describe_groups([group])[group]
    equal(described["group_state"], "Stable", "state")
    consumer.close()
    offsets = admin.list_group_offsets([group])[group]
    equal(offsets[TopicPartition(name, 0)].offset, 10, "the committed offset")
    listed = [entry["group_id"] for entry in admin.list_groups()]
    assert group in listed, f"listed: {listed}"
    admin.delete_groups([group])
    assert group not in [entry["group_id"] for entry in admin.list_groups()], "it is still listed"


def transactions():
    """What is committed is read and what is aborted is not, in two partitions."""
    name = topic("txn", 2)
    producer = KafkaProducer(bootstrap_servers=BROKER, transactional_id=f"{RUN}-txn")
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        for value in numbers(number * 10, number * 10 + 10):
            producer.send(name, value=value, partition=int(value) % 2)
        if number % 3 == 2:
            producer.flush(20)
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    wanted = numbers(0, 20) + numbers(30, 50)
    consumer = KafkaConsumer(bootstrap_servers=BROKER, isolation_level="read_committed", auto_offset_reset="earliest")
    consumer.assign([TopicPartition(name, p) for p in range(2)])
    got, until = [], time.monotonic() + 30
    while len(got) < len(wanted):
        assert time.monotonic() < until, f"{len(got)} of {len(wanted)} records came"
        for records in consumer.poll(500).values():
            got += [record.value for record in records]
    consumer.close()
    same(sorted(got, key=int), wanted)


check("create-topics", create_topics)
check("list", list_topics)
for each in CODECS:
    check(f"file-{each}", carry, each)
check("file-multi", file_multi)
check("keys-headers", keys_headers)
for each in [0, 1, "all"]:
    check(f"acks-{each}", acks, each)
check("idempotent", idempotent)
check("seek-offset", seek_offset)
check("seek-time", seek_time)
check("list-offsets", list_offsets)
check("long-poll", long_poll)
check("create-partitions", create_partitions)
check("configs", configs)
check("delete-records", delete_records)
check("describe-log-dirs", describe_log_dirs)
check("describe-producers", describe_producers)
check("delete-topics", delete_topics)
check("transactions", transactions)
if GROUPS:
    check("group-consume", group_consume)
    check("group-crash", group_crash)
    check("group-admin", group_admin)
