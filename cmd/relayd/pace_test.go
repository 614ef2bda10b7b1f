//go:build unix

package main

import (
	"context"
	"fmt"
	"net/smtp"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/sandbox"
	"relayd/queue"
)

func (s *site) mustControl() *control.Client {
	s.t.Helper()
	c, err := s.control(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// The day's limit holds through a kill; what is over it waits without an error, is seen, and goes when the limit is gone.
func TestRelayd_TheDaysLimitOutlivesAKill(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()) + "daily_recipients = 5\n")
	p := s.start()
	for i := range 10 {
		p.mustSubmit(fmt.Sprintf("u%d@example.com", i))
	}
	paced := func() bool { q := s.status().Queue; return q.Paced == 5 && q.Deferred == 5 && q.Active == 0 }
	until(t, "five to wait for the pace", paced)
	p.kill()
	p = s.start()
	until(t, "five to wait for the pace after the kill", paced)
	st := s.status()
	r := st.Routes[0].Pace
	if r == nil || r.UsedToday < 5 || r.UsedToday > 6 || r.Messages != 5 || time.Until(r.EmptiesAt) < 23*time.Hour || len(st.Problems) > 0 {
		t.Errorf("%+v, problems %q", r, st.Problems)
	}
	for e, err := range s.mustControl().All(context.Background()) {
		if err != nil || e.WaitsFor != queue.WaitsForPace || e.LastError != "" || e.Attempts != 0 {
			t.Errorf("%+v %v", e, err)
		}
	}
	if n := len(sb.Messages()); n != 5 {
		t.Errorf("%d messages have gone; the day has 5", n)
	}
	s.configure(route(sb.CAFile(), sb.Addr()))
	p.signal(syscall.SIGHUP)
	seen := map[string]int{}
	for _, m := range arrive(t, sb, 10) {
		seen[m.Recipients[0]]++
	}
	if len(seen) != 10 {
		t.Errorf("arrived: %v", seen)
	}
}

// With a mailing before it, a scan goes next or next but one.
func TestRelayd_AScanOvertakesAMailing(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()) + "rate = \"1/s\"\n")
	p := s.start()
	c, err := smtp.Dial(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 100 {
		if err := submitOn(c, fmt.Sprintf("news+%d@lan.example", i), "Subject: news\r\n\r\n", "reader@example.com"); err != nil {
			t.Fatal(err)
		}
	}
	arrive(t, sb, 2)
	if err := p.submit("scanner@lan.example", "Subject: scan\r\n\r\n", "boss@example.com"); err != nil {
		t.Fatal(err)
	}
	before := len(sb.Messages()) // those that went while it was submitted do not count
	var at int
	until(t, "the scan to arrive", func() bool {
		at = slices.IndexFunc(sb.Messages(), func(m sandbox.Message) bool { return m.ReversePath == "scanner@lan.example" })
		return at >= 0
	})
	if at > before+5 {
		t.Errorf("it was number %d, after %d", at+1, before)
	}
	if left := s.status().Queue.Paced; left < 10 {
		t.Errorf("only %d wait: nothing was overtaken", left)
	}
	p.waitFor(`msg="the pace holds mail back" route=`)
}

// Recipients of one message go by the routes that take them, and those of one route in parts that it takes.
func TestRelayd_OneMessageGoesSeveralWaysAndInParts(t *testing.T) {
	s := newSite(t)
	ca := t.TempDir()
	office := s.smarthost(sandbox.Options{CADir: ca})
	rest := s.smarthost(sandbox.Options{CADir: ca})
	s.configure(route(office.CAFile(), office.Addr()) + "name = 'office'\nmax_recipients = 2\nrecipients = ['@office.example']\n" +
		"clients = ['127.0.0.0/8']\nsenders = ['@lan.example']\n" +
		route(rest.CAFile(), rest.Addr()) + "name = 'rest'\n")
	p := s.start()
	p.mustSubmit("a@office.example", "x@example.com", "b@office.example", "c@office.example", "y@example.com", "d@office.example",
		"e@office.example")
	got := map[string]int{}
	for _, m := range arrive(t, office, 3) {
		if len(m.Recipients) > 2 {
			t.Errorf("%d recipients in one transaction", len(m.Recipients))
		}
		for _, rc := range m.Recipients {
			got[rc]++
		}
	}
	if len(got) != 5 {
		t.Errorf("the office got %v", got)
	}
	if m := arrive(t, rest, 1)[0]; len(m.Recipients) != 2 {
		t.Errorf("the rest got %+v", m.Recipients)
	}
	until(t, "the queue to be empty", func() bool { q := s.status().Queue; return q.Active+q.Deferred == 0 })
	if n := len(office.Messages()) + len(rest.Messages()); n != 4 {
		t.Errorf("%d transactions in all", n)
	}
}

// A corrected configuration reaches mail that is queued already; reroute does not wait for its next attempt.
func TestRelayd_ACorrectedRouteReachesQueuedMail(t *testing.T) {
	s := newSite(t)
	ca := t.TempDir()
	wrong := s.smarthost(sandbox.Options{CADir: ca})
	right := s.smarthost(sandbox.Options{CADir: ca})
	wrong.Inject(sandbox.Fault{Stage: sandbox.StageRcpt, Reply: "450 4.2.0 greylisted"})
	slow := func(routes string) {
		s.configure(routes)
		text, err := os.ReadFile(s.config)
		if err != nil {
			t.Fatal(err)
		}
		s.write("relayd.toml", strings.NewReplacer(`"100ms"`, `"1h"`, `"500ms"`, `"1h"`).Replace(string(text)), 0o600)
	}
	slow(route(wrong.CAFile(), wrong.Addr()) + "name = 'wrong'\n")
	p := s.start()
	p.mustSubmit("a@example.com")
	p.waitFor(`msg=deferred queue_id=`)
	slow(route(right.CAFile(), right.Addr()) + "name = 'right'\n")
	p.signal(syscall.SIGHUP)
	p.waitFor(`msg="the configuration was reloaded".*routes=right`)
	if res, err := s.mustControl().ApplyAll(context.Background(), queue.ActionReroute); err != nil || res.Done != 1 {
		t.Fatalf("%+v %v", res, err)
	}
	arrive(t, right, 1)
	if n := len(wrong.Messages()); n != 0 {
		t.Errorf("%d messages went the wrong way", n)
	}
}

// Mail before a route that is away takes the new one with the reload alone.
func TestRelayd_AReloadTakesMailFromARouteThatIsAway(t *testing.T) {
	s := newSite(t)
	ca := t.TempDir()
	away := s.smarthost(sandbox.Options{CADir: ca})
	there := s.smarthost(sandbox.Options{CADir: ca})
	if err := away.Stop(); err != nil {
		t.Fatal(err)
	}
	s.configure(route(away.CAFile(), away.Addr()) + "name = 'away'\n")
	p := s.start()
	for i := range 3 {
		p.mustSubmit(fmt.Sprintf("u%d@example.com", i))
	}
	p.waitFor(`msg="host down"`)
	s.configure(route(there.CAFile(), there.Addr()) + "name = 'there'\nsenders = ['@lan.example']\n" +
		route(away.CAFile(), away.Addr()) + "name = 'away'\n")
	p.signal(syscall.SIGHUP)
	arrive(t, there, 3)
}

// max_size is refused at the door, as a host's own limit is.
func TestRelayd_MaxSizeIsKnownAtTheDoor(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()) + "max_size = \"64KB\"\n")
	p := s.start()
	err := p.submit("sender@lan.example", "Subject: large\r\n\r\n"+strings.Repeat(strings.Repeat("x", 78)+"\r\n", 1000), "a@example.com")
	if err == nil || !strings.Contains(err.Error(), "552") {
		t.Errorf("80 kB: %v", err)
	}
	p.mustSubmit("a@example.com")
	arrive(t, sb, 1)
}
