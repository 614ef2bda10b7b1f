//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/control"
	"relayd/internal/sandbox"
	"relayd/queue"
)

// A provider's daily limit, wherever it comes, bounces nothing: the mail waits and status says why.
func TestRelayd_ADailyLimitBouncesNothing(t *testing.T) {
	for stage, reply := range map[sandbox.Stage]string{
		sandbox.StageDot:  "550 5.4.5 Daily user sending limit exceeded",
		sandbox.StageMail: "550 5.4.5 Daily user sending limit exceeded",
		sandbox.StageRcpt: "550 5.7.705 Access denied, tenant has exceeded threshold",
	} {
		t.Run(string(stage), func(t *testing.T) {
			s := newSite(t)
			sb := s.smarthost(sandbox.Options{})
			if err := sb.Inject(sandbox.Fault{Stage: stage, Reply: reply, Lose: stage == sandbox.StageDot}); err != nil {
				t.Fatal(err)
			}
			s.configure(route(sb.CAFile(), sb.Addr()))
			p := s.start()
			p.mustSubmit("a@example.com")
			p.waitFor(`msg=waiting queue_id=\w+`)
			if st := s.status(); len(st.Problems) == 0 || st.Queue.Deferred+st.Queue.Active != 1 {
				t.Errorf("status: %+v", st)
			}
			sb.Clear()
			p.signal(syscall.SIGHUP)
			if m := arrive(t, sb, 1)[0]; m.ReversePath != "sender@lan.example" {
				t.Errorf("a bounce arrived: %+v", m)
			}
		})
	}
}

// A recipient whose address says what a host says of an account that may send no more is an unknown user like any other: it
// fails for good, and the others' mail goes on meanwhile.
func TestRelayd_AddressWithTheHostsWordsStopsNobody(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	evil := []string{`"maximum credits exceeded"@x.example`, `"relay access denied"@x.example`, "too.many.concurrent@x.example",
		`"improper pipelining"@x.example`, `"daily sending quota"@x.example`}
	for _, to := range evil {
		if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageRcpt, Match: to, Reply: "550 <" + to + ">... User unknown"}); err != nil {
			t.Fatal(err)
		}
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	good := 0
	for range 4 {
		for _, to := range evil {
			p.mustSubmit(to)
			for range 3 {
				good++
				p.mustSubmit(fmt.Sprintf("b%d@example.com", good))
			}
		}
	}
	arrive(t, sb, good+4*len(evil)) // with a report about each of the others
	for _, m := range sb.Messages() {
		if (m.ReversePath == "") != (m.Recipients[0] == "sender@lan.example") {
			t.Errorf("%+v", m)
		}
	}
	if log := p.log.String(); strings.Contains(log, `msg="host `) || strings.Contains(log, "lock-step") {
		t.Error(log)
	}
}

// Rows of the configuration decide replies that the relay does not know; a row that makes no sense is refused with its
// line.
func TestRelayd_RowsForReplies(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageRcpt, Reply: "550 the moon is full"}); err != nil {
		t.Fatal(err)
	}
	rows := "[[reply]]\ncode = \"550\"\ntext = \"moon is full\"\nscope = \"site\"\nadvice = \"wait for the moon\"\n"
	s.configure(route(sb.CAFile(), sb.Addr()) + rows)
	p := s.start()
	p.mustSubmit("a@example.com")
	p.waitFor(`wait for the moon`)
	if q := s.status().Queue; q.Active+q.Deferred != 1 {
		t.Errorf("%+v", q)
	}
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write("relayd.toml", strings.Replace(string(text), `scope = "site"`, `scope = "galaxy"`, 1), 0o600)
	p.signal(syscall.SIGHUP)
	p.waitFor(`relayd.toml:\d+: reply.scope: .*galaxy.*is unknown`)
}

// SIZE is learnt, remembered across a restart, and offered to clients.
func TestRelayd_LearntSizeOutlivesARestart(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{MaxSize: 2_000_000})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	p.mustSubmit("a@example.com")
	arrive(t, sb, 1)
	until(t, "the size to be on disk", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "data", "hosts.json"))
		return err == nil
	})
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
	p = s.start()
	err := p.submit("sender@lan.example", strings.Repeat("0123456789abcdef\r\n", 120_000), "b@example.com")
	if err == nil || !strings.Contains(err.Error(), "552") || !strings.Contains(err.Error(), "5.3.4") {
		t.Errorf("a message of 2,160,000 octets for a host that takes 2,000,000: %v", err)
	}
}

// A host that for a while offers a SIZE that cannot be true closes nothing: mail is taken, also after a reload, a retry and a
// restart, waits, and goes when the host offers what it should.
func TestRelayd_SizeThatIsASlipClosesNothing(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageEHLO, Reply: "250-slip\n250-STARTTLS\n250-AUTH PLAIN\n250 SIZE 1"}); err != nil {
		t.Fatal(err)
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	sent := 0
	wait := func(when string) {
		t.Helper()
		sent++
		p.mustSubmit(fmt.Sprintf("b%d@example.com", sent))
		p.waitFor(`4\.3\.4 the message has \d+ octets, and .* says that it takes no more than 1, which is unlikely`)
		if q := s.status().Queue; q.Active+q.Deferred != sent {
			t.Errorf("%s: %+v", when, q)
		}
	}
	wait("at first")
	p.signal(syscall.SIGHUP)
	wait("after a reload")
	c, err := control.Dial(t.Context(), filepath.Join(s.dir, "data", "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ApplyAll(t.Context(), queue.ActionRetry); err != nil {
		t.Fatal(err)
	}
	wait("after a retry")
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
	p = s.start()
	wait("after a restart")
	sb.Clear()
	arrive(t, sb, sent)
}

// Three recipients, three answers, over real sockets: one is delivered, one is retried alone, one is reported, and the
// report goes back to the server on the LAN by a route of its own, in the clear and without a login.
func TestRelayd_ReportGoesBackToTheLANServer(t *testing.T) {
	s := newSite(t)
	provider := s.smarthost(sandbox.Options{})
	lan := s.smarthost(sandbox.Options{NoTLS: true, NoAuth: true})
	if err := provider.Inject(
		sandbox.Fault{Stage: sandbox.StageRcpt, Match: "later@", Reply: "450 4.2.1 later", Times: 1},
		sandbox.Fault{Stage: sandbox.StageRcpt, Match: "never@", Reply: "550 5.1.1 nobody here"}); err != nil {
		t.Fatal(err)
	}
	s.configure(fmt.Sprintf("[[smarthost]]\nname = \"lan\"\nhosts = [%q]\ntls = \"off\"\nrecipients = [\"@lan.example\"]\n", lan.Addr()) +
		route(provider.CAFile(), provider.Addr()))
	p := s.start()
	p.mustSubmit("good@example.com", "later@example.com", "never@example.com")
	report := arrive(t, lan, 1)[0]
	if report.ReversePath != "" || report.Recipients[0] != "sender@lan.example" || report.TLS {
		t.Errorf("the report: %+v", report)
	}
	for want, there := range map[string]bool{"Final-Recipient: rfc822; never@example.com": true, "550 5.1.1 nobody here": true,
		"later@example.com": false, "good@example.com": false} {
		if strings.Contains(string(report.Data), want) != there {
			t.Errorf("%q in the report: %v, want %v", want, !there, there)
		}
	}
	got := map[string]int{}
	for _, m := range arrive(t, provider, 2) {
		for _, to := range m.Recipients {
			got[to]++
		}
	}
	if got["good@example.com"] != 1 || got["later@example.com"] != 1 || got["never@example.com"] != 0 {
		t.Errorf("delivered: %v", got)
	}
}

// What the relay takes it hands on octet by octet behind its trace header, whatever the content is.
func TestRelayd_BodiesArriveAsTheyCame(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	var eightBit strings.Builder
	for c := 1; c < 256; c++ {
		if c != '\r' && c != '\n' {
			eightBit.WriteByte(byte(c))
		}
	}
	bodies := map[string]string{
		"dots":      ".\r\n..\r\n...\r\n.x\r\n \r\n.\r\n",
		"longlines": strings.Repeat("y", 100_000) + "\r\n",
		"eightbit":  eightBit.String() + "\r\n",
		"empty":     "",
		"large":     strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789a\r\n", 25<<20/61),
	}
	for name, body := range bodies {
		if err := p.submit("sender@lan.example", "Subject: "+name+"\r\nX-Folded: a\r\n\tb\r\n\r\n"+body, "a@example.com"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, m := range arrive(t, sb, len(bodies)) {
		_, content, _ := strings.Cut(string(m.Data), "Subject: ")
		name, rest, _ := strings.Cut(content, "\r\n")
		if want := "X-Folded: a\r\n\tb\r\n\r\n" + bodies[name]; rest != want {
			t.Errorf("%s: %d octets arrived changed, want %d", name, len(rest), len(want))
		}
	}
}

// A connection that dies between the final dot and its reply: the same octets are sent again, and log and history say
// that the message may arrive twice.
func TestRelayd_LostFinalReplyIsAPossibleDuplicate(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageDot, Drop: true, Times: 1}); err != nil {
		t.Fatal(err)
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	p.mustSubmit("a@example.com")
	got := arrive(t, sb, 2)
	if string(got[0].Data) != string(got[1].Data) {
		t.Error("the second try had other octets")
	}
	id := p.waitFor(`msg=deferred queue_id=(\w+) .*possible_duplicate=true`)[1]
	p.waitFor("msg=delivered queue_id=" + id)
	if d := s.show(id); len(d.Events) != 3 || !strings.Contains(d.Events[1].Words, "may so arrive twice") {
		t.Errorf("history: %+v", d.Events)
	}
}
