package smarthost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

const (
	username = "me@isp.example"
	password = "corr3ct h0rse"
)

// safeBuffer collects a log or a transcript that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func startSandbox(t *testing.T, o sandbox.Options) *sandbox.Server {
	t.Helper()
	s, err := sandbox.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// startSandboxes starts several hosts that share a CA.
func startSandboxes(t *testing.T, options ...sandbox.Options) []*sandbox.Server {
	t.Helper()
	dir := t.TempDir()
	var out []*sandbox.Server
	for _, o := range options {
		o.CADir = dir
		out = append(out, startSandbox(t, o))
	}
	return out
}

// rig is a Router over sandbox hosts, with its whole log and what its connections wrote, TLS and all. When the test
// ends, none of that may hold the password, and no mail may have gone in the clear.
type rig struct {
	*Router
	log, wire safeBuffer
}

// recorder keeps the beginning of what a connection writes.
type recorder struct {
	net.Conn
	wire *safeBuffer
}

func (r recorder) Write(p []byte) (int, error) {
	r.wire.Write(p[:min(len(p), 1024)])
	return r.Conn.Write(p)
}

func newRig(t *testing.T, route Route, servers ...*sandbox.Server) *rig {
	t.Helper()
	return newRigWith(t, func(*Options) {}, route, servers...)
}

// newRigWith is newRig with options changed.
func newRigWith(t *testing.T, change func(*Options), route Route, servers ...*sandbox.Server) *rig {
	t.Helper()
	g := new(rig)
	route.Name = "isp"
	if route.RootCAs == nil {
		route.RootCAs = servers[0].CertPool()
	}
	for _, s := range servers {
		if addr := s.Addr(); route.TLS != ModeImplicit {
			route.Hosts = append(route.Hosts, addr)
		} else {
			route.Hosts = append(route.Hosts, s.ImplicitAddr())
		}
	}
	o := Options{
		Hostname: "relay.example.com", Routes: []Route{route},
		Log:      slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		ProbeMin: 20 * time.Millisecond, ProbeMax: 50 * time.Millisecond,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			return recorder{nc, &g.wire}, err
		},
	}
	change(&o)
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	g.Router = r
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
		status, _ := json.Marshal(r.Status())
		noSecret(t, "the log", g.log.String())
		noSecret(t, "the status", string(status))
		noSecret(t, "the wire", g.wire.String())
		if contains(g.wire.String(), "MAIL FROM") || contains(g.wire.String(), "AUTH ") {
			t.Error("mail or a login went in the clear")
		}
	})
	return g
}

// noSecret fails the test if s holds the password in any of its shapes.
func noSecret(t *testing.T, what, s string) {
	t.Helper()
	for _, secret := range []string{password, b64(password), b64("\x00" + username + "\x00" + password)} {
		if contains(s, strings.TrimRight(secret, "=")) {
			t.Errorf("%s holds the password:\n%q", what, s)
		}
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func login(mode Mode) Route { return Route{TLS: mode, Username: username, Password: password} }

func strict(o sandbox.Options) sandbox.Options {
	o.Username, o.Password = username, password
	return o
}

func (g *rig) deliver(t *testing.T, m envelope.Message) envelope.Attempt {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return g.Deliver(ctx, "isp", m)
}

func TestSession_TLSAndLogin(t *testing.T) {
	for name, c := range map[string]struct {
		host  sandbox.Options
		route Route
		auth  string // in the log
	}{
		"STARTTLS and PLAIN": {sandbox.Options{}, login(ModeStartTLS), "PLAIN"},
		"implicit TLS":       {sandbox.Options{ImplicitAddress: "127.0.0.1:0"}, login(ModeImplicit), "PLAIN"},
		"LOGIN only":         {sandbox.Options{Mechanisms: []string{"LOGIN"}}, login(ModeStartTLS), "LOGIN"},
		"LOGIN wanted": {sandbox.Options{}, Route{Username: username, Password: password, Auth: AuthLogin},
			"LOGIN"},
		"LOGIN with odd prompts": {sandbox.Options{Mechanisms: []string{"LOGIN"},
			LoginPrompts: []string{b64("User Name\x00"), b64("Password\x00")}}, login(ModeStartTLS), "LOGIN"},
		"LOGIN with empty prompts": {sandbox.Options{Mechanisms: []string{"LOGIN"}, LoginPrompts: []string{"", ""}},
			login(ModeStartTLS), "LOGIN"},
		"LOGIN with plain words": {sandbox.Options{Mechanisms: []string{"LOGIN"},
			LoginPrompts: []string{"Your name?", "5.7.0 And the secret?"}}, login(ModeStartTLS), "LOGIN"},
		"PLAIN before others": {sandbox.Options{Mechanisms: []string{"GSSAPI", "LOGIN", "PLAIN"}}, login(ModeStartTLS), "PLAIN"},
		"SCRAM before PLAIN":  {sandbox.Options{Mechanisms: []string{"PLAIN", "CRAM-MD5", "SCRAM-SHA-256"}}, login(ModeStartTLS), "SCRAM-SHA-256"},
		"SCRAM bound by TLS 1.3": {sandbox.Options{Mechanisms: []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}},
			login(ModeStartTLS), "SCRAM-SHA-256-PLUS"},
		"SCRAM bound by TLS 1.2": {sandbox.Options{Mechanisms: []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"},
			MaxTLS: tls.VersionTLS12}, login(ModeStartTLS), "SCRAM-SHA-256-PLUS"},
		"SCRAM wanted unbound": {sandbox.Options{Mechanisms: []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}},
			Route{Username: username, Password: password, Auth: AuthSCRAM}, "SCRAM-SHA-256"},
		"CRAM-MD5 for want of better": {sandbox.Options{Mechanisms: []string{"NTLM", "CRAM-MD5"}}, login(ModeStartTLS), "CRAM-MD5"},
		"CRAM-MD5 wanted": {sandbox.Options{Mechanisms: []string{"SCRAM-SHA-256", "PLAIN", "CRAM-MD5"}},
			Route{Username: username, Password: password, Auth: AuthCRAMMD5}, "CRAM-MD5"},
		"old AUTH=":            {sandbox.Options{Extensions: []string{"PIPELINING", "STARTTLS", "AUTH=LOGIN"}}, login(ModeStartTLS), "LOGIN"},
		"no login":             {sandbox.Options{NoAuth: true}, Route{}, ""},
		"login not for us":     {sandbox.Options{OptionalAuth: true}, Route{Username: username, Auth: AuthOff}, ""},
		"AT&T 2003":            {sandbox.Options{Personality: "att"}, login(ModeStartTLS), "PLAIN"},
		"TLS 1.2 and no later": {sandbox.Options{MaxTLS: tls.VersionTLS12}, login(ModeStartTLS), "PLAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, strict(c.host))
			g := newRig(t, c.route, s)
			wantDelivered(t, g.deliver(t, mail(hello)), g.Status()[0].Hosts[0].Address)
			wantDelivered(t, g.deliver(t, mail(hello)), g.Status()[0].Hosts[0].Address)
			got := s.Messages()
			if len(got) != 2 || string(got[0].Data) != hello || !got[0].TLS || got[0].Hello != "relay.example.com" ||
				(got[0].User == username) != (c.auth != "") {
				t.Errorf("%+v", got)
			}
			if st := s.Stats(); st.Connections != 1 || st.AuthFailed != 0 {
				t.Errorf("%+v", st)
			}
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
			if c.auth != "" && !contains(g.log.String(), "auth="+c.auth) || !contains(g.log.String(), `tls="TLS 1.`) {
				t.Error(g.log.String())
			}
			if c.host.MaxTLS != 0 && g.Status()[0].Hosts[0].TLS != "TLS 1.2" {
				t.Errorf("%+v", g.Status())
			}
		})
	}
}

func TestSession_LongPasswordWaitsForTheChallenge(t *testing.T) {
	long := strings.Repeat("token", 100)
	s := startSandbox(t, sandbox.Options{Username: username, Password: long})
	g := newRig(t, Route{Username: username, Password: long}, s)
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

func TestSession_CertificateThatDoesNotVerifyGetsNoMailAndNoPassword(t *testing.T) {
	for kind, words := range map[sandbox.CertificateKind]string{
		sandbox.CertificateExpired:    "check this machine's clock",
		sandbox.CertificateOtherCA:    "give the authority's file as ca_file",
		sandbox.CertificateSelfSigned: "give it as ca_file in [[smarthost]] isp, or, without ca_file, pin its key: pin_sha256 = ",
		sandbox.CertificateWrongName:  "write the name that the certificate has",
	} {
		for _, mode := range []Mode{ModeStartTLS, ModeImplicit} {
			t.Run(string(kind)+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				s := startSandbox(t, strict(sandbox.Options{Certificate: kind, ImplicitAddress: "127.0.0.1:0"}))
				g := newRig(t, login(mode), s)
				a := g.deliver(t, mail(hello))
				wantSite(t, a, "tls")
				h := g.Status()[0].Hosts[0]
				if h.State != StateTLSFailed || !contains(h.Problem, words) || !contains(a.Site.Reason, words) {
					t.Errorf("%+v", h)
				}
				if st := s.Stats(); st.AuthOK+st.AuthFailed+st.Transactions > 0 {
					t.Errorf("%+v", st)
				}
				if !contains(g.log.String(), "level=ERROR msg=\"host tls_failed\"") {
					t.Error(g.log.String())
				}
				if err := s.SetCertificate(sandbox.CertificateGood); err != nil {
					t.Fatal(err)
				}
				g.ProbeNow()
				wantDelivered(t, g.deliver(t, mail(hello)), h.Address)
			})
		}
	}
}

func TestSession_TooOldTLSIsNotUsed(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{MaxTLS: tls.VersionTLS12}))
	route := login(ModeStartTLS)
	route.MinTLS = tls.VersionTLS13
	g := newRig(t, route, s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "tls")
	if !contains(a.Site.Reason, "min_tls in [[smarthost]] isp") {
		t.Error(a.Site.Reason)
	}
}

func TestSession_StrippedSTARTTLSGetsNothing(t *testing.T) {
	s := startSandbox(t, sandbox.Options{NoTLS: true, AuthInClear: true})
	g := newRig(t, login(ModeStartTLS), s)
	wantSite(t, g.deliver(t, mail(hello)), "starttls")
}

func TestSession_NoUsableLoginIsNoReasonToGoWithout(t *testing.T) {
	for name, o := range map[string]sandbox.Options{
		"none":    {NoAuth: true},
		"foreign": {Mechanisms: []string{"NTLM", "GSSAPI"}, OptionalAuth: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, o)
			g := newRig(t, login(ModeStartTLS), s)
			a := g.deliver(t, mail(hello))
			wantSite(t, a, "auth")
			if h := g.Status()[0].Hosts[0]; h.State != StateLoginRefused || s.Stats().Transactions > 0 ||
				!contains(h.Problem, "mail is not sent without the login") {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestRouter_WrongPasswordIsTriedOnceForAllAndSaysWhatIsWrong(t *testing.T) {
	s := startSandbox(t, sandbox.Options{Username: username, Password: "another"})
	// A host that repeats what it was sent must not bring the password into the log.
	echo := "535 5.7.8 refused: " + b64("\x00"+username+"\x00"+password) + " that is " + password
	if err := s.Inject(sandbox.Fault{Stage: sandbox.StageAuth, Reply: echo}); err != nil {
		t.Fatal(err)
	}
	g := newRig(t, login(ModeStartTLS), s)
	for _, a := range deliverAll(t, g.Router, 50) {
		wantSite(t, a, "auth")
		noSecret(t, "the attempt", fmt.Sprintf("%+v %v", a.Site, a.Site))
	}
	if st := s.Stats(); st.AuthFailed != 1 || st.Transactions != 0 {
		t.Errorf("%+v", st)
	}
	h := g.Status()[0].Hosts[0]
	if h.State != StateLoginRefused || !contains(h.Problem, "check username and password of [[smarthost]] isp") ||
		!contains(h.LastReply, "535 5.7.8 refused: [secret]") || time.Until(h.NextProbe) <= 0 {
		t.Errorf("%+v", h)
	}
	if strings.Count(g.log.String(), "level=ERROR msg=\"host login_refused\"") != 1 {
		t.Error(g.log.String())
	}
	s.Clear()
	g.ProbeNow()
	wantSite(t, g.deliver(t, mail(hello)), "auth")
}

func TestReconfigure_NewPasswordIsTriedAtOnce(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	route := Route{Name: "isp", Username: username, Password: "old", Hosts: []string{s.Addr()}, RootCAs: s.CertPool()}
	o := Options{Hostname: "relay.example.com", Routes: []Route{route}}
	r := newTestRouter(t, o)
	defer r.Close(t.Context())
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	if err := r.Reconfigure(o); err != nil { // the same again changes nothing
		t.Fatal(err)
	}
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	if n := s.Stats().AuthFailed; n != 1 {
		t.Errorf("%d logins", n)
	}
	route.Password = password
	o.Routes = []Route{route}
	if err := r.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), s.Addr())
}

func TestRouter_CoxRegionsFirstDeadSecondRefusesTheLoginThirdTakesIt(t *testing.T) {
	cox := startSandboxes(t, strict(sandbox.Options{Personality: "cox-west"}),
		strict(sandbox.Options{Personality: "cox-central"}), strict(sandbox.Options{Personality: "cox-east"}))
	west, central, east := cox[0], cox[1], cox[2]
	if err := west.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := central.Inject(sandbox.Fault{Stage: sandbox.StageAuth, Reply: "535 5.7.8 Authentication failed"}); err != nil {
		t.Fatal(err)
	}
	g := newRig(t, login(ModeStartTLS), west, central, east)
	wantSite(t, g.deliver(t, mail(hello)), "auth") // no region is shown what another refused, before the pause is over
	g.ProbeNow()
	for range 5 {
		wantDelivered(t, g.deliver(t, mail(hello)), east.Addr())
	}
	states := g.Status()[0].Hosts
	if states[0].State != StateDown || states[1].State != StateLoginRefused || states[2].State != StateUp {
		t.Errorf("%+v", states)
	}
	if n := central.Stats().AuthFailed; n != 2 { // once more after its pause
		t.Errorf("the login was tried %d times", n)
	}
	if err := west.Resume(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for g.deliver(t, mail(hello)).Host != west.Addr() {
		if time.Now().After(deadline) {
			t.Fatal("the first host is not used again")
		}
	}
}

func TestRouter_HostThatGoesAwayAndComesBack(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	g := newRig(t, login(ModeStartTLS), s)
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	a := g.deliver(t, mail(hello))
	if a.Site == nil {
		t.Fatal(show(a))
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); a.Site != nil; {
		if time.Now().After(deadline) {
			t.Fatal(show(a))
		}
		time.Sleep(time.Until(a.RetryAt))
		a = g.deliver(t, mail(hello))
	}
	if n := len(s.Messages()); n != 2 {
		t.Errorf("%d messages", n)
	}
	if st := s.Stats(); st.Resumed == 0 {
		t.Errorf("the TLS session was not resumed: %+v", st)
	}
}

func TestRouter_WarmConnectionThatWasResetIsReplacedQuietly(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	g := newRig(t, login(ModeStartTLS), s)
	for _, f := range []sandbox.Fault{
		{Stage: sandbox.StageMail, Reset: true, Times: 1},
		{Stage: sandbox.StageRcpt, Drop: true, Times: 1},
		{Stage: sandbox.StageMail, Reply: "421 4.4.2 idle", Times: 1},
		{Stage: sandbox.StageData, Drop: true, Times: 1},
	} {
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
		if err := s.Inject(f); err != nil {
			t.Fatal(err)
		}
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	}
	if contains(g.log.String(), "level=WARN") {
		t.Error(g.log.String())
	}
	if n := len(s.Messages()); n != 8 {
		t.Errorf("%d messages", n)
	}
}

func TestRouter_LostAfterTheDotIsAPossibleDuplicateAndNoOtherHostGetsIt(t *testing.T) {
	hosts := startSandboxes(t, strict(sandbox.Options{}), strict(sandbox.Options{}))
	one, two := hosts[0], hosts[1]
	g := newRig(t, login(ModeStartTLS), one, two)
	if err := one.Inject(sandbox.Fault{Stage: sandbox.StageDot, Reset: true, Times: 1}); err != nil {
		t.Fatal(err)
	}
	a := g.deliver(t, mail(hello))
	if a.Site != nil || !a.PossibleDuplicate || a.Results[0].Failure == nil || a.Results[0].Failure.Permanent {
		t.Error(show(a))
	}
	if len(one.Messages()) != 1 || len(two.Messages()) != 0 {
		t.Error("the next host got a message that the first one has")
	}
}

func TestRouter_EarlyRefusalOfABodyIsHeard(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{}))
	g := newRig(t, login(ModeStartTLS), s)
	err := s.Inject(sandbox.Fault{Stage: sandbox.StageBody, After: 10000, Reply: "552 5.3.4 too big", Drop: true, Times: 1})
	if err != nil {
		t.Fatal(err)
	}
	a := g.deliver(t, mail(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 1<<16)))
	if a.Site != nil || a.Results[0].Failure == nil || !a.Results[0].Failure.Permanent || a.Results[0].Failure.Reply.Code != 552 {
		t.Error(show(a))
	}
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
}

func TestRouter_BodiesArriveByteForByte(t *testing.T) {
	for name, extensions := range map[string][]string{"pipelined": nil, "lock-step": {"-PIPELINING"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, strict(sandbox.Options{Extensions: extensions}))
			g := newRig(t, login(ModeStartTLS), s)
			bodies := []string{
				"", ".\r\n", "..\r\n.\r\n.", "\r\n.\r\n\r\n", "8 bit \xe4\xff\x80\r\n", strings.Repeat("x", 100000) + "\r\n",
				"no end", strings.Repeat(".\r\n", 50000), strings.Repeat("x", writeBlock-1) + "\r\n.dot at the block's end\r\n",
			}
			for i, body := range bodies {
				wantDelivered(t, g.deliver(t, mail(body)), s.Addr())
				want := body
				if !strings.HasSuffix(body, "\r\n") && body != "" {
					want += "\r\n"
				}
				if got := string(s.Messages()[i].Data); got != want {
					t.Errorf("body %d: %d octets came, %d went", i, len(got), len(want))
				}
			}
			if st := s.Stats(); st.Connections != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestRouter_25MBBodyStreams(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{DiscardBodies: true}))
	g := newRig(t, login(ModeStartTLS), s)
	line := ".dots and 72 octets of text" + strings.Repeat(" x", 24) + "\r\n"
	const lines = 25 << 20 / 77
	m := mail("")
	m.Size = int64(lines * len(line))
	// A reader that is not a strings.Reader: the body comes in small pieces, as from a file.
	m.Open = func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(&endless{s: line}, m.Size)), nil
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wantDelivered(t, g.deliver(t, m), s.Addr())
	runtime.ReadMemStats(&after)
	want := sha256.New()
	io.Copy(want, io.LimitReader(&endless{s: line}, m.Size))
	if got := s.Messages()[0]; got.SHA256 != hex.EncodeToString(want.Sum(nil)) || got.Size != m.Size {
		t.Errorf("%d octets came, %d went", got.Size, m.Size)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestRouter_ManyAtOnceEachMessageOnce(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{MaxPerConnection: 7}))
	route := login(ModeStartTLS)
	route.MaxConnections = 5
	g := newRig(t, route, s)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			m := mail(fmt.Sprintf("Subject: %d\r\n\r\n.%d\r\n", i, i))
			m.ID = fmt.Sprint(i)
			if a := g.deliver(t, m); a.Site != nil || a.Results[0].Failure != nil {
				t.Error(show(a))
			}
		})
	}
	wg.Wait()
	seen := make(map[string]int)
	for _, m := range s.Messages() {
		seen[string(m.Data)]++
	}
	st := s.Stats()
	if len(seen) != 100 || len(s.Messages()) != 100 || st.Violations > 0 {
		t.Errorf("%d different messages of %d; %+v %v", len(seen), len(s.Messages()), st, s.Violations())
	}
}

func TestRouter_LeavesNoGoroutineBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	s, err := sandbox.Start(strict(sandbox.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	route := login(ModeStartTLS)
	route.Name, route.Hosts, route.RootCAs = "isp", []string{s.Addr()}, s.CertPool()
	r := newTestRouter(t, Options{Routes: []Route{route}})
	for _, a := range deliverAll(t, r, 20) {
		wantDelivered(t, a, s.Addr())
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Quits == 0 || st.Quits != st.Connections {
		t.Errorf("%+v", st)
	}
	s.Close()
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}
