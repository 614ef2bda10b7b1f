//go:build peers

package peers

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The addresses in the network namespace of the test, from the blocks for documentation (RFC 5737, RFC 3849).
const (
	relayAddress  = "192.0.2.1"
	clientAddress = "192.0.2.77"
	relayIPv6     = "2001:db8::1"
	clientIPv6    = "2001:db8::77"
)

// enterNamespace puts all programs of r from here on into a network namespace with these addresses. It is gone when
// the last of its programs has ended. It reports whether there is IPv6.
func enterNamespace(t *testing.T, r *room) (ipv6 bool) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8) to set up a network namespace with")
	}
	if out, err := exec.Command("unshare", "--net", "true").CombinedOutput(); err != nil {
		t.Skipf("this machine lets nobody make a network namespace: %s", out)
	}
	holder := r.startIn(t, "namespace", os.Environ(), syscall.CLONE_NEWNET, "sleep", "600")
	r.within = []string{"nsenter", "--net", "--target", fmt.Sprint(holder.pid()), "--"}
	r.must(t, nil, "ip", "link", "set", "lo", "up")
	for _, address := range []string{relayAddress, clientAddress} {
		r.must(t, nil, "ip", "addr", "add", address+"/32", "dev", "lo")
	}
	ipv6 = true
	for _, address := range []string{relayIPv6, clientIPv6} {
		if _, code := r.run(t, nil, "ip", "addr", "add", address+"/128", "dev", "lo"); code != 0 {
			ipv6 = false
		}
	}
	return ipv6
}

// lan is relayd and a client, each at its own addresses.
type lan struct {
	room      room
	relay     *relay
	smarthost *postfix
}

// swaks sends m from one address to the other, and returns the dialogue and the exit code.
func (l *lan) swaks(t *testing.T, from, to string, m message) (string, int) {
	t.Helper()
	file := l.room.write(t, m.id+".txt", m.wire())
	argv := []string{"swaks", "--local-interface", from, "--server", to, "--port", l.relay.port, "--helo", "client.lan.example",
		"--from", sender, "--to", ann, "--data", "@" + file, "--no-data-fixup"}
	if strings.Contains(to, ":") {
		argv = append(argv, "-6")
	}
	return l.room.run(t, nil, argv...)
}

func (l *lan) mustRefuse(t *testing.T, from, to, add string) {
	t.Helper()
	out, code := l.swaks(t, from, to, plain("refused"))
	if code == 0 || strings.Contains(out, "MAIL FROM") {
		t.Errorf("%s got beyond the greeting, exit code %d:\n%s", from, code, out)
	}
	for _, words := range []string{"554 5.7.1 " + from + " ", add, "trusted_networks in " + l.relay.config} {
		if !strings.Contains(out, words) {
			t.Errorf("%s is not told %q:\n%s", from, words, out)
		}
	}
}

// mustAccept also waits for the mail at the smarthost. literal is how relayd writes the client's address.
func (l *lan) mustAccept(t *testing.T, from, to, literal string) {
	t.Helper()
	m := plain(literal)
	if out, code := l.swaks(t, from, to, m); code != 0 {
		t.Fatalf("%s: exit code %d\n%s", from, code, out)
	}
	waitForMail(t, l.smarthost.mailbox(ann), m).mustTrace(t, "Received: from client.lan.example (["+literal+"]) by "+relayName)
}

func (l *lan) trust(t *testing.T, networks string) {
	t.Helper()
	s := l.relay.settings
	s.trusted = networks
	l.relay.configure(t, s)
	l.relay.reload(t)
}

func TestTrust_AStrangerIsToldWhatToAddAndLetInWhenItWas(t *testing.T) {
	t.Parallel()
	l := &lan{room: newRoom(t)}
	ipv6 := enterNamespace(t, &l.room)
	ca := newAuthority(t, l.room)
	l.smarthost = startSmarthost(t, l.room, ca.issue(t, "smarthost.example", postfixUser))
	// The listener is one socket for both, so that the IPv4 client comes as ::ffff:192.0.2.77.
	l.relay = startRelay(t, l.room, settings{host: l.smarthost.addr(), username: username, password: password, ca: ca.file,
		everywhere: true, trusted: `["10.0.0.0/8"]`})

	l.mustRefuse(t, clientAddress, relayAddress, `"192.0.2.77/32"`)
	if ipv6 {
		l.mustRefuse(t, clientIPv6, relayIPv6, `"2001:db8::77/128"`)
	}
	l.mustAccept(t, "127.0.0.1", "127.0.0.1", "127.0.0.1")

	l.trust(t, `["10.0.0.0/8", "192.0.2.77/32"]`)
	l.mustAccept(t, clientAddress, relayAddress, clientAddress)
	if ipv6 {
		l.mustRefuse(t, clientIPv6, relayIPv6, `"2001:db8::77/128"`)
		l.trust(t, `["192.0.2.77", "2001:db8::/32"]`)
		l.mustAccept(t, clientIPv6, relayIPv6, "IPv6:"+clientIPv6)
	}
	l.mustRefuse(t, relayAddress, relayAddress, `"192.0.2.1/32"`)
	l.relay.waitUntilEmpty(t)
}
