package main

// One member of a pipeline for `cargo ci txn-failover` (ci/src/txn_failover.rs), as ci/clients/python/transact.py; and the
// reader of committed records that judges them all.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// transact: FROM TO GROUP ID STOP.
func transact(from, to, group, id, stop string) {
	turn := 0
	for !exists(stop) {
		if err := transactLife(from, to, group, id, stop, &turn); err != nil {
			fmt.Fprintln(os.Stderr, "a new life:", err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func transactLife(from, to, group, id, stop string, turn *int) error {
	ctx := context.Background()
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(strings.Split(broker, ",")...), kgo.TransactionalID(id),
		kgo.DefaultProduceTopic(to), kgo.ConsumerGroup(group), kgo.ConsumeTopics(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.TransactionTimeout(30*time.Second),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer session.Close()
	for !exists(stop) {
		wait, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		records := session.PollRecords(wait, 200).Records()
		cancel()
		if len(records) == 0 {
			continue
		}
		*turn++
		end, mark := kgo.TryCommit, ""
		if *turn%5 == 0 {
			end, mark = kgo.TryAbort, "X"
		}
		if err := session.Begin(); err != nil {
			return err
		}
		for _, r := range records {
			session.Produce(ctx, &kgo.Record{Value: []byte(mark + string(r.Value))}, nil)
		}
		if _, err := session.End(ctx, end); err != nil {
			return err
		}
	}
	return nil
}

// committedAll writes every record up to the last stable offset that a reader of committed records sees: partition, offset, value.
func committedAll(topic string, partitions int32, path string) {
	file := must(os.Create(path))
	defer file.Close()
	out := bufio.NewWriter(file)
	defer out.Flush()
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	a, done := admin()
	defer done()
	ends := must(a.ListCommittedOffsets(ctx, topic))
	at, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p := range partitions {
		end, _ := ends.Lookup(topic, p)
		try(end.Err)
		if end.Offset > 0 {
			at[p], left[p] = kgo.NewOffset().AtStart(), end.Offset
		}
	}
	c := client(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}))
	defer c.Close()
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		try(fetches.Err())
		for _, r := range fetches.Records() {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				fmt.Fprintf(out, "%d %d %s\n", r.Partition, r.Offset, r.Value)
			}
		}
	}
}
