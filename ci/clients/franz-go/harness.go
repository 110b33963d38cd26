package main

// The check protocol of `cargo ci clients` (ci/src/clients/mod.rs), in Go.

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	broker = os.Getenv("DEJAQ_BROKER")
	run    = os.Getenv("DEJAQ_RUN")
	behind = os.Getenv("DEJAQ_AFTER")
)

// check runs f and prints its result; a panic is a failure with the panic's words.
func check(name string, f func(context.Context)) {
	if behind != "" {
		if name == behind {
			behind = ""
		}
		return
	}
	if !strings.Contains(name, os.Getenv("DEJAQ_ONLY")) {
		return
	}
	fmt.Println("start", name)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	defer func() {
		if why := recover(); why != nil {
			text := strings.ReplaceAll(fmt.Sprint(why), "\n", " ")
			fmt.Printf("not ok %s: %.400s\n", name, text)
			return
		}
		fmt.Println("ok", name)
	}()
	f(ctx)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func try(err error) {
	if err != nil {
		panic(err)
	}
}

func equal[T comparable](got, wanted T, what string) {
	if got != wanted {
		panic(fmt.Sprintf("%s: got %v, wanted %v", what, got, wanted))
	}
}

// corpus is the file to carry, as lines.
func corpus() [][]byte {
	text := must(os.ReadFile(os.Getenv("DEJAQ_FILE")))
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

func client(options ...kgo.Opt) *kgo.Client {
	return must(kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(broker, ",")...), kgo.RetryTimeout(20 * time.Second)}, options...)...))
}

// consume reads count records of the given partitions from the given offsets.
func consume(ctx context.Context, topic string, from map[int32]kgo.Offset, count int, options ...kgo.Opt) []*kgo.Record {
	options = append(options, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	c := client(options...)
	defer c.Close()
	var records []*kgo.Record
	for len(records) < count {
		fetches := c.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			panic(fmt.Sprintf("after %d of %d records: %v", len(records), count, e.Err))
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

func start() map[int32]kgo.Offset { return at(0) }

func at(offset int64) map[int32]kgo.Offset {
	return map[int32]kgo.Offset{0: kgo.NewOffset().At(offset)}
}
