package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// patterns returns the address patterns of a key, as written.
func (t *table) patterns(key string) []string {
	var out []string
	for _, e := range t.list(key, false) {
		if problem, remedy := badPattern(e.text); problem != "" {
			t.fault(e.line, t.full(key), problem, remedy)
			continue
		}
		out = append(out, e.text)
	}
	return out
}

// mailbox returns a single address, or "" when there is none.
func (t *table) mailbox(key string) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	if problem, _ := badPattern(s); problem != "" || s == "*" || strings.HasPrefix(s, "@") {
		t.bad(key, fmt.Sprintf("%q is not an address", s), "write "+t.form(key))
		return ""
	}
	return s
}

// badPattern says what is wrong with a pattern: "user@domain", "@domain" and "*" are good.
func badPattern(s string) (problem, remedy string) {
	if s == "*" {
		return "", ""
	}
	problem = fmt.Sprintf("%q is neither an address nor a domain", s)
	remedy = `write "user@example.com", "@example.com" for a domain, or "*" for all`
	at := strings.LastIndex(s, "@")
	if at < 0 {
		if isHostname(s, false) {
			remedy = fmt.Sprintf("write %q for the domain", "@"+s)
		}
		return problem, remedy
	}
	local, domain := s[:at], s[at+1:]
	if local == "*" && isDomain(domain) {
		return problem, fmt.Sprintf("write %q", "@"+domain)
	}
	quoted := len(local) > 2 && strings.HasPrefix(local, `"`) && strings.HasSuffix(local, `"`)
	odd := strings.ContainsAny(local, "<>*\\\"") || strings.ContainsFunc(local, unicode.IsSpace)
	if odd && !quoted || !isDomain(domain) {
		return problem, remedy
	}
	return "", ""
}

// isDomain reports whether s can stand behind the @ of an address: a name, also one in Unicode (RFC 6531), or an
// address in brackets.
func isDomain(s string) bool {
	if isAddressLiteral(s) {
		return true
	}
	ascii := strings.Map(func(c rune) rune {
		if c > unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsDigit(c)) {
			return 'x'
		}
		return c
	}, s)
	return isHostname(ascii, false) && !strings.HasSuffix(s, ".")
}

// refuseUnreachable refuses a smarthost that never gets mail since one before it takes all that it could. When none
// takes all mail, some may find no way; that is allowed, and warned of.
func refuseUnreachable(tables []*table, smarthosts []Smarthost) {
	whole := make([]bool, len(smarthosts))
	for i := range smarthosts {
		whole[i] = isWhole(tables[i], smarthosts[i])
		for j := range i {
			if !whole[i] || !whole[j] || !covers(smarthosts[j], smarthosts[i]) {
				continue
			}
			problem := fmt.Sprintf("never gets mail: the smarthost in line %d comes first and takes all of it", tables[j].line)
			if takesAll(smarthosts[i]) {
				problem = fmt.Sprintf("is the second that takes all mail; the first is in line %d", tables[j].line)
			}
			tables[i].fault(tables[i].line, "smarthost", problem,
				"move it up, give the other senders, recipients or clients, or put the hosts of both into one list")
			break
		}
	}
	if !slices.ContainsFunc(smarthosts, takesAll) {
		t := tables[len(tables)-1]
		t.warn(t.line, "smarthost", "no smarthost takes all mail; what fits none of them waits until one does",
			"let the last one be without senders, recipients and clients")
	}
}

// isWhole reports whether none of a smarthost's conditions was refused; with one missing it would seem to take more.
func isWhole(t *table, s Smarthost) bool {
	for key, n := range map[string]int{
		"senders": len(s.Senders), "recipients": len(s.Recipients), "clients": len(s.Clients),
	} {
		if given, ok := t.values[key].([]any); t.has(key) && (!ok || len(given) != n || n == 0) {
			return false
		}
	}
	return true
}

// takesAll reports whether the smarthost is a catch-all.
func takesAll(s Smarthost) bool { return covers(s, Smarthost{}) }

// covers reports whether a takes every message that b takes.
func covers(a, b Smarthost) bool {
	return coversPatterns(a.Senders, b.Senders) && coversPatterns(a.Recipients, b.Recipients) &&
		coversClients(a.Clients, b.Clients)
}

// coversPatterns: without patterns every address is taken.
func coversPatterns(a, b []string) bool {
	if len(b) == 0 {
		b = []string{"*"}
	}
	return len(a) == 0 || within(a, b, matches)
}

// coversClients: without networks every client is taken.
func coversClients(a, b []netip.Prefix) bool {
	if len(b) == 0 {
		b = []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	return len(a) == 0 || within(a, b, holds)
}

// within reports whether each of inner is in one of outer.
func within[T any](outer, inner []T, in func(outer, inner T) bool) bool {
	return !slices.ContainsFunc(inner, func(i T) bool {
		return !slices.ContainsFunc(outer, func(o T) bool { return in(o, i) })
	})
}

// matches reports whether pattern takes all that inner takes.
func matches(pattern, inner string) bool {
	if pattern == "*" || strings.EqualFold(pattern, inner) {
		return true
	}
	cut := len(inner) - len(pattern)
	return strings.HasPrefix(pattern, "@") && cut >= 0 && strings.EqualFold(inner[cut:], pattern)
}
