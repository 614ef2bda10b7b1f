package sevenbit

import (
	"bytes"
	"mime"
	"strings"

	"relayd/internal/header"
)

// fieldKind tells the header fields that matter here from the rest.
type fieldKind uint8

const (
	anyField fieldKind = iota
	mimeVersion
	contentType
	transferEncoding
)

func kindOf(name string) fieldKind {
	switch {
	case strings.EqualFold(name, "Content-Type"):
		return contentType
	case strings.EqualFold(name, "Content-Transfer-Encoding"):
		return transferEncoding
	case strings.EqualFold(name, "MIME-Version"):
		return mimeVersion
	}
	return anyField
}

// label is what a Content-Transfer-Encoding field says.
type label uint8

const (
	label7Bit label = iota
	// label8Bit is also for binary, and for what nobody knows.
	label8Bit
	labelQuoted
	labelBase64
)

func parseLabel(field []byte) label {
	s := scanner{rest: header.Value(field)}
	s.skip()
	s.accept('"')
	switch strings.ToLower(s.until("\" \t\r\n;(")) {
	case "7bit":
		return label7Bit
	case "quoted-printable":
		return labelQuoted
	case "base64":
		return labelBase64
	}
	return label8Bit
}

// mediaType is what a Content-Type field says, in lower case. The boundary is nil when there is none, or none that
// a delimiter line can bear.
type mediaType struct {
	kind, subtype string
	boundary      []byte
}

// parseMediaType is forgiving where [mime.ParseMediaType] is not, because mail is: comments, values that should have been
// quoted, faulty parameters beside a good one. Of several boundaries the first counts.
func parseMediaType(field []byte) mediaType {
	s := scanner{rest: header.Value(field)}
	var t mediaType
	s.skip()
	t.kind = strings.ToLower(s.until("/; \t\r\n("))
	s.skip()
	if s.accept('/') {
		s.skip()
		t.subtype = strings.ToLower(s.until("; \t\r\n("))
	}
	if t.kind != "multipart" {
		return t
	}
	for s.parameter() {
		s.skip()
		name := s.until("=; \t\r\n(")
		s.skip()
		if !s.accept('=') {
			continue
		}
		s.skip()
		if value := s.value(); strings.EqualFold(name, "boundary") {
			t.boundary = usableBoundary(value)
			return t
		}
	}
	// The parts of a boundary that is split or coded as RFC 2231 has it are better left to the library.
	if _, params, err := mime.ParseMediaType(unfold(header.Value(field))); err == nil {
		t.boundary = usableBoundary(params["boundary"])
	}
	return t
}

func usableBoundary(s string) []byte {
	b := bytes.TrimRight([]byte(s), " \t")
	if len(b) == 0 || len(b) > maxBoundary || has8Bit(b) || bytes.ContainsAny(b, "\r\n") {
		return nil
	}
	return b
}

func unfold(value []byte) string {
	return strings.NewReplacer("\r", "", "\n", "").Replace(string(value))
}

// scanner takes a structured field value apart (RFC 2045 section 5.1).
type scanner struct{ rest []byte }

// skip passes over white space, folding and comments.
func (s *scanner) skip() {
	depth := 0
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth > 0, c == ' ', c == '\t', c == '\r', c == '\n':
		default:
			s.rest = s.rest[i:]
			return
		}
	}
	s.rest = nil
}

func (s *scanner) accept(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// until takes everything up to the first octet of stops.
func (s *scanner) until(stops string) string {
	i := bytes.IndexAny(s.rest, stops)
	if i < 0 {
		i = len(s.rest)
	}
	taken := s.rest[:i]
	s.rest = s.rest[i:]
	return string(taken)
}

// parameter moves behind the next semicolon, and returns false when there is none.
func (s *scanner) parameter() bool {
	s.until(";")
	return s.accept(';')
}

// value takes a quoted string without its quotes, or what stands up to white space or the next parameter.
func (s *scanner) value() string {
	if !s.accept('"') {
		return s.until("; \t\r\n")
	}
	var v []byte
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; c {
		case '"':
			s.rest = s.rest[i+1:]
			return string(v)
		case '\\':
			if i++; i < len(s.rest) {
				v = append(v, s.rest[i])
			}
		case '\r', '\n':
		default:
			v = append(v, c)
		}
	}
	s.rest = nil
	return string(v)
}
