package smarthost

import (
	"context"
	"slices"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
	"relayd/internal/rewrite"
)

// route is a configured route at work: its conditions and its hosts in order.
type route struct {
	name     string
	selects  selector
	hosts    []*host
	limit    int
	mode     Mode
	username string
	rewrites *rewrite.Set // nil for none
	account  *pace.Account
	rated    bool // a rate is set
	// recipients is how many one transaction may have; 0 for any number.
	recipients int
}

// round is what the hosts of a route made of a message that they did not take.
type round struct {
	cannot *envelope.Failure // one that answers cannot carry it
	as8Bit bool              // one could if it were not 8-bit
	blamed *envelope.Failure // one takes others, and not this one
	away   []*host           // were not asked, or failed
	// machine is set when the relay's own machine has nothing left for a connection.
	machine *envelope.Failure
}

// deliverAll tries the hosts in order until one has decided every recipient. Only when none takes 8-bit content as it is,
// they are tried once more with it encoded.
func (rt *route) deliverAll(ctx context.Context, w *work) envelope.Attempt {
	r, stopped := rt.try(ctx, w)
	if w.left > 0 && r.as8Bit && !stopped {
		if rt.takes8BitSoon(w, time.Now()) {
			f := waitsFor8Bit()
			w.settleRest(f)
			return w.attempt(f, time.Time{})
		}
		w.eight.encode = true
		r, stopped = rt.try(ctx, w)
	}
	rt.probeAtOnce(w)
	switch {
	case w.left == 0:
		return w.attempt(envelope.Failure{}, time.Time{})
	case stopped:
		return w.attempt(stopping(), time.Now())
	case r.machine != nil:
		return w.attempt(*r.machine, time.Now().Add(machinePause))
	case r.blamed != nil:
		w.settleRest(*r.blamed)
		return w.attempt(*r.blamed, time.Time{})
	case r.cannot != nil:
		// The route works. A host that is away may still carry this message, so that it waits for that one; the others
		// have said what they cannot do.
		cannot := *r.cannot
		maybe := slices.ContainsFunc(r.away, func(h *host) bool { return h.mayCarry(w) })
		if cannot.Permanent && maybe {
			cannot.Permanent = false
			cannot.Reply = envelope.Reply{}
			cannot.Reason = "of the hosts that answer none can carry this message; one that is away perhaps can"
		}
		w.settleRest(cannot)
		return w.attempt(cannot, time.Time{})
	}
	addr, f, at := rt.telling(time.Now())
	w.host = addr
	return w.attempt(f, at)
}

// try asks the hosts in order. It reports whether the delivery was given up.
func (rt *route) try(ctx context.Context, w *work) (r round, stopped bool) {
	for _, h := range rt.inTurn() {
		if ctx.Err() != nil {
			return r, true
		}
		o := h.deliver(ctx, w)
		w.slower = w.slower || rt.asksForLess(o)
		switch {
		case w.left == 0:
			return r, false
		case o.stopped:
			return r, true
		case o.machine != nil: // as it would be with the next host
			r.machine = o.machine
			return r, false
		case o.eightBit:
			r.as8Bit = true
		case o.unfit != nil:
			if r.cannot == nil || r.cannot.Permanent {
				r.cannot = o.unfit
			}
		case o.blamed != nil:
			r.blamed = o.blamed
		default:
			r.away = append(r.away, h)
		}
	}
	return r, false
}

// inTurn returns the hosts in the order in which to try them.
func (rt *route) inTurn() []*host {
	if len(rt.hosts) < 2 {
		return rt.hosts
	}
	return rt.hosts[0].secret.Load().inTurn(rt.hosts)
}

// takes8BitSoon reports whether a host that offers 8BITMIME, and could carry the message, went away not long ago.
func (rt *route) takes8BitSoon(w *work, now time.Time) bool {
	for _, h := range rt.hosts {
		if h.offered8Bit(now.Add(-eightBitPatience)) && h.mayCarry(w) {
			return true
		}
	}
	return false
}

// stopping is the failure of a delivery that the relay itself gave up, to stop or to change its configuration.
func stopping() envelope.Failure {
	return envelope.Failure{Scope: envelope.ScopeSite, Stage: stageDial,
		Reason: "the relay was stopping or changing its configuration; the message waits"}
}

// telling returns the failure that says most to an operator, with its host, and when the first host may be probed: a
// login or a certificate wants a person, a host that is away or busy mostly comes back by itself.
func (rt *route) telling(now time.Time) (addr string, f envelope.Failure, retry time.Time) {
	rank := -1
	for _, h := range rt.hosts {
		s := h.view(now)
		if r := urgency(s); r > rank {
			rank, addr, f = r, h.place.addr, s.failure
		}
		if retry.IsZero() || s.retry.Before(retry) {
			retry = s.retry
		}
	}
	return addr, f, retry
}

func urgency(v view) int {
	switch v.state {
	case StateLoginRefused, StateRefused, StateLooping:
		if v.withheld { // the host that refused says more
			return 4
		}
		return 5
	case StateTLSFailed:
		return 3
	case StateThrottled:
		return 2
	case StateDown:
		return 1
	}
	return 0
}

// ahead is how many deliveries help for each connection: one that has it, one whose envelope can follow behind that one's
// body, and one whose outcome is being recorded.
const ahead = 3

// concurrency is how many deliveries at once help the first usable host, or one to probe.
func (rt *route) concurrency() int {
	if rt.usable() {
		return ahead * rt.limit
	}
	return 1
}

// usable reports whether a host is not known to be down.
func (rt *route) usable() bool { return slices.ContainsFunc(rt.hosts, (*host).usable) }
