package smarthost

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
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
	first, release := held(mailOf("first"))
	o.wg.Go(func() { o.first = o.router.Deliver(t.Context(), "isp", first) })
	settle()
	o.wg.Go(func() {
		defer func() { o.panicked = recover() }()
		o.second = o.router.Deliver(o.ctx, "isp", second)
		o.secondEnd = time.Now()
	})
	settle()
	release()
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

// held returns m with content that cannot be read before release is called.
func held(m envelope.Message) (envelope.Message, func()) {
	until := make(chan struct{})
	open := m.Open
	m.Open = func() (io.ReadCloser, error) {
		content, err := open()
		return heldBack{content, until}, err
	}
	return m, func() { close(until) }
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
