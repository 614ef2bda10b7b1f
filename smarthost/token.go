package smarthost

import (
	"context"
	"errors"
	"net"

	"github.com/emersion/go-sasl"
)

// TokenSource gives out the OAuth2 access tokens of a route's account. It is compared by identity, so that it has to be a
// pointer, and the same one over Reconfigure for as long as the account is the same.
type TokenSource interface {
	// Token returns a token to log in with. refused is one that the host has just refused, "" for none; it is not
	// returned again, nor one from before it. An error that has a method Unavailable() bool which says true is an outage
	// that passes; any other wants a person. One that is ErrNoTokenYet makes Probe leave the login alone.
	Token(ctx context.Context, refused string) (string, error)
}

// ErrNoTokenYet is that nobody has given the consent yet from which an account's tokens come.
var ErrNoTokenYet = errors.New("nobody has logged in yet")

const (
	mechXOAUTH2     = "XOAUTH2"
	mechOAuthBearer = "OAUTHBEARER"
)

// tokenMechanisms are the ways to log in with a token, in the order of preference. XOAUTH2 comes first because it is what
// the large providers describe and use themselves; the two are equal in strength.
var tokenMechanisms = []mechanism{
	{mechXOAUTH2, func(c credentials) sasl.Client { return &tokenClient{credentials: c, mech: mechXOAUTH2} }},
	{mechOAuthBearer, func(c credentials) sasl.Client { return &tokenClient{credentials: c, mech: mechOAuthBearer} }},
}

// tokenClient is XOAUTH2 (developers.google.com/gmail/imap/xoauth2-protocol) or OAUTHBEARER (RFC 7628). Both say all at
// once. A host that does not take the token says why in a challenge, which wants an answer without a meaning before the
// refusal itself comes: nothing in XOAUTH2, one %x01 in OAUTHBEARER (RFC 7628 section 3.2.3).
type tokenClient struct {
	credentials
	mech       string
	challenged bool
}

func (t *tokenClient) Start() (mech string, ir []byte, err error) {
	bearer := "\x01auth=Bearer " + t.password + "\x01\x01"
	if t.mech == mechXOAUTH2 {
		return t.mech, []byte("user=" + t.username + bearer), nil
	}
	return t.mech, []byte("n,a=" + saslName(t.username) + "," + bearer), nil
}

func (t *tokenClient) Next([]byte) ([]byte, error) {
	if t.challenged {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	t.challenged = true
	if t.mech == mechXOAUTH2 {
		return []byte{}, nil
	}
	return []byte{1}, nil
}

// saslName writes a name as GS2 has it (RFC 5801 section 4).
func saslName(s string) string {
	var b []byte
	for i := range len(s) {
		switch s[i] {
		case '=':
			b = append(b, "=3D"...)
		case ',':
			b = append(b, "=2C"...)
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

// errTokenRefused is a host that refuses a token in a challenge and then leaves the connection or its own part.
var errTokenRefused = errors.New("it refused the token and broke off")

// afterChallenge makes an exchange that broke after the host had refused the token a refusal.
func afterChallenge(client sasl.Client, err error) error {
	if t, ok := client.(*tokenClient); ok && t.challenged {
		return &stageError{stage: stageAuth, err: errTokenRefused}
	}
	return err
}

// refusesToken reports whether err is the host's refusal of a token.
func refusesToken(err error) bool {
	failed, ok := errors.AsType[*stageError](err)
	return ok && failed.stage == stageAuth &&
		(failed.reply.Code == 535 || failed.reply.Code == 534 || errors.Is(failed.err, errTokenRefused))
}

// noTokenError is that there is nothing to log in with.
type noTokenError struct{ err error }

func (e *noTokenError) Error() string { return e.err.Error() + ". Mail waits" }
func (e *noTokenError) Unwrap() error { return e.err }

// trouble is that of a host that cannot be reached while a token endpoint is away, and of a refused login otherwise.
func (e *noTokenError) trouble() trouble {
	away, ok := errors.AsType[interface {
		error
		Unavailable() bool
	}](e.err)
	if ok && away.Unavailable() || isTimeout(e.err) || errors.Is(e.err, net.ErrClosed) {
		return unreachable
	}
	return loginRefused
}

// connectWithToken is connect with a token, which is there before the host is bothered. The renewed one is shown on a new
// connection, since many hosts end one whose login failed.
func (e *endpoint) connectWithToken(ctx context.Context) (c *conn, err error) {
	err = e.withToken(ctx, func(shown credentials) (err error) {
		c, err = e.session(ctx, shown)
		return err
	})
	return c, err
}

// withToken logs in by show with a token and, when the host refuses it or another connection was refused it just now, once
// more, at once, with the next.
func (e *endpoint) withToken(ctx context.Context, show func(credentials) error) error {
	shown := e.credentials
	for refused := ""; ; refused = shown.password {
		var err error
		if shown.password, err = e.tokens.Token(ctx, refused); err != nil {
			return &stageError{stage: stageAuth, err: &noTokenError{err}}
		}
		if err = show(shown); refused != "" || !refusesToken(err) && !errors.Is(err, errWithheld) {
			return err
		}
	}
}
