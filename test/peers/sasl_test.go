//go:build peers

package peers

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

// newChainOffering is newChain with a smarthost whose Cyrus SASL offers the mechanisms.
func newChainOffering(t *testing.T, mechanisms string, adjust func(*chain, *settings)) *chain {
	t.Helper()
	c := &chain{room: newRoom(t)}
	c.ca = newAuthority(t, c.room)
	id := c.ca.issue(t, "smarthost.example", postfixUser)
	c.smarthost = startSmarthost(t, c.room, id, strings.Fields(mechanisms)...)
	s := settings{host: c.smarthost.addr(), username: username, password: password, ca: c.ca.file}
	if adjust != nil {
		adjust(c, &s)
	}
	c.relay = startRelay(t, c.room, s)
	return c
}

func TestPostfix_MechanismsOfCyrusSASL(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ offered, auth, method string }{
		"the best":               {"PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256", "auto", "SCRAM-SHA-256"},
		"SCRAM by name":          {"PLAIN SCRAM-SHA-256", "scram-sha-256", "SCRAM-SHA-256"},
		"CRAM-MD5 by name":       {"PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256", "cram-md5", "CRAM-MD5"},
		"CRAM-MD5 and no better": {"CRAM-MD5 DIGEST-MD5", "auto", "CRAM-MD5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chain := newChainOffering(t, c.offered, func(_ *chain, s *settings) { s.route = "auth = \"" + c.auth + "\"" })
			m := plain("mechanism")
			if err := submit("127.0.0.1:"+chain.relay.port, m, ann); err != nil {
				t.Fatal(err)
			}
			mustBeLoggedIn(t, waitForMail(t, chain.box(ann), m))
			chain.waitUntilEmpty(t)
			if log := chain.smarthost.maillog(t); !strings.Contains(log, "sasl_method="+c.method+", sasl_username="+username) {
				t.Errorf("the smarthost's log knows no %s:\n%s", c.method, log)
			}
		})
	}
}

// The smarthost would let a password be tried in four ways. Each probe tries it in one.
func TestPostfix_AWrongPasswordIsTriedWithOneMechanism(t *testing.T) {
	t.Parallel()
	c := newChainOffering(t, "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256", func(_ *chain, s *settings) { s.password = "of-last-year" })
	m := plain("wrong-scram-password")
	if err := submit("127.0.0.1:"+c.relay.port, m, ann); err != nil {
		t.Fatal(err)
	}
	c.relay.waitForError(t)
	if out, code := c.relay.ctl(t, "status", "--check"); code != 1 || !strings.Contains(out, "LOGIN REFUSED") ||
		!strings.Contains(out, "SCRAM-SHA-256") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	log := c.smarthost.maillog(t)
	if !strings.Contains(log, "SASL SCRAM-SHA-256 authentication failed") {
		t.Errorf("the smarthost's log knows no refused SCRAM:\n%s", log)
	}
	for _, other := range []string{"PLAIN", "LOGIN", "CRAM-MD5"} {
		if strings.Contains(log, "SASL "+other+" authentication failed") {
			t.Errorf("%s was tried, too", other)
		}
	}
	c.relay.setPassword(t, password)
	c.relay.reload(t)
	mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
	c.box(sender).mustHold(t, 0)
}

// The pin is the fingerprint that openssl prints; the smarthost's authority is one that nobody trusts.
func TestPostfix_APinnedCertificateNeedsNoAuthority(t *testing.T) {
	t.Parallel()
	var pin string
	c := newChainOffering(t, "SCRAM-SHA-256", func(c *chain, s *settings) {
		text, err := os.ReadFile(c.room.path("smarthost.example.cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(block.Bytes)
		pin = hex.EncodeToString(sum[:])
		s.ca = newAuthority(t, newRoom(t)).file
	})
	m := plain("pinned")
	if err := submit("127.0.0.1:"+c.relay.port, m, ann); err != nil {
		t.Fatal(err)
	}
	c.relay.waitForError(t)
	s := c.relay.settings
	s.ca, s.route = "", "pin_sha256 = \""+pin+"\""
	c.relay.configure(t, s)
	c.relay.reload(t)
	mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
}
