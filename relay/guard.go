package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"relayd/internal/envelope"
)

// guard is the net.Conn that the library talks to. Read gives it one command line at a time, and only lines that the
// guard found well-formed and in order; Write takes its replies. Everything else that goes over the wire (bodies,
// chunks, STARTTLS, refusals of what the library need not see) is the guard's own. It belongs to the one goroutine
// that the library runs for the connection.
type guard struct {
	peer    *peer
	conn    net.Conn             // nil when it is closed, or went on to the guard of its TLS session
	tls     *tls.ConnectionState // nil on a plain connection
	session *session

	small   []byte // the buffer between bodies
	big     *[bodyBuffer]byte
	buf     []byte // small, or big while there is much to read
	r, w    int    // buf[r:w] came from the wire and is not used yet
	readErr error

	hand []byte // what the library reads next
	hold []byte // where hand is kept

	out     []byte // replies that are not on the wire yet
	midLine bool   // the library has written part of a line
	swap    swap
	verb    string // the command that is being answered
	tally   tally

	ended   bool // nothing more is read: the library sees the end of the connection
	sending bool // the client was not done sending when it ended
}

// swap replaces the next line that the library writes, when that line starts with code.
type swap struct {
	code string
	with []byte
}

// tally counts what a session does to no use, from its start or its last accepted message.
type tally struct {
	errors, recipients, idle int
	lag                      lag
}

var (
	errLineTooLong = errors.New("a command line is too long")
	errControl     = errors.New("a command has control characters")
	errDoubledEnd  = errors.New("a command line ends in CR CR LF")
	errStopping    = errors.New("the relay is shutting down")
	errCrowded     = errors.New("others need the place of a session that waits or is slow")
	errTooSlow     = errors.New("the message came too slowly")
)

func newGuard(p *peer, conn net.Conn, over *tls.Conn) *guard {
	g := &guard{peer: p, conn: conn, small: make([]byte, maxLine)}
	g.buf = g.small
	if over != nil {
		state := over.ConnectionState()
		g.tls = &state
	}
	g.session = &session{guard: g}
	return g
}

// serve starts a library session on g and returns.
func (g *guard) serve() {
	offerTLS := g.tls == nil && g.peer.terms.TLS == TLSStartTLS
	// Serve returns at the second Accept, with the session running in a goroutine of the library's.
	_ = g.peer.library(g.session, offerTLS).Serve(&single{conn: g})
}

// Read gives the library the next command line, or the part of it that p has room for. The only error is io.EOF: why
// a connection ends is the guard's to say, and said by then.
func (g *guard) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			g.peer.logPanic(v)
			g.ended = true
			n, err = 0, io.EOF
		}
	}()
	if len(g.hand) == 0 && !g.next() {
		return 0, io.EOF
	}
	n = copy(p, g.hand)
	g.hand = g.hand[n:]
	return n, nil
}

// next deals with commands until there is one for the library, which is then in hand. It returns false at the end of
// the connection.
func (g *guard) next() bool {
	for !g.ended {
		if g.tallyIsFull() {
			g.leave(reply(421, 7, 0, "too many errors or idle commands; closing"), "too many errors or idle commands")
			break
		}
		line, err := g.line()
		if err == nil && !g.session.active && g.peer.stopped() {
			err = errStopping
		}
		if err != nil {
			g.lineFailed(err)
			break
		}
		if pass := g.admit(line); pass != "" {
			g.give(pass)
			return true
		}
	}
	return false
}

// give hands the library a command line.
func (g *guard) give(line string) {
	g.hold = append(append(g.hold[:0], line...), '\r', '\n')
	g.hand = g.hold
}

// lineFailed says the last words to a client that sent no usable command line.
func (g *guard) lineFailed(err error) {
	switch {
	case errors.Is(err, errStopping):
		g.leave(reply(421, 3, 2, g.peer.terms.set.Hostname+" is shutting down; try again later"), "")
	case errors.Is(err, errCrowded):
		g.leave(crowded, "")
		g.peer.warn(once, "session closed", "", "helo", g.session.helo, "reason", err.Error())
	case errors.Is(err, os.ErrDeadlineExceeded):
		g.leave(reply(421, 4, 2, "no command for too long; closing"), "")
	case errors.Is(err, errLineTooLong):
		g.expel(reply(500, 5, 2, fmt.Sprintf("a command line is longer than %d octets; closing", maxLine)), err.Error())
	case errors.Is(err, errControl) && g.r < g.w && g.buf[g.r] == tlsHandshake:
		g.leave(envelope.Reply{}, "the client speaks TLS to a listener that starts in plain text: "+
			`set the client to STARTTLS, or this listener to tls = "implicit"`)
	case errors.Is(err, errDoubledEnd):
		g.expel(reply(500, 5, 2, "a command line ends in CR CR LF, which the client makes when it turns LF into CR LF twice; "+
			"let it send CR LF; closing"), err.Error())
	case errors.Is(err, errControl):
		g.expel(reply(500, 5, 2, "a command has control characters; closing"), err.Error())
	default:
		g.ended = true
	}
}

// crowded is said to a session whose place others need.
var crowded = reply(421, 3, 2, "too many connections, and this one waits or is slow; try again later")

// tlsHandshake is the first octet of a TLS connection (RFC 8446 section 5.1).
const tlsHandshake = 0x16

// leave ends the session with r, which may be zero, and logs why unless that is "".
func (g *guard) leave(r envelope.Reply, why string) {
	g.ended = true
	if !r.IsZero() {
		g.say(r)
	}
	if why != "" {
		g.peer.warn(several, "session closed", why, "helo", g.session.helo, "reason", why)
	}
}

// expel ends the session of a client that is likely to be sending still.
func (g *guard) expel(r envelope.Reply, why string) {
	g.sending = true
	g.leave(r, why)
}

// Write takes a reply of the library's.
func (g *guard) Write(p []byte) (int, error) {
	if g.conn == nil {
		return 0, net.ErrClosed
	}
	line := p
	if !g.midLine {
		if g.swap.code != "" && bytes.HasPrefix(p, []byte(g.swap.code)) {
			line = g.swap.with
		}
		g.swap = swap{}
		g.count(line)
	}
	g.midLine = len(p) > 0 && p[len(p)-1] != '\n'
	g.out = append(g.out, line...)
	if len(g.out) >= maxUnsent {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// maxUnsent is how many octets of replies a pipelining client may let gather.
const maxUnsent = 8 << 10

// say answers a command in the library's place.
func (g *guard) say(r envelope.Reply) {
	start := len(g.out)
	g.out = appendReply(g.out, r)
	g.count(g.out[start:])
}

// count notes a refusal. Refused recipients are counted apart: a client with a long list may run into the limit of
// recipients for each of them, and is to try the rest in another transaction (RFC 5321 section 4.5.3.1.10).
func (g *guard) count(line []byte) {
	if len(line) < 4 || line[3] != ' ' || (line[0] != '4' && line[0] != '5') {
		return
	}
	if g.verb == "RCPT" {
		g.tally.recipients++
	} else {
		g.tally.errors++
	}
}

func (g *guard) tallyIsFull() bool {
	t := g.peer.srv.tune
	return g.tally.errors > t.errors || g.tally.recipients > t.recipients || g.tally.idle > t.idle
}

// Close ends the connection, once what was said is on the wire. A guard without a connection closes nothing.
func (g *guard) Close() error {
	g.ended = true
	if g.conn == nil {
		return net.ErrClosed
	}
	err := g.flush()
	if g.sending && err == nil {
		g.linger()
	}
	if g.big != nil {
		g.peer.srv.buffers.Put(g.big)
		g.big, g.buf, g.r, g.w = nil, nil, 0, 0
	}
	g.conn.Close()
	g.conn = nil
	g.peer.release()
	return err
}

// linger reads what the client still sends for a bounded while, because closing a socket with unread octets makes the
// kernel reset the connection, and the client then loses the reply that says why.
func (g *guard) linger() {
	if c, ok := g.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	if c, ok := g.peer.raw.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	if g.peer.arm(time.Now().Add(g.peer.srv.tune.linger), idle) == nil {
		io.CopyN(io.Discard, g.peer.raw, g.peer.srv.tune.lingerBytes)
		g.peer.awake(0)
	}
}

// The library asks for none of these while its timeouts are zero.

func (g *guard) LocalAddr() net.Addr              { return g.peer.raw.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr             { return g.peer.raw.RemoteAddr() }
func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// libraryLog is where go-smtp reports faults: panics that it caught in a session.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) {
	l.log.Error("a session failed by a fault in the relay; please report it", "library", fmt.Sprintf(format, v...))
}

func (l libraryLog) Println(v ...any) { l.Printf("%s", fmt.Sprintln(v...)) }
