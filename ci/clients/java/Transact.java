// One member of a pipeline for `cargo ci txn-failover` (ci/src/txn_failover.rs), with Kafka's Java client: as
// ci/clients/python/transact.py. With -Dgroup.protocol=consumer as a member of a group of KIP-848.

import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;

public class Transact {
    static int turn;

    static void life(String source, String target, String group, String id, Path stop) {
        Map<String, Object> writes = Map.of("bootstrap.servers", System.getenv("DEJAQ_BROKER"), "transactional.id", id,
            "transaction.timeout.ms", 30000, "linger.ms", 5, "max.block.ms", 30000);
        String protocol = System.getProperty("group.protocol", "classic");
        var reads = new HashMap<String, Object>(Map.of("bootstrap.servers", System.getenv("DEJAQ_BROKER"), "group.id", group,
            "isolation.level", "read_committed", "enable.auto.commit", false, "auto.offset.reset", "earliest",
            "max.poll.records", 200, "group.protocol", protocol));
        if (protocol.equals("classic")) reads.putAll(Map.of("session.timeout.ms", 6000, "heartbeat.interval.ms", 1000));
        try (var producer = new KafkaProducer<>(writes, new StringSerializer(), new StringSerializer());
             var consumer = new KafkaConsumer<>(reads, new StringDeserializer(), new StringDeserializer())) {
            producer.initTransactions();
            consumer.subscribe(List.of(source));
            while (!Files.exists(stop)) {
                var records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) continue;
                boolean doomed = ++turn % 5 == 0;
                var behind = new HashMap<TopicPartition, OffsetAndMetadata>();
                producer.beginTransaction();
                for (var record : records) {
                    producer.send(new ProducerRecord<>(target, (doomed ? "X" : "") + record.value()));
                    behind.put(new TopicPartition(source, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                try {
                    producer.sendOffsetsToTransaction(behind, consumer.groupMetadata());
                } catch (CommitFailedException error) { // the group has another generation: KIP-447 says abort, and go on
                    doomed = true;
                }
                if (!doomed) {
                    producer.commitTransaction();
                    continue;
                }
                producer.abortTransaction();
                for (var partition : records.partitions())
                    if (consumer.assignment().contains(partition)) consumer.seek(partition, records.records(partition).get(0).offset());
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Path stop = Path.of(args[4]);
        while (!Files.exists(stop)) {
            try {
                life(args[0], args[1], args[2], args[3], stop);
            } catch (KafkaException error) { // what is not committed is read again, by whoever owns it then
                System.err.println("a new life: " + error);
            }
        }
    }
}
