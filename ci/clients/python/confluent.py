"""Checks with confluent-kafka (a current librdkafka). Protocol of the output: ci/src/clients/mod.rs."""

import threading
import time

from confluent_kafka import (
    OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)
from harness import BROKER, CODECS, GROUPS, RUN, check, corpus, equal, eventually, numbers, raises, same

admin = AdminClient({"bootstrap.servers": BROKER})
# A consumer that assigns commits nothing: its close() would wait for a group's coordinator.
ASSIGNING = {"bootstrap.servers": BROKER, "group.id": "none", "enable.auto.commit": False}


def only(futures):
    """The result of a call about one thing."""
    (future,) = futures.values()
    return future.result(timeout=30)


def code(wanted):
    return lambda error: isinstance(error, KafkaException) and error.args[0].code() == wanted


def topic(name, partitions=1, **config):
    name = f"{RUN}-{name}"
    only(admin.create_topics([NewTopic(name, partitions, 1, config=config)]))
    eventually("the topic in the metadata", lambda: name in admin.list_topics(timeout=10).topics)
    return name


def produce(name, records, **config):
    """Sends dicts of produce() arguments and returns the offsets in the order of sending."""
    offsets = {}
    producer = Producer({"bootstrap.servers": BROKER, "message.timeout.ms": 20000, "linger.ms": 20, **config})
    for index, record in enumerate(records):
        def delivered(error, message, index=index):
            offsets[index] = error if error is not None else message.offset()
        while True:
            try:
                producer.produce(name, on_delivery=delivered, **record)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    equal(producer.flush(30), 0, "records left in the queue")
    for index in range(len(records)):
        known = isinstance(offsets[index], int) or config.get("acks") == "0"  # no answer, no offset
        assert known and not isinstance(offsets[index], KafkaError), f"record {index}: {offsets[index]}"
    return [offsets[index] for index in range(len(records))]


def values(lines):
    return [{"value": line, "partition": 0} for line in lines]


def messages(name, partitions, count, **config):
    """Reads so many messages of {partition: offset} with assign."""
    consumer = Consumer({**ASSIGNING, "auto.offset.reset": "earliest", **config})
    try:
        consumer.assign([TopicPartition(name, p, at) for p, at in partitions.items()])
        got = []
        until = time.monotonic() + 40
        while len(got) < count:
            assert time.monotonic() < until, f"{len(got)} of {count} records came"
            for message in consumer.consume(min(count - len(got), 1000), timeout=1):
                if message.error():
                    raise KafkaException(message.error())
                got.append(message)
        return got
    finally:
        consumer.close()


def read(name, at, count, **config):
    return [m.value() for m in messages(name, {0: at}, count, **config)]


def carry(codec):
    name = topic(codec)
    lines = corpus()
    produce(name, values(lines), **{"compression.type": codec})
    same(read(name, 0, len(lines)), lines)


def create_topics():
    name = topic("made", 3, **{"retention.ms": "604800000"})
    equal(len(admin.list_topics(timeout=10).topics[name].partitions), 3, "partitions")
    described = only(admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]))
    equal(described["retention.ms"].value, "604800000", "retention.ms")
    raises(code(KafkaError.TOPIC_ALREADY_EXISTS), only, admin.create_topics([NewTopic(name, 1, 1)]))
    raises(code(KafkaError.TOPIC_EXCEPTION), only, admin.create_topics([NewTopic("no/slash", 1, 1)]))
    raises(code(KafkaError.INVALID_REPLICATION_FACTOR), only, admin.create_topics([NewTopic(f"{RUN}-r", 1, 99)]))
    only(admin.create_topics([NewTopic(f"{RUN}-dry", 1, 1)], validate_only=True))
    assert f"{RUN}-dry" not in admin.list_topics(timeout=10).topics, "a validated topic was made"


def list_topics():
    listed = admin.list_topics(timeout=10)
    assert f"{RUN}-made" in listed.topics, "the topic is not in the list"
    assert any(f"{b.host}:{b.port}" == BROKER for b in listed.brokers.values()), f"brokers: {listed.brokers}"


def file_multi():
    name = topic("multi", 4)
    lines = corpus()
    produce(name, [{"value": line, "key": str(i), "partition": i % 4} for i, line in enumerate(lines)],
            **{"compression.type": "zstd", "enable.idempotence": True})
    got = messages(name, {p: OFFSET_BEGINNING for p in range(4)}, len(lines))
    for p in range(4):
        same([m.value() for m in got if m.partition() == p], lines[p::4])


def keys_headers():
    name = topic("keys")
    headers = [("a", b"1"), ("a", None), ("b", b"\x00\xff"), ("c", b"")]
    stamp = int(time.time() * 1000) - 5000
    produce(name, [{"key": b"k", "value": b"v", "headers": headers, "timestamp": stamp, "partition": 0},
                   {"key": None, "value": None, "partition": 0}, {"key": b"", "value": b"", "partition": 0}])
    got = messages(name, {0: 0}, 3)
    equal([(m.key(), m.value()) for m in got], [(b"k", b"v"), (None, None), (b"", b"")], "keys and values")
    equal(got[0].headers(), headers, "headers")
    equal(got[0].timestamp()[1], stamp, "timestamp")


def acks(level):
    name = topic(f"acks-{level}")
    produce(name, values(numbers(0, 500)), acks=level)
    same(read(name, 0, 500), numbers(0, 500))


def idempotent():
    name = topic("idem")
    lines = corpus()
    offsets = produce(name, values(lines), **{"enable.idempotence": True, "batch.num.messages": 20, "linger.ms": 0})
    equal(offsets, list(range(len(lines))), "offsets")
    same(read(name, 0, len(lines)), lines)


def seek_offset():
    name = topic("seek")
    produce(name, values(numbers(0, 100)))
    same(read(name, 42, 58), numbers(42, 100))
    same(read(name, 99, 1), numbers(99, 100))
    same(read(name, 5000, 100), numbers(0, 100))  # out of range: the reset policy decides
    raises(lambda e: isinstance(e, KafkaException), read, name, 5000, 1, **{"auto.offset.reset": "error"})


def seek_time():
    name = topic("time")
    base = int(time.time() * 1000) - 3_600_000
    for n in range(20):
        produce(name, [{"value": str(n), "timestamp": base + n * 1000, "partition": 0}], **{"linger.ms": 0})
    consumer = Consumer(ASSIGNING)
    find = lambda at: consumer.offsets_for_times([TopicPartition(name, 0, at)], timeout=10)[0].offset
    equal([find(base - 1000), find(base + 7000), find(base + 6500)], [0, 7, 7], "offsets for times")
    equal(find(base + 3_700_000), -1, "the offset for a later time")
    consumer.close()
    same(read(name, 7, 13), numbers(7, 20))


def list_offsets():
    name = topic("offsets")
    base = int(time.time() * 1000) - 3_600_000
    for n in range(5):
        produce(name, [{"value": str(n), "timestamp": base + n * 1000, "partition": 0}], **{"linger.ms": 0})
    find = lambda spec: only(admin.list_offsets({TopicPartition(name, 0): spec}))
    equal(find(OffsetSpec.earliest()).offset, 0, "earliest")
    equal(find(OffsetSpec.latest()).offset, 5, "latest")
    equal(find(OffsetSpec.for_timestamp(base + 2500)).offset, 3, "for a timestamp")
    equal(find(OffsetSpec.max_timestamp()).offset, 4, "max timestamp")
    equal(find(OffsetSpec.max_timestamp()).timestamp, base + 4000, "the max timestamp")
    consumer = Consumer(ASSIGNING)
    equal(consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=10), (0, 5), "watermarks")
    consumer.close()


def long_poll():
    name = topic("poll")
    consumer = Consumer({**ASSIGNING, "fetch.wait.max.ms": 10000, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(name, 0, 0)])
    for n in range(2):
        sender = threading.Timer(1.0, produce, (name, values([str(n).encode()])), {"linger.ms": 0})
        sender.start()
        message = consumer.poll(20)
        late = time.time() * 1000 - message.timestamp()[1]
        sender.join()
        equal(message.value(), str(n).encode(), "the awaited record")
        assert late < 2000, f"woke {late:.0f} ms after the record was made"
    consumer.close()


def create_partitions():
    name = topic("grow")
    only(admin.create_partitions([NewPartitions(name, 3)]))
    eventually("three partitions", lambda: len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3)
    raises(code(KafkaError.INVALID_PARTITIONS), only, admin.create_partitions([NewPartitions(name, 2)]))
    produce(name, [{"value": b"new", "partition": 2}])
    equal(messages(name, {2: 0}, 1)[0].value(), b"new", "the record in the new partition")


def configs():
    name = topic("configs")
    resource = lambda entries=None: ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    current = lambda: only(admin.describe_configs([resource()]))
    equal(current()["cleanup.policy"].value, "delete", "the default cleanup.policy")
    entry = lambda value, op: ConfigEntry("retention.ms", value, incremental_operation=op)
    only(admin.incremental_alter_configs([resource([entry("123456789", AlterConfigOpType.SET)])]))
    eventually("the new retention.ms", lambda: current()["retention.ms"].value == "123456789")
    equal(current()["retention.ms"].is_default, False, "is_default of a changed config")
    only(admin.incremental_alter_configs([resource([entry(None, AlterConfigOpType.DELETE)])]))
    eventually("the default retention.ms", lambda: current()["retention.ms"].value != "123456789")
    bad = admin.incremental_alter_configs([resource([entry("x", AlterConfigOpType.SET)])])
    raises(code(KafkaError.INVALID_CONFIG), only, bad)
    only(admin.alter_configs([ConfigResource(ResourceType.TOPIC, name, set_config={"segment.bytes": "12345678"})]))
    eventually("segment.bytes by the old call", lambda: current()["segment.bytes"].value == "12345678")
    broker = str(next(iter(admin.list_topics(timeout=10).brokers)))
    assert only(admin.describe_configs([ConfigResource(ResourceType.BROKER, broker)])), "no broker configs"


def delete_records():
    name = topic("cut")
    produce(name, values(numbers(0, 100)))
    equal(only(admin.delete_records([TopicPartition(name, 0, 60)])).low_watermark, 60, "low watermark")
    same(read(name, OFFSET_BEGINNING, 40), numbers(60, 100))
    raises(code(KafkaError.OFFSET_OUT_OF_RANGE), only, admin.delete_records([TopicPartition(name, 0, 101)]))


def describe_cluster():
    cluster = admin.describe_cluster(request_timeout=10).result(timeout=15)
    assert any(f"{node.host}:{node.port}" == BROKER for node in cluster.nodes), f"nodes: {cluster.nodes}"
    assert cluster.cluster_id, "no cluster id"


def unknown_topic():
    raises(code(KafkaError.UNKNOWN_TOPIC_OR_PART), only, admin.delete_topics([f"{RUN}-never"]))
    raises(lambda e: "UNKNOWN" in str(e).upper(), produce, topic("one"), [{"value": b"x", "partition": 7}],
           **{"message.timeout.ms": 2000})


def delete_topics():
    name = topic("doomed", 2)
    produce(name, values(numbers(0, 10)))
    only(admin.delete_topics([name]))
    eventually("the topic is gone", lambda: name not in admin.list_topics(timeout=10).topics)
    topic("doomed")
    same(read_ends(name), [b"0"])


def read_ends(name):
    return [str(only(admin.list_offsets({TopicPartition(name, 0): OffsetSpec.latest()})).offset).encode()]


def group_consume(protocol):
    name = topic(f"group-{protocol}", 3)
    produce(name, [{"value": value, "key": value} for value in numbers(0, 1000)])
    config = {"bootstrap.servers": BROKER, "group.id": f"{RUN}-{protocol}", "auto.offset.reset": "earliest",
              "enable.auto.commit": False, "group.protocol": protocol}
    consumer = Consumer(config)
    consumer.subscribe([name])
    got, until = [], time.monotonic() + 40
    while len(got) < 1000 and time.monotonic() < until:
        got += [m.value() for m in consumer.consume(1000, timeout=1)]
    consumer.commit(asynchronous=False)
    consumer.close()
    same(sorted(got, key=int), numbers(0, 1000))
    asked = [ConsumerGroupTopicPartitions(config["group.id"], [TopicPartition(name, p) for p in range(3)])]
    committed = only(admin.list_consumer_group_offsets(asked))
    equal(sum(p.offset for p in committed.topic_partitions), 1000, "committed offsets")


def member(name, group, strategy="range", **config):
    consumer = Consumer({"bootstrap.servers": BROKER, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "session.timeout.ms": 6000,
                         "partition.assignment.strategy": strategy, **config})
    consumer.subscribe([name])
    return consumer


def owned(consumer):
    return sorted(p.partition for p in consumer.assignment())


def poll_until(what, members, done, got=None, seconds=40):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"never came: {what}; assigned {[owned(m) for m in members]}"
        for one in members:
            for message in one.consume(100, timeout=0.2):
                if not message.error() and got is not None:
                    got.append(message)


def has_read(consumer, end):
    """Nothing is committed when a partition changes hands: who gets it begins at its start, and must have come to its end."""
    return all(place.offset >= end for place in consumer.position(consumer.assignment()))


def group_share(strategy):
    """Two members share four partitions; one leaves; the other goes on where it was."""
    name = topic(f"share-{strategy}", 4)
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(400)])
    group = f"{RUN}-share-{strategy}"
    one, two = member(name, group, strategy), member(name, group, strategy)
    got = []
    shared = lambda: all(len(owned(each)) == 2 and has_read(each, 100) for each in (one, two))
    poll_until("two partitions each", [one, two], lambda: shared() and len(got) >= 400, got)
    equal(sorted(owned(one) + owned(two)), [0, 1, 2, 3], "every partition once")
    for each in (one, two):
        each.commit(asynchronous=False)
    two.close()
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(400, 440)])
    rest = []
    poll_until("all for the one that is left", [one], lambda: len(owned(one)) == 4 and len({m.value() for m in rest}) >= 40, rest)
    # A member that was interrupted by the rebalance reads some again: at least once.
    same(sorted({m.value() for m in rest}, key=int), numbers(400, 440))
    one.close()


def group_admin():
    """What kafka-consumer-groups does: list, describe, reset, delete."""
    name, group = topic("ops", 2), f"{RUN}-ops"
    produce(name, [{"value": str(n), "partition": n % 2} for n in range(20)])
    one = member(name, group)
    poll_until("both partitions", [one], lambda: len(owned(one)) == 2)
    listed = {g.group_id: g for g in admin.list_consumer_groups().result(15).valid}
    equal(listed[group].state.name, "STABLE", "state in the list")
    described = only(admin.describe_consumer_groups([group]))
    equal((described.partition_assignor, len(described.members)), ("range", 1), "description")
    equal(len(described.members[0].assignment.topic_partitions), 2, "described partitions")
    raises(code(KafkaError.NON_EMPTY_GROUP), only, admin.delete_consumer_groups([group]))
    at = lambda offset: ConsumerGroupTopicPartitions(group, [TopicPartition(name, p, offset) for p in range(2)])
    one.close()
    only(admin.alter_consumer_group_offsets([at(7)]))
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(name, p) for p in range(2)])
    equal([p.offset for p in only(admin.list_consumer_group_offsets([asked])).topic_partitions], [7, 7], "reset offsets")
    again, got = member(name, group), []
    poll_until("what lies behind the reset", [again], lambda: len(got) >= 6, got)
    same(sorted((m.value() for m in got), key=int), numbers(14, 20))
    again.close()
    only(admin.delete_consumer_groups([group]))
    assert group not in {g.group_id for g in admin.list_consumer_groups().result(15).valid}, "it is still listed"
    raises(code(KafkaError.GROUP_ID_NOT_FOUND), only, admin.delete_consumer_groups([group]))


def group_static():
    """A static member that comes back within its session keeps its partitions without a rebalance (KIP-345)."""
    name, group = topic("static", 2), f"{RUN}-static"
    seen = []
    def open_member(instance, told):
        consumer = Consumer({"bootstrap.servers": BROKER, "group.id": group, "auto.offset.reset": "earliest",
                             "session.timeout.ms": 20000, "group.instance.id": instance})
        consumer.subscribe([name], on_assign=lambda _, parts: told.append(sorted(p.partition for p in parts)))
        return consumer
    one, two = open_member("a", seen), open_member("b", [])
    poll_until("one partition each", [one, two], lambda: len(owned(one)) == 1 and len(owned(two)) == 1)
    kept, rebalances = owned(one), len(seen)
    back = []
    two_kept = owned(two)
    two.close()  # a static member does not leave
    two = open_member("b", back)
    poll_until("the same partition again", [one, two], lambda: owned(two) == two_kept)
    equal((owned(one), len(seen)), (kept, rebalances), "the other member was not disturbed")
    one.close(), two.close()


def committed(name, partitions, count, **config):
    """So many records, by one who reads committed ones only, and nothing behind them."""
    consumer = Consumer({**ASSIGNING, "auto.offset.reset": "earliest", "isolation.level": "read_committed",
                         "enable.partition.eof": True, **config})
    consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in partitions])
    got, ended, until = [], set(), time.monotonic() + 40
    while len(got) < count or len(ended) < len(partitions):
        assert time.monotonic() < until, f"{len(got)} of {count} records came"
        for message in consumer.consume(1000, timeout=1):
            if message.error() and message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            elif message.error():
                raise KafkaException(message.error())
            else:
                got.append(message.value())
    consumer.close()
    return got


def transactional(id, **config):
    producer = Producer({"bootstrap.servers": BROKER, "transactional.id": f"{RUN}-{id}", "linger.ms": 5, **config})
    producer.init_transactions(30)
    return producer


def transactions():
    """What is committed is read, in all partitions; what is aborted is not; a new life fences the old one."""
    name = topic("txn", 3)
    producer = transactional("txn")
    wanted = []
    for number in range(12):
        producer.begin_transaction()
        batch = numbers(number * 10, number * 10 + 10)
        for value in batch:
            producer.produce(name, value, partition=int(value) % 3)
        if number % 3 == 2:
            producer.flush(10)
            producer.abort_transaction(30)
        else:
            wanted += batch
            producer.commit_transaction(30)
    same(sorted(committed(name, range(3), len(wanted)), key=int), wanted)
    producer.begin_transaction()
    producer.produce(name, b"left open", partition=0)
    producer.flush(10)
    heir = transactional("txn")
    heir.begin_transaction()
    heir.produce(name, b"1000", partition=0)
    heir.commit_transaction(30)
    fenced = raises(lambda e: isinstance(e, KafkaException), producer.commit_transaction, 30)
    assert fenced.args[0].fatal() or fenced.args[0].code() == KafkaError._FENCED, f"{fenced}"
    same(sorted(committed(name, range(3), len(wanted) + 1), key=int), wanted + [b"1000"])


def consume_transform_produce():
    """Every input is reflected once, though every third transaction is aborted and read again."""
    source, sink, group = topic("ctp-in", 2), topic("ctp-out", 2), f"{RUN}-ctp"
    produce(source, [{"value": value, "partition": int(value) % 2} for value in numbers(0, 300)])
    producer = transactional("ctp")
    consumer = member(source, group, **{"isolation.level": "read_committed"})
    done, tries, until = 0, 0, time.monotonic() + 60
    while done < 300:
        assert time.monotonic() < until, f"{done} of 300"
        messages = [m for m in consumer.consume(25, timeout=1) if not m.error()]
        if not messages:
            continue
        tries += 1
        producer.begin_transaction()
        for message in messages:
            producer.produce(sink, message.value(), partition=message.partition())
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30)
        if tries % 3 == 0:
            producer.abort_transaction(30)
            for partition in consumer.committed(consumer.assignment(), 30):
                partition.offset = max(partition.offset, 0)
                consumer.seek(partition)
        else:
            producer.commit_transaction(30)
            done += len(messages)
    consumer.close()
    same(sorted(committed(sink, range(2), 300), key=int), numbers(0, 300))
    asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(source, p) for p in range(2)])]
    equal([p.offset for p in only(admin.list_consumer_group_offsets(asked)).topic_partitions], [150, 150], "offsets")


def modern(topics, group, **config):
    """A member of the new protocol (KIP-848): the broker knows its timeouts and makes the plan."""
    consumer = Consumer({"bootstrap.servers": BROKER, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "group.protocol": "consumer", **config})
    consumer.subscribe(topics)
    return consumer


def group_share_848(assignor):
    """Two members share four partitions; one leaves; the other goes on where it was."""
    name, group = topic(f"share-848-{assignor}", 4), f"{RUN}-share-848-{assignor}"
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(400)])
    config = {"group.remote.assignor": assignor}
    one, two, got = modern([name], group, **config), modern([name], group, **config), []
    shared = lambda: all(len(owned(each)) == 2 and has_read(each, 100) for each in (one, two))
    poll_until("two partitions each", [one, two], lambda: shared() and len(got) >= 400, got, 60)
    equal(sorted(owned(one) + owned(two)), [0, 1, 2, 3], "every partition once")
    described = only(admin.describe_consumer_groups([group]))
    equal((described.state.name, described.partition_assignor, len(described.members)), ("STABLE", assignor, 2), "description")
    for each in (one, two):
        each.commit(asynchronous=False)
    two.close()
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(400, 440)])
    rest = []
    poll_until("all for the one that is left", [one], lambda: len(owned(one)) == 4 and len({m.value() for m in rest}) >= 40, rest)
    same(sorted({m.value() for m in rest}, key=int), numbers(400, 440))
    one.close()


def group_regex_848():
    """A pattern that the broker matches: topics of now, and one that comes later."""
    group, prefix = f"{RUN}-regex-848", topic("regex-848", 2)
    one = modern([f"^{prefix}.*"], group)
    poll_until("the topic of now", [one], lambda: len(owned(one)) == 2)
    late = topic("regex-848-late", 1)
    poll_until("the topic that came", [one], lambda: late in {p.topic for p in one.assignment()})
    one.close()


def group_static_848():
    """A static member that comes back keeps its partitions, and the other one is not disturbed."""
    name, group, seen = topic("static-848", 2), f"{RUN}-static-848", []
    open_member = lambda instance: modern([name], group, **{"group.instance.id": instance})
    one, two = open_member("a"), open_member("b")
    poll_until("one partition each", [one, two], lambda: len(owned(one)) == 1 and len(owned(two)) == 1)
    kept, gone = owned(one), owned(two)
    two.close()
    two = open_member("b")
    def undisturbed():
        seen.append(owned(one))
        return owned(two) == gone
    poll_until("the same partition again", [one, two], undisturbed)
    assert all(each == kept for each in seen), f"the other member was disturbed: {seen}"
    one.close(), two.close()


def group_upgrade_848(strategy):
    """A live group goes from the classic protocol to the new one and back."""
    name, group = topic(f"upgrade-848-{strategy}", 4), f"{RUN}-upgrade-848-{strategy}"
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(40)])
    old, got = member(name, group, strategy), []
    poll_until("all for the first", [old], lambda: len(owned(old)) == 4 and len(got) >= 40, got)
    old.commit(asynchronous=False)
    new = modern([name], group)
    poll_until("two partitions each", [old, new], lambda: len(owned(old)) == 2 and len(owned(new)) == 2)
    equal(sorted(owned(old) + owned(new)), [0, 1, 2, 3], "every partition once")
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(40, 80)])
    rest = []
    poll_until("what came", [old, new], lambda: len({m.value() for m in rest}) >= 40, rest)
    same(sorted({m.value() for m in rest}, key=int), numbers(40, 80))
    for each in (old, new):
        each.commit(asynchronous=False)
    new.close()
    produce(name, [{"value": str(n), "partition": n % 4} for n in range(80, 120)])
    last = []
    poll_until("all for the first again", [old], lambda: len(owned(old)) == 4 and len({m.value() for m in last}) >= 40, last)
    same(sorted({m.value() for m in last}, key=int), numbers(80, 120))
    old.close()


check("create-topics", create_topics)
check("list", list_topics)
for each in CODECS:
    check(f"file-{each}", carry, each)
check("file-multi", file_multi)
check("keys-headers", keys_headers)
for each in ["0", "1", "all"]:
    check(f"acks-{each}", acks, each)
check("idempotent", idempotent)
check("seek-offset", seek_offset)
check("seek-time", seek_time)
check("list-offsets", list_offsets)
check("long-poll", long_poll)
check("create-partitions", create_partitions)
check("configs", configs)
check("delete-records", delete_records)
check("describe-cluster", describe_cluster)
check("unknown-topic", unknown_topic)
check("delete-topics", delete_topics)
check("transactions", transactions)
if GROUPS:
    check("consume-transform-produce", consume_transform_produce)
    check("group-consume", group_consume, "classic")
    for each in ["range", "roundrobin", "cooperative-sticky"]:
        check(f"group-share-{each}", group_share, each)
    check("group-static", group_static)
    check("group-admin", group_admin)
    check("group-consume-848", group_consume, "consumer")
    for each in ["uniform", "range"]:
        check(f"group-share-848-{each}", group_share_848, each)
    check("group-regex-848", group_regex_848)
    check("group-static-848", group_static_848)
    for each in ["range", "cooperative-sticky"]:
        check(f"group-upgrade-848-{each}", group_upgrade_848, each)
