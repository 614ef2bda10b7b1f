package smarthost

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/sandbox"
)

// tokens is a TokenSource that counts: its tokens are "token-1", "token-2" and so on, and the host takes those from good on.
type tokens struct {
	mu      sync.Mutex
	n, good int
	asked   int
	err     error
	pad     string
}

func (s *tokens) Token(_ context.Context, refused string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.err != nil {
		return "", s.err
	}
	if s.n == 0 || refused == s.name() {
		s.n++
	}
	return s.name(), nil
}

func (s *tokens) name() string { return fmt.Sprintf("%s-token-%d%s", password, s.n, s.pad) }

func (s *tokens) verify(user, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return user == username && token == s.name() && s.n >= s.good
}

// away is an outage of a token endpoint.
type away struct{}

func (away) Error() string     { return "the token endpoint is on holiday" }
func (away) Unavailable() bool { return true }

func TestToken_BothMechanismsLogInAndAPasswordIsNeverTried(t *testing.T) {
	for name, c := range map[string]struct {
		host sandbox.Options
		auth string
		pad  int
		mech string
	}{
		"both offered":         {sandbox.Options{}, AuthAuto, 0, "XOAUTH2"},
		"XOAUTH2 wanted":       {sandbox.Options{}, AuthXOAUTH2, 0, "XOAUTH2"},
		"OAUTHBEARER wanted":   {sandbox.Options{}, AuthOAuthBearer, 0, "OAUTHBEARER"},
		"OAUTHBEARER alone":    {sandbox.Options{Mechanisms: []string{"PLAIN", "OAUTHBEARER"}}, AuthAuto, 0, "OAUTHBEARER"},
		"Microsoft's long one": {sandbox.Options{Personality: "microsoft365"}, AuthAuto, 2500, "XOAUTH2"},
		"a long one, standard": {sandbox.Options{}, AuthOAuthBearer, 2500, "OAUTHBEARER"},
		"Gmail":                {sandbox.Options{Personality: "gmail"}, AuthAuto, 200, "XOAUTH2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := &tokens{pad: strings.Repeat("x", c.pad)}
			c.host.VerifyToken = src.verify
			s := startSandbox(t, c.host)
			g := newRig(t, Route{Username: username, Tokens: src, Auth: c.auth}, s)
			wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
			if !contains(g.log.String(), "auth="+c.mech) || s.Messages()[0].User != username {
				t.Error(g.log.String())
			}
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

func TestToken_ARefusedOneIsRenewedOnceAtOnce(t *testing.T) {
	for _, auth := range []string{AuthXOAUTH2, AuthOAuthBearer} {
		src := &tokens{good: 2}
		s := startSandbox(t, sandbox.Options{VerifyToken: src.verify})
		g := newRig(t, Route{Username: username, Tokens: src, Auth: auth}, s)
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
		if st := s.Stats(); st.AuthFailed != 1 || st.AuthOK != 1 || src.asked != 2 {
			t.Errorf("%s: %+v, %d tokens asked for", auth, st, src.asked)
		}
		if v := s.Violations(); len(v) > 0 { // the error challenge was answered as it has to be
			t.Errorf("%s: %v", auth, v)
		}
		if g.Status()[0].Hosts[0].State != StateUp {
			t.Errorf("%+v", g.Status())
		}
	}
}

func TestToken_RefusedTwiceIsARefusedLoginAndHoldsTheMail(t *testing.T) {
	src := &tokens{good: 99}
	s := startSandbox(t, sandbox.Options{VerifyToken: src.verify})
	g := newRig(t, Route{Username: username, Tokens: src}, s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "auth")
	wantAllOf(t, a.Site.Reason, "refused the OAuth2 token of "+username, "SMTP.SendAsApp", "Mail waits")
	if h := g.Status()[0].Hosts[0]; h.State != StateLoginRefused || !contains(h.LastReply, "535") {
		t.Errorf("%+v", h)
	}
	if st := s.Stats(); st.AuthFailed != 2 || st.Transactions != 0 {
		t.Errorf("%+v", st)
	}
	wantSite(t, g.deliver(t, mail(hello)), "auth") // in the pause: nobody is asked
	if st := s.Stats(); st.AuthFailed != 2 || src.asked != 2 {
		t.Errorf("%+v", st)
	}
	src.mu.Lock()
	src.good = 1
	src.mu.Unlock()
	g.ProbeRoute("isp")
	g.ProbeRoute("nowhere")
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
}

func TestToken_WithNoneToBeHadTheHostIsNotBotheredAndTheMailWaits(t *testing.T) {
	for _, c := range []struct {
		err   error
		state State
	}{
		{errors.New(`the grant was revoked: run "relayctl oauth login isp" 100%HOST`), StateLoginRefused}, {away{}, StateDown},
		{fmt.Errorf("wrapped: %w", away{}), StateDown}, {context.DeadlineExceeded, StateDown},
	} {
		src := &tokens{err: c.err}
		s := startSandbox(t, sandbox.Options{VerifyToken: src.verify})
		g := newRig(t, Route{Username: username, Tokens: src}, s)
		a := g.deliver(t, mail(hello))
		wantSite(t, a, "auth")
		wantAllOf(t, a.Site.Reason, "no OAuth2 token can be had for the login of "+username, c.err.Error())
		if h := g.Status()[0].Hosts[0]; h.State != c.state || s.Stats().Connections != 0 {
			t.Errorf("%+v %+v", h, s.Stats())
		}
		src.err = nil
		g.ProbeNow()
		wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	}
}

// A host that offers passwords alone gets nothing of a route with tokens, and one without tokens shows none.
func TestToken_NoMechanismForItIsNoReasonToUseAnother(t *testing.T) {
	src := &tokens{}
	s := startSandbox(t, sandbox.Options{})
	g := newRig(t, Route{Username: username, Tokens: src}, s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "auth")
	wantAllOf(t, a.Site.Reason, "it offers AUTH PLAIN LOGIN")
	if st := s.Stats(); st.AuthOK+st.AuthFailed != 0 {
		t.Errorf("%+v", st)
	}
}

// A host that says why in the challenge and then hangs up has refused the token, too.
func TestToken_AHostThatHangsUpAfterItsChallengeHasRefused(t *testing.T) {
	client := &tokenClient{credentials: credentials{"me", "t0ken"}, mech: mechXOAUTH2}
	_, err := exchange(t, client, "C: AUTH XOAUTH2 "+b64("user=me\x01auth=Bearer t0ken\x01\x01"), "S: 334 "+b64(`{"status":"401"}`), "C: ")
	if err = afterChallenge(client, err); !refusesToken(err) {
		t.Error(err)
	}
	if v := classifyError(place{token: true, login: true}, err); v.trouble != loginRefused {
		t.Errorf("%+v", v)
	}
	again := &tokenClient{credentials: credentials{"me", "t0ken"}, mech: mechOAuthBearer}
	_, err = exchange(t, again, "C: AUTH OAUTHBEARER "+b64("n,a=me,\x01auth=Bearer t0ken\x01\x01"), "S: 334 "+b64("{}"), "C: AQ==",
		"S: 334 more", "C: *", "S: 501 cancelled")
	if !refusesToken(afterChallenge(again, err)) {
		t.Error(err)
	}
	if !refusesToken(&stageError{stage: stageAuth, reply: parseReply(t, "535 5.7.3 no")}) || refusesToken(nil) ||
		refusesToken(&stageError{stage: stageAuth, reply: parseReply(t, "454 4.7.0 later")}) {
		t.Error("refusals are mistaken")
	}
}

func TestToken_NamesAreEscaped(t *testing.T) {
	for in, want := range map[string]string{"me@example.com": "me@example.com", "a,b=c": "a=2Cb=3Dc"} {
		if got := saslName(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestClassifyReply_ATokenIsNoPassword(t *testing.T) {
	p := testPlace
	p.token = true
	for line, want := range map[string]string{
		"535 5.7.3 Authentication unsuccessful":                                                         "SMTP.SendAsApp",
		"535 5.7.8 Username and Password not accepted":                                                  "https://mail.google.com/",
		"534 5.7.9 Application-specific password required":                                              "https://mail.google.com/",
		"535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox": "Authenticated SMTP",
	} {
		v := classifyReply(p, stageAuth, parseReply(t, line))
		if v.trouble != loginRefused || v.Permanent || v.Scope != site || !contains(v.Reason, want) || contains(v.Reason, "password") {
			t.Errorf("%s: %+v", line, v)
		}
	}
	if v := classifyReply(p, stageAuth, parseReply(t, "454 4.7.0 Temporary authentication failure")); v.trouble != unreachable {
		t.Errorf("%+v", v)
	}
}

func TestToken_RoutesThatMakeNoSenseAreRefused(t *testing.T) {
	src := &tokens{}
	for _, r := range []Route{
		{Auth: AuthXOAUTH2, Username: "me"}, {Auth: AuthOAuthBearer, Username: "me", Password: "pw"}, {Tokens: src},
		{Tokens: src, Username: "me", Password: "pw"}, {Tokens: src, Username: "me", Auth: AuthPlain},
		{Tokens: src, Username: "me", Auth: AuthSCRAM}, {Tokens: src, Username: "me", Auth: AuthCRAMMD5}, {Tokens: src, Username: "me", Auth: AuthOff},
		{Tokens: src, Username: "me", TLS: ModeOff},
	} {
		r.Name, r.Hosts = "isp", []string{"h:587"}
		if _, err := New(Options{Hostname: "relay.example.com", Routes: []Route{r}}); err == nil {
			t.Errorf("%+v was taken", r.Auth)
		}
	}
}

// The pauses after an outage of the token endpoint are those of a host that cannot be reached; after a refusal, those of
// a refused login.
func TestToken_Pauses(t *testing.T) {
	for err, want := range map[error]time.Duration{away{}: DefaultProbeMin, errors.New("revoked"): DefaultAuthProbeMin} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			r := p.router(t, func(o *Options) {
				o.Routes[0].TLS, o.Routes[0].Username, o.Routes[0].Tokens = ModeStartTLS, "me", &tokens{err: err}
			}, "one:25")
			a := r.Deliver(t.Context(), "isp", mail(hello))
			if pause := time.Until(a.RetryAt); pause < want || pause > want+want/5 {
				t.Errorf("%v: a pause of %v", err, pause)
			}
		})
	}
}

func wantAllOf(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !contains(text, p) {
			t.Errorf("%q is missing in %q", p, text)
		}
	}
}
