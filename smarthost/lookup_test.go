package smarthost

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

const srvName = "_submission._tcp.isp.example"

func portOf(t *testing.T, addr string) uint16 {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// closedPort is a port of 127.0.0.1 on which nothing listens while the test runs.
func closedPort(t *testing.T) uint16 {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(sa.(*syscall.SockaddrInet4).Port)
}

// dials records the addresses to which connections were tried.
type dials struct {
	mu   sync.Mutex
	seen []string
}

func (d *dials) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, address)
	return nil
}

func (d *dials) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := d.seen
	d.seen = nil
	return seen
}

// newNamedRig is a rig whose only entry of hosts is the given one, and whose names come from dns.
func newNamedRig(t *testing.T, dns *nameServer, route Route, host string, s *sandbox.Server) (*rig, *dials) {
	t.Helper()
	d := new(dials)
	return newRigWith(t, func(o *Options) {
		o.Routes[0].Hosts, o.Resolver = []string{host}, dns.resolver()
		dialer := &net.Dialer{Resolver: o.Resolver, ControlContext: d.control}
		o.Dial = dialer.DialContext
		o.Timeouts.Dial = time.Minute
	}, route, s), d
}

func TestLookup_SRVNamesTheHostAndItsPort(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example", MaxPerConnection: 1}))
	dns.address("smtp.isp.example.", "127.0.0.1")
	dns.srv(srvName+".", 0, 1, portOf(t, s.Addr()), "smtp.isp.example.")
	g, _ := newNamedRig(t, dns, login(ModeStartTLS), srvName, s)
	for range 3 {
		wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	}
	if m := s.Messages()[0]; m.ServerName != "smtp.isp.example" {
		t.Errorf("the TLS client asked for %q", m.ServerName)
	}
	if n := dns.times("SRV " + srvName + "."); n != 1 {
		t.Errorf("DNS was asked %d times", n)
	}
	if st := s.Stats(); st.Connections < 3 || st.Resumed < 2 || st.AuthOK != st.Connections {
		t.Errorf("%+v", st)
	}
}

func TestLookup_HostThatIsAwayComesLastUntilTheAnswerIsOld(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "two.isp.example", MaxPerConnection: 1}))
	away, port := closedPort(t), portOf(t, s.Addr())
	dns.address("one.isp.example.", "127.0.0.1")
	dns.address("two.isp.example.", "127.0.0.1")
	dns.srv(srvName+".", 10, 0, away, "one.isp.example.")
	dns.srv(srvName+".", 20, 0, port, "two.isp.example.")
	g, d := newNamedRig(t, dns, login(ModeStartTLS), srvName, s)
	wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	one, two := "127.0.0.1:"+strconv.Itoa(int(away)), s.Addr()
	if got := d.take(); !slices.Equal(got, []string{one, two}) {
		t.Errorf("tried %q", got)
	}
	wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	if got := d.take(); slices.Contains(got, one) || len(got) == 0 {
		t.Errorf("tried %q", got)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "dial")
	if !contains(a.Site.Reason, "two.isp.example:") {
		t.Error(a.Site.Reason)
	}
	// Now that all have failed, DNS may know others.
	dns.mu.Lock()
	dns.records["SRV "+srvName+"."] = nil
	dns.mu.Unlock()
	other := startSandbox(t, strict(sandbox.Options{Hostname: "two.isp.example"}))
	dns.srv(srvName+".", 10, 0, portOf(t, other.Addr()), "two.isp.example.")
	g.ProbeNow()
	wantSite(t, g.deliver(t, mail(hello)), "tls") // by another CA, but asked
	if l := g.table.Load().routes[0].hosts[0].endpoint.lookup; l.known(time.Now().Add(lookupTTL+time.Second)) != nil {
		t.Error("an old answer is used")
	}
}

func TestLookup_RefusedLoginIsNotTriedAtTheNextHost(t *testing.T) {
	dns := startNameServer(t)
	hosts := startSandboxes(t, sandbox.Options{Hostname: "one.isp.example", Username: username, Password: "another"},
		strict(sandbox.Options{Hostname: "two.isp.example"}))
	for i, name := range []string{"one.isp.example.", "two.isp.example."} {
		dns.address(name, "127.0.0.1")
		dns.srv(srvName+".", uint16(i), 0, portOf(t, hosts[i].Addr()), name)
	}
	g, _ := newNamedRig(t, dns, login(ModeStartTLS), srvName, hosts[0])
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	if one, two := hosts[0].Stats(), hosts[1].Stats(); one.AuthFailed != 1 || two.Connections != 0 {
		t.Errorf("%+v\n%+v", one, two)
	}
	if h := g.Status()[0].Hosts[0]; h.State != StateLoginRefused || h.Address != srvName {
		t.Errorf("%+v", h)
	}
}

// A token that is renewed goes to the host that refused the one before, and to no other.
func TestLookup_RefusedTokenIsRenewedAtTheSameHost(t *testing.T) {
	dns := startNameServer(t)
	src := &tokens{good: 2}
	hosts := startSandboxes(t, sandbox.Options{Hostname: "one.isp.example", VerifyToken: src.verify},
		sandbox.Options{Hostname: "two.isp.example", VerifyToken: src.verify})
	for i, name := range []string{"one.isp.example.", "two.isp.example."} {
		dns.address(name, "127.0.0.1")
		dns.srv(srvName+".", uint16(i), 0, portOf(t, hosts[i].Addr()), name)
	}
	g, _ := newNamedRig(t, dns, Route{Username: username, Tokens: src}, srvName, hosts[0])
	wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	if one, two := hosts[0].Stats(), hosts[1].Stats(); one.AuthFailed != 1 || one.AuthOK != 1 || two.Connections != 0 {
		t.Errorf("%+v\n%+v", one, two)
	}
}

func TestLookup_HostThatGoesAwayAtTheLoginIsFollowedByTheNext(t *testing.T) {
	dns := startNameServer(t)
	hosts := startSandboxes(t, strict(sandbox.Options{Hostname: "one.isp.example"}), strict(sandbox.Options{Hostname: "two.isp.example"}))
	for i, name := range []string{"one.isp.example.", "two.isp.example."} {
		dns.address(name, "127.0.0.1")
		dns.srv(srvName+".", uint16(i), 0, portOf(t, hosts[i].Addr()), name)
	}
	if err := hosts[0].Inject(sandbox.Fault{Stage: sandbox.StageAuth, Drop: true}); err != nil {
		t.Fatal(err)
	}
	g, _ := newNamedRig(t, dns, login(ModeStartTLS), srvName, hosts[0])
	wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	if n := len(hosts[1].Messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// A forged answer must not lead to a host that is only good for its own name.
func TestLookup_NamesThatACertificateMayHave(t *testing.T) {
	for name, c := range map[string]struct {
		target, certificate, tlsName string
		pinned                       bool
		ok                           bool
		words                        string
	}{
		"the host, within the domain":         {target: "smtp.isp.example", certificate: "smtp.isp.example", ok: true},
		"the domain, for a host within":       {target: "smtp.isp.example", certificate: "isp.example", ok: true},
		"the host is the domain":              {target: "isp.example", certificate: "isp.example", ok: true},
		"the domain, for a host elsewhere":    {target: "mx.provider.example", certificate: "isp.example", ok: true},
		"a host elsewhere":                    {target: "mx.provider.example", certificate: "mx.provider.example", words: `write tls_name = "mx.provider.example"`},
		"a host that only ends like it":       {target: "evil-isp.example", certificate: "evil-isp.example", words: "forge an answer"},
		"another name within":                 {target: "smtp.isp.example", certificate: "www.isp.example", words: "ask its owner"},
		"a host elsewhere, by name":           {target: "mx.provider.example", certificate: "mx.provider.example", tlsName: "mx.provider.example", ok: true},
		"a host elsewhere, by its domain":     {target: "mx.provider.example", certificate: "mx.provider.example", tlsName: "provider.example", ok: true},
		"the domain, when another was named":  {target: "mx.provider.example", certificate: "isp.example", tlsName: "provider.example", words: "not for"},
		"a host elsewhere, with a pinned key": {target: "mx.provider.example", certificate: "mx.provider.example", pinned: true, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dns := startNameServer(t)
			s := startSandbox(t, strict(sandbox.Options{Hostname: c.certificate, MaxPerConnection: 1}))
			dns.address(c.target+".", "127.0.0.1")
			dns.srv(srvName+".", 0, 0, portOf(t, s.Addr()), c.target+".")
			route := login(ModeStartTLS)
			route.TLSName = c.tlsName
			if c.pinned {
				route.Pins = []Pin{keyPin(certificateOf(t, s))}
			}
			d := new(dials)
			g := newRigWith(t, func(o *Options) {
				o.Routes[0].Hosts, o.Resolver = []string{srvName}, dns.resolver()
				o.Dial = (&net.Dialer{Resolver: o.Resolver, ControlContext: d.control}).DialContext
				if c.pinned {
					o.Routes[0].RootCAs = nil
				}
			}, route, s)
			a := g.deliver(t, mail(hello))
			if c.ok {
				wantDelivered(t, a, srvName)
				wantDelivered(t, g.deliver(t, mail(hello)), srvName)
				if st := s.Stats(); st.Resumed == 0 {
					t.Errorf("%+v", st)
				}
				return
			}
			wantSite(t, a, "tls")
			if !contains(a.Site.Reason, c.words) || !contains(a.Site.Reason, "for "+c.certificate) {
				t.Error(a.Site.Reason)
			}
			if st := s.Stats(); st.AuthOK+st.AuthFailed > 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestLookup_DNSThatIsAwayOrSaysNoIsTheSitesFailure(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	dns.address("smtp.isp.example.", "127.0.0.1")
	dns.srv("_submission._tcp.none.example.", 0, 0, 0, ".")
	dns.mx("null.example.", 0, ".")
	for host, words := range map[string]string{
		"_submission._tcp.nowhere.example": "does not exist in DNS",
		"_submission._tcp.none.example":    "DNS says that there is no service",
		"mx:null.example:587":              "DNS says that there is no service",
		"mx:nowhere.example:587":           "does not exist in DNS",
	} {
		g, _ := newNamedRig(t, dns, login(ModeStartTLS), host, s)
		a := g.deliver(t, mail(hello))
		wantSite(t, a, "dial")
		if !contains(a.Site.Reason, words) || !contains(a.Site.Reason, "[[smarthost]] isp") {
			t.Errorf("%s: %s", host, a.Site.Reason)
		}
	}
	dns.setDown(true)
	g, _ := newNamedRig(t, dns, login(ModeStartTLS), srvName, s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "dial")
	if !contains(a.Site.Reason, "cannot be looked up now") || g.Status()[0].Hosts[0].State != StateDown {
		t.Error(a.Site.Reason)
	}
	dns.setDown(false)
	dns.srv(srvName+".", 0, 0, portOf(t, s.Addr()), "smtp.isp.example.")
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), srvName)
	// What is known is used while DNS is away.
	dns.setDown(true)
	if l := g.table.Load().routes[0].hosts[0].endpoint.lookup; l.known(time.Now()) == nil {
		t.Error("the answer was forgotten")
	}
}

func TestLookup_MXByPreferenceAndTheDomainWithoutOne(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "b.isp.example"}))
	_, port, _ := net.SplitHostPort(s.Addr())
	dns.mx("isp.example.", 20, "a.isp.example.")
	dns.mx("isp.example.", 10, "b.isp.example.")
	dns.address("a.isp.example.", "127.0.0.2")
	dns.address("b.isp.example.", "127.0.0.1")
	dns.address("bare.example.", "127.0.0.1")
	g, d := newNamedRig(t, dns, login(ModeStartTLS), "mx:isp.example:"+port, s)
	wantDelivered(t, g.deliver(t, mail(hello)), "mx:isp.example:"+port)
	if got := d.take(); !slices.Equal(got, []string{s.Addr()}) {
		t.Errorf("tried %q", got)
	}
	bare := startSandbox(t, strict(sandbox.Options{Hostname: "bare.example"}))
	_, port, _ = net.SplitHostPort(bare.Addr())
	g, _ = newNamedRig(t, dns, login(ModeStartTLS), "mx:bare.example:"+port, bare)
	wantDelivered(t, g.deliver(t, mail(hello)), "mx:bare.example:"+port)
}

func TestLookup_HostOfDNSThatIsTheRelayItself(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	dns.address("smtp.isp.example.", "127.0.0.1")
	dns.srv(srvName+".", 0, 0, portOf(t, s.Addr()), "smtp.isp.example.")
	g := newRigWith(t, func(o *Options) {
		o.Routes[0].Hosts, o.Resolver, o.Dial = []string{srvName}, dns.resolver(), nil
		o.IsSelf = func(a netip.AddrPort) bool { return a.String() == s.Addr() }
	}, login(ModeStartTLS), s)
	wantSite(t, g.deliver(t, mail(hello)), "dial")
	if h := g.Status()[0].Hosts[0]; h.State != StateLooping || !contains(h.Problem, "smtp.isp.example:") {
		t.Errorf("%+v", h)
	}
}

// Each lot of a draw falls to a record as often as its weight says (RFC 2782).
func TestSortRecords(t *testing.T) {
	first := map[string]int{}
	lots := []record{{host: "none"}, {host: "one", weight: 1}, {host: "three", weight: 3}}
	const sum = 3 + 64*4
	for draw := range sum {
		records := append([]record{{host: "later", priority: 9, weight: 1000}}, lots...)
		once := true
		sortRecords(records, func(n int) int {
			if once && n == sum {
				once = false
				return draw
			}
			return 0
		})
		first[records[0].host]++
		if records[3].host != "later" {
			t.Fatalf("%+v", records)
		}
		hosts := []string{records[0].host, records[1].host, records[2].host}
		if slices.Sort(hosts); strings.Join(hosts, " ") != "none one three" {
			t.Fatalf("%+v", records)
		}
	}
	if first["none"] != 1 || first["one"] != 65 || first["three"] != 193 {
		t.Error(first)
	}
	records := []record{{host: "away", failed: true}, {host: "backup", priority: 5}, {host: "main", priority: 1}}
	sortRecords(records, func(int) int { return 0 })
	if records[0].host != "main" || records[1].host != "backup" || records[2].host != "away" {
		t.Errorf("%+v", records)
	}
}

func TestParseEntry(t *testing.T) {
	for text, want := range map[string]entry{
		"smtp.isp.example:587":           {byName, "smtp.isp.example", "587", ""},
		"smtp.isp.example.:587":          {byName, "smtp.isp.example", "587", ""},
		"[fd00::5]:25":                   {byName, "fd00::5", "25", ""},
		"_submissions._tcp.isp.example":  {bySRV, "isp.example", "", "_submissions._tcp.isp.example"},
		"_submissions._tcp.isp.example.": {bySRV, "isp.example", "", "_submissions._tcp.isp.example"},
		"mx:isp.example:25":              {byMX, "isp.example", "25", ""},
		"mx:25":                          {byName, "mx", "25", ""},
		"_odd.isp.example:25":            {byName, "_odd.isp.example", "25", ""},
		"_submissions._udp.isp.example":  {},
		"_submissions._tcp.":             {},
		"mx:isp.example":                 {},
		"smtp.isp.example":               {},
	} {
		got, err := parseEntry(text)
		if got != want || (err == nil) != (want != entry{}) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
}

func TestDial_EveryAddressOfANameIsTried(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	_, port, _ := net.SplitHostPort(s.Addr())
	dns.address("smtp.isp.example.", "127.0.0.2", "127.0.0.3", "127.0.0.1")
	g, d := newNamedRig(t, dns, login(ModeStartTLS), "smtp.isp.example:"+port, s)
	wantDelivered(t, g.deliver(t, mail(hello)), "smtp.isp.example:"+port)
	if got := d.take(); len(got) != 3 || got[2] != s.Addr() {
		t.Errorf("tried %q", got)
	}
}

// RFC 8305: an address that does not answer holds up the others for a moment only.
func TestDial_IPv6ThatSwallowsEverythingDoesNotHoldUpIPv4(t *testing.T) {
	dns := startNameServer(t)
	s := startSandbox(t, strict(sandbox.Options{Hostname: "smtp.isp.example"}))
	blackHole(t, portOf(t, s.Addr()))
	dns.address("smtp.isp.example.", "::1", "127.0.0.1")
	_, port, _ := net.SplitHostPort(s.Addr())
	g, d := newNamedRig(t, dns, login(ModeStartTLS), "smtp.isp.example:"+port, s)
	begun := time.Now()
	wantDelivered(t, g.deliver(t, mail(hello)), "smtp.isp.example:"+port)
	if got := d.take(); !slices.Equal(got, []string{"[::1]:" + port, s.Addr()}) {
		t.Errorf("tried %q", got)
	}
	if took := time.Since(begun); took > 25*time.Second { // half of what a dial may take would be the first address's
		t.Errorf("it took %s", took)
	}
}

// blackHole makes connections to a port of ::1 hang: its queue is full, and nobody accepts.
func blackHole(t *testing.T, port uint16) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Skipf("there is no IPv6 here: %v", err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	addr := &syscall.SockaddrInet6{Port: int(port)}
	addr.Addr[15] = 1
	if err := syscall.Bind(fd, addr); err != nil {
		t.Skipf("::1 cannot be had here: %v", err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		nc, err := net.DialTimeout("tcp", net.JoinHostPort("::1", strconv.Itoa(int(port))), 2*time.Second)
		if err != nil {
			return
		}
		t.Cleanup(func() { nc.Close() })
	}
	t.Fatal("the queue does not get full")
}
