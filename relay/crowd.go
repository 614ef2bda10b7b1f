package relay

import (
	"net/netip"
	"time"
)

// A listener that is full would be closed to everybody for as long as it takes a few clients to hold its places without
// saying anything. So a new client then gets the place of a session that waits for a command: of the client network that
// holds most of them, the one that has waited longest. Who sends a message keeps its place.

// makeRoom ends such a session for a client of the network newcomer. It returns false when there is none: all are at
// work, or have not waited for long, or the newcomer's network holds more places than theirs.
func (s *Server) makeRoom(k *socket, newcomer netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := time.Now().Add(-s.tune.stale)
	for range 3 { // one may get to work just now
		p := s.stalest(k, before)
		if p == nil || k.holds(newcomer) > k.holds(clientNetwork(p.addr)) {
			return false
		}
		if p.evict() {
			return true
		}
	}
	return false
}

// stalest returns the session of k to end first among those that have waited since before. s.mu is held.
func (s *Server) stalest(k *socket, before time.Time) (stalest *peer) {
	var most int
	var longest time.Time
	for p := range s.peers {
		if p.socket != k {
			continue
		}
		since, ok := p.quietSince()
		if !ok || since.After(before) {
			continue
		}
		n := k.holds(clientNetwork(p.addr))
		if stalest == nil || n > most || n == most && since.Before(longest) {
			stalest, most, longest = p, n, since
		}
	}
	return stalest
}

// holds returns how many sessions of the network are counted.
func (k *socket) holds(network netip.Prefix) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.perClient[network]
}
