package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/sandbox"
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
	sb := s.smarthost(sandbox.Options{MaxSize: 100_000})
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
	err := p.submit("sender@lan.example", strings.Repeat("0123456789abcdef\r\n", 6000), "b@example.com")
	if err == nil || !strings.Contains(err.Error(), "552") || !strings.Contains(err.Error(), "5.3.4") {
		t.Errorf("a message of 108,000 octets for a host that takes 100,000: %v", err)
	}
}
