//go:build unix

package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// filter is a 7-bit host that looks into all it gets, and refuses what it does not like wherever that stands.
func filter(command, body string) string {
	const virus = "554 5.7.1 virus found: eicar"
	switch text := command + body; {
	case strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 }):
		return "554 5.6.7 8-bit octets, which were not offered a way"
	case strings.Contains(strings.ToLower(body), "eicar"):
		return virus
	case strings.Count(body, "multipart/") > 20:
		return "554 5.6.0 parts are nested too deeply"
	}
	for line := range strings.SplitSeq(body, "\r\n") {
		if len(line) > 998 {
			return "554 5.6.0 a line is too long"
		}
	}
	return ""
}

// refusedShapes are messages that a filter refuses, or that the relay cannot give it.
func refusedShapes() map[string]string {
	const mime = "MIME-Version: 1.0\r\n"
	nested := "Subject: deep\r\n" + mime
	for i := range 120 {
		nested += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	return map[string]string{
		"virus in the body":          "Subject: x\r\n\r\nEICAR test\r\n",
		"virus in the header":        "Subject: eicar\r\n\r\nbody\r\n",
		"virus in a folded field":    "Subject: x\r\nX-Long: a\r\n eicar\r\n\r\nbody\r\n",
		"8-bit subject":              "Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nbody\r\n",
		"long line in the header":    "Subject: " + strings.Repeat("x", 1200) + "\r\n\r\nbody\r\n",
		"long line in the body":      "Subject: x\r\n\r\n" + strings.Repeat("y", 1200) + "\r\n",
		"deep nesting":               nested + "Content-Type: text/plain\r\n\r\nx\r\n",
		"deep nesting, 8-bit":        nested + "Content-Type: text/plain\r\n\r\n\xfc\r\n",
		"8-bit without a boundary":   "Subject: x\r\n" + mime + "Content-Type: multipart/mixed\r\n\r\n\xfc\r\n",
		"8-bit in message/partial":   mime + "Content-Type: message/partial; id=a; number=1; total=2\r\n\r\n\xfc\r\n",
		"NULs and 8-bit in a header": "Subject: \x00\xff\r\n\r\n\x00body\r\n",
	}
}

// Whatever a host refuses a message for, it does not refuse the report about it for the same.
func TestRelayd_ARefusalOfContentIsReported(t *testing.T) {
	for _, ret := range []string{"", " RET=FULL", " RET=HDRS"} {
		t.Run(strings.TrimSpace("report"+ret), func(t *testing.T) {
			s := newSite(t)
			l := newLoose(t)
			l.refuses = filter
			s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", l.listener.Addr()))
			p := s.start()
			want := make(map[string]string)
			for name, content := range refusedShapes() {
				sender := fmt.Sprintf("s%d@client.test", len(want))
				want[sender] = name
				p.take(sender, ret, "b@other.test", content)
			}
			want["utf8@client.test"] = "a UTF-8 recipient"
			p.take("utf8@client.test", ret+" SMTPUTF8", "b\xc3\xbc@other.test", "Subject: x\r\n\r\nbody\r\n")
			until(t, "a report for each", func() bool { return l.took() >= len(want) })
			until(t, "an empty queue", func() bool { q := s.status().Queue; return q.Active+q.Deferred+q.Held == 0 })
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, body := range l.bodies {
				_, to, _ := strings.Cut(body, "\r\nTo: <")
				to, _, _ = strings.Cut(to, ">")
				if want[to] == "" || !strings.Contains(body, "\r\nAction: failed\r\n") || !strings.Contains(body, "\r\nStatus: 5.") {
					t.Errorf("to %q, who waits for %q:\n%s", to, want[to], body)
				}
				delete(want, to)
			}
			if len(want) > 0 {
				t.Errorf("nobody was told of %v", want)
			}
		})
	}
}

// take hands the daemon a message by the wire, since no client library sends such ones.
func (p *process) take(from, params, to, content string) {
	p.t.Helper()
	told := p.talk("EHLO c\r\nMAIL FROM:<" + from + ">" + params + "\r\nRCPT TO:<" + to + ">\r\nDATA\r\n" + content + ".\r\nQUIT\r\n")
	if strings.Count(told, "250 2.0.0 OK queued") != 1 {
		p.t.Fatalf("%q was not taken: %q", content, told)
	}
}

// A report that nobody takes goes to the postmaster. When the host takes that neither, it stays: in status, on disk, and
// across a restart, until an operator has read it.
func TestRelayd_AnUndeliverableReportOutlivesARestart(t *testing.T) {
	for _, postmaster := range []string{"", "postmaster = \"pm@client.test\"\n"} {
		t.Run("with "+strings.TrimSpace(postmaster), func(t *testing.T) {
			s := newSite(t)
			l := newLoose(t)
			l.refuses = func(command, body string) string {
				if strings.HasPrefix(command, "RCPT") && strings.Contains(command, "client.test") {
					return "550 5.1.1 no such user"
				}
				return filter(command, body)
			}
			s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", l.listener.Addr()))
			s.write("relayd.toml", postmaster+s.read("relayd.toml"), 0o600)
			p := s.start()
			p.take("good@client.test", "", "b@other.test", "Subject: x\r\n\r\neicar\r\n")
			for range 2 {
				until(t, "the undeliverable report", func() bool { return len(s.status().Undeliverable) == 1 })
				st := s.status()
				if st.Queue.Unreported != 1 || st.Queue.Held != 1 || len(st.Problems) != 1 || !strings.Contains(st.Problems[0], st.Undeliverable[0]) {
					t.Errorf("status: %+v", st)
				}
				if d := s.show(st.Undeliverable[0]); d.State != "undeliverable" || d.LastError != "550 5.1.1 no such user" {
					t.Errorf("%+v", d)
				}
				p.signal(syscall.SIGTERM)
				if err := p.wait(); err != nil {
					t.Fatal(err)
				}
				p = s.start()
			}
			p.kill() // a crash does not forget it either
			s.start()
			st := s.status()
			if len(st.Undeliverable) != 1 {
				t.Fatalf("status after a crash: %+v", st)
			}
			s.ask("delete", st.Undeliverable[0])
			if st := s.status(); st.Queue.Unreported != 0 || len(st.Undeliverable) != 0 || len(st.Problems) != 0 {
				t.Errorf("status after its deletion: %+v", st)
			}
		})
	}
}
