package smarthost

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/emersion/go-sasl"

	"relayd/internal/envelope"
)

func TestChoose(t *testing.T) {
	bindable := &tls.ConnectionState{Version: tls.VersionTLS12,
		PeerCertificates: []*x509.Certificate{{SignatureAlgorithm: x509.ECDSAWithSHA256, Raw: []byte("certificate")}}}
	for _, c := range []struct {
		wanted, offered, want string
	}{
		{"auto", "LOGIN PLAIN", "PLAIN"},
		{"auto", "CRAM-MD5 LOGIN", "LOGIN"},
		{"login", "LOGIN PLAIN", "LOGIN"},
		{"plain", "LOGIN PLAIN", "PLAIN"},
		{"plain", "LOGIN", ""},
		{"auto", "LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256", "SCRAM-SHA-256"},
		{"auto", "SCRAM-SHA-256 SCRAM-SHA-256-PLUS PLAIN", "SCRAM-SHA-256-PLUS"},
		{"auto", "SCRAM-SHA-1 DIGEST-MD5 CRAM-MD5 PLAIN", "PLAIN"},
		{"auto", "CRAM-MD5", "CRAM-MD5"},
		{"cram-md5", "SCRAM-SHA-256 PLAIN CRAM-MD5", "CRAM-MD5"},
		{"cram-md5", "SCRAM-SHA-256 PLAIN", ""},
		{"scram-sha-256", "SCRAM-SHA-256 SCRAM-SHA-256-PLUS PLAIN", "SCRAM-SHA-256"},
		{"scram-sha-256", "SCRAM-SHA-256-PLUS PLAIN", ""},
		{"auto", "NTLM", ""},
		{"auto", "XOAUTH2 OAUTHBEARER", ""},
		{"auto", "", ""},
		{"auto with tokens", "PLAIN SCRAM-SHA-256-PLUS OAUTHBEARER XOAUTH2", "XOAUTH2"},
		{"auto with tokens", "PLAIN OAUTHBEARER", "OAUTHBEARER"},
		{"oauthbearer with tokens", "XOAUTH2 OAUTHBEARER", "OAUTHBEARER"},
		{"xoauth2 with tokens", "PLAIN OAUTHBEARER", ""},
		{"auto with tokens", "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-256-PLUS", ""},
	} {
		e := &endpoint{credentials: credentials{"me", "pw"}}
		wanted, token := strings.CutSuffix(c.wanted, " with tokens")
		if e.auth = wanted; token {
			e.tokens, e.credentials.password = &tokens{}, ""
		}
		m, err := e.choose(strings.Fields(c.offered), bindable)
		if m.name != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s of %q: got %q, %v", c.wanted, c.offered, m.name, err)
		}
	}
}

// exchange runs an AUTH exchange against a script of the host's part.
func exchange(t *testing.T, client sasl.Client, script ...string) (reply envelope.Reply, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		done := make(chan error)
		go func() { done <- play(there, append(script, "close")) }()
		c := newConn(here, Timeouts{}.orDefaults())
		reply, err = c.authenticate(client)
		c.close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return reply, err
}

func TestAuthenticate(t *testing.T) {
	plain := sasl.NewPlainClient("", "me", "pw")
	if r, err := exchange(t, plain, "C: AUTH PLAIN AG1lAHB3", "S: 235 ok"); err != nil || r.Code != 235 {
		t.Error(r, err)
	}
	// RFC 4954 section 4: a command line has no more than 512 octets, so that a long response waits to be asked for.
	long := strings.Repeat("x", 400)
	r, err := exchange(t, sasl.NewPlainClient("", "me", long), "C: AUTH PLAIN", "S: 334 ", "C: "+b64("\x00me\x00"+long), "S: 235 ok")
	if err != nil || r.Code != 235 {
		t.Error(r, err)
	}
	if r, err := exchange(t, sasl.NewExternalClient(""), "C: AUTH EXTERNAL =", "S: 504 no"); err != nil || r.Code != 504 {
		t.Error(r, err)
	}
	// PLAIN has nothing more to say: the exchange is given up, not guessed on.
	_, err = exchange(t, plain, "C: AUTH PLAIN AG1lAHB3", "S: 334 "+b64("more?"), "C: *", "S: 501 cancelled")
	if !errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
		t.Error(err)
	}
}

func TestAuthenticate_LoginAnswersByOrderAndNoMoreThanTwice(t *testing.T) {
	for _, prompts := range [][2]string{
		{"VXNlcm5hbWU6", "UGFzc3dvcmQ6"}, {b64("Password:"), b64("Username:")}, {"", ""}, {"!", "?"}, {"VXNlcm5hbWU6=", "x y"},
	} {
		login := &loginClient{credentials: credentials{"me", "pw"}}
		r, err := exchange(t, login, "C: AUTH LOGIN", "S: 334 "+prompts[0], "C: bWU=", "S: 334 "+prompts[1], "C: cHc=", "S: 235 ok")
		if err != nil || r.Code != 235 {
			t.Error(prompts, r, err)
		}
	}
	login := &loginClient{credentials: credentials{"me", ""}}
	_, err := exchange(t, login, "C: AUTH LOGIN", "S: 334 a", "C: bWU=", "S: 334 b", "C: ", "S: 334 c", "C: *", "S: 501 cancelled")
	if !errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
		t.Error(err)
	}
}

// chatter answers every challenge.
type chatter struct{}

func (chatter) Start() (string, []byte, error)         { return "X", nil, nil }
func (chatter) Next([]byte) (response []byte, e error) { return []byte("a"), nil }

func TestAuthenticate_EndlessExchangeIsGivenUp(t *testing.T) {
	script := []string{"C: AUTH X"}
	for range maxChallenges {
		script = append(script, "S: 334 ", "C: YQ==")
	}
	script = append(script, "S: 334 ", "C: *", "S: 501 cancelled")
	if _, err := exchange(t, chatter{}, script...); !errors.Is(err, errChallenges) {
		t.Error(err)
	}
}

func TestRouteAndCredentials_PrintWithoutThePassword(t *testing.T) {
	r := Route{Name: "isp", Username: "me", Password: "geheim99"}
	c := credentials{"me", "geheim99"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if s := fmt.Sprintf(format+format+format, r, c, []any{r, c}); contains(s, "geheim99") {
			t.Errorf("%s prints %s", format, s)
		}
	}
}
