package relay

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// flush puts the gathered replies on the wire.
func (g *guard) flush() error {
	if len(g.out) == 0 {
		return nil
	}
	g.peer.armWrite(g.peer.srv.tune.write)
	_, err := g.conn.Write(g.out)
	g.tally.lag.add(g.peer.awake(0), 0)
	g.out = g.out[:0]
	if err != nil {
		g.ended = true
	}
	return err
}

// fill reads more octets into buf behind those that are there, after a flush: a client waits for the replies to what
// it sent before it sends more. There is room in buf when the caller used up what a line or a scanner can use. It returns how
// long the client was waited for.
func (g *guard) fill(deadline time.Time, r rest) (waited time.Duration, err error) {
	if err := g.flush(); err != nil {
		return 0, err
	}
	if g.readErr != nil {
		return 0, g.readErr
	}
	if g.r > 0 {
		g.w = copy(g.buf, g.buf[g.r:g.w])
		g.r = 0
	}
	if err := g.peer.arm(deadline, r); err != nil {
		return 0, err
	}
	n, err := g.conn.Read(g.buf[g.w:])
	waited = g.peer.awake(n)
	g.w += n
	if n > 0 {
		g.readErr = err
		return waited, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if why := g.peer.interrupted(r); why != nil {
			return waited, why
		}
	}
	return waited, err
}

// line returns the next command line without its line end and trailing spaces (RFC 5321 section 4.1.1). A bare LF
// ends a command too: old devices send it, and where a command ends decides nothing about where a body does. The
// whole line must come within one deadline, octet by octet or not, and all lines of a session within another.
func (g *guard) line() (string, error) {
	var deadline time.Time
	looked := 0
	for {
		if i := bytes.IndexByte(g.buf[g.r+looked:g.w], '\n'); i >= 0 {
			line := g.buf[g.r : g.r+looked+i+1]
			if len(line) > maxLine {
				return "", errLineTooLong
			}
			line = bytes.TrimSuffix(line[:len(line)-1], cr)
			switch {
			case hasControl(bytes.TrimSuffix(line, cr)):
				return "", errControl
			case bytes.HasSuffix(line, cr):
				return "", errDoubledEnd
			}
			g.r += looked + i + 1
			return string(bytes.TrimRight(line, " ")), nil
		}
		looked = g.w - g.r
		switch {
		case hasControl(bytes.TrimSuffix(bytes.TrimSuffix(g.buf[g.r:g.w], cr), cr)):
			return "", errControl
		case looked >= maxLine:
			return "", errLineTooLong
		case looked == 0:
			g.shrink()
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(g.patience())
		}
		r := idle
		if g.session.active {
			r = between
		}
		waited, err := g.fill(deadline, r)
		g.tally.lag.add(waited, 0)
		if m := g.session.message; m != nil {
			m.lag.add(waited, 0)
		}
		if err != nil {
			return "", err
		}
	}
}

// patience returns how long the next command may take to come. Between the chunks of a message it is part of the message's own
// time, or chunks would buy a client more time than octets do.
func (g *guard) patience() time.Duration {
	t := &g.peer.srv.tune
	d := min(t.command, t.dawdle-time.Duration(g.tally.lag))
	if m := g.session.message; m != nil {
		d = min(d, t.grace-time.Duration(m.lag))
	}
	return d
}

var cr = []byte{'\r'}

func hasControl(line []byte) bool {
	return bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// grow makes room for a body that is larger than the small buffer.
func (g *guard) grow() {
	if g.big != nil {
		return
	}
	g.big = g.peer.srv.buffers.Get().(*[bodyBuffer]byte)
	g.w = copy(g.big[:], g.buf[g.r:g.w])
	g.r, g.buf = 0, g.big[:]
}

// shrink gives the large buffer back once all that was in it is used.
func (g *guard) shrink() {
	g.r, g.w = 0, 0
	if g.big != nil {
		g.peer.srv.buffers.Put(g.big)
		g.big, g.buf = nil, g.small
	}
}

// fillBody reads more of a body whose lag is l. It returns io.ErrUnexpectedEOF when the client is gone and errTooSlow when it
// is slower than the tuning allows.
func (g *guard) fillBody(l *lag) error {
	if g.w == len(g.buf) {
		g.grow()
	}
	t := &g.peer.srv.tune
	before := g.w - g.r
	waited, err := g.fill(time.Now().Add(min(t.block, t.grace-time.Duration(*l))), working)
	l.add(waited, octetsWorth(g.w-g.r-before, t.rate))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errTooSlow
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// readBody reads a body sent with DATA into m, up to and including its end. What comes behind stays in buf. A body
// that m refused is read to its end all the same, up to a bound, so that the client sees the reply.
func (g *guard) readBody(m *message) error {
	for {
		content, n, end, err := m.scan.scan(g.buf[g.r:g.w])
		g.r += n
		if err != nil {
			return err
		}
		m.write(content)
		switch {
		case end:
			return nil
		case m.drained > g.peer.srv.tune.drain:
			return errNoEnd
		}
		if err := g.fillBody(&m.lag); err != nil {
			return err
		}
	}
}

// errNoEnd says that a refused body goes on for too long to be read to its end.
var errNoEnd = errors.New("the refused message does not end")

// readChunk reads the n octets of a BDAT chunk into m.
func (g *guard) readChunk(m *message, n int64) error {
	for n > 0 {
		if g.r == g.w {
			if err := g.fillBody(&m.lag); err != nil {
				return err
			}
		}
		part := g.buf[g.r:min(int64(g.w), int64(g.r)+n)]
		g.r += len(part)
		n -= int64(len(part))
		content, _, _, err := m.scan.scan(part)
		if err != nil {
			return err
		}
		m.write(content)
		if m.drained > g.peer.srv.tune.drain {
			return errNoEnd
		}
	}
	return nil
}

// skip reads n octets that nobody wants.
func (g *guard) skip(n int64, l *lag) error {
	for n > 0 {
		if g.r == g.w {
			if err := g.fillBody(l); err != nil {
				return err
			}
		}
		part := min(n, int64(g.w-g.r))
		g.r += int(part)
		n -= part
	}
	return nil
}
