//go:build unix

package main

import (
	"context"
	"fmt"
	"net/smtp"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
	"relayd/queue"
	"relayd/test/tap"
)

// mishap is something that goes wrong with one call on a file, or with several in a row.
type mishap struct {
	name   string
	answer func(c *tap.Call) tap.Answer
	length int // how many calls in a row it strikes
}

func answers(a tap.Answer) func(*tap.Call) tap.Answer {
	return func(*tap.Call) tap.Answer { return a }
}

var mishaps = []mishap{
	{"EIO, not done", answers(tap.Answer{Skip: true, Errno: syscall.EIO}), 1},
	{"EIO, though it is done", answers(tap.Answer{Errno: syscall.EIO}), 1},
	{"EIO three times in a row", answers(tap.Answer{Skip: true, Errno: syscall.EIO}), 3},
	{"ENOSPC", answers(tap.Answer{Skip: true, Errno: syscall.ENOSPC}), 1},
	{"half done, then ENOSPC", func(c *tap.Call) tap.Answer {
		if c.Op != tap.OpWrite {
			return tap.Answer{Skip: true, Errno: syscall.ENOSPC}
		}
		return tap.Answer{Limit: (len(c.Data) + 1) / 2, Errno: syscall.ENOSPC}
	}, 1},
	{"a short write", func(c *tap.Call) tap.Answer { return tap.Answer{Limit: (len(c.Data) + 1) / 2} }, 1},
	{"death before it", answers(tap.Answer{Skip: true, Kill: true}), 1},
	{"death after it", answers(tap.Answer{Kill: true}), 1},
}

// saboteur lets a mishap strike the calls on files from the n-th on, and counts them.
type saboteur struct {
	mishap mishap
	at     int // 0 is never
	mu     sync.Mutex
	calls  int
	struck []string
}

func (s *saboteur) Begin(c *tap.Call) tap.Answer {
	if c.Op == tap.OpSend {
		return tap.Answer{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.at == 0 || s.calls < s.at || s.calls >= s.at+s.mishap.length {
		return tap.Answer{}
	}
	s.struck = append(s.struck, fmt.Sprintf("%s %s", c.Op, c.Path))
	return s.mishap.answer(c)
}

func (s *saboteur) End(*tap.Call) {}

// A scripted life of the daemon from its first start to its stop (intake through database and spool, an outage, holds,
// releases, deletes, a reload, deliveries, deferrals, reports) is run again and again, and each time something goes
// wrong with another of its calls on files, one after the other: errors, a full disk, writes that are done in part,
// calls that are done and said to have failed, death. What the daemon refuses meanwhile it refuses with a 4yz; it ends
// only if it could not start; and what got its 250 is delivered or reported in the end.
//
// RELAYD_FAULTS says how many of the calls are struck, with each mishap: a number, spread over the run, or "all".
func TestRelayd_SurvivesAFaultAtEachCall(t *testing.T) {
	ca := t.TempDir()
	clean := &saboteur{}
	scripted(t, ca, clean, newLedger())
	points := clean.calls
	if os.Getenv("RELAYD_FAULTS") != "all" {
		points = min(points, setting(t, "RELAYD_FAULTS", 1))
	}
	var sum outcome
	runs, struck := 0, 0
	for i, m := range mishaps {
		for n := range points {
			// Each mishap strikes other calls, when not all are struck.
			at := 1 + (n*clean.calls+i*clean.calls/len(mishaps))/points%clean.calls
			s, l := &saboteur{mishap: m, at: at}, newLedger()
			t.Run(fmt.Sprintf("%s, call %d", m.name, at), func(t *testing.T) {
				o := scripted(t, ca, s, l)
				sum.add(o)
			})
			runs++
			struck += len(s.struck)
			if t.Failed() {
				t.Fatalf("%s at call %d struck %v", m.name, at, s.struck)
			}
		}
	}
	t.Logf("%d calls in a run, %d runs, %d calls struck; %s", clean.calls, runs, struck, sum)
	if struck < runs*9/10 {
		t.Errorf("only %d of %d runs were struck", struck, runs)
	}
}

func (o *outcome) add(more outcome) {
	o.begun += more.begun
	o.accepted += more.accepted
	o.refused += more.refused
	o.delivered += more.delivered
	o.reported += more.reported
	o.deleted += more.deleted
	o.lost += more.lost
	o.duplicates += more.duplicates
	o.unheard += more.unheard
}

// scripted runs the script with one daemon that goes wrong, and a second one that does not and settles.
func scripted(t *testing.T, ca string, o *saboteur, l *ledger) outcome {
	s, sb := loadSite(t, sandbox.Options{CADir: ca})
	if err := sb.Inject(trouble(2)...); err != nil {
		t.Fatal(err)
	}
	p := s.launchTapped(o)
	if p.up() {
		s.script(p, l, sb)
	}
	select {
	case <-p.done:
		p.ended()
	case <-time.After(patience):
		t.Fatalf("%s: the daemon does not end:\n%s", o.mishap.name, p.log)
	}
	if code := p.cmd.ProcessState.ExitCode(); code > 1 {
		t.Fatalf("the daemon ended with %d:\n%s", code, p.log)
	}
	for _, bad := range []string{"panic", "fatal error", "SIGBUS"} {
		if strings.Contains(p.log.String(), bad) {
			t.Errorf("the log has %q", bad)
		}
	}
	return s.settle(l, sb)
}

// script is the life; any part of it may fail.
func (s *site) script(p *process, l *ledger, sb *sandbox.Server) {
	s.t.Helper()
	if err := sb.Stop(); err != nil {
		s.t.Fatal(err)
	}
	ids := s.sendOneByOne(p, l, 8)
	s.apply(l, queue.ActionHold, ids, 0)
	s.apply(l, queue.ActionDelete, ids, 1)
	s.apply(l, queue.ActionHold, ids, 2)
	s.apply(l, queue.ActionRelease, ids, 2)
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	if err := sb.Resume(); err != nil {
		s.t.Fatal(err)
	}
	s.apply(l, queue.ActionRetry, ids, 3)
	s.drained(p, len(ids))
	if p.gone() && p.cmd.ProcessState.ExitCode() != -1 { // not killed
		s.t.Errorf("the daemon ended by itself:\n%s", p.log)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
}

// sendOneByOne sends n letters on one connection after the other, and returns the ids of those that got a 250.
func (s *site) sendOneByOne(p *process, l *ledger, n int) (ids []string) {
	for i := range n {
		// A store that fails is opened anew within a moment; the client comes back, as clients do.
		for try := 0; try < 5 && !p.gone(); try++ {
			c, err := smtp.Dial(p.addr)
			if err != nil {
				break
			}
			m := l.compose(fmt.Sprintf("s%d", try), i)
			err = l.send(c, m)
			c.Close()
			if err == nil {
				ids = append(ids, m.id)
				break
			}
			select {
			case <-p.done:
			case <-time.After(150 * time.Millisecond):
			}
		}
	}
	return ids
}

// apply does action to the n-th of ids, if the daemon lives and there are so many.
func (s *site) apply(l *ledger, action queue.Action, ids []string, n int) {
	if n >= len(ids) {
		return
	}
	if action == queue.ActionDelete {
		l.mu.Lock()
		l.deleted[ids[n]] = true
		l.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.control(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Apply(ctx, action, ids[n:n+1])
}

// drained waits until only what is held is left, or the daemon is gone.
func (s *site) drained(p *process, sent int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !p.gone() {
		c, err := s.control(ctx)
		if err == nil {
			st, err := c.Status(ctx)
			c.Close()
			if err == nil && st.Queue.Active+st.Queue.Deferred == 0 && st.Queue.Held <= 1 {
				return
			}
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			s.t.Errorf("of %d messages some are stuck:\n%s", sent, p.log)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
