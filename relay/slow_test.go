package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What a client sends at once buys it no time to do nothing afterwards.
func TestGuard_BodyThatBurstsFirstIsCutOff(t *testing.T) {
	for _, command := range []string{"DATA", "BDAT 40000000 LAST"} {
		for _, burst := range []int{60_000, 3_000_000} {
			inBubble(t, func(t *testing.T, h *house, c *client) {
				c.hello().envelope()
				c.send(command + "\r\n")
				if command == "DATA" {
					c.expect("354 *")
				}
				c.send(strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789\r\n", burst/60))
				begun := time.Now()
				dripped := c.drip("x")
				c.expect("421 4.4.2 the message came too slowly*")
				c.expectEOF()
				<-dripped
				within(t, begun, 5*time.Minute, 7*time.Minute)
			})
		}
	}
}

// A body just above the least rate gets through, however long that takes.
func TestGuard_BodyAtTheLeastRateGetsThrough(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello().envelope()
		c.command("DATA", "354 *")
		for range 60 {
			time.Sleep(time.Minute)
			c.send(strings.Repeat("0123456789\r\n", 600)) // 120 octets a second
		}
		c.command(".", "250 *")
	})
}

// each has the client say line after each pause until the relay hangs up, and returns the relay's last words.
func (c *client) each(pause time.Duration, line string) (last string) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		for err := error(nil); err == nil; _, err = io.WriteString(c.conn, line) {
			time.Sleep(pause)
		}
	}()
	for {
		words, err := c.line()
		if err != nil {
			c.conn.Close()
			<-said
			return last
		}
		last = words
	}
}

// Neither the commands of a session nor the chunks of a message can be spread over more time than a message may take.
func TestGuard_CommandsAndChunksThatCrawlAreCutOff(t *testing.T) {
	chunk := "BDAT 600\r\n" + strings.Repeat("0123456789\r\n", 50)
	for _, s := range []struct {
		line        string
		least, most time.Duration
	}{
		{"NOOP\r\n", 15 * time.Minute, 15 * time.Minute},
		{"RCPT TO:<b@other.test>\r\n", 15 * time.Minute, 15 * time.Minute},
		{chunk, 8 * time.Minute, 10 * time.Minute},
		{"BDAT 0\r\n", 8 * time.Minute, 10 * time.Minute},
	} {
		inBubble(t, func(t *testing.T, h *house, c *client) {
			c.hello().envelope()
			begun := time.Now()
			if last := c.each(4*time.Minute, s.line); !like("421 4.4.2 *", last) {
				t.Errorf("%.20q: the relay's last words were %q", s.line, last)
			}
			within(t, begun, s.least, s.most+4*time.Minute) // until it says the next one
		})
	}
}

// A client that reads each reply an octet a second is cut off after a while.
func TestGuard_RepliesThatAreReadSlowlyAreNotWaitedForWithoutEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house, c *client) {
		c.hello().envelope()
		begun := time.Now()
		read := func() error {
			for b := make([]byte, 1); ; time.Sleep(time.Second) {
				if _, err := c.conn.Read(b); err != nil || b[0] == '\n' {
					return err
				}
			}
		}
		for {
			if _, err := io.WriteString(c.conn, "RCPT TO:<b@other.test>\r\n"); err != nil || read() != nil {
				break
			}
		}
		within(t, begun, 10*time.Minute, 17*time.Minute)
	})
}

// town is a relay in a synctest bubble with clients at many addresses.
type town struct {
	t    *testing.T
	h    *house
	l    *pipes
	wg   sync.WaitGroup
	over chan struct{}
}

func newTown(t *testing.T, change func(*Options, *tuning)) *town {
	w := &town{t: t, l: &pipes{conns: make(chan net.Conn), gone: make(chan struct{})}, over: make(chan struct{})}
	w.h = open(t, func(o *Options, tune *tuning) {
		o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
		if change != nil {
			change(o, tune)
		}
	})
	w.h.listen = func(string, string) (net.Listener, error) { return w.l, nil }
	if err := w.h.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

// connect returns a connection from addr, or nil when the town is at its end.
func (w *town) connect(addr string) net.Conn {
	ours, theirs := net.Pipe()
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))
	select {
	case w.l.conns <- &pretended{Conn: theirs, addr: from}:
		return ours
	case <-w.over:
		return nil
	}
}

// end lets the clients go, and stops the relay.
func (w *town) end() {
	close(w.over)
	w.h.stop()
	w.wg.Wait()
}

// attack has a client at addr hold a session as f does, and come again, a second after each end.
func (w *town) attack(addr string, f func(c net.Conn, say func(string) bool)) {
	w.wg.Go(func() {
		for {
			c := w.connect(addr)
			if c == nil {
				return
			}
			go io.Copy(io.Discard, c)
			stop := make(chan struct{})
			go func() {
				select {
				case <-w.over:
				case <-stop:
				}
				c.Close()
			}()
			f(c, func(s string) bool {
				if s == "" {
					return true
				}
				_, err := io.WriteString(c, s)
				return err == nil
			})
			close(stop)
			time.Sleep(time.Second)
		}
	})
}

// mustBeFull fails the test unless sessions hold all places of the listener, so that a newcomer finds none.
func (w *town) mustBeFull(places int) {
	w.t.Helper()
	synctest.Wait()
	k := w.h.sockets[0]
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.total != places {
		w.t.Errorf("%d of %d places are held before anybody else comes", k.total, places)
	}
}

// deliver has a client hand in one message, and reports whether it was taken.
func (w *town) deliver(addr string) bool {
	conn := w.connect(addr)
	defer conn.Close()
	c := newClient(w.t, conn)
	c.wait = time.Hour
	for _, s := range []struct{ say, want string }{
		{"", "220"}, {"HELO c\r\n", "250"}, {"MAIL FROM:<a@b.test>\r\n", "250"}, {"RCPT TO:<c@d.test>\r\n", "250"}, {"DATA\r\n", "354"},
		{"x\r\n.\r\n", "250"}, {"QUIT\r\n", "221"},
	} {
		if s.say != "" {
			if _, err := io.WriteString(conn, s.say); err != nil {
				return false
			}
		}
		if line, err := c.line(); err != nil || !strings.HasPrefix(line, s.want) {
			return false
		}
	}
	return true
}

const openMessage = "EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"

// crawls are ways to hold a session and do next to nothing.
func crawls() map[string]func(c net.Conn, say func(string) bool) {
	drip := func(pause time.Duration, begin, piece string) func(net.Conn, func(string) bool) {
		return func(_ net.Conn, say func(string) bool) {
			for ok := say(begin); ok; ok = say(piece) {
				time.Sleep(pause)
			}
		}
	}
	return map[string]func(net.Conn, func(string) bool){
		"a body":               drip(2*time.Second, openMessage+"DATA\r\n", "x"),
		"a body after a burst": drip(time.Minute, openMessage+"DATA\r\n"+strings.Repeat("0123456789\r\n", 5000), "x"),
		"a chunk":              drip(2*time.Second, openMessage+"BDAT 1000000\r\n", "x"),
		"chunks":               drip(2*time.Second, openMessage, "BDAT 1\r\nx"),
		"a command":            drip(2*time.Second, "EHLO c\r\n", "N"),
		"commands":             drip(9*time.Second, "EHLO c\r\n", "NOOP\r\n"),
		"recipients":           drip(9*time.Second, openMessage, "RCPT TO:<c@d.test>\r\n"),
		"nothing":              drip(6*time.Minute, "", "N"),
		"messages":             drip(9*time.Second, "EHLO c\r\n", "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 1 LAST\r\nx"),
	}
}

// Ten clients that hold all 500 places of a listener, however they do it, do not close it to the others of their network.
func TestCrawl_TenClientsDoNotCloseAListener(t *testing.T) {
	for what, crawl := range crawls() {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t, func(o *Options, _ *tuning) {
					o.Listeners[0].MaxConnections, o.Listeners[0].MaxConnectionsPerClient = 500, 50
				})
				for i := range 500 {
					w.attack(fmt.Sprintf("10.0.0.%d", 1+i%10), crawl)
				}
				time.Sleep(30 * time.Second)
				w.mustBeFull(500)
				refused := 0
				for range 20 {
					if !w.deliver("10.0.0.100") {
						refused++
					}
					time.Sleep(5 * time.Second)
				}
				if refused > 0 {
					t.Errorf("%d of 20 messages were not taken", refused)
				}
				w.end()
			})
		})
	}
}

// Clients at many addresses of one network do not close a listener either.
func TestCrawl_OneNetworkOfManyClientsDoesNotCloseAListener(t *testing.T) {
	for _, form := range []string{"10.1.1.%d", "fd00:1:1:%x::1"} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t, func(o *Options, _ *tuning) { o.Listeners[0].MaxConnections = 100 })
			for i := range 100 {
				w.attack(fmt.Sprintf(form, 1+i), crawls()["a body"])
			}
			time.Sleep(30 * time.Second)
			w.mustBeFull(100)
			waits := newClient(t, w.connect("10.2.0.1")) // of another network, whose only session waits
			waits.wait = time.Hour
			waits.hello()
			time.Sleep(30 * time.Second)
			for i := range 20 {
				if !w.deliver(fmt.Sprintf("10.3.0.%d", 1+i)) {
					t.Errorf("%s: message %d was not taken", form, i)
				}
				time.Sleep(5 * time.Second)
			}
			waits.command("NOOP", "250 *")
			waits.conn.Close()
			w.end()
		})
	}
}

// A full listener spares who sends at an ordinary pace, takes nothing from a message that is slow before who does nothing at
// all, and tells a slow client why it has to go.
func TestCrawl_TheSlowBodyGoesLastAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, func(o *Options, _ *tuning) { o.Listeners[0].MaxConnections = 3 })
		open := func(addr string) *client {
			c := newClient(t, w.connect(addr))
			c.wait = time.Hour
			return c
		}
		quick, slow := open("10.0.0.1").hello().envelope(), open("10.0.0.2").hello().envelope()
		quick.command("DATA", "354 *")
		slow.command("DATA", "354 *")
		waits := open("10.0.0.3").hello()
		for range 20 {
			quick.send(strings.Repeat("0123456789\r\n", 100))
			slow.send("0123456789\r\n")
			time.Sleep(time.Second)
		}
		first := open("10.0.0.4").hello()
		waits.expect("421 4.3.2 *")
		waits.expectEOF()
		second := open("10.0.0.5").hello()
		slow.expect("421 4.3.2 too many connections, and this one waits or is slow; try again later")
		slow.expectEOF()
		third := open("10.0.0.6")
		third.expect("421 4.3.2 too many connections; try again later")
		quick.command(".", "250 *")
		if n := len(w.h.queue.committed()); n != 1 {
			t.Errorf("%d messages were taken", n)
		}
		for _, c := range []*client{quick, first, second, third} {
			c.conn.Close()
		}
		w.end()
	})
}

// A listener that turns clients away since it is full is a trouble, for as long as that is recent.
func TestTroubles_TellOfAFullListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, func(o *Options, _ *tuning) { o.Listeners[0].MaxConnections = 2 })
		a, b := newClient(t, w.connect("10.0.0.1")).hello(), newClient(t, w.connect("10.0.0.2")).hello()
		if got := w.h.Troubles(); len(got) != 0 {
			t.Errorf("a listener that has refused nobody: %q", got)
		}
		c := newClient(t, w.connect("10.0.0.3"))
		c.expect("421 4.3.2 *")
		got := w.h.Troubles()
		if len(got) != 1 || !like("the listener * is full, and refuses clients: 2 connections, of which 10.0.0.0/24 holds 2; *", got[0]) {
			t.Errorf("a full listener: %q", got)
		}
		for _, c := range []*client{a, b, c} {
			c.conn.Close()
		}
		synctest.Wait()
		if later := w.h.Troubles(); !slices.Equal(later, got) {
			t.Errorf("when all have gone: %q", later)
		}
		time.Sleep(2 * time.Minute)
		if got := w.h.Troubles(); len(got) != 0 {
			t.Errorf("two minutes later: %q", got)
		}
		w.end()
	})
}

// When descriptors run out, an idle session makes room as on a full listener. A client that finds none is a trouble, and what
// it says of the listener is what was so when it was refused.
func TestDescriptors_ThatRunOutAreAFullListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var short atomic.Bool
		w := newTown(t, func(o *Options, tune *tuning) { tune.scarce = func(net.Conn) bool { return short.Load() } })
		idle, busy := newClient(t, w.connect("10.0.0.1")).hello(), newClient(t, w.connect("10.0.0.2")).hello()
		idle.wait = time.Hour
		short.Store(true)
		newClient(t, w.connect("10.0.0.3")).expectEOF()
		got := w.h.Troubles()
		if len(got) != 1 || !like("the listener * cannot take clients: hardly any file descriptor is left; *", got[0]) {
			t.Errorf("without descriptors: %q", got)
		}
		time.Sleep(11 * time.Second)
		busy.command("NOOP", "250 *")
		if !w.deliver("10.0.0.3") {
			t.Error("an idle session made no room")
		}
		idle.expect("421 4.3.2 *")
		idle.expectEOF()
		busy.command("NOOP", "250 *")
		time.Sleep(2 * time.Minute)
		if got := w.h.Troubles(); len(got) != 0 {
			t.Errorf("two minutes later: %q", got)
		}
		busy.conn.Close()
		w.end()
	})
}

// A session that is cut in a TLS handshake, or while its replies are not read, gives its place away too.
func TestCrawl_HandshakesAndUnreadRepliesMakeRoom(t *testing.T) {
	tlsConfig, _ := testCertificate()
	for _, mode := range []Mode{TLSImplicit, TLSOff} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t, func(o *Options, _ *tuning) {
				o.Listeners[0].TLS, o.Listeners[0].TLSConfig, o.Listeners[0].MaxConnections = mode, tlsConfig, 1
			})
			holds := w.connect("10.0.0.1") // who neither shakes hands nor reads the greeting
			time.Sleep(15 * time.Second)
			next := w.connect("10.0.0.2")
			if _, err := holds.Read(make([]byte, 1)); mode == TLSImplicit && !errors.Is(err, io.EOF) {
				t.Errorf("%s: the session is not closed: %v", mode, err)
			}
			synctest.Wait()
			if site, client := w.h.sockets[0].places(netip.MustParseAddr("10.0.0.2")); site != 1 || client != 1 {
				t.Errorf("%s: the newcomer has no place", mode)
			}
			holds.Close()
			next.Close()
			w.end()
		})
	}
}
