package smarthost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

func probeOptions(s *sandbox.Server, hosts ...string) Options {
	return Options{Hostname: "relay.example.com", Routes: []Route{{
		Name: "isp", Hosts: hosts, RootCAs: s.CertPool(), Username: username, Password: password,
	}}}
}

func probeOne(t *testing.T, o Options) Probed {
	t.Helper()
	all, err := Probe(t.Context(), o)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, step := range all[0].Steps {
		if strings.Contains(step.Detail, password) {
			t.Errorf("the password is told: %s", step.Detail)
		}
	}
	return all[0]
}

// stepsOf writes the steps on one line; one that failed has a "!".
func stepsOf(p Probed) string {
	var words []string
	for _, s := range p.Steps {
		word := s.Name
		if !s.OK {
			word = "!" + word
		}
		if s.Skipped {
			word = "(" + word + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func last(p Probed) Step { return p.Steps[len(p.Steps)-1] }

func TestProbe_AHostThatWouldTakeMail(t *testing.T) {
	s := startSandbox(t, sandbox.Options{Username: username, Password: password, ImplicitAddress: "127.0.0.1:0"})
	_, port, _ := net.SplitHostPort(s.Addr())
	p := probeOne(t, probeOptions(s, "localhost:"+port))
	if got := stepsOf(p); got != "name connection greeting TLS certificate AUTH login" || p.Failure != nil {
		t.Errorf("%s, %v", got, p.Failure)
	}
	for i, want := range map[int]string{1: "127.0.0.1:" + port, 2: "52 MB", 3: "TLS 1.3", 4: "localhost", 5: "PLAIN, LOGIN", 6: username + " with PLAIN"} {
		if !strings.Contains(p.Steps[i].Detail, want) {
			t.Errorf("%s: %q lacks %q", p.Steps[i].Name, p.Steps[i].Detail, want)
		}
	}
	o := probeOptions(s, s.ImplicitAddr())
	o.Routes[0].TLS = ModeImplicit
	if got := stepsOf(probeOne(t, o)); got != "connection TLS certificate greeting AUTH login" {
		t.Errorf("implicit: %s", got)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Errorf("violations: %q", v)
	}
	if st := s.Stats(); st.Messages != 0 {
		t.Errorf("%d messages", st.Messages)
	}
}

func TestProbe_SaysWhereItEndsAndWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options sandbox.Options
		change  func(*Options)
		steps   string
		detail  string
	}{
		{"wrong password", sandbox.Options{Username: username, Password: "other"}, nil,
			"connection greeting TLS certificate AUTH !login", "535 5.7.8"},
		{"no AUTH that fits", sandbox.Options{Mechanisms: []string{"GSSAPI"}}, nil,
			"connection greeting TLS certificate !AUTH", "it offers AUTH GSSAPI"},
		{"no STARTTLS", sandbox.Options{NoTLS: true}, nil, "connection greeting !TLS", "does not offer STARTTLS"},
		{"expired", sandbox.Options{Certificate: sandbox.CertificateExpired}, nil,
			"connection greeting TLS !certificate", "is valid from"},
		{"unknown authority", sandbox.Options{}, func(o *Options) { o.Routes[0].RootCAs = nil },
			"connection greeting TLS !certificate", "which this machine does not trust"},
		{"self-signed, for another name", sandbox.Options{Certificate: sandbox.CertificateSelfSigned}, func(o *Options) { o.Routes[0].TLSName = "other.example" },
			"connection greeting TLS !certificate", `It is signed by itself, too: if its owner says that it is right, pin its key in place of both, pin_sha256 = "`},
		{"for another name", sandbox.Options{}, func(o *Options) { o.Routes[0].TLSName = "other.example" },
			"connection greeting TLS !certificate", "as tls_name"},
		{"another key than the pinned one", sandbox.Options{}, func(o *Options) { o.Routes[0].Pins = []Pin{{1}} },
			"connection greeting TLS !certificate", "another key than those of pin_sha256"},
		{"no login wanted", sandbox.Options{NoAuth: true}, func(o *Options) { o.Routes[0].Username, o.Routes[0].Password = "", "" },
			"connection greeting TLS certificate", "localhost"},
		{"TLS where there is none", sandbox.Options{}, func(o *Options) { o.Routes[0].TLS = ModeImplicit },
			"connection !TLS", "does not speak TLS here"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := startSandbox(t, tc.options)
			o := probeOptions(s, s.Addr())
			if tc.change != nil {
				tc.change(&o)
			}
			p := probeOne(t, o)
			if got := stepsOf(p); got != tc.steps {
				t.Errorf("%s, want %s", got, tc.steps)
			}
			if (p.Failure != nil) != strings.Contains(tc.steps, "!") || !strings.Contains(last(p).Detail, tc.detail) {
				t.Errorf("%v, %q lacks %q", p.Failure, last(p).Detail, tc.detail)
			}
			if (p.Pin != "") != slices.Contains([]string{"unknown authority", "self-signed, for another name"}, tc.name) || (p.Fingerprint == "") != (p.Pin == "") {
				t.Errorf("a pin is offered: %q %q", p.Pin, p.Fingerprint)
			}
			if p.Refused != (tc.name == "wrong password") {
				t.Errorf("Refused is %v", p.Refused)
			}
		})
	}
}

func TestProbe_AHostThatIsNotThere(t *testing.T) {
	s := startSandbox(t, sandbox.Options{})
	o := probeOptions(s, "smtp.isp.example:587")
	for want, dialErr := range map[string]error{
		"!name":            &net.DNSError{Err: "no such host", Name: "smtp.isp.example", IsNotFound: true},
		"name !connection": &net.OpError{Op: "dial", Err: errors.New("no route")},
	} {
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, dialErr }
		p := probeOne(t, o)
		if got := stepsOf(p); got != want || p.Failure == nil || last(p).Detail == "" {
			t.Errorf("%s, want %s: %+v", got, want, p)
		}
	}
}

// A wrong password is shown to one host, not to each: providers count.
func TestProbe_ARefusedLoginIsShownOnce(t *testing.T) {
	hosts := startSandboxes(t, sandbox.Options{Username: username, Password: "other"}, sandbox.Options{Username: username, Password: "other"})
	all, err := Probe(t.Context(), probeOptions(hosts[0], hosts[0].Addr(), hosts[1].Addr()))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{stepsOf(all[0]), stepsOf(all[1])}
	want := []string{"connection greeting TLS certificate AUTH !login", "connection greeting TLS certificate AUTH (login)"}
	if !slices.Equal(got, want) || all[1].Failure != nil {
		t.Errorf("%q, %v", got, all[1].Failure)
	}
}

func TestProbe_EndsWithItsContext(t *testing.T) {
	s := startSandbox(t, sandbox.Options{})
	if err := s.Inject(sandbox.Fault{Stage: sandbox.StageGreeting, Hang: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string)
	go func() {
		all, err := Probe(ctx, probeOptions(s, s.Addr()))
		done <- fmt.Sprint(stepsOf(all[0]), err)
	}()
	cancel()
	select {
	case got := <-done:
		if !strings.Contains(got, "!") {
			t.Error(got)
		}
	case <-time.After(time.Minute):
		t.Fatal("still waiting")
	}
}

func TestProbe_OptionsThatCannotWorkAreAnError(t *testing.T) {
	if _, err := Probe(t.Context(), Options{Hostname: "relay.example.com", Routes: []Route{{Name: "isp"}}}); err == nil ||
		!strings.Contains(err.Error(), "hosts") {
		t.Errorf("error %v", err)
	}
}

func tokenProbe(src *tokens, hosts ...*sandbox.Server) Options {
	o := probeOptions(hosts[0])
	for _, s := range hosts {
		o.Routes[0].Hosts = append(o.Routes[0].Hosts, s.Addr())
	}
	o.Routes[0].Password, o.Routes[0].Tokens = "", src
	return o
}

// A probe logs in with a token as mail does: one that is refused is renewed once.
func TestProbe_LogsInWithAToken(t *testing.T) {
	for name, c := range map[string]struct {
		good   int
		err    error
		steps  string
		detail string
		failed int
	}{
		"at once":   {0, nil, "connection greeting TLS certificate AUTH login", username + " with XOAUTH2", 0},
		"renewed":   {2, nil, "connection greeting TLS certificate AUTH login", username + " with XOAUTH2", 1},
		"refused":   {99, nil, "connection greeting TLS certificate AUTH !login", "refused the OAuth2 token of " + username, 2},
		"none":      {0, errors.New("the grant was revoked"), "connection greeting TLS certificate AUTH !login", "the grant was revoked", 0},
		"away":      {0, away{}, "connection greeting TLS certificate AUTH !login", "on holiday", 0},
		"none, yet": {0, fmt.Errorf("%w: do", ErrNoTokenYet), "connection greeting TLS certificate AUTH (login)", "nobody has logged in yet: do", 0},
	} {
		t.Run(name, func(t *testing.T) {
			src := &tokens{good: c.good, err: c.err}
			s := startSandbox(t, sandbox.Options{VerifyToken: src.verify})
			p := probeOne(t, tokenProbe(src, s))
			if got := stepsOf(p); got != c.steps || !strings.Contains(last(p).Detail, c.detail) {
				t.Errorf("%s: %+v", got, last(p))
			}
			if st := s.Stats(); int(st.AuthFailed) != c.failed || st.Transactions != 0 || p.Refused != (name == "refused") ||
				(p.Failure != nil) != strings.Contains(c.steps, "!") {
				t.Errorf("%+v %+v", st, p)
			}
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

// Where a token cannot be shown at all, the probe says so before it asks for one.
func TestProbe_AHostWithoutAMechanismForTokens(t *testing.T) {
	src := &tokens{}
	p := probeOne(t, tokenProbe(src, startSandbox(t, sandbox.Options{})))
	if got := stepsOf(p); got != "connection greeting TLS certificate !AUTH" || src.asked != 0 {
		t.Errorf("%s, %d tokens asked for", got, src.asked)
	}
}

func TestProbe_ARefusedTokenIsNotShownToTheNextHost(t *testing.T) {
	src := &tokens{good: 99}
	hosts := startSandboxes(t, sandbox.Options{VerifyToken: src.verify}, sandbox.Options{VerifyToken: src.verify})
	all, err := Probe(t.Context(), tokenProbe(src, hosts...))
	if err != nil || stepsOf(all[1]) != "connection greeting TLS certificate AUTH (login)" || hosts[1].Stats().AuthFailed != 0 {
		t.Errorf("%v, %+v", err, all)
	}
}
