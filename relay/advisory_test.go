package relay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// The tests of this file bear the names of the advisories, about other servers, whose mistakes they look for here.

// smuggle sends a message that has, between its first line and a whole second transaction, what some server takes for the
// end of a body. However that is taken, the second transaction must not be run.
func smuggle(t *testing.T, h *house, end string) {
	t.Helper()
	before := len(h.queue.committed())
	c := h.dial().hello().envelope()
	c.command("DATA", "354 *")
	c.send("first" + end + "MAIL FROM:<admin@victim.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nsmuggled\r\n.\r\n")
	line, err := c.line()
	if err != nil {
		t.Fatalf("%q: %v", end, err)
	}
	done := h.queue.committed()[before:]
	for _, m := range done {
		if _, content := m.split(); m.env.ReversePath != "a@client.test" || !strings.Contains(content, "MAIL FROM:<admin@victim.test>\r\n") {
			t.Errorf("%q: a message from %v with %q", end, m.env.ReversePath, content)
		}
		checkQueuedLines(t, end, m)
	}
	switch {
	case strings.HasPrefix(line, "250 "):
		if len(done) != 1 {
			t.Errorf("%q: %d messages for one 250", end, len(done))
		}
		c.command("QUIT", "221 *") // in step: nothing of the body was taken for a command
	case strings.HasPrefix(line, "550 "):
		if len(done) != 0 {
			t.Errorf("%q: %d messages for a refusal", end, len(done))
		}
		if strings.Contains(line, "closing") {
			c.expectEOF()
		} else {
			c.command("QUIT", "221 *")
		}
	default:
		t.Errorf("%q: the relay said %q", end, line)
	}
}

// checkQueuedLines looks at what the next hop will get: no line end but CRLF, and no line that some server could take for
// the end of the body, once the dots are stuffed.
func checkQueuedLines(t *testing.T, end string, m *memoryMessage) {
	t.Helper()
	_, content := m.split()
	if strings.ContainsAny(strings.ReplaceAll(content, "\r\n", ""), "\r\n") {
		t.Errorf("%q: a bare CR or LF is in %q", end, content)
	}
	for line := range strings.SplitSeq(content, "\r\n") {
		if line != "." && strings.ReplaceAll(line, "\x00", "") == "." { // "." is stuffed on the way out
			t.Errorf("%q: the line %q is a dot to whoever drops NULs", end, line)
		}
	}
}

func smuggleAll(t *testing.T, ends ...string) {
	t.Helper()
	h := start(t, nil)
	for _, end := range ends {
		smuggle(t, h, end)
	}
}

// Postfix took LF.CRLF for the end of a body.
func TestCVE_2023_51764_PostfixEndOfData(t *testing.T) { smuggleAll(t, "\n.\r\n", "\r\n.\n", "\n.\n") }

// Sendmail took LF.LF and LF.CRLF.
func TestCVE_2023_51765_SendmailEndOfData(t *testing.T) {
	smuggleAll(t, "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r.\r", "\r.\n")
}

// Exim took LF.CRLF, where PIPELINING and CHUNKING were offered.
func TestCVE_2023_51766_EximEndOfData(t *testing.T) {
	smuggleAll(t, "\n.\r\n", "\n.\r\n\n", "\n.\r\nBDAT 5 LAST\r\nhello\r\n")
}

// aiosmtpd (CVE-2024-27305) and others took whatever their language's line reader takes.
func TestCVE_2024_27305_AnyLineEndAroundADot(t *testing.T) {
	ends := []string{"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\x00\n", "\x00\r\n", "\r\n\x00", "\n\x00", "\v", "\f", "\x1c", "\x85", "\u2028"}
	h := start(t, nil)
	for _, before := range ends {
		for _, after := range ends {
			if !strings.HasSuffix(before, "\r\n") || !strings.HasPrefix(after, "\r\n") { // which is the end
				smuggle(t, h, before+"."+after)
			}
		}
	}
}

// Postfix, and Dovecot (CVE-2021-33515) and James (CVE-2021-38542) after it, ran within TLS what was sent in the clear
// behind STARTTLS.
func TestCVE_2011_0411_CommandsBehindSTARTTLS(t *testing.T) {
	tlsConfig, pool := testCertificate()
	for _, behind := range []string{
		"NOOP\r\n", "EHLO evil\r\nMAIL FROM:<injected@client.test>\r\n", "EHLO", "\r\n", "\n", " ", "\x00", "STARTTLS\r\n",
	} {
		h := start(t, func(o *Options, _ *tuning) { o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSStartTLS, tlsConfig })
		c := h.dial().hello()
		c.send("STARTTLS\r\n" + behind) // in one segment
		c.expect("554 5.5.1 *")
		c.expectEOF()

		c = h.dial().hello()
		c.command("STARTTLS", "220 *")
		c.send(behind) // in a segment of its own: it is part of a handshake that fails
		if err := c.startTLS(pool); err == nil {
			t.Errorf("%q before the handshake: TLS came about", behind)
		}
	}
}

// What a client, or somebody between, said in the clear is forgotten within TLS ("NO STARTTLS", session fixation; RFC 3207
// section 4.2).
func TestNoSTARTTLS_NothingOfTheClearSessionIsKept(t *testing.T) {
	tlsConfig, pool := testCertificate()
	h := start(t, func(o *Options, _ *tuning) { o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSStartTLS, tlsConfig })
	c := h.dial().hello()
	c.envelope()
	c.command("STARTTLS", "220 *")
	if err := c.startTLS(pool); err != nil {
		t.Fatal(err)
	}
	c.command("DATA", "503 *")
	c.command("RCPT TO:<b@other.test>", "503 *")
	c.command("MAIL FROM:<a@client.test>", "503 5.5.1 say EHLO first")
	c.send("EHLO again\r\n")
	for line := ""; !strings.HasPrefix(line, "250 "); {
		var err error
		if line, err = c.line(); err != nil || strings.Contains(line, "STARTTLS") {
			t.Fatalf("within TLS the relay said %q, %v", line, err)
		}
	}
	c.command("STARTTLS", "503 *")
	c.envelope()
	c.command("DATA", "354 *")
	c.command("x\r\n.", "250 *")
	if m := h.queue.committed()[0]; len(m.env.Recipients) != 1 || m.origin.Helo != "again" || m.origin.Protocol != "ESMTPS" {
		t.Errorf("%+v %+v", m.env, m.origin)
	}
}

// ALPACA: a browser's request is led to another service that has the same certificate.
func TestCVE_2021_3618_HTTPWithinTLS(t *testing.T) {
	tlsConfig, pool := testCertificate()
	h := start(t, func(o *Options, _ *tuning) { o.Listeners[0].TLS, o.Listeners[0].TLSConfig = TLSImplicit, tlsConfig })
	c := h.dial()
	if err := c.startTLS(pool); err != nil {
		t.Fatal(err)
	}
	c.send("POST / HTTP/1.1\r\nHost: relay.test\r\n\r\nHELO evil\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nx\r\n.\r\n")
	c.expect("220 *", "500 5.5.2 *")
	c.expectEOF()
	if n := len(h.queue.messages); n != 0 {
		t.Errorf("%d messages were begun", n)
	}
}

// A web page has a browser send whatever it likes to any address of the LAN, also by DNS rebinding: any method, a body that is
// a whole mail transaction. Nothing of that reaches the queue, and the session ends at the first line that shows it.
func TestHTTP_LeadsNowhereWhateverItsMethod(t *testing.T) {
	const mail = "HELO evil\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
	const fields = "Host: relay.test\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 99\r\n\r\n"
	var requests []string
	for _, method := range []string{"GET", "POST", "QUERY", "PROPFIND", "MAIL", "HELO", "EHLO", "NOOP", "X-ANY", "query"} {
		for _, target := range []string{"/", "/a?b=c", "*", "http://relay.test/", "FROM:<a@b.test>"} {
			for _, version := range []string{"HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/3", "http/1.1", "HTTP/9.9"} {
				requests = append(requests, method+" "+target+" "+version+"\r\n"+fields)
			}
		}
	}
	requests = append(requests, "HTTP/1.1 200 OK\r\n"+fields, "GET /\r\n", "INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n", fields,
		"Host:relay.test\r\n", "Sec-Fetch-Mode:\r\n", "content-type: text/plain\r\n", "_x!: y\r\n", "QUERY / HTTP/1.1\n\n", "\r\n"+fields)
	for _, before := range []string{"", "EHLO c\r\n", "EHLO c\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\n"} {
		h := start(t, nil)
		for _, r := range requests {
			c := h.dial()
			c.expect("220 *")
			c.send(before + r + mail)
			var last string
			for {
				line, err := c.line()
				if err != nil {
					break
				}
				last = line
			}
			c.conn.Close()
			if last != "500 5.5.2 this is a mail relay; closing" {
				t.Errorf("%q behind %q: the relay's last words were %q", r, before, last)
			}
		}
		if n := len(h.queue.messages); n != 0 {
			t.Errorf("behind %q: %d messages were begun", before, n)
		}
	}
}

// What is no HTTP is not taken for it.
func TestHTTP_IsNotSeenInMail(t *testing.T) {
	for _, line := range []string{
		"EHLO client.test", "EHLO [IPv6:::1]", "HELO http", "MAIL FROM:<a@b.test> BODY=8BITMIME", "mail from: <\"HTTP/1.1\"@b.test>",
		"RCPT TO:<a@b.test> ORCPT=rfc822;a@b.test", "NOOP HTTP", "VRFY http://x", "DATA", "BDAT 5 LAST", "XYZZY", "", "RSET", "AUTH PLAIN AGE=",
	} {
		if speaksHTTP(line) {
			t.Errorf("%q is taken for HTTP", line)
		}
	}
}

// No words of a client change who it is: not the headers of the PROXY protocol, not Postfix's XCLIENT and XFORWARD, not
// the name in EHLO.
func TestSpoofing_PROXYAndXCLIENTChangeNothing(t *testing.T) {
	for s, messages := range map[string]int{
		"PROXY TCP4 127.0.0.1 127.0.0.1 1234 25\r\n": 1,
		"PROXY UNKNOWN\r\n":                          1,
		// Version 2 has control characters, which end the session.
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x04\xd2\x00\x19": 0,
		"XCLIENT ADDR=127.0.0.1 NAME=localhost LOGIN=admin\r\n":                                  1,
		"XFORWARD ADDR=127.0.0.1\r\n":                                                            1,
		"EHLO [127.0.0.1]\r\n":                                                                   1,
		"HELO localhost\r\n":                                                                     1,
	} {
		t.Run(fmt.Sprintf("%.12q", s), func(t *testing.T) {
			stranger := open(t, nil).pretend("192.0.2.1").start()
			c := stranger.dial()
			c.send(s + "EHLO c\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\n")
			c.endSending() // who refuses waits for the client to go
			c.expect("554 5.7.1 192.0.2.1 may not relay here*")
			for {
				line, err := c.line()
				if err != nil {
					break
				}
				if !strings.HasPrefix(line, "503 ") && !strings.HasPrefix(line, "221 ") {
					t.Errorf("a stranger was told %q", line)
				}
			}
			if n := len(stranger.queue.messages); n != 0 {
				t.Errorf("a stranger began %d messages", n)
			}

			trusted := open(t, func(o *Options, _ *tuning) { o.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }).
				pretend("10.1.2.3").start()
			c = trusted.dial()
			c.expect("220 *")
			c.send(s)
			c.send("EHLO c\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
			for {
				if _, err := c.line(); err != nil {
					break
				}
			}
			if n := len(trusted.queue.committed()); n != messages {
				t.Errorf("%d messages were taken, want %d", n, messages)
			}
			for _, m := range trusted.queue.committed() {
				if trace, _ := m.split(); m.origin.Addr.String() != "10.1.2.3" || !strings.Contains(trace, "([10.1.2.3])") {
					t.Errorf("%+v %s", m.origin, trace)
				}
			}
		})
	}
}

// Nothing that a client puts into a command adds a header field, a line or a word to the trace header.
func TestInjection_NothingEntersTheTraceHeader(t *testing.T) {
	for helo, messages := range map[string]int{
		"evil (10.0.0.1)": 1, "evil\tby other": 0, `evil";x`: 1, "evil\u2028X-Evil: 1": 1, "evil\u0085X-Evil: 1": 1, "a;b": 1, "a\\": 1,
		"(": 1, "<x>": 1, "\xff\xfe": 1, "evil\rX-Evil: 1": 0, "evil\x00": 0,
	} {
		h := start(t, nil)
		c := h.dial()
		c.expect("220 *")
		c.send("EHLO " + helo + "\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
		for {
			if _, err := c.line(); err != nil {
				break
			}
		}
		if n := len(h.queue.committed()); n != messages {
			t.Errorf("%q: %d messages were taken, want %d", helo, n, messages)
		}
		for _, m := range h.queue.committed() {
			trace, _ := m.split()
			rest, _, _ := strings.Cut(trace, ";")
			if strings.Count(trace, "\r\n") != 4 || strings.Count(rest, "(") != 1 || strings.Contains(trace, "\nX-Evil") ||
				strings.ContainsFunc(trace, func(r rune) bool { return r > '~' }) {
				t.Errorf("%q: %q", helo, trace)
			}
		}
	}
}

// A quoted local part, which a library would take the quotes from, stays one, and adds no parameter to the command that
// the next hop gets. What cannot be one line, or one word, is refused.
func TestInjection_AddressesAndParameters(t *testing.T) {
	for _, c := range []struct{ command, want, env string }{
		{`MAIL FROM:<"a> SIZE=1 BODY=8BITMIME x"@client.test>`, "250", `<"a> SIZE=1 BODY=8BITMIME x"@client.test>`},
		{`MAIL FROM:<"a\" b"@client.test>`, "250", `<"a\" b"@client.test>`},
		{`MAIL FROM:<a@client.test>x> SIZE=1`, "501", ""},
		{`MAIL FROM:<a@client.test> ENVID=x RET=HDRS`, "250", "<a@client.test> RET=HDRS ENVID=x"},
		{`MAIL FROM:<a@client.test> ENVID=a+0D+0AX-Evil:+201`, "501", ""},
		{`MAIL FROM:<a@client.test> ENVID=a=b`, "501", ""},
		{`MAIL FROM:<a@client.test> SIZE=1 SIZE=2`, "501", ""},
		{`MAIL FROM:<a@client.test> XCLIENT=1`, "555", ""},
		{`MAIL FROM:<a@[10.0.0.1]evil>`, "501", ""},
		{`MAIL FROM:<a@client.test(comment)>`, "501", ""},
		{"MAIL FROM:<a\u2028b@client.test>", "553", ""},
		{"MAIL FROM:<\"a\tb\"@client.test>", "500", ""},
		{"MAIL FROM:<a@client.test>\rRCPT TO:<evil@other.test>", "500", ""},
		{"MAIL FROM:<a@client.test>\x00", "500", ""},
		{"MAIL FROM:<a@client.test>\x7f", "500", ""},
	} {
		h := start(t, nil)
		cl := h.dial().hello()
		cl.send(c.command + "\r\n")
		line, err := cl.line()
		if err != nil || !strings.HasPrefix(line, c.want+" ") {
			t.Errorf("%q: the relay said %q, %v", c.command, line, err)
			continue
		}
		if c.want != "250" {
			continue
		}
		cl.send("RCPT TO:<b@other.test>\r\nDATA\r\nx\r\n.\r\n")
		cl.expect("250 *", "354 *", "250 *")
		if got := describe(h.queue.committed()[0]); got != c.env+" <b@other.test>" {
			t.Errorf("%q: the envelope is %s", c.command, got)
		}
	}
}

// A flood of the log is no way to hide, or to fill the disk: what one session can write is bounded.
func TestInjection_LogLinesAreBoundedAndWhole(t *testing.T) {
	h := start(t, func(_ *Options, tune *tuning) { tune.linger = 50 * time.Millisecond })
	const forged = "\u2028level=ERROR msg=forged\u0085 time=now \u202e\u009b31m\xff"
	c := h.dial()
	c.expect("220 *")
	c.send("EHLO evil" + forged + "\r\n")
	c.expectReply("250 *")
	for range 15 {
		c.command("MAIL FROM:<a"+forged+"@client.test>", "5*")
	}
	c.command("MAIL FROM:<a@client.test> X="+strings.Repeat("y", 3000)+forged, "5*")
	c.conn.Close()
	eventually(t, "the end of the session", func() bool { return strings.Contains(h.log.String(), "session ended") })
	h.stop() // which tells what was counted
	refused := 0
	for line := range strings.Lines(h.log.String()) {
		if strings.Contains(line, "command refused") {
			refused++
		}
		if !strings.HasPrefix(line, "time=") || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\u2028\u0085\u202e\u009b") ||
			strings.Fields(line)[1] == "level=ERROR" || !utf8.ValidString(line) || len(line) > maxLogLine {
			t.Errorf("log line %q", line)
		}
	}
	if refused < 3 || refused > 12 {
		t.Errorf("%d log lines of 16 refused commands:\n%s", refused, h.log)
	}
}

// maxLogLine is the longest line of the log that a client can cause here, in octets: a command line, with each of its octets
// escaped, and its reply.
const maxLogLine = 4*maxLine + 1000
