package main

// The load of `cargo ci kill9`, `failover`, `drain`, `group-failover` and `txn-failover`: producers that write down every acknowledged record, and a reader.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// load: `produce TOPIC PARTITIONS SECONDS FILE [PAUSE_MS]`, `consume TOPIC PARTITIONS FILE`, `member …` (member.go), `transact …` or `committed …` (transact.go).
func load(args []string) {
	if args[0] == "member" {
		members(args[1], args[2], args[3], args[4])
		return
	}
	if args[0] == "transact" {
		transact(args[1], args[2], args[3], args[4], args[5])
		return
	}
	partitions := int32(must(strconv.Atoi(args[2])))
	switch args[0] {
	case "produce":
		pause := time.Millisecond
		if len(args) > 5 {
			pause *= time.Duration(must(strconv.Atoi(args[5])))
		}
		produceLoad(args[1], partitions, time.Duration(must(strconv.Atoi(args[3])))*time.Second, args[4], pause)
	case "committed":
		committedAll(args[1], partitions, args[3])
	case "consume":
		consumeAll(args[1], partitions, args[3])
	default:
		panic("unknown verb " + args[0])
	}
}

// produceLoad runs two idempotent producers and a plain one until the time is over, then waits for
// every record to be acknowledged; each rests for pause behind twenty records. A line of the file: partition, offset, value, when (µs since 1970).
func produceLoad(topic string, partitions int32, length time.Duration, path string, pause time.Duration) {
	file := must(os.Create(path))
	defer file.Close()
	out := bufio.NewWriter(file)
	defer out.Flush()
	var lock sync.Mutex
	var wait sync.WaitGroup
	until := time.Now().Add(length)
	for producer, options := range map[string][]kgo.Opt{
		"i0": {kgo.ProducerLinger(2 * time.Millisecond)},
		"i1": {kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.Lz4Compression())},
		"p0": {kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1)},
	} {
		wait.Add(1)
		go func() {
			defer wait.Done()
			one(producer, topic, partitions, until, pause, options, func(r *kgo.Record) {
				lock.Lock()
				defer lock.Unlock()
				fmt.Fprintf(out, "%d %d %s %d\n", r.Partition, r.Offset, r.Value, time.Now().UnixMicro())
			})
		}()
	}
	wait.Wait()
}

func one(producer, topic string, partitions int32, until time.Time, pause time.Duration, options []kgo.Opt, acked func(*kgo.Record)) {
	options = append(options, kgo.SeedBrokers(strings.Split(broker, ",")...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(200),
		kgo.ProduceRequestTimeout(5*time.Second), kgo.MetadataMinAge(50*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	c := must(kgo.NewClient(options...))
	defer c.Close()
	ctx := context.Background()
	for n := 0; time.Now().Before(until); n++ {
		p := int32(n) % partitions
		record := &kgo.Record{Partition: p, Value: fmt.Appendf(nil, "%s-%d-%d", producer, p, n/int(partitions))}
		c.Produce(ctx, record, func(r *kgo.Record, err error) {
			// Without a retry limit an error is final: the history would not be a history any more.
			try(err)
			acked(r)
		})
		if n%20 == 0 {
			time.Sleep(pause)
		}
	}
	try(c.Flush(ctx))
}

// consumeAll writes every record of the topic in the same form.
func consumeAll(topic string, partitions int32, path string) {
	file := must(os.Create(path))
	defer file.Close()
	out := bufio.NewWriter(file)
	defer out.Flush()
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	a, done := admin()
	defer done()
	ends := must(a.ListEndOffsets(ctx, topic))
	for p := range partitions {
		end, _ := ends.Lookup(topic, p)
		try(end.Err)
		for at := int64(0); at < end.Offset; {
			for _, r := range consume(ctx, topic, map[int32]kgo.Offset{p: kgo.NewOffset().At(at)}, int(end.Offset-at)) {
				fmt.Fprintf(out, "%d %d %s\n", r.Partition, r.Offset, r.Value)
				at = r.Offset + 1
			}
		}
	}
}
