package smarthost

import (
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

// Overlapped transactions at hosts with limits and habits of their own.

// A host without 8BITMIME: ASCII content follows a body there as anywhere; other content is looked at, and encoded, first.
func TestOverlap_HostWithout8BITMIME(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		overlap bool
	}{"ASCII": {"hello\r\n", true}, "8-bit": {"Gr\xfc\xdfe\r\n", false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				h := p.hosts["one:25"]
				h.answer = at("EHLO", "250-peer\r\n250 PIPELINING")
				var wrote safeBuffer
				r := p.router(t, func(o *Options) { o.Routes[0].MaxConnections, o.Dial = 1, tapped(o.Dial, &wrote) }, "one:25")
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
				h.set(func(h *peer) { h.answer = slowAtDot(time.Second) })
				m := mail("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n" + c.text)
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", m), "one:25") })
				}
				time.Sleep(time.Second * 3 / 2) // the host has the second body, and the third message has waited for it
				if out := strings.Count(wrote.String(), "MAIL FROM") > 3; out != c.overlap {
					t.Errorf("an envelope is behind the body: %v", out)
				}
				wg.Wait()
			})
		})
	}
}

// The second message is behind a body on a connection that breaks, or that is silent for long, and another connection has
// become free meanwhile. It begins there anew.
func TestOverlap_AnotherConnectionIsFreeMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		silence time.Duration // of the host at the first's dot
		then    string
		want    time.Duration // until the second is delivered, from when it is behind the first
	}{
		"the connection breaks":            {8 * time.Second, hangUp, 8 * time.Second},
		"the dot is not answered for long": {9 * time.Minute, "", followerPatience - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				h := p.hosts["one:25"]
				h.pipelining = true
				r := p.router(t, limit(2), "one:25")
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
				var dots atomic.Int32
				h.set(func(h *peer) {
					h.answer = func(line string) string {
						switch {
						case line != ".":
						case dots.Add(1) == 1: // the other message
							time.Sleep(5 * time.Second)
						case dots.Load() == 2: // the first one
							time.Sleep(c.silence)
							return c.then
						}
						return ""
					}
				})
				var wg sync.WaitGroup
				wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mailOf("other")), "one:25") })
				settle()
				first, release := held(mailOf("first"))
				wg.Go(func() {
					if a := r.Deliver(t.Context(), "isp", first); a.PossibleDuplicate != (c.then == hangUp) {
						t.Error(show(a))
					}
				})
				settle()
				var delivered time.Time
				wg.Go(func() {
					wantDelivered(t, r.Deliver(t.Context(), "isp", mailOf("second")), "one:25")
					delivered = time.Now()
				})
				settle()
				begun := time.Now()
				release()
				wg.Wait()
				if took := delivered.Sub(begun); took != c.want {
					t.Errorf("the second message took %v, want %v", took, c.want)
				}
				if h := h.see(); h.opened != 2 || h.transactions != 4 {
					t.Errorf("%d connections were opened, %d messages taken", h.opened, h.transactions)
				}
			})
		})
	}
}

func TestOverlap_NoneWhenTheHostIsFoundOutMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		var wrote safeBuffer
		r := p.router(t, func(o *Options) { o.Routes[0].MaxConnections, o.Dial = 1, tapped(o.Dial, &wrote) }, "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		h.set(func(h *peer) { h.answer = slowAtDot(time.Minute) })
		first, release := held(mailOf("first"))
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", first), "one:25") })
		settle()
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mailOf("second")), "one:25") })
		settle()
		r.table.Load().routes[0].hosts[0].order.strict.Store(true) // by a delivery on another connection
		release()
		settle()
		if contains(wrote.String(), "MAIL FROM:<second@") {
			t.Error("an envelope is behind a body")
		}
		wg.Wait()
	})
}

func TestOverlap_ConnectionServesABoundedNumberOfTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].pipelining = true
		r := p.router(t, limit(1), "one:25")
		deliverBacklog(t, r, 2*maxUses+1, func(int) envelope.Message { return mail(hello) })
		if h := p.hosts["one:25"].see(); h.opened != 3 || h.quits != 2 || h.transactions != 2*maxUses+1 {
			t.Errorf("%d connections, %d QUIT, %d messages", h.opened, h.quits, h.transactions)
		}
	})
}

// A host that refuses a body before it has read it to the end, and one that hangs up then, over TLS: what was said is
// the first message's, and the one behind it is delivered.
func TestOverlap_EarlyRefusalOfTheFirstBody(t *testing.T) {
	for name, drop := range map[string]bool{"reads on": false, "hangs up": true} {
		t.Run(name, func(t *testing.T) {
			s := startSandbox(t, strict(sandbox.Options{}))
			route := login(ModeStartTLS)
			route.MaxConnections = 1
			g := newRig(t, route, s)
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
			err := s.Inject(sandbox.Fault{Stage: sandbox.StageBody, Match: "big@", After: 10000, Reply: "552 5.3.4 too big", Drop: drop})
			if err != nil {
				t.Fatal(err)
			}
			big := mailOf("big")
			body := strings.Repeat(strings.Repeat("x", 78)+"\r\n", 1<<14)
			big.Size = int64(len(body))
			big.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
			big, release := held(big)
			var wg sync.WaitGroup
			wg.Go(func() {
				a := g.deliver(t, big)
				if a.Site != nil || a.Results[0].Failure == nil || a.Results[0].Failure.Reply.Code != 552 {
					t.Error(show(a))
				}
			})
			h := g.table.Load().routes[0].hosts[0]
			for deadline := time.Now().Add(10 * time.Second); s.Stats().Transactions < 2; runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatal("the big message does not begin")
				}
			}
			wg.Go(func() { wantDelivered(t, g.deliver(t, mailOf("small")), s.Addr()) })
			for deadline := time.Now().Add(10 * time.Second); h.pool.waits() == 0; runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatal("the small message does not wait")
				}
			}
			release()
			wg.Wait()
			if n := len(s.Messages()); n != 2 {
				t.Errorf("%d messages were taken", n)
			}
		})
	}
}
