package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countingListener counts the writes of the server's side.
type countingListener struct {
	net.Listener
	writes *atomic.Int64
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{c, l.writes}, nil
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestGuard_OneWriteForEachPipelinedGroup(t *testing.T) {
	var writes atomic.Int64
	h := open(t, nil)
	listen := h.listen
	h.listen = func(network, address string) (net.Listener, error) {
		l, err := listen(network, address)
		return countingListener{l, &writes}, err
	}
	h.start()
	c := h.dial()
	c.expect("220 *")
	for _, group := range []struct{ send, last string }{
		{"EHLO c\r\n", "250 *"},
		{"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@d.test>\r\nDATA\r\n", "354 *"},
		{"x\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", "354 *"},
		{"x\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 3\r\nx\r\nBDAT 0 LAST\r\nNOOP\r\nNONSENSE\r\nQUIT\r\n", "221 *"},
	} {
		before := writes.Load()
		c.send(group.send)
		for {
			line, err := c.line()
			if err != nil {
				t.Fatal(err)
			}
			if like(group.last, line) {
				break
			}
		}
		if n := writes.Load() - before; n != 1 {
			t.Errorf("%d writes for the replies to %q", n, group.send)
		}
	}
	if n := len(h.queue.committed()); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// TestGuard_SplitAnywhere sends a session octet by octet and in other pieces, since TCP keeps no boundaries.
func TestGuard_SplitAnywhere(t *testing.T) {
	h := start(t, nil)
	session := "EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n..x\r\nlf\n\r\n.\r\n" +
		"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 4\r\n.x\r\nBDAT 3 LAST\r\n\r\n.QUIT\r\n"
	for _, size := range []int{1, 2, 3, 7, 64} {
		c := h.dial()
		c.conn.(*net.TCPConn).SetNoDelay(true)
		for rest := session; rest != ""; {
			n := min(size, len(rest))
			c.send(rest[:n])
			rest = rest[n:]
		}
		for line := ""; !like("221 *", line); {
			var err error
			if line, err = c.line(); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := h.queue.committed()
	if len(done) != 10 {
		t.Fatalf("%d messages", len(done))
	}
	for i, m := range done {
		want := []string{".x\r\nlf\r\n\r\n", ".x\r\n\r\n.\r\n"}[i%2]
		if _, got := m.split(); got != want {
			t.Errorf("message %d: %q, want %q", i, got, want)
		}
	}
}

// TestGuard_LargeBodies goes through the large buffer, with commands pipelined behind it.
func TestGuard_LargeBodies(t *testing.T) {
	h := start(t, nil)
	body := strings.Repeat(strings.Repeat("0123456789", 20)+"\r\n..dot\r\n", 10000)
	want := strings.ReplaceAll(body, "\r\n..", "\r\n.")
	c := h.dial().hello()
	for range 2 {
		c.envelope()
		c.command("DATA", "354 *")
		c.send(body + ".\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n")
		c.expect("250 *", "250 *", "250 *")
		c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
		c.expect("250 *")
	}
	for i, m := range h.queue.committed() {
		_, got := m.split()
		if i%2 == 0 && got != want || i%2 == 1 && got != body {
			t.Errorf("message %d came out different, %d octets for %d", i, len(got), len(body))
		}
	}
}

// pipes is a listener whose connections are made in memory, so that they live in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	gone  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.gone) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// inBubble runs f with a client of a relay on which time is synctest's, so that the real durations are tested.
func inBubble(t *testing.T, f func(t *testing.T, h *house, c *client)) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), gone: make(chan struct{})}
		h := open(t, nil)
		h.listen = func(string, string) (net.Listener, error) { return l, nil }
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		l.conns <- &pretended{Conn: theirs, addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:50000"))}
		c := newClient(t, ours)
		c.wait = 24 * time.Hour
		f(t, h, c)
		ours.Close()
		h.stop()
	})
}

// drip sends text every minute until the connection is closed, and closes done then.
func (c *client) drip(text string) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := io.WriteString(c.conn, text); err != nil {
				return
			}
			time.Sleep(time.Minute)
		}
	}()
	return done
}

func within(t *testing.T, begun time.Time, least, most time.Duration) {
	t.Helper()
	if took := time.Since(begun); took < least || took > most {
		t.Errorf("it took %v, want %v to %v", took, least, most)
	}
}

func TestGuard_IdleSessionIsClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello()
		begun := time.Now()
		c.expect("421 4.4.2 *")
		c.expectEOF()
		within(t, begun, 5*time.Minute, 6*time.Minute)
	})
}

func TestGuard_CommandDrippedByTheOctetIsNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello()
		begun := time.Now()
		dripped := c.drip("N")
		c.expect("421 4.4.2 *")
		c.expectEOF()
		<-dripped
		within(t, begun, 5*time.Minute, 7*time.Minute)
	})
}

func TestGuard_BodyOfAByteAMinuteIsCutOff(t *testing.T) {
	for _, command := range []string{"DATA", "BDAT 100000 LAST"} {
		inBubble(t, func(t *testing.T, h *house, c *client) {
			c.hello().envelope()
			c.send(command + "\r\n")
			if command == "DATA" {
				c.expect("354 *")
			}
			begun := time.Now()
			dripped := c.drip("x")
			c.expect("421 4.4.2 the message came too slowly*")
			c.expectEOF()
			<-dripped
			within(t, begun, 5*time.Minute, 7*time.Minute)
			if len(h.queue.committed()) != 0 {
				t.Error("a part of a message was committed")
			}
		})
	}
}

func TestGuard_BodyThatStopsIsCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello().envelope()
		c.command("DATA", "354 *")
		c.send(strings.Repeat("x\r\n", 1000))
		begun := time.Now()
		c.expect("421 4.4.2 *")
		c.expectEOF()
		within(t, begun, 3*time.Minute, 4*time.Minute)
	})
}

func TestGuard_ScannerThatTakesItsTimeGetsThrough(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello().envelope()
		c.command("DATA", "354 *")
		for range 20 { // pages, two minutes each
			time.Sleep(2 * time.Minute)
			c.send(strings.Repeat("0123456789\r\n", 2000))
		}
		c.command(".", "250 *")
	})
}

func TestGuard_ClientThatReadsNothingIsCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		begun := time.Now()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.peers) != 0 {
			t.Errorf("the session is still there after %v", time.Since(begun))
		}
	})
}

func TestGuard_SilentStrangerIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), gone: make(chan struct{})}
		h := open(t, func(_ *Options, tune *tuning) { tune.linger = standardTuning().linger })
		h.listen = func(string, string) (net.Listener, error) { return l, nil }
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		l.conns <- &pretended{Conn: theirs, addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:50000"))}
		c := newClient(t, ours)
		c.wait = time.Hour
		c.expect("554 *")
		begun := time.Now()
		if _, err := c.line(); !errors.Is(err, io.EOF) {
			t.Errorf("waiting for the end: %v", err)
		}
		within(t, begun, 0, 10*time.Second)
		h.stop()
	})
}
