package envelope

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Limits of RFC 5321 section 4.5.3.1, in octets. The longest path counts without its angle brackets.
const (
	MaxLocalPart = 64
	MaxDomain    = 255
	MaxPath      = 254
)

// Path is a mailbox as it stands between the angle brackets of MAIL FROM and RCPT TO (RFC 5321 section 4.1.2): no
// source route, the local part quoted exactly when it must be. The empty Path is the null reverse-path.
type Path string

// Null is the null reverse-path, "<>" on the wire (RFC 5321 section 4.5.5).
const Null Path = ""

// IsNull reports whether p is the null reverse-path.
func (p Path) IsNull() bool { return p == Null }

// String returns p in angle brackets, as it is written on the wire.
func (p Path) String() string { return "<" + string(p) + ">" }

// Local returns the local part, in the wire's form (with its quotes where it has them).
func (p Path) Local() string {
	if i := strings.LastIndexByte(string(p), '@'); i >= 0 {
		return string(p[:i])
	}
	return string(p)
}

// Domain returns the domain or address literal in lower case, or "" for the null reverse-path.
func (p Path) Domain() string {
	if i := strings.LastIndexByte(string(p), '@'); i >= 0 {
		return strings.ToLower(string(p[i+1:]))
	}
	return ""
}

// NeedsUTF8 reports whether p can only travel with SMTPUTF8 (RFC 6531).
func (p Path) NeedsUTF8() bool { return !isASCII(string(p)) }

// Param is one ESMTP parameter of MAIL or RCPT. Keyword is in upper case; Value is as it was sent.
type Param struct{ Keyword, Value string }

var (
	errNoMailbox = errors.New("there is no mailbox here; write <user@example.com>")
	errControl   = errors.New("control characters are not allowed in an address")
	errUTF8      = errors.New("the address is not valid UTF-8")
)

// ParsePath parses a mailbox without angle brackets. It refuses control characters, white space outside quotes,
// and whatever is longer than RFC 5321 section 4.5.3.1 allows; it drops a source route and re-quotes a local part
// only where that is needed. The empty string is an error: the null reverse-path is Null, not the result of a parse.
func ParsePath(s string) (Path, error) {
	p, rest, err := scanMailbox(s)
	if err != nil {
		return "", err
	}
	if rest != "" {
		return "", fmt.Errorf("unexpected %q after the address", rest)
	}
	return p, nil
}

// ParseReverse parses what follows "MAIL FROM:", a reverse-path in angle brackets (or bare, as some devices send
// it) and its parameters (RFC 5321 section 4.1.1.2).
func ParseReverse(s string) (Path, []Param, error) {
	s = strings.TrimLeft(s, " ")
	if rest, ok := strings.CutPrefix(s, "<>"); ok {
		params, err := parseParams(rest)
		return Null, params, err
	}
	return ParseForward(s)
}

// ParseForward parses what follows "RCPT TO:", a forward-path in angle brackets (or bare) and its parameters
// (RFC 5321 section 4.1.1.3).
func ParseForward(s string) (Path, []Param, error) {
	s = strings.TrimLeft(s, " ")
	inner, bracket := strings.CutPrefix(s, "<")
	p, rest, err := scanMailbox(inner)
	if err != nil {
		return "", nil, err
	}
	if bracket {
		if !strings.HasPrefix(rest, ">") {
			return "", nil, errors.New("the address has no closing angle bracket")
		}
		rest = rest[1:]
	}
	params, err := parseParams(rest)
	return p, params, err
}

func parseParams(s string) ([]Param, error) {
	if s != "" && s[0] != ' ' {
		return nil, fmt.Errorf("unexpected %q after the address", s)
	}
	var params []Param
	for _, word := range strings.Split(s, " ") {
		if word == "" {
			continue
		}
		for i := range len(word) {
			if word[i] < '!' || word[i] == 0x7f {
				return nil, errors.New("control characters are not allowed in a parameter")
			}
		}
		k, v, _ := strings.Cut(word, "=")
		params = append(params, Param{Keyword: strings.ToUpper(k), Value: v})
	}
	return params, nil
}

// scanMailbox reads a mailbox from the front of s, and returns what is behind it.
func scanMailbox(s string) (p Path, rest string, err error) {
	if strings.HasPrefix(s, "@") {
		i := strings.IndexByte(s, ':')
		if i < 0 {
			return "", "", errors.New("a source route has no colon")
		}
		s = s[i+1:]
	}
	var local string
	if strings.HasPrefix(s, `"`) {
		local, s, err = scanQuoted(s)
	} else {
		local, s, err = scanDotString(s)
	}
	if err != nil {
		return "", "", err
	}
	if !strings.HasPrefix(s, "@") {
		return "", "", errNoMailbox
	}
	end := strings.IndexAny(s, "> ")
	if end < 0 {
		end = len(s)
	}
	domain, rest := s[1:end], s[end:]
	if err := checkDomain(domain); err != nil {
		return "", "", err
	}
	p = Path(local + "@" + domain)
	switch {
	case !utf8.ValidString(string(p)):
		return "", "", errUTF8
	case len(local) > MaxLocalPart && isASCII(local):
		return "", "", fmt.Errorf("the local part is longer than %d octets", MaxLocalPart)
	case len(domain) > MaxDomain:
		return "", "", fmt.Errorf("the domain is longer than %d octets", MaxDomain)
	case len(p) > MaxPath && isASCII(string(p)):
		return "", "", fmt.Errorf("the address is longer than %d octets", MaxPath)
	}
	return p, rest, nil
}

func scanDotString(s string) (local, rest string, err error) {
	end := strings.IndexByte(s, '@')
	if end < 0 {
		return "", "", errNoMailbox
	}
	local = s[:end]
	if !isDotString(local) {
		return "", "", fmt.Errorf("%q is not a local part; put unusual characters in double quotes", local)
	}
	return local, s[end:], nil
}

func scanQuoted(s string) (local, rest string, err error) {
	var content strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return quoteLocal(content.String()), s[i+1:], nil
		case c == '\\':
			i++
			if i == len(s) {
				return "", "", errors.New("a quoted local part has no end")
			}
			c = s[i]
		}
		if c < ' ' || c == 0x7f {
			return "", "", errControl
		}
		content.WriteByte(c)
	}
	return "", "", errors.New("a quoted local part has no end")
}

func quoteLocal(content string) string {
	if isDotString(content) {
		return content
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(content) {
		if c := content[i]; c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(content[i])
	}
	b.WriteByte('"')
	return b.String()
}

// isDotString follows RFC 5321's Dot-string, but lets dots stand anywhere: mobile carriers have handed out
// "a..b@" and "a.@" for decades, and refusing them here would lose mail that the smarthost takes.
func isDotString(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == 0x7f || strings.IndexByte(`()<>[]:;\,"@`, c) >= 0 {
			return false
		}
	}
	return true
}

func checkDomain(d string) error {
	if d == "" {
		return errors.New("the domain is missing")
	}
	if d[0] == '[' {
		return checkLiteral(d)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(d, "."), ".") {
		if label == "" {
			return fmt.Errorf("the domain %q has an empty label", d)
		}
		for i := range len(label) {
			c := label[i]
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c >= 0x80:
			case c < ' ' || c == 0x7f:
				return errControl
			default:
				return fmt.Errorf("the domain %q has a character that a domain cannot have", d)
			}
		}
	}
	return nil
}

func checkLiteral(d string) error {
	inner, ok := strings.CutSuffix(d[1:], "]")
	if !ok {
		return errors.New("an address literal has no closing bracket")
	}
	if len(inner) > 5 && strings.EqualFold(inner[:5], "IPv6:") {
		inner = inner[5:]
	}
	a, err := netip.ParseAddr(inner)
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("%q is not an address literal; write [192.0.2.1] or [IPv6:2001:db8::1]", d)
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
