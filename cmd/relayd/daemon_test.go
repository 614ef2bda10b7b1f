//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/sandbox"
)

// The whole path: LAN client, disk, STARTTLS, AUTH, smarthost; and an end that leaves nothing.
func TestRelayd_CarriesAMessageToASmarthostThatDemandsTLSAndLogin(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	body := "Subject: hello\r\nFrom: sender@lan.example\r\n\r\n.dots\r\n..more\r\n" + strings.Repeat("x", 990) + "\r\n"
	if err := p.submit("sender@lan.example", body, "a@example.com", "b@example.com"); err != nil {
		t.Fatal(err)
	}
	m := arrive(t, sb, 1)[0]
	if !m.TLS || m.User != "me@isp.example" || m.ReversePath != "sender@lan.example" || len(m.Recipients) != 2 || m.Hello != "relay.example" {
		t.Errorf("arrived as %+v", m)
	}
	trace, rest, ok := strings.Cut(string(m.Data), "Subject: hello")
	if !ok || "Subject: hello"+rest != body {
		t.Errorf("the content changed:\n%q", m.Data)
	}
	if !strings.HasPrefix(trace, "Received: from ") || !strings.Contains(trace, "by relay.example") {
		t.Errorf("trace header: %q", trace)
	}
	p.waitFor(`msg=delivered queue_id=\w+`)
	if v := sb.Violations(); len(v) > 0 {
		t.Errorf("the relay broke the protocol: %v", v)
	}
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("SIGTERM ended it with %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "data", "control.sock")); err == nil {
		t.Error("the control socket is left behind")
	}
}

func TestRelayd_MailWaitsOutADeadSmarthostAndAKill(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	if err := sb.Stop(); err != nil {
		t.Fatal(err)
	}
	p := s.start()
	for i := range 5 {
		p.mustSubmit(fmt.Sprintf("u%d@example.com", i))
	}
	p.waitFor(`level=(WARN|ERROR) .*host=` + sb.Addr())
	p.kill()
	s.start()
	if q := s.status().Queue; q.Active+q.Deferred != 5 {
		t.Errorf("after the kill: %+v", q)
	}
	if err := sb.Resume(); err != nil {
		t.Fatal(err)
	}
	arrive(t, sb, 5)
	until(t, "the queue to be empty", func() bool { q := s.status().Queue; return q.Active+q.Deferred == 0 })
	if n := len(sb.Messages()); n != 5 {
		t.Errorf("%d messages arrived, 5 were sent", n)
	}
}

// Cox's three regional hosts: the first is dead, the second refuses the login, the third takes the mail.
func TestRelayd_CoxFailsOverToTheThirdHost(t *testing.T) {
	s := newSite(t)
	ca := t.TempDir()
	west := s.smarthost(sandbox.Options{Personality: "cox-west", CADir: ca})
	central := s.smarthost(sandbox.Options{Personality: "cox-central", CADir: ca})
	east := s.smarthost(sandbox.Options{Personality: "cox-east", CADir: ca})
	if err := west.Stop(); err != nil {
		t.Fatal(err)
	}
	central.Inject(sandbox.Fault{Stage: sandbox.StageAuth, Reply: "535 5.7.8 Authentication failed"})
	s.configure(route(east.CAFile(), west.Addr(), central.Addr(), east.Addr()))
	p := s.start()
	p.mustSubmit("a@example.com")
	arrive(t, east, 1)
	p.waitFor(`msg=delivered .*host=` + east.Addr())
	hosts := s.status().Routes[0].Hosts
	if got := fmt.Sprint(hosts[0].State, " ", hosts[1].State, " ", hosts[2].State); got != "down login_refused up" {
		t.Errorf("states of the hosts: %s", got)
	}
	if n := len(west.Messages()) + len(central.Messages()); n != 0 {
		t.Errorf("%d messages at the wrong host", n)
	}
}

// AT&T's session of 2003, with the other ways to ask for a login that hosts have had.
func TestRelayd_LogsInAtATT(t *testing.T) {
	for name, o := range map[string]sandbox.Options{
		"as in 2003":       {Personality: "att"},
		"other prompts":    {Personality: "att", LoginPrompts: []string{"VXNlciBOYW1lAA==", "UGFzc3dvcmQA"}, Mechanisms: []string{"LOGIN"}},
		"prompts of words": {Personality: "att", LoginPrompts: []string{"dXNlcm5hbWU6", "cGFzc3dvcmQ6"}, Mechanisms: []string{"LOGIN"}},
	} {
		for _, auth := range []string{"login", "auto"} {
			t.Run(name+", auth "+auth, func(t *testing.T) {
				s := newSite(t)
				sb := s.smarthost(o)
				s.configure(route(sb.CAFile(), sb.Addr()) + fmt.Sprintf("auth = %q\n", auth))
				p := s.start()
				p.mustSubmit("a@example.com")
				if m := arrive(t, sb, 1)[0]; m.User != "me@isp.example" || !m.TLS {
					t.Errorf("arrived as %+v", m)
				}
			})
		}
	}
}

// A wrong password bounces nothing; SIGHUP with the right one sets the mail going.
func TestRelayd_WrongPasswordWaitsForTheRightOne(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	s.write("isp.password", "wrong", 0o600)
	p := s.start()
	p.mustSubmit("a@example.com")
	p.waitFor(`level=ERROR .*login`)
	st := s.status()
	if len(st.Problems) == 0 || !strings.Contains(strings.Join(st.Problems, "\n"), "login") {
		t.Errorf("status does not name the login: %+v", st)
	}
	s.write("isp.password", testPassword, 0o600)
	p.signal(syscall.SIGHUP)
	if m := arrive(t, sb, 1)[0]; m.ReversePath != "sender@lan.example" {
		t.Errorf("a bounce arrived: %+v", m)
	}
	until(t, "the queue to be empty", func() bool { q := s.status().Queue; return q.Active+q.Deferred == 0 })
	if n := len(sb.Messages()); n != 1 {
		t.Errorf("%d messages arrived", n)
	}
}

func TestRelayd_BadConfigurationChangesNothing(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	s.write("relayd.toml", "trusted_networks = [\"0.0.0.0/0\"]\nnonsense = 1\n", 0o600)
	p.signal(syscall.SIGHUP)
	p.waitFor(`old one stays in force`)
	for _, want := range []string{"relayd.toml:1", "relayd.toml:2", "nonsense"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log does not name %q", want)
		}
	}
	p.mustSubmit("a@example.com")
	arrive(t, sb, 1)
}

func TestRelayd_ReloadMovesTheListener(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	old := p.addr
	s.write("relayd.toml", strings.Replace(string(text), `"127.0.0.1:0"`, `"127.0.0.2:0"`, 1), 0o600)
	p.signal(syscall.SIGHUP)
	p.addr = p.waitFor(`msg="the configuration was reloaded".* listening="?(127\.0\.0\.2:[0-9]+)`)[1]
	p.mustSubmit("a@example.com")
	arrive(t, sb, 1)
	if c, err := smtp.Dial(old); err == nil {
		c.Close()
		t.Error("the old listener still takes mail")
	}
}

func TestRelayd_SecondDaemonStopsAtOnce(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	s.start()
	second := s.launch()
	if err := second.wait(); err == nil {
		t.Fatal("a second daemon runs on the same folder")
	}
	if !strings.Contains(second.log.String(), "in use by another relayd") {
		t.Errorf("it says: %s", second.log)
	}
}

func TestRelayd_RefusesABadConfigurationWithAllFaults(t *testing.T) {
	s := newSite(t)
	s.write("relayd.toml", `trusted_networks = ["0.0.0.0/1", "128.0.0.0/1"]
colour = "red"
[[smarthost]]
hosts = ["smtp.isp.example"]
username = "me"
password_file = "missing"
tls = 7
`, 0o600)
	p := s.launch()
	if err := p.wait(); err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"relayd.toml:1:", "relayd.toml:2:", "relayd.toml:6:", "relayd.toml:7:"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no fault at %s:\n%s", want, p.log)
		}
	}
}

// SIGTERM lets a transaction finish, and what got its 250 is there at the next start.
func TestRelayd_StopLetsATransactionFinish(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	c, err := smtp.Dial(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Mail("sender@lan.example"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("a@example.com"); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("Subject: last\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.waitFor("relayd is stopping")
	until(t, "the listener to be closed", func() bool {
		other, err := smtp.Dial(p.addr)
		if err == nil {
			other.Close()
		}
		return err != nil
	})
	if err := w.Close(); err != nil {
		t.Fatalf("the transaction that was under way: %v", err)
	}
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	s.start()
	arrive(t, sb, 1)
}

func TestRelayd_CalledWrongly(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"stray"}} {
		err := run(context.Background(), args, &bytes.Buffer{})
		if _, ok := err.(*usageError); !ok || !strings.Contains(err.Error(), "--help") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// Mail that no [[smarthost]] takes waits, and status says so until the configuration has a place for it.
func TestRelayd_MailWithoutARouteIsLoudAndWaits(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()) + "senders = [\"@only.example\"]\n")
	p := s.start()
	p.mustSubmit("a@example.com")
	p.waitFor(`msg=waiting queue_id=\w+ .*no \[\[smarthost\]\] takes mail from <sender@lan.example>`)
	if problems := strings.Join(s.status().Problems, "\n"); !strings.Contains(problems, "no [[smarthost]] takes mail") {
		t.Errorf("status says %q", problems)
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p.signal(syscall.SIGHUP)
	arrive(t, sb, 1)
	until(t, "status to be content", func() bool { return len(s.status().Problems) == 0 })
}

// A reload that changes what takes effect at the next start says what is in use now, however often.
func TestRelayd_ReloadNamesTheFolderInUse(t *testing.T) {
	s, _ := loadSite(t, sandbox.Options{})
	p := s.start()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	for n, dir := range []string{"other", "third"} {
		s.write("relayd.toml", strings.Replace(string(text), `data_dir = "data"`, `data_dir = "`+dir+`"`, 1), 0o600)
		p.signal(syscall.SIGHUP)
		p.waitFor(`key=data_dir now=` + filepath.Join(s.dir, "data") + ` then=` + filepath.Join(s.dir, dir))
		until(t, "the reload", func() bool { return strings.Count(p.log.String(), "the configuration was reloaded") == n+1 })
	}
}
