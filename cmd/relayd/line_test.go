//go:build unix

package main

import (
	"testing"
	"time"

	"relayd/internal/sandbox"
)

// A backlog leaves the queue over one connection at the pace of the line: one round trip a message, disk and bookkeeping
// included. The host counts how often it had to wait for the relay. The line is a long one, so that a loaded machine, too,
// has the next message ready before the last one is answered.
func TestDaemon_BacklogLeavesAtOneRoundTripAMessage(t *testing.T) {
	const messages, roundTrip = 50, 200 * time.Millisecond
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{Latency: roundTrip})
	// The host says nothing until the backlog is there.
	if err := sb.Inject(sandbox.Fault{Stage: sandbox.StageGreeting, Hang: true, Times: 1}); err != nil {
		t.Fatal(err)
	}
	s.configure(route(sb.CAFile(), sb.Addr()) + "max_connections = 1\n")
	p := s.start()
	for range messages {
		p.mustSubmit("somebody@dest.example")
	}
	sb.Clear(sandbox.StageGreeting)
	arrive(t, sb, messages)
	st := sb.Stats()
	t.Logf("%d messages over %d connection: %.2f turns each, set-up included", messages, st.Connections, float64(st.Turns)/messages)
	if most := messages * 3 / 2; st.Connections != 1 || st.Turns > most || st.Violations > 0 {
		t.Errorf("want one connection and at most %d turns: %+v %v", most, st, sb.Violations())
	}
}
