package smarthost

import (
	"math/rand/v2"
	"slices"
	"time"

	"relayd/internal/envelope"
)

// State is how a host is.
type State string

const (
	// StateUnknown: nothing was tried yet.
	StateUnknown State = "unknown"
	// StateUp: the last that was heard of it was good.
	StateUp State = "up"
	// StateDown: it cannot be reached, or takes nothing now.
	StateDown State = "down"
	// StateLoginRefused: it refuses the login, or offers none that can be used.
	StateLoginRefused State = "login_refused"
	// StateTLSFailed: no session could be secured as the route demands.
	StateTLSFailed State = "tls_failed"
	// StateThrottled: it works, and takes no more from this account for now.
	StateThrottled State = "throttled"
	// StateRefused: it wants nothing from this account, or from this line's address.
	StateRefused State = "refused"
	// StateLooping: it is this relay itself.
	StateLooping State = "looping"
)

var troubleStates = [troubles]State{noTrouble: StateUp, unreachable: StateDown, tlsFailed: StateTLSFailed,
	loginRefused: StateLoginRefused, throttled: StateThrottled, quotaSpent: StateThrottled, refused: StateRefused,
	sendersRefused: StateRefused, looping: StateLooping}

// States returns every state that a host may be in.
func States() []State {
	states := []State{StateUnknown}
	for _, s := range troubleStates {
		if !slices.Contains(states, s) {
			states = append(states, s)
		}
	}
	return states
}

// pauses bound how long a host is left alone: [minimum, maximum] after most troubles, after a refusal of the login or of
// the account, and when a quota is used up.
type pauses struct {
	probeMin, probeMax time.Duration
	loginMin, loginMax time.Duration
	quotaMin, quotaMax time.Duration
}

// after returns the pause after the nth failure in a row: the minimum, doubled each time up to the maximum.
func (p pauses) after(t trouble, n int) time.Duration {
	pause, limit := p.probeMin, p.probeMax
	switch t {
	case loginRefused, refused:
		pause, limit = p.loginMin, p.loginMax
	case quotaSpent:
		pause, limit = p.quotaMin, p.quotaMax
	}
	for range n - 1 {
		if pause >= limit/2 {
			return limit
		}
		pause *= 2
	}
	return min(pause, limit)
}

// jitter lengthens d by up to a tenth, so that hosts and relays that failed together do not come back together. It never
// shortens a pause.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/10+1) }

// health is what is known of a host, and who may use it. A host that is up may be used by all. One that failed may be
// used by nobody until its pause is over, and then by one delivery, the probe, until that has shown something. One of
// which nothing is known is probed likewise, but the others wait for what it shows: a wrong password is then tried once
// and not once for each connection. Its methods take the time; a host's lock guards it.
type health struct {
	pauses
	state State
	since time.Time
	// next is when the pause ends, and own when it would without what withhold has made of it. fails counts failures in a
	// row, by trouble.
	next    time.Time
	own     time.Time
	fails   [troubles]int
	failure envelope.Failure // of the last trouble
	// round counts state changes for the worse, so that what was under way before one does not count for or against the
	// host once more.
	round   int
	probing bool
	// withheld is set while the host is left alone because another one refused the login.
	withheld bool
	shown    chan struct{} // closed when the probe has shown something
}

// ticket is leave to use a host.
type ticket struct {
	round int
	probe bool
}

type admission uint8

const (
	admitted admission = iota
	turnedAway
	mustWait // for health.shown
)

func (h *health) admit(now time.Time) (ticket, admission) {
	switch {
	case h.state == StateUp:
		return ticket{round: h.round}, admitted
	case h.probing && h.state == StateUnknown:
		return ticket{}, mustWait
	case h.probing || now.Before(h.next):
		return ticket{}, turnedAway
	}
	h.probing, h.shown = true, make(chan struct{})
	return ticket{round: h.round, probe: true}, admitted
}

// end gives up the probe that t may be, with nothing shown.
func (h *health) end(t ticket) {
	if t.probe && t.round == h.round && h.probing {
		h.probing = false
		close(h.shown)
	}
}

// well tells that the host took an envelope, or refused one for a reason of the mail; it reports whether that is news.
func (h *health) well(t ticket, now time.Time) bool {
	if t.round != h.round || h.state == StateUp {
		return false
	}
	h.end(t)
	h.state, h.since, h.withheld = StateUp, now, false
	h.forget()
	return true
}

// finished tells that a whole transaction went through. Only now the pauses begin anew at their minimum: a host that
// takes envelopes and then fails is not well.
func (h *health) finished(t ticket) {
	if t.round == h.round {
		h.fails = [troubles]int{}
		h.failure = envelope.Failure{}
	}
}

// fail tells that the host failed. It reports whether that counts, which it does not when the host has failed or
// recovered since t was given, and whether the state changed.
func (h *health) fail(t ticket, v verdict, now time.Time) (counts, news bool) {
	if t.round != h.round {
		return false, false
	}
	h.end(t)
	h.round++
	h.fails[v.trouble]++
	h.failure, h.withheld = v.Failure, false
	h.next = now.Add(jitter(h.after(v.trouble, h.fails[v.trouble])))
	h.own = h.next
	state := troubleStates[v.trouble]
	if state == h.state {
		return true, false
	}
	h.state, h.since = state, now
	return true, true
}

// withhold tells that another host refused the login, for the given time in a row, and is left alone until next. What
// this host itself is known to have stays what is told of it.
func (h *health) withhold(f envelope.Failure, next time.Time, fails int, now time.Time) {
	h.end(ticket{round: h.round, probe: true})
	h.round++
	h.fails[loginRefused] = max(h.fails[loginRefused], fails)
	if next.After(h.next) {
		h.next = next
	}
	if !h.down() {
		h.state, h.since, h.failure = StateLoginRefused, now, f
	}
	if h.state != StateLoginRefused || h.failure == f {
		h.withheld = true
	}
}

// release tells that a host has taken the login: what withhold has done is over, and a pause for another trouble is not.
func (h *health) release(now time.Time) {
	if !h.withheld {
		return
	}
	h.withheld, h.next, h.fails[loginRefused] = false, h.own, 0
	if h.state == StateLoginRefused {
		h.state, h.since, h.failure = StateUnknown, now, envelope.Failure{}
	}
}

// forget ends the pause now. What was counted stays, so that a login that is still refused is not tried more often.
func (h *health) forget() { h.resume(time.Time{}) }

// resume ends the pause at the given time.
func (h *health) resume(at time.Time) { h.next, h.own = at, at }

func (h *health) down() bool { return h.state != StateUp && h.state != StateUnknown }

// failuresInARow is the sum over all troubles.
func (h *health) failuresInARow() int {
	n := 0
	for _, f := range h.fails {
		n += f
	}
	return n
}
