//go:build peers

package peers

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// turnstile passes connections on to a smarthost, and turns away those beyond a number that are open at once.
type turnstile struct {
	next   string // where it passes them on to
	most   int32
	away   func(*net.TCPConn) // turns a connection away
	open   atomic.Int32
	turned atomic.Int32
}

// listen lets clients in until the test ends, and returns the address.
func (s *turnstile) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func (s *turnstile) serve(c *net.TCPConn) {
	defer c.Close()
	defer s.open.Add(-1)
	if s.open.Add(1) > s.most {
		s.turned.Add(1)
		s.away(c)
		return
	}
	next, err := net.Dial("tcp", s.next)
	if err != nil {
		return
	}
	defer next.Close()
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		io.Copy(to, from)
		to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { pass(next, c) })
	both.Go(func() { pass(c, next) })
	both.Wait()
}

// Some servers limit the connections of a client and do not say so with 421. While two connections work, a third that is
// turned away is no outage: the mail goes over the two.
func TestPostfix_AThirdConnectionThatIsTurnedAwayIsNoOutage(t *testing.T) {
	t.Parallel()
	say := func(words string) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			io.WriteString(c, words)
			c.CloseWrite()
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, c)
		}
	}
	for name, away := range map[string]func(*net.TCPConn){
		"554 greeting": say("554 smarthost.example too many connections from you\r\n"),
		"450 greeting": say("450 4.7.0 smarthost.example busy\r\n"),
		"not a word":   say(""),
		"reset":        func(c *net.TCPConn) { c.SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := &turnstile{most: 2, away: away}
			c := newChain(t, func(c *chain, s *settings) {
				gate.next = c.smarthost.addr()
				s.host = gate.listen(t)
				s.route = "max_connections = 10"
			})
			const count = 100
			began := time.Now()
			for i := range count {
				if err := submit("127.0.0.1:"+c.relay.port, plain(fmt.Sprintf("turnstile-%d", i)), ann); err != nil {
					t.Fatal(err)
				}
			}
			c.waitUntilEmpty(t)
			t.Logf("%d messages in %v, %d connections turned away", count, time.Since(began).Round(time.Millisecond), gate.turned.Load())
			c.box(ann).mustHold(t, count)
			if gate.turned.Load() == 0 {
				t.Error("no connection was turned away: nothing was shown")
			}
			if said := c.relay.said(t); strings.Contains(said, "host down") {
				t.Errorf("relayd takes the host for dead:\n%s", said)
			}
		})
	}
}
