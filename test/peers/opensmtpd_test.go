//go:build peers

package peers

import (
	"fmt"
	"os"
	"testing"
)

// startOpenSMTPD runs an OpenSMTPD that hands all mail to a port on loopback. listen are the options of its listener,
// further are lines of its configuration before that. It returns the address of the listener.
func startOpenSMTPD(t *testing.T, r room, name, hostname, nextPort, listen, further string) string {
	t.Helper()
	h, port := r.housed(t, "opensmtpd", name), freePort(t)
	r.mustOwn(t, name+"/var/spool/smtpd", 0, 0o711)
	r.mustOwn(t, name+"/var/lib/opensmtpd/empty", 0, 0o755)
	if err := os.Chmod(r.write(t, name+"/etc/smtpd.conf", fmt.Sprintf(`
smtp max-message-size "20M"
%s
listen on 127.0.0.1 port %s hostname %s %s
action "next" relay host "smtp://127.0.0.1:%s" helo %s
match from any for any action "next"
`, further, port, hostname, listen, nextPort, hostname)), 0o600); err != nil {
		t.Fatal(err)
	}
	d := h.start(t, name, h.houseEnv(), "smtpd", "-d")
	d.waitForPort(t, port)
	return "127.0.0.1:" + port
}

func TestOpenSMTPD_AsLANServerHandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	lan := startOpenSMTPD(t, c.room, "opensmtpd-lan", "lan.example", c.relay.port, "", "")
	sent := shapes("opensmtpd-lan")
	for _, m := range sent {
		if err := submit(lan, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
	}
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, len(sent))
}
