package smarthost

import (
	"net/netip"
	"slices"
	"strings"

	"relayd/internal/envelope"
)

// Choice is what one route says to one recipient of a message.
type Choice struct {
	Route string   `json:"route"`
	Hosts []string `json:"hosts"`
	// Takes is set on the route that takes it, which is the last. Why says in words what of its conditions is met, or
	// which one is not.
	Takes bool   `json:"takes"`
	Why   string `json:"why"`
}

// Explain returns how the route of a recipient is chosen: each route in order, up to the one that takes it. Where Takes is
// set on none, the message waits.
func (r *Router) Explain(o envelope.Origin, reverse, to envelope.Path) []Choice {
	var steps []Choice
	for _, rt := range r.table.Load().routes {
		s := Choice{Route: rt.name}
		for _, h := range rt.hosts {
			s.Hosts = append(s.Hosts, h.place.addr)
		}
		s.Takes, s.Why = rt.selects.explain(o, reverse, to)
		if steps = append(steps, s); s.Takes {
			break
		}
	}
	return steps
}

// explain reports whether all conditions are met, and which are, or the first that is not.
func (s selector) explain(o envelope.Origin, reverse, to envelope.Path) (takes bool, why string) {
	var met []string
	if len(s.clients) > 0 {
		addr := o.Addr.Unmap()
		i := slices.IndexFunc(s.clients, func(p netip.Prefix) bool { return p.Contains(addr) })
		switch {
		case !addr.IsValid():
			return false, "clients: mail of the relay itself comes from no client"
		case i < 0:
			return false, "clients: " + addr.String() + " is in none of " + prefixes(s.clients)
		}
		met = append(met, "clients: "+addr.String()+" is in "+s.clients[i].String())
	}
	for _, c := range []struct {
		key  string
		p    patterns
		path envelope.Path
	}{{"senders", s.senders, reverse}, {"recipients", s.recipients, to}} {
		switch {
		case c.p.general():
		case !c.p.match(c.path):
			return false, c.key + ": " + c.path.String() + " fits none of " + c.p.String()
		default:
			met = append(met, c.key+": "+c.path.String()+" fits "+c.p.fitting(c.path))
		}
	}
	if len(met) == 0 {
		return true, "it takes all mail"
	}
	return true, strings.Join(met, "; ")
}

func prefixes(list []netip.Prefix) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}

// String returns the patterns as the configuration has them, but for their order.
func (p patterns) String() string {
	words := slices.Clone(p.addresses)
	for _, d := range p.domains {
		words = append(words, "@"+d)
	}
	return strings.Join(words, ", ")
}

// fitting returns the pattern that path fits.
func (p patterns) fitting(path envelope.Path) string {
	if lower := strings.ToLower(string(path)); slices.Contains(p.addresses, lower) {
		return lower
	}
	return "@" + path.Domain()
}
