//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/issuer"
	"relayd/internal/oauth"
	"relayd/internal/sandbox"
)

// parrot is an issuer that remembers every secret of its requests and answers, and repeats those of a request in a refusal
// when it is told to.
type parrot struct {
	*issuer.Server
	front *httptest.Server

	mu      sync.Mutex
	secrets []string
	token   string // the access token that was given last
	refuse  bool
}

func newParrot(t *testing.T, o issuer.Options) *parrot {
	p := &parrot{}
	p.front = httptest.NewServer(p)
	t.Cleanup(p.front.Close)
	o.ClientID, o.User = "relay", tokenUser
	p.Server = issuer.New(o, p.front.URL)
	return p
}

func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, _ := io.ReadAll(r.Body) // what is missing of it, the issuer refuses
	r.Body = io.NopCloser(bytes.NewReader(text))
	said := ""
	if form, err := http.NewRequest("POST", "/", bytes.NewReader(text)); err == nil {
		form.Header = r.Header
		for _, key := range []string{"refresh_token", "client_secret", "client_assertion", "assertion"} {
			if v := form.FormValue(key); v != "" {
				p.secrets = append(p.secrets, v)
				said += " and " + v + " and " + base64.StdEncoding.EncodeToString([]byte(v))
			}
		}
	}
	if p.refuse {
		p.refuse = false
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": "invalid_request", "error_description": "repeating" + said})
		return
	}
	done := httptest.NewRecorder()
	p.Server.ServeHTTP(done, r)
	var given struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if json.Unmarshal(done.Body.Bytes(), &given) == nil && given.Access != "" {
		p.token = given.Access
		p.secrets = append(p.secrets, given.Access)
		if given.Refresh != "" {
			p.secrets = append(p.secrets, given.Refresh)
		}
	}
	for k, v := range done.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(done.Code)
	w.Write(done.Body.Bytes())
}

// seen returns all secrets so far, and the last access token.
func (p *parrot) seen() (secrets []string, token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.secrets), p.token
}

func (p *parrot) refuseOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
}

// keySecrets are the forms in which a private key could be told: a line of its PEM, and its exponent.
func keySecrets(key *rsa.PrivateKey, text []byte) []string {
	lines := strings.Split(string(text), "\n")
	return []string{lines[len(lines)/2], key.D.String(), fmt.Sprintf("%x", key.D), string(key.D.Bytes())}
}

func newKey(t *testing.T) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// relayctl is the operator's tool, built for the test.
func relayctl(t *testing.T) func(args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relayctl")
	if out, err := exec.Command("go", "build", "-o", path, "relayd/cmd/relayctl").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(args ...string) []byte {
		out, _ := exec.Command(path, args...).CombinedOutput() // refusals are among what is looked at
		return out
	}
}

// talker is a smarthost of its own for each way to log in, which repeats what it was shown.
type talker struct {
	name, mech string
	issuer     *parrot // nil for the password
	oauth2     string  // the table [smarthost.oauth2], but for the endpoints
	sb         *sandbox.Server
}

// repeats returns what the host says to have been shown: itself, and in all ways to encode it.
func (k *talker) repeats() string {
	secret := testPassword
	if k.issuer != nil {
		_, secret = k.issuer.seen()
	}
	var forms []string
	for _, blob := range []string{"%s", "\x00me@isp.example\x00%s", "user=me@isp.example\x01auth=Bearer %s\x01\x01",
		"n,a=me@isp.example,\x01auth=Bearer %s\x01\x01"} {
		forms = append(forms, base64.StdEncoding.EncodeToString(fmt.Appendf(nil, blob, secret)))
	}
	return secret + " and " + strings.Join(forms, " ")
}

// Neither tokens nor what they are had with are in anything that a run leaves behind or shows: each way to get one, and
// the passwords of the challenge mechanisms; issuers and smarthosts that repeat what they were shown; reports that go to
// senders; what relayctl and the metrics say; configurations with mistakes in them; and the dump of a process that is killed.
func TestRelayd_TokensStaySecret(t *testing.T) {
	ctl := relayctl(t)
	certKey, certPEM := newKey(t)
	serviceKey, servicePEM := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relayd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, certKey.Public(), certKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.write("app.secret", clientSecret+"\n", 0o600)
	s.write("app.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
	s.write("app.key", string(certPEM), 0o600)
	service, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "robot@project.example", "private_key_id": "k1",
		"private_key": string(servicePEM)})
	if err != nil {
		t.Fatal(err)
	}
	s.write("service.json", string(service), 0o600)

	talkers := []*talker{
		{name: "app", mech: "XOAUTH2", issuer: newParrot(t, issuer.Options{ClientSecret: clientSecret, TokenLength: 200}),
			oauth2: "flow = \"client_credentials\"\nclient_id = \"relay\"\nclient_secret_file = \"app.secret\"\n"},
		{name: "cert", mech: "OAUTHBEARER", issuer: newParrot(t, issuer.Options{Certificate: cert}),
			oauth2: "flow = \"client_credentials\"\nclient_id = \"relay\"\ncert_file = \"app.crt\"\nkey_file = \"app.key\"\n"},
		{name: "service", mech: "XOAUTH2", issuer: newParrot(t, issuer.Options{ServiceAccount: "robot@project.example", ServiceKey: &serviceKey.PublicKey}),
			oauth2: "flow = \"service_account\"\nservice_account_file = \"service.json\"\nscopes = [\"mail\"]\n"},
		{name: "cram", mech: "CRAM-MD5"}, {name: "scram", mech: "SCRAM-SHA-256"},
		{name: "office", mech: "OAUTHBEARER", issuer: newParrot(t, issuer.Options{Rotate: true}),
			oauth2: "flow = \"device\"\nclient_id = \"relay\"\n"},
	}
	var dialogue logFile
	var configuration strings.Builder
	for _, k := range talkers {
		o := sandbox.Options{Mechanisms: []string{k.mech}, Transcript: &dialogue}
		recipients := fmt.Sprintf("recipients = [\"@%s.example\"]\n", k.name)
		if k.name == "office" { // and the reports
			recipients = ""
		}
		login := "password_file = \"isp.password\"\n"
		if k.issuer != nil {
			o.VerifyToken = k.issuer.Verify
			login = fmt.Sprintf("[smarthost.oauth2]\ntoken_url = %q\n%s", k.issuer.TokenURL(), k.oauth2)
			if k.name == "office" {
				login += fmt.Sprintf("device_url = %q\n", k.issuer.DeviceURL())
			}
		}
		k.sb = s.smarthost(o)
		fmt.Fprintf(&configuration, "[[smarthost]]\nname = %q\nhosts = [%q]\nca_file = %q\n%susername = %q\n%s", k.name, k.sb.Addr(), k.sb.CAFile(),
			recipients, tokenUser, login)
	}
	office := talkers[len(talkers)-1]
	configuration.WriteString("[metrics]\naddress = \"127.0.0.1:0\"\n")
	s.configure(configuration.String())
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	store := oauth.NewStore(data)
	if err := store.Save("office", oauth.Grant{RefreshToken: office.issuer.Grant(tokenUser), Username: tokenUser, ClientID: "relay",
		TokenURL: office.issuer.TokenURL(), Obtained: time.Now()}); err != nil {
		t.Fatal(err)
	}

	p := s.start()
	for _, k := range talkers {
		p.mustSubmit("a@" + k.name + ".example")
		arrive(t, k.sb, 1)
	}
	// Each host refuses the login once, and each issuer the token that is to take the place of the refused one.
	for _, k := range talkers {
		if k.issuer != nil {
			k.issuer.refuseOnce()
		}
		// The warm connection is gone, so that there is a new login.
		if err := errors.Join(k.sb.Inject(sandbox.Fault{Stage: sandbox.StageAuth, Reply: "535 5.7.8 no: " + k.repeats(), Times: 1}),
			k.sb.Stop(), k.sb.Resume()); err != nil {
			t.Fatal(err)
		}
		p.mustSubmit("b@" + k.name + ".example")
		p.waitFor(`(?s)level=ERROR msg="host login_refused" route=` + k.name)
	}
	seen := leaks{}
	seen.api(t, s)
	seen["status of the troubled"] = ctl("--config", s.config, "status")
	seen["oauth status of the troubled"] = ctl("--config", s.config, "oauth", "status")
	s.retryUntil(t, "all mail", func() bool {
		for _, k := range talkers {
			if len(k.sb.Messages()) < 2 {
				return false
			}
		}
		return true
	})
	// Refusals of recipients, of which the senders are told. What the host repeats is what it was shown in that session.
	for _, k := range talkers {
		says := k.repeats()
		if err := k.sb.Inject(
			sandbox.Fault{Stage: sandbox.StageRcpt, Match: "bounce@", Reply: "550-5.1.1 nobody,\n550 5.1.1 says " + says},
			sandbox.Fault{Stage: sandbox.StageRcpt, Match: "wait@", Reply: "450 4.2.1 later, says " + says},
			sandbox.Fault{Stage: sandbox.StageDot, Match: "RCPT TO:<spam@", Reply: "554 5.7.1 unwanted, says " + says},
		); err != nil {
			t.Fatal(err)
		}
		p.mustSubmit("bounce@"+k.name+".example", "wait@"+k.name+".example")
		p.mustSubmit("spam@" + k.name + ".example")
	}
	reports := func() (n int) {
		for _, m := range office.sb.Messages() {
			if m.ReversePath == "" && strings.Contains(string(m.Data), "says") {
				n++
			}
		}
		return n
	}
	until(t, "the reports", func() bool { return reports() == 2*len(talkers) })
	until(t, "the deferrals", func() bool { return strings.Count(p.log.String(), "450 4.2.1 later") >= len(talkers) })

	mistakes := []string{
		"client_secret = " + clientSecret, "client_secret = [\"" + clientSecret + "\"]", "client_secrets = \"" + clientSecret + "\"",
		"client_secret_env = \"" + clientSecret + "\"", "client_secret = \"" + clientSecret + "\"\nclient_secret_file = \"app.secret\"",
		"service_account_file = \"app.key\"", "service_account_file = \"app.secret\"", "cert_file = \"app.key\"\nkey_file = \"app.key\"",
		"cert_file = \"app.crt\"\nkey_file = \"service.json\"", "token_url = \"https://me:" + clientSecret + "@login.example/\"",
	}
	for i, mistake := range mistakes {
		before := strings.Count(p.log.String(), "the configuration was not reloaded")
		s.configure("[[smarthost]]\nhosts = [\"x.example\"]\nusername = \"me@x.example\"\n[smarthost.oauth2]\nclient_id = \"relay\"\n" + mistake + "\n")
		seen[fmt.Sprintf("check %d", i)] = ctl("--config", s.config, "check")
		p.signal(syscall.SIGHUP)
		until(t, "the refusal of a configuration", func() bool {
			return strings.Count(p.log.String(), "the configuration was not reloaded") > before
		})
	}
	s.configure(configuration.String())

	for line := range strings.Lines(dialogue.String()) {
		if strings.Contains(line, "] C: ") { // in the others the test itself put the secrets
			seen["transcript"] = append(seen["transcript"], line...)
		}
	}
	for _, k := range talkers {
		for i, m := range k.sb.Messages() {
			seen[fmt.Sprintf("message %d of %s", i, k.name)] = m.Data
		}
	}
	seen.api(t, s)
	_, shown := scrape(t, p.metricsAt(1))
	seen["metrics"] = []byte(shown)
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"oauth", "status"}, {"queue", "list"}, {"queue", "list", "--json"}, {"check"},
		{"route", "--from", "a@x.example", "--to", "b@app.example"}, {"probe", "--from", "a@[192.0.2.1]"},
		{"oauth", "login", "app"}} {
		seen["relayctl "+strings.Join(args, " ")] = ctl(append([]string{"--config", s.config}, args...)...)
	}
	for _, id := range s.ids(t) {
		seen["relayctl show "+id] = ctl("--config", s.config, "queue", "show", id)
	}
	p.signal(syscall.SIGQUIT) // the dump of a process that is killed
	_ = p.wait()
	if !strings.Contains(p.log.String(), "goroutine ") {
		t.Error("the process left no dump")
	}
	seen["log and dump"] = []byte(p.log.String())
	exported := filepath.Join(s.dir, "exported")
	seen["relayctl queue export"] = ctl("--config", s.config, "queue", "export", exported)
	seen.files(t, exported)
	seen.files(t, data)

	secrets := []string{testPassword, clientSecret}
	secrets = append(append(secrets, keySecrets(certKey, certPEM)...), keySecrets(serviceKey, servicePEM)...)
	for _, k := range talkers {
		if k.issuer != nil {
			of, _ := k.issuer.seen()
			secrets = append(secrets, of...)
		}
	}
	// The one file that is there to hold a refresh token holds the last one, and nothing else.
	grant, err := store.Load("office")
	if err != nil {
		t.Fatal(err)
	}
	seen[store.Path("office")] = bytes.ReplaceAll(seen[store.Path("office")], []byte(grant.RefreshToken), nil)
	if len(seen) < 60 || len(secrets) < 25 {
		t.Errorf("only %d places were searched for %d secrets", len(seen), len(secrets))
	}
	seen.search(t, secrets...)
	for _, k := range talkers {
		if !regexp.MustCompile(`host login_refused" route=` + k.name + ` .*\[secret\]`).MatchString(p.log.String()) {
			t.Errorf("what the smarthost of %s repeated did not reach the log", k.name)
		}
	}
	if n := strings.Count(p.log.String(), "repeating and [secret]"); n < 4 {
		t.Errorf("what the issuers repeated is %d times in the log", n)
	}
}

// ids returns the queue's messages.
func (s *site) ids(t *testing.T) []string {
	t.Helper()
	var out []string
	s.client(t, func(ctx context.Context, c *control.Client) error {
		page, err := c.List(ctx, "", 100)
		for _, e := range page.Entries {
			out = append(out, e.ID)
		}
		return err
	})
	return out
}

// retryUntil has the daemon forget its pauses until cond holds.
func (s *site) retryUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	until(t, what, func() bool {
		if cond() {
			return true
		}
		s.client(t, func(ctx context.Context, c *control.Client) error {
			_, err := c.ApplyAll(ctx, "retry")
			return err
		})
		return false
	})
}

func (s *site) client(t *testing.T, use func(context.Context, *control.Client) error) {
	t.Helper()
	ctx := context.Background()
	c, err := control.Dial(ctx, filepath.Join(s.dir, "data", "control.sock"))
	if err == nil {
		err = use(ctx, c)
		c.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
