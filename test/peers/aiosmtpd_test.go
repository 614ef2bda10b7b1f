//go:build peers

package peers

import (
	"path/filepath"
	"testing"
)

func TestAiosmtpd_TakesEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	id, port := ca.issue(t, "smarthost.example", 0), freePort(t)
	script, err := filepath.Abs("python/smarthost.py")
	if err != nil {
		t.Fatal(err)
	}
	h := r.housed(t, "aiosmtpd", "aiosmtpd")
	d := h.start(t, "aiosmtpd", h.houseEnv(), "/usr/bin/python3", script, port, id.cert, id.key, username, housePassword, r.path("mail"))
	d.waitForPort(t, port)
	relay := startRelay(t, r, settings{host: "127.0.0.1:" + port, username: username, password: housePassword, ca: ca.file})
	box, sent := maildir(r.path("mail", ann)), shapes("aiosmtpd")
	for _, m := range sent {
		if err := submit("127.0.0.1:"+relay.port, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		waitForMail(t, box, m).mustTrace(t, "Received: by aiosmtpd for "+username)
	}
	relay.waitUntilEmpty(t)
	box.mustHold(t, len(sent))
}
