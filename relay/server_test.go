package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func TestNew_TellsAllFaultsAtOnce(t *testing.T) {
	tlsConfig, _ := testCertificate()
	_, err := New(Options{
		Hostname: "two words",
		Trusted:  []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::ffff:0:0/96"), {}},
		Listeners: []Listener{
			{Address: "25"}, {Address: ":25", TLS: "maybe"}, {Address: ":26", TLS: TLSStartTLS},
			{Address: ":27", MaxRecipients: -1}, {Address: ":465", TLS: TLSImplicit, TLSConfig: tlsConfig},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, words := range []string{`"two words"`, "set Begin", "0.0.0.0/0 would let everybody relay",
		"::ffff:0.0.0.0/96 would", "invalid Prefix would", "listener 25:", `"maybe"`, "no certificate", "negative"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("the error does not say %q:\n%v", words, err)
		}
	}
	if strings.Contains(err.Error(), ":465") {
		t.Errorf("a listener without fault is blamed:\n%v", err)
	}
}

func TestServer_StartBindsAllOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// On an address that no other test uses, so that none of them takes the port while it is free.
	free, err := net.Listen("tcp", "127.0.0.6:0")
	if err != nil {
		t.Fatal(err)
	}
	freeAddr := free.Addr().String()
	free.Close()

	h := open(t, func(o *Options, _ *tuning) {
		o.Listeners = []Listener{{Address: freeAddr}, {Address: taken.Addr().String()}}
	})
	if err := h.Start(); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Fatalf("Start: %v, want an error that names %s", err, taken.Addr())
	}
	again, err := net.Listen("tcp", freeAddr)
	if err != nil {
		t.Fatalf("the first listener was left open: %v", err)
	}
	again.Close()
	taken.Close()
	h.start()
	if len(h.Addrs()) != 2 || h.Start() == nil {
		t.Errorf("listening on %v; a second Start must fail", h.Addrs())
	}
}

func TestServer_SeveralListenersOfBothFamilies(t *testing.T) {
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	probe.Close()
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners = []Listener{{Address: "127.0.0.1:0", MaxMessageSize: 1000}, {Address: "[::1]:0", MaxMessageSize: 2000}}
	})
	for i, size := range []string{"SIZE 1000", "SIZE 2000"} {
		conn, err := net.Dial("tcp", h.Addrs()[i].String())
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, conn)
		c.expect("220 *")
		c.send("EHLO c\r\n")
		c.expect("250-*", "250-*", "250-*", "250-*", "250-*", "250-*", "250-*", "250-"+size, "250 *")
	}
	conn, _ := net.Dial("tcp", h.Addrs()[1].String())
	c := newClient(t, conn).hello().envelope()
	c.command("DATA", "354 *")
	c.command(".", "250 *")
	trace, _ := h.queue.committed()[0].split()
	if !strings.Contains(trace, "([IPv6:::1])") {
		t.Errorf("trace header %q", trace)
	}
}

func TestServer_WildcardsOfBothFamiliesShareAPort(t *testing.T) {
	h := start(t, func(o *Options, _ *tuning) { o.Listeners = []Listener{{Address: "0.0.0.0:0"}} })
	_, port, _ := net.SplitHostPort(h.Addrs()[0].String())
	o := h.opts
	o.Listeners = []Listener{{Address: "0.0.0.0:0"}, {Address: "[::]:" + port}}
	if err := h.Reconfigure(o); err != nil && !strings.Contains(err.Error(), "not supported") {
		t.Errorf("Reconfigure: %v", err)
	}
}

func TestServer_TrustsByAddress(t *testing.T) {
	trusted := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:172.16.0.0/108"),
		netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("fe80::/64"),
	}
	for _, c := range []struct {
		client string
		add    string // what the refusal says to add; "" when the client may relay
	}{
		{"127.0.0.1", ""}, {"127.9.9.9", ""}, {"::1", ""}, {"::ffff:127.0.0.1", ""},
		{"10.1.2.3", ""}, {"::ffff:10.1.2.3", ""}, {"172.16.5.5", ""}, {"::ffff:172.16.5.5", ""},
		{"2001:db8:1::25", ""}, {"fe80::1", ""}, {"fe80::1%eth0", ""},
		{"192.0.2.7", "192.0.2.7/32"}, {"::ffff:192.0.2.7", "192.0.2.7/32"}, {"172.32.0.1", "172.32.0.1/32"},
		{"2001:db8:2::25", "2001:db8:2::25/128"}, {"::a01:203", "::a01:203/128"}, {"fe80:0:0:1::1%eth0", "fe80:0:0:1::1/128"},
	} {
		t.Run(c.client, func(t *testing.T) {
			h := open(t, func(o *Options, _ *tuning) { o.Trusted = trusted }).pretend(c.client).start()
			cl := h.dial()
			if c.add == "" {
				cl.hello().envelope()
				return
			}
			addr := strings.Split(c.add, "/")[0]
			cl.expect(fmt.Sprintf("554 5.7.1 %s may not relay here: add %q to trusted_networks in /etc/relayd/relayd.toml",
				addr, c.add))
			cl.command("EHLO x", "503 5.5.1 *")
			cl.command("MAIL FROM:<a@b.test>", "503 5.5.1 *")
			cl.command("QUIT", "221 *")
			cl.expectEOF()
			if !like("*level=WARN msg=\"session refused\" client="+addr+" *", h.log.String()) {
				t.Errorf("log:\n%s", h.log)
			}
		})
	}
}

func TestServer_StrangersAreNotWaitedForLong(t *testing.T) {
	h := open(t, func(_ *Options, tune *tuning) {
		tune.lingerers = 1
		tune.linger = time.Hour
	}).pretend("192.0.2.1", "192.0.2.2", "192.0.2.1").start()
	h.lingering <- struct{}{}
	second := h.dial()
	second.expect("554 *")
	second.expectEOF()
	<-h.lingering

	talker := h.dial()
	talker.expect("554 *")
	talker.send(strings.Repeat("x", 600) + "\r\n")
	// Too long a line ends it, maybe by a reset since there is more to read.
	if line, err := talker.line(); err == nil {
		t.Errorf("a line of 600 octets was answered with %q", line)
	}
	if n := strings.Count(h.log.String(), "session refused"); n != 2 {
		t.Errorf("%d log lines for two strangers:\n%s", n, h.log)
	}
}

func TestServer_ScanFillsNoLog(t *testing.T) {
	h := open(t, func(_ *Options, tune *tuning) { tune.lingerers = 0 }).pretend("192.0.2.1").start()
	for range 20 {
		h.dial().expect("554 *")
	}
	if n := strings.Count(h.log.String(), "session refused"); n != 1 {
		t.Errorf("%d log lines for one stranger", n)
	}
}

func TestQuiet_TellsOnceAWindowAndRemembersABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuiet(time.Minute)
		var mu sync.Mutex
		var told []int
		say := func(client netip.Addr) {
			q.tell(subject{netip.PrefixFrom(client, 32), "cause"}, once, func(repeated int) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, repeated)
			})
		}
		take := func() []int {
			mu.Lock()
			defer mu.Unlock()
			lines := told
			told = nil
			return lines
		}
		client := netip.MustParseAddr("192.0.2.1")
		for range 53_001 {
			say(client)
		}
		if lines := take(); fmt.Sprint(lines) != "[0]" {
			t.Errorf("within the window: %v", lines)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if lines := take(); fmt.Sprint(lines) != "[53000]" {
			t.Errorf("after the window: %v", lines)
		}
		for i := range 1000 {
			say(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}))
		}
		lines := take()
		if len(q.seen) > quietSubjects+1 || len(lines) > quietSubjects+1 {
			t.Errorf("%d clients remembered, %d told", len(q.seen), len(lines))
		}
		q.close() // what was counted is told at the end, too
		if rest := take(); len(rest) != 1 || len(lines)+rest[0] != 1000 {
			t.Errorf("%d of 1000 lines are told, and counted are %v", len(lines), rest)
		}
	})
}

// A client that is refused again and again, for one cause, has a few lines, and then one that counts the others.
func TestServer_ARetryingClientFillsNoLog(t *testing.T) {
	for what, c := range map[string]struct {
		begin, again string
		message      string
	}{
		"message": {"EHLO c\r\n", "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nRSET\r\n", "message refused"},
		"command": {"EHLO c\r\n", "MAIL FROM:<a@>\r\n", "command refused"},
		"session": {"", "GET / HTTP/1.1\r\n", "session closed"},
	} {
		t.Run(what, func(t *testing.T) {
			h := open(t, func(o *Options, tune *tuning) { tune.errors, tune.idle = 2000, 2000 }).start()
			h.queue.begin = func(envelope.Envelope) error { return errors.New("the disk is full") }
			const tries = 500
			if what == "session" {
				for range tries {
					c2 := h.dial()
					c2.expect("220 *")
					c2.send(c.again)
					c2.expect("500 *")
					c2.conn.Close()
				}
			} else {
				cl := h.dial()
				cl.expect("220 *")
				go cl.conn.Write([]byte(c.begin + strings.Repeat(c.again, tries) + "QUIT\r\n"))
				for line := ""; !strings.HasPrefix(line, "221 "); {
					var err error
					if line, err = cl.line(); err != nil {
						t.Fatal(err)
					}
				}
			}
			h.stop()
			if n := strings.Count(h.log.String(), c.message); n != several+1 {
				t.Errorf("%d lines for %d refusals, want %d", n, tries, several+1)
			}
			if want := fmt.Sprintf("repeated=%d", tries-several); !strings.Contains(h.log.String(), want) {
				t.Errorf("the log has no %q:\n%.2000s", want, h.log)
			}
		})
	}
}

func TestServer_ImplicitTLSTellsStrangersInsideTLS(t *testing.T) {
	tlsConfig, pool := testCertificate()
	h := open(t, func(o *Options, _ *tuning) {
		o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSImplicit, tlsConfig
	}).pretend("192.0.2.1").start()
	c := h.dial()
	if err := c.startTLS(pool); err != nil {
		t.Fatal(err)
	}
	c.expect("554 5.7.1 192.0.2.1 *")
	c.command("QUIT", "221 *")
	c.expectEOF()
}

func TestServer_PlainTextOnImplicitTLSIsExplained(t *testing.T) {
	tlsConfig, _ := testCertificate()
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSImplicit, tlsConfig
	})
	h.dial().send("EHLO client\r\n")
	eventually(t, "a log line with the remedy", func() bool {
		return strings.Contains(h.log.String(), "set the client to implicit TLS")
	})
}

func TestServer_LimitsConnectionsInTotal(t *testing.T) {
	h := start(t, func(o *Options, _ *tuning) { o.Listeners[0].MaxConnections = 2 })
	first, second := h.dial().hello(), h.dial().hello()
	third := h.dial()
	third.expect("421 4.3.2 *")
	second.command("NOOP", "250 *")
	first.command("QUIT", "221 *")
	first.expectEOF()
	eventually(t, "a place for another", func() bool {
		c := h.dial()
		line, err := c.line()
		return err == nil && strings.HasPrefix(line, "220 ")
	})
}

func TestServer_LimitsConnectionsPerClientNetwork(t *testing.T) {
	h := open(t, func(o *Options, _ *tuning) {
		o.Listeners[0].MaxConnectionsPerClient = 1
		o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	}).pretend("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1").start()
	for _, want := range []string{
		"220 *", "421 4.7.0 too many connections from 10.0.0.1/32*", "220 *",
		"220 *", "421 4.7.0 too many connections from 2001:db8::/64*", "220 *",
	} {
		h.dial().expect(want)
	}
}

func TestServer_ReconfigureAppliesToNewSessions(t *testing.T) {
	h := open(t, func(o *Options, _ *tuning) {
		o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}).pretend("10.0.0.1").start()
	before := h.Addrs()[0].String()
	running := h.dial().hello()

	o := h.opts
	o.Trusted = nil
	if err := h.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	h.dial().expect("554 5.7.1 10.0.0.1 *")
	running.envelope()

	o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}
	o.Listeners = []Listener{{Address: o.Listeners[0].Address, MaxMessageSize: 77}}
	if err := h.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	if now := h.Addrs()[0].String(); now != before {
		t.Errorf("the listener moved from %s to %s", before, now)
	}
	c := h.dial().hello()
	c.command("MAIL FROM:<a@b.test> SIZE=78", "552 5.3.4 *")
	running.command("DATA", "354 *")
	running.command(strings.Repeat("x", 100)+"\r\n.", "250 *")
}

func TestServer_ReconfigureOpensAndClosesListeners(t *testing.T) {
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners = []Listener{{Address: "127.0.0.1:0"}, {Address: "127.0.0.2:0"}}
	})
	kept, closed := h.Addrs()[0].String(), h.Addrs()[1].String()
	conn, err := net.Dial("tcp", closed)
	if err != nil {
		t.Fatal(err)
	}
	running := newClient(t, conn).hello()
	o := h.opts
	o.Listeners = []Listener{{Address: "127.0.0.3:0"}, {Address: "127.0.0.1:0"}}
	if err := h.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	addrs := h.Addrs()
	if !strings.HasPrefix(addrs[0].String(), "127.0.0.3:") || addrs[1].String() != kept {
		t.Errorf("listening on %v, %s was kept", addrs, kept)
	}
	if c, err := net.Dial("tcp", closed); err == nil {
		c.Close()
		t.Errorf("%s still takes connections", closed)
	}
	h.dial().hello().envelope()
	running.envelope()
}

func TestServer_ReconfigureWithAFaultChangesNothing(t *testing.T) {
	h := start(t, nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before := h.Addrs()[0].String()
	for _, listeners := range [][]Listener{
		nil,
		{{Address: "127.0.0.1:0", TLS: TLSImplicit}},
		{{Address: "127.0.0.4:0"}, {Address: taken.Addr().String()}},
	} {
		o := h.opts
		o.Listeners, o.Hostname = listeners, "changed.test"
		if err := h.Reconfigure(o); err == nil {
			t.Fatalf("Reconfigure(%v) succeeded", listeners)
		}
		if addrs := h.Addrs(); len(addrs) != 1 || addrs[0].String() != before {
			t.Errorf("listening on %v, before on %s", addrs, before)
		}
		h.dial().expect("220 relay.test *")
	}
}

func TestServer_ShutdownSaysGoodbyeToIdleSessions(t *testing.T) {
	h := start(t, nil)
	greeted, idle, other := h.dial(), h.dial().hello(), h.dial()
	greeted.expect("220 *")
	other.expect("220 *")
	// Sessions that Shutdown left to themselves would go on for the five minutes that a client may be idle.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{greeted, idle, other} {
		c.expect("421 4.3.2 relay.test is shutting down*")
		c.expectEOF()
	}
	if _, err := net.Dial("tcp", "127.0.0.1:"+fmt.Sprint(h.Addrs()[0].(*net.TCPAddr).Port)); err == nil {
		t.Error("the listener is still open")
	}
	if h.Shutdown(context.Background()) != ErrClosed || h.Reconfigure(h.opts) != ErrClosed || h.Start() != ErrClosed {
		t.Error("after Shutdown the methods must return ErrClosed")
	}
}

func TestServer_ShutdownLetsTransactionsFinish(t *testing.T) {
	h := start(t, nil)
	mail, data, chunk := h.dial().hello().envelope(), h.dial().hello().envelope(), h.dial().hello().envelope()
	data.command("DATA", "354 *")
	chunk.command("BDAT 3\r\nx", "250 *")
	ended := make(chan error, 1)
	go func() { ended <- h.Shutdown(context.Background()) }()
	eventually(t, "the word to all sessions", func() bool {
		h.mu.Lock() // which Shutdown holds from the closing of the listeners until all sessions know
		defer h.mu.Unlock()
		return h.closed
	})
	if c, err := net.Dial("tcp", h.Addrs()[0].String()); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
	mail.command("RCPT TO:<c@other.test>", "250 *")
	mail.command("DATA", "354 *")
	for _, c := range []*client{mail, data} {
		c.send("x\r\n.\r\nMAIL FROM:<next@client.test>\r\n")
		c.expect("250 2.0.0 OK queued as *", "421 4.3.2 *")
		c.expectEOF()
	}
	select {
	case err := <-ended:
		t.Fatalf("Shutdown returned %v with a transaction under way", err)
	default:
	}
	chunk.send("BDAT 3 LAST\r\ny\r\n")
	chunk.expect("250 2.0.0 OK queued as *", "421 4.3.2 *")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(h.queue.committed()); n != 3 {
		t.Errorf("%d messages committed", n)
	}
}

func TestServer_ShutdownCutsWhatDoesNotFinish(t *testing.T) {
	committing := make(chan struct{})
	h := open(t, nil)
	h.queue.commit = func(ctx context.Context, _ *memoryMessage) error {
		close(committing)
		<-ctx.Done()
		return ctx.Err()
	}
	h.start()
	body, chunk, dot := h.dial().hello().envelope(), h.dial().hello().envelope(), h.dial().hello().envelope()
	body.command("DATA", "354 *")
	chunk.command("BDAT 3\r\nx", "250 *")
	dot.command("DATA", "354 *")
	dot.send("x\r\n.\r\n")
	<-committing
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	for _, c := range []*client{body, chunk, dot} {
		if line, err := c.line(); err == nil && strings.HasPrefix(line, "250") {
			t.Errorf("a cut session was told %q", line)
		}
	}
	if n, aborted := len(h.queue.committed()), h.queue.aborted(); n != 0 || aborted != 3 {
		t.Errorf("%d committed, %d aborted", n, aborted)
	}
}

func TestServer_ShutdownDuringHandshakes(t *testing.T) {
	tlsConfig, _ := testCertificate()
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners = []Listener{
			{Address: "127.0.0.1:0", TLS: TLSStartTLS, TLSConfig: tlsConfig},
			{Address: "127.0.0.1:0", TLS: TLSImplicit, TLSConfig: tlsConfig},
		}
	})
	c := h.dial()
	c.expect("220 *")
	c.command("STARTTLS", "220 *")
	if _, err := net.Dial("tcp", h.Addrs()[1].String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two sessions", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.peers) == 2
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown waited for a handshake: %v", err)
	}
}

func TestServer_ShutdownBeforeStart(t *testing.T) {
	h := open(t, nil)
	if err := h.Shutdown(context.Background()); err != nil || h.Start() != ErrClosed {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestServer_LeavesNothingBehind ends sessions in every state that they can be in, and counts goroutines.
func TestServer_LeavesNothingBehind(t *testing.T) {
	tlsConfig, pool := testCertificate()
	before := runtime.NumGoroutine()
	h := open(t, func(o *Options, _ *tuning) {
		o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSStartTLS, tlsConfig
	})
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{
		"", "QUIT\r\n", "STARTTLS\r\n", "STARTTLS\r\nNOOP\r\n", "MAIL FROM:<a@b.test>\r\n", "NO",
		"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx", "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 9\r\nx",
		"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 1\r\nx", "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n",
	} {
		for _, overTLS := range []bool{false, true} {
			c := h.dial()
			c.expect("220 *")
			if overTLS {
				c.command("STARTTLS", "220 *")
				if err := c.startTLS(pool); err != nil {
					t.Fatal(err)
				}
			}
			c.send("HELO x\r\n" + script)
			c.expect("250 *")
			c.conn.Close()
		}
	}
	eventually(t, "the end of all sessions", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.peers) == 0
	})
	if k := h.sockets[0]; k.total != 0 || len(k.perClient) != 0 {
		t.Errorf("%d sessions are still counted, of %d clients", k.total, len(k.perClient))
	}
	h.stop()
	eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

// What no smarthost would take is refused at once, by the size that EHLO says.
func TestServer_TakesNoMoreThanSomeSmarthostCarries(t *testing.T) {
	var carry atomic.Int64
	h := start(t, func(o *Options, _ *tuning) {
		o.Listeners[0].MaxMessageSize = 100_000
		o.Carry = carry.Load
	})
	offered := func(want string) *client {
		c := h.dial()
		c.expect("220 *")
		c.send("EHLO client.example\r\n")
		for {
			line, err := c.line()
			if err != nil {
				t.Fatal(err)
			}
			if _, size, ok := strings.Cut(line, "SIZE "); ok && size != want {
				t.Errorf("EHLO says %q, want SIZE %s", line, want)
			}
			if strings.HasPrefix(line, "250 ") {
				return c
			}
		}
	}
	offered("100000").command("QUIT", "221 *")
	carry.Store(1_000_000)
	offered("100000").command("QUIT", "221 *")
	carry.Store(50_000 + traceRoom)
	c := offered("50000")
	c.command("MAIL FROM:<a@lan.example> SIZE=50001", "552 5.3.4 *")
	c.command("MAIL FROM:<a@lan.example> SIZE=50000", "250 *")
	c.command("RCPT TO:<b@example.com>", "250 *")
	c.command("DATA", "354 *")
	c.send(strings.Repeat("0123456\r\n", 5556) + ".\r\n") // 50004 octets
	c.expect("552 5.3.4 *")
}
