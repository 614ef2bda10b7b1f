package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// peer is one accepted connection, from accept to close. STARTTLS changes its guard and its library session; it stays
// the same peer.
type peer struct {
	srv   *Server
	terms *terms
	// maxSize is the largest content in octets that this session takes; it stays what EHLO said.
	maxSize int64
	socket  *socket // whose limits count it, nil for a refused connection
	raw     net.Conn
	addr    netip.Addr
	log     *slog.Logger

	mu       sync.Mutex
	rest     rest
	waiting  time.Time // since when the client is waited for; zero while it is not
	lag      lag
	stopping bool
	evicted  bool // it lost its place in the socket's count
	released bool
}

// rest is what a session that waits for its client is waiting for.
type rest uint8

const (
	// working: a body or a chunk.
	working rest = iota
	// replying: that replies are read.
	replying
	// between: the next command of a mail transaction.
	between
	// idle: a command, with no mail transaction open.
	idle
)

// serve starts the SMTP session. It returns when the session is under way, after the handshake of implicit TLS.
func (p *peer) serve() {
	defer p.rescue()
	p.log.Debug("session started", "listener", p.terms.Address)
	if p.terms.TLS != TLSImplicit {
		newGuard(p, p.raw, nil).serve()
		return
	}
	tc, err := p.handshake(time.Now().Add(p.srv.tune.handshake))
	if err != nil {
		p.release()
		return
	}
	newGuard(p, tc, tc).serve()
}

// rescue turns a panic outside of the library's care into the end of this connection.
func (p *peer) rescue() {
	if v := recover(); v != nil {
		p.logPanic(v)
		p.release()
	}
}

func (p *peer) logPanic(v any) {
	p.log.Error("a session failed by a fault in the relay; please report it", "panic", v, "stack", string(debug.Stack()))
}

// release closes the connection and gives up its place. Calls after the first do nothing.
func (p *peer) release() {
	p.mu.Lock()
	again := p.released
	p.released = true
	p.mu.Unlock()
	if again {
		return
	}
	p.raw.Close()
	if p.socket != nil {
		if !p.evicted { // which does not change any more
			p.socket.give(p.addr)
		}
		p.log.Debug("session ended")
	}
	p.srv.discharge(p)
}

// arm begins a wait for the client, which awake ends, and sets the deadline of the next read. stop may interrupt it when r is
// idle, and evict in any case. When one of them came already, arm returns errStopping or errCrowded, and there is nothing to
// read any more.
func (p *peer) arm(deadline time.Time, r rest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cutShort(r); err != nil {
		return err
	}
	p.rest, p.waiting = r, time.Now()
	p.raw.SetReadDeadline(deadline)
	return nil
}

// armWrite begins a wait for the client to read replies, which awake ends. One that has lost its place is not waited for.
func (p *peer) armWrite(limit time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.evicted {
		limit = min(limit, time.Second)
	}
	p.rest, p.waiting = replying, time.Now()
	p.raw.SetWriteDeadline(p.waiting.Add(limit))
}

// awake ends a wait in which the client sent n octets, and returns how long it was.
func (p *peer) awake(n int) (waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	waited = time.Since(p.waiting)
	p.waiting = time.Time{}
	p.lag.add(waited, octetsWorth(n, p.srv.tune.lively))
	return waited
}

// achieved counts what the session got done, as the time that it is worth.
func (p *peer) achieved(worth time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lag.add(0, worth)
}

// slowness returns the session's lag at now, and what it waits for; ok is false while it does not wait for its client, or has
// lost its place.
func (p *peer) slowness(now time.Time) (d time.Duration, r rest, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting.IsZero() || p.evicted || p.released {
		return 0, 0, false
	}
	return time.Duration(p.lag) + now.Sub(p.waiting), p.rest, true
}

// evict ends a session that waits for its client, and gives its place to another at once. It returns false for one that has
// got to work since.
func (p *peer) evict() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting.IsZero() || p.evicted || p.released {
		return false
	}
	p.evicted = true
	p.raw.SetDeadline(time.Unix(1, 0))
	p.socket.give(p.addr)
	return true
}

// stop tells the session that the relay shuts down.
func (p *peer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
	if p.rest == idle && !p.waiting.IsZero() {
		p.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

func (p *peer) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping
}

// interrupted returns why a read in that rest was cut short, or nil when it was not.
func (p *peer) interrupted(r rest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutShort(r)
}

// cutShort is interrupted with p.mu held.
func (p *peer) cutShort(r rest) error {
	switch {
	case p.evicted:
		return errCrowded
	case r == idle && p.stopping:
		return errStopping
	}
	return nil
}

// handshake makes the connection TLS. A failure is logged.
func (p *peer) handshake(until time.Time) (*tls.Conn, error) {
	if err := p.arm(until, idle); err != nil {
		return nil, err
	}
	p.raw.SetWriteDeadline(until)
	tc := tls.Server(p.raw, p.terms.TLSConfig)
	err := tc.Handshake()
	p.awake(0)
	p.raw.SetWriteDeadline(time.Time{})
	if err == nil {
		return tc, nil
	}
	if why := p.interrupted(idle); why != nil {
		return nil, why
	}
	hint := ""
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain && p.terms.TLS == TLSImplicit {
		hint = "this listener speaks TLS from the first octet; set the client to implicit TLS (SMTPS), not STARTTLS or none"
	}
	p.warn(once, "TLS handshake failed", "", "listener", p.terms.Address, "error", err, "hint", hint)
	return nil, err
}

// library returns a go-smtp server for one connection. What it would do with TLS, timeouts and line lengths is the
// guard's; TLSConfig only makes it offer STARTTLS.
func (p *peer) library(session smtp.Session, offerTLS bool) *smtp.Server {
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return session, nil }))
	srv.Domain = p.terms.set.Hostname
	srv.MaxRecipients = p.terms.MaxRecipients
	srv.MaxMessageBytes = p.maxSize
	srv.MaxLineLength = 0
	srv.EnableSMTPUTF8 = true
	srv.EnableDSN = true
	srv.EnableREQUIRETLS = true
	srv.ErrorLog = libraryLog{p.log}
	if offerTLS {
		srv.TLSConfig = p.terms.TLSConfig
	}
	return srv
}

// single is a listener that has one connection to give.
type single struct{ conn net.Conn }

// Accept returns the connection, and io.EOF from then on.
func (l *single) Accept() (net.Conn, error) {
	c := l.conn
	l.conn = nil
	if c == nil {
		return nil, io.EOF
	}
	return c, nil
}

// Close does nothing.
func (l *single) Close() error { return nil }

// Addr is not asked for.
func (l *single) Addr() net.Addr { return nil }
