package relay

import "bytes"

// nulDot looks for lines that are a dot to whoever drops NULs, and are not a dot alone: "\0." leaves here without a dot
// to stuff it, and ends the body at a next hop that drops NULs before it looks for the end. It is fed the content as it
// passes.
type nulDot struct {
	begun bool // not at a line's start
	more  bool // the line has more than NULs and one dot in it
	dot   bool
	nul   bool
}

// scan reports whether such a line ended in p.
func (d *nulDot) scan(p []byte) (found bool) {
	if !d.nul && bytes.IndexByte(p, 0) < 0 {
		d.skim(p)
		return false
	}
	for _, c := range p {
		switch {
		case c == '\n':
			found = found || d.nul && d.dot && !d.more
			*d = nulDot{}
			continue
		case c == '\r': // only before LF
		case c == 0:
			d.nul = true
		case c == '.' && !d.dot:
			d.dot = true
		default:
			d.more = true
		}
		d.begun = true
	}
	return found
}

// skim is scan for a piece without NULs: only its last line matters for the next piece.
func (d *nulDot) skim(p []byte) {
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		*d, p = nulDot{}, p[i+1:]
	}
	if len(p) == 0 {
		return
	}
	switch {
	case p[0] == '.' && !d.begun:
		d.dot = true
		d.more = len(bytes.TrimSuffix(p, cr)) > 1
	case len(bytes.TrimSuffix(p, cr)) > 0:
		d.more = true
	}
	d.begun = true
}
