package smarthost

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// A host that refused one more connection is asked for one more after limitRest. Each time that is refused, too, the time
// doubles, up to limitRestMax. A host that says by its reply to a message that it wants fewer is left in peace for crowdedRest.
const (
	limitRest    = 5 * time.Second
	limitRestMax = 16 * time.Minute
	crowdedRest  = time.Minute
)

// aliveTime is how long what a host said on one connection shows that it is there, whatever became of another.
const aliveTime = time.Minute

// allowance is what was learnt of how many connections a host takes. A pool's lock guards it.
type allowance struct {
	// now is how many it may have at present, 0 for as many as the pool's; since is when that was set.
	now   int
	since time.Time
	// ceiling is the most that it has had, or what it had when it refused one more; rest is how long it is then not asked
	// for one more than that. Below the ceiling it is asked sooner: a host may refuse one more while it still counts one that
	// is gone, or several that come together.
	ceiling int
	rest    time.Duration
	// below counts the refusals below the ceiling since it last had that many. maxBelow of them lower the ceiling.
	below int
}

// of returns how many connections of at most most may be open now.
func (a *allowance) of(most int, now time.Time) int {
	rest := a.rest
	if a.now < a.ceiling {
		rest = limitRest
	}
	if a.now > 0 && a.now <= a.ceiling && now.Sub(a.since) >= rest {
		a.now, a.since = a.now+1, now
	}
	if a.now >= most {
		a.now = 0
	}
	if a.now > 0 {
		return a.now
	}
	return most
}

// maxBelow is how many refusals below the ceiling in a row show that the host takes fewer than it did.
const maxBelow = 3

// took notes that the host has n connections.
func (a *allowance) took(n int) {
	switch {
	case n > a.ceiling:
		a.ceiling, a.rest, a.below = n, 0, 0
	case n == a.ceiling:
		a.below = 0
	}
}

// refused notes that the host would not have one more than n.
func (a *allowance) refused(n int, now time.Time) {
	n = max(1, n)
	a.now, a.since = n, now
	if n < a.ceiling {
		if a.below++; a.below < maxBelow {
			return
		}
	}
	if n == a.ceiling {
		a.rest = min(max(limitRest, 2*a.rest), limitRestMax)
		return
	}
	a.ceiling, a.rest, a.below = n, limitRest, 0
}

// crowded notes that the host wants no more than n.
func (a *allowance) crowded(n int, now time.Time) {
	n = max(1, n)
	a.now, a.since, a.ceiling, a.rest = n, now, n, max(a.rest, crowdedRest)
}

// limited reports whether err, which kept a connection from being opened that was begun at the given time, is the host's
// limit of connections. Hosts say that with 421 or another reply, by hanging up, or by refusing TCP; what tells it from an
// outage is that the host goes on working on the connections it has. From now on it gets fewer then, and the leave to open
// one is given back.
func (h *host) limited(err error, begun time.Time) bool {
	failed, ok := errors.AsType[*stageError](err)
	if !ok || !h.mayBeLimit(failed) {
		return false
	}
	since := time.Now().Add(-aliveTime)
	if isTimeout(failed.err) {
		since = begun // a line that broke is silent, too, and on all connections
	}
	return h.pool.refused(since)
}

// mayBeLimit reports whether failed is among the forms in which hosts refuse one connection more.
func (h *host) mayBeLimit(failed *stageError) bool {
	if failed.reply.Code == 421 {
		return true
	}
	if !failed.reply.IsZero() {
		return failed.stage == stageGreeting && !failed.reply.Positive() || classifyReply(h.place, failed.stage, failed.reply).crowded
	}
	switch failed.stage {
	case stageDial:
		if _, dns := errors.AsType[*net.DNSError](failed.err); dns {
			return false
		}
		return errors.Is(failed.err, syscall.ECONNREFUSED) || isLost(failed.err)
	case stageTLS, stageGreeting:
		return isLost(failed.err)
	}
	return false
}
