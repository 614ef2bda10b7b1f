//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"net/smtp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

// Two hundred messages stream in and out while the daemon is killed, ten times. Every message that got its 250
// arrives. Duplicates are allowed where a kill fell between the smarthost's 250 and its record; they are counted.
func TestRelayd_KilledTenTimesLosesNothing(t *testing.T) {
	const rounds, messages, clients = 10, 200, 8
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	sent := 0
	for round := range rounds {
		p := s.start()
		var next, acked atomic.Int64
		killAt := rand.Int64N(messages*9/10) + messages/20
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				c, err := smtp.Dial(p.addr)
				if err != nil {
					return
				}
				defer c.Close()
				for {
					n := next.Add(1)
					if n > messages {
						return
					}
					key := fmt.Sprintf("round-%d-message-%d.", round, n)
					size := 100
					if n%10 == 0 {
						size = 100_000 // through the spool
					}
					body := "Subject: " + key + "\r\n\r\n" + strings.Repeat("0123456789abcdef\r\n", size/18)
					if submitOn(c, "sender@lan.example", body, "a@example.com") != nil {
						return // killed
					}
					mu.Lock()
					acknowledged[key] = true
					mu.Unlock()
					acked.Add(1)
				}
			})
		}
		deadline := time.Now().Add(patience)
		for acked.Load() < killAt && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		p.kill()
		wg.Wait()
		sent += int(min(next.Load(), messages))
	}
	s.start()
	until(t, "the queue to be empty", func() bool { q := s.status().Queue; return q.Active+q.Deferred == 0 })
	arrived := map[string]int{}
	for _, m := range sb.Messages() {
		_, subject, _ := strings.Cut(string(m.Data), "Subject: ")
		key, _, _ := strings.Cut(subject, "\r\n")
		arrived[key]++
	}
	lost, duplicates, unacknowledged := 0, 0, 0
	for key := range acknowledged {
		if arrived[key] == 0 {
			lost++
			t.Errorf("%s got its 250 and never arrived", key)
		}
	}
	for key, n := range arrived {
		duplicates += n - 1
		if !acknowledged[key] {
			unacknowledged++
		}
	}
	if q := s.status().Queue; q.Quarantined > 0 {
		t.Errorf("%d messages were damaged", q.Quarantined)
	}
	t.Logf("%d kills, %d messages begun, %d got a 250, %d lost, %d duplicates, %d arrived without their client having seen the 250",
		rounds, sent, len(acknowledged), lost, duplicates, unacknowledged)
	if len(acknowledged) < rounds*messages/20 {
		t.Errorf("only %d messages were taken: this run shows nothing", len(acknowledged))
	}
}
