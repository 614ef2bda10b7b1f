package smarthost

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// entryKind says how an entry of Route.Hosts names hosts.
type entryKind uint8

const (
	byName entryKind = iota // "host:port"
	bySRV                   // "_submissions._tcp.example.com"
	byMX                    // "mx:example.com:25"
)

const mxPrefix = "mx:"

// entry is one entry of Route.Hosts, read.
type entry struct {
	kind entryKind
	host string // the host, or the domain that is asked; without a final dot
	port string // "" for bySRV
	name string // the whole name to look up, for bySRV
}

// parseEntry reads an entry. The port is always there, except of an SRV name, whose records have it.
func parseEntry(s string) (entry, error) {
	if strings.HasPrefix(s, "_") && !strings.Contains(s, ":") {
		service, domain, ok := strings.Cut(strings.TrimSuffix(s, "."), "._tcp.")
		if !ok || domain == "" || strings.Contains(service, ".") {
			return entry{}, fmt.Errorf("%q is no service; write for example _submissions._tcp.example.com", s)
		}
		return entry{kind: bySRV, host: domain, name: strings.TrimSuffix(s, ".")}, nil
	}
	e := entry{kind: byName}
	rest, mx := strings.CutPrefix(s, mxPrefix)
	if _, err := strconv.ParseUint(rest, 10, 16); mx && err == nil { // "mx:25" is a host called mx
		rest, mx = s, false
	}
	if mx {
		e.kind = byMX
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil || host == "" || port == "" {
		return entry{}, fmt.Errorf("%q is not host:port; write for example smtp.example.com:587", s)
	}
	e.host, e.port = strings.TrimSuffix(host, "."), port
	return e, nil
}

// target is one host to connect to.
type target struct {
	addr string // for the dialer
	// names are those of which the certificate must have one; the first goes into the TLS handshake (SNI).
	names []string
}

// shown is the target's address as people write it.
func (t target) shown() string {
	host, port, err := net.SplitHostPort(t.addr)
	if err != nil {
		return t.addr
	}
	return net.JoinHostPort(strings.TrimSuffix(host, "."), port)
}

// newTarget returns a host that DNS named for a domain. DNS is not signed here: somebody could have put a host of his
// own into the answer, with a good certificate for its name. So a found name counts only within the domain that was
// asked for; a host elsewhere must have the domain itself in its certificate (RFC 6186 section 6, RFC 8314 section
// 5.1). Route.TLSName stands for the domain where the user says so.
func newTarget(host, port, domain string) target {
	host = strings.TrimSuffix(host, ".")
	t := target{addr: net.JoinHostPort(host+".", port), names: []string{domain}}
	switch {
	case strings.EqualFold(host, domain):
	case len(host) > len(domain) && strings.EqualFold(host[len(host)-len(domain)-1:], "."+domain):
		t.names = []string{host, domain}
	}
	return t
}

// targetError is a failure of one host that DNS named.
type targetError struct {
	target, entry string
	err           error
}

func (e *targetError) Error() string { return e.target + " (of " + e.entry + "): " + e.err.Error() }
func (e *targetError) Unwrap() error { return e.err }

// errNoService: DNS says outright that the domain has no such service ("." as the target; RFC 2782, RFC 7505).
var errNoService = errors.New("DNS says that the domain has no such service")
