//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"relayd/internal/config"
	"relayd/internal/dnstest"
	"relayd/internal/rewrite"
	"relayd/internal/sandbox"
	"relayd/internal/wiring"
)

const scannerMap = "[smarthost.rewrite]\nmap = { \"scanner@*\" = \"office@example.com\" }\n"

// The scanner's mail leaves under an address that the provider takes, with its signature gone and said to be; the bounce
// goes back to the scanner's own address by the route of the LAN, whose rules leave it alone.
func TestRelayd_SenderIsRewrittenAndTheBounceGoesToTheOriginal(t *testing.T) {
	s := newSite(t)
	provider := s.smarthost(sandbox.Options{})
	lan := s.smarthost(sandbox.Options{NoTLS: true, NoAuth: true})
	if err := provider.Inject(
		sandbox.Fault{Stage: sandbox.StageMail, Match: "lan.example", Reply: "550 5.7.60 not the account's address"},
		sandbox.Fault{Stage: sandbox.StageRcpt, Match: "never@", Reply: "550 5.1.1 nobody here"}); err != nil {
		t.Fatal(err)
	}
	s.configure(fmt.Sprintf("[[smarthost]]\nname = \"lan\"\nhosts = [%q]\ntls = \"off\"\nrecipients = [\"@lan.example\"]\n", lan.Addr()) +
		route(provider.CAFile(), provider.Addr()) + scannerMap)
	p := s.start()
	const head = "DKIM-Signature: v=1; d=lan.example; h=from:subject; b=abc\r\nFrom: \"Scanner, 2nd floor\"\r\n\t<scanner@lan.example>\r\n" +
		"Sender: scanner@lan.example\r\nDate: Sun, 01 Mar 2026 09:30:15 +0100\r\nMessage-ID: <1@lan.example>\r\nSubject: scan\r\n"
	const body = "\r\nFrom: scanner@lan.example\r\n.\r\n"
	if err := p.submit("scanner@lan.example", head+body, "good@example.net", "never@example.net"); err != nil {
		t.Fatal(err)
	}
	m := arrive(t, provider, 1)[0]
	got := string(m.Data)[max(0, strings.Index(string(m.Data), "From: ")):]
	want := "From: \"Scanner, 2nd floor\"\r\n\t<office@example.com>\r\nReply-To: \"Scanner, 2nd floor\"\r\n\t<scanner@lan.example>\r\n" +
		"Sender: office@example.com\r\nDate: Sun, 01 Mar 2026 09:30:15 +0100\r\nMessage-ID: <1@lan.example>\r\nSubject: scan\r\n" + body
	if got != want || strings.Contains(string(m.Data), "DKIM") || m.ReversePath != "office@example.com" {
		t.Errorf("from %s arrived\n%s", m.ReversePath, m.Data)
	}
	if size, _ := m.MailParam("SIZE"); size != fmt.Sprint(len(m.Data)) {
		t.Errorf("SIZE=%s for %d octets", size, len(m.Data))
	}
	p.waitFor(`msg="sender rewritten" queue_id=\w+ .*changes="reverse-path <scanner@lan.example> to <office@example.com> \(smarthost [^:]+: map \\"scanner@\*\\"\)`)
	p.waitFor(`msg="signature removed" queue_id=\w+ .*fields=DKIM-Signature`)
	report := arrive(t, lan, 1)[0]
	if report.ReversePath != "" || report.Recipients[0] != "scanner@lan.example" || !strings.Contains(string(report.Data), "never@example.net") {
		t.Errorf("the report: %+v\n%s", report, report.Data)
	}
	if !strings.Contains(string(report.Data), "From: \"Scanner, 2nd floor\"\r\n\t<scanner@lan.example>") {
		t.Errorf("the report does not hold what came in:\n%s", report.Data)
	}
}

// A message without Date, From and Message-ID gets them, the same at a second try and after a restart.
func TestRelayd_MissingFieldsAreAddedAndStayTheSame(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageDot, Drop: true}); err != nil {
		t.Fatal(err)
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	if err := p.submit("alarm@lan.example", "Subject: door 3\r\n\r\nopen\r\n", "a@example.net"); err != nil {
		t.Fatal(err)
	}
	p.waitFor(`msg=deferred`)
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
	sb.Clear()
	p = s.start()
	got := arrive(t, sb, 2)
	id := p.waitFor(`msg=delivered queue_id=(\w+)`)[1]
	fields := regexp.MustCompile(`\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} \+0000\r\nFrom: <alarm@lan\.example>\r\nMessage-ID: <` + id + `@relay\.example>\r\nSubject: door 3\r\n\r\nopen\r\n$`)
	for _, m := range got {
		if !fields.Match(m.Data) || string(m.Data) != string(got[0].Data) {
			t.Errorf("%s", m.Data)
		}
	}
}

// What is queued leaves under the rules of the configuration that is in force when it leaves; those of the client's
// network come first.
func TestRelayd_QueuedMailTakesTheCorrectedRules(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageMail, Match: "nas@lan.example", Reply: "450 4.7.1 not this sender"}); err != nil {
		t.Fatal(err)
	}
	s.configure(route(sb.CAFile(), sb.Addr()) + scannerMap)
	p := s.start()
	if err := p.submit("nas@lan.example", "From: nas@lan.example\r\n\r\nfull\r\n", "a@example.net"); err != nil {
		t.Fatal(err)
	}
	p.waitFor(`msg=deferred`)
	s.configure(route(sb.CAFile(), sb.Addr()) + "[smarthost.rewrite]\nenvelope_from = \"never@example.com\"\n" +
		"[[client]]\nnetworks = [\"127.0.0.1\"]\n[client.rewrite.map]\n\"nas@*\" = \"backup@example.com\"\n")
	p.signal(syscall.SIGHUP)
	m := arrive(t, sb, 1)[0]
	if m.ReversePath != "backup@example.com" || !strings.Contains(string(m.Data), "\r\nFrom: backup@example.com\r\nReply-To: nas@lan.example\r\n") {
		t.Errorf("%s\n%s", m.ReversePath, m.Data)
	}
}

// A host without 8BITMIME gets the rewritten message encoded, of the size that was declared.
func TestRelayd_RewrittenMessageIsEncodedForAHostWithout8BITMIME(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{Extensions: []string{"-8BITMIME"}})
	s.configure(route(sb.CAFile(), sb.Addr()) + scannerMap)
	p := s.start()
	if err := p.submit("scanner@lan.example", "From: scanner@lan.example\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngr\xc3\xbcn\r\n", "a@example.net"); err != nil {
		t.Fatal(err)
	}
	m := arrive(t, sb, 1)[0]
	if size, _ := m.MailParam("SIZE"); size != fmt.Sprint(len(m.Data)) || !strings.Contains(string(m.Data), "gr=C3=BCn") ||
		!strings.Contains(string(m.Data), "From: office@example.com\r\nReply-To: scanner@lan.example\r\n") {
		t.Errorf("SIZE=%s for %d octets:\n%s", size, len(m.Data), m.Data)
	}
}

// Rules that the configuration takes, the smarthost's room takes as well: the two check addresses each by itself.
func TestRelayd_RulesOfAGoodConfigurationCanBeUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayd.toml")
	address := rapid.OneOf(rapid.StringMatching(`["a.é*@\[\]:1,( <>-]{1,12}`), rapid.StringMatching(`[a*."]{1,3}@([a*.é-]{1,5}|\[1\.2\.3\.4\]|\[IPv6:::1\])`),
		rapid.SampledFrom([]string{"*", "@b.example", `"a b"@c`, strings.Repeat("a", 64) + "@b", strings.Repeat("a", 65) + "@b", "a@" + strings.Repeat("b.", 125) + "b"}))
	taken := 0
	rapid.Check(t, func(rt *rapid.T) {
		pattern, to, from := address.Draw(rt, "pattern"), address.Draw(rt, "to"), address.Draw(rt, "from")
		text := "[[smarthost]]\nhosts = ['h']\n[smarthost.rewrite]\nheader_from = '" + from + "'\nmap = { '" + pattern + "' = '" + to + "' }\n"
		for _, text := range []string{text, strings.Replace(text, "'"+from+"'", "'x@y'", 1), strings.Replace(text, "'"+to+"'", "'x@y'", 1)} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				rt.Fatal(err)
			}
			cfg, _, err := config.Load(path)
			if err != nil {
				continue
			}
			taken++
			if _, err := rewrite.Compile(wiring.Rules(cfg.Smarthosts[0].Rewrite)); err != nil {
				rt.Fatalf("%s\n%v", text, err)
			}
		}
	})
	if taken == 0 {
		t.Error("no configuration was good")
	}
}

func TestRelayd_SenderWithoutMX(t *testing.T) {
	dns, err := dnstest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	dns.Set("example.com", dnstest.Answer{MX: []string{"mx.example.com"}})
	dns.Set("broken.example", dnstest.Answer{Failed: true})
	t.Setenv(dnsServer, dns.Addr())
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()) + scannerMap)
	require := func(mode string) {
		t.Helper()
		text, err := os.ReadFile(s.config)
		if err != nil {
			t.Fatal(err)
		}
		clean := regexp.MustCompile(`(?m)^require_sender_mx.*\n`).ReplaceAllString(string(text), "")
		s.write("relayd.toml", "require_sender_mx = \""+mode+"\"\n"+clean, 0o600)
	}
	require("reject")
	p := s.start()
	const message = "Subject: x\r\n\r\nbody\r\n"
	err = p.submit("printer@lan.example", message, "a@example.net")
	if err == nil || !strings.Contains(err.Error(), "550") || !strings.Contains(err.Error(), "5.1.8") ||
		!strings.Contains(err.Error(), "lan.example. MX 10 mail.lan.example.") {
		t.Errorf("without an MX record: %v", err)
	}
	// With one, where DNS does not say, where it leaves under another address, and reports.
	for _, from := range []string{"a@example.com", "a@broken.example", "scanner@lan.example", ""} {
		if err := p.submit(from, message, "a@example.net"); err != nil {
			t.Errorf("%q: %v", from, err)
		}
	}
	require("warn")
	p.signal(syscall.SIGHUP)
	p.waitFor(`msg="the configuration was reloaded"`)
	for range 2 {
		if err := p.submit("printer@lan.example", message, "a@example.net"); err != nil {
			t.Error(err)
		}
	}
	arrive(t, sb, 6)
	p.waitFor(`level=WARN msg="the sender's domain has no MX record.*from=<printer@lan.example>`)
	if n := strings.Count(p.log.String(), `msg="the sender's domain has no MX record`); n != 1 {
		t.Errorf("warned %d times", n)
	}
	if n := dns.Queries("lan.example"); n != 1 {
		t.Errorf("DNS was asked %d times", n)
	}
}
