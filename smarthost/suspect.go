package smarthost

import "time"

// A message at which the host fails time and again, while others get through, is itself the trouble, and must not stop
// the rest for ever: after so many lost connections, or replies of 421.
const (
	cutsToBlame    = 2
	repliesToBlame = 3
)

// blameTime is how long a message that got through speaks for its host.
const blameTime = 10 * time.Minute

// maxSuspects bounds how many messages are remembered for that.
const maxSuspects = 1024

// probesAtOnce is how many other messages may probe at once, one after the other, a host that failed in the midst of a
// transaction. One message can make it fail, and the others need not wait for that; when they fail as well, it is the host.
const probesAtOnce = 2

// breath is the pause before such a probe. The deliveries that began before the failure do not become it: the queue
// chooses the message that probes.
const breath = 50 * time.Millisecond

// cuts counts how often a host failed in the midst of a transaction since another one came as far: before the host asked
// for the body, and later. A host's lock guards it.
type cuts struct{ early, late int }

// failedAmid notes that the host failed in the midst of tx, which is that of w.
func (h *host) failedAmid(t ticket, w *work, tx *transaction, v verdict) outcome {
	w.amid = true
	h.mu.Lock()
	if v.trouble == unreachable && t.round == h.health.round {
		if h.cuts == (cuts{}) {
			h.health.fails[unreachable] = 0 // an outage before is over: the host has answered
		}
		n := &h.cuts.early
		if tx.data.Code == 354 {
			n = &h.cuts.late
		}
		if *n++; *n <= probesAtOnce {
			w.cutBy = append(w.cutBy, h)
		}
	}
	h.mu.Unlock()
	return h.failed(t, w.m.ID, v)
}

// cameFar notes that the host asked for a body.
func (h *host) cameFar() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cuts.early = 0
}

// probeAtOnce shortens the pauses of the hosts that may be probed at once after the transaction of w, when there is no other
// host to use.
func (rt *route) probeAtOnce(w *work) {
	if len(w.cutBy) > 0 && !rt.usable() {
		for _, h := range w.cutBy {
			h.mu.Lock()
			h.health.resume(time.Now().Add(breath))
			h.health.fails[unreachable] = max(0, h.health.fails[unreachable]-1) // so that the first real pause is a short one
			h.mu.Unlock()
		}
	}
}

// suspect is a message at which the host failed: how often, counting only failures between which others got through, and
// the value of host.completed at the last that counted.
type suspect struct{ times, completed int }

// suspect notes that the host failed at message id. It reports whether that makes the message, not the host, the trouble.
func (h *host) suspect(id string, enough int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, before := h.suspects[id]
	if !before || h.completed > s.completed {
		s = suspect{times: s.times + 1, completed: h.completed}
	}
	if h.suspects == nil {
		h.suspects = make(map[string]suspect)
	}
	if !before && len(h.suspects) >= maxSuspects {
		for other := range h.suspects { // any one: were all forgotten, many suspects would hide each other for ever
			delete(h.suspects, other)
			break
		}
	}
	h.suspects[id] = s
	return s.times >= enough
}

// blame notes that message id was the one to meet the site's reply v. It reports whether that stands against the message
// alone: others got through since the last such reply, or since it met one itself. The next to meet one with nothing taken
// in between shows that it is the site after all. A host that asks for less by its code is believed: to go on would not do
// what it asks.
func (h *host) blame(id string, v verdict) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, before := h.suspects[id]
	others := h.completed > h.accused && h.takenID != id && time.Since(h.taken) < blameTime || before && h.completed > s.completed
	h.accused = h.completed
	if v.crowded || v.trouble == throttled && v.byCode {
		return false
	}
	if h.suspects == nil || !before && len(h.suspects) >= maxSuspects {
		h.suspects = make(map[string]suspect)
	}
	h.suspects[id] = suspect{times: s.times + 1, completed: h.completed}
	return others
}
