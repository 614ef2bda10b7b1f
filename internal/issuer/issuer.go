package issuer

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options say what kind of server Start makes. The zero value serves a public client of any name.
type Options struct {
	// Address is where it listens; "" is 127.0.0.1:0.
	Address string
	// ClientID is the one client that is known; "" is any.
	ClientID string
	// ClientSecret is the client's; "" makes it a public client, unless there is a Certificate.
	ClientSecret string
	// HeaderOnly takes the secret in the Authorization header alone.
	HeaderOnly bool
	// Certificate is what the client signs its assertions with, in place of a secret.
	Certificate *x509.Certificate
	// ServiceAccount and ServiceKey are who may ask for tokens of any user by a signed assertion (jwt-bearer).
	ServiceAccount string
	ServiceKey     *rsa.PublicKey
	// User is the person who logs in at the authorization endpoint, and the mailbox of the client's own tokens.
	User string
	// Lifetime is that of access tokens; 0 is an hour.
	Lifetime time.Duration
	// Rotate gives a new refresh token with each access token.
	Rotate bool
	// Interval is the least time between two polls of a device, which the answer says in whole seconds; 0 is five seconds.
	Interval time.Duration
	// TokenLength pads access tokens to so many characters: real ones often have 2000.
	TokenLength int
}

// Server is a running server. Its methods may be called at the same time.
type Server struct {
	opt  Options
	http *http.Server
	base string

	mu       sync.Mutex
	access   map[string]*grant // by token
	expires  map[string]time.Time
	refresh  map[string]*grant
	spent    map[string]*grant // refresh tokens that were exchanged
	codes    map[string]*code
	devices  map[string]*device // by device code
	seenJTI  map[string]bool
	fault    *Fault
	requests []string // grant types, in order
	changed  chan struct{}
}

// grant is what a user allowed a client.
type grant struct {
	user, scope string
	revoked     bool
}

// Fault is what the token and device endpoints do in place of their work.
type Fault struct {
	// Status is the HTTP status, and Body what follows; with Status 0 the connection is closed without an answer.
	Status int
	Body   string
}

// Refusal is the fault that answers with an error of RFC 6749 section 5.2.
func Refusal(code, description string) Fault {
	b, _ := json.Marshal(map[string]string{"error": code, "error_description": description}) // of strings: cannot fail
	return Fault{Status: http.StatusBadRequest, Body: string(b)}
}

// New makes a server that does not listen: it is an http.Handler, whose endpoints have URLs below base.
func New(opt Options, base string) *Server {
	opt.Lifetime = cmp.Or(opt.Lifetime, time.Hour)
	opt.Interval = cmp.Or(opt.Interval, 5*time.Second)
	s := &Server{opt: opt, base: base, changed: make(chan struct{}),
		access: map[string]*grant{}, expires: map[string]time.Time{}, refresh: map[string]*grant{}, spent: map[string]*grant{},
		codes: map[string]*code{}, devices: map[string]*device{}, seenJTI: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.faulty(s.token))
	mux.HandleFunc("POST /device", s.faulty(s.device))
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("POST /introspect", s.introspect)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return s
}

// Start makes a server and returns when it listens.
func Start(opt Options) (*Server, error) {
	l, err := net.Listen("tcp", cmp.Or(opt.Address, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	s := New(opt, "http://"+l.Addr().String())
	go s.http.Serve(l) // until Close
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.Handler.ServeHTTP(w, r) }

// Close ends the server and all connections.
func (s *Server) Close() error { return s.http.Close() }

// TokenURL, DeviceURL, AuthURL and IntrospectURL are the endpoints.
func (s *Server) TokenURL() string      { return s.base + "/token" }
func (s *Server) DeviceURL() string     { return s.base + "/device" }
func (s *Server) AuthURL() string       { return s.base + "/authorize" }
func (s *Server) IntrospectURL() string { return s.base + "/introspect" }

// Fail puts a fault in force; nil ends it.
func (s *Server) Fail(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Rotate says whether refresh tokens are exchanged from now on.
func (s *Server) Rotate(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opt.Rotate = on
}

// SetLifetime changes that of the access tokens to come.
func (s *Server) SetLifetime(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opt.Lifetime = d
}

// Requests returns the grant types that the token endpoint was asked for, in order, those in a fault included.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// RevokeAll ends every grant and with them all tokens.
func (s *Server) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range []map[string]*grant{s.access, s.refresh, s.spent} {
		for _, g := range all {
			g.revoked = true
		}
	}
}

// RevokeAccess ends all access tokens; grants stay.
func (s *Server) RevokeAccess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.access)
}

// Grant makes a grant of the user's as a login would, and returns its refresh token.
func (s *Server) Grant(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newRefresh(&grant{user: user})
}

// RefreshTokens returns all that can be used now.
func (s *Server) RefreshTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for t, g := range s.refresh {
		if !g.revoked {
			out = append(out, t)
		}
	}
	return out
}

// Verify reports whether token lets in as user, as a mail server asks.
func (s *Server) Verify(user, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.access[token]
	return g != nil && !g.revoked && time.Now().Before(s.expires[token]) && strings.EqualFold(g.user, user)
}

func (s *Server) newRefresh(g *grant) string {
	t := "refresh-" + rand.Text()
	s.refresh[t] = g
	return t
}

func (s *Server) newAccess(g *grant) string {
	t := "access-" + rand.Text()
	if pad := s.opt.TokenLength - len(t); pad > 0 {
		t += strings.Repeat("x", pad)
	}
	s.access[t] = g
	s.expires[t] = time.Now().Add(s.opt.Lifetime)
	return t
}

// faulty puts the fault in force, if there is one, before next.
func (s *Server) faulty(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		if err := r.ParseForm(); err != nil {
			refuse(w, http.StatusBadRequest, "invalid_request", err.Error())
			return
		}
		s.mu.Lock()
		f := s.fault
		if r.URL.Path == "/token" {
			s.requests = append(s.requests, r.PostForm.Get("grant_type"))
		}
		s.mu.Unlock()
		switch {
		case f == nil:
			next(w, r)
		case f.Status == 0:
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(f.Status)
			w.Write([]byte(f.Body))
		}
	}
}

func refuse(w http.ResponseWriter, status int, code, description string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="issuer"`)
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}

func answer(w http.ResponseWriter, v map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v)
}
