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
	mu       sync.Mutex
	commands []string
	bodies   []string // as on the wire, with their ends
}

func newLoose(t *testing.T) *loose {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &loose{listener: nl}
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
		switch verb := strings.ToUpper(strings.TrimSpace(line[:min(4, len(line))])); verb {
		case "EHLO":
			io.WriteString(c, "250-loose\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE\r\n")
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
			l.mu.Lock()
			l.bodies = append(l.bodies, body)
			l.mu.Unlock()
			io.WriteString(c, "250 taken\r\n")
		case "QUIT":
			io.WriteString(c, "221 bye\r\n")
			return
		default:
			io.WriteString(c, "250 ok\r\n")
		}
	}
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
// there were 250s, from the senders that the relay took them from (CVE-2023-51764 and its family, on the way out).
func TestCVE_2023_51764_NothingIsSmuggledIntoTheNextHop(t *testing.T) {
	s := newSite(t)
	l := newLoose(t)
	s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", l.listener.Addr()))
	p := s.start()
	taken := 0
	ends := []string{"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\x00\r\n", "\r\n\x00", "\n\x00", "\v", "\x85"}
	for _, before := range ends {
		for _, after := range ends {
			if strings.HasSuffix(before, "\r\n") && strings.HasPrefix(after, "\r\n") {
				continue // which is the end
			}
			told := p.talk("EHLO c\r\nMAIL FROM:<good@client.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nfirst" + before + "." + after +
				"MAIL FROM:<admin@victim.test>\r\nRCPT TO:<b@other.test>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n")
			taken += strings.Count(told, "250 2.0.0 OK queued")
		}
	}
	if taken == 0 {
		t.Fatal("nothing was taken")
	}
	until(t, "the mail to arrive", func() bool { return l.took() >= taken })
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.bodies) != taken {
		t.Errorf("%d messages arrived of %d", len(l.bodies), taken)
	}
	for _, c := range l.commands {
		if strings.HasPrefix(c, "MAIL") && !strings.HasPrefix(c, "MAIL FROM:<good@client.test>") {
			t.Errorf("the next hop heard %q", c)
		}
	}
	for _, body := range l.bodies {
		if rest := strings.ReplaceAll(body, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
			t.Errorf("a bare CR or LF is in %q", body)
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
}

// Addresses and parameters reach the next hop as one command each, with nothing added.
func TestInjection_NextHopHearsTheCommandsThatWereMeant(t *testing.T) {
	s := newSite(t)
	l := newLoose(t)
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
