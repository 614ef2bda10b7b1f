package smarthost

import (
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

// mechanism is a way to log in, in the order of preference: the strongest first. PLAIN and LOGIN are equal in strength;
// PLAIN is a standard and saves a round trip.
type mechanism struct {
	name   string
	client func(credentials) sasl.Client
}

var mechanisms = []mechanism{
	{sasl.Plain, func(c credentials) sasl.Client { return sasl.NewPlainClient("", c.username, c.password) }},
	{sasl.Login, func(c credentials) sasl.Client { return &loginClient{credentials: c} }},
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

// choose returns the strongest of mechanisms that wanted (Route.Auth) allows and the host offers. Only that one is tried:
// after a refusal, the next would be one more wrong password for a host that counts them.
func choose(mechanisms []mechanism, wanted string, offered []string) (mechanism, error) {
	for _, m := range mechanisms {
		if slices.Contains(offered, m.name) && (wanted == AuthAuto || strings.EqualFold(wanted, m.name)) {
			return m, nil
		}
	}
	return mechanism{}, &noMechanismError{wanted: wanted, offered: offered}
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
	if _, err := c.ask(stageAuth, "*"); err != nil {
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
