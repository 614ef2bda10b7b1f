//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// loose is a smarthost that keeps what comes over the wire, octet by octet, and answers as a good one does.
type loose struct {
	listener net.Listener
	offers   string // the extensions, beside those of every loose one
	// refuses, when set, returns the refusal of a command or, where that is "", of a body; or "".
	refuses  func(command, body string) string
	mu       sync.Mutex
	commands []string
	bodies   []string // as on the wire, with their ends
}

func newLoose(t *testing.T, extensions ...string) *loose {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &loose{listener: nl}
	for _, e := range extensions {
		l.offers += "250-" + e + "\r\n"
	}
	t.Cleanup(func() { nl.Close() })
	go func() {
		for {
			c, err := nl.Accept()
			if err != nil {
				return
			}
			go l.serve(c)
		}
	}()
	return l
}

func (l *loose) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	io.WriteString(c, "220 loose\r\n")
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		l.mu.Lock()
		l.commands = append(l.commands, line)
		l.mu.Unlock()
		if l.refuses != nil {
			if refusal := l.refuses(line, ""); refusal != "" {
				io.WriteString(c, refusal+"\r\n")
				continue
			}
		}
		switch verb := strings.ToUpper(strings.TrimSpace(line[:min(4, len(line))])); verb {
		case "EHLO":
			io.WriteString(c, "250-loose\r\n"+l.offers+"250-DSN\r\n250 SIZE\r\n")
		case "DATA":
			io.WriteString(c, "354 go\r\n")
			body := "\r\n"
			for !strings.HasSuffix(body, "\r\n.\r\n") {
				b, err := br.ReadByte()
				if err != nil {
					return
				}
				body += string([]byte{b})
			}
			io.WriteString(c, l.take(body)+"\r\n")
		case "QUIT":
			io.WriteString(c, "221 bye\r\n")
			return
		default:
			io.WriteString(c, "250 ok\r\n")
		}
	}
}

// take keeps a body unless it is refused, and returns the reply.
func (l *loose) take(body string) string {
	if l.refuses != nil {
		if refusal := l.refuses("", body); refusal != "" {
			return refusal
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies = append(l.bodies, body)
	return "250 taken"
}

func (l *loose) took() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.bodies)
}

// talk sends all that a client has to say, and returns what it was told.
func (p *process) talk(said string) string {
	p.t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, said); err != nil {
		p.t.Fatal(err)
	}
	told, err := io.ReadAll(c)
	if err != nil && len(told) == 0 {
		p.t.Fatal(err)
	}
	return string(told)
}

// Whatever a client sends for the end of a body, the next hop, be it the loosest of readers, sees as many messages as
// there were 250s, from the senders that the relay took them from (CVE-2023-51764 and its family, on the way out). A host
// without 8BITMIME gets content that the relay has encoded.
func TestCVE_2023_51764_NothingIsSmuggledIntoTheNextHop(t *testing.T) {
	// The last one is 8-bit before the end that the client tried, and is cut into lines where that end would begin one.
	heads := []string{"first", "MIME-Version: 1.0\r\n\r\ngr\xc3\xbc\xc3\x9fe", "MIME-Version: 1.0\r\n" +
		"Content-Transfer-Encoding: quoted-printable\r\n\r\n\xfc" + strings.Repeat("x", 70)}
	for name, extensions := range map[string][]string{"with 8BITMIME": {"8BITMIME", "SMTPUTF8"}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			l := newLoose(t, extensions...)
			s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", l.listener.Addr()))
			p := s.start()
			taken := 0
			for _, head := range heads {
				n := p.smuggle(head)
				if n < 20 {
					t.Fatalf("%d messages were taken that begin with %q", n, head)
				}
				taken += n
			}
			until(t, "the mail to arrive", func() bool { return l.took() >= taken })
			l.mu.Lock()
			defer l.mu.Unlock()
			l.check(t, taken, len(extensions) == 0)
		})
	}
}

// smuggle sends messages that begin with head and hold another, behind all that could be the end of a body. It returns
// how many were taken.
func (p *process) smuggle(head string) (taken int) {
	ends := []string{"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\x00\r\n", "\r\n\x00", "\n\x00", "\v", "\x85", "\x00"}
	for _, before := range ends {
		for _, after := range ends {
			if strings.HasSuffix(before, "\r\n") && strings.HasPrefix(after, "\r\n") {
				continue // which is the end
			}
			told := p.talk("EHLO c\r\nMAIL FROM:<good@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\n" + head + before + "." + after +
				"MAIL FROM:<admin@victim.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n")
			taken += strings.Count(told, "250 2.0.0 OK queued")
		}
	}
	return taken
}

// check fails the test unless just the taken messages have arrived, and each has one end; encoded is set when they went to
// a 7-bit host. l.mu is held.
func (l *loose) check(t *testing.T, taken int, encoded bool) {
	t.Helper()
	if len(l.bodies) != taken {
		t.Errorf("%d messages arrived of %d", len(l.bodies), taken)
	}
	for _, c := range l.commands {
		if strings.HasPrefix(c, "MAIL") && !strings.HasPrefix(c, "MAIL FROM:<good@client.test>") {
			t.Errorf("the next hop heard %q", c)
		}
	}
	coded := 0
	for _, body := range l.bodies {
		if rest := strings.ReplaceAll(body, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
			t.Errorf("a bare CR or LF is in %q", body)
		}
		if encoded && strings.ContainsFunc(body, func(r rune) bool { return r >= 0x80 }) {
			t.Errorf("8-bit octets are in %q", body)
		}
		if strings.Contains(body, "gr=C3=BC=C3=9Fe") {
			coded++
		}
		dots := 0
		for line := range strings.SplitSeq(strings.ReplaceAll(body, "\x00", ""), "\r\n") {
			if line == "." {
				dots++
			}
		}
		if dots != 1 {
			t.Errorf("a reader that drops NULs sees %d ends of data in %q", dots, body)
		}
	}
	if encoded != (coded > 0) {
		t.Errorf("%d messages arrived encoded", coded)
	}
}

// Addresses and parameters reach the next hop as one command each, with nothing added.
func TestInjection_NextHopHearsTheCommandsThatWereMeant(t *testing.T) {
	s := newSite(t)
	l := newLoose(t, "8BITMIME", "SMTPUTF8")
	s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", l.listener.Addr()))
	p := s.start()
	told := p.talk(`EHLO c
MAIL FROM:<"a> SIZE=1 AUTH=<> x"@client.test> ENVID=e+2B RET=HDRS
RCPT TO:<"b\" c> NOTIFY=NEVER "@other.test> NOTIFY=FAILURE ORCPT=rfc822;b+3E
RCPT TO:<@evil.test:d@other.test>
RCPT TO:<e@other.test>	NOTIFY=NEVER
`)
	if !strings.Contains(told, "500 5.5.2 a command has control characters") {
		t.Errorf("the client was told %q", told)
	}
	told = p.talk("EHLO c\r\n" + `MAIL FROM:<"a> SIZE=1 AUTH=<> x"@client.test> ENVID=e+2B RET=HDRS` + "\r\n" +
		`RCPT TO:<"b\" c> NOTIFY=NEVER "@other.test> NOTIFY=FAILURE ORCPT=rfc822;b+3E` + "\r\n" +
		"RCPT TO:<@evil.test:d@other.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
	if strings.Count(told, "250 2.0.0 OK queued") != 1 {
		t.Fatalf("the client was told %q", told)
	}
	until(t, "the mail to arrive", func() bool { return l.took() == 1 })
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := strings.Join(l.commands, "")
	for _, want := range []string{
		`MAIL FROM:<"a> SIZE=1 AUTH=<> x"@client.test> SIZE=`,
		" BODY=8BITMIME RET=HDRS ENVID=e+2B\r\n",
		`RCPT TO:<"b\" c> NOTIFY=NEVER "@other.test> NOTIFY=FAILURE ORCPT=rfc822;b+3E` + "\r\n",
		"RCPT TO:<d@other.test>\r\n",
	} {
		if !strings.Contains(heard, want) {
			t.Errorf("the next hop did not hear %q but\n%s", want, heard)
		}
	}
	if n := strings.Count(heard, "\r\n"); strings.Count(heard, "RCPT TO:") != 2 || n > 6 {
		t.Errorf("the next hop heard %d commands:\n%s", n, heard)
	}
}
