package smarthost

// A message at which the host fails time and again, while others get through, is itself the trouble, and must not stop
// the rest for ever: after so many lost connections, or replies that speak of the site (421 among them).
const (
	cutsToBlame    = 2
	repliesToBlame = 3
)

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
