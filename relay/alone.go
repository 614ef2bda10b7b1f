package relay

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// Who may relay is decided by address. Where something in front of the relay hides the addresses (the port of a container
// that is forwarded by a process, a router that rewrites sources, ssh -R), everybody comes from one address, and is trusted
// or not with it. That cannot be seen for certain. It is told when all clients so far came from one trusted address that
// is a gateway, or from loopback under several names of other machines. Listing that address itself in the trusted networks
// says that it is meant.

const (
	aloneSessions = 10 // of a gateway: so many sessions are enough, or
	gatewayNames  = 2  // so many names in EHLO
	loopbackNames = 3  // of loopback, where the software of this machine may have a name or two
)

// alone notes whether all clients come from one address. Loopback does not count beside others: a container's own
// health check comes from there.
type alone struct {
	mu   sync.Mutex
	far  lone
	near lone
	told bool
	// asked is the address that set.Forwards was asked about, once, and forwards its answer.
	asked    netip.Addr
	forwards bool
}

// lone is what came from one address.
type lone struct {
	addr     netip.Addr
	several  bool // others came too
	sessions int
	names    []string // in EHLO, a few
}

func (l *lone) session(addr netip.Addr) {
	l.several = l.several || l.sessions > 0 && l.addr != addr
	l.addr, l.sessions = addr, l.sessions+1
}

// session counts a connection, also one that is refused.
func (a *alone) session(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(addr).session(addr)
}

func (a *alone) of(addr netip.Addr) *lone {
	if addr.IsLoopback() {
		return &a.near
	}
	return &a.far
}

// name notes how a client greeted.
func (a *alone) name(addr netip.Addr, helo string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.of(addr)
	if helo = strings.ToLower(helo); len(l.names) < loopbackNames && !slices.Contains(l.names, helo) && !isOwnName(helo) {
		l.names = append(l.names, helo)
	}
}

// isOwnName reports whether software of this machine is likely to greet with a name: its own, or one of loopback.
func isOwnName(name string) bool {
	if strings.HasPrefix(name, "localhost") || strings.HasPrefix(name, "[127.") || name == "[ipv6:::1]" || name == "unknown" {
		return true
	}
	own, err := os.Hostname()
	host, _, _ := strings.Cut(name, ".")
	ownHost, _, _ := strings.Cut(strings.ToLower(own), ".")
	return err == nil && host == ownHost
}

// suspect returns the words for an operator when one address seems to stand for many clients, or "".
func (a *alone) suspect(set *settings) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &a.far
	if l.sessions == 0 {
		l = &a.near
	}
	switch meant := netip.PrefixFrom(l.addr, l.addr.BitLen()); {
	case l.sessions == 0, l.several && !l.addr.IsLoopback(), !set.trusts(l.addr), slices.Contains(set.Trusted, meant):
		return ""
	case len(l.names) >= loopbackNames && l.addr.IsLoopback():
	case (l.sessions >= aloneSessions || len(l.names) >= gatewayNames) && a.isForwarder(set, l.addr):
	default:
		return ""
	}
	return fmt.Sprintf("all clients so far (%d connections) came from %s, which seems to stand for other machines (a container's "+
		"network, a router or ssh -R): whoever reaches it may relay; have it keep the clients' addresses, or do not trust %s; "+
		"if this is meant, add %q to %s", l.sessions, l.addr, l.addr, l.addr, set.TrustHint)
}

// isForwarder reports what set says of an address, which is asked once. a.mu is held.
func (a *alone) isForwarder(set *settings, addr netip.Addr) bool {
	if a.asked != addr {
		a.asked, a.forwards = addr, set.Forwards != nil && set.Forwards(addr)
	}
	return a.forwards
}

// noteName has alone know a client's name, and logs once what that may mean.
func (s *Server) noteName(p *peer, helo string) {
	s.alone.name(p.addr, helo)
	words := s.alone.suspect(p.terms.set)
	if words == "" {
		return
	}
	s.alone.mu.Lock()
	told := s.alone.told
	s.alone.told = true
	s.alone.mu.Unlock()
	if !told {
		p.log.Warn("one address seems to stand for many clients", "problem", words)
	}
}
