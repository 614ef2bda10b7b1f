// Package smuggling finds content that two mail servers may read as messages of different length. It looks at content
// as it is between SMTP's DATA and its final dot, without dot-stuffing. The relay runs what it takes and what it sends
// through the same [Guard].
package smuggling

import (
	"bytes"
	"errors"
)

var (
	// ErrBareCR reports a CR that no LF follows. Some servers take it for the end of a line.
	ErrBareCR = errors.New("the message has a CR without LF")
	// ErrBareLF reports an LF that follows no CR. Some servers take it for the end of a line.
	ErrBareLF = errors.New("the message has an LF without CR")
	// ErrNULDot reports a line that is a dot and NULs. Nobody stuffs "\x00.", and a server that drops NULs takes it for
	// the end of the message.
	ErrNULDot = errors.New("a line of the message is a dot but for NULs, which some servers take for its end")
)

// Guard checks one message, which it gets in pieces. Its zero value is ready to use.
type Guard struct {
	cr    bool // the last octet was a CR
	begun bool // the current line has an octet
	more  bool // the line has more than NULs and one dot in it
	dot   bool
	nul   bool
}

// Scan returns [ErrBareCR], [ErrBareLF] or [ErrNULDot] if p shows that the content is ambiguous. A line counts when its
// end has come.
func (g *Guard) Scan(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if err := g.lineEnds(p); err != nil {
		return err
	}
	if !g.nul && bytes.IndexByte(p, 0) < 0 {
		g.skim(p)
		return nil
	}
	for _, c := range p {
		switch {
		case c == '\n':
			if g.isDot() {
				return ErrNULDot
			}
			g.newLine()
			continue
		case c == '\r': // only before LF
		case c == 0:
			g.nul = true
		case c == '.' && !g.dot:
			g.dot = true
		default:
			g.more = true
		}
		g.begun = true
	}
	return nil
}

// End returns the error of content that ends here, and whose last line gets the line end that it may lack.
func (g *Guard) End() error {
	switch {
	case g.cr:
		return ErrBareCR
	case g.isDot():
		return ErrNULDot
	}
	return nil
}

func (g *Guard) isDot() bool { return g.nul && g.dot && !g.more }

func (g *Guard) newLine() { *g = Guard{cr: g.cr} }

// lineEnds looks for CR and LF that are not a pair. Go counts octets with vector instructions, so that it costs little
// beside the looking for dots.
func (g *Guard) lineEnds(p []byte) error {
	if g.cr && p[0] != '\n' {
		return ErrBareCR
	}
	crs := bytes.Count(p, []byte{'\r'})
	if g.cr {
		crs++
	}
	before := g.cr
	for rest := p; ; crs-- {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		if i > 0 && rest[i-1] != '\r' || i == 0 && !before {
			return ErrBareLF
		}
		rest, before = rest[i+1:], false
	}
	g.cr = p[len(p)-1] == '\r'
	if g.cr {
		crs--
	}
	if crs != 0 {
		return ErrBareCR
	}
	return nil
}

// skim goes over a piece without NULs: only its last line matters for the next piece.
func (g *Guard) skim(p []byte) {
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		g.newLine()
		p = p[i+1:]
	}
	if len(p) == 0 {
		return
	}
	text := bytes.TrimSuffix(p, []byte{'\r'})
	switch {
	case p[0] == '.' && !g.begun:
		g.dot = true
		g.more = len(text) > 1
	case len(text) > 0:
		g.more = true
	}
	g.begun = true
}
