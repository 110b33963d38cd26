#!/usr/bin/env bash
# Kafka's console tools as a person types them (their main classes; the scripts of the distribution
# only add a class path). Protocol of the output: ci/src/clients/mod.rs.
. "$(dirname "$0")/../harness.sh"
B=$DEJAQ_BROKER
RUN=$DEJAQ_RUN
T=$DEJAQ_TMP

tool() {
    java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
        -cp "$DEJAQ_JARS/*" "$@"
}
topics() { tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$B" "$@"; }
produce() { tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$B" "$@"; }
consume() { tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$B" --timeout-ms 30000 "$@"; }
configs() { tool kafka.admin.ConfigCommand --bootstrap-server "$B" --entity-type topics "$@"; }
# Bounded reads end by themselves; they assign, so no group is needed.
from() { consume --topic "$1" --partition 0 --offset "$2" --max-messages "$3"; }

topic_command() {
    topics --create --topic "$RUN-tool" --partitions 2 --replication-factor 1 --config retention.ms=604800000
    topics --list | grep -qx "$RUN-tool"
    topics --alter --topic "$RUN-tool" --partitions 5
    topics --describe --topic "$RUN-tool" >"$T/described"
    grep -q 'PartitionCount: 5' "$T/described"
    grep -q 'retention.ms=604800000' "$T/described"
    topics --delete --topic "$RUN-tool"
    for _ in 1 2 3; do topics --list | grep -qx "$RUN-tool" || return 0; done
    echo 'the topic is still listed'; return 1
}

carry() { # codec
    produce --topic "$RUN-$1" --compression-codec "$1" <"$DEJAQ_FILE"
    from "$RUN-$1" earliest "$(wc -l <"$DEJAQ_FILE")" >"$T/got"
    same "$DEJAQ_FILE" "$T/got"
}

keys_headers() {
    printf 'a:1,b:2\tk1\tv1\nc:3\tk2\tv2\n' | produce --topic "$RUN-keys" \
        --reader-property parse.key=true --reader-property parse.headers=true --command-property acks=all
    consume --topic "$RUN-keys" --partition 0 --offset earliest --max-messages 2 \
        --formatter-property print.key=true --formatter-property print.headers=true >"$T/got"
    printf 'a:1,b:2\tk1\tv1\nc:3\tk2\tv2\n' >"$T/wanted"
    same "$T/wanted" "$T/got"
    equal "$(from "$RUN-keys" 1 1)" v2 'from offset 1'
}

offsets_and_records() {
    local name=$RUN-cut
    seq 0 99 | produce --topic "$name"
    shell() { tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$name" --time "$1"; }
    equal "$(shell -1)" "$name:0:100" latest
    echo "{\"partitions\": [{\"topic\": \"$name\", \"partition\": 0, \"offset\": 60}], \"version\": 1}" >"$T/cut.json"
    tool org.apache.kafka.tools.DeleteRecordsCommand --bootstrap-server "$B" --offset-json-file "$T/cut.json" >"$T/cut"
    grep -q 'low_watermark: 60' "$T/cut"
    equal "$(shell -2)" "$name:0:60" earliest
    equal "$(from "$name" earliest 40 | xargs)" "$(seq 60 99 | xargs)" 'what is left'
}

seek_time() {
    local name=$RUN-time at
    seq 0 9 | produce --topic "$name"
    sleep 0.3; at=$(date +%s%3N); sleep 0.3
    seq 10 19 | produce --topic "$name"
    equal "$(tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$name" --time "$at")" \
        "$name:0:10" 'the first offset since a time'
    equal "$(from "$name" 10 10 | xargs)" "$(seq 10 19 | xargs)" 'from a time'
}

config_command() {
    topics --create --topic "$RUN-conf" --partitions 1 --replication-factor 1
    configs --alter --entity-name "$RUN-conf" --add-config retention.ms=123456789,segment.bytes=12345678
    configs --describe --entity-name "$RUN-conf" >"$T/conf"
    grep -q 'retention.ms=123456789' "$T/conf"
    grep -q 'segment.bytes=12345678' "$T/conf"
    configs --alter --entity-name "$RUN-conf" --delete-config retention.ms
    configs --describe --entity-name "$RUN-conf" >"$T/conf"
    fails grep -q 'retention.ms=' "$T/conf"
}

log_dirs() {
    tool org.apache.kafka.tools.LogDirsCommand --bootstrap-server "$B" --describe --topic-list "$RUN-cut" >"$T/dirs"
    grep -q "\"partition\":\"$RUN-cut-0\"" "$T/dirs"
}

versions() { tool org.apache.kafka.tools.BrokerApiVersionsCommand --bootstrap-server "$B" | grep -q 'Produce(0): '; }

perf() {
    topics --create --topic "$RUN-perf" --partitions 3 --replication-factor 1
    tool org.apache.kafka.tools.ProducerPerformance --topic "$RUN-perf" --num-records 20000 --record-size 200 \
        --throughput -1 --command-property "bootstrap.servers=$B" compression.type=lz4 | grep -q '20000 records sent'
    equal "$(tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$B" --topic "$RUN-perf" |
        awk -F: '{ sum += $3 } END { print sum }')" 20000 'records in all partitions'
}

group_consume() {
    seq 0 99 | produce --topic "$RUN-group"
    read_group() { consume --topic "$RUN-group" --group "$RUN-g" --command-property auto.offset.reset=earliest --max-messages "$1"; }
    equal "$(read_group 100 | xargs)" "$(seq 0 99 | xargs)" 'first read'
    echo more | produce --topic "$RUN-group"
    equal "$(read_group 1)" more 'after the commit'
    tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$B" --describe --group "$RUN-g" >"$T/group"
    grep -q "$RUN-group *0 *101 *101 *0 " "$T/group"
}

check topic-command topic_command
for codec in none gzip snappy lz4 zstd; do check "file-$codec" carry "$codec"; done
check keys-headers keys_headers
check offsets-and-records offsets_and_records
check seek-time seek_time
check config-command config_command
check log-dirs log_dirs
check api-versions versions
check perf perf
if [ "${DEJAQ_GROUPS:-0}" = 1 ]; then
    check group-consume group_consume
fi
exit 0
