package smarthost

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

// farAway is a proxy: what is written at either end of a connection through it arrives at the other end that much later,
// however much is under way. On synctest's clock it is exact. It counts the round trips that the client waited for.
type farAway struct {
	oneWay time.Duration
	open   sync.WaitGroup

	mu       sync.Mutex
	answered bool // the host spoke last
	turns    int  // how often the client spoke after the host had
}

// dial returns a way to reach hosts through f. Opening a connection costs a round trip, as TCP's does.
func (f *farAway) dial(near func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, err := near(ctx, network, addr)
		time.Sleep(2 * f.oneWay)
		if err != nil {
			return nil, err
		}
		client, end := net.Pipe()
		f.carry(host, end, false)
		f.carry(end, host, true)
		return client, nil
	}
}

// carry brings what is read from src to dst.
func (f *farAway) carry(dst, src net.Conn, fromHost bool) {
	type parcel struct {
		due  time.Time
		data []byte
	}
	line := make(chan parcel, 1<<10)
	f.open.Go(func() {
		defer close(line)
		for b := make([]byte, 64<<10); ; {
			n, err := src.Read(b)
			if err != nil {
				return
			}
			f.count(fromHost)
			line <- parcel{time.Now().Add(f.oneWay), append([]byte(nil), b[:n]...)}
		}
	})
	f.open.Go(func() {
		defer dst.Close()
		for p := range line {
			time.Sleep(time.Until(p.due))
			dst.Write(p.data) // what cannot be written is lost, as on any line
		}
	})
}

func (f *farAway) count(fromHost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answered && !fromHost {
		f.turns++
	}
	f.answered = fromHost
}

// deliverBacklog delivers n messages as the queue does: as many at once as the router has use for.
func deliverBacklog(t *testing.T, r *Router, n int, m func(int) envelope.Message) {
	t.Helper()
	backlog := make(chan int, n)
	for i := range n {
		backlog <- i
	}
	close(backlog)
	var wg sync.WaitGroup
	for range r.Concurrency("isp") {
		wg.Go(func() {
			for i := range backlog {
				if a := r.Deliver(t.Context(), "isp", m(i)); a.Site != nil || a.Results[0].Failure != nil || a.PossibleDuplicate {
					t.Error(show(a))
				}
			}
		})
	}
	wg.Wait()
}

// A backlog leaves over one connection at the pace of the line: one round trip a message where the host offers PIPELINING,
// four where it does not.
func TestLine_RoundTripsOfABacklog(t *testing.T) {
	const (
		messages  = 200
		roundTrip = 40 * time.Millisecond
		setUp     = 5 // TCP, greeting, EHLO, and the first two messages: nothing follows until one was taken
	)
	small := hello + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 2048/80)
	for _, c := range []struct {
		name       string
		pipelining bool
		each       int
	}{{"pipelining", true, 1}, {"lock-step", false, 4}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				p.hosts["one:25"].pipelining = c.pipelining
				f := &farAway{oneWay: roundTrip / 2}
				r := p.router(t, func(o *Options) {
					o.Routes[0].MaxConnections, o.Dial = 1, f.dial(p.dial)
				}, "one:25")
				start := time.Now()
				deliverBacklog(t, r, messages, func(int) envelope.Message { return mail(small) })
				took := time.Since(start)
				t.Logf("%d messages over one connection: %v, %.2f round trips of %v each, set-up included; the client waited for %d",
					messages, took, float64(took)/float64(roundTrip)/messages, roundTrip, f.turns)
				if least, most := c.each*messages, c.each*messages+setUp; f.turns < least || f.turns > most ||
					took < time.Duration(least)*roundTrip || took > time.Duration(most)*roundTrip {
					t.Errorf("%d turns in %v; want %d to %d", f.turns, took, least, most)
				}
				if h := p.hosts["one:25"].see(); h.opened != 1 || h.transactions != messages {
					t.Errorf("%d connections, %d messages", h.opened, h.transactions)
				}
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
				f.open.Wait()
			})
		})
	}
}

// The same within TLS and after a login, over TCP, by the host's own count of how often it had to wait for its client.
func TestLine_RoundTripsOfABacklogWithTLSAndLogin(t *testing.T) {
	const messages = 200
	for _, c := range []struct {
		name        string
		extensions  []string
		least, most int // in turns, for all
	}{{"pipelining", nil, messages, messages * 5 / 4}, {"lock-step", []string{"-PIPELINING"}, 4 * messages, 5 * messages}} {
		t.Run(c.name, func(t *testing.T) {
			s := startSandbox(t, strict(sandbox.Options{Extensions: c.extensions, DiscardBodies: true}))
			route := login(ModeStartTLS)
			route.MaxConnections = 1
			g := newRig(t, route, s)
			deliverBacklog(t, g.Router, messages, func(i int) envelope.Message {
				m := mail(fmt.Sprintf("Subject: %d\r\n\r\nhello\r\n", i))
				m.ID = fmt.Sprint(i)
				return m
			})
			st := s.Stats()
			t.Logf("%d messages over one connection: %.2f turns each, set-up included", messages, float64(st.Turns)/messages)
			if st.Turns < c.least || st.Turns > c.most || st.Connections != 1 || st.Messages != messages || st.Violations > 0 {
				t.Errorf("want %d to %d turns: %+v %v", c.least, c.most, st, s.Violations())
			}
		})
	}
}

func TestLine_ResumesTLSOnFurtherConnections(t *testing.T) {
	for _, mode := range []Mode{ModeStartTLS, ModeImplicit} {
		t.Run(string(mode), func(t *testing.T) {
			s := startSandbox(t, strict(sandbox.Options{ImplicitAddress: "127.0.0.1:0", MaxPerConnection: 2}))
			route := login(mode)
			g := newRig(t, route, s)
			const connections = 4
			for range 2 * connections {
				if a := g.deliver(t, mail(hello)); a.Site != nil || a.Results[0].Failure != nil {
					t.Fatal(show(a))
				}
			}
			if st := s.Stats(); st.Handshakes != connections || st.Resumed != connections-1 {
				t.Errorf("%d handshakes, %d resumed; want %d, all but the first resumed", st.Handshakes, st.Resumed, connections)
			}
		})
	}
}

func TestLine_OneMessageAtATimeNeedsOneConnectionAndABacklogAllOfThem(t *testing.T) {
	for _, pipelining := range []bool{false, true} {
		t.Run(fmt.Sprintf("pipelining %v", pipelining), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeers("one:25")
				h := p.hosts["one:25"]
				h.pipelining = pipelining
				h.answer = func(string) string { time.Sleep(100 * time.Millisecond); return "" }
				r := p.router(t, limit(4), "one:25")
				for range 10 {
					wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
				}
				if n := h.see().opened; n != 1 {
					t.Errorf("one message at a time took %d connections", n)
				}
				deliverBacklog(t, r, 3, func(int) envelope.Message { return mail(hello) })
				if n := h.see().opened; n != 3 {
					t.Errorf("three messages at a time took %d connections", n)
				}
				deliverBacklog(t, r, 100, func(int) envelope.Message { return mail(hello) })
				if h := h.see(); h.opened != 4 || h.most != 4 {
					t.Errorf("a backlog took %d connections, %d at once; want max_connections, 4", h.opened, h.most)
				}
			})
		})
	}
}
