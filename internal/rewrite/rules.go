package rewrite

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"relayd/internal/envelope"
)

// Rules say what becomes of senders.
type Rules struct {
	// Name says where the rules come from, for people: "smarthost isp".
	Name string
	// EnvelopeFrom takes the place of every reverse-path that the map does not name, HeaderFrom that of every author.
	// Empty: those stay.
	EnvelopeFrom, HeaderFrom envelope.Path
	// Map holds patterns and what an address that matches becomes: a whole address, or "@example.com" for the same local
	// part in another domain. A pattern is an address in which * stands for any letters on its side of the @;
	// "@example.com" is "*@example.com", and "*" is all.
	Map map[string]string
}

// IsZero reports whether r says nothing.
func (r Rules) IsZero() bool { return r.EnvelopeFrom == "" && r.HeaderFrom == "" && len(r.Map) == 0 }

// Set is Rules made ready. It is not changed by use.
type Set struct {
	name                     string
	envelopeFrom, headerFrom envelope.Path
	exact                    map[string]mapping
	patterns                 []mapping // the most exact first
}

// mapping is one line of a map.
type mapping struct {
	written       string // the pattern as it was given
	local, domain string // in lower case
	to            envelope.Path
	toDomain      string // in place of to: the new domain of the same local part
}

// Compile checks r and returns it ready. The error says what is wrong with each address.
func Compile(r Rules) (*Set, error) {
	s := &Set{name: r.Name, exact: make(map[string]mapping)}
	var errs []error
	whole := func(key string, p envelope.Path) envelope.Path {
		if p == "" {
			return ""
		}
		clean, err := target(string(p))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", r.Name, key, err))
		}
		return clean
	}
	s.envelopeFrom, s.headerFrom = whole("envelope_from", r.EnvelopeFrom), whole("header_from", r.HeaderFrom)
	for pattern, to := range r.Map {
		m, err := newMapping(pattern, to)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: map: %q: %w", r.Name, pattern, err))
		case !strings.Contains(m.local+m.domain, "*"):
			s.exact[m.local+"@"+m.domain] = m
		default:
			s.patterns = append(s.patterns, m)
		}
	}
	slices.SortFunc(s.patterns, mapping.compare)
	return s, errors.Join(errs...)
}

// target checks an address that is to be written. It must be ASCII, since not every smarthost has SMTPUTF8.
func target(s string) (envelope.Path, error) {
	p, err := envelope.ParsePath(s)
	if err == nil && p.NeedsUTF8() {
		err = errors.New("it is not ASCII; write the domain in its xn-- form")
	}
	if err != nil {
		return "", fmt.Errorf("%q is not an address to send from: %w", s, err)
	}
	return p, nil
}

func newMapping(pattern, to string) (m mapping, err error) {
	m.written = pattern
	pattern = strings.ToLower(pattern)
	at := strings.LastIndexByte(pattern, '@')
	switch {
	case pattern == "*":
		m.local, m.domain = "*", "*"
	case at < 0 || at == len(pattern)-1 || strings.ContainsAny(pattern[at:], " <>"):
		return m, errors.New(`it is not a pattern; write "user@example.com", "user@*", "@example.com" or "*"`)
	default:
		m.local, m.domain = cmp.Or(pattern[:at], "*"), pattern[at+1:]
	}
	if domain, ok := strings.CutPrefix(to, "@"); ok {
		m.toDomain = domain
		_, err = target("x@" + domain)
		return m, err
	}
	m.to, err = target(to)
	return m, err
}

// compare puts the more exact mapping first.
func (m mapping) compare(n mapping) int {
	whole := func(s string) int {
		if strings.Contains(s, "*") {
			return 0
		}
		return 1
	}
	letters := func(m mapping) int { return len(strings.ReplaceAll(m.local+m.domain, "*", "")) }
	return cmp.Or(cmp.Compare(whole(n.local), whole(m.local)), cmp.Compare(whole(n.domain), whole(m.domain)),
		cmp.Compare(letters(n), letters(m)), cmp.Compare(m.written, n.written))
}

func (m mapping) apply(p envelope.Path) envelope.Path {
	if m.toDomain != "" {
		return envelope.Path(p.Local() + "@" + m.toDomain)
	}
	return m.to
}

// find returns the mapping of p, if there is one.
func (s *Set) find(p envelope.Path) (mapping, bool) {
	local, domain := strings.ToLower(p.Local()), p.Domain()
	if m, ok := s.exact[local+"@"+domain]; ok {
		return m, true
	}
	for _, m := range s.patterns {
		if like(m.local, local) && like(m.domain, domain) {
			return m, true
		}
	}
	return mapping{}, false
}

// like reports whether s matches pattern, in which * stands for any octets, also for none.
func like(pattern, s string) bool {
	star, mark, i, j := -1, 0, 0, 0
	for j < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, mark = i, j
			i++
		case i < len(pattern) && pattern[i] == s[j]:
			i, j = i+1, j+1
		case star >= 0: // let the last * take one octet more
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}

// Chain is sets of rules in the order in which they are asked. A nil set says nothing.
type Chain []*Set

// decide returns what p becomes, and by which rule; "" and "" when no rule says anything of it.
func (c Chain) decide(p envelope.Path, key string, rest func(*Set) envelope.Path) (to envelope.Path, rule string) {
	for _, s := range c {
		if s == nil {
			continue
		}
		if m, ok := s.find(p); ok {
			return m.apply(p), fmt.Sprintf("%s: map %q", s.name, m.written)
		}
		if to := rest(s); to != "" {
			return to, s.name + ": " + key
		}
	}
	return "", ""
}

// ReversePath returns what the reverse-path p becomes, and the rule that says so in words; p and "" where no rule does.
// The null reverse-path stays.
func (c Chain) ReversePath(p envelope.Path) (to envelope.Path, rule string) {
	if p.IsNull() {
		return p, ""
	}
	return kept(p)(c.decide(p, "envelope_from", func(s *Set) envelope.Path { return s.envelopeFrom }))
}

// Author returns what p becomes where it stands in From or Sender, like ReversePath.
func (c Chain) Author(p envelope.Path) (to envelope.Path, rule string) {
	return kept(p)(c.decide(p, "header_from", func(s *Set) envelope.Path { return s.headerFrom }))
}

// kept replaces "" by p.
func kept(p envelope.Path) func(envelope.Path, string) (envelope.Path, string) {
	return func(to envelope.Path, rule string) (envelope.Path, string) { return cmp.Or(to, p), rule }
}

// anyAuthor returns the address that takes the place of authors who cannot be made out, or "".
func (c Chain) anyAuthor() (to envelope.Path, rule string) {
	for _, s := range c {
		if s != nil && s.headerFrom != "" {
			return s.headerFrom, s.name + ": header_from"
		}
	}
	return "", ""
}
