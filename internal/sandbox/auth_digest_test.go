package sandbox_test

import (
	"cmp"
	"crypto/tls"
	"net"
	netsmtp "net/smtp"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"

	"relayd/internal/sandbox"
)

// scramLogin is SCRAM by a library that the sandbox does not use.
type scramLogin struct {
	mech string
	talk *scram.ClientConversation
}

func (l scramLogin) Start() (string, []byte, error) {
	first, err := l.talk.Step("")
	return l.mech, []byte(first), err
}

func (l scramLogin) Next(challenge []byte) ([]byte, error) {
	answer, err := l.talk.Step(string(challenge))
	return []byte(answer), err
}

func TestAuth_SCRAM(t *testing.T) {
	offer := []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}
	exporter := func(s *tls.ConnectionState) (scram.ChannelBinding, error) { return scram.NewTLSExporterBinding(s) }
	endpoint := func(s *tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.NewTLSServerEndpointBinding(s)
	}
	elsewhere := func(*tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.ChannelBinding{Type: scram.ChannelBindingTLSExporter, Data: []byte(strings.Repeat("x", 32))}, nil
	}
	for name, c := range map[string]struct {
		user, password string
		bind           func(*tls.ConnectionState) (scram.ChannelBinding, error)
		unaware        bool // says that binding was not offered
		offer          []string
		violation      string
		ok             bool
		account        string // "me" unless said
	}{
		"right password":             {"me", "pw", nil, false, offer, "", true, ""},
		"a name with a comma":        {"a,b=c", "pw", nil, false, offer, "", true, "a,b=c"},
		"wrong password":             {"me", "no", nil, false, offer, "", false, ""},
		"another name":               {"you", "pw", nil, false, offer, "", false, ""},
		"bound with tls-exporter":    {"me", "pw", exporter, false, offer, "", true, ""},
		"bound with the certificate": {"me", "pw", endpoint, false, offer, "", true, ""},
		"bound, wrong password":      {"me", "no", exporter, false, offer, "", false, ""},
		"bound to another session":   {"me", "pw", elsewhere, false, offer, "channel binding", false, ""},
		"not offered, and says so":   {"me", "pw", nil, true, offer[:2], "", true, ""},
		"the offer was taken away":   {"me", "pw", nil, true, offer, "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{Username: cmp.Or(c.account, "me"), Password: "pw", Mechanisms: c.offer})
			conn, err := smtp.DialStartTLS(s.Addr(), &tls.Config{RootCAs: s.CertPool(), ServerName: "localhost"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Noop(); err != nil {
				t.Fatal(err)
			}
			client, err := scram.SHA256.NewClient(c.user, c.password, "")
			if err != nil {
				t.Fatal(err)
			}
			login := scramLogin{"SCRAM-SHA-256", client.NewConversation()}
			switch {
			case c.bind != nil:
				state, _ := conn.TLSConnectionState()
				binding, err := c.bind(&state)
				if err != nil {
					t.Fatal(err)
				}
				login = scramLogin{"SCRAM-SHA-256-PLUS", client.NewConversationWithChannelBinding(binding)}
			case c.unaware:
				login.talk = client.NewConversationAdvertisingChannelBinding()
			}
			err = conn.Auth(login)
			if (err == nil) != c.ok || login.talk.Valid() != c.ok {
				t.Errorf("%v; the server proved itself: %v", err, login.talk.Valid())
			}
			// Both clients of the tests send a "*" behind a refusal, which is a violation of theirs.
			if v := strings.Join(s.Violations(), "\n"); (v != "" && c.ok) || !strings.Contains(v, c.violation) {
				t.Errorf("violations: %s", v)
			}
		})
	}
}

func TestAuth_CRAMMD5(t *testing.T) {
	for password, ok := range map[string]bool{"pw": true, "no": false} {
		s := start(t, sandbox.Options{Username: "me", Password: "pw", Mechanisms: []string{"CRAM-MD5"}})
		c, err := netsmtp.Dial(s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.StartTLS(&tls.Config{RootCAs: s.CertPool(), ServerName: "localhost"}); err != nil {
			t.Fatal(err)
		}
		if err := c.Auth(netsmtp.CRAMMD5Auth("me", password)); (err == nil) != ok {
			t.Errorf("%s: %v", password, err)
		}
		if st := s.Stats(); len(s.Violations()) > 0 && ok || st.AuthOK+st.AuthFailed != 1 || (st.AuthOK == 1) != ok {
			t.Errorf("%+v %q", st, s.Violations())
		}
	}
}

func TestTLS_ClientCertificateIsDemandedAndNamed(t *testing.T) {
	s := start(t, sandbox.Options{DemandClient: true, ImplicitAddress: "127.0.0.1:0", OptionalAuth: true, Hostname: "mx.isp.example"})
	config := tlsFor(s)
	if c, err := smtp.DialTLS(s.ImplicitAddr(), config); err == nil {
		if err = c.Noop(); err == nil {
			t.Error("a client without a certificate was let in")
		}
		c.Close()
	}
	own, err := s.ClientCertificate("relay.example.com")
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates, config.ServerName = []tls.Certificate{own}, "mx.isp.example"
	c, err := smtp.DialTLS(s.ImplicitAddr(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := submit(c, text("Subject: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if m := s.Messages()[0]; m.Client != "relay.example.com" || m.ServerName != "mx.isp.example" {
		t.Errorf("%+v", m)
	}
	leaf, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", s.ImplicitAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	tc := tls.Client(raw, config)
	if err := tc.Handshake(); err != nil || !tc.ConnectionState().PeerCertificates[0].Equal(leaf) {
		t.Errorf("Certificate is not the one that is shown: %v", err)
	}
}
