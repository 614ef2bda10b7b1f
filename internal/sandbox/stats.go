package sandbox

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// Stats counts what the server saw since Start.
type Stats struct {
	Connections int // accepted, those refused by MaxConnections included
	Open        int // open now
	MaxOpen     int // most that were open at once

	Handshakes       int // TLS handshakes that succeeded, resumed ones included
	Resumed          int // of those, by a session ticket
	HandshakesFailed int

	AuthOK     int
	AuthFailed int // credentials refused, by the table or by a fault

	Transactions int // MAIL commands taken
	Recipients   int // RCPT commands taken
	Messages     int // messages kept
	Bytes        int64
	Resets       int // RSET commands
	Quits        int // QUIT commands

	Commands int // command lines read
	// Turns is how often a server that had answered went on to wait for its client: the round trips that the client
	// paid for, TLS handshakes not included.
	Turns int

	Faults     map[Stage]int // faults that struck
	Violations int
}

// Stats returns the counts as they are now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

func (s *Server) snapshot() Stats {
	st := s.stats
	st.Faults = maps.Clone(st.Faults)
	st.Violations = len(s.violations)
	return st
}

// WaitFor returns when the statistics meet cond, or with an error that holds the last statistics when ctx is done
// before. cond must not call the server.
func (s *Server) WaitFor(ctx context.Context, cond func(Stats) bool) error {
	for {
		s.mu.Lock()
		st, changed := s.snapshot(), s.changed
		s.mu.Unlock()
		if cond(st) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("sandbox: what was waited for did not come (%w); it stands at %+v", ctx.Err(), st)
		}
	}
}

// Wait returns all messages as soon as there are at least n of them, or an error, with those that are there, when ctx
// is done before.
func (s *Server) Wait(ctx context.Context, n int) ([]Message, error) {
	err := s.WaitFor(ctx, func(st Stats) bool { return st.Messages >= n })
	all := s.Messages()
	if err != nil {
		return all, fmt.Errorf("sandbox: %d of %d messages came: %w", len(all), n, err)
	}
	return all, nil
}

// count changes the statistics and wakes who waits for them.
func (s *Server) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
	s.notify()
}

// notify wakes who waits. The caller holds s.mu.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// now is the time of receipt, without the monotonic reading so that it compares equal after a trip through JSON.
func now() time.Time { return time.Now().UTC().Round(0) }
