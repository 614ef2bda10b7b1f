//go:build peers

package peers

import (
	"strings"
	"testing"
)

func TestExim_AsSmarthostTakesEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]eximSmarthost{
		"PLAIN after STARTTLS":  {mechanism: "PLAIN", host: "127.0.0.1"},
		"LOGIN after STARTTLS":  {mechanism: "LOGIN", host: "127.0.0.1"},
		"LOGIN in implicit TLS": {mechanism: "LOGIN", host: "::1", implicit: true},
	} {
		t.Run(name, func(t *testing.T) {
			if as.host == "::1" && !hasIPv6() {
				as.host = "127.0.0.1"
			}
			r := newRoom(t)
			ca := newAuthority(t, r)
			smarthost := startEximSmarthost(t, r, ca.issue(t, "smarthost.example", eximUser), as)
			s := settings{host: smarthost.addr(), username: username, password: eximPassword, ca: ca.file}
			if as.implicit {
				s.route = `tls = "implicit"`
			}
			relay := startRelay(t, r, s)
			sent := shapes("exim")
			for _, m := range sent {
				if err := submit("127.0.0.1:"+relay.port, m, ann); err != nil {
					t.Fatalf("%s: %v", m.id, err)
				}
			}
			box := smarthost.mailbox(ann)
			for _, m := range sent {
				waitForMail(t, box, m).mustTrace(t, "Received: from", relayName, "by smarthost.example with esmtpsa", "TLS1.3")
			}
			relay.waitUntilEmpty(t)
			smarthost.waitUntilEmpty(t)
			box.mustHold(t, len(sent))
			if log := smarthost.mainlog(t); !strings.Contains(log, "A=only:"+username) {
				t.Error("the smarthost's log knows no login")
			}
		})
	}
}

func TestExim_AsLANServerHandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, withSTARTTLS(t))
	for name, options := range map[string]string{
		"BDAT in TLS":   "  hosts_require_tls = *\n  tls_verify_certificates = " + c.ca.file + "\n  tls_verify_hosts = *\n  tls_verify_cert_hostnames =\n",
		"BDAT":          "  hosts_avoid_tls = *\n",
		"DATA":          "  hosts_avoid_tls = *\n  hosts_try_chunking =\n",
		"no pipelining": "  hosts_avoid_tls = *\n  hosts_avoid_pipelining = *\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			lan := startEximLAN(t, r, c.relay, options)
			prefix := strings.ReplaceAll(name, " ", "-")
			bySMTP, bySendmail := shapes(prefix+"-smtp"), shapes(prefix+"-sendmail")
			for _, m := range bySMTP {
				if err := submit(lan.addr(), m, ann); err != nil {
					t.Fatalf("%s: %v", m.id, err)
				}
			}
			for _, m := range bySendmail {
				lan.sendmail(t, m, ann)
			}
			for _, m := range append(bySMTP, bySendmail...) {
				mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
			}
			if said := strings.Contains(lan.mainlog(t), " K C=\"250"); said != (name != "DATA") {
				t.Errorf("the client says that it used BDAT: %v", said)
			}
		})
	}
	c.waitUntilEmpty(t)
}
