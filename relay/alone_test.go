package relay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// visit has a client at an address greet, and go.
func (h *house) visit(addr string, names ...string) {
	for _, name := range names {
		p := &peer{srv: h.Server, terms: &terms{set: h.set, Listener: h.set.Listeners[0]}, addr: netip.MustParseAddr(addr), log: h.set.Log}
		h.alone.session(p.addr)
		if h.set.trusts(p.addr) {
			h.noteName(p, name)
		}
	}
}

// Where all clients come from one address that may stand for many, the relay may be open to whoever reaches that. It is said
// only when that is likely, and not when the address itself is listed.
func TestAlone_OneAddressForAllIsDoubted(t *testing.T) {
	many := func(n int, form string) (names []string) {
		for i := range n {
			names = append(names, strings.ReplaceAll(form, "*", fmt.Sprint(i)))
		}
		return names
	}
	for _, c := range []struct {
		what    string
		trusted []string
		visits  func(h *house)
		want    string
	}{
		{"a gateway with two names", []string{"10.0.0.0/8"}, func(h *house) { h.visit("10.0.2.2", "printer", "nas") }, "10.0.2.2"},
		{"a gateway with ten sessions", []string{"10.0.0.0/8"}, func(h *house) { h.visit("10.0.2.2", many(10, "nas")...) }, "10.0.2.2"},
		{"a gateway with nine", []string{"10.0.0.0/8"}, func(h *house) { h.visit("10.0.2.2", many(9, "nas")...) }, ""},
		{"a gateway that is listed", []string{"10.0.0.0/8", "10.0.2.2/32"}, func(h *house) { h.visit("10.0.2.2", many(20, "n*")...) }, ""},
		{"a gateway that is not trusted", []string{"192.168.0.0/16"}, func(h *house) { h.visit("10.0.2.2", many(20, "n*")...) }, ""},
		{"a gateway among others", []string{"10.0.0.0/8"}, func(h *house) { h.visit("10.0.2.3", "x"); h.visit("10.0.2.2", many(20, "n*")...) }, ""},
		{"a gateway, and a stranger", []string{"10.0.0.0/8"}, func(h *house) { h.visit("192.0.2.1", ""); h.visit("10.0.2.2", many(20, "n*")...) }, ""},
		{"a gateway, and this machine", []string{"10.0.0.0/8"}, func(h *house) { h.visit("127.0.0.1", "localhost"); h.visit("10.0.2.2", many(20, "n*")...) }, "10.0.2.2"},
		{"one mail server", []string{"10.0.0.0/8"}, func(h *house) { h.visit("10.1.1.1", many(50, "mail.example")...) }, ""},
		{"this machine's software", nil, func(h *house) { h.visit("127.0.0.1", "localhost", "[127.0.0.1]", "relay.test", "app.example") }, ""},
		{"this machine for many", nil, func(h *house) { h.visit("127.0.0.1", "printer", "nas", "camera") }, "127.0.0.1"},
		{"this machine for many, on purpose", []string{"127.0.0.1/32"}, func(h *house) { h.visit("127.0.0.1", many(5, "n*")...) }, ""},
	} {
		h := open(t, func(o *Options, _ *tuning) {
			for _, n := range c.trusted {
				o.Trusted = append(o.Trusted, netip.MustParsePrefix(n))
			}
			o.Forwards = func(a netip.Addr) bool { return a.String() == "10.0.2.2" }
		})
		c.visits(h)
		got := strings.Join(h.Troubles(), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.what, got)
		}
		if n := strings.Count(h.log.String(), "one address seems to stand for many clients"); n > 1 || (n == 1) != (c.want != "") {
			t.Errorf("%s: %d lines of the log", c.what, n)
		}
	}
}

// Loopback's trust can be taken away.
func TestServer_LoopbackMayBeDistrusted(t *testing.T) {
	h := start(t, func(o *Options, _ *tuning) { o.DistrustLoopback = true })
	c := h.dial()
	c.expect("554 5.7.1 127.0.0.1 may not relay here: *")
	c.conn.Close()
}
