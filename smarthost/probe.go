package smarthost

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"relayd/internal/envelope"
)

// The steps of a probe, in the words of an operator.
const (
	StepName        = "name"
	StepConnection  = "connection"
	StepGreeting    = "greeting" // and the reply to EHLO
	StepTLS         = "TLS"      // STARTTLS, or TLS from the first byte
	StepCertificate = "certificate"
	StepAuth        = "AUTH" // whether a login that can be used is offered
	StepLogin       = "login"
)

// Step is one thing that a probe looked at.
type Step struct {
	Name string
	// OK is set when there is nothing wrong; Skipped when it was left alone, which is no failure.
	OK, Skipped bool
	// Detail says what was found or, in a failure, what is wrong and what to do. It holds no secret.
	Detail string
}

// Probed is what a probe found of one host.
type Probed struct {
	Addr  string
	Steps []Step // in order, up to the first that failed
	// Failure is why mail would not go there; nil when it would. Refused is set when the host was asked for the login and
	// did not want it.
	Failure *envelope.Failure
	Refused bool
	// Pin is the digest of the host's key, for Route.Pins, and Fingerprint that of its certificate, in hex with colons, when
	// the certificate leads to no authority that is trusted, or is signed by itself; "" otherwise.
	Pin, Fingerprint string
}

// Probe opens a session with each host of each route of o, one after the other, as for mail: it connects, secures the
// session, logs in, and leaves. No mail transaction is begun. A login is shown to each host of a route once at most (a
// refused token is renewed and shown once more, as for mail), and after one host has refused it, to no other, so that no
// account gets locked. The error is about o.
func Probe(ctx context.Context, o Options) ([]Probed, error) {
	o, err := o.orDefaults()
	if err != nil {
		return nil, err
	}
	own, err := compileReplies(o.Replies)
	if err != nil {
		return nil, err
	}
	var background sync.WaitGroup
	var all []Probed
	for _, spec := range o.Routes {
		refused := false
		for _, addr := range spec.Hosts {
			p := probe{host: newHost(o, spec, addr, own, &background), withhold: refused}
			p.Addr = addr
			p.run(ctx)
			refused = refused || p.Refused
			all = append(all, p.Probed)
		}
	}
	return all, nil
}

// probe is the look at one host.
type probe struct {
	Probed
	host     *host
	withhold bool // do not log in
}

func (p *probe) run(ctx context.Context) {
	e := p.host.endpoint // a copy: the login is a step of its own here
	login := e.login
	e.login = false
	c, err := e.connect(ctx)
	if err != nil {
		p.failed(err)
		return
	}
	defer c.close()
	stop := c.watch(ctx)
	defer stop()
	p.reached(c)
	if login && !p.logIn(ctx, &e, c) {
		return
	}
	c.quit()
}

// logIn shows the login, and reports whether all is well.
func (p *probe) logIn(ctx context.Context, e *endpoint, c *conn) bool {
	offered := "offers " + strings.Join(c.caps.auth, ", ")
	state := c.secured()
	if _, err := e.choose(c.caps.auth, &state); err != nil {
		p.fail(StepAuth, classifyError(p.host.place, &stageError{stage: stageAuth, err: err}))
		return false
	}
	p.ok(StepAuth, offered)
	if p.withhold {
		p.skip(StepLogin, "not tried here, since the host before refused it, and hosts count refused logins")
		return true
	}
	mech, err := p.show(ctx, e, c)
	switch {
	case errors.Is(err, ErrNoTokenYet):
		none, _ := errors.AsType[*noTokenError](err)
		p.skip(StepLogin, none.Unwrap().Error())
		return true
	case err != nil:
		failed, ok := errors.AsType[*stageError](err)
		p.Refused = p.Refused || ok && !failed.reply.IsZero() || refusesSecret(err)
		p.fail(StepLogin, classifyError(p.host.place, err))
		return false
	}
	p.ok(StepLogin, "as "+p.host.place.username+" with "+mech)
	return true
}

// show logs in on c, and returns by which mechanism. A token that is refused is renewed once, as for mail, and the next
// is shown on a connection of its own.
func (p *probe) show(ctx context.Context, e *endpoint, c *conn) (mech string, err error) {
	if e.tokens == nil {
		err = e.logIn(ctx, c, e.credentials)
		return c.mech, err
	}
	used := false
	err = e.withToken(ctx, func(shown credentials) error {
		if !used {
			used = true
			err := e.logIn(ctx, c, shown)
			mech, p.Refused = c.mech, refusesToken(err)
			return err
		}
		again := *e
		again.login = true
		fresh, err := again.session(ctx, shown)
		if err == nil {
			mech, p.Refused = fresh.mech, false
			fresh.quit()
		}
		return err
	})
	return mech, err
}

// reached notes the steps that a session has behind it which is ready but for the login.
func (p *probe) reached(c *conn) {
	for _, name := range p.order() {
		detail := ""
		switch name {
		case StepConnection:
			detail = c.raw.RemoteAddr().String()
		case StepGreeting:
			detail = "EHLO is answered"
			if c.caps.maxSize > 0 {
				detail = fmt.Sprintf("takes messages of up to %d MB", c.caps.maxSize/1e6)
			}
		case StepTLS:
			detail = c.tls
		case StepCertificate:
			detail = certificateDetail(c)
		}
		p.ok(name, detail)
	}
}

// order returns the steps of a session before the login.
func (p *probe) order() []string {
	steps := []string{StepName}
	if host, _, _ := net.SplitHostPort(p.Addr); isAddr(host) {
		steps = nil
	}
	switch p.host.endpoint.mode {
	case ModeStartTLS:
		return append(steps, StepConnection, StepGreeting, StepTLS, StepCertificate)
	case ModeImplicit:
		return append(steps, StepConnection, StepTLS, StepCertificate, StepGreeting)
	}
	return append(steps, StepConnection, StepGreeting)
}

// failed notes how far a session came that err ended, and err itself.
func (p *probe) failed(err error) {
	at := failedStep(err)
	for _, name := range p.order() {
		if name == at {
			break
		}
		p.ok(name, "")
	}
	p.fail(at, classifyError(p.host.place, err))
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	if leaf := shownCertificate(err); leaf != nil && (unknown || selfSigned(leaf)) { // of which a wrong name is told first
		p.Pin, p.Fingerprint = keyPin(leaf).String(), fingerprint(leaf)
	}
}

// fingerprint is the SHA-256 of a certificate as openssl prints it.
func fingerprint(c *x509.Certificate) string {
	digits := strings.Split(strings.TrimSpace(fmt.Sprintf("% X", sha256.Sum256(c.Raw))), " ")
	return strings.Join(digits, ":")
}

// failedStep returns the step at which err ended a session.
func failedStep(err error) string {
	failed, ok := errors.AsType[*stageError](err)
	if !ok {
		return StepConnection
	}
	switch failed.stage {
	case stageDial:
		if _, ok := errors.AsType[*net.DNSError](failed.err); ok {
			return StepName
		}
		return StepConnection
	case stageStartTLS:
		return StepTLS
	case stageTLS:
		if isCertificateError(failed.err) {
			return StepCertificate
		}
		return StepTLS
	}
	return StepGreeting
}

func isCertificateError(err error) bool {
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, pinned := errors.AsType[*pinError](err)
	return verify || pinned
}

func (p *probe) ok(name, detail string) {
	p.Steps = append(p.Steps, Step{Name: name, OK: true, Detail: detail})
}

func (p *probe) skip(name, why string) {
	p.Steps = append(p.Steps, Step{Name: name, OK: true, Skipped: true, Detail: why})
}

func (p *probe) fail(name string, v verdict) {
	p.Failure = &v.Failure
	detail := v.Reason
	if !v.Reply.IsZero() {
		detail = strings.TrimSuffix(v.Reply.String()+": "+v.Reason, ": ")
	}
	p.Steps = append(p.Steps, Step{Name: name, Detail: detail})
}

// certificateDetail says whose certificate the host showed, who vouches for it, and how long.
func certificateDetail(c *conn) string {
	session, ok := c.nc.(*tls.Conn)
	if !ok || len(session.ConnectionState().PeerCertificates) == 0 {
		return ""
	}
	leaf := session.ConnectionState().PeerCertificates[0]
	return fmt.Sprintf("for %s, by %s, until %s", certificateNames(leaf), issuer(leaf), leaf.NotAfter.UTC().Format(time.DateOnly))
}

func issuer(c *x509.Certificate) string {
	switch {
	case len(c.Issuer.Organization) > 0:
		return c.Issuer.Organization[0]
	case c.Issuer.CommonName != "":
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
