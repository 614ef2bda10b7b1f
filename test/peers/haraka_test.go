//go:build peers

package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// startHaraka runs a Haraka that takes mail only after STARTTLS and a login, and hands it on to backend. It returns its
// address.
func startHaraka(t *testing.T, r room, id identity, backend *postfix) string {
	t.Helper()
	port, haraka := freePort(t), filepath.Join(installedPeers().dir, "node", "node_modules", "Haraka")
	for name, content := range map[string]string{
		"me":                 "smarthost.example\n",
		"smtp.ini":           "listen=127.0.0.1:" + port + "\nnodes=0\n[headers]\nadd_received=true\n",
		"plugins":            "tls\nauth/flat_file\nqueue/smtp_forward\n",
		"tls.ini":            fmt.Sprintf("key=%s\ncert=%s\n[outbound]\n", id.key, id.cert),
		"auth_flat_file.ini": "[core]\nmethods=PLAIN,LOGIN\n[users]\n" + username + "=" + housePassword + "\n",
		"smtp_forward.ini":   "enable_outbound=true\nhost=127.0.0.1\nport=" + backend.port + "\n",
		"databytes":          "20000000\n",
		"host_list":          "dest.example\nlan.example\n",
	} {
		r.write(t, "haraka/config/"+name, content)
	}
	r.write(t, "haraka/package.json", "{}\n")
	defaults, err := os.ReadFile(filepath.Join(haraka, "config", "connection.ini"))
	if err != nil {
		t.Fatalf("npm's packages are not there: run test/peers/install-node.sh (%v)", err)
	}
	r.write(t, "haraka/config/connection.ini", string(defaults)+"\n[max]\ndata_line_length=2000\n")
	// Haraka asks DNS for each client's name; in this room there is none.
	d := r.housed(t, "", "haraka").start(t, "haraka", os.Environ(), "node", filepath.Join(haraka, "bin", "haraka"), "-c", r.path("haraka"))
	d.waitForPort(t, port)
	return "127.0.0.1:" + port
}

func TestHaraka_TakesEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	backend := startBackend(t, r)
	addr := startHaraka(t, r, ca.issue(t, "smarthost.example", 0), backend)
	relay := startRelay(t, r, settings{host: addr, username: username, password: housePassword, ca: ca.file})
	sent := shapes("haraka")
	for _, m := range sent {
		if err := submit("127.0.0.1:"+relay.port, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		waitForMail(t, backend.mailbox(ann), m)
	}
	relay.waitUntilEmpty(t)
	backend.waitUntilEmpty(t)
	backend.mailbox(ann).mustHold(t, len(sent))
}
