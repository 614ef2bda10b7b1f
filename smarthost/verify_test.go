package smarthost

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	"relayd/internal/sandbox"
)

func certificateOf(t *testing.T, s *sandbox.Server) *x509.Certificate {
	t.Helper()
	c, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPin_TheKeyIsTheCheckUnlessThereIsACAFile(t *testing.T) {
	byKey := func(c *x509.Certificate) Pin { return keyPin(c) }
	byCertificate := func(c *x509.Certificate) Pin { return sha256.Sum256(c.Raw) }
	wrong := func(*x509.Certificate) Pin { return Pin{1, 2, 3} }
	for name, c := range map[string]struct {
		kind  sandbox.CertificateKind
		pin   func(*x509.Certificate) Pin
		ca    bool
		words string // of the failure; "" for delivery
	}{
		"key, self-signed":          {sandbox.CertificateSelfSigned, byKey, false, ""},
		"certificate, self-signed":  {sandbox.CertificateSelfSigned, byCertificate, false, ""},
		"key, expired":              {sandbox.CertificateExpired, byKey, false, ""},
		"key, another name":         {sandbox.CertificateWrongName, byKey, false, ""},
		"key, unknown authority":    {sandbox.CertificateOtherCA, byKey, false, ""},
		"wrong pin, self-signed":    {sandbox.CertificateSelfSigned, wrong, false, "has another key than those of pin_sha256"},
		"key and CA":                {sandbox.CertificateGood, byKey, true, ""},
		"key and CA, self-signed":   {sandbox.CertificateSelfSigned, byKey, true, "signed by itself"},
		"key and CA, another name":  {sandbox.CertificateWrongName, byKey, true, "is for wrong-name.example"},
		"wrong pin, good by the CA": {sandbox.CertificateGood, wrong, true, "has another key than those of pin_sha256"},
		"wrong pin, system's roots": {sandbox.CertificateGood, wrong, false, "has another key than those of pin_sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, strict(sandbox.Options{Certificate: c.kind, MaxPerConnection: 1}))
			leaf := certificateOf(t, s)
			route := login(ModeStartTLS)
			route.Pins = []Pin{{9}, c.pin(leaf)}
			g := newRigWith(t, func(o *Options) {
				if !c.ca {
					o.Routes[0].RootCAs = nil
				}
			}, route, s)
			a := g.deliver(t, mail(hello))
			if c.words != "" {
				wantSite(t, a, "tls")
				if !contains(a.Site.Reason, c.words) || g.Status()[0].Hosts[0].State != StateTLSFailed {
					t.Error(a.Site.Reason)
				}
				if st := s.Stats(); st.AuthOK+st.AuthFailed > 0 {
					t.Errorf("%+v", st)
				}
				return
			}
			wantDelivered(t, a, s.Addr())
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
			// crypto/tls resumes no session whose certificate has expired.
			if st := s.Stats(); st.Resumed == 0 && c.kind != sandbox.CertificateExpired {
				t.Errorf("%+v", st)
			}
			// Another key, and the session cannot be resumed: the pin counts.
			if err := s.SetCertificate(c.kind); err != nil {
				t.Fatal(err)
			}
			wantSite(t, g.deliver(t, mail(hello)), "tls")
		})
	}
}

// A pin and a CA both hold at a host that DNS names, too, which may have one of several names.
func TestPin_HoldsAtAHostThatDNSNames(t *testing.T) {
	for name, right := range map[string]bool{"the pinned key": true, "another key": false} {
		t.Run(name, func(t *testing.T) {
			dns := startNameServer(t)
			s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
			dns.address("smtp.isp.example.", "127.0.0.1")
			dns.srv(srvName+".", 0, 1, portOf(t, s.Addr()), "smtp.isp.example.")
			route := login(ModeStartTLS)
			route.Pins = []Pin{{9}}
			if right {
				route.Pins = append(route.Pins, keyPin(certificateOf(t, s)))
			}
			g, _ := newNamedRig(t, dns, route, srvName, s)
			a := g.deliver(t, mail(hello))
			if right {
				wantDelivered(t, a, srvName)
				return
			}
			wantSite(t, a, "tls")
			if st := s.Stats(); st.AuthOK+st.AuthFailed > 0 || st.Connections == 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A password is shown to no session without TLS, whatever the host offers and the route says.
func TestLogin_IsNeverShownInTheClear(t *testing.T) {
	p := &parrot{scriptedConn: scriptedConn{Conn: nowhere{}, said: strings.NewReader("220 h\r\n250-h\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n235 in\r\n")}}
	e := endpoint{hostname: "relay.example.com", addr: villainAddr, mode: ModeOff, auth: AuthAuto, login: true,
		credentials: credentials{username, password}, timeouts: Timeouts{}.orDefaults(),
		dial: func(context.Context, string, string) (net.Conn, error) { return p, nil }}
	_, err := e.connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no login without TLS") {
		t.Errorf("%v", err)
	}
	if heard := p.heard.String(); heard != "EHLO relay.example.com\r\n" {
		t.Errorf("the relay said %q", heard)
	}
}

// The words of the failure hold the line that mends it.
func TestPin_IsReadyToPaste(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{Certificate: sandbox.CertificateSelfSigned}))
	g := newRig(t, login(ModeStartTLS), s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "tls")
	if line := `pin_sha256 = "` + keyPin(certificateOf(t, s)).String() + `"`; !contains(a.Site.Reason, line) {
		t.Errorf("%s is missing in: %s", line, a.Site.Reason)
	}
}

func TestReconfigure_NewPinOrCertificateIsANewEndpoint(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	own, err := s.ClientCertificate("relay.example.com")
	if err != nil {
		t.Fatal(err)
	}
	route := login(ModeStartTLS)
	route.Name, route.Hosts, route.RootCAs = "isp", []string{s.Addr()}, s.CertPool()
	o := Options{Hostname: "relay.example.com", Routes: []Route{route}}
	r := newTestRouter(t, o)
	wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), s.Addr())
	opened := s.Stats().Connections
	for name, change := range map[string]func(*Route){
		"nothing":     func(*Route) {},
		"a pin":       func(r *Route) { r.Pins = []Pin{keyPin(certificateOf(t, s))} },
		"a wrong pin": func(r *Route) { r.Pins = []Pin{{1}} },
		"authorities": func(r *Route) {
			r.RootCAs = s.CertPool()
			r.RootCAs.AddCert(certificateOf(t, s))
		},
		"a name":        func(r *Route) { r.TLSName = "localhost" },
		"a certificate": func(r *Route) { r.Certificates = []tls.Certificate{own} },
	} {
		changed := route
		change(&changed)
		before := r.table.Load().routes[0].hosts[0]
		if err := r.Reconfigure(Options{Hostname: "relay.example.com", Routes: []Route{changed}}); err != nil {
			t.Fatal(err)
		}
		if same := r.table.Load().routes[0].hosts[0] == before; same != (name == "nothing") {
			t.Errorf("%s: the same host: %v", name, same)
		}
		a := r.Deliver(t.Context(), "isp", mail(hello))
		if (a.Site == nil) == (name == "a wrong pin") {
			t.Errorf("%s: %s", name, show(a))
		}
		if err := r.Reconfigure(o); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Connections; n <= opened {
		t.Errorf("%d connections, %d before", n, opened)
	}
}

// handshakeWith dials s and resumes the session of the cache in config, if the server lets it.
func handshakeWith(t *testing.T, s *sandbox.Server, config *tls.Config) (resumed bool, err error) {
	t.Helper()
	nc, err := net.Dial("tcp", s.ImplicitAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	tc := tls.Client(nc, config)
	if err := tc.HandshakeContext(context.Background()); err != nil {
		return tc.ConnectionState().DidResume, err
	}
	c := newConn(tc, Timeouts{}.orDefaults())
	_, err = c.receive(stageGreeting, c.timeouts.Greeting) // which reads the tickets on its way
	return tc.ConnectionState().DidResume, err
}

// Resumption saves the certificates' way over the line. What they are checked for is checked again.
func TestResumedSession_IsHeldToTheSameChecks(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{ImplicitAddress: "127.0.0.1:0", Hostname: "smtp.isp.example"}))
	leaf := certificateOf(t, s)
	spec := Route{RootCAs: s.CertPool(), MinTLS: tls.VersionTLS12, MaxConnections: 1}
	pinned, mispinned := spec, spec
	pinned.Pins, mispinned.Pins = []Pin{keyPin(leaf)}, []Pin{{1}}
	inDomain := target{names: []string{"smtp.isp.example", "isp.example"}}
	elsewhere := target{names: []string{"smtp.isp.example", "other.example"}}
	foreign := target{names: []string{"smtp.isp.example"}}
	foreignRoots := spec
	foreignRoots.RootCAs = x509.NewCertPool()
	for name, c := range map[string]struct {
		first, second *tls.Config
		ok            bool
	}{
		"the same":             {newTLSConfig(spec, "smtp.isp.example"), newTLSConfig(spec, "smtp.isp.example"), true},
		"pinned":               {newTLSConfig(pinned, "smtp.isp.example"), newTLSConfig(pinned, "smtp.isp.example"), true},
		"another pin":          {newTLSConfig(pinned, "smtp.isp.example"), newTLSConfig(mispinned, "smtp.isp.example"), false},
		"found in DNS":         {forTarget(newTLSConfig(spec, ""), inDomain), forTarget(newTLSConfig(spec, ""), inDomain), true},
		"found, one name fits": {forTarget(newTLSConfig(spec, ""), inDomain), forTarget(newTLSConfig(spec, ""), elsewhere), true},
		"found, other roots":   {forTarget(newTLSConfig(spec, ""), inDomain), forTarget(newTLSConfig(foreignRoots, ""), inDomain), false},
		"found, not its name": {forTarget(newTLSConfig(spec, ""), foreign),
			func() *tls.Config {
				c := forTarget(newTLSConfig(spec, ""), target{names: []string{"x.example", "y.example"}})
				c.ServerName = "smtp.isp.example" // the name by which the session was kept
				return c
			}(), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := handshakeWith(t, s, c.first); err != nil {
				t.Fatal(err)
			}
			c.second.ClientSessionCache = c.first.ClientSessionCache
			resumed, err := handshakeWith(t, s, c.second)
			if (err == nil) != c.ok || c.ok && !resumed {
				t.Errorf("resumed: %v; %v", resumed, err)
			}
		})
	}
}

func TestSession_NameInTheHandshakeIsTheHostsOrTLSName(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	to := func(o *Options) { // whatever the name, it is the sandbox
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Addr())
		}
	}
	for i, c := range []struct{ host, tlsName, want string }{
		{"smtp.isp.example:587", "", "smtp.isp.example"},
		{"smtp.isp.example.:587", "", "smtp.isp.example"},
		{"192.0.2.5:587", "smtp.isp.example", "smtp.isp.example"},
		{"alias.example:587", "smtp.isp.example", "smtp.isp.example"},
		{"127.0.0.1:587", "", ""}, // an address has no place there (RFC 6066 section 3)
	} {
		route := login(ModeStartTLS)
		route.TLSName = c.tlsName
		g := newRigWith(t, func(o *Options) { to(o); o.Routes[0].Hosts = []string{c.host} }, route, s)
		wantDelivered(t, g.deliver(t, mail(hello)), c.host)
		if m := s.Messages()[i]; m.ServerName != c.want {
			t.Errorf("%+v: %q", c, m.ServerName)
		}
	}
	g := newRigWith(t, func(o *Options) { to(o); o.Routes[0].Hosts = []string{"alias.example:587"} }, login(ModeStartTLS), s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "tls")
	for _, words := range []string{"is for smtp.isp.example, localhost, 127.0.0.1, ::1 and not for", "alias.example", "tls_name"} {
		if !contains(a.Site.Reason, words) {
			t.Errorf("%q is missing in: %s", words, a.Site.Reason)
		}
	}
}

func TestSession_ClientCertificate(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{DemandClient: true, ImplicitAddress: "127.0.0.1:0"}))
	own, err := s.ClientCertificate("relay.example.com")
	if err != nil {
		t.Fatal(err)
	}
	other, err := startSandbox(t, sandbox.Options{}).ClientCertificate("stranger.example.com")
	if err != nil {
		t.Fatal(err)
	}
	route := login(ModeStartTLS)
	route.Certificates = []tls.Certificate{own}
	wantDelivered(t, newRig(t, route, s).deliver(t, mail(hello)), s.Addr())
	if m := s.Messages()[0]; m.Client != "relay.example.com" {
		t.Errorf("%+v", m)
	}
	for words, certificates := range map[string][]tls.Certificate{
		"wants a client certificate: set client_cert_file": nil,
		"check client_cert_file in [[smarthost]] isp":      {other},
	} {
		route := login(ModeImplicit)
		route.Certificates = certificates
		g := newRig(t, route, s)
		a := g.deliver(t, mail(hello))
		if a.Site == nil || !contains(a.Site.Reason, words) && certificates == nil || g.Status()[0].Hosts[0].State != StateTLSFailed {
			t.Errorf("%q is missing in: %s", words, show(a))
		}
	}
}

func TestCheckNames_TellsTheFirstName(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificateOf(t, s)}}
	err := checkNames(state, s.CertPool(), []string{"a.example", "b.example"})
	if name, ok := errors.AsType[x509.HostnameError](err); !ok || name.Host != "a.example" {
		t.Error(err)
	}
}
