// Checks with Kafka's Java clients. Protocol of the output: ci/src/clients/mod.rs.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

public class Checks {
    interface Body { void run() throws Exception; }

    static final String BROKER = System.getenv("DEJAQ_BROKER");
    static final String RUN = System.getenv("DEJAQ_RUN");
    static String behind = System.getenv().getOrDefault("DEJAQ_AFTER", "");
    static Admin admin;

    static void check(String name, Body body) {
        if (!behind.isEmpty()) {
            if (name.equals(behind)) behind = "";
            return;
        }
        if (!name.contains(System.getenv().getOrDefault("DEJAQ_ONLY", ""))) return;
        System.out.println("start " + name);
        try {
            body.run();
            System.out.println("ok " + name);
        } catch (Throwable error) {
            String text = error.toString().replace('\n', ' ');
            System.out.println("not ok " + name + ": " + text.substring(0, Math.min(400, text.length())));
        }
    }

    static void equal(Object got, Object wanted, String what) {
        if (!Objects.equals(got, wanted)) throw new AssertionError(what + ": got " + got + ", wanted " + wanted);
    }

    /** The result of a call, with the client's own exception instead of the wrapper. */
    static <T> T get(KafkaFuture<T> future) throws Exception {
        try {
            return future.get(30, TimeUnit.SECONDS);
        } catch (ExecutionException error) {
            throw (Exception) error.getCause();
        }
    }

    static void fails(Class<?> wanted, Body body) throws Exception {
        try {
            body.run();
        } catch (Exception error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            if (!wanted.isInstance(cause)) throw new AssertionError("another error: " + cause);
            return;
        }
        throw new AssertionError("it succeeded, wanted " + wanted.getSimpleName());
    }

    static void eventually(String what, Callable<Boolean> done) throws Exception {
        for (int i = 0; i < 100; i++) {
            if (done.call()) return;
            Thread.sleep(100);
        }
        throw new AssertionError("never came: " + what);
    }

    static List<byte[]> corpus() throws Exception {
        String text = Files.readString(Path.of(System.getenv("DEJAQ_FILE")));
        return Arrays.stream(text.split("\n")).map(line -> line.getBytes(StandardCharsets.UTF_8)).toList();
    }

    static List<byte[]> numbers(int start, int end) {
        return IntStream.range(start, end).mapToObj(n -> Integer.toString(n).getBytes()).toList();
    }

    static void same(List<ConsumerRecord<byte[], byte[]>> got, List<byte[]> wanted) {
        equal(got.size(), wanted.size(), "count of records");
        for (int i = 0; i < got.size(); i++) {
            if (!Arrays.equals(got.get(i).value(), wanted.get(i))) throw new AssertionError("record " + i + " differs");
            equal(got.get(i).offset(), got.get(0).offset() + i, "offset");
        }
    }

    static String topic(String name, int partitions) throws Exception {
        String full = RUN + "-" + name;
        get(admin.createTopics(List.of(new NewTopic(full, partitions, (short) 1))).all());
        eventually("the topic in the metadata", () -> get(admin.listTopics().names()).contains(full));
        return full;
    }

    static KafkaProducer<byte[], byte[]> producer(Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", BROKER, "linger.ms", 10, "delivery.timeout.ms", 30000, "request.timeout.ms", 10000));
        config.putAll(more);
        return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Sends records and returns their offsets. */
    static List<Long> send(List<ProducerRecord<byte[], byte[]>> records, Map<String, Object> config) throws Exception {
        try (var producer = producer(config)) {
            List<Future<RecordMetadata>> sent = records.stream().map(producer::send).toList();
            producer.flush();
            List<Long> offsets = new ArrayList<>();
            for (var one : sent) offsets.add(one.get(30, TimeUnit.SECONDS).offset());
            return offsets;
        }
    }

    static List<Long> produce(String topic, List<byte[]> values, Map<String, Object> config) throws Exception {
        return send(values.stream().map(value -> new ProducerRecord<byte[], byte[]>(topic, 0, null, value)).toList(), config);
    }

    /** Spaced timestamps, each in its own batch; returns the first. */
    static long produceSpaced(String topic, int count) throws Exception {
        long base = System.currentTimeMillis() - 3_600_000;
        for (int n = 0; n < count; n++)
            send(List.of(new ProducerRecord<>(topic, 0, base + n * 1000L, null, numbers(n, n + 1).get(0))), Map.of("linger.ms", 0));
        return base;
    }

    static KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> more) {
        Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", BROKER, "enable.auto.commit", false, "auto.offset.reset", "earliest"));
        config.putAll(more);
        return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static List<ConsumerRecord<byte[], byte[]>> read(String topic, Map<Integer, Long> from, int count, Map<String, Object> config) {
        try (var consumer = consumer(config)) {
            consumer.assign(from.keySet().stream().map(p -> new TopicPartition(topic, p)).toList());
            from.forEach((p, offset) -> consumer.seek(new TopicPartition(topic, p), offset));
            List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
            long until = System.currentTimeMillis() + 40000;
            while (got.size() < count) {
                if (System.currentTimeMillis() > until) throw new AssertionError(got.size() + " of " + count + " records came");
                consumer.poll(Duration.ofSeconds(1)).forEach(got::add);
            }
            return got;
        }
    }

    static List<ConsumerRecord<byte[], byte[]>> read(String topic, long from, int count) {
        return read(topic, Map.of(0, from), count, Map.of());
    }

    static void carry(String codec) throws Exception {
        String name = topic(codec, 1);
        produce(name, corpus(), Map.of("compression.type", codec));
        same(read(name, 0, corpus().size()), corpus());
    }

    static void createTopics() throws Exception {
        String name = RUN + "-made";
        var made = admin.createTopics(List.of(new NewTopic(name, Optional.of(3), Optional.empty()).configs(Map.of("retention.ms", "604800000"))));
        get(made.all());
        equal(get(made.numPartitions(name)), 3, "partitions in the answer");
        equal(get(made.config(name)).get("retention.ms").value(), "604800000", "retention.ms in the answer");
        eventually("the topic's description", () -> get(admin.listTopics().names()).contains(name));
        var described = get(admin.describeTopics(List.of(name)).allTopicNames()).get(name);
        equal(described.partitions().size(), 3, "partitions");
        equal(described.topicId(), get(made.topicId(name)), "topic id");
        equal(get(admin.describeTopics(TopicCollection.ofTopicIds(List.of(described.topicId()))).allTopicIds()).get(described.topicId()).name(), name, "name by id");
        fails(TopicExistsException.class, () -> get(admin.createTopics(List.of(new NewTopic(name, 1, (short) 1))).all()));
        fails(InvalidTopicException.class, () -> get(admin.createTopics(List.of(new NewTopic("no/slash", 1, (short) 1))).all()));
        fails(InvalidPartitionsException.class, () -> get(admin.createTopics(List.of(new NewTopic(RUN + "-p", 0, (short) 1))).all()));
        fails(InvalidReplicationFactorException.class, () -> get(admin.createTopics(List.of(new NewTopic(RUN + "-r", 1, (short) 99))).all()));
        get(admin.createTopics(List.of(new NewTopic(RUN + "-dry", 1, (short) 1)), new CreateTopicsOptions().validateOnly(true)).all());
        equal(get(admin.listTopics().names()).contains(RUN + "-dry"), false, "a validated topic is there");
    }

    static void fileMulti() throws Exception {
        String name = topic("multi", 4);
        List<byte[]> lines = corpus();
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        List<List<byte[]>> wanted = List.of(new ArrayList<>(), new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
        for (int i = 0; i < lines.size(); i++) {
            records.add(new ProducerRecord<>(name, i % 4, ("k" + i).getBytes(), lines.get(i)));
            wanted.get(i % 4).add(lines.get(i));
        }
        send(records, Map.of("compression.type", "lz4"));
        var got = read(name, Map.of(0, 0L, 1, 0L, 2, 0L, 3, 0L), lines.size(), Map.of());
        for (int p = 0; p < 4; p++) {
            int partition = p;
            same(got.stream().filter(r -> r.partition() == partition).toList(), wanted.get(p));
        }
    }

    static void keysHeaders() throws Exception {
        String name = topic("keys", 1);
        long stamp = System.currentTimeMillis() - 5000;
        var first = new ProducerRecord<>(name, 0, stamp, "k".getBytes(), "v".getBytes(),
            List.of(new RecordHeader("a", "1".getBytes()), new RecordHeader("a", (byte[]) null), new RecordHeader("", new byte[] {0, -1})));
        send(List.of(first, new ProducerRecord<>(name, 0, null, null), new ProducerRecord<>(name, 0, new byte[0], new byte[0])), Map.of());
        var got = read(name, 0, 3);
        equal(new String(got.get(0).key()), "k", "key");
        equal(got.get(0).headers(), first.headers(), "headers");
        equal(got.get(0).timestamp(), stamp, "timestamp");
        equal(got.get(1).key(), null, "null key");
        equal(got.get(1).value(), null, "null value");
        equal(got.get(2).key().length + got.get(2).value().length, 0, "empty key and value");
    }

    static void acks(String level) throws Exception {
        String name = topic("acks-" + level, 1);
        produce(name, numbers(0, 500), Map.of("acks", level, "enable.idempotence", false));
        same(read(name, 0, 500), numbers(0, 500));
    }

    static void idempotent() throws Exception {
        String name = topic("idem", 1);
        List<Long> offsets = produce(name, corpus(), Map.of("enable.idempotence", true, "batch.size", 2000));
        for (int i = 0; i < offsets.size(); i++) equal(offsets.get(i), (long) i, "offset");
        same(read(name, 0, corpus().size()), corpus());
        var state = get(admin.describeProducers(List.of(new TopicPartition(name, 0))).all()).get(new TopicPartition(name, 0));
        equal(state.activeProducers().size(), 1, "active producers");
        equal(state.activeProducers().get(0).lastSequence(), corpus().size() - 1, "last sequence");
    }

    static void seekOffset() throws Exception {
        String name = topic("seek", 1);
        produce(name, numbers(0, 100), Map.of());
        same(read(name, 42, 58), numbers(42, 100));
        same(read(name, 5000, 100), numbers(0, 100)); // out of range: the reset policy decides
        fails(org.apache.kafka.clients.consumer.OffsetOutOfRangeException.class, () -> read(name, Map.of(0, 5000L), 1, Map.of("auto.offset.reset", "none")));
        same(read(name, Map.of(0, 0L), 100, Map.of("max.partition.fetch.bytes", 1, "fetch.max.bytes", 1)), numbers(0, 100));
    }

    static void seekTime() throws Exception {
        String name = topic("time", 1);
        long base = produceSpaced(name, 10);
        TopicPartition partition = new TopicPartition(name, 0);
        try (var consumer = consumer(Map.of())) {
            equal(consumer.offsetsForTimes(Map.of(partition, base - 1000)).get(partition).offset(), 0L, "before all");
            equal(consumer.offsetsForTimes(Map.of(partition, base + 6500)).get(partition).offset(), 7L, "in the middle");
            equal(consumer.offsetsForTimes(Map.of(partition, base + 3_700_000)).get(partition), null, "after all");
        }
        same(read(name, 7, 3), numbers(7, 10));
    }

    static void listOffsets() throws Exception {
        String name = topic("offsets", 1);
        TopicPartition partition = new TopicPartition(name, 0);
        equal(offset(partition, OffsetSpec.maxTimestamp()).offset(), -1L, "max timestamp of an empty topic");
        long base = produceSpaced(name, 5);
        equal(offset(partition, OffsetSpec.earliest()).offset(), 0L, "earliest");
        equal(offset(partition, OffsetSpec.latest()).offset(), 5L, "latest");
        equal(offset(partition, OffsetSpec.maxTimestamp()).offset(), 4L, "max timestamp");
        equal(offset(partition, OffsetSpec.maxTimestamp()).timestamp(), base + 4000, "the max timestamp");
        equal(offset(partition, OffsetSpec.forTimestamp(base + 1500)).offset(), 2L, "for a timestamp");
        equal(offset(partition, OffsetSpec.earliestLocal()).offset(), 0L, "earliest local");
        equal(offset(partition, OffsetSpec.latestTiered()).offset(), -1L, "latest tiered");
        var stable = new ListOffsetsOptions(IsolationLevel.READ_COMMITTED);
        equal(get(admin.listOffsets(Map.of(partition, OffsetSpec.latest()), stable).partitionResult(partition)).offset(), 5L, "last stable");
    }

    static ListOffsetsResult.ListOffsetsResultInfo offset(TopicPartition partition, OffsetSpec spec) throws Exception {
        return get(admin.listOffsets(Map.of(partition, spec)).partitionResult(partition));
    }

    static void longPoll() throws Exception {
        String name = topic("poll", 1);
        try (var consumer = consumer(Map.of("fetch.max.wait.ms", 4000))) {
            consumer.assign(List.of(new TopicPartition(name, 0)));
            consumer.seek(new TopicPartition(name, 0), 0);
            for (int n = 0; n < 2; n++) {
                List<byte[]> value = numbers(n, n + 1);
                var sent = CompletableFuture.runAsync(() -> {
                    try {
                        Thread.sleep(1000);
                        produce(name, value, Map.of());
                    } catch (Exception error) {
                        throw new CompletionException(error);
                    }
                });
                var got = consumer.poll(Duration.ofSeconds(20));
                long now = System.currentTimeMillis();
                sent.get();
                equal(got.count(), 1, "records of one poll");
                long late = now - got.iterator().next().timestamp();
                if (late > 2000) throw new AssertionError("woke " + late + " ms after the record was made");
            }
        }
    }

    static void createPartitions() throws Exception {
        String name = topic("grow", 1);
        get(admin.createPartitions(Map.of(name, NewPartitions.increaseTo(3))).all());
        eventually("three partitions", () -> get(admin.describeTopics(List.of(name)).allTopicNames()).get(name).partitions().size() == 3);
        fails(InvalidPartitionsException.class, () -> get(admin.createPartitions(Map.of(name, NewPartitions.increaseTo(2))).all()));
        send(List.of(new ProducerRecord<>(name, 2, null, "new".getBytes())), Map.of());
        same(read(name, Map.of(2, 0L), 1, Map.of()), List.of("new".getBytes()));
    }

    static String config(ConfigResource resource, String key) throws Exception {
        return get(admin.describeConfigs(List.of(resource)).all()).get(resource).get(key).value();
    }

    static void alter(ConfigResource resource, String key, String value, AlterConfigOp.OpType op) throws Exception {
        get(admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry(key, value), op)))).all());
    }

    static void configs() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic("configs", 1));
        String before = config(resource, "retention.ms");
        alter(resource, "retention.ms", "123456789", AlterConfigOp.OpType.SET);
        eventually("the new retention.ms", () -> config(resource, "retention.ms").equals("123456789"));
        alter(resource, "retention.ms", null, AlterConfigOp.OpType.DELETE);
        eventually("the default retention.ms", () -> config(resource, "retention.ms").equals(before));
        // The list operations, on values that a broker without compaction takes as well.
        alter(resource, "cleanup.policy", "delete", AlterConfigOp.OpType.APPEND);
        eventually("one policy", () -> config(resource, "cleanup.policy").equals("delete"));
        alter(resource, "cleanup.policy", "compact", AlterConfigOp.OpType.SUBTRACT);
        eventually("one policy still", () -> config(resource, "cleanup.policy").equals("delete"));
        fails(InvalidConfigurationException.class, () -> alter(resource, "retention.ms", "x", AlterConfigOp.OpType.SET));
        fails(InvalidConfigurationException.class, () -> alter(resource, "no.such.config", "1", AlterConfigOp.OpType.SET));
        String broker = get(admin.describeCluster().nodes()).iterator().next().idString();
        ConfigResource node = new ConfigResource(ConfigResource.Type.BROKER, broker);
        var options = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        if (get(admin.describeConfigs(List.of(node), options).all()).get(node).entries().isEmpty()) throw new AssertionError("no broker configs");
    }

    static void deleteRecords() throws Exception {
        String name = topic("cut", 1);
        TopicPartition partition = new TopicPartition(name, 0);
        produce(name, numbers(0, 100), Map.of());
        equal(get(admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(60))).lowWatermarks().get(partition)).lowWatermark(), 60L, "low watermark");
        equal(offset(partition, OffsetSpec.earliest()).offset(), 60L, "earliest");
        same(read(name, 0, 40), numbers(60, 100));
        fails(OffsetOutOfRangeException.class, () -> get(admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(101))).all()));
    }

    static void describe() throws Exception {
        var nodes = get(admin.describeCluster().nodes());
        equal(nodes.stream().anyMatch(n -> (n.host() + ":" + n.port()).equals(BROKER)), true, "the listener we came by");
        String name = topic("dirs", 1);
        produce(name, numbers(0, 100), Map.of());
        int id = nodes.iterator().next().id();
        boolean found = get(admin.describeLogDirs(List.of(id)).allDescriptions()).get(id).values().stream()
            .anyMatch(dir -> dir.replicaInfos().containsKey(new TopicPartition(name, 0)) && dir.replicaInfos().get(new TopicPartition(name, 0)).size() > 0);
        equal(found, true, "the topic in a log directory");
    }

    static void errors() throws Exception {
        String name = topic("errors", 1);
        fails(RecordTooLargeException.class, () -> produce(name, List.of(new byte[2 << 20]), Map.of("max.request.size", 4 << 20)));
        fails(UnknownTopicOrPartitionException.class, () -> get(admin.deleteTopics(List.of(RUN + "-never")).all()));
        fails(UnknownTopicOrPartitionException.class, () -> get(admin.describeTopics(List.of(RUN + "-never")).allTopicNames()));
    }

    static void deleteTopics() throws Exception {
        String name = topic("doomed", 2);
        produce(name, numbers(0, 10), Map.of());
        get(admin.deleteTopics(List.of(name)).all());
        eventually("the topic is gone", () -> !get(admin.listTopics().names()).contains(name));
        topic("doomed", 1);
        equal(offset(new TopicPartition(name, 0), OffsetSpec.latest()).offset(), 0L, "end of the topic that took the name");
        Uuid id = get(admin.describeTopics(List.of(name)).allTopicNames()).get(name).topicId();
        get(admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all());
    }

    static void groupConsume(String protocol) throws Exception {
        String name = topic("group-" + protocol, 3);
        send(numbers(0, 1000).stream().map(n -> new ProducerRecord<>(name, n, n)).toList(), Map.of());
        List<Integer> got = new ArrayList<>();
        try (var consumer = consumer(Map.of("group.id", RUN + "-" + protocol, "group.protocol", protocol))) {
            consumer.subscribe(List.of(name));
            long until = System.currentTimeMillis() + 40000;
            while (got.size() < 1000 && System.currentTimeMillis() < until)
                consumer.poll(Duration.ofSeconds(1)).forEach(r -> got.add(Integer.parseInt(new String(r.value()))));
            consumer.commitSync();
        }
        Collections.sort(got);
        equal(got, IntStream.range(0, 1000).boxed().toList(), "records");
        var committed = get(admin.listConsumerGroupOffsets(RUN + "-" + protocol).partitionsToOffsetAndMetadata());
        equal(committed.values().stream().mapToLong(OffsetAndMetadata::offset).sum(), 1000L, "committed offsets");
    }

    /** Polls all members until it is so; what came is kept. */
    static void pollUntil(String what, List<KafkaConsumer<byte[], byte[]>> members, Set<Integer> got, Callable<Boolean> done) throws Exception {
        long until = System.currentTimeMillis() + 60000;
        while (!done.call()) {
            if (System.currentTimeMillis() > until) throw new AssertionError("never came: " + what + "; assigned " + members.stream().map(m -> m.assignment()).toList());
            for (var member : members) member.poll(Duration.ofMillis(200)).forEach(r -> got.add(Integer.parseInt(new String(r.value()))));
        }
    }

    static void toFour(String name, int from, int to) throws Exception {
        send(numbers(from, to).stream().map(n -> new ProducerRecord<byte[], byte[]>(name, Integer.parseInt(new String(n)) % 4, n, n)).toList(), Map.of());
    }

    /** Nothing is committed when a partition changes hands, so who gets it begins at its start, and must have come to its end. */
    static boolean hasTwoAndAll(KafkaConsumer<byte[], byte[]> member) {
        return member.assignment().size() == 2 && member.assignment().stream().allMatch(part -> member.position(part) >= 100);
    }

    /** Two members share four partitions, one leaves; the other goes on where it was. */
    static void groupShare(String protocol, String assignor) throws Exception {
        String name = topic("share-" + protocol + "-" + assignor, 4), group = RUN + "-share-" + protocol + "-" + assignor;
        toFour(name, 0, 400);
        Map<String, Object> config = protocol.equals("consumer")
            ? Map.of("group.id", group, "group.protocol", protocol, "group.remote.assignor", assignor)
            : Map.of("group.id", group, "session.timeout.ms", 6000, "heartbeat.interval.ms", 500,
                "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor);
        Set<Integer> got = new TreeSet<>(), rest = new TreeSet<>();
        try (var one = consumer(config)) {
            one.subscribe(List.of(name));
            try (var two = consumer(config)) {
                two.subscribe(List.of(name));
                pollUntil("two partitions each", List.of(one, two), got, () -> hasTwoAndAll(one) && hasTwoAndAll(two) && got.size() == 400);
                one.commitSync();
                two.commitSync();
            }
            toFour(name, 400, 440);
            pollUntil("all for the one that is left", List.of(one), rest, () -> one.assignment().size() == 4 && rest.size() >= 40);
        }
        equal(List.copyOf(rest), IntStream.range(400, 440).boxed().toList(), "records behind the commit");
    }

    /** A pattern that the broker matches (SubscribedTopicRegex): topics of now, and one that comes later. */
    static void groupRegex() throws Exception {
        String prefix = topic("regex-848", 2);
        try (var one = consumer(Map.of("group.id", RUN + "-regex-848", "group.protocol", "consumer"))) {
            one.subscribe(new SubscriptionPattern(prefix + ".*"));
            pollUntil("the topic of now", List.of(one), new TreeSet<>(), () -> one.assignment().size() == 2);
            String late = topic("regex-848-late", 1);
            pollUntil("the topic that came", List.of(one), new TreeSet<>(), () -> one.assignment().contains(new TopicPartition(late, 0)));
            equal(one.assignment().size(), 3, "partitions of both");
        }
        try (var one = consumer(Map.of("group.id", RUN + "-regex-848-bad", "group.protocol", "consumer"))) {
            one.subscribe(new SubscriptionPattern("(unclosed"));
            fails(InvalidRegularExpression.class, () -> pollUntil("a refusal", List.of(one), new TreeSet<>(), () -> false));
        }
    }

    /** A live group goes from the classic protocol to the new one and back. */
    static void groupUpgrade(String strategy) throws Exception {
        String name = topic("upgrade-848-" + strategy, 4), group = RUN + "-upgrade-848-" + strategy;
        toFour(name, 0, 40);
        Set<Integer> got = new TreeSet<>(), second = new TreeSet<>(), third = new TreeSet<>();
        Map<String, Object> classic = Map.of("group.id", group, "session.timeout.ms", 6000, "heartbeat.interval.ms", 500,
            "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + strategy);
        try (var old = consumer(classic)) {
            old.subscribe(List.of(name));
            pollUntil("all for the first", List.of(old), got, () -> old.assignment().size() == 4 && got.size() == 40);
            old.commitSync();
            equal(get(admin.describeConsumerGroups(List.of(group)).all()).get(group).type(), GroupType.CLASSIC, "its type");
            try (var fresh = consumer(Map.of("group.id", group, "group.protocol", "consumer"))) {
                fresh.subscribe(List.of(name));
                pollUntil("two partitions each", List.of(old, fresh), second, () -> old.assignment().size() == 2 && fresh.assignment().size() == 2);
                equal(get(admin.describeConsumerGroups(List.of(group)).all()).get(group).type(), GroupType.CONSUMER, "its type");
                toFour(name, 40, 80);
                pollUntil("what came", List.of(old, fresh), second, () -> second.size() >= 40);
                equal(List.copyOf(second), IntStream.range(40, 80).boxed().toList(), "records of both");
                old.commitSync();
                fresh.commitSync();
            }
            toFour(name, 80, 120);
            pollUntil("all for the first again", List.of(old), third, () -> old.assignment().size() == 4 && third.size() >= 40);
            equal(List.copyOf(third), IntStream.range(80, 120).boxed().toList(), "records of the first");
            equal(get(admin.describeConsumerGroups(List.of(group)).all()).get(group).type(), GroupType.CLASSIC, "its type");
        }
    }

    static Map<String, Object> transactional(String id) {
        return Map.of("transactional.id", RUN + "-" + id, "transaction.timeout.ms", 30000);
    }

    /** So many records by one who reads committed ones only, and nothing behind them. */
    static List<Integer> committed(String topic, int partitions, int count) throws Exception {
        var all = IntStream.range(0, partitions).mapToObj(p -> new TopicPartition(topic, p)).toList();
        List<Integer> got = new ArrayList<>();
        try (var consumer = consumer(Map.of("isolation.level", "read_committed"))) {
            consumer.assign(all);
            consumer.seekToBeginning(all);
            long until = System.currentTimeMillis() + 40000;
            var ends = consumer.endOffsets(all); // the last stable ones
            while (!all.stream().allMatch(p -> consumer.position(p) >= ends.get(p))) {
                if (System.currentTimeMillis() > until) throw new AssertionError(got.size() + " of " + count + " records came");
                consumer.poll(Duration.ofMillis(500)).forEach(r -> got.add(Integer.parseInt(new String(r.value()))));
            }
        }
        Collections.sort(got);
        equal(got.size(), count, "committed records");
        return got;
    }

    static void settled(String id) throws Exception {
        eventually("the end of the transaction everywhere", () -> {
            var state = get(admin.describeTransactions(List.of(RUN + "-" + id)).all()).get(RUN + "-" + id).state();
            return state == TransactionState.COMPLETE_COMMIT || state == TransactionState.COMPLETE_ABORT || state == TransactionState.EMPTY;
        });
    }

    static void transactions() throws Exception {
        String name = topic("txn", 3);
        List<Integer> wanted = new ArrayList<>();
        try (var producer = producer(transactional("txn"))) {
            producer.initTransactions();
            for (int number = 0; number < 12; number++) {
                producer.beginTransaction();
                for (int value = number * 10; value < number * 10 + 10; value++) {
                    producer.send(new ProducerRecord<>(name, value % 3, null, Integer.toString(value).getBytes()));
                    if (number % 3 != 2) wanted.add(value);
                }
                if (number % 3 == 2) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
            settled("txn");
            equal(committed(name, 3, wanted.size()), wanted, "committed records");
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(name, 0, null, "7777".getBytes())).get(20, TimeUnit.SECONDS);
            var open = get(admin.describeTransactions(List.of(RUN + "-txn")).all()).get(RUN + "-txn");
            equal(open.state(), TransactionState.ONGOING, "state");
            equal(open.topicPartitions(), Set.of(new TopicPartition(name, 0)), "partitions of the open transaction");
            equal(get(admin.listTransactions().all()).stream().anyMatch(t -> t.transactionalId().equals(RUN + "-txn")), true, "it is listed");
            try (var heir = producer(transactional("txn"))) {
                heir.initTransactions();
                heir.beginTransaction();
                heir.send(new ProducerRecord<>(name, 0, null, "1000".getBytes()));
                heir.commitTransaction();
            }
            fails(KafkaException.class, producer::commitTransaction);
        }
        settled("txn");
        wanted.add(1000);
        equal(committed(name, 3, wanted.size()), wanted, "committed records");
    }

    /** A transaction that hangs because somebody wrote past its coordinator is found and aborted by the tools' calls. */
    static void abortTransaction() throws Exception {
        String name = topic("hang", 1);
        var at = new TopicPartition(name, 0);
        try (var producer = producer(transactional("hang"))) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(name, 0, null, "1".getBytes())).get(20, TimeUnit.SECONDS);
            var state = get(admin.describeProducers(List.of(at)).all()).get(at).activeProducers().get(0);
            equal(state.currentTransactionStartOffset(), OptionalLong.of(0), "start of the open transaction");
            get(admin.abortTransaction(new AbortTransactionSpec(at, state.producerId(), (short) state.producerEpoch(), 0)).all());
            equal(committed(name, 1, 0), List.of(), "records of the aborted transaction");
            get(admin.fenceProducers(List.of(RUN + "-hang")).all());
            fails(KafkaException.class, producer::commitTransaction);
        }
    }

    static void consumeTransformProduce() throws Exception {
        String source = topic("ctp-in", 2), sink = topic("ctp-out", 2);
        send(numbers(0, 300).stream().map(n -> new ProducerRecord<byte[], byte[]>(source, Integer.parseInt(new String(n)) % 2, null, n)).toList(), Map.of());
        try (var producer = producer(transactional("ctp")); var consumer = consumer(Map.of("group.id", RUN + "-ctp", "isolation.level", "read_committed", "max.poll.records", 25))) {
            producer.initTransactions();
            consumer.subscribe(List.of(source));
            long until = System.currentTimeMillis() + 60000;
            for (int done = 0, tries = 0; done < 300; ) {
                if (System.currentTimeMillis() > until) throw new AssertionError(done + " of 300");
                var records = consumer.poll(Duration.ofSeconds(1));
                if (records.isEmpty()) continue;
                tries++;
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (var r : records) {
                    producer.send(new ProducerRecord<>(sink, r.partition(), null, r.value()));
                    offsets.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                if (tries % 3 == 0) {
                    producer.abortTransaction();
                    var kept = consumer.committed(consumer.assignment());
                    for (var p : consumer.assignment()) consumer.seek(p, kept.get(p) == null ? 0 : kept.get(p).offset());
                } else {
                    producer.commitTransaction();
                    done += records.count();
                }
            }
        }
        settled("ctp");
        equal(committed(sink, 2, 300), IntStream.range(0, 300).boxed().toList(), "outputs");
        var offsets = get(admin.listConsumerGroupOffsets(RUN + "-ctp", new ListConsumerGroupOffsetsOptions().requireStable(true)).partitionsToOffsetAndMetadata());
        equal(offsets.values().stream().mapToLong(OffsetAndMetadata::offset).sum(), 300L, "committed offsets");
    }

    public static void main(String[] args) {
        admin = Admin.create(Map.of("bootstrap.servers", BROKER, "request.timeout.ms", 15000, "default.api.timeout.ms", 30000));
        check("create-topics", Checks::createTopics);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) check("file-" + codec, () -> carry(codec));
        check("file-multi", Checks::fileMulti);
        check("keys-headers", Checks::keysHeaders);
        for (String level : List.of("0", "1", "all")) check("acks-" + level, () -> acks(level));
        check("idempotent", Checks::idempotent);
        check("seek-offset", Checks::seekOffset);
        check("seek-time", Checks::seekTime);
        check("list-offsets", Checks::listOffsets);
        check("long-poll", Checks::longPoll);
        check("create-partitions", Checks::createPartitions);
        check("configs", Checks::configs);
        check("delete-records", Checks::deleteRecords);
        check("describe", Checks::describe);
        check("errors", Checks::errors);
        check("delete-topics", Checks::deleteTopics);
        check("transactions", Checks::transactions);
        check("abort-transaction", Checks::abortTransaction);
        if ("1".equals(System.getenv("DEJAQ_GROUPS"))) {
            check("consume-transform-produce", Checks::consumeTransformProduce);
            check("group-consume", () -> groupConsume("classic"));
            check("group-consume-848", () -> groupConsume("consumer"));
            for (String each : List.of("RangeAssignor", "RoundRobinAssignor", "StickyAssignor", "CooperativeStickyAssignor")) check("group-share-" + each, () -> groupShare("classic", each));
            for (String each : List.of("uniform", "range")) check("group-share-848-" + each, () -> groupShare("consumer", each));
            check("group-regex-848", Checks::groupRegex);
            for (String each : List.of("RangeAssignor", "CooperativeStickyAssignor")) check("group-upgrade-848-" + each, () -> groupUpgrade(each));
        }
        admin.close(Duration.ofSeconds(2));
        System.exit(0);
    }
}
