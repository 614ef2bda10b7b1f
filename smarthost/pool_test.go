package smarthost

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// deliverAll delivers n messages at once and returns what they came to.
func deliverAll(t *testing.T, r *Router, n int) []envelope.Attempt {
	t.Helper()
	var wg sync.WaitGroup
	out := make([]envelope.Attempt, n)
	for i := range n {
		wg.Go(func() { out[i] = r.Deliver(t.Context(), "isp", mail(hello)) })
	}
	wg.Wait()
	return out
}

func limit(n int) func(*Options) { return func(o *Options) { o.Routes[0].MaxConnections = n } }

func TestPool_NoMoreThanMaxConnectionsAndAllAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.answer = func(string) string { time.Sleep(100 * time.Millisecond); return "" }
		r := p.router(t, limit(3), "one:25")
		if r.Concurrency("isp") != ahead*3 {
			t.Error("concurrency", r.Concurrency("isp"))
		}
		for _, a := range deliverAll(t, r, 30) {
			wantDelivered(t, a, "one:25")
		}
		if h.see().most != 3 || h.see().opened != 3 {
			t.Errorf("%d connections, %d at once; want 3", h.see().opened, h.see().most)
		}
		if n := r.Status()[0].Hosts[0].Connections; n != 3 {
			t.Errorf("the status shows %d connections", n)
		}
	})
}

func TestPool_IdleConnectionsAreClosedAndTheNewestServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.answer = func(line string) string {
			if line == "." {
				time.Sleep(time.Second)
			}
			return ""
		}
		r := p.router(t, limit(3), "one:25")
		deliverAll(t, r, 3)
		for range 4 { // one message each 10 seconds needs one connection
			time.Sleep(10 * time.Second)
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		}
		synctest.Wait()
		if h.see().opened > 3 || h.see().conns != 1 {
			t.Errorf("%d connections were opened, %d are open; want 1 of 3", h.see().opened, h.see().conns)
		}
		time.Sleep(31 * time.Second)
		if h.see().conns != 0 || h.see().quits != h.see().opened {
			t.Errorf("%d connections are open after the idle time, %d got QUIT", h.see().conns, h.see().quits)
		}
	})
}

func TestPool_HostsOwnLimitIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		h := p.hosts["one:25"]
		h.answer = func(line string) string {
			if line == "" && h.see().conns > 2 {
				return "421 4.7.0 too many connections from you"
			}
			time.Sleep(100 * time.Millisecond)
			return ""
		}
		r := p.router(t, limit(5), "one:25", "two:25")
		for _, a := range deliverAll(t, r, 40) {
			wantDelivered(t, a, "one:25")
		}
		if s := r.Status()[0].Hosts[0]; s.State != StateUp || s.Connections > 2 {
			t.Errorf("%+v", s)
		}
		if h.see().opened > 8 {
			t.Errorf("the host was asked %d times for more than it gives", h.see().opened)
		}
	})
}

// The host refuses one more connection for a moment, and its only one is busy for long: who waits asks again when the
// limit is no longer believed, and not when that one is done.
func TestPool_LimitThatIsOverIsNoticedByThoseInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		start := time.Now()
		var slow atomic.Bool
		h.answer = func(line string) string {
			switch {
			case line == "" && h.see().conns > 1 && time.Since(start) < 10*time.Second:
				return "421 4.7.0 too many connections from you"
			case line == "." && !slow.Swap(true):
				time.Sleep(9 * time.Minute)
			}
			return ""
		}
		r := p.router(t, limit(2), "one:25")
		var first sync.WaitGroup
		first.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		settle()
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		if took := time.Since(start); took > limitRest+2*followerPatience {
			t.Errorf("the second message went after %v", took)
		}
		first.Wait()
	})
}

func TestPool_ThoseThatWaitGoToTheNextHostWhenThisOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		r := p.router(t, limit(1), "one:25", "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		p.hosts["one:25"].set(func(h *peer) {
			h.answer = func(line string) string {
				if line == "." {
					time.Sleep(time.Minute)
					return "421 going"
				}
				return ""
			}
		})
		start := time.Now()
		for _, a := range deliverAll(t, r, 5) {
			wantDelivered(t, a, "two:25")
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

func TestPool_HostThatIsSlowToSayGoodbyeKeepsNobodyFromTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25", "two:25")
		one := p.hosts["one:25"]
		r := p.router(t, limit(1), "one:25", "two:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		one.set(func(h *peer) {
			h.answer = func(line string) string {
				if strings.HasPrefix(line, "MAIL") {
					time.Sleep(time.Second)
					return "530 5.7.0 log in"
				}
				return at("QUIT", hang)(line)
			}
		})
		start := time.Now()
		for _, a := range deliverAll(t, r, 5) {
			wantDelivered(t, a, "two:25")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestPool_ConnectionInUseWhileItsHostFailedIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		r := p.router(t, limit(2), "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		one.set(func(h *peer) {
			h.answer = func(line string) string {
				if line == "." {
					time.Sleep(time.Minute)
				}
				return ""
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		synctest.Wait()
		one.set(func(h *peer) { h.answer = at("EHLO", "450 4.7.1 no more") })
		wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "ehlo")
		one.set(func(h *peer) { h.answer = nil })
		wg.Wait()
		synctest.Wait()
		if n := r.Status()[0].Hosts[0].Connections; n != 0 {
			t.Errorf("%d connections are kept", n)
		}
	})
}

func TestPool_LeaveFromBeforeAFailureOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		r := p.router(t, nil, "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		h := r.table.Load().routes[0].hosts[0]
		first, _, _ := h.admit(t.Context())
		second, _, _ := h.admit(t.Context())
		h.failed(first, "q1", verdict{trouble: loginRefused})
		synctest.Wait()
		if c, _, o := h.connection(t.Context(), second, newWork(mail(hello)), false); c != nil || !o.skipped {
			t.Error("a delivery that was let in before the login was refused tries it once more")
		}
		if n := p.hosts["one:25"].see().opened; n != 1 || h.pool.count() != 0 {
			t.Errorf("%d connections were opened, %d are counted", n, h.pool.count())
		}
	})
}

func TestPool_CancelledWaiterLeavesItsTurnToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		r := p.router(t, limit(1), "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		h.set(func(h *peer) {
			h.answer = func(line string) string {
				if line == "." {
					time.Sleep(10 * time.Second)
				}
				return ""
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if a := r.Deliver(ctx, "isp", mail(hello)); a.Site == nil {
					t.Error(show(a))
				}
			})
		}
		wg.Go(func() {
			time.Sleep(2 * time.Second)
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		})
		wg.Wait()
		if h.see().opened != 1 || h.see().transactions != 3 {
			t.Errorf("%d connections, %d transactions", h.see().opened, h.see().transactions)
		}
	})
}

func TestPool_ConnectionServesABoundedNumberOfTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].pipelining = true
		r := p.router(t, limit(1), "one:25")
		for range maxUses + 1 {
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		}
		if n := p.hosts["one:25"].see().opened; n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestDeliver_ManyRecipientsGoInGroupsThatCannotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		r := p.router(t, nil, "one:25")
		m := mail(hello)
		m.Envelope.Recipients = nil
		for range 1000 {
			m.Envelope.Recipients = append(m.Envelope.Recipients,
				envelope.Recipient{Path: envelope.Path(strings.Repeat("x", 10) + "@example.net")})
		}
		a := r.Deliver(t.Context(), "isp", m)
		wantDelivered(t, a, "one:25")
		if len(a.Results) != 1000 || len(h.see().lines) != 1003 {
			t.Errorf("%d results, %d lines", len(a.Results), len(h.see().lines))
		}
	})
}

func TestPool_HostThatIsCrowdedGetsFewerConnectionsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		one := p.hosts["one:25"]
		one.answer = at(".", "432 4.3.2 Concurrent connections limit exceeded.")
		r := p.router(t, limit(4), "one:25")
		var wg sync.WaitGroup
		one.answer = func(string) string { time.Sleep(time.Second); return "" }
		for range 4 {
			wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		}
		wg.Wait()
		one.set(func(h *peer) { h.answer = at(".", "432 4.3.2 Concurrent connections limit exceeded.") })
		a := r.Deliver(t.Context(), "isp", mail(hello))
		wantSite(t, a, "dot")
		if pause := time.Until(a.RetryAt); pause > 2*DefaultProbeMin || r.Status()[0].Hosts[0].State != StateThrottled {
			t.Errorf("left alone for %v; %+v", pause, r.Status())
		}
		time.Sleep(2 * DefaultProbeMin)
		one.set(func(h *peer) { h.answer, h.most = nil, 0 })
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		one.set(func(h *peer) { h.answer = func(string) string { time.Sleep(time.Second); return "" } })
		deliverAll(t, r, 8)
		if most := one.see().most; most != 3 {
			t.Errorf("%d connections at once, want 3", most)
		}
		time.Sleep(crowdedRest)
		deliverAll(t, r, 8)
		if most := one.see().most; most != 4 {
			t.Errorf("%d connections at once after a while, want 4", most)
		}
	})
}

// boom is content at which the relay's own code fails.
type boom struct{}

func (boom) Read([]byte) (int, error) { panic("injected: a fault in the relay") }

// A panic in the middle of a transaction costs the pool no connection for good: the mail behind it flows.
func TestPool_PanicLosesNoPlace(t *testing.T) {
	const places = 3
	p := newPeers("one:25")
	r, err := New(Options{Hostname: "relay.example.com", Dial: p.dial,
		Routes: []Route{{Name: "isp", Hosts: []string{"one:25"}, TLS: ModeOff, MaxConnections: places}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context())
	for range places + 1 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic came through")
				}
			}()
			m := mail(hello)
			m.Open = func() (io.ReadCloser, error) { return io.NopCloser(boom{}), nil }
			r.Deliver(t.Context(), "isp", m)
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := mail(hello)
	m.ID = "q2"
	if a := r.Deliver(ctx, "isp", m); a.Site != nil || len(a.Results) == 0 || a.Results[0].Failure != nil {
		t.Errorf("the mail behind it came to %+v", a)
	}
}

// warm returns the first host of r with n connections to it that are all in use.
func warm(t *testing.T, r *Router, n int) (*host, []*conn) {
	t.Helper()
	h := r.table.Load().routes[0].hosts[0]
	var conns []*conn
	for range n {
		c, _, o := h.connection(t.Context(), ticket{round: h.health.round}, newWork(mail(hello)), false)
		if c == nil {
			t.Fatalf("no connection: %+v", o)
		}
		conns = append(conns, c)
	}
	return h, conns
}

// Who has met a connection that was dead, or probes a host, learns nothing from one that was open before.
func TestPool_WhoWantsANewConnectionIsNotHandedAnOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		r := p.router(t, limit(1), "one:25")
		h, conns := warm(t, r, 1)
		handed := make(chan grant, 1)
		go func() { handed <- h.pool.get(t.Context(), true, nil) }()
		synctest.Wait()
		h.pool.put(conns[0])
		if g := <-handed; g.c != nil || g.err != nil {
			t.Errorf("%+v, want leave to open a connection", g)
		}
		h.pool.forgo()
		if s := p.hosts["one:25"].see(); s.quits != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Fewer connections cost those that are too many, whether they are idle at that moment or in use.
func TestPool_FewerConnectionsLeaveTheOthersOpen(t *testing.T) {
	for name, resize := range map[string]func(*host, []*conn){
		"idle": func(h *host, conns []*conn) {
			for _, c := range conns {
				h.pool.put(c)
			}
			h.pool.resize(3)
		},
		"in use": func(h *host, conns []*conn) {
			h.pool.resize(3)
			for _, c := range conns {
				h.pool.put(c)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				h, conns := warm(t, p.router(t, limit(4), "one:25"), 4)
				resize(h, conns)
				synctest.Wait()
				if s := p.hosts["one:25"].see(); s.conns != 3 || s.quits != 1 || h.pool.count() != 3 {
					t.Errorf("%d are open, %d counted, %d got QUIT", s.conns, h.pool.count(), s.quits)
				}
			})
		})
	}
}

// One that wants a new connection costs one that is open, however long the host takes to let that one go.
func TestPool_WhoWantsANewConnectionCostsOneAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		p.hosts["one:25"].answer = func(line string) string {
			if line == "QUIT" {
				time.Sleep(time.Second)
			}
			return ""
		}
		h, conns := warm(t, p.router(t, limit(4), "one:25"), 4)
		grants := make(chan grant, 3)
		for _, fresh := range []bool{true, false, false} {
			go func() { grants <- h.pool.get(t.Context(), fresh, nil) }()
			synctest.Wait()
		}
		for _, c := range conns {
			h.pool.put(c)
		}
		opens := 0
		for range 3 {
			if g := <-grants; g.c == nil {
				opens++
				h.pool.forgo()
			} else {
				h.pool.put(g.c)
			}
		}
		if s := p.hosts["one:25"].see(); s.quits != 1 || opens != 1 {
			t.Errorf("%d got QUIT, %d may open one: %+v", s.quits, opens, s)
		}
	})
}
