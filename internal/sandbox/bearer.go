package sandbox

import (
	"encoding/base64"
	"errors"
	"strings"
)

// isBearer reports whether a mechanism shows an OAuth2 access token.
func isBearer(mechanism string) bool { return mechanism == "XOAUTH2" || mechanism == "OAUTHBEARER" }

// bearer reads the one message of XOAUTH2, "user=NAME^Aauth=Bearer TOKEN^A^A", or of OAUTHBEARER, "n,a=NAME,^Aauth=Bearer
// TOKEN^A^A" with key and value pairs in any order (RFC 7628 section 3.1).
func (c *session) bearer(mechanism, message string) (credentials, error) {
	malformed := func() (credentials, error) {
		c.violation("AUTH %s with a malformed message", mechanism)
		return credentials{}, refusal("501 5.5.2 malformed credentials")
	}
	fields, whole := strings.CutSuffix(message, "\x01\x01")
	parts := strings.Split(fields, "\x01")
	if !whole || len(parts) < 2 {
		return malformed()
	}
	var got credentials
	if mechanism == "XOAUTH2" {
		got.user, whole = strings.CutPrefix(parts[0], "user=")
	} else {
		name, isGS2 := strings.CutPrefix(parts[0], "n,a=")
		got.user, whole = strings.CutSuffix(name, ",")
		got.user = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(got.user)
		whole = whole && isGS2
	}
	for _, part := range parts[1:] {
		if token, ok := strings.CutPrefix(part, "auth=Bearer "); ok {
			got.password = token
		}
	}
	if !whole || got.user == "" || got.password == "" {
		return malformed()
	}
	return got, nil
}

// challenge says why a token is not taken, and takes the answer without a meaning that has to come before the refusal:
// nothing in XOAUTH2, %x01 in OAUTHBEARER (RFC 7628 section 3.2.3).
func (c *session) challenge(mechanism string) error {
	want, why := "", `{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}`
	if mechanism == "OAUTHBEARER" {
		want, why = "\x01", `{"status":"invalid_token","schemes":"bearer"}`
	}
	answer, err := c.ask("334 " + base64.StdEncoding.EncodeToString([]byte(why)))
	if no := refusal(""); errors.As(err, &no) {
		c.violation("AUTH %s: the challenge with the error was answered by giving up", mechanism)
		return nil
	}
	if err == nil && answer != want {
		c.violation("AUTH %s: the challenge with the error was answered with %d octets", mechanism, len(answer))
	}
	return err
}
