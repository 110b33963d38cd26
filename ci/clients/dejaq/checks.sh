#!/usr/bin/env bash
# Our own command line, which is the native client, as README types it; and how `start` takes its settings.
# Protocol of the output: ci/src/clients/mod.rs.
. "$(dirname "$0")/../harness.sh"
B=$DEJAQ_BROKER
RUN=$DEJAQ_RUN
T=$DEJAQ_TMP

# Without our own variables: `start` refuses DEJAQ_ names that are not settings.
dejaq() { env -i PATH="$PATH" "$DEJAQ_CLI" "$@"; }
topic() { local verb=$1; shift; dejaq topic "$verb" "$@" --bootstrap "$B"; }
produce() { dejaq produce --bootstrap "$B" "$@" 2>"$T/said"; }
consume() { dejaq consume --bootstrap "$B" --exit-at-end "$@"; }

carry() { # codec
    produce "$RUN-$1" "$DEJAQ_FILE" --compression "$1"
    consume "$RUN-$1" >"$T/got"
    same "$DEJAQ_FILE" "$T/got"
}

topics() {
    topic create "$RUN-topic" --partitions 2 --config retention.ms=604800000
    topic list | grep -q "^$RUN-topic "
    topic alter "$RUN-topic" --partitions 5 --set max.message.bytes=2000000
    topic describe "$RUN-topic" >"$T/described"
    grep -q '5 partition(s)' "$T/described"
    grep -q '604800000' "$T/described"
    grep -q '2000000' "$T/described"
    topic delete "$RUN-topic"
    topic list >"$T/topics"
    fails grep -q "^$RUN-topic " "$T/topics"
    fails topic delete "$RUN-topic" 2>"$T/refused"
    grep -q 'try: ' "$T/refused"
}

keys_headers() {
    printf 'k1:v1\nk2:v two\n' | produce "$RUN-keys" --key-separator : --header a=1 --acks 1
    equal "$(consume "$RUN-keys" --offsets --headers --key)" $'0:0\ta=1\tk1\tv1\n0:1\ta=1\tk2\tv two' text
    consume "$RUN-keys" --json | python3 -c 'import json, sys
rows = [json.loads(line) for line in sys.stdin]
assert [(row["offset"], row["key"], row["value"]) for row in rows] == [(0, "k1", "v1"), (1, "k2", "v two")], rows'
}

seek() {
    local at
    seq 0 9 | produce "$RUN-seek"
    sleep 0.3; at=$(date +%s%3N); sleep 0.3
    seq 10 19 | produce "$RUN-seek"
    equal "$(consume "$RUN-seek" --from offset:17 | xargs)" '17 18 19' 'from an offset'
    equal "$(consume "$RUN-seek" --from "timestamp:$at" | xargs)" "$(seq 10 19 | xargs)" 'from a time'
    equal "$(consume "$RUN-seek" --count 3 | xargs)" '0 1 2' 'a count'
    topic trim "$RUN-seek" --partition 0 --before 5
    equal "$(consume "$RUN-seek" | xargs)" "$(seq 5 19 | xargs)" 'what is left'
}

nobody_there() { # said within two seconds, though the verb tries longer
    dejaq topic list --bootstrap 127.0.0.1:1 --timeout-s 6 2>"$T/nobody" &
    local verb=$!
    sleep 2
    grep -q 'no broker answers at 127.0.0.1:1: is it running?' "$T/nobody"
    fails wait $verb
    grep -q 'try: ' "$T/nobody"
}

# Starts a broker in a folder of its own with what is given, and prints the line that says that it is ready.
started() {
    local broker line=
    : >"$T/started" # what the one before said must not be taken for this one's
    (cd "$T/start" && exec env -i PATH="$PATH" "${environment[@]}" "$DEJAQ_CLI" start "$@") >"$T/started" 2>&1 &
    broker=$!
    for _ in $(seq 100); do
        line=$(grep -o 'is ready at .*' "$T/started") && break
        kill -0 $broker 2>/dev/null || break
        sleep 0.1
    done
    kill -TERM $broker 2>/dev/null
    wait $broker
    echo "${line:-$(tail -n 2 "$T/started")}"
}

settings() { # flags, then environment, then file, then defaults
    local environment=(NOTHING=1)
    mkdir -p "$T/start"
    printf 'listen = "127.0.0.1:0"\nadvertise = "file.example:1"\nadmin-listen = ""\n' >"$T/start/dejaq.toml"
    grep -q 'ready at file.example:1\..*kcat -b .*data_dir="./dejaq-data"' <<<"$(started)"
    environment=(DEJAQ_ADVERTISE=environment.example:2)
    grep -q 'ready at environment.example:2\.' <<<"$(started)"
    grep -q 'ready at flag.example:3\.' <<<"$(started --advertise flag.example:3)"
    dejaq log verify "$T/start/dejaq-data" | grep -q 'everything is whole'
    printf 'listne = "x"\nsend-timeout-ms = 1\n' >"$T/start/dejaq.toml" # every error is said at once
    (cd "$T/start" && fails dejaq start) 2>"$T/wrong"
    grep -q 'did you mean listen' "$T/wrong"
    grep -q 'send-timeout-ms: 1 is not within' "$T/wrong"
}

group_consume() {
    local group="$RUN-g"
    topic create "$RUN-group" --partitions 3 >/dev/null
    seq 1000 | dejaq produce "$RUN-group" --bootstrap "$DEJAQ_BROKER" 2>/dev/null
    grouped() { dejaq consume "$RUN-group" --bootstrap "$DEJAQ_BROKER" --group "$group" --exit-at-end "$@"; }
    equal "$(grouped | sort -n | md5sum)" "$(seq 1000 | md5sum)" 'first read'
    equal "$(grouped | wc -l)" 0 'after the commit'
    dejaq group describe "$group" --bootstrap "$DEJAQ_BROKER" --json | grep -q '"lag":0'
    dejaq group reset-offsets "$group" --topic "$RUN-group" --to beginning --bootstrap "$DEJAQ_BROKER" >/dev/null
    equal "$(grouped --delivery at-most-once | sort -n | md5sum)" "$(seq 1000 | md5sum)" 'after the reset'
    dejaq group delete "$group" --bootstrap "$DEJAQ_BROKER" >/dev/null
    dejaq group list --bootstrap "$DEJAQ_BROKER" >"$T/groups"
    fails grep -q "$group" "$T/groups"
}

for codec in none gzip snappy lz4 zstd; do check "file-$codec" carry "$codec"; done
check topics topics
check keys-headers keys_headers
check seek seek
check nobody-there nobody_there
check settings settings
if [ "${DEJAQ_GROUPS:-0}" = 1 ]; then
    check group-consume group_consume
fi
exit 0
