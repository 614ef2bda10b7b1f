package smarthost

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/sandbox"
)

// doorman lets so many connections through to a host, and turns the others away in its own way.
type doorman struct {
	most    int32
	inside  atomic.Int32
	turned  atomic.Int32
	refuse  func(net.Conn) // nil: the door is shut, so that TCP is refused
	addr    string
	host    string
	mu      sync.Mutex
	door    net.Listener
	visitor sync.WaitGroup
}

func newDoorman(t *testing.T, most int32, host string, refuse func(net.Conn)) *doorman {
	t.Helper()
	d := &doorman{most: most, host: host, refuse: refuse}
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.door, d.addr = door, door.Addr().String()
	d.visitor.Go(func() { d.receive(door) })
	t.Cleanup(func() {
		d.mu.Lock()
		d.most = 0
		if d.door != nil {
			d.door.Close()
		}
		d.mu.Unlock()
		d.visitor.Wait()
	})
	return d
}

func (d *doorman) receive(door net.Listener) {
	for {
		nc, err := door.Accept()
		if err != nil {
			return
		}
		if d.inside.Add(1) > d.most {
			d.inside.Add(-1)
			d.turned.Add(1)
			if d.refuse != nil {
				d.refuse(nc)
			}
			nc.Close()
			continue
		}
		d.shut()
		d.visitor.Go(func() {
			d.guide(nc)
			d.inside.Add(-1)
			d.open()
		})
	}
}

// shut closes the door while the house is full, if that is this doorman's way.
func (d *doorman) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse == nil && d.door != nil && d.inside.Load() >= d.most {
		d.door.Close()
		d.door = nil
	}
}

func (d *doorman) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.door != nil || d.inside.Load() >= d.most {
		return
	}
	door, err := net.Listen("tcp", d.addr)
	if err != nil {
		return
	}
	d.door = door
	d.visitor.Go(func() { d.receive(door) })
}

func (d *doorman) guide(nc net.Conn) {
	defer nc.Close()
	host, err := net.Dial("tcp", d.host)
	if err != nil {
		return
	}
	defer host.Close()
	go func() {
		io.Copy(host, nc)
		host.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(nc, host)
}

func saying554(nc net.Conn) { io.WriteString(nc, "554 5.7.1 too many of you\r\n") }
func saying450(nc net.Conn) { io.WriteString(nc, "450 4.3.2 too busy\r\n") }
func silent(net.Conn)       {}
func resetting(nc net.Conn) { nc.(*net.TCPConn).SetLinger(0) }

// doormen are the ways in which hosts refuse one connection more.
var doormen = map[string]func(net.Conn){"554": saying554, "450": saying450, "close": silent, "RST": resetting, "refused TCP": nil}

func TestLimit_HostThatRefusesTheThirdConnectionIsNotDown(t *testing.T) {
	for name, way := range doormen {
		for _, mode := range []Mode{ModeStartTLS, ModeImplicit} {
			if mode == ModeImplicit && (name == "554" || name == "450") {
				continue // which comes in the clear, and is for a host with STARTTLS
			}
			t.Run(name+" "+string(mode), func(t *testing.T) {
				s := startSandbox(t, strict(sandbox.Options{ImplicitAddress: "127.0.0.1:0"}))
				inject(t, s, sandbox.Fault{Stage: sandbox.StageDot, Delay: 5 * time.Millisecond})
				host := s.Addr()
				if mode == ModeImplicit {
					host = s.ImplicitAddr()
				}
				d := newDoorman(t, 2, host, way)
				g := newRigWith(t, func(o *Options) {
					o.Routes[0].Hosts = []string{d.addr}
					o.Routes[0].MaxConnections = 5
					// A host that is taken for down stays so for longer than the test takes.
					o.ProbeMin, o.ProbeMax = time.Hour, time.Hour
				}, login(mode), s)
				wantDelivered(t, g.deliver(t, mail(hello)), d.addr)
				for _, a := range deliverAll(t, g.Router, 100) {
					wantDelivered(t, a, d.addr)
				}
				if h := g.Status()[0].Hosts[0]; h.State != StateUp || h.Connections != 2 {
					t.Errorf("%+v", h)
				}
				if n := d.turned.Load(); n > 3 {
					t.Errorf("it was asked %d times for more than it gives", n)
				}
			})
		}
	}
}

// limitedPeer makes a host in memory turn the third connection away, and take a tenth of a second for each reply. It returns
// how many were turned away.
func limitedPeer(p *peers, how string) (turned *atomic.Int32) {
	h := p.hosts["one:25"]
	turned = new(atomic.Int32)
	h.answer = func(line string) string {
		if line == "" && h.see().conns > 2 {
			turned.Add(1)
			return how
		}
		time.Sleep(100 * time.Millisecond)
		return ""
	}
	return turned
}

func TestLimit_CostsNoMoreThanFewerConnectionsDo(t *testing.T) {
	took := func(t *testing.T, connections int, how string) (d time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			limitedPeer(p, strings.TrimPrefix(how, "refused")) // which the dialer says
			r := p.router(t, func(o *Options) {
				o.Routes[0].MaxConnections = connections
				dial := o.Dial
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if how == "refused" && p.hosts[addr].see().conns >= 2 {
						return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
					}
					return dial(ctx, network, addr)
				}
			}, "one:25")
			start := time.Now()
			for _, a := range deliverAll(t, r, 300) {
				wantDelivered(t, a, "one:25")
			}
			d = time.Since(start)
			if h := r.Status()[0].Hosts[0]; h.State != StateUp {
				t.Errorf("%+v", h)
			}
		})
		return d
	}
	best := took(t, 2, "")
	for _, how := range []string{"421 4.7.0 too many", "554 5.7.1 too many", "450 4.3.2 busy", hangUp, "refused"} {
		if d := took(t, 5, how); d > best+best/10 {
			t.Errorf("%q: 300 messages took %v, and with two connections %v", how, d, best)
		}
	}
}

// What was learnt is tried again, one connection more each time, and more seldom each time that is refused.
func TestLimit_IsTriedAgainSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers("one:25")
		turned := limitedPeer(p, hangUp)
		h := p.hosts["one:25"]
		r := p.router(t, limit(5), "one:25")
		for start := time.Now(); time.Since(start) < 2*time.Hour; time.Sleep(20 * time.Second) {
			for _, a := range deliverAll(t, r, 40) {
				wantDelivered(t, a, "one:25")
			}
		}
		// Three or four at first, then after pauses that double from 5 seconds to 16 minutes. One more may come when one that
		// has served often enough is exchanged.
		if n := turned.Load(); n < 11 || n > 25 {
			t.Errorf("asked %d times in two hours for more than it gives", n)
		}
		h.set(func(h *peer) {
			h.answer, h.most = func(string) string { time.Sleep(100 * time.Millisecond); return "" }, 0
		})
		for start := time.Now(); time.Since(start) < 70*time.Minute; time.Sleep(20 * time.Second) {
			deliverAll(t, r, 40)
		}
		if most := h.see().most; most < 5 {
			t.Errorf("%d connections at once when the limit was gone, want 5 and one that says QUIT", most)
		}
	})
}

// A host that is gone is gone, although connections from before seem to be open.
func TestLimit_HostThatIsAwayIsStillNoticed(t *testing.T) {
	for _, how := range []string{"silence", "refused"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25", "two:25")
			one := p.hosts["one:25"]
			r := p.router(t, limit(2), "one:25", "two:25")
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
			one.set(func(h *peer) { h.answer = at(".", hang) })
			var first sync.WaitGroup
			first.Go(func() { r.Deliver(t.Context(), "isp", mail(hello)) })
			synctest.Wait()
			time.Sleep(aliveTime + time.Second)
			one.set(func(h *peer) {
				h.refuse = how == "refused"
				h.answer = func(string) string { return hang }
			})
			start := time.Now()
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "two:25")
			want := time.Duration(0)
			if how == "silence" {
				want = (Timeouts{}).orDefaults().Greeting
			}
			if d := time.Since(start); d != want {
				t.Errorf("%s: it was noticed after %v, want %v", how, d, want)
			}
			first.Wait()
		})
	}
}

func TestLimit_FormsOfIt(t *testing.T) {
	h := &host{place: testPlace}
	for _, c := range []struct {
		err  stageError
		want bool
	}{
		{stageError{stage: "greeting", reply: parseReply(t, "421 4.7.0 too many")}, true},
		{stageError{stage: "auth", reply: parseReply(t, "421 4.7.0 too many")}, true},
		{stageError{stage: "auth", reply: parseReply(t, "432 4.3.2 Concurrent connections limit exceeded.")}, true},
		{stageError{stage: "greeting", reply: parseReply(t, "554 no")}, true},
		{stageError{stage: "greeting", reply: parseReply(t, "250 odd")}, false},
		{stageError{stage: "ehlo", reply: parseReply(t, "550 bad name")}, false},
		{stageError{stage: "auth", reply: parseReply(t, "535 5.7.8 no")}, false},
		{stageError{stage: "starttls", reply: parseReply(t, "454 no")}, false},
		{stageError{stage: "dial", err: fmt.Errorf("x: %w", syscall.ECONNREFUSED)}, true},
		{stageError{stage: "dial", err: syscall.ECONNRESET}, true},
		{stageError{stage: "dial", err: syscall.ENETUNREACH}, false},
		{stageError{stage: "dial", err: &net.DNSError{IsTimeout: true}}, false},
		{stageError{stage: "dial", err: &loopError{}}, false},
		{stageError{stage: "tls", err: io.EOF}, true},
		{stageError{stage: "greeting", err: io.EOF}, true},
		{stageError{stage: "greeting", err: syscall.ECONNRESET}, true},
		{stageError{stage: "greeting", err: &notSMTPError{"SSH-2.0"}}, false},
		{stageError{stage: "auth", err: io.EOF}, false},
	} {
		if got := h.mayBeLimit(&c.err); got != c.want {
			t.Errorf("%s: %v, want %v", strings.TrimSpace(c.err.Error()), got, c.want)
		}
	}
}
