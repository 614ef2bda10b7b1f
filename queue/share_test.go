package queue

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func from(addr string) envelope.Origin { return envelope.Origin{Addr: netip.MustParseAddr(addr)} }

// fill hands messages of octets octets in until the queue refuses one, and returns how many it took, at most most.
func (r *rig) fill(o envelope.Origin, octets, most int) (taken int, refusal error) {
	r.t.Helper()
	for taken < most {
		w, err := r.Begin(testEnvelope("a@example.com"), o)
		if err != nil {
			return taken, err
		}
		if _, err := w.Write([]byte(strings.Repeat("x", octets-2) + "\r\n")); err != nil {
			r.t.Fatal(err)
		}
		if err := w.Commit(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		taken++
	}
	return taken, nil
}

// One client that fills the queue leaves room for others, also over a restart, and what a limit lets in as a whole is kept.
func TestShare_OneClientLeavesRoomForOthers(t *testing.T) {
	for name, limit := range map[string]func(*Policy){
		"max_messages": func(p *Policy) { p.MaxMessages = 100 },
		"max_bytes":    func(p *Policy) { p.MaxBytes = 2_000_000 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPolicy
				limit(&p)
				tr := newFakeTransport()
				tr.admit = func(string) (time.Time, bool) { return time.Now().Add(time.Hour), false }
				first := openRig(t, t.TempDir(), tr, p)
				first.Start()
				greedy := from("192.168.1.1")
				n, err := first.fill(greedy, 20_000, 1000)
				assertReply(t, err, 452)
				if n < 48 || n > 50 { // max_bytes counts the records too
					t.Errorf("one client alone has %d messages, want half of 100", n)
				}
				if words := strings.Join(first.Troubles(), "\n"); !strings.Contains(words, "192.168.1.1 is refused, and others are served: it has ") {
					t.Errorf("the troubles are %q", words)
				}
				first.stop()
				r := openRig(t, first.dir, tr, p)
				r.Start()
				defer r.stop()
				if n, err := r.fill(greedy, 20_000, 1); n > 0 {
					t.Errorf("after a restart it gets another in, %v", err)
				}
				for _, c := range []struct {
					addr string
					want int
				}{{"192.168.1.2", 25}, {"2001:db8::1", 12}, {"2001:db8::2", 0}, {"2001:db8:0:1::1", 6}} { // each as much as is still free
					if n, _ := r.fill(from(c.addr), 20_000, 1000); n < c.want-1 || n > c.want+1 {
						t.Errorf("%s has %d messages, want %d", c.addr, n, c.want)
					}
				}
				if n, err := r.fill(greedy, 20_000, 1); n > 0 {
					t.Errorf("the first gets another in, %v", err)
				}
			})
		})
	}
}

// What arrives counts, and what has left counts no more.
func TestShare_CountsWhatArrivesAndWhatIsThere(t *testing.T) {
	p := testPolicy
	p.MaxMessages = 8
	r := openRig(t, t.TempDir(), newFakeTransport(), p)
	r.Start()
	defer r.stop()
	var writers []*Writer
	for range 4 {
		w, err := r.Begin(testEnvelope("a@example.com"), from("192.168.1.1"))
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
	}
	assertReply(t, second(r.Begin(testEnvelope("a@example.com"), from("::ffff:192.168.1.1"))), 452)
	if err := writers[0].Abort(); err != nil {
		t.Fatal(err)
	}
	for _, w := range writers[1:] {
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all to be delivered", func() bool { return r.total.Load() == 0 })
	r.shares.mu.Lock()
	defer r.shares.mu.Unlock()
	if len(r.shares.clients) != 0 {
		t.Errorf("of an empty queue clients have %v", r.shares.clients)
	}
}
