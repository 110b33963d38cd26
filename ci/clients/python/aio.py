"""Checks with aiokafka. Protocol of the output: ci/src/clients/mod.rs."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from harness import BROKER, CODECS, GROUPS, RUN, check, corpus, equal, numbers, same


def checked(name, function, *args):
    check(name, lambda: asyncio.run(asyncio.wait_for(function(*args), 60)))


async def with_admin(use):
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    try:
        return await use(admin)
    finally:
        await admin.close()


async def topic(name, partitions=1):
    name = f"{RUN}-{name}"
    answer = await with_admin(lambda admin: admin.create_topics([NewTopic(name, partitions, 1)]))
    equal([error[1] for error in answer.topic_errors], [0], "error of create_topics")
    return name


async def produce(name, records, **config):
    producer = AIOKafkaProducer(bootstrap_servers=BROKER, linger_ms=10, **config)
    await producer.start()
    try:
        return [await sent for sent in [await producer.send(name, **record) for record in records]]
    finally:
        await producer.stop()


def values(lines):
    return [{"value": line, "partition": 0} for line in lines]


async def messages(name, partitions, count, **config):
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, group_id=None, auto_offset_reset="earliest", **config)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, p) for p in partitions])
        for p, at in partitions.items():
            consumer.seek(TopicPartition(name, p), at)
        got = []
        while len(got) < count:
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                got += batch
        return got
    finally:
        await consumer.stop()


async def read(name, at, count, **config):
    return [m.value for m in await messages(name, {0: at}, count, **config)]


async def carry(codec):
    name = await topic(codec)
    lines = corpus()
    await produce(name, values(lines), compression_type=None if codec == "none" else codec)
    same(await read(name, 0, len(lines)), lines)


async def file_multi():
    name = await topic("multi", 3)
    lines = corpus()
    await produce(name, [{"value": line, "key": b"%d" % i, "partition": i % 3} for i, line in enumerate(lines)])
    got = await messages(name, {p: 0 for p in range(3)}, len(lines))
    for p in range(3):
        same([m.value for m in got if m.partition == p], lines[p::3])


async def keys_headers():
    name = await topic("keys")
    headers = [("a", b"1"), ("b", b"\x00\xff")]
    await produce(name, [{"key": b"k", "value": b"v", "headers": headers, "partition": 0},
                         {"key": b"gone", "value": None, "partition": 0}])
    got = await messages(name, {0: 0}, 2)
    equal([(m.key, m.value) for m in got], [(b"k", b"v"), (b"gone", None)], "keys and values")
    equal(list(got[0].headers), headers, "headers")


async def acks(level):
    name = await topic(f"acks-{level}")
    await produce(name, values(numbers(0, 500)), acks=level)
    same(await read(name, 0, 500), numbers(0, 500))


async def idempotent():
    name = await topic("idem")
    lines = corpus()
    sent = await produce(name, values(lines), enable_idempotence=True, max_batch_size=20000)
    equal([metadata.offset for metadata in sent], list(range(len(lines))), "offsets")
    same(await read(name, 0, len(lines)), lines)


async def seek():
    name = await topic("seek")
    base = int(time.time() * 1000) - 3_600_000
    for n in range(10):
        await produce(name, [{"value": b"%d" % n, "timestamp_ms": base + n * 1000, "partition": 0}])
    same(await read(name, 4, 6), numbers(4, 10))
    partition = TopicPartition(name, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, group_id=None)
    await consumer.start()
    try:
        found = await consumer.offsets_for_times({partition: base + 6500})
        equal(found[partition].offset, 7, "the offset for a time")
        equal(await consumer.beginning_offsets([partition]), {partition: 0}, "earliest")
        equal(await consumer.end_offsets([partition]), {partition: 10}, "latest")
    finally:
        await consumer.stop()


async def long_poll():
    name = await topic("poll")
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, group_id=None, fetch_max_wait_ms=10000)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, 0)])
        consumer.seek(TopicPartition(name, 0), 0)
        waiting = asyncio.ensure_future(consumer.getone())
        await asyncio.sleep(1)
        await produce(name, values([b"now"]))
        message = await asyncio.wait_for(waiting, 20)
        late = time.time() * 1000 - message.timestamp
        assert late < 2000, f"woke {late:.0f} ms after the record was made"
    finally:
        await consumer.stop()


async def admin_calls():
    name = await topic("admin")
    # Without acks=all the watermark may still be below the records when they are deleted.
    await produce(name, values(numbers(0, 100)), acks="all")
    partition = TopicPartition(name, 0)

    async def use(admin):
        assert name in await admin.list_topics(), "the topic is not in the list"
        await admin.delete_records({partition: RecordsToDelete(60)})
        await admin.create_partitions({name: NewPartitions(3)})
        (described,) = await admin.describe_topics([name])
        equal(len(described["partitions"]), 3, "partitions")

    await with_admin(use)
    same(await read(name, 60, 40), numbers(60, 100))
    await with_admin(lambda admin: admin.delete_topics([name]))
    assert name not in await with_admin(lambda admin: admin.list_topics()), "the topic is still there"


async def group_consume():
    name = await topic("group", 3)
    await produce(name, [{"value": value, "key": value} for value in numbers(0, 1000)])
    consumer = AIOKafkaConsumer(name, bootstrap_servers=BROKER, group_id=f"{RUN}-g", auto_offset_reset="earliest")
    await consumer.start()
    try:
        got = [(await consumer.getone()).value for _ in range(1000)]
        await consumer.commit()
    finally:
        await consumer.stop()
    same(sorted(got, key=int), numbers(0, 1000))


async def transactions():
    name = await topic("txn", 2)
    producer = AIOKafkaProducer(bootstrap_servers=BROKER, transactional_id=f"{RUN}-txn")
    await producer.start()
    try:
        for number in range(6):
            await producer.begin_transaction()
            for value in numbers(number * 10, number * 10 + 10):
                await producer.send_and_wait(name, value, partition=int(value) % 2)
            if number % 3 == 2:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, p) for p in range(2)])
        got = [(await consumer.getone()).value for _ in range(40)]
    finally:
        await consumer.stop()
    same(sorted(got, key=int), numbers(0, 20) + numbers(30, 50))


for each in CODECS:
    checked(f"file-{each}", carry, each)
checked("file-multi", file_multi)
checked("keys-headers", keys_headers)
for each in [0, 1, "all"]:
    checked(f"acks-{each}", acks, each)
checked("idempotent", idempotent)
checked("seek", seek)
checked("long-poll", long_poll)
checked("admin", admin_calls)
checked("transactions", transactions)
if GROUPS:
    checked("group-consume", group_consume)
