// Checks with franz-go: kgo for data, kadm for admin, raw kmsg where neither has a face.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	if len(os.Args) > 1 {
		load(os.Args[1:])
		return
	}
	check("api-versions", apiVersions)
	check("create-topics", createTopics)
	check("list", list)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for i, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		check("file-"+name, func(ctx context.Context) { carry(ctx, run+"-"+name, int8(i), kgo.ProducerBatchCompression(codecs[i])) })
	}
	check("file-multi", fileMulti)
	check("keys-headers", keysHeaders)
	check("acks-0", acksNone)
	check("acks-1", func(ctx context.Context) { acks(ctx, "acks-1", kgo.LeaderAck()) })
	check("acks-all", func(ctx context.Context) { acks(ctx, "acks-all", kgo.AllISRAcks()) })
	check("idempotent", idempotent)
	check("seek-offset", seekOffset)
	check("seek-time", seekTime)
	check("list-offsets", listOffsets)
	check("epoch-end-offset", epochEndOffset)
	check("long-poll", longPoll)
	check("fetch-without-session", fetchWithoutSession)
	check("out-of-range", outOfRange)
	check("create-partitions", createPartitions)
	check("configs", configs)
	check("delete-records", deleteRecords)
	check("describe-cluster", describeCluster)
	check("describe-log-dirs", describeLogDirs)
	check("describe-producers", describeProducers)
	check("errors", adminErrors)
	check("delete-topics", deleteTopics)
	check("transactions", transactions)
	if os.Getenv("DEJAQ_GROUPS") == "1" {
		check("consume-transform-produce", consumeTransformProduce)
		check("group-consume", groupConsume)
	}
}

// admin is a fresh admin client with its connection.
func admin() (*kadm.Client, func()) {
	c := client()
	return kadm.NewClient(c), c.Close
}

// topic creates run-name with so many partitions and returns its name.
func topic(ctx context.Context, name string, partitions int32) string {
	a, done := admin()
	defer done()
	name = run + "-" + name
	r := must(a.CreateTopic(ctx, partitions, 1, nil, name))
	try(r.Err)
	return name
}

func produce(ctx context.Context, name string, values [][]byte, options ...kgo.Opt) []*kgo.Record {
	c := client(append(options, kgo.DefaultProduceTopic(name), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	defer c.Close()
	records := make([]*kgo.Record, len(values))
	for i, value := range values {
		records[i] = &kgo.Record{Value: value}
	}
	for i, result := range c.ProduceSync(ctx, records...) {
		if result.Err != nil {
			panic(fmt.Sprintf("record %d: %v", i, result.Err))
		}
	}
	return records
}

func same(got []*kgo.Record, wanted [][]byte) {
	equal(len(got), len(wanted), "count of records")
	for i, record := range got {
		equal(record.Offset, got[0].Offset+int64(i), "offset")
		if !bytes.Equal(record.Value, wanted[i]) {
			panic(fmt.Sprintf("record %d: got %.60q, wanted %.60q", i, record.Value, wanted[i]))
		}
	}
}

func numbers(from, to int) (values [][]byte) {
	for i := from; i < to; i++ {
		values = append(values, fmt.Appendf(nil, "%d", i))
	}
	return values
}

func apiVersions(ctx context.Context) {
	a, done := admin()
	defer done()
	versions := must(a.ApiVersions(ctx))
	equal(len(versions) > 0, true, "brokers")
	for _, v := range versions {
		try(v.Err)
		// KAFKA-18659: a minimum above 0 makes old librdkafka send uncompressed.
		minimum, _ := v.KeyMinVersion(0)
		equal(minimum, 0, "lowest version of Produce")
	}
}

func createTopics(ctx context.Context) {
	a, done := admin()
	defer done()
	seven := "604800000"
	r := must(a.CreateTopics(ctx, 4, -1, map[string]*string{"retention.ms": &seven}, run+"-made", run+"-made-too"))
	try(r.Error())
	details := must(a.ListTopics(ctx, run+"-made", run+"-made-too"))
	equal(len(details), 2, "topics")
	for _, d := range details {
		try(d.Err)
		equal(len(d.Partitions), 4, "partitions")
		equal(d.ID == kadm.TopicID{}, false, "the topic id is zero")
	}
	got := must(a.DescribeTopicConfigs(ctx, run+"-made"))
	equal(valueOf(must(got.On(run+"-made", nil)), "retention.ms"), seven, "retention.ms")
	dry := must(a.ValidateCreateTopics(ctx, 1, 1, nil, run+"-dry"))
	try(dry.Error())
	after := must(a.ListTopics(ctx, run+"-dry"))
	equal(errors.Is(after[run+"-dry"].Err, kerr.UnknownTopicOrPartition), true, "a validated topic is not made")
}

func list(ctx context.Context) {
	a, done := admin()
	defer done()
	topics := must(a.ListTopics(ctx))
	equal(topics.Has(run+"-made"), true, "the topic in the list of all")
	metadata := must(a.BrokerMetadata(ctx))
	equal(len(metadata.Brokers) > 0, true, "brokers in the metadata")
	equal(metadata.Cluster != "", true, "a cluster id")
}

// carry takes the whole file through one partition and looks at the codec that came back.
func carry(ctx context.Context, name string, codec int8, options ...kgo.Opt) {
	a, done := admin()
	defer done()
	r := must(a.CreateTopic(ctx, 1, 1, nil, name))
	try(r.Err)
	lines := corpus()
	produce(ctx, name, lines, options...)
	got := consume(ctx, name, start(), len(lines))
	same(got, lines)
	// A batch that compression does not shrink may be sent plain: most must carry the codec.
	carried := 0
	for _, record := range got {
		if int8(record.Attrs.CompressionType()) == codec {
			carried++
		}
	}
	equal(carried > len(lines)/2, true, fmt.Sprintf("%d of %d records carry codec %d", carried, len(lines), codec))
}

func fileMulti(ctx context.Context) {
	name := topic(ctx, "multi", 5)
	lines := corpus()
	c := client(kgo.DefaultProduceTopic(name), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	defer c.Close()
	var records []*kgo.Record
	wanted := make([][][]byte, 5)
	for i, line := range lines {
		p := i % 5
		wanted[p] = append(wanted[p], line)
		records = append(records, &kgo.Record{Partition: int32(p), Key: fmt.Appendf(nil, "k%d", i), Value: line})
	}
	try(c.ProduceSync(ctx, records...).FirstErr())
	from := map[int32]kgo.Offset{}
	for p := range int32(5) {
		from[p] = kgo.NewOffset().AtStart()
	}
	got := make([][]*kgo.Record, 5)
	for _, record := range consume(ctx, name, from, len(lines)) {
		got[record.Partition] = append(got[record.Partition], record)
	}
	for p := range got {
		same(got[p], wanted[p])
	}
}

func keysHeaders(ctx context.Context) {
	name := topic(ctx, "keys", 1)
	c := client(kgo.DefaultProduceTopic(name))
	defer c.Close()
	at := time.UnixMilli(time.Now().UnixMilli() - 5000)
	sent := []*kgo.Record{
		{Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "", Value: []byte{0, 255}}}, Timestamp: at},
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
	}
	try(c.ProduceSync(ctx, sent...).FirstErr())
	got := consume(ctx, name, start(), 3)
	for i := range sent {
		equal(string(got[i].Key), string(sent[i].Key), "key")
		equal(got[i].Key == nil, sent[i].Key == nil, "null key")
		equal(got[i].Value == nil, sent[i].Value == nil, "null value")
	}
	equal(fmt.Sprint(got[0].Headers), fmt.Sprint(sent[0].Headers), "headers")
	equal(got[0].Timestamp.UnixMilli(), at.UnixMilli(), "timestamp")
}

func acks(ctx context.Context, name string, level kgo.Acks) {
	name = topic(ctx, name, 1)
	records := produce(ctx, name, numbers(0, 500), kgo.RequiredAcks(level), kgo.DisableIdempotentWrite())
	equal(records[499].Offset, 499, "offset of the last record")
	same(consume(ctx, name, start(), 500), numbers(0, 500))
}

func acksNone(ctx context.Context) {
	name := topic(ctx, "acks-0", 1)
	produce(ctx, name, numbers(0, 500), kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	same(consume(ctx, name, start(), 500), numbers(0, 500))
}

func idempotent(ctx context.Context) {
	name := topic(ctx, "idem", 1)
	lines := corpus()
	produce(ctx, name, lines, kgo.ProducerBatchMaxBytes(20000))
	got := consume(ctx, name, start(), len(lines))
	same(got, lines)
	equal(got[0].ProducerID >= 0, true, "the records carry a producer id")
	equal(got[0].ProducerEpoch, 0, "producer epoch")
}

func seekOffset(ctx context.Context) {
	name := topic(ctx, "seek", 1)
	produce(ctx, name, numbers(0, 100))
	same(consume(ctx, name, at(42), 58), numbers(42, 100))
	same(consume(ctx, name, map[int32]kgo.Offset{0: kgo.NewOffset().AtEnd().Relative(-5)}, 5), numbers(95, 100))
}

// produceAt makes one batch per value, a second apart.
func produceAt(ctx context.Context, name string, base time.Time, values [][]byte) {
	c := client(kgo.DefaultProduceTopic(name))
	defer c.Close()
	for i, value := range values {
		stamp := base.Add(time.Duration(i) * time.Second)
		try(c.ProduceSync(ctx, &kgo.Record{Value: value, Timestamp: stamp}).FirstErr())
	}
}

func seekTime(ctx context.Context) {
	name := topic(ctx, "time", 1)
	base := time.Now().Add(-time.Hour)
	produceAt(ctx, name, base, numbers(0, 20))
	from := func(stamp time.Time) map[int32]kgo.Offset {
		return map[int32]kgo.Offset{0: kgo.NewOffset().AfterMilli(stamp.UnixMilli())}
	}
	same(consume(ctx, name, from(base.Add(7*time.Second)), 13), numbers(7, 20))
	same(consume(ctx, name, from(base.Add(6500*time.Millisecond)), 13), numbers(7, 20))
	same(consume(ctx, name, from(base.Add(-time.Hour)), 20), numbers(0, 20))
}

func listOffsets(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "offsets", 1)
	base := time.Now().Add(-time.Hour)
	only := func(l kadm.ListedOffsets, err error) kadm.ListedOffset {
		try(err)
		got, _ := l.Lookup(name, 0)
		try(got.Err)
		return got
	}
	equal(only(a.ListEndOffsets(ctx, name)).Offset, 0, "latest of an empty topic")
	equal(only(a.ListMaxTimestampOffsets(ctx, name)).Offset, -1, "max timestamp of an empty topic")
	produceAt(ctx, name, base, numbers(0, 10))
	equal(only(a.ListStartOffsets(ctx, name)).Offset, 0, "earliest")
	equal(only(a.ListEndOffsets(ctx, name)).Offset, 10, "latest")
	equal(only(a.ListCommittedOffsets(ctx, name)).Offset, 10, "last stable")
	found := only(a.ListOffsetsAfterMilli(ctx, base.Add(2500*time.Millisecond).UnixMilli(), name))
	equal(found.Offset, 3, "after a time")
	equal(found.Timestamp, base.Add(3*time.Second).UnixMilli(), "its timestamp")
	newest := only(a.ListMaxTimestampOffsets(ctx, name))
	equal(newest.Offset, 9, "max timestamp")
	equal(newest.Timestamp, base.Add(9*time.Second).UnixMilli(), "the max timestamp")
}

func epochEndOffset(ctx context.Context) {
	name := topic(ctx, "epoch", 1)
	produce(ctx, name, numbers(0, 10))
	c := client()
	defer c.Close()
	request := kmsg.NewPtrOffsetForLeaderEpochRequest()
	t := kmsg.NewOffsetForLeaderEpochRequestTopic()
	t.Topic = name
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.CurrentLeaderEpoch, p.LeaderEpoch = -1, consume(ctx, name, start(), 1)[0].LeaderEpoch
	t.Partitions = append(t.Partitions, p)
	request.Topics = append(request.Topics, t)
	request.ReplicaID = -1
	answer := must(request.RequestWith(ctx, c)).Topics[0].Partitions[0]
	try(kerr.ErrorForCode(answer.ErrorCode))
	equal(answer.EndOffset, 10, "end of the current epoch")
	equal(answer.LeaderEpoch, p.LeaderEpoch, "epoch")
}

func longPoll(ctx context.Context) {
	name := topic(ctx, "poll", 1)
	c := client(kgo.FetchMaxWait(10*time.Second), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: start()}))
	defer c.Close()
	// Several rounds in one session: the wait must end each time, at once.
	for i := range 3 {
		go func() {
			time.Sleep(700 * time.Millisecond)
			produce(ctx, name, numbers(i, i+1))
		}()
		fetches := c.PollFetches(ctx)
		got := time.Now()
		try(fetches.Err())
		records := fetches.Records()
		equal(len(records), 1, "records of one poll")
		late := got.Sub(records[0].Timestamp)
		equal(late < 2*time.Second, true, fmt.Sprintf("woke %v after the record was made", late))
	}
}

func fetchWithoutSession(ctx context.Context) {
	name := topic(ctx, "sessionless", 1)
	produce(ctx, name, numbers(0, 100))
	same(consume(ctx, name, start(), 100, kgo.DisableFetchSessions()), numbers(0, 100))
	// A limit below one batch still brings a batch (KIP-74).
	same(consume(ctx, name, start(), 100, kgo.FetchMaxPartitionBytes(1), kgo.FetchMaxBytes(1)), numbers(0, 100))
}

func outOfRange(ctx context.Context) {
	name := topic(ctx, "range", 1)
	produce(ctx, name, numbers(0, 10))
	c := client(kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: at(1000)}))
	defer c.Close()
	err := c.PollFetches(ctx).Err()
	equal(errors.Is(err, kerr.OffsetOutOfRange), true, fmt.Sprintf("an error that says so, got %v", err))
	// With a reset policy the client goes on from the start.
	same(consume(ctx, name, at(1000), 10, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), numbers(0, 10))
}

func createPartitions(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "grow", 1)
	r := must(a.UpdatePartitions(ctx, 3, name))
	try(must(r.On(name, nil)).Err)
	waitUntil(ctx, "three partitions", func() bool { return len(must(a.ListTopics(ctx, name))[name].Partitions) == 3 })
	r = must(a.UpdatePartitions(ctx, 2, name))
	equal(errors.Is(r[name].Err, kerr.InvalidPartitions), true, fmt.Sprintf("fewer partitions: %v", r[name].Err))
	c := client(kgo.DefaultProduceTopic(name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer c.Close()
	try(c.ProduceSync(ctx, &kgo.Record{Partition: 2, Value: []byte("new")}).FirstErr())
}

func waitUntil(ctx context.Context, what string, done func() bool) {
	for range 100 {
		if done() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	panic("never came: " + what)
}

func valueOf(configs kadm.ResourceConfig, name string) string {
	for _, c := range configs.Configs {
		if c.Key == name {
			return c.MaybeValue()
		}
	}
	return "(absent)"
}

func configs(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "configs", 1)
	read := func(key string) string {
		got := must(a.DescribeTopicConfigs(ctx, name))
		return valueOf(must(got.On(name, nil)), key)
	}
	equal(read("cleanup.policy"), "delete", "the default cleanup.policy")
	value := "123456789"
	try(must(a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, name))[0].Err)
	waitUntil(ctx, "the new retention.ms", func() bool { return read("retention.ms") == value })
	try(must(a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "retention.ms"}}, name))[0].Err)
	waitUntil(ctx, "the default retention.ms", func() bool { return read("retention.ms") != value })
	bad := "minus one"
	err := must(a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &bad}}, name))[0].Err
	equal(errors.Is(err, kerr.InvalidConfig), true, fmt.Sprintf("a value that is no number: %v", err))
	one := "1"
	err = must(a.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "no.such.config", Value: &one}}, name))[0].Err
	equal(errors.Is(err, kerr.InvalidConfig), true, fmt.Sprintf("an unknown config: %v", err))
	try(must(a.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "segment.bytes", Value: &value}}, name))[0].Err)
	waitUntil(ctx, "segment.bytes by the old call", func() bool { return read("segment.bytes") == value })
	metadata := must(a.BrokerMetadata(ctx))
	brokers := must(a.DescribeBrokerConfigs(ctx, metadata.Brokers[0].NodeID))
	try(brokers[0].Err)
	equal(len(brokers[0].Configs) > 0, true, "broker configs")
}

func deleteRecords(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "cut", 1)
	produce(ctx, name, numbers(0, 100))
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: name, Partition: 0, At: 60})
	answer, _ := must(a.DeleteRecords(ctx, offsets)).Lookup(name, 0)
	try(answer.Err)
	equal(answer.LowWatermark, 60, "low watermark")
	same(consume(ctx, name, map[int32]kgo.Offset{0: kgo.NewOffset().AtStart()}, 40), numbers(60, 100))
	offsets = nil
	offsets.Add(kadm.Offset{Topic: name, Partition: 0, At: 101})
	answer, _ = must(a.DeleteRecords(ctx, offsets)).Lookup(name, 0)
	equal(errors.Is(answer.Err, kerr.OffsetOutOfRange), true, fmt.Sprintf("beyond the end: %v", answer.Err))
	offsets = nil
	offsets.Add(kadm.Offset{Topic: name, Partition: 0, At: -1})
	answer, _ = must(a.DeleteRecords(ctx, offsets)).Lookup(name, 0)
	try(answer.Err)
	equal(answer.LowWatermark, 100, "low watermark after deleting all")
}

func describeCluster(ctx context.Context) {
	c := client()
	defer c.Close()
	answer := must(kmsg.NewPtrDescribeClusterRequest().RequestWith(ctx, c))
	try(kerr.ErrorForCode(answer.ErrorCode))
	equal(len(answer.Brokers) > 0, true, "brokers")
	equal(fmt.Sprintf("%s:%d", answer.Brokers[0].Host, answer.Brokers[0].Port), broker, "the listener we came by")
}

func describeLogDirs(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "dirs", 2)
	produce(ctx, name, numbers(0, 100))
	dirs := must(a.DescribeAllLogDirs(ctx, kadm.TopicsSet{name: {0: {}, 1: {}}}))
	found := 0
	dirs.Each(func(d kadm.DescribedLogDir) {
		try(d.Err)
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			found++
			if p.Partition == 0 {
				equal(p.Size > 100, true, fmt.Sprintf("size %d", p.Size))
			}
		})
	})
	equal(found, 2, "partitions in the log directories")
}

func describeProducers(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "producers", 1)
	sent := produce(ctx, name, numbers(0, 10))
	answer := must(a.DescribeProducers(ctx, kadm.TopicsSet{name: {0: {}}}))
	producers := answer.SortedProducers()
	equal(len(producers), 1, "active producers")
	equal(producers[0].ProducerID, sent[0].ProducerID, "producer id")
	equal(producers[0].LastSequence, 9, "last sequence")
}

func adminErrors(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "errors", 1)
	expect := func(what string, got error, wanted error) {
		equal(errors.Is(got, wanted), true, fmt.Sprintf("%s: got %v", what, got))
	}
	create := func(partitions int32, replicas int16, configs map[string]*string, name string) error {
		return must(a.CreateTopics(ctx, partitions, replicas, configs, name))[name].Err
	}
	bad := "x"
	expect("again", create(1, 1, nil, name), kerr.TopicAlreadyExists)
	expect("bad name", create(1, 1, nil, "no/slash"), kerr.InvalidTopicException)
	expect("no partitions", create(0, 1, nil, run+"-p0"), kerr.InvalidPartitions)
	expect("too many replicas", create(1, 99, nil, run+"-r99"), kerr.InvalidReplicationFactor)
	expect("bad config", create(1, 1, map[string]*string{"retention.ms": &bad}, run+"-c"), kerr.InvalidConfig)
	gone := must(a.DeleteTopics(ctx, run+"-never"))
	expect("delete unknown", gone[run+"-never"].Err, kerr.UnknownTopicOrPartition)
	c := client(kgo.DefaultProduceTopic(name), kgo.ProducerBatchMaxBytes(3<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer c.Close()
	expect("too large", c.ProduceSync(ctx, &kgo.Record{Value: make([]byte, 2<<20)}).FirstErr(), kerr.MessageTooLarge)
}

func deleteTopics(ctx context.Context) {
	a, done := admin()
	defer done()
	name := topic(ctx, "doomed", 2)
	produce(ctx, name, numbers(0, 10))
	try(must(a.DeleteTopics(ctx, name)).Error())
	waitUntil(ctx, "the topic is gone", func() bool {
		return errors.Is(must(a.ListTopics(ctx, name))[name].Err, kerr.UnknownTopicOrPartition)
	})
	// The same name again is a new, empty topic.
	var remade string
	waitUntil(ctx, "the name is free", func() bool {
		r := must(a.CreateTopics(ctx, 1, 1, nil, name))
		remade = name
		return r[name].Err == nil
	})
	ends := must(a.ListEndOffsets(ctx, remade))
	end, _ := ends.Lookup(remade, 0)
	equal(end.Offset, 0, "end of the topic that took the name")
}

func groupConsume(ctx context.Context) {
	name := topic(ctx, "group", 3)
	c := client(kgo.DefaultProduceTopic(name))
	defer c.Close()
	var records []*kgo.Record
	for _, value := range numbers(0, 1000) {
		records = append(records, &kgo.Record{Key: value, Value: value})
	}
	try(c.ProduceSync(ctx, records...).FirstErr())
	member := client(kgo.ConsumerGroup(run+"-g"), kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var got []int
	for len(got) < 1000 {
		fetches := member.PollFetches(ctx)
		try(fetches.Err())
		for _, record := range fetches.Records() {
			var n int
			must(fmt.Sscan(string(record.Value), &n))
			got = append(got, n)
		}
	}
	sort.Ints(got)
	for i, n := range got {
		equal(n, i, "record")
	}
	try(member.CommitUncommittedOffsets(ctx))
	member.Close()
}
