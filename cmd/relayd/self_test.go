//go:build unix

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"relayd/internal/sandbox"
)

func TestIsSelf(t *testing.T) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		listeners []string
		remote    string
		want      bool
	}{
		{[]string{":25"}, "127.0.0.1:25", true},
		{[]string{":25"}, "127.0.0.1:587", false},
		{[]string{":25"}, "[::1]:25", true},
		{[]string{":25"}, "[::ffff:127.0.0.1]:25", true},
		{[]string{":25"}, "192.0.2.1:25", false},
		{[]string{"0.0.0.0:25"}, "127.0.0.2:25", true},
		{[]string{"192.0.2.1:25"}, "127.0.0.1:25", false},
		{[]string{"192.0.2.1:587", "127.0.0.1:25"}, "127.0.0.1:25", true},
		{[]string{"127.0.0.1:0"}, "127.0.0.1:40000", false},
	} {
		if got := isSelf(c.listeners)(netip.MustParseAddrPort(c.remote)); got != c.want {
			t.Errorf("listeners %v, %s: %v", c.listeners, c.remote, got)
		}
	}
	all := isSelf([]string{":25"})
	for _, a := range own {
		p := netip.MustParsePrefix(a.String())
		if !all(netip.AddrPortFrom(p.Addr(), 25)) {
			t.Errorf("%s is an address of this machine", p.Addr())
		}
	}
}

// A smarthost that is the relay itself is refused before anything is opened.
func TestRelayd_RefusesToBeItsOwnSmarthost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := newSite(t)
	s.write("relayd.toml", fmt.Sprintf(`
hostname = "relay.example"
data_dir = "data"
[[listener]]
address = "127.0.0.1:%d"
[[smarthost]]
hosts = ["127.0.0.1:%d"]
tls = "off"
`, port, port), 0o600)
	p := s.launch()
	if err := p.wait(); err == nil {
		t.Fatal("it started")
	}
	if !strings.Contains(p.log.String(), "is this relay itself") {
		t.Errorf("it says: %s", p.log)
	}
}

// A smarthost that turns out to be the relay itself gets nothing: the mail waits and status says why.
func TestRelayd_NoticesALoopWhenItConnects(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	p := s.start()
	s.configure(fmt.Sprintf("[[smarthost]]\nhosts = [%q]\ntls = \"off\"\n", p.addr)) // a port that only the running relay knows
	p.signal(syscall.SIGHUP)
	p.waitFor("configuration was reloaded")
	p.mustSubmit("a@example.com")
	p.waitFor(`msg="host looping"`)
	if q := s.status().Queue; q.Active+q.Deferred != 1 {
		t.Errorf("%+v", q)
	}
	if problems := strings.Join(s.status().Problems, "\n"); !strings.Contains(problems, "this relay itself") {
		t.Errorf("status says %q", problems)
	}
}
