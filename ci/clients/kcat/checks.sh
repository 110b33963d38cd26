#!/usr/bin/env bash
# kcat (librdkafka) as a person types it. Protocol of the output: ci/src/clients/mod.rs.
. "$(dirname "$0")/../harness.sh"
B=$DEJAQ_BROKER
RUN=$DEJAQ_RUN
T=$DEJAQ_TMP

produce() { kcat -b "$B" -P -t "$@"; }
consume() { kcat -b "$B" -C -q -e "$@"; }

list() { kcat -b "$B" -L | grep -q "broker .* at $B"; }

carry() { # codec
    produce "$RUN-$1" -z "$1" -l "$DEJAQ_FILE"
    consume -t "$RUN-$1" -o beginning -f '%s\n' >"$T/got"
    same "$DEJAQ_FILE" "$T/got"
}
file_none() { carry none; }
file_gzip() { carry gzip; }
file_snappy() { carry snappy; }
file_lz4() { carry lz4; }
file_zstd() { carry zstd; }

file_multi() {
    # A third of the file to each partition, then each partition apart and all together.
    for p in 0 1 2; do
        awk -v p=$p 'NR % 3 == p' "$DEJAQ_FILE" >"$T/part$p"
        produce "$RUN-multi" -p $p -l "$T/part$p"
        consume -t "$RUN-multi" -p $p -o beginning -f '%s\n' >"$T/got"
        same "$T/part$p" "$T/got"
    done
    consume -t "$RUN-multi" -o beginning -f '%s\n' | sort >"$T/all"
    sort "$DEJAQ_FILE" >"$T/wanted"
    same "$T/wanted" "$T/all"
    kcat -b "$B" -L -t "$RUN-multi" | grep -q 'with 3 partitions'
}

keys_headers() {
    printf 'k1:v1\nk2:v two\nk1:v3\n' | produce "$RUN-keys" -K: -H a=1 -H 'name=two words'
    equal "$(consume -t "$RUN-keys" -o beginning -f '%o|%k|%s|%h;')" \
        '0|k1|v1|a=1,name=two words;1|k2|v two|a=1,name=two words;2|k1|v3|a=1,name=two words;' records
    printf 'gone:\n' | produce "$RUN-keys" -K: -Z
    equal "$(consume -t "$RUN-keys" -o 3 -f '%k %S')" 'gone -1' tombstone
}

acks() { # level
    seq 1 500 >"$T/seq"
    produce "$RUN-acks-$1" -X "acks=$1" -l "$T/seq"
    for _ in $(seq 40); do # acks=0 may return before the append
        consume -t "$RUN-acks-$1" -o beginning -f '%s\n' >"$T/got"
        [ "$(wc -l <"$T/got")" -ge 500 ] && break
        sleep 0.1
    done
    same "$T/seq" "$T/got"
}
# The very first acks=0 produce to a topic still being created may be lost by design: create it first.
acks_0() { echo first | produce "$RUN-acks-0" >/dev/null; seq 1 500 >"$T/seq0"
    produce "$RUN-acks-0" -X acks=0 -l "$T/seq0"; (echo first; cat "$T/seq0") >"$T/wanted"
    for _ in $(seq 40); do
        consume -t "$RUN-acks-0" -o beginning -f '%s\n' >"$T/got"
        [ "$(wc -l <"$T/got")" -ge 501 ] && break
        sleep 0.1
    done
    same "$T/wanted" "$T/got"; }
acks_1() { acks 1; }
acks_all() { acks all; }

idempotent() {
    produce "$RUN-idem" -X enable.idempotence=true -X batch.num.messages=7 -z lz4 -l "$DEJAQ_FILE"
    consume -t "$RUN-idem" -o beginning -f '%s\n' >"$T/got"
    same "$DEJAQ_FILE" "$T/got"
}

seek_offset() {
    seq 0 99 | produce "$RUN-seek"
    equal "$(consume -t "$RUN-seek" -o 42 -c 3 -f '%s ')" '42 43 44 ' 'from 42'
    equal "$(consume -t "$RUN-seek" -o -5 -f '%s ')" '95 96 97 98 99 ' 'last five'
    equal "$(consume -t "$RUN-seek" -o end -f '%s ')" '' 'from the end'
}

seek_time() {
    seq 0 9 | produce "$RUN-time"
    sleep 0.3; local at; at=$(date +%s%3N); sleep 0.3
    seq 10 19 | produce "$RUN-time"
    equal "$(consume -t "$RUN-time" -p 0 -o s@"$at" -f '%s ')" '10 11 12 13 14 15 16 17 18 19 ' 'from a time'
    equal "$(consume -t "$RUN-time" -p 0 -o s@0 -o e@"$at" -f '%s ')" '0 1 2 3 4 5 6 7 8 9 ' 'until a time'
}

list_offsets() {
    seq 0 9 | produce "$RUN-query"
    equal "$(kcat -b "$B" -Q -t "$RUN-query:0:-2" | grep -o 'offset .*')" 'offset 0' earliest
    equal "$(kcat -b "$B" -Q -t "$RUN-query:0:-1" | grep -o 'offset .*')" 'offset 10' latest
    equal "$(kcat -b "$B" -Q -t "$RUN-query:0:0" | grep -o 'offset .*')" 'offset 0' 'since 1970'
    equal "$(kcat -b "$B" -Q -t "$RUN-query:0:$(($(date +%s) * 1000 + 3600000))" | grep -o 'offset .*')" \
        'offset -1' 'in an hour'
}

long_poll() {
    echo first | produce "$RUN-poll"
    timeout 20 kcat -b "$B" -C -q -u -t "$RUN-poll" -p 0 -o 1 -c 1 -X fetch.wait.max.ms=10000 -f '%s %T' >"$T/late" &
    local reader=$! sent got
    sleep 1.5
    echo second | produce "$RUN-poll"
    wait $reader
    got=$(date +%s%3N)
    sent=$(cut -d' ' -f2 "$T/late")
    equal "$(cut -d' ' -f1 "$T/late")" second 'the awaited record'
    [ $((got - sent)) -lt 2500 ] || { echo "woke $((got - sent)) ms after the record's timestamp"; return 1; }
}

unknown_topic() {
    if kcat -b "$B" -C -q -e -t "$RUN-not-there" -X allow.auto.create.topics=false -m 5; then
        echo 'consuming a topic that is not there succeeded'; return 1
    fi
}

group_consume() {
    seq 0 999 | produce "$RUN-group"
    equal "$(timeout 60 kcat -b "$B" -q -e -G "$RUN-g1" -X auto.offset.reset=earliest "$RUN-group" | sort -n | md5sum)" \
        "$(seq 0 999 | md5sum)" 'first read'
    echo more | produce "$RUN-group"
    equal "$(timeout 60 kcat -b "$B" -q -e -G "$RUN-g1" -X auto.offset.reset=earliest "$RUN-group")" more 'after the commit'
}

check list list
for codec in none gzip snappy lz4 zstd; do check "file-$codec" "file_$codec"; done
check file-multi file_multi
check keys-headers keys_headers
check acks-0 acks_0
check acks-1 acks_1
check acks-all acks_all
check idempotent idempotent
check seek-offset seek_offset
check seek-time seek_time
check list-offsets list_offsets
check long-poll long_poll
check unknown-topic unknown_topic
if [ "${DEJAQ_GROUPS:-0}" = 1 ]; then
    check group-consume group_consume
fi
exit 0
