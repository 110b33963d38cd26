// One idempotent producer beside the load of `cargo ci failover`, `drain` and `mend` (ci/src/load.rs), with Kafka's Java client: as
// ci/clients/python/load.py.

import java.io.PrintWriter;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.StringSerializer;

public class Load {
    public static void main(String[] args) throws Exception {
        int partitions = Integer.parseInt(args[1]);
        long until = System.nanoTime() + Long.parseLong(args[2]) * 1_000_000_000L;
        Map<String, Object> config = Map.of("bootstrap.servers", System.getenv("DEJAQ_BROKER"), "acks", "all",
            "enable.idempotence", true, "linger.ms", 2, "retry.backoff.ms", 50, "max.block.ms", 90_000);
        var failed = new AtomicReference<Exception>();
        try (var out = new PrintWriter(args[3])) {
            try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
                for (int n = 0; System.nanoTime() < until && failed.get() == null; n++) {
                    int partition = n % partitions;
                    String value = args[4] + "-" + partition + "-" + n / partitions;
                    producer.send(new ProducerRecord<>(args[0], partition, null, value), (at, error) -> {
                        if (error != null) failed.compareAndSet(null, error);
                        else out.println(at.partition() + " " + at.offset() + " " + value + " " + System.currentTimeMillis() * 1000);
                    });
                    if (n % 20 == 0) Thread.sleep(20);
                }
            } // waits for every answer
        }
        if (failed.get() != null) throw failed.get();
    }
}
