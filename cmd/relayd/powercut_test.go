//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
	"relayd/queue"
	"relayd/test/tap"
)

// witness records what the daemon does to its folder, with a mark before each 250 to a final dot leaves it.
type witness struct {
	*tap.Recorder
	fails int // each so many-th sync of the database fails; 0 is none
	mu    sync.Mutex
	syncs int
}

const (
	taken = "taken "   // and the id: the 250 is about to go out
	kept  = "arrived " // and the number: the smarthost has the message, and is about to say so
)

func (w *witness) Begin(c *tap.Call) tap.Answer {
	w.Recorder.Begin(c)
	if c.Op == tap.OpSend {
		for _, id := range queuedAs.FindAllSubmatch(c.Data, -1) {
			w.Mark(taken + string(id[1]))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.Op == tap.OpSync && filepath.Base(c.Path) == "queue.db" && w.fails > 0 {
		if w.syncs++; w.syncs%w.fails == 0 {
			w.Drop(c)
			return tap.Answer{Skip: true, Errno: syscall.EIO}
		}
	}
	return tap.Answer{}
}

// recording is what a run of the daemon left to be cut short.
type recording struct {
	*witness
	ledger   *ledger
	messages []sandbox.Message // that the smarthost got
}

// record runs the daemon from its first start through an outage with much intake, and through deliveries.
func record(t *testing.T, fails int) *recording {
	w := &witness{fails: fails}
	s, sb := loadSite(t, sandbox.Options{OnMessage: func(m sandbox.Message) { w.Mark(kept + strconv.Itoa(m.Number)) }})
	w.Recorder = tap.NewRecorder(s.dir)
	if err := sb.Inject(trouble(5)...); err != nil {
		t.Fatal(err)
	}
	if err := sb.Stop(); err != nil {
		t.Fatal(err)
	}
	p := s.launchTapped(w)
	if !p.up() {
		t.Fatalf("the daemon did not start:\n%s", p.log)
	}
	l := newLedger()
	p.clients(l, "out", 4, 12)
	if err := sb.Resume(); err != nil {
		t.Fatal(err)
	}
	c, err := s.control(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ApplyAll(context.Background(), queue.ActionRetry); err != nil {
		t.Fatal(err)
	}
	p.clients(l, "in", 4, 12)
	s.drained(p, len(l.letters))
	p.kill()
	return &recording{w, l, sb.Messages()}
}

// The power fails: what was synced is on the disk, and of the rest what chance let through, down to single sectors of
// one write and without regard to order. At each of many moments, from the first start on, the daemon starts again on
// what is left, and everything that had got its 250 by then is delivered or reported. The second recording is of a disk
// whose syncs fail now and then, and what such a sync should have written is lost, whatever later syncs say.
//
// RELAYD_CUTS says how many moments, of each recording.
func TestRelayd_PowerCutsLoseNothing(t *testing.T) {
	cuts := setting(t, "RELAYD_CUTS", 4)
	ca := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	for name, fails := range map[string]int{"a sound disk": 0, "a disk whose syncs fail": 19} {
		t.Run(name, func(t *testing.T) {
			rec := record(t, fails)
			rnd := rand.New(rand.NewPCG(seed, uint64(fails)))
			image := rec.Image()
			var sum outcome
			for i, at := range rec.moments(cuts, rnd) {
				image.Advance(at)
				t.Run(fmt.Sprintf("after %d of %d", at, rec.Len()), func(t *testing.T) {
					s, sb := loadSite(t, sandbox.Options{CADir: ca})
					write := func(dir string) error { return image.WriteTorn(dir, rnd) }
					if i%3 == 0 {
						write = image.WriteSafe
					}
					if err := write(s.dir); err != nil {
						t.Fatal(err)
					}
					l, before := rec.until(at)
					sum.add(s.settle(l, sb, before...))
				})
			}
			sum.refused = rec.ledger.refused
			t.Logf("%s: seed %d, %d calls and replies recorded, %d power cuts; in sum of all cuts, but for the 4yz: %s", name, seed, rec.Len(), cuts, sum)
		})
	}
}

// moments returns when the power fails, in order: at any time, more often during the first start, and just when a 250
// has gone out.
func (r *recording) moments(n int, rnd *rand.Rand) []int {
	_, marks := r.Marks(r.Len())
	var all []int
	for i := range n {
		switch i % 4 {
		case 0:
			all = append(all, rnd.IntN(min(40, r.Len())))
		case 1:
			all = append(all, rnd.IntN(r.Len()+1))
		default:
			all = append(all, marks[rnd.IntN(len(marks))])
		}
	}
	slices.Sort(all)
	return all
}

// until returns the ledger as it was after n events, and the messages that the smarthost had then.
func (r *recording) until(n int) (*ledger, []sandbox.Message) {
	l := newLedger()
	ids, arrived := map[string]bool{}, map[string]bool{}
	texts, _ := r.Marks(n)
	for _, text := range texts {
		if id, ok := strings.CutPrefix(text, taken); ok {
			ids[id] = true
		} else if number, ok := strings.CutPrefix(text, kept); ok {
			arrived[number] = true
		}
	}
	for key, m := range maps.All(r.ledger.letters) {
		then := *m
		if !ids[m.id] {
			then.id = ""
		}
		l.letters[key] = &then
	}
	var before []sandbox.Message
	for _, m := range r.messages {
		if arrived[strconv.Itoa(m.Number)] {
			before = append(before, m)
		}
	}
	return l, before
}

// At the moment at which each 250 to a final dot goes out, what is safe on the disk holds its message, whole. Printed is
// how many messages shared a commit.
func TestRelayd_Each250FollowsItsCommit(t *testing.T) {
	for _, sessions := range []int{1, 16} {
		t.Run(fmt.Sprintf("%d sessions", sessions), func(t *testing.T) {
			w := &witness{}
			s, sb := loadSite(t, sandbox.Options{})
			w.Recorder = tap.NewRecorder(s.dir)
			if err := sb.Stop(); err != nil {
				t.Fatal(err)
			}
			p := s.launchTapped(w)
			if !p.up() {
				t.Fatalf("the daemon did not start:\n%s", p.log)
			}
			l := newLedger()
			p.clients(l, "m", sessions, max(24/sessions, 4))
			p.kill()
			texts, at := w.Marks(w.Len())
			image := w.Image()
			for i, text := range texts {
				image.Advance(at[i])
				dir := t.TempDir()
				if err := image.WriteSafe(dir); err != nil {
					t.Fatal(err)
				}
				holds(t, filepath.Join(dir, "data"), strings.TrimPrefix(text, taken))
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			syncs := append(w.Syncs("journal-0"), w.Syncs("journal-1")...)
			slices.Sort(syncs)
			commits := shared(at, syncs)
			t.Logf("%d sessions: %d messages were safe before their 250; %d commits held them, %.1f messages each",
				sessions, len(texts), commits, float64(len(texts))/float64(max(commits, 1)))
			if len(texts) < 24 || len(texts) != len(l.letters) {
				t.Errorf("%d of %d letters were seen to get their 250", len(texts), len(l.letters))
			}
			if sessions > 1 && commits >= len(texts) {
				t.Errorf("%d messages took %d commits: no commit served two", len(texts), commits)
			}
		})
	}
}

// holds fails the test unless the queue in dir has the message, with its content.
func holds(t *testing.T, dir, id string) {
	t.Helper()
	r, err := queue.OpenReadOnly(dir)
	if err != nil {
		t.Fatalf("at the 250 of %s: %v", id, err)
	}
	defer r.Close()
	d, err := r.Show(id)
	if err != nil || d.Gone {
		t.Errorf("at its 250 %s is not safe: %v", id, err)
		return
	}
	body, err := r.Body(id)
	if err != nil {
		t.Errorf("at its 250 the content of %s is not safe: %v", id, err)
		return
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || int64(len(b)) != d.Size || !strings.HasSuffix(string(b), "0123456789abcdef\r\n") {
		t.Errorf("at its 250 %d octets of %s are safe, of %d: %v", len(b), id, d.Size, err)
	}
}

// shared returns how many different syncs were the last one before one of the moments.
func shared(moments, syncs []int) int {
	last := map[int]bool{}
	for _, at := range moments {
		n, _ := slices.BinarySearch(syncs, at)
		last[n] = true
	}
	return len(last)
}
