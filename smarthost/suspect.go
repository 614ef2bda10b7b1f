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
const maxSuspects = 256

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
	if h.suspects == nil || !before && len(h.suspects) >= maxSuspects {
		h.suspects = make(map[string]suspect)
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
