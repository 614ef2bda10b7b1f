package smarthost

import (
	"net"
	"net/netip"
	"strings"
)

// loopError is a host that is this relay itself: mail to it would come back.
type loopError struct {
	// name is what the host calls itself; "" when its address says enough.
	name string
}

func (e *loopError) Error() string {
	if e.name == "" {
		return "it is this relay itself"
	}
	return "it calls itself " + e.name + ", as this relay does"
}

func (e *loopError) words() string {
	if e.name == "" {
		return "%HOST is this relay itself, and mail would go round in a circle: name the provider's host under hosts in " +
			"[[smarthost]] %ROUTE. Mail waits"
	}
	return "%HOST calls itself " + e.name + ", as this relay does, so that mail would go round in a circle: name the " +
		"provider's host under hosts in [[smarthost]] %ROUTE, or, if it is another server, give this one a hostname of its " +
		"own. Mail waits"
}

// selfCheck tells whether a connection has led back to this relay.
type selfCheck struct {
	hostname string // our own
	isSelf   func(netip.AddrPort) bool
}

// address returns a *loopError if nc leads to an address on which this relay listens. It reports whether that clears the
// host whatever its name: on this machine's loopback, where the relay's namesake is another server with the same name.
func (s selfCheck) address(nc net.Conn) (cleared bool, err error) {
	remote, perr := netip.ParseAddrPort(nc.RemoteAddr().String())
	if perr != nil || s.isSelf == nil {
		return false, nil
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if s.isSelf(remote) {
		return false, &loopError{}
	}
	return remote.Addr().IsLoopback(), nil
}

// name returns a *loopError if the first word of a greeting or of a reply to EHLO is our own name. A name that many
// machines have by default says nothing.
func (s selfCheck) name(text string) error {
	ours := strings.ToLower(strings.TrimSuffix(s.hostname, "."))
	if !strings.Contains(ours, ".") || ours[0] == '[' || strings.HasSuffix(ours, ".localdomain") ||
		strings.HasSuffix(ours, ".localhost") {
		return nil
	}
	text, _, _ = strings.Cut(text, "\n")
	word, _, _ := strings.Cut(text, " ")
	if !strings.EqualFold(strings.TrimSuffix(word, "."), ours) {
		return nil
	}
	return &loopError{name: s.hostname}
}
