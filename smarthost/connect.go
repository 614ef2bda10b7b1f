package smarthost

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"

	"relayd/internal/envelope"
)

// Reasons for which a session is not good enough for mail although every reply was polite.
var (
	errNoStartTLS = errors.New("it does not offer STARTTLS")
	// errCutShort stands for how a login ended that panicked.
	errCutShort = errors.New("the login was cut short")
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
	pins        []Pin
	lookup      *lookup // nil for an entry that names its host itself
	dial        func(ctx context.Context, network, addr string) (net.Conn, error)
	loops       selfCheck
	maxSize     int64 // as if the host had offered it as its SIZE; 0 for none
	showing     showing
}

// equal reports whether e and f reach the same host in the same way.
func (e *endpoint) equal(f *endpoint) bool {
	return e.hostname == f.hostname && e.addr == f.addr && e.mode == f.mode && e.auth == f.auth && e.login == f.login &&
		e.credentials == f.credentials && e.tokens == f.tokens && e.timeouts == f.timeouts && e.maxSize == f.maxSize && slices.Equal(e.pins, f.pins) &&
		sameTLS(e.tls, f.tls)
}

// connect opens a session that is ready for mail: secured and logged in as the route demands. A failure is a
// *stageError, and always the site's.
func (e *endpoint) connect(ctx context.Context) (*conn, error) {
	if e.tokens != nil && e.login {
		return e.connectWithToken(ctx)
	}
	return e.session(ctx, e.credentials)
}

// session is connect, with shown as the login.
//
// Of several hosts that DNS names the first is taken that gives a session. One that refuses the login ends the search:
// the others would count the same wrong password.
func (e *endpoint) session(ctx context.Context, shown credentials) (*conn, error) {
	if e.lookup == nil {
		return e.connectTo(ctx, e.addr, e.tls, shown)
	}
	dialCtx, cancel := context.WithTimeout(ctx, e.timeouts.Dial)
	targets, err := e.lookup.targets(dialCtx)
	cancel()
	if err != nil {
		return nil, &stageError{stage: stageDial, err: err}
	}
	var first error
	for _, t := range targets {
		c, err := e.connectTo(ctx, t.addr, forTarget(e.tls, t), shown)
		failed, _ := errors.AsType[*stageError](err)
		login := failed != nil && failed.stage == stageAuth && !isLost(failed.err)
		if ctx.Err() == nil {
			e.lookup.tell(t, err == nil || login)
		}
		if err == nil {
			return c, nil
		}
		err = &targetError{target: t.shown(), entry: e.addr, err: err}
		if login || ctx.Err() != nil {
			return nil, err
		}
		first = cmp.Or(first, err)
	}
	return nil, first
}

// connectTo is session, to one address.
func (e *endpoint) connectTo(ctx context.Context, addr string, config *tls.Config, shown credentials) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, e.timeouts.Dial)
	nc, err := e.dial(dialCtx, "tcp", addr)
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
	c.allow(openPatience)
	err = e.open(ctx, c, config, shown)
	c.allow(0)
	if !stop() && err == nil {
		err = &stageError{stage: stageAuth, err: context.Cause(ctx)}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	c.offered = c.caps.maxSize
	c.caps.maxSize = smaller(c.offered, e.maxSize)
	return c, nil
}

func (e *endpoint) open(ctx context.Context, c *conn, config *tls.Config, shown credentials) error {
	if e.mode == ModeImplicit {
		if err := e.handshake(ctx, c, config); err != nil {
			return err
		}
	}
	if reply, err := c.receive(stageGreeting, e.timeouts.Greeting); err != nil {
		return err
	} else if reply.Code != 220 {
		return &stageError{stage: stageGreeting, reply: reply}
	} else if err := e.notOurs(c, reply); err != nil {
		return &stageError{stage: stageGreeting, err: err}
	} else {
		c.banner = bannerOf(reply.Text)
	}
	if err := e.hello(c); err != nil {
		return err
	}
	if e.mode == ModeStartTLS {
		if err := e.startTLS(ctx, c, config); err != nil {
			return err
		}
		if err := e.hello(c); err != nil {
			return err
		}
	}
	if e.login {
		return e.logIn(ctx, c, shown)
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
func (e *endpoint) startTLS(ctx context.Context, c *conn, config *tls.Config) error {
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
	return e.handshake(ctx, c, config)
}

func (e *endpoint) handshake(ctx context.Context, c *conn, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeouts.TLS)
	defer cancel()
	c.armRead(e.timeouts.TLS)
	c.armWrite(e.timeouts.TLS)
	tc := tls.Client(c.raw, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return &stageError{stage: stageTLS, err: err}
	}
	c.upgrade(tc)
	c.tls = tls.VersionName(tc.ConnectionState().Version)
	return nil
}

// logIn shows the login, if there is a way to that is good enough and its turn has come.
func (e *endpoint) logIn(ctx context.Context, c *conn, shown credentials) error {
	if c.tls == "" {
		return &stageError{stage: stageAuth, err: errors.New("no login without TLS")}
	}
	state := c.secured()
	m, err := e.choose(c.caps.auth, &state)
	if err != nil {
		return &stageError{stage: stageAuth, err: err}
	}
	done, err := e.showing.enter(ctx, shown.password)
	if err != nil {
		return &stageError{stage: stageAuth, err: err}
	}
	err = errCutShort
	defer func() { done(err) }()
	err = e.logInBy(m, c, &state, shown)
	return err
}

func (e *endpoint) logInBy(m mechanism, c *conn, state *tls.ConnectionState, shown credentials) error {
	c.hide([]byte(shown.password))
	client := m.client(shown)
	scram, mutual := client.(*scramClient)
	if mutual {
		scram.secured(state, e.auth, c.caps.auth)
	}
	reply, err := c.authenticate(client)
	if err != nil {
		return afterChallenge(client, err)
	}
	if reply.Code != 235 {
		return &stageError{stage: stageAuth, reply: reply,
			err: &refusedLogin{mech: m.name, offered: c.caps.auth, reply: reply.String()}}
	}
	if mutual {
		if err := scram.proven(); err != nil {
			return &stageError{stage: stageAuth, err: err}
		}
	}
	c.mech = m.name
	return nil
}

// secured returns the state of the TLS session; the zero value when there is none.
func (c *conn) secured() tls.ConnectionState {
	if tc, ok := c.nc.(*tls.Conn); ok {
		return tc.ConnectionState()
	}
	return tls.ConnectionState{}
}
