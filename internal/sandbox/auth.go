package sandbox

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
)

// credentials are what a client showed.
type credentials struct{ user, password string }

// refusal is a reply that ends an AUTH exchange before there are credentials.
type refusal string

func (r refusal) Error() string { return string(r) }

// maxMechanism is the length of the longest name that a mechanism can have (RFC 4422 section 3.1).
const maxMechanism = 20

// auth runs the AUTH command (RFC 4954).
func (c *session) auth(line string) error {
	mechanism, initial, hasInitial := strings.Cut(strings.TrimSpace(line[len("AUTH"):]), " ")
	mechanism = strings.ToUpper(mechanism)
	if no := c.refuseAuth(mechanism); no != "" {
		_, _, err := c.answer(StageAuthCommand, no, c.shown)
		return err
	}
	prompt := "334 "
	if mechanism == "LOGIN" {
		prompt += c.server.opts.LoginPrompts[0]
	}
	f := c.server.strike(StageAuthCommand, c.shown)
	switch reply, err := c.suffer(f); {
	case err != nil:
		return err
	case reply != "" && !strings.HasPrefix(reply, "3"):
		_, _, err := c.conclude(f, reply, reply)
		return err
	case reply != "": // a prompt of its own, even for a client that sent an initial response
		prompt, hasInitial = reply, false
	}
	got, err := c.exchange(mechanism, initial, hasInitial, prompt)
	if no := refusal(""); errors.As(err, &no) {
		return c.reply(string(no))
	}
	if err != nil {
		return err
	}
	return c.judge(mechanism, got)
}

// refuseAuth returns the reply to an AUTH that cannot begin, or "".
func (c *session) refuseAuth(mechanism string) string {
	switch {
	case c.hello == "":
		c.violation("AUTH before EHLO")
		return "503 5.5.1 EHLO first"
	case !c.has("AUTH") && c.tls == "" && c.has("STARTTLS"):
		c.violation("AUTH before TLS: it was not offered there")
		return "538 5.7.11 Encryption required for requested authentication mechanism"
	case !c.has("AUTH"):
		c.violation("AUTH was not offered")
		return "502 5.5.1 no AUTH here"
	case c.authed:
		c.violation("AUTH after AUTH (RFC 4954 section 4)")
		return "503 5.5.1 already authenticated"
	case c.tx != nil:
		c.violation("AUTH during a mail transaction (RFC 4954 section 4)")
		return "503 5.5.1 not during a mail transaction"
	case !slices.Contains(c.mechanisms(), mechanism):
		c.violation("%s was not offered", c.shown)
		return "504 5.5.4 unrecognized authentication mechanism"
	case isBearer(mechanism) && c.server.opts.VerifyToken != nil:
	case proves(mechanism) && c.server.opts.Password == "":
		return "504 5.5.4 the sandbox can do this mechanism only for one username and password"
	case mechanism != "PLAIN" && mechanism != "LOGIN" && !proves(mechanism):
		return "504 5.5.4 the sandbox shows this mechanism but cannot do it"
	}
	return ""
}

// mechanisms returns the words of the AUTH lines.
func (c *session) mechanisms() []string {
	var all []string
	for _, l := range c.extensions() {
		if keyword(l) == "AUTH" && len(l) > len("AUTH ") {
			all = append(all, strings.Fields(strings.ToUpper(l[len("AUTH "):]))...)
		}
	}
	return all
}

// exchange reads the credentials, which begin with the initial response or with the answer to prompt. PLAIN has authzid
// NUL authcid NUL password (RFC 4616); LOGIN has the name, and the password after a prompt of its own.
func (c *session) exchange(mechanism, initial string, hasInitial bool, prompt string) (credentials, error) {
	if proves(mechanism) {
		return c.prove(mechanism, initial, hasInitial, prompt)
	}
	var first string
	var err error
	switch {
	case !hasInitial:
		first, err = c.ask(prompt)
	case initial != "=": // which RFC 4954 section 4 has for an initial response of no octets
		first, err = c.decode(initial)
	}
	if err != nil {
		return credentials{}, err
	}
	if mechanism == "LOGIN" {
		password, err := c.ask("334 " + c.server.opts.LoginPrompts[1])
		return credentials{first, password}, err
	}
	if isBearer(mechanism) {
		return c.bearer(mechanism, first)
	}
	parts := strings.Split(first, "\x00")
	if len(parts) != 3 || parts[0] != "" && parts[0] != parts[1] {
		c.violation("AUTH PLAIN without authzid, authcid and password (RFC 4616 section 2)")
		return credentials{}, refusal("501 5.5.2 malformed credentials")
	}
	return credentials{parts[1], parts[2]}, nil
}

// ask sends a prompt and returns what the client answers, decoded.
func (c *session) ask(prompt string) (string, error) {
	if err := c.send(prompt); err != nil {
		return "", err
	}
	raw, err := c.readRaw()
	if err != nil {
		return "", err
	}
	c.server.log.line(c.number, client, masked)
	if !strings.HasSuffix(raw, "\r\n") {
		c.violation("a line of the AUTH exchange ends with a bare LF (RFC 5321 section 2.3.8)")
	}
	if c.wire.behind() {
		c.violation("more was sent behind a line of the AUTH exchange (RFC 4954 section 4)")
	}
	line := strings.TrimRight(raw, "\r\n")
	if line == "*" {
		return "", refusal("501 5.7.0 authentication cancelled")
	}
	return c.decode(line)
}

func (c *session) decode(encoded string) (string, error) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		c.violation("a line of the AUTH exchange is not base64 (RFC 4954 section 4)")
		return "", refusal("501 5.5.2 cannot decode")
	}
	return string(text), nil
}

// judge answers credentials.
func (c *session) judge(mechanism string, got credentials) error {
	usual := c.say(cueAuthFailed)
	good := c.accepts(got)
	if isBearer(mechanism) {
		good = c.server.opts.VerifyToken(got.user, got.password)
		if !good {
			if err := c.challenge(mechanism); err != nil {
				return err
			}
		}
	}
	if good {
		usual = c.say(cueAuthOK)
	}
	_, effect, err := c.answer(StageAuth, usual, "AUTH "+mechanism+" "+got.user)
	if effect {
		c.authed, c.user = true, got.user
	}
	c.server.count(func(st *Stats) {
		if effect {
			st.AuthOK++
		} else {
			st.AuthFailed++
		}
	})
	return err
}

func (c *session) accepts(got credentials) bool {
	o := c.server.opts
	if o.Username == "" && o.Password == "" {
		return got.user != "" && got.password != ""
	}
	return got.user == o.Username && subtle.ConstantTimeCompare([]byte(got.password), []byte(o.Password)) == 1
}
