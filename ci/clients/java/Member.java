// The members of one group for `cargo ci group-failover` (ci/src/group_failover.rs), with Kafka's Java client: two of them
// until FILE.stop is there. The lines of FILE are those of ci/clients/python/member.py.

import java.io.PrintWriter;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.stream.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Member {
    static PrintWriter out;

    static synchronized void tell(String kind, int number, Object... words) {
        long micros = System.currentTimeMillis() * 1000;
        String rest = Arrays.stream(words).map(word -> " " + word).collect(Collectors.joining());
        out.println(kind + " " + number + " " + micros + rest);
        if (!kind.equals("r")) out.flush();
    }

    static void member(int number, String topic, String group, String protocol, Path stop) {
        var config = new HashMap<String, Object>(Map.of("bootstrap.servers", System.getenv("DEJAQ_BROKER"), "group.id", group,
            "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", false));
        if (protocol.equals("classic")) config.putAll(Map.of("session.timeout.ms", 6000, "heartbeat.interval.ms", 1000));
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            Set<TopicPartition> owned = Set.of();
            while (!Files.exists(stop)) {
                var records = consumer.poll(Duration.ofMillis(200));
                for (var record : records) tell("r", number, record.partition(), record.offset(), record.value());
                if (!consumer.assignment().equals(owned)) {
                    owned = Set.copyOf(consumer.assignment());
                    tell("o", number, owned.stream().map(TopicPartition::partition).sorted().toArray());
                }
                if (records.isEmpty()) continue;
                try {
                    consumer.commitSync(Duration.ofSeconds(5));
                    tell("c", number);
                } catch (KafkaException error) { // a rebalance, or no coordinator: what is not committed is read again
                    System.err.println(error);
                }
            }
        }
    }

    public static void main(String[] args) throws Exception {
        out = new PrintWriter(args[3]);
        Path stop = Path.of(args[3] + ".stop");
        Thread[] threads = IntStream.range(0, 2).mapToObj(number -> new Thread(() -> member(number, args[0], args[1], args[2], stop))).toArray(Thread[]::new);
        for (Thread thread : threads) thread.start();
        for (Thread thread : threads) thread.join();
        out.close();
    }
}
