package smarthost

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"

	"relayd/internal/sandbox"
)

// The exchange of RFC 7677 section 3.
const (
	rfcNonce  = "rOprNGfwEbeRWgbNEkqO"
	rfcFirst  = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServer = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcFinal  = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcProof  = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

func rfcClient() *scramClient {
	return &scramClient{credentials: credentials{"user", "pencil"}, mech: scramSHA256, nonce: func() string { return rfcNonce }}
}

func TestSCRAM_ExchangeOfTheRFC(t *testing.T) {
	c := rfcClient()
	r, err := exchange(t, c, "C: AUTH SCRAM-SHA-256 "+b64(rfcFirst), "S: 334 "+b64(rfcServer), "C: "+b64(rfcFinal),
		"S: 334 "+b64(rfcProof), "C: ", "S: 235 ok")
	if err != nil || r.Code != 235 || c.proven() != nil {
		t.Error(r, err, c.proven())
	}
}

func TestSCRAM_HostThatDoesNotKnowThePasswordIsNotBelieved(t *testing.T) {
	wrong := "v=" + b64(strings.Repeat("x", 32))
	for name, script := range map[string][]string{
		"wrong signature": {"S: 334 " + b64(rfcServer), "C: " + b64(rfcFinal), "S: 334 " + b64(wrong), "C: *", "S: 501 cancelled"},
		"no signature":    {"S: 334 " + b64(rfcServer), "C: " + b64(rfcFinal), "S: 334 ", "C: *", "S: 501 cancelled"},
		"welcome instead": {"S: 334 " + b64(rfcServer), "C: " + b64(rfcFinal), "S: 235 come in"},
		"welcome at once": {"S: 235 come in"},
	} {
		t.Run(name, func(t *testing.T) {
			c := rfcClient()
			_, err := exchange(t, c, append([]string{"C: AUTH SCRAM-SHA-256 " + b64(rfcFirst)}, script...)...)
			if !errors.Is(errors.Join(err, c.proven()), errImpostor) || c.proven() == nil {
				t.Error(err, c.proven())
			}
		})
	}
}

func TestSCRAM_ChallengesThatAreOfNoUse(t *testing.T) {
	for challenge, words := range map[string]string{
		"":                      "of no use",
		"nonsense\x00\x1b[2J":   "of no use",
		"r=other,s=eHg=,i=4096": "did not extend",
		strings.Replace(rfcServer, "i=4096", "i=4095", 1):                 "too few iterations",
		strings.Replace(rfcServer, "i=4096", "i=2000001", 1):              "more than 2000000 iterations",
		strings.Replace(rfcServer, "i=4096", "i=99999999999999999999", 1): "more than 2000000 iterations",
		"m=extension," + rfcServer:                                        "of no use",
		"e=other-error":                                                   `it answers "e=other-error"`,
	} {
		_, err := exchange(t, rfcClient(), "C: AUTH SCRAM-SHA-256 "+b64(rfcFirst), "S: 334 "+b64(challenge), "C: *", "S: 501 cancelled")
		if err == nil || !contains(err.Error(), words) || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%q: %v", challenge, err)
		}
	}
	_, err := exchange(t, rfcClient(), "C: AUTH SCRAM-SHA-256 "+b64(rfcFirst), "S: 334 "+b64(rfcServer), "C: "+b64(rfcFinal),
		"S: 334 "+b64("e=invalid-proof"), "C: *", "S: 501 cancelled")
	if err == nil || !contains(err.Error(), "invalid-proof") {
		t.Error(err)
	}
	_, err = exchange(t, rfcClient(), "C: AUTH SCRAM-SHA-256 "+b64(rfcFirst), "S: 334 "+b64(rfcServer), "C: "+b64(rfcFinal),
		"S: 334 "+b64(rfcProof), "C: ", "S: 334 "+b64("and?"), "C: *", "S: 501 cancelled")
	if !errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
		t.Error(err)
	}
}

func TestSCRAM_PasswordThatItCannotTakeIsNotNamed(t *testing.T) {
	c := &scramClient{credentials: credentials{"me", "gehe\u0007im"}, mech: scramSHA256}
	_, _, err := c.Start()
	if !errors.Is(err, errSASLprep) || strings.Contains(err.Error(), "0007") {
		t.Error(err)
	}
}

// Where the user leaves the choice to the relay, a password that only PLAIN can carry goes by PLAIN.
func TestSCRAM_IsNoChoiceForAPasswordThatItCannotTake(t *testing.T) {
	const odd = "bell\u0007"
	s := startSandbox(t, sandbox.Options{Username: username, Password: odd, Mechanisms: []string{"SCRAM-SHA-256", "PLAIN"}})
	g := newRig(t, Route{Username: username, Password: odd}, s)
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
	g = newRig(t, Route{Username: username, Password: odd, Auth: AuthSCRAM}, s)
	a := g.deliver(t, mail(hello))
	wantSite(t, a, "auth")
	if !contains(a.Site.Reason, "a character that SCRAM does not allow") || s.Stats().AuthFailed > 0 {
		t.Errorf("%s; %+v", a.Site.Reason, s.Stats())
	}
}

// The first message tells a host that offers to bind and is not heard that somebody took its offer away (RFC 5802
// section 6).
func TestSCRAM_SaysWhetherItCouldBind(t *testing.T) {
	bindable := &tls.ConnectionState{Version: tls.VersionTLS12,
		PeerCertificates: []*x509.Certificate{{SignatureAlgorithm: x509.ECDSAWithSHA256, Raw: []byte("certificate")}}}
	for _, c := range []struct {
		mech, wanted, offered, want string
		state                       *tls.ConnectionState
	}{
		{scramSHA256, AuthAuto, "PLAIN SCRAM-SHA-256", "y,,", bindable},
		{scramSHA256, AuthAuto, "PLAIN SCRAM-SHA-256", "n,,", &tls.ConnectionState{Version: tls.VersionTLS12}},
		{scramSHA256, AuthSCRAM, "SCRAM-SHA-256", "n,,", bindable},
		{scramSHA256, AuthSCRAM, "SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "n,,", bindable},
		{scramSHA256Plus, AuthAuto, "SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", bindable},
	} {
		s := &scramClient{credentials: credentials{"me", "pw"}, mech: c.mech}
		s.secured(c.state, c.wanted, strings.Fields(c.offered))
		mech, first, err := s.Start()
		if err != nil || mech != c.mech || !strings.HasPrefix(string(first), c.want+"n=me,r=") {
			t.Errorf("%+v: %s %q %v", c, mech, first, err)
		}
	}
}

// Whoever lets the relay in without knowing the password gets no mail. That is no message's fault.
func TestSession_HostThatDoesNotProveItselfGetsNoMail(t *testing.T) {
	s := startSandbox(t, strict(sandbox.Options{Mechanisms: []string{"PLAIN", "SCRAM-SHA-256"}, OptionalAuth: true}))
	if err := s.Inject(sandbox.Fault{Stage: sandbox.StageAuthCommand, Reply: "235 2.7.0 come in", Times: 1}); err != nil {
		t.Fatal(err)
	}
	g := newRig(t, login(ModeStartTLS), s)
	wantSite(t, g.deliver(t, mail(hello)), "auth")
	h := g.Status()[0].Hosts[0]
	if h.State != StateLoginRefused || !contains(h.Problem, "did not prove that it knows the password") {
		t.Errorf("%+v", h)
	}
	if st := s.Stats(); st.Transactions > 0 || st.AuthOK > 0 {
		t.Errorf("%+v", st)
	}
	g.ProbeNow()
	wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
}

// A host may end SCRAM by an error in a challenge, and then hang up: that is a refusal of the password, and not a lost
// connection, after which the next host would be shown it at once.
func TestSCRAM_AnErrorInAChallengeIsARefusal(t *testing.T) {
	for _, end := range [][]string{{"S: 535 5.7.8 no"}, nil} {
		client := &scramClient{credentials: credentials{"me", "pw"}, mech: scramSHA256, nonce: func() string { return "abc" }}
		script := append([]string{"C: AUTH SCRAM-SHA-256 " + b64("n,,n=me,r=abc"), "S: 334 " + b64("e=unknown-user"), "C: *"}, end...)
		_, err := exchange(t, client, script...)
		if !refusesSecret(err) {
			t.Errorf("%v: %v", end, err)
		}
		if v := classifyError(testPlace, err); v.trouble != loginRefused || !contains(v.Reason, "e=unknown-user") {
			t.Errorf("%+v", v)
		}
	}
}

// With TLS 1.2 a certificate of Ed25519 leaves nothing to bind to (RFC 5929 section 4.1); the login goes without.
func TestChoose_NothingToBindTo(t *testing.T) {
	e := &endpoint{auth: AuthAuto, credentials: credentials{"me", "pw"}}
	state := &tls.ConnectionState{Version: tls.VersionTLS12,
		PeerCertificates: []*x509.Certificate{{SignatureAlgorithm: x509.PureEd25519}}}
	m, err := e.choose([]string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"}, state)
	if err != nil || m.name != scramSHA256 {
		t.Errorf("%q, %v", m.name, err)
	}
	_, err = e.choose([]string{"SCRAM-SHA-256-PLUS"}, state)
	if none, ok := errors.AsType[*noMechanismError](err); !ok || len(none.offered) != 1 {
		t.Errorf("%v", err)
	}
}

// The digest is that of the example in RFC 2195 section 2.
func TestCRAM_ExchangeOfTheRFC(t *testing.T) {
	cram := func() sasl.Client { return &cramClient{credentials: credentials{"tim", "tanstaaftanstaaf"}} }
	challenge := "<1896.697170952@postoffice.reston.mci.net>"
	answer := "C: " + b64("tim b913a602c7eda7a495b4e6e7334d3890")
	r, err := exchange(t, cram(), "C: AUTH CRAM-MD5", "S: 334 "+b64(challenge), answer, "S: 235 ok")
	if err != nil || r.Code != 235 {
		t.Error(r, err)
	}
	// A digest that comes back is as good as hidden: with it the password can be guessed.
	r, err = exchange(t, cram(), "C: AUTH CRAM-MD5", "S: 334 "+b64(challenge), answer,
		"S: 535 no: "+b64("tim b913a602c7eda7a495b4e6e7334d3890")+" tim b913a602c7eda7a495b4e6e7334d3890")
	if err != nil || r.Code != 535 || r.Text != "no: [secret] [secret]" {
		t.Error(r, err)
	}
	if _, err = exchange(t, cram(), "C: AUTH CRAM-MD5", "S: 334 ", "C: *", "S: 501 cancelled"); !errors.Is(err, errNoChallenge) {
		t.Error(err)
	}
	_, err = exchange(t, cram(), "C: AUTH CRAM-MD5", "S: 334 "+b64(challenge), answer, "S: 334 "+b64("more"), "C: *", "S: 501 cancelled")
	if !errors.Is(err, sasl.ErrUnexpectedServerChallenge) {
		t.Error(err)
	}
}

// A wrong password is one wrong password, also where the host would let it be tried in five ways.
func TestSession_RefusedMechanismIsNotFollowedByTheNext(t *testing.T) {
	for mechanisms, words := range map[string]string{
		"PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-256-PLUS": `It was tried with SCRAM-SHA-256-PLUS; if the password is right, ` +
			`the host may not be able to check it that way: set auth = "scram-sha-256" or "plain" or "login" or "cram-md5" in [[smarthost]] isp`,
		"PLAIN LOGIN SCRAM-SHA-256": `It was tried with SCRAM-SHA-256; if`,
		"CRAM-MD5":                  `It was tried with CRAM-MD5`,
		"CRAM-MD5 PLAIN":            "check username and password of [[smarthost]] isp",
	} {
		t.Run(mechanisms, func(t *testing.T) {
			t.Parallel()
			s := startSandbox(t, sandbox.Options{Username: username, Password: "another", Mechanisms: strings.Fields(mechanisms)})
			g := newRig(t, login(ModeStartTLS), s)
			a := g.deliver(t, mail(hello))
			wantSite(t, a, "auth")
			h := g.Status()[0].Hosts[0]
			if h.State != StateLoginRefused || !contains(h.Problem, words) || !contains(h.LastReply, "535") {
				t.Errorf("%+v", h)
			}
			g.deliver(t, mail(hello))
			if st := s.Stats(); st.AuthFailed != 1 || st.Transactions > 0 {
				t.Errorf("%+v", st)
			}
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

// A login is bound to the connection that it is made on, also where that resumes the TLS session of one before.
func TestSession_BindsTheLoginOnResumedSessions(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.3": tls.VersionTLS13, "TLS 1.2": tls.VersionTLS12} {
		t.Run(name, func(t *testing.T) {
			s := startSandbox(t, strict(sandbox.Options{Mechanisms: []string{"SCRAM-SHA-256-PLUS"}, MaxTLS: version, MaxPerConnection: 1}))
			g := newRig(t, login(ModeStartTLS), s)
			for range 3 {
				wantDelivered(t, g.deliver(t, mail(hello)), s.Addr())
			}
			if st := s.Stats(); st.Connections != 3 || st.Resumed != 2 || st.AuthOK != 3 || st.AuthFailed != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}
