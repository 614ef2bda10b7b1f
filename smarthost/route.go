package smarthost

import (
	"context"
	"time"

	"relayd/internal/envelope"
)

// route is a configured route at work: its conditions and its hosts in order.
type route struct {
	name     string
	selects  selector
	hosts    []*host
	limit    int
	mode     Mode
	username string
}

// deliver tries the hosts in order until one has decided every recipient.
func (rt *route) deliver(ctx context.Context, m envelope.Message) envelope.Attempt {
	w := newWork(m)
	var cannot *envelope.Failure
	maybe := false // a host that was not asked, or failed, may be able to carry the message
	for _, h := range rt.hosts {
		if ctx.Err() != nil {
			return w.attempt(stopping(), time.Now())
		}
		o := h.deliver(ctx, w)
		switch {
		case w.left == 0:
			return w.attempt(envelope.Failure{}, time.Time{})
		case o.stopped:
			return w.attempt(stopping(), time.Now())
		case o.unfit != nil:
			cannot = o.unfit
		default:
			maybe = maybe || h.mayCarry(&w.m)
		}
	}
	if cannot != nil {
		// The route works. A host that is away may still carry this message, so that it waits for that one; the others
		// have said what they cannot do.
		cannot.Permanent = !maybe
		if maybe {
			cannot.Reply = envelope.Reply{}
			cannot.Reason = "of the hosts that answer none can carry this message; one that is away perhaps can"
		}
		w.settleRest(*cannot)
		return w.attempt(*cannot, time.Time{})
	}
	addr, f, at := rt.telling(time.Now())
	w.host = addr
	return w.attempt(f, at)
}

// stopping is the failure of a delivery that the relay itself gave up, to stop or to change its configuration.
func stopping() envelope.Failure {
	return envelope.Failure{Scope: envelope.ScopeSite, Stage: stageDial,
		Reason: "the relay was stopping or changing its configuration; the message waits"}
}

// telling returns the failure that says most to an operator, with its host, and when the first host may be probed: a
// login or a certificate wants a person, a host that is away mostly comes back by itself.
func (rt *route) telling(now time.Time) (addr string, f envelope.Failure, retry time.Time) {
	rank := -1
	for _, h := range rt.hosts {
		s := h.view(now)
		if r := urgency(s.state); r > rank {
			rank, addr, f = r, h.place.addr, s.failure
		}
		if retry.IsZero() || s.retry.Before(retry) {
			retry = s.retry
		}
	}
	return addr, f, retry
}

func urgency(s State) int {
	switch s {
	case StateLoginRefused:
		return 3
	case StateTLSFailed:
		return 2
	case StateDown:
		return 1
	}
	return 0
}

// concurrency is how many deliveries at once help: as many as the first usable host has connections, or one to probe.
func (rt *route) concurrency(now time.Time) int {
	for _, h := range rt.hosts {
		if s := h.view(now); s.state == StateUp || s.state == StateUnknown {
			return rt.limit
		}
	}
	return 1
}
