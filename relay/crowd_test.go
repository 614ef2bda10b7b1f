//go:build unix

package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// hordeSize is how many connections a horde has: 5,000, or what the descriptors of this process allow for both ends.
func hordeSize(t *testing.T) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	n := min(5000, (int(min(l.Cur, 1<<20))-300)/2)
	if n < 1000 {
		t.Skipf("only %d descriptors: no horde", l.Cur)
	}
	return n
}

// memory returns what the process holds in use of heap and stacks, and its resident set, in octets (0 where the system
// does not say).
func memory() (inUse, resident int64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(text)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			resident = pages * int64(os.Getpagesize())
		}
	}
	return int64(m.HeapInuse + m.StackInuse), resident
}

// horde opens n connections that say nothing, and returns how many were greeted and how many were refused with 421.
func (h *house) horde(n int) (greeted, refused int) {
	h.t.Helper()
	for range n {
		switch line, err := h.dial().line(); {
		case err != nil:
			h.t.Fatal(err)
		case strings.HasPrefix(line, "220 "):
			greeted++
		case strings.HasPrefix(line, "421 "):
			refused++
		default:
			h.t.Fatalf("the relay said %q", line)
		}
	}
	return greeted, refused
}

// deliver has one client hand in one message.
func (h *house) deliver() {
	h.t.Helper()
	c := h.dial().hello().envelope()
	c.command("DATA", "354 *")
	c.command("x\r\n.", "250 *")
	c.command("QUIT", "221 *")
}

func trust(networks ...string) func(*Options, *tuning) {
	return func(o *Options, tune *tuning) {
		for _, n := range networks {
			o.Trusted = append(o.Trusted, netip.MustParsePrefix(n))
		}
		tune.stale = 0
		o.Listeners[0].MaxConnections = 200
	}
}

// One network cannot have more than its share, whatever the number of its connections; others are served meanwhile.
func TestHorde_OfOneNetworkHasItsShareAndNoMore(t *testing.T) {
	n := hordeSize(t)
	addrs := make([]string, n, n+1)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("2001:db8:0:1::%x", i+1)
	}
	h := open(t, func(o *Options, tune *tuning) {
		trust("2001:db8::/32")(o, tune)
		o.Listeners[0].MaxConnectionsPerClient = 50
	}).pretend(append(addrs, "2001:db8:0:2::1")...).start()
	if greeted, refused := h.horde(n); greeted != 50 || refused != n-50 {
		t.Errorf("of %d connections %d were greeted and %d refused", n, greeted, refused)
	}
	h.deliver()
}

// Many networks together can fill a listener with idle sessions. Then those make room, for who comes to work.
func TestHorde_OfManyNetworksMakesRoomForOthers(t *testing.T) {
	n := hordeSize(t)
	addrs := make([]string, n, n+1)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("10.0.%d.%d", i%100, 1+i/100)
	}
	h := open(t, trust("10.0.0.0/8", "192.168.0.0/16")).pretend(append(addrs, "192.168.1.1")...).start()
	h.horde(n)
	k := h.sockets[0]
	if n := strings.Count(h.log.String(), "others need the place"); n > quietSubjects+1 {
		t.Errorf("%d log lines about sessions that made room", n)
	}
	for range 20 {
		h.deliver()
		eventually(t, "the end of the session", func() bool {
			_, n := k.places(netip.MustParseAddr("192.168.1.1"))
			return n == 0
		})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.total > 200 {
		t.Errorf("%d sessions are counted, of 200", k.total)
	}
}

// The memory of a session that waits is what a horde costs, and is bounded.
func TestHorde_MemoryPerSessionIsBounded(t *testing.T) {
	const most = 64 << 10
	n := hordeSize(t)
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners[0].MaxConnections, o.Listeners[0].MaxConnectionsPerClient = n+10, n+10
	})
	before, residentBefore := memory()
	if greeted, _ := h.horde(n); greeted != n {
		t.Fatalf("%d of %d were greeted", greeted, n)
	}
	after, resident := memory()
	h.deliver()
	each := (after - before) / int64(n)
	t.Logf("%d idle sessions, both ends in this process: %d KiB in use, %d octets each; resident %d MiB before, %d MiB after",
		n, (after-before)>>10, each, residentBefore>>20, resident>>20)
	if each > most {
		t.Errorf("an idle session costs %d octets, more than %d", each, most)
	}
}

// Long lists of recipients in many sessions at once do not add up: they share a bounded room, and who finds none is asked
// to come back with the others, while ordinary mail goes on. The longest addresses and parameters, in the longest lines.
func TestHorde_OfLongListsSharesItsRoom(t *testing.T) {
	const busy, list, most = 20, 200, 8 << 20
	h := start(t, func(o *Options, tune *tuning) {
		o.Begin = func(envelope.Envelope, envelope.Origin) (Writer, error) { return &sink{}, nil }
		tune.sharedRoom = 512 << 10
	})
	var b strings.Builder
	domain := strings.Repeat(strings.Repeat("d", 60)+".", 3) + "test"
	for n := range list {
		to := fmt.Sprintf("<%s%04d@%s>", strings.Repeat("l", 56), n, domain)
		orcpt := "ORCPT=rfc822;" + strings.Repeat("o", 400)
		fmt.Fprintf(&b, "RCPT TO:%s%s%s\r\n", to, strings.Repeat(" ", maxLine-20-len(to)-len(orcpt)), orcpt)
	}
	lists := b.String()
	before, residentBefore := memory()
	clients := make([]*client, busy)
	var taken, refused int
	for i := range clients {
		c := h.dial().hello()
		c.wait = time.Minute
		c.command("MAIL FROM:<a@b.test>", "250 *")
		go func() { _, _ = c.conn.Write([]byte(lists)) }() // what fails shows in the replies
		for range list {
			switch line, err := c.line(); {
			case err != nil:
				t.Fatal(err)
			case strings.HasPrefix(line, "250 "):
				taken++
			case strings.HasPrefix(line, "452 4.3.1 there is no room for more recipients"):
				refused++
			default:
				t.Fatalf("the relay said %q", line)
			}
		}
		clients[i] = c
	}
	after, resident := memory()
	t.Logf("%d sessions with %d recipients each, of which %d of %d were taken: %d KiB in use, resident %d MiB before, %d MiB after",
		busy, list, taken, taken+refused, (after-before)>>10, residentBefore>>20, resident>>20)
	if after-before > most || refused == 0 {
		t.Errorf("%d octets are in use for %d recipients, %d were refused", after-before, taken, refused)
	}
	h.deliver()
	for _, c := range clients {
		c.command("DATA", "354 *")
		c.command("x\r\n.", "250 *")
	}
	if used := h.room.used.Load(); used != 0 {
		t.Errorf("%d octets of the room are in use, with no transaction open", used)
	}
}

// Recipients that are refused for another reason take no room, and what was taken is given back at each end that a
// transaction can have.
func TestRoom_IsForRecipientsAndComesBack(t *testing.T) {
	h := start(t, func(o *Options, tune *tuning) {
		o.Listeners[0].MaxRecipients = 3
		tune.ownRoom = 0
	})
	used := func(c *client) int64 {
		c.command("NOOP", "250 *") // what came before is done
		return h.room.used.Load()
	}
	full := func() (*client, int64) {
		c := h.dial().hello()
		c.command("MAIL FROM:<a@b.test>", "250 *")
		for range 3 {
			c.command("RCPT TO:<ann@example.com>", "250 *")
		}
		return c, used(c)
	}
	c, three := full()
	for range 10 {
		c.command("RCPT TO:<ann@example.com>", "452 4.5.3 *")
	}
	if n := used(c); three == 0 || n > three/3*4 {
		t.Errorf("three recipients take %d octets, and with ten that were refused %d", three, n)
	}
	c.command("RSET", "250 *")
	for what, end := range map[string]func(*client){
		"RSET": func(c *client) { c.command("RSET", "250 *") },
		"EHLO": func(c *client) { c.command("EHLO again.test", "250 *") },
		"BDAT": func(c *client) { c.command("BDAT 3 LAST\r\nx", "250 *") },
		"QUIT": func(c *client) { c.command("QUIT", "221 *"); c.expectEOF() },
	} {
		c, n := full()
		if n != three {
			t.Errorf("%s: three recipients take %d octets, and took %d", what, n, three)
		}
		end(c)
		eventually(t, "the room to be given back after "+what, func() bool { return h.room.used.Load() == 0 })
	}
}

// A session loses its place only when the listener is full, it has waited for a while, and it is at no message.
func TestEviction_SparesWhoWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), gone: make(chan struct{})}
		h := open(t, func(o *Options, _ *tuning) {
			o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			o.Listeners[0].MaxConnections = 3
		})
		h.listen = func(string, string) (net.Listener, error) { return l, nil }
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		connect := func(addr string) *client {
			ours, theirs := net.Pipe()
			l.conns <- &pretended{Conn: theirs, addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))}
			c := newClient(t, ours)
			c.wait = time.Hour
			return c
		}
		sending := connect("10.0.0.1").hello().envelope()
		sending.command("DATA", "354 *")
		between := connect("10.0.0.1").hello().envelope()
		time.Sleep(time.Second)
		idle := connect("10.0.0.2").hello()

		refused := connect("10.0.0.3")
		refused.expect("421 4.3.2 *") // nobody has waited for long yet
		refused.conn.Close()
		time.Sleep(11 * time.Second)
		third := connect("10.0.0.3").hello() // 10.0.0.1 has most places, and one of its sessions waits
		between.expect("421 4.3.2 too many connections, and this one waits or is slow; *")
		between.expectEOF()
		idle.command("NOOP", "250 *")
		sending.command("x\r\n.", "250 *")
		third.command("NOOP", "250 *")
		synctest.Wait()              // all of them wait again
		again := connect("10.0.0.3") // has its share
		again.expect("421 4.3.2 *")
		for _, c := range []*client{sending, idle, third, again} {
			c.conn.Close()
		}
		h.stop()
	})
}

// Nobody makes room for a client whose network has all that it may have.
func TestEviction_NotForWhoIsRefusedAnyway(t *testing.T) {
	h := open(t, func(o *Options, tune *tuning) {
		trust("10.0.0.0/8")(o, tune)
		o.Listeners[0].MaxConnections, o.Listeners[0].MaxConnectionsPerClient = 2, 1
	}).pretend("10.0.0.1", "10.0.0.2", "10.0.0.2").start()
	waits := h.dial().hello()
	h.dial().hello()
	h.dial().expect("421 4.7.0 too many connections from 10.0.0.2/32*")
	waits.command("NOOP", "250 *")
}

// flood is something that a client can do without end.
type flood struct {
	name string
	// begin is said first, with no reply awaited; then piece is sent until the relay hangs up.
	begin, piece string
	half         bool // the client ends its sending direction after one piece
}

func floods() []flood {
	const transaction = "HELO flood\r\nMAIL FROM:<a@b.test>\r\n"
	return []flood{
		{name: "RCPT", begin: transaction, piece: strings.Repeat("RCPT TO:<c@d.test>\r\n", 100)},
		{name: "refused RCPT", begin: transaction, piece: strings.Repeat("RCPT TO:<c@>\r\n", 100)},
		{name: "MAIL and RSET", begin: "HELO flood\r\n", piece: strings.Repeat("MAIL FROM:<a@b.test>\r\nRSET\r\n", 100)},
		{name: "NOOP", piece: strings.Repeat("NOOP\r\n", 200)},
		{name: "EHLO", piece: strings.Repeat("EHLO flood\r\n", 200)},
		{name: "bad commands", piece: strings.Repeat("XYZZY\r\n", 200)},
		{name: "empty lines", piece: strings.Repeat("\r\n", 500)},
		{name: "command line of 1 MB", piece: strings.Repeat("x", 1<<20) + "\r\n"},
		{name: "body line of 1 MB", begin: transaction + "RCPT TO:<c@d.test>\r\nDATA\r\n", piece: strings.Repeat("x", 1<<20)},
		{name: "header line of 1 MB", begin: transaction + "RCPT TO:<c@d.test>\r\nDATA\r\nSubject: ", piece: strings.Repeat("y", 1<<20)},
		{name: "body of dots", begin: transaction + "RCPT TO:<c@d.test>\r\nDATA\r\n", piece: strings.Repeat(".\n", 1<<18)},
		{name: "body of NULs", begin: transaction + "RCPT TO:<c@d.test>\r\nDATA\r\n", piece: strings.Repeat("\x00", 1<<18)},
		{name: "BDAT without end", begin: transaction + "RCPT TO:<c@d.test>\r\n", piece: strings.Repeat("BDAT 1\r\nx", 500)},
		{name: "BDAT of a huge size", begin: transaction + "RCPT TO:<c@d.test>\r\n", piece: "BDAT 9223372036854775807\r\n"},
		{name: "HTTP", piece: "POST / HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 99\r\n\r\nMAIL FROM:<a@b.test>\r\n"},
		{name: "TLS", piece: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 500)},
		{name: "half-closed at the start", half: true},
		{name: "half-closed in a command", piece: "MAIL FR", half: true},
		{name: "half-closed in a body", begin: transaction + "RCPT TO:<c@d.test>\r\nDATA\r\n", piece: "half a li", half: true},
		{name: "half-closed in a chunk", begin: transaction + "RCPT TO:<c@d.test>\r\n", piece: "BDAT 100 LAST\r\nhalf", half: true},
	}
}

// run carries the flood out once, until the relay has hung up, and returns how much it took.
func (f flood) run(addr string) (sent int64, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	read := make(chan error, 1)
	go func() {
		var b [4096]byte
		for {
			if _, err := c.Read(b[:]); err != nil {
				read <- err
				return
			}
		}
	}()
	write := func(b []byte) bool {
		n, werr := c.Write(b)
		sent += int64(n)
		return werr == nil
	}
	if write([]byte(f.begin)) {
		piece := []byte(f.piece) // once: what the client allocates would be measured with the relay
		for write(piece) && !f.half && sent < 256<<20 {
		}
	}
	if f.half {
		c.(*net.TCPConn).CloseWrite()
	}
	if err := <-read; err != nil && os.IsTimeout(err) {
		return sent, fmt.Errorf("the relay did not hang up after %d octets", sent)
	}
	return sent, nil
}

// sink is a queue that keeps nothing, so that what is measured is the relay.
type sink struct{ committed atomic.Int64 }

func (*sink) ID() string                     { return "Q" }
func (*sink) Write(p []byte) (int, error)    { return len(p), nil }
func (s *sink) Commit(context.Context) error { s.committed.Add(1); return nil }
func (*sink) Abort() error                   { return nil }

// Whatever a client floods the relay with, the relay hangs up after a bounded number of octets, at bounded memory, and
// others hand their mail in meanwhile.
func TestFlood_EndsAndOthersAreServedMeanwhile(t *testing.T) {
	const most, mostEach = 32 << 20, 64 << 20
	for _, f := range floods() {
		t.Run(f.name, func(t *testing.T) {
			var sink sink
			h := start(t, func(o *Options, tune *tuning) {
				o.Begin = func(envelope.Envelope, envelope.Origin) (Writer, error) { return &sink, nil }
				o.Listeners[0].MaxMessageSize = 8 << 20
				tune.linger = 50 * time.Millisecond
			})
			before, _ := memory()
			var stop atomic.Bool
			var wg sync.WaitGroup
			var runs, longest atomic.Int64
			for range 4 {
				wg.Go(func() {
					for first := true; first || !stop.Load(); first = false {
						sent, err := f.run(h.Addrs()[0].String())
						if err != nil {
							t.Error(err)
							return
						}
						runs.Add(1)
						longest.Store(max(longest.Load(), sent))
					}
				})
			}
			for range 10 {
				h.deliver()
			}
			under, resident := memory()
			stop.Store(true)
			wg.Wait()
			eventually(t, "the end of the flooding sessions", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.peers) == 0
			})
			if n := sink.committed.Load(); n != 10 {
				t.Errorf("%d messages were taken, want the 10 of the good client", n)
			}
			after, _ := memory()
			t.Logf("%d runs, %d KiB sent by the longest; in use %+d KiB under the flood, %+d KiB after it; resident %d MiB",
				runs.Load(), longest.Load()>>10, (under-before)>>10, (after-before)>>10, resident>>20)
			if max(under, after)-before > most {
				t.Errorf("the relay holds %d octets more than before", max(under, after)-before)
			}
			if longest.Load() > mostEach {
				t.Errorf("the relay took %d octets of a flood", longest.Load())
			}
		})
	}
}
