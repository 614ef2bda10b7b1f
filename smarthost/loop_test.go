package smarthost

import (
	"net/netip"
	"testing"

	"relayd/internal/sandbox"
)

func TestLoop_HostThatIsTheRelayItself(t *testing.T) {
	real := startSandbox(t, strict(sandbox.Options{Hostname: "mx.isp.example"}))
	same := startSandbox(t, strict(sandbox.Options{Hostname: "Relay.Example.com"}))
	self := func(s ...string) func(netip.AddrPort) bool {
		return func(a netip.AddrPort) bool {
			for _, addr := range s {
				if a.String() == addr {
					return true
				}
			}
			return false
		}
	}
	for name, c := range map[string]struct {
		addr   string
		isSelf func(netip.AddrPort) bool
		stage  string // "" for delivery
		words  string
	}{
		"by its address":              {real.Addr(), self(real.Addr()), "dial", "is this relay itself"},
		"by its name":                 {same.Addr(), nil, "greeting", "calls itself relay.example.com"},
		"another":                     {real.Addr(), nil, "", ""},
		"another, on the same box":    {real.Addr(), self("127.0.0.1:25"), "", ""},
		"its namesake, not listening": {same.Addr(), self("127.0.0.1:25"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := map[string]*sandbox.Server{real.Addr(): real, same.Addr(): same}[c.addr]
			route := login(ModeStartTLS)
			route.Name, route.Hosts, route.RootCAs = "isp", []string{c.addr}, server.CertPool()
			r := newTestRouter(t, Options{Routes: []Route{route}, IsSelf: c.isSelf})
			a := r.Deliver(t.Context(), "isp", mail(hello))
			h := r.Status()[0].Hosts[0]
			if c.stage == "" {
				wantDelivered(t, a, c.addr)
				return
			}
			wantSite(t, a, c.stage)
			if h.State != StateLooping || !contains(h.Problem, c.words) || !contains(h.Problem, "[[smarthost]] isp") {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestLoop_CommonNamesSayNothing(t *testing.T) {
	for _, c := range []struct {
		ours, text string
		loop       bool
	}{
		{"relay.example.com", "relay.example.com ESMTP", true}, {"Relay.Example.com.", "relay.EXAMPLE.com", true},
		{"relay.example.com", "relay.example.com.\nPIPELINING", true}, {"relay.example.com", "mx.example.com", false},
		{"relay.example.com", "", false}, {"relay.example.com", "ESMTP relay.example.com", false},
		{"relay.example.com", "relay.example.community", false}, {"relay", "relay", false}, {"localhost", "localhost", false},
		{"localhost.localdomain", "localhost.localdomain", false}, {"box.localdomain", "box.localdomain", false},
		{"[192.168.1.2]", "[192.168.1.2]", false},
	} {
		err := selfCheck{hostname: c.ours}.name(c.text)
		if (err != nil) != c.loop {
			t.Errorf("%q says %q: %v", c.ours, c.text, err)
		}
	}
}
