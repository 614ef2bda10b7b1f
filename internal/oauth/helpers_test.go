package oauth

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relayd/internal/issuer"
)

const (
	base   = "https://login.example"
	secret = "cl1ent s3cret/+"
	user   = "me@example.com"
)

// inMemory is a transport whose one server is a handler, so that tests of time can run on synctest's clock.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	w := httptest.NewRecorder()
	defer func() {
		if recover() != nil { // http.ErrAbortHandler
			resp, err = nil, errors.New("connection reset by peer")
		}
	}()
	m.ServeHTTP(w, r)
	return w.Result(), nil
}

// account is one at the in-memory server.
func account(flow Flow) Account {
	a := Account{Name: "isp", Username: user, Flow: flow, ClientID: "relay", TokenURL: base + "/token", DeviceURL: base + "/device",
		AuthURL: base + "/authorize", Scopes: []string{"mail.send", "offline_access"}}
	if flow == FlowClientCredentials {
		a.ClientSecret = secret
	}
	return a
}

func options() issuer.Options { return issuer.Options{ClientID: "relay", User: user} }

func confidential() issuer.Options {
	o := options()
	o.ClientSecret = secret
	return o
}

// rig is a Source at a server, with its store and its log.
type rig struct {
	*Source
	server *issuer.Server
	store  *Store
	dir    string
	log    *safeBuffer
	back   atomic.Int32 // calls of Recovered
}

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

// newRig makes a Source of a's in a data folder of its own. For a flow of a person, that person has logged in.
func newRig(t *testing.T, o issuer.Options, a Account) *rig {
	t.Helper()
	g := &rig{server: issuer.New(o, base), dir: t.TempDir(), log: new(safeBuffer)}
	g.store = NewStore(g.dir)
	if a.Flow.Personal() {
		g.login(t, a)
	}
	g.Source = New(a, Options{Store: g.store, Transport: inMemory{g.server},
		Log:       slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Recovered: func() { g.back.Add(1) }})
	t.Cleanup(g.Close)
	return g
}

// login stores a fresh grant.
func (g *rig) login(t *testing.T, a Account) {
	t.Helper()
	if err := g.store.Save(a.Name, Grant{RefreshToken: g.server.Grant(user), Username: a.Username, ClientID: a.ClientID,
		TokenURL: a.TokenURL, Obtained: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

func (g *rig) requests() int { return len(g.server.Requests()) }

// must returns a token that the server honours.
func (g *rig) must(t *testing.T, refused string) string {
	t.Helper()
	token, err := g.Token(t.Context(), refused)
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	if !g.server.Verify(user, token) {
		t.Fatalf("the server does not know the token %q", token)
	}
	return token
}

// refusal returns the *GrantError that Token must come to.
func (g *rig) refusal(t *testing.T) *GrantError {
	t.Helper()
	token, err := g.Token(t.Context(), "")
	refused, ok := errors.AsType[*GrantError](err)
	if !ok {
		t.Fatalf("got %q, %v; want a refusal", token, err)
	}
	return refused
}

func (g *rig) mustBeAway(t *testing.T) *EndpointError {
	t.Helper()
	token, err := g.Token(t.Context(), "")
	away, ok := errors.AsType[*EndpointError](err)
	if !ok {
		t.Fatalf("got %q, %v; want an endpoint that is away", token, err)
	}
	return away
}

// certificate makes one with an RSA key.
func certificate(t *testing.T) (*Certificate, *x509.Certificate) {
	t.Helper()
	key := rsaKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relayd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{Leaf: der, Key: key}, cert
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemKey(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in: %s", p, text)
		}
	}
}

func chmod(t *testing.T, mode os.FileMode, elem ...string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(elem...), mode); err != nil {
		t.Fatal(err)
	}
}
