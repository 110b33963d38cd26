package main

// Checks of transactions: kgo's own producer, and its session that consumes, transforms and produces.

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// committed reads partitions up to their last stable offsets and returns the numbers, sorted.
func committed(ctx context.Context, name string, partitions int32) (got []int) {
	a, done := admin()
	defer done()
	ends := must(a.ListCommittedOffsets(ctx, name))
	at := map[int32]kgo.Offset{}
	left := map[int32]int64{}
	for p := range partitions {
		end, _ := ends.Lookup(name, p)
		if end.Offset > 0 {
			at[p], left[p] = kgo.NewOffset().AtStart(), end.Offset
		}
	}
	c := client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: at}))
	defer c.Close()
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		try(fetches.Err())
		for _, record := range fetches.Records() {
			if record.Offset+1 >= left[record.Partition] {
				delete(left, record.Partition)
			}
			if !record.Attrs.IsControl() {
				var n int
				must(fmt.Sscan(string(record.Value), &n))
				got = append(got, n)
			}
		}
	}
	sort.Ints(got)
	return got
}

func sameNumbers(got, wanted []int) {
	equal(len(got), len(wanted), "count of committed records")
	for i := range got {
		equal(got[i], wanted[i], "committed record")
	}
}

func producer(name, id string) *kgo.Client {
	return client(kgo.DefaultProduceTopic(name), kgo.TransactionalID(run+"-"+id),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
}

func transactions(ctx context.Context) {
	name := topic(ctx, "txn", 3)
	c := producer(name, "txn")
	defer c.Close()
	var wanted []int
	for number := range 12 {
		try(c.BeginTransaction())
		end := kgo.TryCommit
		if number%3 == 2 {
			end = kgo.TryAbort
		}
		for value := number * 10; value < number*10+10; value++ {
			record := &kgo.Record{Partition: int32(value % 3), Value: fmt.Appendf(nil, "%d", value)}
			try(c.ProduceSync(ctx, record).FirstErr())
			if end == kgo.TryCommit {
				wanted = append(wanted, value)
			}
		}
		try(c.EndTransaction(ctx, end))
	}
	waitUntil(ctx, "all of the last transaction", func() bool { return len(committed(ctx, name, 3)) == len(wanted) })
	sameNumbers(committed(ctx, name, 3), wanted)
	// A new life of the id fences the first one.
	try(c.BeginTransaction())
	try(c.ProduceSync(ctx, &kgo.Record{Value: []byte("7777")}).FirstErr())
	heir := producer(name, "txn")
	defer heir.Close()
	try(heir.BeginTransaction())
	try(heir.ProduceSync(ctx, &kgo.Record{Value: []byte("1000")}).FirstErr())
	try(heir.EndTransaction(ctx, kgo.TryCommit))
	equal(c.EndTransaction(ctx, kgo.TryCommit) != nil, true, "the first one is fenced")
	wanted = append(wanted, 1000)
	waitUntil(ctx, "the record of the second life", func() bool { return len(committed(ctx, name, 3)) == len(wanted) })
	sameNumbers(committed(ctx, name, 3), wanted)
}

func consumeTransformProduce(ctx context.Context) {
	source, sink := topic(ctx, "ctp-in", 2), topic(ctx, "ctp-out", 2)
	var inputs []*kgo.Record
	var wanted []int
	for value := range 300 {
		inputs = append(inputs, &kgo.Record{Partition: int32(value % 2), Value: fmt.Appendf(nil, "%d", value)})
		wanted = append(wanted, value)
	}
	feeder := client(kgo.DefaultProduceTopic(source), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	try(feeder.ProduceSync(ctx, inputs...).FirstErr())
	feeder.Close()
	session := must(kgo.NewGroupTransactSession(kgo.SeedBrokers(broker), kgo.TransactionalID(run+"-ctp"),
		kgo.DefaultProduceTopic(sink), kgo.ConsumerGroup(run+"-ctp"), kgo.ConsumeTopics(source),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner())))
	defer session.Close()
	deadline := time.Now().Add(50 * time.Second)
	for done, tries := 0, 0; done < 300; {
		equal(time.Now().Before(deadline), true, fmt.Sprintf("%d of 300 in time", done))
		fetches := session.PollRecords(ctx, 25)
		try(fetches.Err())
		if len(fetches.Records()) == 0 {
			continue
		}
		tries++
		try(session.Begin())
		for _, record := range fetches.Records() {
			session.Produce(ctx, &kgo.Record{Partition: record.Partition, Value: record.Value}, nil)
		}
		end := kgo.TryCommit
		if tries%3 == 0 {
			end = kgo.TryAbort
		}
		if must(session.End(ctx, end)) {
			done += len(fetches.Records())
		}
	}
	waitUntil(ctx, "all outputs", func() bool { return len(committed(ctx, sink, 2)) >= 300 })
	sameNumbers(committed(ctx, sink, 2), wanted)
}
