//go:build peers

package peers

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// withSTARTTLS makes relayd's listener offer TLS with a certificate of the test's authority.
func withSTARTTLS(t *testing.T) func(*chain, *settings) {
	return func(c *chain, s *settings) {
		id := c.ca.issue(t, relayName, 0)
		s.listener = fmt.Sprintf("tls = \"starttls\"\ncert_file = %q\nkey_file = %q", id.cert, id.key)
	}
}

func TestSwaks_HandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, withSTARTTLS(t))
	for name, way := range map[string]struct {
		options  []string
		protocol string // in relayd's trace field
		saw      string // in the dialogue
	}{
		"EHLO":       {[]string{"--protocol", "ESMTP"}, "ESMTP", "250-PIPELINING"},
		"pipelining": {[]string{"--protocol", "ESMTP", "--pipeline"}, "ESMTP", " -> RCPT TO:<" + ann + ">\n -> DATA\n"},
		"HELO":       {[]string{"--protocol", "SMTP"}, "SMTP", " -> HELO client.lan.example"},
		"STARTTLS": {[]string{"--tls", "--tls-verify", "--tls-ca-path", c.ca.file, "--tls-sni", relayName}, "ESMTPS",
			"TLS started with cipher TLSv1.3"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, m := range shapes("swaks-" + name) {
				file := c.room.write(t, m.id+".txt", m.wire())
				out, code := c.room.run(t, nil, append([]string{"swaks", "--server", "127.0.0.1", "--port", c.relay.port,
					"--helo", "client.lan.example", "--from", sender, "--to", ann, "--data", "@" + file, "--no-data-fixup"}, way.options...)...)
				if len(out) > 4000 {
					out = out[:4000]
				}
				if code != 0 {
					t.Fatalf("%s: exit code %d\n%s", m.id, code, out)
				}
				if !strings.Contains(out, way.saw) {
					t.Errorf("the dialogue has no %q:\n%s", way.saw, out)
				}
				d := waitForMail(t, c.box(ann), m)
				mustBeLoggedIn(t, d)
				d.mustTrace(t, "Received: from client.lan.example ([127.0.0.1]) by "+relayName+" with "+way.protocol+" id")
			}
		})
	}
	c.waitUntilEmpty(t)
}

func TestMsmtp_HandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, withSTARTTLS(t))
	for name, way := range map[string]struct{ options, protocol string }{
		"plain":    {"tls off", "ESMTP"},
		"STARTTLS": {"tls on\ntls_starttls on\ntls_trust_file " + c.ca.file, "ESMTPS"},
	} {
		t.Run(name, func(t *testing.T) {
			config := c.room.write(t, "msmtprc-"+name, "defaults\nhost 127.0.0.1\nport "+c.relay.port+
				"\ndomain client.lan.example\nauth off\nlogfile "+c.room.log("msmtp")+"\n"+way.options+"\naccount default\n")
			for _, m := range shapes("msmtp-" + name) {
				c.room.must(t, m.lf(), "msmtp", "--file="+config, "--from="+sender, "--", ann)
				d := waitForMail(t, c.box(ann), m)
				mustBeLoggedIn(t, d)
				d.mustTrace(t, "Received: from client.lan.example ([127.0.0.1]) by "+relayName+" with "+way.protocol+" id")
			}
		})
	}
	c.waitUntilEmpty(t)
}

// esmtp is libesmtp, which hangs after STARTTLS when the server sends a TLS 1.3 session ticket before it has spoken. It
// writes the header anew, so the body alone is compared.
func TestEsmtp_HandsOverABody(t *testing.T) {
	t.Parallel()
	c := newChain(t, withSTARTTLS(t))
	client := c.room.housed(t, "", "esmtp") // where the relay has its name
	for starttls, protocol := range map[string]string{"disabled": "ESMTP", "required": "ESMTPS"} {
		t.Run(starttls, func(t *testing.T) {
			rc := c.room.write(t, "esmtprc-"+starttls, "hostname = "+relayName+":"+c.relay.port+"\nstarttls = "+starttls+"\n")
			if err := os.Chmod(rc, 0o600); err != nil {
				t.Fatal(err)
			}
			body := "Sent with starttls " + starttls + ".\r\n..\r\n" + attachment(200<<10)
			m := compose("esmtp-"+starttls, "Subject: esmtp\r\n", body)
			out, code := client.runEnv(t, append(client.peerEnv(), "SSL_CERT_FILE="+c.ca.file), m.lf(),
				"esmtp", "-C", rc, "-f", sender, "--", ann)
			if code != 0 {
				t.Fatalf("exit code %d\n%s", code, out)
			}
			var found []delivered
			poll(t, "the body arrives", func() string {
				for _, path := range c.box(ann).files(t) {
					d := readDelivered(t, path)
					if bytes.HasSuffix(d.rest, []byte("\n\n"+strings.ReplaceAll(body, "\r\n", "\n"))) {
						found = append(found, d)
					}
				}
				if len(found) == 0 {
					return "it is not there"
				}
				return ""
			})
			mustBeLoggedIn(t, found[0])
			found[0].mustTrace(t, "by "+relayName+" with "+protocol+" id")
		})
	}
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, 2)
}
