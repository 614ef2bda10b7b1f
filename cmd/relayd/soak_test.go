//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
	"relayd/test/tap"
)

// What the daemon may have grown by between the first and the last quarter of a soak, beyond what two idle moments
// differ by anyway.
const (
	moreGoroutines  = 3
	moreDescriptors = 3
	moreHeap        = 4 << 20
	moreResident    = 16 << 20
)

// soakFaults are what the smarthost does in the cycles of a soak, one after the other.
var soakFaults = [][]sandbox.Fault{
	nil,
	{{Stage: sandbox.StageDot, Reply: "451 4.3.0 later", Times: 20}},
	{{Stage: sandbox.StageMail, Reply: "421 4.3.2 going down", Times: 5}},
	{{Stage: sandbox.StageDot, Drop: true, Times: 5}},
	{{Stage: sandbox.StageAuth, Reply: "454 4.7.0 later", Times: 2}},
	{{Stage: sandbox.StageTLS, Drop: true, Times: 3}},
	{{Stage: sandbox.StageData, Reset: true, Times: 5}},
	{{Stage: sandbox.StageGreeting, Delay: 100 * time.Millisecond, Times: 5}},
}

// hiccup is a disk on which one sync fails whenever it is told to.
type hiccup struct{ now atomic.Bool }

func (h *hiccup) Begin(c *tap.Call) tap.Answer {
	if c.Op == tap.OpSync && h.now.CompareAndSwap(true, false) {
		return tap.Answer{Skip: true, Errno: syscall.EIO}
	}
	return tap.Answer{}
}

func (h *hiccup) End(*tap.Call) {}

// One daemon lives through mixed load: clients, an operator, reloads, a smarthost that fails in another way each cycle
// or is away, clients that leave in the middle, a disk that fails now and then. Between cycles it comes to rest, and is measured then: goroutines,
// descriptors, live heap and resident memory stay what they were. No message is lost.
//
// RELAYD_SOAK says how long, such as "5m" or "8h"; without it the test is skipped.
func TestRelayd_SoakGrowsNothing(t *testing.T) {
	if os.Getenv("RELAYD_SOAK") == "" {
		t.Skip("RELAYD_SOAK says for how long")
	}
	length, err := time.ParseDuration(os.Getenv("RELAYD_SOAK"))
	if err != nil {
		t.Fatal(err)
	}
	// Each cycle has a smarthost of its own at the same address, so that what has been checked is forgotten here too.
	s, first := loadSite(t, sandbox.Options{CADir: t.TempDir()})
	address, ca := first.Addr(), filepath.Dir(first.CAFile())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	disk := &hiccup{}
	p := s.launchTapped(disk)
	if s.relay = p; !p.up() {
		t.Fatalf("the daemon did not start:\n%s", p.log)
	}
	rnd := rand.New(rand.NewPCG(3, uint64(time.Now().UnixNano())))
	begin, tell := time.Now(), time.Now()
	var samples []figures
	var sum outcome
	for cycle := 0; time.Since(begin) < length || cycle < 12; cycle++ {
		disk.now.Store(cycle%4 == 2)
		sum.add(s.soak(p, sandbox.Options{Address: address, CADir: ca}, rnd, cycle))
		samples = append(samples, p.figures(cycle+1))
		p.log.clear() // the figures of a later cycle are not to be found in it
		if time.Since(tell) >= max(length/10, 5*time.Second) || cycle < 2 {
			tell = time.Now()
			t.Logf("%6s  %6d messages  %s", time.Since(begin).Round(time.Second), sum.accepted, samples[cycle])
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d cycles in %s: %s", len(samples), time.Since(begin).Round(time.Second), sum)
	judge(t, samples)
}

// judge fails the test when the daemon has grown.
func judge(t *testing.T, samples []figures) {
	t.Helper()
	// The first cycles fill what is filled once: pools, caches, the database's first pages.
	quarter := len(samples) / 4
	early, last := typical(samples[quarter:2*quarter]), typical(samples[len(samples)-quarter:])
	t.Logf("at rest in the second quarter: %s", early)
	t.Logf("at rest in the last quarter:   %s", last)
	for _, c := range []struct {
		what            string
		was, is, allows int64
	}{
		{"goroutines", int64(early.goroutines), int64(last.goroutines), moreGoroutines},
		{"descriptors", int64(early.descriptors), int64(last.descriptors), moreDescriptors},
		{"octets of heap", early.heap, last.heap, moreHeap},
		{"octets of resident memory", early.anonymous, last.anonymous, moreResident},
	} {
		if c.is > c.was+c.allows {
			t.Errorf("it grew from %d to %d %s", c.was, c.is, c.what)
		}
	}
}

// soak is one cycle: load, and then rest.
func (s *site) soak(p *process, o sandbox.Options, rnd *rand.Rand, cycle int) outcome {
	s.t.Helper()
	o.Username, o.Password = "me@isp.example", testPassword
	sb, err := sandbox.Start(o)
	if err != nil {
		s.t.Fatal(err)
	}
	defer sb.Close()
	faults := append(trouble(20), soakFaults[cycle%len(soakFaults)]...)
	if err := sb.Inject(faults...); err != nil {
		s.t.Fatal(err)
	}
	away := cycle%5 == 3
	if away {
		if err := sb.Stop(); err != nil {
			s.t.Fatal(err)
		}
	}
	l := newLedger()
	quit := make(chan struct{})
	operator := rand.New(rand.NewPCG(4, rnd.Uint64()))
	var others sync.WaitGroup
	others.Go(func() { s.operate(p, l, operator, quit) })
	others.Go(func() { p.leavers(quit) })
	p.clients(l, fmt.Sprintf("k%d", cycle), 8, 24)
	close(quit)
	others.Wait()
	if away {
		if err := sb.Resume(); err != nil {
			s.t.Fatal(err)
		}
	}
	s.rest(sb)
	return l.settle(s.t, sb.Messages(), s.lookup)
}

// rest clears the troubles, and returns when nothing is queued and the smarthost is gone.
func (s *site) rest(sb *sandbox.Server) {
	s.t.Helper()
	sb.Clear()
	if err := sb.Inject(trouble(1)...); err != nil {
		s.t.Fatal(err)
	}
	if err := s.relay.cmd.Process.Signal(syscall.SIGHUP); err != nil { // every host is tried at once
		s.t.Fatal(err)
	}
	s.release()
	until(s.t, "the queue to be empty", func() bool {
		q := s.status().Queue
		return q.Active+q.Deferred+q.Held == 0
	})
	// It forgets its warm connections, which would come and go between two measurements.
	if err := sb.Stop(); err != nil {
		s.t.Fatal(err)
	}
}

// leavers are clients that go away in the middle: after a command, in a body, without a word.
func (p *process) leavers(quit <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-quit:
			return
		case <-p.done:
			return
		case <-time.After(10 * time.Millisecond):
		}
		p.leave(n)
	}
}

// typical returns the median of each figure.
func typical(samples []figures) figures {
	median := func(of func(figures) int64) int64 {
		var all []int64
		for _, f := range samples {
			all = append(all, of(f))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	return figures{
		goroutines:  int(median(func(f figures) int64 { return int64(f.goroutines) })),
		descriptors: int(median(func(f figures) int64 { return int64(f.descriptors) })),
		heap:        median(func(f figures) int64 { return f.heap }),
		anonymous:   median(func(f figures) int64 { return f.anonymous }),
	}
}
