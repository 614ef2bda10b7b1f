package relay

import (
	"fmt"
	"net/netip"
	"time"
)

// A listener that is full would be closed to everybody for as long as a few clients hold its places and send next to nothing.
// So a new client then gets the place of a session with a lag: of the site that holds most of them, there of the client that
// holds most, the one with the largest. A session that is at a message goes after those that are not, and one that is quick
// keeps its place.

// makeRoom ends such a session for a client that comes from newcomer. It returns false when there is none.
func (s *Server) makeRoom(k *socket, newcomer netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 3 { // one may get to work just now
		p := s.slowest(k, newcomer)
		if p == nil {
			return false
		}
		if p.evict() {
			return true
		}
	}
	return false
}

// candidate is a session that could make room.
type candidate struct {
	peer         *peer
	site, client int // places that its site and its client hold
	atMessage    bool
	lag          time.Duration
}

// before reports whether c is to make room before o is.
func (c candidate) before(o candidate) bool {
	switch {
	case c.site != o.site:
		return c.site > o.site
	case c.client != o.client:
		return c.client > o.client
	case c.atMessage != o.atMessage:
		return o.atMessage
	}
	return c.lag > o.lag
}

// slowest returns the session of k to end first for newcomer, or nil. s.mu is held.
//
// A client that holds places itself gets another only from one that holds more, also afterwards: clients that come again and
// again would otherwise keep all sessions so young that nobody else finds one to replace.
func (s *Server) slowest(k *socket, newcomer netip.Addr) *peer {
	now := time.Now()
	site, own := k.places(newcomer)
	var first candidate
	for p := range s.peers {
		if p.socket != k {
			continue
		}
		d, r, ok := p.slowness(now)
		if !ok {
			continue
		}
		c := candidate{peer: p, atMessage: r == working, lag: d}
		c.site, c.client = k.places(p.addr)
		mayTake := own == 0 || own+1 < c.client || site+1 < c.site
		if mayTake && d >= s.lagAllowed(own, c.client) && (first.peer == nil || c.before(first)) {
			first = c
		}
	}
	return first.peer
}

// lagAllowed is the lag that costs a session its place, when its client holds theirs places, and the one that wants it own:
// the more they are, the less patience there is.
func (s *Server) lagAllowed(own, theirs int) time.Duration {
	stale := s.tune.stale
	return min(stale, max(stale*time.Duration(own+1)/time.Duration(max(1, theirs)), time.Second))
}

// places returns how many sessions of the address's site and client are counted.
func (k *socket) places(a netip.Addr) (site, client int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.perSite[siteNetwork(a)], k.perClient[clientNetwork(a)]
}

// full notes that a client was refused for want of a place, and why.
func (k *socket) full(words string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fullAt, k.fullWords = time.Now(), words
}

// crowd says who has the places of a full listener.
func (k *socket) crowd() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var most netip.Prefix
	for network, n := range k.perSite {
		if n > k.perSite[most] {
			most = network
		}
	}
	return fmt.Sprintf("is full, and refuses clients: %d connections, of which %s holds %d; see what these clients do, or raise "+
		"max_connections", k.total, most, k.perSite[most])
}

// trouble says that a client was refused for want of a place not longer than within ago, or "".
func (k *socket) trouble(within time.Duration) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fullAt.IsZero() || time.Since(k.fullAt) > within {
		return ""
	}
	return fmt.Sprintf("the listener %s %s", k.listener.Addr(), k.fullWords)
}

// Troubles returns why clients are refused that may relay, and what makes it doubtful who may, in words; nothing while all is
// well.
func (s *Server) Troubles() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, k := range s.sockets {
		if words := k.trouble(s.tune.full); words != "" {
			out = append(out, words)
		}
	}
	if words := s.alone.suspect(s.set); words != "" {
		out = append(out, words)
	}
	return out
}
