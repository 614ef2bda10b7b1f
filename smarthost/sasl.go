package smarthost

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"relayd/internal/envelope"
)

// credentials are a username and its password. Whatever prints them gets the username alone.
type credentials struct{ username, password string }

func (c credentials) String() string       { return c.username }
func (c credentials) GoString() string     { return c.username }
func (c credentials) LogValue() slog.Value { return slog.StringValue(c.username) }

// mechanism is a way to log in, in the order of preference: the strongest first. SCRAM does not show the host the password
// and has the host prove that it knows it; bound to the TLS session, nobody can pass the login on either. PLAIN and LOGIN
// are equal in strength; PLAIN is a standard and saves a round trip. CRAM-MD5 is the last: a login only goes to a host
// whose certificate was verified, where it protects nothing more than PLAIN does, it is made of MD5, the host has to keep
// the password itself to check it, and hosts are known to offer it and not to be able to.
type mechanism struct {
	name   string
	client func(credentials) sasl.Client
}

var mechanisms = []mechanism{
	{scramSHA256Plus, func(c credentials) sasl.Client { return &scramClient{credentials: c, mech: scramSHA256Plus} }},
	{scramSHA256, func(c credentials) sasl.Client { return &scramClient{credentials: c, mech: scramSHA256} }},
	{sasl.Plain, func(c credentials) sasl.Client { return sasl.NewPlainClient("", c.username, c.password) }},
	{sasl.Login, func(c credentials) sasl.Client { return &loginClient{credentials: c} }},
	{cramMD5, func(c credentials) sasl.Client { return &cramClient{credentials: c} }},
}

// noMechanismError is a host that offers no login that the route allows. Mail does not go without one.
type noMechanismError struct {
	wanted  string // Route.Auth
	offered []string
}

func (e *noMechanismError) Error() string {
	if len(e.offered) == 0 {
		return "it offers no AUTH"
	}
	return fmt.Sprintf("it offers AUTH %s, and auth is %q", strings.Join(e.offered, " "), e.wanted)
}

// choose returns the strongest mechanism that the route allows, the host offers and the session can be used for. Only that
// one is tried: after a refusal, the next would be one more wrong password for a host that counts them. A route with
// tokens has mechanisms of its own, and never falls back on one that shows a password.
func (e *endpoint) choose(offered []string, state *tls.ConnectionState) (mechanism, error) {
	list := mechanisms
	if e.tokens != nil {
		list = tokenMechanisms
	}
	for _, m := range list {
		wanted := e.auth == AuthAuto || strings.EqualFold(e.auth, m.name)
		if wanted && slices.Contains(offered, m.name) && e.canUse(m.name, state) {
			return m, nil
		}
	}
	return mechanism{}, &noMechanismError{wanted: e.auth, offered: offered}
}

// loginClient is LOGIN (draft-murchison-sasl-login) for hosts with prompts of every kind: the first challenge gets the
// username and the second the password, whatever they say. It sends no initial response, which old hosts do not expect.
type loginClient struct {
	credentials
	asked int
}

func (l *loginClient) Start() (mech string, ir []byte, err error) { return sasl.Login, nil, nil }

func (l *loginClient) Next([]byte) ([]byte, error) {
	l.asked++
	switch l.asked {
	case 1:
		return []byte(l.username), nil
	case 2:
		return []byte(l.password), nil
	}
	return nil, sasl.ErrUnexpectedServerChallenge
}

// maxAuthLine is the longest AUTH command, CRLF not counted (RFC 4954 section 4): a longer initial response waits for
// the host's empty challenge.
const maxAuthLine = 510

// maxChallenges bounds an exchange that a host would not let end.
const maxChallenges = 8

var errChallenges = errors.New("its login asks on without end")

// authenticate runs the exchange of RFC 4954 section 4, and returns the host's last word: 235, or its refusal.
func (c *conn) authenticate(client sasl.Client) (envelope.Reply, error) {
	mech, initial, err := client.Start()
	if err != nil {
		return envelope.Reply{}, &stageError{stage: stageAuth, err: err}
	}
	c.hide(initial)
	line := "AUTH " + mech
	if inline := line + " " + encodeResponse(initial); initial != nil && len(inline) <= maxAuthLine {
		line, initial = inline, nil
	}
	reply, err := c.ask(stageAuth, line)
	for range maxChallenges {
		if err != nil || reply.Code != 334 {
			return reply, err
		}
		response := initial
		if initial = nil; response == nil {
			if response, err = client.Next(decodeChallenge(reply.Text)); err != nil {
				return c.cancelAuth(err)
			}
			if _, login := client.(*loginClient); !login { // whose username may well be in a reply
				c.hide(response)
			}
		}
		line = ""
		if len(response) > 0 {
			line = base64.StdEncoding.EncodeToString(response)
		}
		reply, err = c.ask(stageAuth, line)
	}
	return c.cancelAuth(errChallenges)
}

// cancelAuth gives up the exchange (RFC 4954 section 4) for a reason of ours.
func (c *conn) cancelAuth(reason error) (envelope.Reply, error) {
	_, refused := errors.AsType[*proofRefusedError](reason)
	if _, err := c.ask(stageAuth, "*"); err != nil && !refused { // who has refused may well hang up
		return envelope.Reply{}, err
	}
	return envelope.Reply{}, &stageError{stage: stageAuth, err: reason}
}

// encodeResponse writes an initial response; "=" stands for an empty one.
func encodeResponse(b []byte) string {
	if len(b) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(b)
}

// decodeChallenge reads a 334 reply's text. Some hosts write their prompts in plain words; those are passed as they are.
func decodeChallenge(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return []byte(text)
	}
	return b
}
