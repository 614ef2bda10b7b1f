package smarthost

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/sandbox"
)

// refusers are hosts that take no password.
func refusers(t *testing.T, n int) []*sandbox.Server {
	t.Helper()
	return startSandboxes(t, slices.Repeat([]sandbox.Options{{Username: username, Password: "another"}}, n)...)
}

// mend has a host take the password, or refuse it again.
func mend(t *testing.T, s *sandbox.Server, takes bool) {
	t.Helper()
	s.Clear()
	if !takes {
		inject(t, s, sandbox.Fault{Stage: sandbox.StageAuth, Reply: "535 5.7.8 no"})
	}
}

// takers are hosts that take the password in a session for each message, or refuse it where refuses has their number.
func takers(t *testing.T, n int, refuses ...int) []*sandbox.Server {
	t.Helper()
	hosts := startSandboxes(t, slices.Repeat([]sandbox.Options{{Username: username, Password: password, MaxPerConnection: 1}}, n)...)
	for _, i := range refuses {
		mend(t, hosts[i], false)
	}
	return hosts
}

// patient makes the pauses after a refused login longer than any test: ProbeNow is their end.
func patient(o *Options) { o.AuthProbeMin, o.AuthProbeMax = time.Hour, time.Hour }

func wantRefusals(t *testing.T, hosts []*sandbox.Server, want ...int) {
	t.Helper()
	var got []int
	for _, h := range hosts {
		got = append(got, int(h.Stats().AuthFailed))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the hosts refused %v logins, want %v", got, want)
	}
}

// The hosts of a route have one account, which counts: a wrong password is one refusal, and not one for each host.
func TestSecret_ARefusedPasswordIsNotShownToTheNextHost(t *testing.T) {
	hosts := refusers(t, 3)
	g := newRigWith(t, patient, login(ModeStartTLS), hosts...)
	for range 5 {
		for _, a := range deliverAll(t, g.Router, 5) {
			wantSite(t, a, "auth")
			wantAllOf(t, a.Site.Reason, "check username and password of [[smarthost]] isp")
		}
		wantRefusals(t, hosts, 1, 0, 0)
	}
	for _, h := range g.Status()[0].Hosts {
		if h.State != StateLoginRefused || time.Until(h.NextProbe) < 50*time.Minute {
			t.Errorf("%+v", h)
		}
	}
	if h := g.Status()[0].Hosts; h[0].Failures != 1 || h[2].Failures != 0 {
		t.Errorf("what others refused is counted: %+v", h)
	}
	wantAllOf(t, g.Status()[0].Hosts[2].Problem, hosts[0].Addr()+" refused the login of "+username, "not shown the same login")

	// After each pause it is the next one's turn.
	for i, want := range [][]int{{1, 1, 0}, {1, 1, 1}, {2, 1, 1}, {2, 2, 1}} {
		g.ProbeNow()
		a := g.deliver(t, mail(hello))
		wantSite(t, a, "auth")
		wantRefusals(t, hosts, want...)
		if h := g.Status()[0].Hosts[1]; i > 0 && !contains(h.Problem, "check username and password") {
			t.Errorf("what the host itself said is forgotten: %+v", h)
		}
	}
}

// A login that cannot be checked for now, or not in this way, says nothing of the password.
func TestSecret_OtherTroubleWithALoginFailsOverAtOnce(t *testing.T) {
	for _, reply := range []string{"454 4.7.0 Temporary authentication failure", "421 4.7.0 closing", "504 5.5.4 no such mechanism",
		"538 5.7.11 Encryption required"} {
		hosts := takers(t, 2)
		inject(t, hosts[0], sandbox.Fault{Stage: sandbox.StageAuth, Reply: reply})
		g := newRigWith(t, patient, login(ModeStartTLS), hosts...)
		wantDelivered(t, g.deliver(t, mail(hello)), hosts[1].Addr())
	}
}

// A host that does not know the account, as it is with a provider's regions, delays mail once.
func TestSecret_AHostThatRefusesWhatOthersTakeKeepsNobody(t *testing.T) {
	hosts := takers(t, 3, 0)
	g := newRigWith(t, patient, login(ModeStartTLS), hosts...)
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	for n := 1; n < 4; n++ {
		g.ProbeNow()
		wantDelivered(t, g.deliver(t, mail(hello)), hosts[1].Addr())
		wantDelivered(t, g.deliver(t, mail(hello)), hosts[1].Addr())
		wantRefusals(t, hosts, n+1, 0, 0) // asked again after each pause, and in vain
	}
	if s := g.Status()[0].Hosts; s[0].State != StateLoginRefused || s[1].State != StateUp || s[2].State != StateUnknown || s[2].Problem != "" {
		t.Errorf("%+v", s)
	}
	mend(t, hosts[0], true)
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), hosts[0].Addr())

	// It takes the password by now, so that its refusal counts again.
	for _, h := range hosts {
		mend(t, h, false)
	}
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	wantRefusals(t, hosts, 5, 0, 0)
}

// Tables that share an account share what is known of its password; another password is another account's.
func TestSecret_RoutesOfOneAccountShowAWrongPasswordOnce(t *testing.T) {
	hosts := refusers(t, 3)
	addr := func(n ...int) (out []string) {
		for _, i := range n {
			out = append(out, hosts[i].Addr())
		}
		return out
	}
	route := func(name, password string, hosts ...string) Route {
		return Route{Name: name, Username: username, Password: password, Hosts: hosts, TLS: ModeStartTLS}
	}
	g := newRigWith(t, func(o *Options) {
		patient(o)
		ca := o.Routes[0].RootCAs
		o.Routes = []Route{route("a", password, addr(0, 1)...), route("b", password, addr(1, 2)...), route("c", password, addr(2)...),
			route("other", "another", addr(1)...)}
		for i := range o.Routes {
			o.Routes[i].RootCAs, o.Routes[i].Recipients = ca, []string{"@" + o.Routes[i].Name}
		}
	}, login(ModeStartTLS), hosts...)
	var wg sync.WaitGroup
	for range 3 {
		for _, name := range []string{"a", "b", "c"} {
			wg.Go(func() {
				if a := g.Deliver(t.Context(), name, mail(hello)); a.Site == nil {
					t.Error(show(a))
				}
			})
		}
	}
	wg.Wait()
	sum := 0
	for _, h := range hosts {
		sum += int(h.Stats().AuthFailed)
	}
	if sum != 1 {
		t.Errorf("%d refused logins", sum)
	}
	wantDelivered(t, g.Deliver(t.Context(), "other", mail(hello)), hosts[1].Addr())
	if s := g.Status()[2].Hosts[0]; s.State != StateLoginRefused {
		t.Errorf("%+v", s)
	}
}

// One password that was changed at the provider is one refusal, however many hosts had taken it before.
func TestSecret_APasswordThatEndsIsRefusedOnce(t *testing.T) {
	hosts := takers(t, 2, 0)
	g := newRigWith(t, patient, login(ModeStartTLS), hosts...)
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	mend(t, hosts[0], true)
	for _, i := range []int{1, 0} { // both have taken it
		g.ProbeNow()
		wantDelivered(t, g.deliver(t, mail(hello)), hosts[i].Addr())
	}
	before := []int{int(hosts[0].Stats().AuthFailed), int(hosts[1].Stats().AuthFailed)}
	mend(t, hosts[0], false)
	mend(t, hosts[1], false)
	for _, a := range deliverAll(t, g.Router, 1) {
		wantSite(t, a, "auth")
	}
	for range 3 {
		wantSite(t, g.deliver(t, mail(hello)), "auth")
	}
	wantRefusals(t, hosts, before[0]+1, before[1])
}

// A host that is away is looked for as ever once the password is taken elsewhere, and not when the login's pause is over.
func TestSecret_AHostThatIsAwayIsNotTakenForOneThatRefuses(t *testing.T) {
	hosts := takers(t, 3, 1)
	if err := hosts[0].Stop(); err != nil {
		t.Fatal(err)
	}
	g := newRigWith(t, patient, login(ModeStartTLS), hosts...)
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	if s := g.Status()[0].Hosts[0]; s.State != StateDown {
		t.Errorf("%+v", s)
	}
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), hosts[2].Addr())
	if s := g.Status()[0].Hosts[0]; s.State != StateDown || time.Until(s.NextProbe) > time.Minute {
		t.Errorf("%+v", s)
	}
}

func TestSecret_ARefusedTokenIsNotShownToTheNextHost(t *testing.T) {
	src := &tokens{good: 99}
	hosts := startSandboxes(t, slices.Repeat([]sandbox.Options{{VerifyToken: src.verify}}, 2)...)
	g := newRigWith(t, patient, Route{Username: username, Tokens: src}, hosts...)
	for range 3 {
		wantSite(t, g.deliver(t, mail(hello)), "auth")
		wantRefusals(t, hosts, 2, 0) // the second is the renewed one
	}
	src.mu.Lock()
	src.good = 1
	src.mu.Unlock()
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), hosts[1].Addr())
}

// What is known of a password outlives a reload that changes something else.
func TestSecret_AReloadDoesNotForgetWhoRefused(t *testing.T) {
	hosts := refusers(t, 2)
	o := Options{Hostname: "relay.example.com", Log: slog.New(slog.DiscardHandler), Routes: []Route{{Name: "isp", Username: username,
		Password: password, Hosts: []string{hosts[0].Addr(), hosts[1].Addr()}, RootCAs: hosts[0].CertPool()}}}
	patient(&o)
	r := newTestRouter(t, o)
	defer r.Close(t.Context())
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	o.Routes[0].MaxConnections = 2
	if err := r.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	wantRefusals(t, hosts, 1, 0)
	r.ProbeNow()
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	wantRefusals(t, hosts, 1, 1)
}

func TestRefusesSecret(t *testing.T) {
	for line, want := range map[string]bool{
		"535 5.7.8 no": true, "534 5.7.9 app password": true, "550 5.7.1 no": true, "554 no": true, "501 5.5.2 bad": true,
		"454 4.7.0 later": false, "421 4.7.0 bye": false, "432 4.7.12 change it": false, "500 5.5.1 what": false,
		"502 5.5.1 no AUTH": false, "503 5.5.1 now?": false, "504 5.5.4 not so": false, "530 5.7.0 TLS": false, "538 5.7.11 weak": false,
	} {
		if got := refusesSecret(&stageError{stage: stageAuth, reply: parseReply(t, line)}); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&stageError{stage: stageAuth, err: &proofRefusedError{"e=invalid-proof"}}, true},
		{&targetError{target: "a:25", entry: "mx:a:25", err: &stageError{stage: stageAuth, reply: envelope.Reply{Code: 535}}}, true},
		{&stageError{stage: stageAuth, err: errImpostor}, false}, {&stageError{stage: stageAuth, err: &noMechanismError{}}, false},
		{&stageError{stage: stageMail, reply: envelope.Reply{Code: 535}}, false}, {nil, false},
	} {
		if got := refusesSecret(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// A reload that takes away the host that took the password takes away what vouched for it, too.
func TestSecret_AHostThatIsGoneVouchesForNobody(t *testing.T) {
	hosts := takers(t, 3)
	o := Options{Hostname: "relay.example.com", Log: slog.New(slog.DiscardHandler), Routes: []Route{{Name: "isp", Username: username,
		Password: password, Hosts: []string{hosts[0].Addr(), hosts[1].Addr(), hosts[2].Addr()}, RootCAs: hosts[0].CertPool()}}}
	patient(&o)
	r := newTestRouter(t, o)
	defer r.Close(t.Context())
	wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), hosts[0].Addr())
	o.Routes[0].Hosts = o.Routes[0].Hosts[1:]
	if err := r.Reconfigure(o); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		mend(t, h, false)
	}
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	wantSite(t, r.Deliver(t.Context(), "isp", mail(hello)), "auth")
	wantRefusals(t, hosts, 0, 1, 0)
}

// One that has never known the account has long pauses of its own, which are not those of the others.
func TestSecret_TheOddOnesPausesAreItsOwn(t *testing.T) {
	hosts := takers(t, 2, 0)
	g := newRigWith(t, func(o *Options) { o.AuthProbeMin, o.AuthProbeMax = time.Minute, 24*time.Hour }, login(ModeStartTLS), hosts...)
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	for range 8 {
		g.ProbeNow()
		wantDelivered(t, g.deliver(t, mail(hello)), hosts[1].Addr())
	}
	mend(t, hosts[1], false)
	wantSite(t, g.deliver(t, mail(hello)), "auth") // once, for a moment
	mend(t, hosts[1], true)
	g.ProbeNow()
	wantSite(t, g.deliver(t, mail(hello)), "auth") // the odd one has its turn
	if s := g.Status()[0].Hosts; time.Until(s[1].NextProbe) > 5*time.Minute || time.Until(s[0].NextProbe) < time.Hour {
		t.Errorf("%+v", s)
	}
}

// What a host has a pause for beside the login stays, and what another one's refusals were counted for is over.
func TestHealth_ReleaseEndsNothingElse(t *testing.T) {
	now := time.Now()
	h := health{state: StateUp, pauses: testPauses}
	h.quotaMin, h.quotaMax = time.Hour, time.Hour
	tk, _ := h.admit(now)
	h.fail(tk, verdict{trouble: quotaSpent}, now)
	own := h.next
	h.withhold(envelope.Failure{Reason: "refused"}, now.Add(time.Minute), 1, now)
	h.release(now)
	if h.state != StateThrottled || !h.next.Equal(own) {
		t.Errorf("a pause of an hour ends in %v: %s", h.next.Sub(now), h.state)
	}
	h.withhold(envelope.Failure{Reason: "refused"}, now.Add(2*time.Hour), 5, now)
	h.withhold(envelope.Failure{Reason: "refused"}, now.Add(3*time.Hour), 6, now)
	h.release(now)
	if !h.next.Equal(own) || h.fails[loginRefused] != 0 {
		t.Errorf("a pause of an hour ends in %v, %d refusals", h.next.Sub(now), h.fails[loginRefused])
	}
	h.withhold(envelope.Failure{Reason: "refused"}, now.Add(2*time.Hour), 1, now)
	h.forget()
	h.release(now)
	if h.next.After(now) {
		t.Error("a pause that was ended is back")
	}
}

// loggingIn are hosts that log in with one secret, each by its leave.
func loggingIn(n int) (s *secret, all []showing) {
	s = newSecret()
	for i := range n {
		h := &host{place: place{addr: string(rune('a'+i)) + ":587", login: true}}
		h.secret.Store(s)
		s.hosts = append(s.hosts, h)
		all = append(all, h.show())
	}
	return s, all
}

// Once the first login went well nobody waits for the next in line; and before that, not for ever.
func TestSecret_NobodyWaitsLongForAnothersLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := loggingIn(4)
		start := time.Now()
		first, err := w[0].enter(t.Context(), password)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gave := make(chan error, 1)
		go func() { _, err := w[3].enter(ctx, password); gave <- err }()
		synctest.Wait()
		cancel()
		if err := <-gave; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		ends := make(chan func(error))
		for _, w := range w[1:3] {
			go func() {
				done, err := w.enter(t.Context(), password)
				if err != nil {
					t.Error(err)
				}
				ends <- done
			}()
		}
		synctest.Wait()
		first(nil)
		one, two := <-ends, <-ends // both at once, none of them done yet
		if took := time.Since(start); took != 0 {
			t.Errorf("they waited %v", took)
		}
		one(nil)
		two(nil)
		if len(s.trial) != 0 {
			t.Error("the turn is not given back")
		}

		_, w = loggingIn(2)
		if _, err := w[0].enter(t.Context(), password); err != nil { // which hangs
			t.Fatal(err)
		}
		if _, err := w[1].enter(t.Context(), password); err != nil || time.Since(start) != trialPatience {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A token that ends is refused to one connection. The others go on with the next one, and not to another host or to wait.
func TestSecret_ATokenThatEndsDelaysNoMail(t *testing.T) {
	src := &tokens{good: 1}
	s := startSandbox(t, sandbox.Options{VerifyToken: src.verify, MaxPerConnection: 1})
	g := newRigWith(t, func(o *Options) { patient(o); o.Routes[0].MaxConnections = 6 }, Route{Username: username, Tokens: src}, s)
	for n := range 5 {
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
		src.mu.Lock()
		src.good = n + 2
		src.mu.Unlock()
		for _, a := range deliverAll(t, g.Router, 6) {
			wantDelivered(t, a, s.Addr())
		}
	}
}
