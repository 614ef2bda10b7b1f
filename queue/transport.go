package queue

import (
	"context"
	"time"

	"relayd/internal/envelope"
)

// Transport hands messages on. Its methods are called from many goroutines at once.
type Transport interface {
	// Legs groups an envelope's recipients by the route that each takes now. It does no I/O, and names every recipient
	// exactly once.
	Legs(envelope.Origin, envelope.Envelope) []envelope.Leg
	// Deliver makes one try to hand m on by route. It returns when the outcome is known or ctx is cancelled; a try that
	// ctx cut short is a site failure. It may leave some or all recipients for another try.
	Deliver(ctx context.Context, route string, m envelope.Message) envelope.Attempt
	// Admit gives leave for one Deliver on route, now, which uses it up; Forgo gives it back where none follows. Otherwise
	// the pace of the route allows none before at: its mail waits, and nothing is wrong.
	Admit(route string) (at time.Time, ok bool)
	Forgo(route string)
	// Concurrency is how many Deliver calls on route are useful at once, at least 1.
	Concurrency(route string) int
}
