package config

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

const (
	// minBits4 is the widest IPv4 network that may be trusted. The widest private one is 10.0.0.0/8.
	minBits4 = 8
	// minBits6 is the widest IPv6 network that may be trusted, unless it is private (fc00::/7, fe80::/10): a /16 is
	// sixteen times what the largest providers hold.
	minBits6 = 16
	// warnBits4 and warnBits6: a public network wider than this is more than one company's.
	warnBits4, warnBits6 = 16, 32
	// maxShare is how much of the internet all trusted networks may hold together. Whoever lists more than a quarter
	// of it has spelt 0.0.0.0/0 in pieces.
	maxShare = 0.25
)

// loopback is trusted unless trust_loopback is false.
func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// disguises are the IPv6 networks in whose addresses an IPv4 address stands, from the bit where the prefix ends.
func disguises() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("::ffff:0:0/96"), // IPv4-mapped, RFC 4291 section 2.5.5.2
		netip.MustParsePrefix("64:ff9b::/96"),  // NAT64, RFC 6052
		netip.MustParsePrefix("2002::/16"),     // 6to4, RFC 3056
	}
}

func private() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::1/128"),
	}
}

func isPrivate(p netip.Prefix) bool {
	return slices.ContainsFunc(private(), func(net netip.Prefix) bool { return holds(net, p) })
}

// linkLocal is the same on each link (RFC 4291 section 2.5.6).
func linkLocal() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

// holds reports whether every address of b is in a.
func holds(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// asIPv4 returns the IPv4 network that an IPv6 network is in disguise.
func asIPv4(p netip.Prefix) (netip.Prefix, bool) {
	if p.Addr().Is4() {
		return p, true
	}
	for _, d := range disguises() {
		if !holds(d, p) {
			continue
		}
		a := p.Addr().As16()
		from := d.Bits() / 8
		v4, _ := netip.AddrFromSlice(a[from : from+4])
		return netip.PrefixFrom(v4, min(p.Bits()-d.Bits(), 32)).Masked(), true
	}
	return p, false
}

// parseNetwork reads a network in CIDR notation, or one address. IPv4-mapped IPv6 becomes IPv4. Bits to the right of
// the prefix are kept, for the caller to judge.
func parseNetwork(s string) (p netip.Prefix, problem, remedy string) {
	const write = `write it as "192.168.1.0/24", or one address as "192.168.1.7"`
	if strings.Contains(s, "%") {
		return p, fmt.Sprintf("%q names an interface", s), "leave out the % and what follows it"
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Unmap().IsUnspecified() {
			return p, fmt.Sprintf("%q is the address of no machine", s), write
		}
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), "", ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if meant := netmask(s); meant != "" {
			return p, fmt.Sprintf("%q is not in CIDR notation", s), fmt.Sprintf("write %q", meant)
		}
		return p, fmt.Sprintf("%q is not a network", s), write
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, "", ""
}

// netmask returns "192.168.1.0/24" for "192.168.1.0/255.255.255.0", and "" for anything that is not such a pair.
func netmask(s string) string {
	address, mask, _ := strings.Cut(s, "/")
	a, err1 := netip.ParseAddr(address)
	m, err2 := netip.ParseAddr(mask)
	if err1 != nil || err2 != nil || !a.Is4() || !m.Is4() {
		return ""
	}
	b := m.As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	ones := bits.LeadingZeros32(^n)
	if n != 0 && bits.TrailingZeros32(n) != 32-ones {
		return ""
	}
	return netip.PrefixFrom(a, ones).Masked().String()
}

// networks returns the networks of a list, and refuses what is none. The check, if there is one, judges each.
func (t *table) networks(key string, emptyOK bool, check func(e entry, p netip.Prefix) bool) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range t.list(key, emptyOK) {
		p, problem, remedy := parseNetwork(e.text)
		if problem != "" {
			t.fault(e.line, t.full(key), problem, remedy)
			continue
		}
		if check != nil && !check(e, p.Masked()) {
			continue
		}
		if p != p.Masked() {
			t.fault(e.line, t.full(key), fmt.Sprintf("%q is an address within a network", e.text),
				fmt.Sprintf("write %q for the network, or %q for this one machine", p.Masked(), p.Addr()))
			continue
		}
		out = append(out, p)
	}
	return out
}

// trusted returns who may relay without a login, loopback first if it is to be among them. What would make an open relay is
// refused.
func (t *table) trusted(key string, withLoopback bool) []netip.Prefix {
	given := t.networks(key, true, func(e entry, p netip.Prefix) bool {
		if !withLoopback && p.Addr().IsLoopback() {
			t.fault(e.line, t.full(key), fmt.Sprintf("%q is this machine, and trust_loopback is false", e.text),
				"delete one of the two lines")
			return false
		}
		return t.trustable(key, e, p)
	})
	t.refuseTogether(key, given)
	var all []netip.Prefix
	switch {
	case withLoopback:
		all = loopback()
	case len(t.list(key, true)) == 0:
		t.bad("trust_loopback", "nobody may relay: this machine is not trusted, and trusted_networks names nobody",
			"name your networks in trusted_networks, or delete this line")
	}
	for _, p := range given {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// trustable refuses a network that nobody has to himself.
func (t *table) trustable(key string, e entry, p netip.Prefix) bool {
	const remedy = `name the networks of your own machines, such as "192.168.1.0/24"`
	refuse := func(problem string) bool {
		t.fault(e.line, t.full(key), problem, remedy)
		return false
	}
	v4, isV4 := asIPv4(p)
	switch {
	case p.Bits() == 0, isV4 && v4.Bits() == 0, !isV4 && holds(p, disguises()[0]):
		return refuse(fmt.Sprintf("%q is everybody, which makes an open relay that spammers find within hours", e.text))
	case isV4 && v4.Bits() < minBits4:
		return refuse(fmt.Sprintf("%q is 1/%d of the IPv4 internet, which makes an open relay", e.text, 1<<v4.Bits()))
	case !isV4 && p.Bits() < minBits6 && !isPrivate(p):
		return refuse(fmt.Sprintf("%q is wider than a /%d, which makes an open relay", e.text, minBits6))
	case linkLocal().Overlaps(p):
		t.warn(e.line, t.full(key), fmt.Sprintf("%q is every machine on any link of this one, the provider's side too, under "+
			"an address that it gives itself", e.text), "name the networks that your router hands out, such as fd00:1:2:3::/64")
	case isPrivate(p) || isPrivate(v4):
	case isV4 && v4.Bits() < warnBits4, !isV4 && p.Bits() < warnBits6:
		t.warn(e.line, t.full(key),
			fmt.Sprintf("%q is a large public network; all its machines can send mail through your account", e.text), remedy)
	}
	return true
}

// refuseTogether refuses networks that add up to a good part of the internet, in however many pieces.
func (t *table) refuseTogether(key string, networks []netip.Prefix) {
	var v4, v6 []netip.Prefix
	public6 := netip.MustParsePrefix("2000::/3") // RFC 4291 section 2.4: all that is routed
	for _, p := range networks {
		if as4, ok := asIPv4(p); ok {
			v4 = append(v4, as4)
		} else if holds(public6, p) {
			v6 = append(v6, p)
		}
	}
	for _, sum := range []struct {
		what  string
		share float64
	}{{"IPv4", share(v4, 0)}, {"IPv6", share(v6, public6.Bits())}} {
		if sum.share > maxShare {
			t.bad(key, fmt.Sprintf("these networks together are %.0f%% of the %s internet, which makes an open relay",
				100*sum.share, sum.what), "name only the networks of your own machines")
		}
	}
}

// share returns which part of a network of whole bits the networks in it hold together, counting no address twice.
func share(networks []netip.Prefix, whole int) float64 {
	networks = slices.Clone(networks)
	slices.SortFunc(networks, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var sum float64
	var last netip.Prefix
	for _, p := range networks {
		if last.IsValid() && holds(last, p) {
			continue
		}
		last = p
		part := 1.0
		for range p.Bits() - whole {
			part /= 2
		}
		sum += part
	}
	return sum
}
