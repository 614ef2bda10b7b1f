package smarthost

import (
	"time"

	"relayd/internal/envelope"
)

// RouteStatus is a route as an operator sees it.
type RouteStatus struct {
	Name     string       `json:"name"`
	TLS      Mode         `json:"tls"`
	Username string       `json:"username,omitempty"`
	Hosts    []HostStatus `json:"hosts"`
	// Pace is what limits the route's account; nil where nothing does.
	Pace *PaceStatus `json:"pace,omitempty"`
}

// HostStatus is how one host is doing.
type HostStatus struct {
	Address string    `json:"address"`
	State   State     `json:"state"`
	Since   time.Time `json:"since"`
	// LastReply is the last thing that the host said to a transaction or a refused session.
	LastReply string `json:"last_reply"`
	// Problem says in words what is wrong and what to do; empty while nothing is.
	Problem string `json:"problem"`
	// NextProbe is when the host may be tried again; it then is as soon as there is mail for it. Zero while it is up.
	NextProbe time.Time `json:"next_probe,omitzero"`
	// Connections are the open ones, idle or in use.
	Connections int `json:"connections"`
	// TLS is the version of the last session, as "TLS 1.3".
	TLS string `json:"tls"`
	// Failures counts failures since the last transaction that went through.
	Failures int `json:"failures"`
}

// Status returns how each host of each route is doing, in the order of the configuration.
func (r *Router) Status() []RouteStatus { return r.table.Load().status() }

func (t *table) status() []RouteStatus {
	out := make([]RouteStatus, 0, len(t.routes))
	for _, rt := range t.routes {
		s := RouteStatus{Name: rt.name, TLS: rt.mode, Username: rt.username, Hosts: make([]HostStatus, 0, len(rt.hosts)),
			Pace: rt.paceStatus()}
		for _, h := range rt.hosts {
			s.Hosts = append(s.Hosts, h.status())
		}
		out = append(out, s)
	}
	return out
}

func (h *host) status() HostStatus {
	connections := h.pool.count()
	h.mu.Lock()
	defer h.mu.Unlock()
	s := HostStatus{
		Address:     h.place.addr,
		State:       h.health.state,
		Since:       h.health.since,
		LastReply:   h.lastReply.String(),
		Connections: connections,
		TLS:         h.tls,
		Failures:    h.health.failuresInARow(),
	}
	if h.health.withheld { // another's refusals
		s.Failures -= h.health.fails[loginRefused]
	}
	if h.health.down() {
		s.Problem = h.health.failure.Reason
		s.NextProbe = h.health.next
	}
	return s
}

// view is what a route needs to know of a host it did not get to use.
type view struct {
	state   State
	failure envelope.Failure
	retry   time.Time
	// withheld is set when state is another host's refusal of the login.
	withheld bool
}

func (h *host) view(now time.Time) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := view{state: h.health.state, failure: h.health.failure, retry: h.health.next, withheld: h.health.withheld}
	if v.failure.Scope == "" {
		v.failure = envelope.Failure{Scope: envelope.ScopeSite, Stage: stageDial,
			Reason: h.place.words("%HOST failed a moment ago and is back; the message is tried again")}
	}
	switch {
	case !h.health.down():
		v.retry = now
	case h.health.probing && !v.retry.After(now):
		// Another message finds out just now. Should it fail, this time is put off when the message comes again.
		v.retry = now.Add(h.health.probeMin)
	}
	return v
}

// usable reports whether the host is not known to be down.
func (h *host) usable() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.health.down()
}

// mayCarry reports whether the host, by what it offered last, in this run or an earlier one, could carry w's message.
func (h *host) mayCarry(w *work) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.known {
		size := smaller(h.facts.size(sizeLife, time.Now()), h.endpoint.maxSize)
		return size == 0 || w.m.Size <= size
	}
	size := w.m.Size
	if !h.caps.eightBit && w.eight.encode {
		if w.eight.cannot {
			return false
		}
		size = max(size, w.eight.size)
	}
	caps := h.caps
	if caps.doubtedSize {
		caps.maxSize = smaller(h.facts.size(sizeLife, time.Now()), h.endpoint.maxSize)
		caps.doubtedSize = false
	}
	return unfit(&w.m, size, caps, h.tls != "", h.place) == nil
}

// offered8Bit reports whether the host offered 8BITMIME in its last session and went away after the given time.
func (h *host) offered8Bit(after time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known && h.caps.eightBit && h.health.down() && h.health.since.After(after)
}

// MaxSize returns the largest content, in octets, that some host of some route can carry as far as is known: 0 when one
// is not known, or has no limit. A SIZE that no session has confirmed for an hour is not known.
func (r *Router) MaxSize() int64 {
	now := time.Now()
	var largest int64
	for h := range r.table.Load().hosts {
		h.mu.Lock()
		size := smaller(h.facts.size(sizeAsk, now), h.endpoint.maxSize)
		h.mu.Unlock()
		if size == 0 {
			return 0
		}
		largest = max(largest, size)
	}
	return largest
}
