//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"relayd/internal/sandbox"
	"relayd/test/tap"
)

// executioner kills the process at its n-th call of a kind, before the call or when it is done.
type executioner struct {
	op     tap.Op
	after  bool
	mu     sync.Mutex
	left   int
	struck bool
}

func (e *executioner) Begin(c *tap.Call) tap.Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.Op != e.op {
		return tap.Answer{}
	}
	if e.left--; e.left != 0 {
		return tap.Answer{}
	}
	e.struck = true
	return tap.Answer{Kill: true, Skip: !e.after}
}

func (e *executioner) End(*tap.Call) {}

// The daemon is killed again and again, at a random moment or at a chosen write, sync, creation, removal or reply, while
// clients send, the smarthost takes, defers and refuses, and an operator holds, releases, deletes and reloads. Every
// recipient of a message that got its 250 has it, or is reported to its sender, or an operator deleted it.
//
// RELAYD_CRASHES says how often.
func TestRelayd_CrashesLoseNothing(t *testing.T) {
	rounds := setting(t, "RELAYD_CRASHES", 12)
	rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	s, sb := loadSite(t, sandbox.Options{})
	l := newLedger()
	chosen := map[tap.Op]int{}
	for round := range rounds {
		sb.Clear()
		if err := sb.Inject(trouble(50)...); err != nil {
			t.Fatal(err)
		}
		// Every third kill comes at a random moment, also of the start.
		if round%3 == 0 {
			p := s.launch()
			timer := time.AfterFunc(time.Duration(rnd.IntN(400))*time.Millisecond, func() { _ = p.cmd.Process.Kill() })
			s.crashRound(p, l, rnd, round)
			timer.Stop()
			continue
		}
		ops := []struct {
			op   tap.Op
			most int
		}{{tap.OpWrite, 200}, {tap.OpSync, 150}, {tap.OpUnlink, 6}, {tap.OpCreate, 8}, {tap.OpSend, 150}}
		which := ops[rnd.IntN(len(ops))]
		e := &executioner{op: which.op, after: rnd.IntN(2) == 0, left: 1 + rnd.IntN(which.most)}
		s.crashRound(s.launchTapped(e), l, rnd, round)
		if e.struck { // and not at the end of its load
			chosen[which.op]++
		}
	}
	o := s.settle(l, sb)
	t.Logf("%d crashes, at a chosen call of them %v; %s", rounds, chosen, o)
	if o.accepted < rounds {
		t.Errorf("only %d messages were taken: this run shows nothing", o.accepted)
	}
}

// crashRound loads p until it dies; one that has outlived its load is killed then.
func (s *site) crashRound(p *process, l *ledger, rnd *rand.Rand, round int) {
	s.t.Helper()
	if p.up() {
		var others sync.WaitGroup
		operator := rand.New(rand.NewPCG(2, rnd.Uint64()))
		quit := make(chan struct{})
		others.Go(func() { s.operate(p, l, operator, quit) })
		p.clients(l, fmt.Sprintf("r%d", round), 6, 16)
		p.kill()
		close(quit)
		others.Wait()
	}
	p.ended()
	if code := p.cmd.ProcessState.ExitCode(); code != -1 { // not by a signal
		s.t.Errorf("round %d: the daemon ended by itself with %d:\n%s", round, code, p.log)
	}
	p.log.clear()
}
