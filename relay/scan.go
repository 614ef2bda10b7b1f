package relay

import (
	"bytes"
	"errors"
	"fmt"
)

// errBareCR says that a body has a CR that no LF follows. Where such a body ends is a matter of opinion among mail
// servers, which is what SMTP smuggling lives on, so there is nothing to repair.
var errBareCR = errors.New("a CR without LF in the message")

// errDoubledCR says that a CR follows a CR: a script has turned LF into CR LF twice. Some servers take CR CR LF for a line
// end, and a dot between two of these for the end of the body, others do not, so that it is refused like any bare CR.
var errDoubledCR = fmt.Errorf("%w: a line ends in CR CR LF", errBareCR)

// scanState is where in a line the scanner stands between two calls.
type scanState uint8

const (
	lineStart scanState = iota
	inLine
	heldDot   // a dot at the start of a line, not passed on yet
	heldDotCR // that dot and a CR
	heldCR    // a CR in a line
)

// scanner turns the octets of a body on the wire into content. A bare LF becomes CRLF. In a body sent with DATA a
// leading dot is removed (RFC 5321 section 4.5.2), and only CRLF.CRLF ends the body: a dot alone on a line that has a
// bare LF on either side is content, and stays.
type scanner struct {
	// chunked is set for BDAT, where a dot is a dot and octets are counted (RFC 3030).
	chunked bool
	state   scanState
	// bareLF is set when the line end before the current line was a bare LF. The body's first line follows the CRLF
	// of the DATA command.
	bareLF bool
	edited []byte
}

// scan returns the content that src amounts to and how much of src it used: all of it unless end is true, which it
// is when the octet before n was the last of CRLF.CRLF. The content is part of src where nothing had to be changed,
// and otherwise valid until the next call.
func (s *scanner) scan(src []byte) (content []byte, n int, end bool, err error) {
	p := pass{src: src, out: s.edited[:0]}
	for p.at < len(src) && !end && err == nil {
		switch s.state {
		case lineStart:
			end = s.begin(&p)
		case inLine:
			err = s.run(&p)
		default:
			end, err = s.resolve(&p)
		}
	}
	if err != nil {
		return nil, 0, false, err
	}
	rest := src[p.kept : p.at-p.mark]
	if !p.changed {
		return rest, p.at, end, nil
	}
	s.edited = append(p.out, rest...)
	return s.edited, p.at, end, nil
}

// pass is the scanner's way through one piece of input.
type pass struct {
	src     []byte
	at      int    // the next octet to look at
	kept    int    // src[kept:at] is content that is not in out yet
	mark    int    // how many octets before at are the mark that ended the body
	out     []byte // the content so far, once it differs from src
	changed bool
}

// put ends the unchanged content at upTo, adds text, and goes on at next.
func (p *pass) put(upTo int, text string, next int) {
	p.out = append(append(p.out, p.src[p.kept:upTo]...), text...)
	p.at, p.kept, p.changed = next, next, true
}

// begin looks at the first octet of a line, and ends the body where the whole mark is in view.
func (s *scanner) begin(p *pass) (end bool) {
	switch rest := p.src[p.at:]; {
	case s.chunked || rest[0] != '.':
		s.state = inLine
	case !s.bareLF && bytes.HasPrefix(rest, dotEnd):
		p.at += len(dotEnd)
		p.mark = len(dotEnd)
		return true
	default:
		p.put(p.at, "", p.at+1)
		s.state = heldDot
	}
	return false
}

// run goes to the end of the line.
func (s *scanner) run(p *pass) error {
	rest := p.src[p.at:]
	lf := bytes.IndexByte(rest, '\n')
	line := rest
	if lf >= 0 {
		line = rest[:lf]
	}
	switch ret := bytes.IndexByte(line, '\r'); {
	case ret >= 0 && ret < len(line)-1:
		return strayCR(line[ret+1])
	case lf < 0 && ret < 0:
		p.at += len(rest)
	case lf < 0:
		p.put(p.at+ret, "", len(p.src))
		s.state = heldCR
	case ret < 0:
		p.put(p.at+lf, "\r\n", p.at+lf+1)
		s.state, s.bareLF = lineStart, true
	default:
		p.at += lf + 1
		s.state, s.bareLF = lineStart, false
	}
	return nil
}

// resolve decides, by the octet that follows, what the octets that were held back mean.
func (s *scanner) resolve(p *pass) (end bool, err error) {
	held, next := s.state, p.src[p.at]
	switch {
	case held == heldDot && next == '\r':
		p.put(p.at, "", p.at+1)
		s.state = heldDotCR
	case held == heldDot && next == '\n':
		p.put(p.at, ".\r\n", p.at+1)
		s.state, s.bareLF = lineStart, true
	case held == heldDot: // the dot was there to be removed
		p.put(p.at, "", p.at)
		s.state = inLine
	case next != '\n':
		return false, strayCR(next)
	case held == heldDotCR && !s.bareLF:
		p.put(p.at, "", p.at+1)
		return true, nil
	case held == heldDotCR:
		p.put(p.at, ".\r\n", p.at+1)
		s.state, s.bareLF = lineStart, false
	default:
		p.put(p.at, "\r\n", p.at+1)
		s.state, s.bareLF = lineStart, false
	}
	return false, nil
}

// strayCR returns the error for a CR that next follows in place of LF.
func strayCR(next byte) error {
	if next == '\r' {
		return errDoubledCR
	}
	return errBareCR
}

// finish ends a body sent with BDAT. It returns the line end that the last line lacks, which RFC 5321 section 4.1.1.4
// has the next hop's client add in any case.
func (s *scanner) finish() ([]byte, error) {
	switch s.state {
	case heldCR:
		return nil, errBareCR
	case inLine:
		return dotEnd[1:], nil
	}
	return nil, nil
}

// dotEnd is the line that ends a body, when CRLF stands before it.
var dotEnd = []byte(".\r\n")
