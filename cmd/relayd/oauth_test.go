//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/issuer"
	"relayd/internal/oauth"
	"relayd/internal/sandbox"
)

const (
	tokenUser    = "me@isp.example"
	clientSecret = "client-s3cret-0123456789"
)

// tokenSite is a site whose one smarthost takes the tokens of one issuer.
type tokenSite struct {
	*site
	issuer *issuer.Server
	sb     *sandbox.Server
	store  *oauth.Store
}

// newTokenSite configures a relay with a table [smarthost.oauth2] that says what table does.
func newTokenSite(t *testing.T, o issuer.Options, table string) *tokenSite {
	t.Helper()
	o.ClientID, o.User = "relay", tokenUser
	is, err := issuer.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { is.Close() })
	s := &tokenSite{site: newSite(t), issuer: is}
	// Each message has a connection, and so a login, of its own.
	s.sb = s.smarthost(sandbox.Options{VerifyToken: is.Verify, Mechanisms: []string{"PLAIN", "XOAUTH2"}, MaxPerConnection: 1})
	s.write("app.secret", clientSecret+"\n", 0o600)
	s.configure(fmt.Sprintf("[[smarthost]]\nname = \"office\"\nhosts = [%q]\nusername = %q\nca_file = %q\n[smarthost.oauth2]\n"+
		"client_id = \"relay\"\ntoken_url = %q\ndevice_url = %q\n%s", s.sb.Addr(), tokenUser, s.sb.CAFile(), is.TokenURL(), is.DeviceURL(), table))
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.store = oauth.NewStore(data)
	return s
}

// login leaves a grant as relayctl oauth login does, and returns its refresh token.
func (s *tokenSite) login() string {
	s.t.Helper()
	token := s.issuer.Grant(tokenUser)
	err := s.store.Save("office", oauth.Grant{RefreshToken: token, Username: tokenUser, ClientID: "relay", TokenURL: s.issuer.TokenURL(), Obtained: time.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// mustTell waits until status has a problem with the words.
func (s *tokenSite) mustTell(words string) {
	s.t.Helper()
	until(s.t, "a problem with "+words, func() bool { return strings.Contains(strings.Join(s.status().Problems, "\n"), words) })
}

// mustBeWell waits until status has no problem.
func (s *tokenSite) mustBeWell() {
	s.t.Helper()
	until(s.t, "no problem", func() bool { return len(s.status().Problems) == 0 })
}

func TestRelayd_MailGoesOutWithAToken(t *testing.T) {
	s := newTokenSite(t, issuer.Options{ClientSecret: clientSecret, TokenLength: 2000},
		"flow = \"client_credentials\"\nclient_secret_file = \"app.secret\"\nsecret_expires = \""+time.Now().AddDate(0, 0, 10).Format(time.DateOnly)+"\"\n")
	p := s.start()
	for range 3 {
		p.mustSubmit("a@example.com")
	}
	for _, m := range arrive(t, s.sb, 3) {
		if m.User != tokenUser || !m.TLS {
			t.Errorf("%+v", m)
		}
	}
	if n := len(s.issuer.Requests()); n != 1 {
		t.Errorf("%d tokens for three messages", n)
	}
	if v := s.sb.Violations(); len(v) > 0 {
		t.Error(v)
	}
	// The secret's end is near: that is told before it is there.
	p.waitFor(`level=WARN .*secret_expires: the client's secret or certificate ends on`)
	s.mustTell("the client's secret or certificate ends on")
	st := s.status().OAuth
	if len(st) != 1 || st[0].Route != "office" || st[0].TokenExpires.Before(time.Now().Add(50*time.Minute)) || st[0].Problem != "" {
		t.Errorf("%+v", st)
	}
	s.mustHoldNoSecret(p, clientSecret)
}

// A grant that is revoked holds the mail, is loud, and bounces nothing; after a new login the mail goes out by itself.
func TestRelayd_ARevokedGrantHoldsTheMailUntilTheNextLogin(t *testing.T) {
	s := newTokenSite(t, issuer.Options{Rotate: true}, "flow = \"device\"\n")
	secrets := []string{s.login()}
	p := s.start()
	p.mustSubmit("a@example.com")
	arrive(t, s.sb, 1)
	secrets = append(secrets, s.issuer.RefreshTokens()...)

	s.issuer.RevokeAll()
	p.mustSubmit("b@example.com")
	s.mustTell(`run "relayctl oauth login office"`)
	p.waitFor(`level=ERROR msg="no token can be had.*relayctl oauth login office`)
	p.waitFor(`level=ERROR msg="host login_refused".*the grant of me@isp.example has ended`)
	if q := s.status().Queue; q.Active+q.Deferred+q.Held != 1 || len(s.sb.Messages()) != 1 {
		t.Errorf("%+v, %d messages", q, len(s.sb.Messages()))
	}
	if st := s.status().OAuth[0]; !st.Refused || st.Since.IsZero() || !st.TokenExpires.IsZero() {
		t.Errorf("%+v", st)
	}
	if s.sb.Stats().AuthFailed != 1 { // the old token, once; no password
		t.Errorf("%+v", s.sb.Stats())
	}

	secrets = append(secrets, s.login())
	got := arrive(t, s.sb, 2)
	if got[1].ReversePath != "sender@lan.example" || got[1].Recipients[0] != "b@example.com" {
		t.Errorf("a bounce arrived: %+v", got[1])
	}
	p.waitFor(`msg="a token is had again"`)
	s.mustBeWell()
	secrets = append(secrets, s.issuer.RefreshTokens()...)
	s.mustHoldNoSecret(p, secrets...)
}

func TestRelayd_BeforeTheFirstLoginMailWaits(t *testing.T) {
	s := newTokenSite(t, issuer.Options{}, "flow = \"device\"\n")
	p := s.start()
	p.mustSubmit("a@example.com")
	s.mustTell(`nobody has logged in as me@isp.example yet: run "relayctl oauth login office"`)
	s.login()
	arrive(t, s.sb, 1)
	s.mustBeWell()
}

// An outage of the token endpoint: what has a token goes on, the rest waits, and nothing is lost or sent back.
func TestRelayd_TheTokenEndpointIsDown(t *testing.T) {
	s := newTokenSite(t, issuer.Options{ClientSecret: clientSecret}, "flow = \"client_credentials\"\nclient_secret_file = \"app.secret\"\n")
	p := s.start()
	p.mustSubmit("a@example.com")
	arrive(t, s.sb, 1)
	down := issuer.Fault{Status: http.StatusServiceUnavailable, Body: clientSecret}
	s.issuer.Fail(&down)
	p.mustSubmit("b@example.com")
	arrive(t, s.sb, 2) // with the token that lives
	s.issuer.RevokeAccess()
	p.mustSubmit("c@example.com")
	s.mustTell("Service Unavailable (HTTP 503)")
	if len(s.sb.Messages()) != 2 {
		t.Error("mail went out without a token")
	}
	s.issuer.Fail(nil)
	arrive(t, s.sb, 3)
	s.mustBeWell()
	s.mustHoldNoSecret(p, clientSecret)
}

// A reload with the same account keeps its token; one with another secret gets another.
func TestRelayd_AReloadKeepsTheToken(t *testing.T) {
	s := newTokenSite(t, issuer.Options{ClientSecret: clientSecret}, "flow = \"client_credentials\"\nclient_secret_file = \"app.secret\"\n")
	p := s.start()
	p.mustSubmit("a@example.com")
	arrive(t, s.sb, 1)
	reload := func(n int) {
		p.signal(syscall.SIGHUP)
		until(t, "the reload", func() bool { return strings.Count(p.log.String(), "the configuration was reloaded") == n })
	}
	reload(1)
	p.mustSubmit("b@example.com")
	arrive(t, s.sb, 2)
	if n := len(s.issuer.Requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	s.write("app.secret", "not the secret\n", 0o600)
	reload(2)
	p.mustSubmit("c@example.com")
	s.mustTell("invalid_client")
	s.write("app.secret", clientSecret+"\n", 0o600)
	reload(3)
	arrive(t, s.sb, 3)
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Error(err)
	}
}

// mustHoldNoSecret fails the test if one of secrets is in the log, in the status or in a file of the queue, but for the
// file of the grant.
func (s *tokenSite) mustHoldNoSecret(p *process, secrets ...string) {
	s.t.Helper()
	status, err := json.Marshal(s.status())
	if err != nil {
		s.t.Fatal(err)
	}
	texts := map[string][]byte{"the log": []byte(p.log.String()), "the status": status}
	err = filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == s.store.Path("office") {
			return err
		}
		texts[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, secret := range secrets {
		for where, text := range texts {
			if bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte("access-")) {
				s.t.Errorf("%s holds a secret", where)
			}
		}
	}
	if len(secrets) == 0 || len(texts) < 4 {
		s.t.Error("nothing was looked at")
	}
}
