package smarthost

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"relayd/internal/envelope"
)

// patterns is a route's condition on an address: any of its members may match. None is no condition.
type patterns struct {
	given     bool
	all       bool
	addresses []string
	domains   []string
}

func checkPattern(p string) error {
	if at := strings.LastIndexByte(p, '@'); p == "*" || at >= 0 && at < len(p)-1 && !strings.ContainsAny(p, " <>") {
		return nil
	}
	return fmt.Errorf("%q is not a pattern; write user@example.com, @example.com or *", p)
}

func newPatterns(list []string) patterns {
	p := patterns{given: len(list) > 0}
	for _, s := range list {
		s = strings.ToLower(s)
		switch {
		case s == "*":
			p.all = true
		case s[0] == '@':
			p.domains = append(p.domains, s[1:])
		default:
			p.addresses = append(p.addresses, s)
		}
	}
	return p
}

// general reports whether any address matches.
func (p patterns) general() bool { return !p.given || p.all }

func (p patterns) match(path envelope.Path) bool {
	if p.general() {
		return true
	}
	if path.IsNull() {
		return false
	}
	return slices.Contains(p.domains, path.Domain()) ||
		len(p.addresses) > 0 && slices.Contains(p.addresses, strings.ToLower(string(path)))
}

// selector holds the conditions under which a route takes a recipient.
type selector struct {
	senders, recipients patterns
	clients             []netip.Prefix
}

func newSelector(r Route) selector {
	return selector{senders: newPatterns(r.Senders), recipients: newPatterns(r.Recipients), clients: r.Clients}
}

// matchMessage reports whether the conditions that are the same for all recipients of a message are met. Mail that the
// relay wrote itself comes from no client and meets no condition on clients.
func (s selector) matchMessage(o envelope.Origin, reverse envelope.Path) bool {
	if len(s.clients) > 0 {
		addr := o.Addr.Unmap()
		if !slices.ContainsFunc(s.clients, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return false
		}
	}
	return s.senders.match(reverse)
}

// legs groups the recipients of env by the first of routes that takes each. Recipients that no route takes come as a
// leg of the route "".
func legs(routes []*route, o envelope.Origin, env envelope.Envelope) []envelope.Leg {
	var open []*route
	for _, rt := range routes {
		if rt.selects.matchMessage(o, env.ReversePath) {
			open = append(open, rt)
		}
	}
	var out []envelope.Leg
	at := make(map[string]int, 1)
	for i, rcpt := range env.Recipients {
		name := ""
		for _, rt := range open {
			if rt.selects.recipients.match(rcpt.Path) {
				name = rt.name
				break
			}
		}
		n, ok := at[name]
		if !ok {
			n = len(out)
			at[name] = n
			out = append(out, envelope.Leg{Route: name})
		}
		out[n].Recipients = append(out[n].Recipients, i)
	}
	return out
}
