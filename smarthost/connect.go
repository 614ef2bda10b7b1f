package smarthost

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"

	"relayd/internal/envelope"
)

// Reasons for which a session is not good enough for mail although every reply was polite.
var (
	errNoStartTLS = errors.New("it does not offer STARTTLS")
	// errInjected: something stood in the clear behind the reply to STARTTLS, put there to be taken for part of the
	// protected session (CVE-2011-0411).
	errInjected = errors.New("unprotected data followed its reply to STARTTLS, as if somebody had inserted it")
)

// endpoint is one host of a route with all that a connection to it needs.
type endpoint struct {
	hostname    string // our own, for EHLO
	addr        string
	mode        Mode
	auth        string
	credentials credentials
	tokens      TokenSource // in place of a password; nil for none
	login       bool
	timeouts    Timeouts
	tls         *tls.Config
	dial        func(ctx context.Context, network, addr string) (net.Conn, error)
	loops       selfCheck
}

// equal reports whether e and f reach the same host in the same way.
func (e *endpoint) equal(f *endpoint) bool {
	return e.hostname == f.hostname && e.addr == f.addr && e.mode == f.mode && e.auth == f.auth && e.login == f.login &&
		e.credentials == f.credentials && e.tokens == f.tokens && e.timeouts == f.timeouts &&
		e.tls.MinVersion == f.tls.MinVersion && e.tls.RootCAs.Equal(f.tls.RootCAs)
}

// connect opens a session that is ready for mail: secured and logged in as the route demands. A failure is a
// *stageError, and always the site's.
func (e *endpoint) connect(ctx context.Context) (*conn, error) {
	if e.tokens != nil {
		return e.connectWithToken(ctx)
	}
	return e.session(ctx, e.credentials)
}

// session opens one connection and logs in with shown.
func (e *endpoint) session(ctx context.Context, shown credentials) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, e.timeouts.Dial)
	nc, err := e.dial(dialCtx, "tcp", e.addr)
	cancel()
	if err != nil {
		return nil, &stageError{stage: stageDial, err: err}
	}
	cleared, err := e.loops.address(nc)
	if err != nil {
		nc.Close()
		return nil, &stageError{stage: stageDial, err: err}
	}
	c := newConn(nc, e.timeouts)
	c.cleared = cleared
	stop := c.watch(ctx)
	err = e.open(ctx, c, shown)
	if !stop() && err == nil {
		err = &stageError{stage: stageAuth, err: context.Cause(ctx)}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (e *endpoint) open(ctx context.Context, c *conn, shown credentials) error {
	if e.mode == ModeImplicit {
		if err := e.handshake(ctx, c); err != nil {
			return err
		}
	}
	if reply, err := c.receive(stageGreeting, e.timeouts.Greeting); err != nil {
		return err
	} else if reply.Code != 220 {
		return &stageError{stage: stageGreeting, reply: reply}
	} else if err := e.notOurs(c, reply); err != nil {
		return &stageError{stage: stageGreeting, err: err}
	}
	if err := e.hello(c); err != nil {
		return err
	}
	if e.mode == ModeStartTLS {
		if err := e.startTLS(ctx, c); err != nil {
			return err
		}
		if err := e.hello(c); err != nil {
			return err
		}
	}
	if e.login {
		return e.logIn(c, shown)
	}
	return nil
}

// hello says EHLO. A host that does not know it is used with HELO, where neither TLS nor a login is needed (RFC 5321
// section 3.2).
func (e *endpoint) hello(c *conn) error {
	reply, err := c.ask(stageEHLO, "EHLO "+e.hostname)
	extended := true
	if err == nil && reply.Permanent() && e.mode == ModeOff && !e.login {
		reply, err = c.ask(stageEHLO, "HELO "+e.hostname)
		extended = false
	}
	if err != nil {
		return err
	}
	if reply.Code != 250 {
		return &stageError{stage: stageEHLO, reply: reply}
	}
	if err := e.notOurs(c, reply); err != nil {
		return &stageError{stage: stageEHLO, err: err}
	}
	c.caps = capabilities{}
	if extended {
		c.caps = parseCapabilities(reply.Text)
	}
	return nil
}

// notOurs returns a *loopError when the host names itself in reply as this relay does.
func (e *endpoint) notOurs(c *conn, reply envelope.Reply) error {
	if c.cleared {
		return nil
	}
	return e.loops.name(reply.Text)
}

// startTLS secures the session (RFC 3207). What the host said before is forgotten.
func (e *endpoint) startTLS(ctx context.Context, c *conn) error {
	if !c.caps.startTLS {
		return &stageError{stage: stageStartTLS, err: errNoStartTLS}
	}
	reply, err := c.ask(stageStartTLS, "STARTTLS")
	if err != nil {
		return err
	}
	if reply.Code != 220 {
		return &stageError{stage: stageStartTLS, reply: reply}
	}
	if c.br.Buffered() > 0 {
		return &stageError{stage: stageStartTLS, err: errInjected}
	}
	return e.handshake(ctx, c)
}

func (e *endpoint) handshake(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeouts.TLS)
	defer cancel()
	c.armRead(e.timeouts.TLS)
	c.armWrite(e.timeouts.TLS)
	tc := tls.Client(c.raw, e.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return &stageError{stage: stageTLS, err: err}
	}
	c.upgrade(tc)
	c.tls = tls.VersionName(tc.ConnectionState().Version)
	return nil
}

func (e *endpoint) logIn(c *conn, shown credentials) error {
	if c.tls == "" {
		return &stageError{stage: stageAuth, err: errors.New("no login without TLS")}
	}
	list := mechanisms
	if e.tokens != nil {
		list = tokenMechanisms
	}
	m, err := choose(list, e.auth, c.caps.auth)
	if err != nil {
		return &stageError{stage: stageAuth, err: err}
	}
	c.hide([]byte(shown.password))
	client := m.client(shown)
	reply, err := c.authenticate(client)
	if err != nil {
		return afterChallenge(client, err)
	}
	if reply.Code != 235 {
		return &stageError{stage: stageAuth, reply: reply}
	}
	c.mech = m.name
	return nil
}

// serverName is the name that the host's certificate must have.
func serverName(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return strings.TrimSuffix(host, ".")
}
