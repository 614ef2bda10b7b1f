package config

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// positions tells on which line each table, key and list item of a document begins. The library keeps this to itself
// (its MetaData has no lines, and its index has no place for the second [[smarthost]]), so the text is read a second
// time, for positions alone. A path is made with sub and item; that of the whole document is "".
type positions map[string]int

// sub is the path of a key in a table.
func sub(path, key string) string { return path + "\x00" + key }

// item is the path of the i-th item of a list, or of the i-th [[table]].
func item(path string, i int) string { return path + "\x01" + strconv.Itoa(i) }

// scan returns the positions in text, which the TOML parser has accepted. With any other text it returns something,
// in time that grows with the length of the text.
func scan(text string) positions {
	s := scanner{
		text: strings.TrimPrefix(text, "\ufeff"), line: 1,
		at: positions{}, count: map[string]int{},
	}
	path := ""
	for s.skipBlank(); !s.done(); s.skipBlank() {
		if s.peek("[") {
			path = s.header()
			continue
		}
		s.entry(path)
	}
	return s.at
}

type scanner struct {
	text  string
	pos   int
	line  int
	at    positions
	count map[string]int // how many [[table]] of a path there were so far
}

func (s *scanner) done() bool              { return s.pos >= len(s.text) }
func (s *scanner) peek(prefix string) bool { return strings.HasPrefix(s.text[s.pos:], prefix) }

// step goes on by n bytes and keeps count of the lines.
func (s *scanner) step(n int) {
	end := min(s.pos+n, len(s.text))
	s.line += strings.Count(s.text[s.pos:end], "\n")
	s.pos = end
}

// skip goes on over the bytes of set.
func (s *scanner) skip(set string) {
	rest := s.text[s.pos:]
	s.step(len(rest) - len(strings.TrimLeft(rest, set)))
}

// until goes on to the next byte of set, or to the end.
func (s *scanner) until(set string) {
	if i := strings.IndexAny(s.text[s.pos:], set); i >= 0 {
		s.step(i)
		return
	}
	s.step(len(s.text))
}

// skipBlank goes on over white space, ends of lines, comments, and the commas of lists.
func (s *scanner) skipBlank() {
	for s.skip(" \t\r\n,"); s.peek("#"); s.skip(" \t\r\n,") {
		s.until("\n")
	}
}

// note keeps the line where path was met first.
func (s *scanner) note(path string, line int) {
	if _, known := s.at[path]; !known {
		s.at[path] = line
	}
}

// header reads [a.b] or [[a.b]] and returns the path of the table that the lines below it fill.
func (s *scanner) header() string {
	line := s.line
	list := s.peek("[[")
	s.skip("[")
	path := ""
	parts := s.key("]")
	for i, part := range parts {
		path = sub(path, part)
		s.note(path, line)
		last := i == len(parts)-1
		if last && list {
			s.count[path]++
		}
		if n := s.count[path]; n > 0 {
			path = item(path, n-1)
			s.note(path, line)
		}
	}
	s.skip("]")
	return path
}

// entry reads KEY = VALUE in the table at path.
func (s *scanner) entry(path string) {
	line := s.line
	for _, part := range s.key("=") {
		path = sub(path, part)
		s.note(path, line)
	}
	s.skip("=")
	s.value(path)
}

// key reads the parts of a dotted key up to one byte of end.
func (s *scanner) key(end string) []string {
	var parts []string
	for {
		s.skip(" \t.")
		switch start := s.pos; {
		case s.peek(`"`) || s.peek(`'`):
			s.str()
			parts = append(parts, unquote(s.text[start:s.pos]))
		default:
			s.until(" \t\r\n.\"'" + end)
			if start == s.pos {
				return parts
			}
			parts = append(parts, s.text[start:s.pos])
		}
	}
}

// unquote returns what a quoted key says. The library does it, so that both sides mean the same by an escape.
func unquote(quoted string) string {
	var v struct{ K string }
	if _, err := toml.Decode("K = "+quoted, &v); err != nil {
		return quoted
	}
	return v.K
}

// value reads one value, and notes the lines of what is inside a list or an inline table.
func (s *scanner) value(path string) {
	s.skip(" \t")
	switch {
	case s.peek(`"`) || s.peek(`'`):
		s.str()
	case s.peek("["):
		s.step(1)
		i := 0
		for s.skipBlank(); !s.done() && !s.peek("]"); s.skipBlank() {
			before := s.pos
			s.note(item(path, i), s.line)
			s.value(item(path, i))
			i++
			if s.pos == before { // text that no parser accepts; go on all the same
				s.step(1)
			}
		}
		s.step(1)
	case s.peek("{"):
		s.step(1)
		for s.skipBlank(); !s.done() && !s.peek("}"); s.skipBlank() {
			before := s.pos
			s.entry(path)
			if s.pos == before {
				s.step(1)
			}
		}
		s.step(1)
	default:
		s.until(",]}#\n")
	}
}

// str reads a string of any of the four forms, from its opening quote to after its closing one.
func (s *scanner) str() {
	quote := s.text[s.pos : s.pos+1]
	long := strings.Repeat(quote, 3)
	end := quote
	if s.peek(long) {
		end = long
	}
	s.step(len(end))
	for !s.done() && !s.peek(end) {
		if quote == `"` && s.peek(`\`) {
			s.step(1)
		}
		s.step(1)
	}
	s.step(len(end))
	// A long string may end with one or two quotes of its own: """a"""""
	for range 2 {
		if end == long && s.peek(quote) {
			s.step(1)
		}
	}
}
