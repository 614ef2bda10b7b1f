package smarthost

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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

// What can happen to a transaction, its message, its pool and its host while its envelope travels behind the body of
// another. The mixtures of replies are in testdata/dialogues/overlap-*.txt and out-of-step-*.txt.

// mailOf returns a message with a sender of its own.
func mailOf(sender string, to ...string) envelope.Message {
	m := mail("Subject: from "+sender+"\r\n\r\nhello\r\n", to...)
	m.ID, m.Envelope.ReversePath = sender, envelope.Path(sender+"@example.com")
	return m
}

// slowAtDot answers the final dot after d.
func slowAtDot(d time.Duration) func(string) string {
	return func(line string) string {
		if line == "." {
			time.Sleep(d)
		}
		return ""
	}
}

// tap keeps what a connection writes.
type tap struct {
	net.Conn
	wrote *safeBuffer
}

func (c tap) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Write(p[:n])
	return n, err
}

// tapped returns dial with its connections tapped.
func tapped(dial func(context.Context, string, string) (net.Conn, error), wrote *safeBuffer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		return tap{nc, wrote}, err
	}
}

// overlapping is a router with one connection to each host, of which the first is known to be good and keeps order, and
// two deliveries: the host takes a minute to answer the first's dot, and has the second's envelope by then.
type overlapping struct {
	t             *testing.T
	peers         *peers
	one           *peer
	router        *Router
	ctx           context.Context // the second's
	cancel        context.CancelFunc
	wg            sync.WaitGroup
	first, second envelope.Attempt
	secondEnd     time.Time
	panicked      any        // what the second panicked with
	wrote         safeBuffer // to all hosts
	atDot         string     // what the host says to the first's dot, in the words of peer.answer
}

// begin starts the deliveries. It returns when the second's envelope is on the wire.
func (o *overlapping) begin(t *testing.T, second envelope.Message, change func(*Options), hosts ...string) {
	t.Helper()
	o.t, o.peers = t, newPeers(append([]string{"one:25"}, hosts...)...)
	o.one = o.peers.hosts["one:25"]
	o.one.pipelining = true
	o.router = o.peers.router(t, func(opts *Options) {
		opts.Routes[0].MaxConnections = 1
		if change != nil {
			change(opts)
		}
		opts.Dial = tapped(opts.Dial, &o.wrote)
	}, append([]string{"one:25"}, hosts...)...)
	wantDelivered(t, o.router.Deliver(t.Context(), "isp", mailOf("before")), "one:25")
	o.host().order.proven.Store(true)
	var answered atomic.Bool
	o.one.set(func(h *peer) {
		h.answer = func(line string) string {
			if line != "." || answered.Swap(true) {
				return ""
			}
			time.Sleep(time.Minute)
			return o.atDot
		}
	})
	o.ctx, o.cancel = context.WithCancel(t.Context())
	rest := make(chan struct{})
	m := mailOf("first")
	open := m.Open
	m.Open = func() (io.ReadCloser, error) {
		content, err := open()
		return heldBack{content, rest}, err
	}
	o.wg.Go(func() { o.first = o.router.Deliver(t.Context(), "isp", m) })
	settle()
	o.wg.Go(func() {
		defer func() { o.panicked = recover() }()
		o.second = o.router.Deliver(o.ctx, "isp", second)
		o.secondEnd = time.Now()
	})
	settle()
	close(rest)
	settle()
	if o.host().pool.waits() > 0 {
		t.Fatal("the second message still waits for a connection")
	}
}

// settle lets what is on a line arrive.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (p *pool) waits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

func (o *overlapping) host() *host { return o.router.table.Load().routes[0].hosts[0] }

// wait returns when both deliveries have ended and what they left has settled.
func (o *overlapping) wait() {
	o.wg.Wait()
	o.cancel()
	synctest.Wait()
}

// wantEmpty fails the test unless the pool counts nothing and holds nothing.
func wantEmpty(t interface {
	Helper()
	Errorf(string, ...any)
}, p *pool) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open != 0 || p.ready != 0 || len(p.idle) != 0 || len(p.live) != 0 || len(p.waiting) != 0 {
		t.Errorf("the pool counts %d connections, %d ready, %d idle, %d live, %d waiting; want none",
			p.open, p.ready, len(p.idle), len(p.live), len(p.waiting))
	}
}

func TestOverlap_CancelledBehindABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlapping
		o.begin(t, mailOf("second"), nil)
		cancelled := time.Now()
		o.cancel()
		o.wait()
		wantDelivered(t, o.first, "one:25")
		if o.second.Site == nil || o.secondEnd != cancelled {
			t.Errorf("it ended %v later and came to %s", o.secondEnd.Sub(cancelled), show(o.second))
		}
		// The host has its envelope, so that the connection can serve nobody else.
		wantEmpty(t, o.host().pool)
		o.one.set(func(h *peer) { h.answer = nil })
		wantDelivered(t, o.router.Deliver(t.Context(), "isp", mailOf("third")), "one:25")
		if h := o.one.see(); h.transactions != 3 || h.opened != 2 {
			t.Errorf("%d transactions over %d connections; want 3 over 2", h.transactions, h.opened)
		}
	})
}

func TestOverlap_FirstIsCancelledAfterItsDot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		h.answer = slowAtDot(10 * time.Second)
		r := p.router(t, limit(1), "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(ctx, "isp", mail(hello)), "one:25") })
		synctest.Wait()
		for range 3 {
			wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25") })
		}
		wg.Wait()
		if n := h.see().transactions; n != 5 {
			t.Errorf("%d transactions for 5 messages", n)
		}
	})
}

func TestOverlap_RouterIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlapping
		o.begin(t, mailOf("second"), nil)
		if err := o.router.Close(t.Context()); err != nil {
			t.Error(err)
		}
		o.wait()
		wantDelivered(t, o.first, "one:25")
		if o.second.Site == nil {
			t.Error(show(o.second))
		}
		if h := o.one.see(); h.transactions != 2 || h.conns != 0 {
			t.Errorf("%d transactions, %d connections are open", h.transactions, h.conns)
		}
		wantEmpty(t, o.host().pool)
	})
}

func TestOverlap_RouteIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlapping
		var opts Options
		o.begin(t, mailOf("second"), func(o *Options) { opts = *o }, "two:25")
		gone := o.host()
		opts.Routes = []Route{{Name: "isp", Hosts: []string{"two:25"}, TLS: ModeOff}}
		if err := o.router.Reconfigure(opts); err != nil {
			t.Fatal(err)
		}
		o.wait()
		wantDelivered(t, o.first, "one:25")
		if o.second.Site == nil || o.one.see().transactions != 2 {
			t.Error(show(o.second))
		}
		wantEmpty(t, gone.pool)
	})
}

func TestOverlap_FewerConnectionsAreAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlapping
		o.begin(t, mailOf("second"), nil)
		o.host().pool.resize(0)
		o.wait()
		wantDelivered(t, o.first, "one:25")
		wantDelivered(t, o.second, "one:25")
		wantEmpty(t, o.host().pool)
	})
}

// A login that is refused elsewhere says that the host is not to be used now. The message behind the body goes to the
// next host, and the connection with its envelope is not kept.
func TestOverlap_HostFailsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlapping
		o.begin(t, mailOf("second"), nil, "two:25")
		h := o.host()
		other, _, _ := h.admit(t.Context())
		h.failed(other, "other", verdict{trouble: loginRefused})
		o.wait()
		wantDelivered(t, o.first, "one:25")
		wantDelivered(t, o.second, "two:25")
		if n := o.one.see().transactions; n != 2 {
			t.Errorf("the host took %d messages, want 2", n)
		}
		wantEmpty(t, h.pool)
	})
}

// A panic in the second message's attempt costs no connection and no place in the pool.
func TestOverlap_PanicInTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := mailOf("second")
		second.Open = func() (io.ReadCloser, error) { return io.NopCloser(boom{}), nil }
		var o overlapping
		o.begin(t, second, nil)
		o.wait()
		wantDelivered(t, o.first, "one:25")
		if o.panicked == nil {
			t.Error("no panic came through")
		}
		wantEmpty(t, o.host().pool)
		o.one.set(func(h *peer) { h.answer = nil })
		wantDelivered(t, o.router.Deliver(t.Context(), "isp", mailOf("third")), "one:25")
	})
}

func TestOverlap_ManyRecipientsBehindABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var to []string
		for i := range 250 {
			to = append(to, fmt.Sprintf("recipient-number-%d@a-rather-long-name.example.net", i))
		}
		f := &farAway{oneWay: 20 * time.Millisecond}
		var o overlapping
		o.begin(t, mailOf("second", to...), func(o *Options) { o.Dial = f.dial(o.Dial) })
		if n := strings.Count(o.wrote.String(), "RCPT TO"); n != 2+maxGroup-1 {
			t.Errorf("%d RCPT commands are out before the reply to the dot; want one group of %d commands", n, maxGroup)
		}
		o.wait()
		wantDelivered(t, o.first, "one:25")
		wantDelivered(t, o.second, "one:25")
		if n := strings.Count(o.wrote.String(), "RCPT TO"); len(o.second.Results) != 250 || n != 252 {
			t.Errorf("%d results, %d RCPT commands", len(o.second.Results), n)
		}
		o.router.Close(t.Context())
		f.open.Wait()
	})
}

// cutBehindDot is a connection that breaks where an envelope begins behind a body.
type cutBehindDot struct{ net.Conn }

func (c cutBehindDot) Write(p []byte) (int, error) {
	i := bytes.Index(p, []byte("\r\n.\r\nMAIL"))
	if i < 0 {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:i+5])
	if err == nil {
		err = io.ErrClosedPipe
	}
	return n, err
}

// The host has the whole body, and nothing of what is behind it. What it says of the body counts.
func TestOverlap_LineBreaksBehindTheDot(t *testing.T) {
	for answered, c := range map[string]string{"and the reply comes": "", "and no reply comes": hangUp} {
		t.Run(answered, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := overlapping{atDot: c}
				o.begin(t, mailOf("second"), func(o *Options) {
					dial := o.Dial
					o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						nc, err := dial(ctx, network, addr)
						return cutBehindDot{nc}, err
					}
				})
				o.wait()
				wantDelivered(t, o.second, "one:25")
				if n := o.one.see().transactions; n != 3 {
					t.Errorf("the host took %d messages, want each of the 3 once", n)
				}
				if c == "" {
					wantDelivered(t, o.first, "one:25")
				} else if !o.first.PossibleDuplicate {
					t.Errorf("a message that the host has taken is not marked: %s", show(o.first))
				}
			})
		})
	}
}

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

// The second message is behind a body on a connection that breaks, and another connection has become free meanwhile. It
// begins there anew.
func TestOverlap_ConnectionBreaksWhenAnotherIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		r := p.router(t, limit(2), "one:25")
		wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		var dots atomic.Int32
		h.set(func(h *peer) {
			h.answer = func(line string) string {
				if line != "." {
					return ""
				}
				switch dots.Add(1) {
				case 1: // the other message
					time.Sleep(5 * time.Second)
				case 2: // the first one
					time.Sleep(8 * time.Second)
					return hangUp
				}
				return ""
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() { wantDelivered(t, r.Deliver(t.Context(), "isp", mailOf("other")), "one:25") })
		settle()
		rest := make(chan struct{})
		first := mailOf("first")
		open := first.Open
		first.Open = func() (io.ReadCloser, error) {
			content, err := open()
			return heldBack{content, rest}, err
		}
		wg.Go(func() {
			if a := r.Deliver(t.Context(), "isp", first); !a.PossibleDuplicate {
				t.Error(show(a))
			}
		})
		settle()
		start := time.Now()
		wg.Go(func() {
			wantDelivered(t, r.Deliver(t.Context(), "isp", mailOf("second")), "one:25")
			if took := time.Since(start); took != 9*time.Second {
				t.Errorf("the second message took %v; the connection broke after 9 s", took)
			}
		})
		settle()
		close(rest)
		wg.Wait()
		if n := h.see().opened; n != 2 {
			t.Errorf("%d connections were opened", n)
		}
	})
}

// A message behind a body that is not answered for long goes another way when there is one.
func TestOverlap_SlowDotDoesNotHoldUpTheNextWhenAConnectionIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		h := p.hosts["one:25"]
		h.pipelining = true
		r := p.router(t, limit(2), "one:25")
		deliverAll(t, r, 4)
		h.set(func(h *peer) {
			var slow atomic.Bool
			h.answer = func(line string) string {
				if line == "." {
					time.Sleep(time.Second)
					if !slow.Swap(true) {
						time.Sleep(9 * time.Minute)
					}
				}
				return ""
			}
		})
		start := time.Now()
		took := make([]time.Duration, 12)
		var wg sync.WaitGroup
		for i := range took {
			wg.Go(func() {
				wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
				took[i] = time.Since(start)
			})
		}
		wg.Wait()
		late := 0
		for _, d := range took {
			if d > time.Minute {
				late++
			}
		}
		if late != 1 {
			t.Errorf("%d messages were held up by one: %v", late, took)
		}
		if n := h.see().transactions; n != 16 {
			t.Errorf("the host took %d messages, want each of the 16 once", n)
		}
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
			rest := make(chan struct{})
			big.Open = func() (io.ReadCloser, error) {
				return heldBack{io.NopCloser(strings.NewReader(body)), rest}, nil
			}
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
			close(rest)
			wg.Wait()
			if n := len(s.Messages()); n != 2 {
				t.Errorf("%d messages were taken", n)
			}
		})
	}
}
