package rewrite

import (
	"bytes"
	"slices"

	"relayd/internal/envelope"
)

// mailbox is an address within the value of a field: the octets from start to end are its addr-spec (RFC 5322 section
// 3.4.1), and comments are what stands between them in parentheses.
type mailbox struct {
	start, end int
	path       envelope.Path
	comments   []byte
}

// mailboxes finds the addresses in the value of a From or Sender field (RFC 5322 section 3.6.2, groups by RFC 6854). It
// reads more than the grammar allows: display names with dots, an @ or 8-bit octets, empty elements, source routes, and
// elements without any address, which it passes over, so that an unquoted comma in a name does no harm. It returns false
// when there is no address, or something that cannot be told apart: then nothing of the value is to be touched.
func mailboxes(value []byte) ([]mailbox, bool) {
	tokens, ok := tokenise(value)
	if !ok {
		return nil, false
	}
	var found []mailbox
	grouped := false
	for len(tokens) > 0 {
		n := slices.IndexFunc(tokens, token.ends)
		if n < 0 {
			n = len(tokens)
		}
		if n < len(tokens) && tokens[n].is(':') { // the display name of a group
			if grouped || holdsAt(tokens[:n]) {
				return nil, false
			}
			grouped, tokens = true, tokens[n+1:]
			continue
		}
		m, rest, ok := element(value, tokens, n)
		if !ok {
			return nil, false
		}
		if m.path != "" {
			found = append(found, m)
		}
		if len(rest) > 0 { // a comma, or the semicolon of a group
			if rest[0].is(';') && !grouped {
				return nil, false
			}
			grouped = grouped && rest[0].is(',')
			rest = rest[1:]
		}
		tokens = rest
	}
	return found, len(found) > 0
}

// element reads one element of a list, whose first delimiter is token n, and returns what is behind it. The path is empty
// when it has no address.
func element(value []byte, tokens []token, n int) (m mailbox, rest []token, ok bool) {
	switch {
	case n < len(tokens) && tokens[n].is('<'):
		return angle(value, tokens[n+1:])
	case n < len(tokens) && tokens[n].is('>'):
		return m, nil, false
	case holdsAt(tokens[:n]):
		m, ok = addrSpec(value, tokens[:n])
		return m, tokens[n:], ok
	}
	return m, tokens[n:], true
}

// angle reads an address behind its "<", and returns what is behind its ">", which must be the end of the element.
// The path is empty for "<>".
func angle(value []byte, tokens []token) (m mailbox, rest []token, ok bool) {
	n := slices.IndexFunc(tokens, func(t token) bool { return t.is('>') })
	if n < 0 {
		return m, nil, false
	}
	inner, rest := tokens[:n], tokens[n+1:]
	for i, t := range inner {
		if t.is(':') { // the end of a source route
			inner = inner[i+1:]
			break
		}
	}
	if len(rest) > 0 && !rest[0].is(',') && !rest[0].is(';') {
		return m, nil, false
	}
	if len(inner) == 0 {
		return m, rest, true
	}
	m, ok = addrSpec(value, inner)
	return m, rest, ok
}

// addrSpec reads tokens as one addr-spec. White space and comments between them are obsolete, and are left out of the
// path.
func addrSpec(value []byte, tokens []token) (m mailbox, ok bool) {
	m.start, m.end = tokens[0].start, tokens[len(tokens)-1].end
	var spec []byte
	word := false
	for i, t := range tokens {
		if i > 0 {
			m.comments = append(m.comments, value[t.comments:t.start]...)
		}
		if t.special == 0 && word {
			return m, false // two words in a row are no address
		}
		word = t.special == 0
		spec = append(spec, unfolded(value[t.start:t.end])...)
	}
	m.comments = onlyComments(m.comments)
	path, err := envelope.ParsePath(string(spec))
	m.path = path
	return m, err == nil
}

func holdsAt(tokens []token) bool {
	return slices.ContainsFunc(tokens, func(t token) bool { return t.is('@') })
}

// token is a word or one of the specials of RFC 5322 section 3.2.3. White space and comments before it begin at comments.
type token struct {
	comments, start, end int
	special              byte // 0 for an atom, a quoted string or a domain literal
}

func (t token) is(c byte) bool { return t.special == c }

// ends reports whether t ends a display name, an address or an element of a list.
func (t token) ends() bool { return t.special != 0 && t.special != '@' && t.special != '.' }

// tokenise returns false when a quoted string, a domain literal or a comment has no end.
func tokenise(value []byte) ([]token, bool) {
	var tokens []token
	behind := 0
	for i := 0; ; {
		end, ok := skipCFWS(value, i)
		if !ok {
			return nil, false
		}
		if i = end; i == len(value) {
			return tokens, true
		}
		t := token{comments: behind, start: i}
		switch c := value[i]; c {
		case '"':
			i, ok = closing(value, i+1, '"')
		case '[':
			i, ok = closing(value, i+1, ']')
		case '<', '>', '@', ',', ';', ':', '.':
			t.special = c
			i++
		case ')', ']', '\\':
			return nil, false
		default:
			for i < len(value) && bytes.IndexByte([]byte("\"[]<>@,;:.()\\ \t\r\n"), value[i]) < 0 {
				i++
			}
		}
		if !ok {
			return nil, false
		}
		t.end, behind = i, i
		tokens = append(tokens, t)
	}
}

// closing returns the place behind the octet that ends what began before i, passing over quoted pairs.
func closing(value []byte, i int, end byte) (int, bool) {
	for ; i < len(value); i++ {
		switch value[i] {
		case end:
			return i + 1, true
		case '\\':
			i++
		}
	}
	return i, false
}

// skipCFWS returns the place of the first octet from i on that is neither white space nor within a comment, which may
// hold others. It returns false when a comment has no end.
func skipCFWS(value []byte, i int) (int, bool) {
	depth := 0
	for ; i < len(value); i++ {
		switch c := value[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth > 0, c == ' ', c == '\t', c == '\r', c == '\n':
		default:
			return i, true
		}
	}
	return len(value), depth == 0 && i == len(value)
}

// onlyComments returns the comments of what skipCFWS passes over, with a space before each.
func onlyComments(between []byte) []byte {
	var out []byte
	depth := 0
	for i := 0; i < len(between); i++ {
		c := between[i]
		if c == '(' {
			if depth == 0 {
				out = append(out, ' ')
			}
			depth++
		}
		if depth > 0 {
			out = append(out, c)
		}
		switch {
		case c == '\\' && depth > 0 && i+1 < len(between):
			i++
			out = append(out, between[i])
		case c == ')' && depth > 0:
			depth--
		}
	}
	return out
}

// unfolded returns a word without the line ends that a folded quoted string has.
func unfolded(word []byte) []byte {
	if bytes.IndexByte(word, '\n') < 0 {
		return word
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(word, []byte("\r"), nil), []byte("\n"), nil)
}
