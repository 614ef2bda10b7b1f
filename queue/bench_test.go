package queue

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"relayd/internal/envelope"
)

// benchBody is a message of 2 KiB.
var benchBody = bytes.Repeat([]byte("0123456789abcdef0123456789abcde\r\n"), 62)

// The committer as everybody uses it: records into the journal, each commit flushed to the disk of TMPDIR, and the
// database written behind it.
func BenchmarkCommitter(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			dir := b.TempDir()
			st, err := openStore(dir)
			if err != nil {
				b.Fatal(err)
			}
			c := newCommitter(dir, st, slog.New(slog.DiscardHandler), outcomePatience, nil)
			go c.run()
			var ids idSource
			b.SetBytes(int64(len(benchBody)))
			b.ReportAllocs()
			b.ResetTimer()
			share(b, writers, func() error { return c.commit(false, benchIntake(&ids, 0)) })
			b.StopTimer()
			if err := c.close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// share has writers do b.N times step between them.
func share(b *testing.B, writers int, step func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := step(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// benchIntake returns a new message of 2 KiB that is due in a while.
func benchIntake(ids *idSource, in time.Duration) *change {
	now := time.Now()
	r := newRecord(ids.next(now), testEnvelope("a@example.com"), envelope.Origin{}, now)
	r.Size, r.Sum = int64(len(benchBody)), checksum(benchBody)
	sl := slot{ID: r.ID, Due: now.Add(in).UnixNano(), Size: r.Size, Routes: "main"}
	return &change{id: r.ID, put: r, body: benchBody, newSlot: sl, hasNew: true}
}

// A message from Begin to the end of Commit, and on to its outcome: all that the queue does for one.
func BenchmarkQueue(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			q := openBench(b, b.TempDir(), fastTransport{})
			q.Start()
			env := testEnvelope("a@example.com")
			b.SetBytes(int64(len(benchBody)))
			b.ReportAllocs()
			b.ResetTimer()
			share(b, writers, func() error {
				w, err := q.Begin(env, envelope.Origin{Helo: "lan.example", Protocol: "ESMTP"})
				if err != nil {
					return err
				}
				if _, err := w.Write(benchBody); err != nil {
					return err
				}
				return w.Commit(context.Background())
			})
			if err := q.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// fastTransport takes everything at once.
type fastTransport struct{}

func (fastTransport) Concurrency(string) int { return 10 }

func (fastTransport) Admit(string) (time.Time, bool) { return time.Time{}, true }
func (fastTransport) Forgo(string)                   {}

func (fastTransport) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	return []envelope.Leg{{Route: "main", Recipients: make([]int, len(env.Recipients))}}
}

func (fastTransport) Deliver(_ context.Context, route string, m envelope.Message) envelope.Attempt {
	return envelope.Attempt{Host: route + ":25", Results: make([]envelope.Result, len(m.Envelope.Recipients))}
}

func openBench(b *testing.B, dir string, t Transport) *Queue {
	b.Helper()
	q, err := Open(Options{Dir: dir, Hostname: "relay.example", Transport: t, Policy: testPolicy, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return q
}

// A million messages are what a queue may hold by default: each octet here is a MiB then, and the allocator has no size
// between 112 and 128.
func TestItem_TakesNoMoreThan112Octets(t *testing.T) {
	if n := reflect.TypeFor[item]().Size(); n > 112 {
		t.Errorf("it takes %d; what few items have belongs to rare", n)
	}
}

// Lines of the due index name their routes; there are few of those.
func TestDecodeSlot_SharesTheNamesOfRoutes(t *testing.T) {
	sl := slot{ID: 1, Due: 2, Size: 3, Routes: "a smarthost"}
	a, err := decodeSlot(sl.key(), sl.value())
	b, berr := decodeSlot(sl.key(), sl.value())
	if err != nil || berr != nil || unsafe.StringData(a.Routes) != unsafe.StringData(b.Routes) {
		t.Errorf("%q %v and %q %v have a name each", a.Routes, err, b.Routes, berr)
	}
}

// What the scheduler does for one message while others wait: it comes, is started, and has gone (delivered); or it is
// deferred, and taken out again as an operator would.
func BenchmarkScheduler(b *testing.B) {
	for _, waiting := range []int{1_000, 100_000, 1_000_000} {
		for _, way := range []string{"delivered", "deferred"} {
			b.Run(fmt.Sprintf("waiting=%d/%s", waiting, way), func(b *testing.B) {
				s, started := benchScheduler(waiting)
				ids := uint64(waiting)
				b.ReportAllocs()
				for b.Loop() {
					ids++
					s.insert(&item{slot: slot{ID: ID(ids), Due: time.Now().UnixNano(), Size: 2048, Routes: "main"}, fresh: true})
					now := s.clock()
					s.promote(now)
					s.dispatch(now)
					it := *started
					if way == "deferred" {
						again := it.slot
						again.Due = time.Now().Add(time.Duration(1+ids%3600) * time.Second).UnixNano()
						s.finishWait(it, again)
						s.claim(it)
					}
					s.finishGone(it)
				}
				if len(s.items) != waiting {
					b.Fatalf("%d items are left of %d", len(s.items), waiting)
				}
			})
		}
	}
}

// benchScheduler returns a scheduler with messages that are due in the next hour, and where it puts the last one that it
// started.
func benchScheduler(waiting int) (*scheduler, **item) {
	s := newScheduler(&Queue{})
	var started *item
	s.start = func(it *item, _ string) { started = it }
	s.concurrency = func(string) int { return 10 }
	s.maxWait = func() time.Duration { return time.Hour }
	due := time.Now().Add(time.Second)
	for i := range waiting {
		// The order in which they become due is not that in which they came.
		in := time.Duration(i*7919%waiting) * time.Hour / time.Duration(waiting)
		s.insert(&item{slot: slot{ID: ID(i + 1), Due: due.Add(time.Minute + in).UnixNano(), Size: 2048, Routes: "main"}})
	}
	return s, &started
}

// folders keeps queues for benchmarks until the tests have ended: they take long to make, and go test -count comes to
// each benchmark again.
type folders struct {
	mu   sync.Mutex
	dirs map[int]string // by how many messages wait
}

var benchFolders folders

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range benchFolders.dirs {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// of returns the folder of a queue that was closed in order with so many messages of 2 KiB, due in an hour.
func (f *folders) of(b *testing.B, waiting int) string {
	b.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if dir, ok := f.dirs[waiting]; ok {
		return dir
	}
	dir, err := os.MkdirTemp("", "queue-bench-")
	if err != nil {
		b.Fatal(err)
	}
	if f.dirs == nil {
		f.dirs = make(map[int]string)
	}
	f.dirs[waiting] = dir
	st, err := openStore(dir)
	if err != nil {
		b.Fatal(err)
	}
	quicken(st)
	var ids idSource
	for left := waiting; left > 0; left -= batchRequests {
		var changes []*change
		for range min(left, batchRequests) {
			c := benchIntake(&ids, time.Hour)
			if err := c.encode(); err != nil {
				b.Fatal(err)
			}
			changes = append(changes, c)
		}
		if err := st.commit(changes); err != nil {
			b.Fatal(err)
		}
	}
	if err := st.close(); err != nil {
		b.Fatal(err)
	}
	return dir
}

// benchLengths are the lengths of queue by which one sees what grows with it.
func benchLengths(b *testing.B, f func(b *testing.B, dir string, waiting int)) {
	for _, waiting := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			if testing.Short() && waiting > 100_000 {
				b.Skip("it takes a while, and 5 GB in TMPDIR")
			}
			f(b, benchFolders.of(b, waiting), waiting)
		})
	}
}

// A start, until delivery could begin, and the stop.
func BenchmarkOpen(b *testing.B) {
	benchLengths(b, func(b *testing.B, dir string, waiting int) {
		b.ReportAllocs()
		for b.Loop() {
			q := openBench(b, dir, fastTransport{})
			if n := int(q.total.Load()); n != waiting {
				b.Fatalf("%d messages are there of %d", n, waiting)
			}
			if err := q.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The first page of a list.
func BenchmarkList(b *testing.B) {
	const page = 1000
	benchLengths(b, func(b *testing.B, dir string, _ int) {
		q := openBench(b, dir, fastTransport{})
		q.started = true
		q.others.Go(q.scheduler.run) // Start would begin the audit as well, which is not the list's
		defer q.Close(context.Background())
		b.ReportAllocs()
		for b.Loop() {
			if entries, _, err := q.List("", page); err != nil || len(entries) != page {
				b.Fatalf("%d entries, %v", len(entries), err)
			}
		}
	})
}
