package main

// The members of one group for `cargo ci group-failover` (ci/src/group_failover.rs): two of them until FILE.stop is there.
// The lines of FILE are those of ci/clients/python/member.py.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// teller writes lines for all members of the process.
type teller struct {
	lock sync.Mutex
	out  *bufio.Writer
}

func (t *teller) tell(kind string, number int, words ...any) {
	t.lock.Lock()
	defer t.lock.Unlock()
	fmt.Fprintln(t.out, append([]any{kind, number, time.Now().UnixMicro()}, words...)...)
	if kind != "r" {
		try(t.out.Flush())
	}
}

// members: `member TOPIC GROUP PROTOCOL FILE`.
func members(topic, group, protocol, path string) {
	file := must(os.Create(path))
	defer file.Close()
	t := &teller{out: bufio.NewWriter(file)}
	defer t.out.Flush()
	var wait sync.WaitGroup
	for number := range 2 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			groupMember(t, number, topic, group, protocol, path+".stop")
		}()
	}
	wait.Wait()
}

func groupMember(t *teller, number int, topic, group, protocol, stop string) {
	owned := map[int32]bool{}
	change := func(owns bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			for _, p := range parts[topic] {
				delete(owned, p)
				if owns {
					owned[p] = true
				}
			}
			var words []any
			for p := range owned {
				words = append(words, p)
			}
			sort.Slice(words, func(i, j int) bool { return words[i].(int32) < words[j].(int32) })
			t.tell("o", number, words...)
		}
	}
	options := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Balancers(kgo.RangeBalancer()),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false))}
	if protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	} else {
		options = append(options, kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second))
	}
	c := client(options...)
	for {
		if _, err := os.Stat(stop); err == nil {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		fetches := c.PollRecords(ctx, 500)
		cancel()
		for _, e := range fetches.Errors() {
			if e.Err != context.DeadlineExceeded {
				fmt.Fprintln(os.Stderr, e.Err)
			}
		}
		for _, r := range fetches.Records() {
			t.tell("r", number, r.Partition, r.Offset, string(r.Value))
		}
		if fetches.NumRecords() > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := c.CommitUncommittedOffsets(ctx); err != nil {
				fmt.Fprintln(os.Stderr, err) // a rebalance, or no coordinator: what is not committed is read again
			} else {
				t.tell("c", number)
			}
			cancel()
		}
		c.AllowRebalance()
	}
	c.CloseAllowingRebalance()
}
