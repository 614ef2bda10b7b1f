package issuer

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"
)

// code is an authorization code that waits to be exchanged.
type code struct {
	grant               *grant
	client, redirect    string
	challenge           string
	expires             time.Time
	exchangedForRefresh string
}

// token is the token endpoint.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	form := r.PostForm
	if form.Get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		s.byAssertion(w, form)
		return
	}
	client, ok := s.client(w, r)
	if !ok {
		return
	}
	switch form.Get("grant_type") {
	case "client_credentials":
		if s.opt.ClientSecret == "" && s.opt.Certificate == nil {
			refuse(w, http.StatusBadRequest, "unauthorized_client", "a public client has no credentials")
			return
		}
		s.give(w, &grant{user: s.opt.User, scope: form.Get("scope")}, "")
	case "refresh_token":
		s.byRefresh(w, form.Get("refresh_token"))
	case "authorization_code":
		s.byCode(w, client, form)
	case "urn:ietf:params:oauth:grant-type:device_code":
		s.byDevice(w, client, form)
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "")
	}
}

// client returns who asks, or refuses.
func (s *Server) client(w http.ResponseWriter, r *http.Request) (string, bool) {
	id, secret, inHeader := r.BasicAuth()
	if inHeader {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id = r.PostForm.Get("client_id")
		if !s.opt.HeaderOnly {
			secret = r.PostForm.Get("client_secret")
		}
	}
	good := id != "" && (s.opt.ClientID == "" || id == s.opt.ClientID)
	if s.opt.Certificate != nil {
		if err := s.clientAssertion(id, r.PostForm); err != nil {
			refuse(w, http.StatusUnauthorized, "invalid_client", "AADSTS700027: "+err.Error())
			return "", false
		}
	} else {
		good = good && subtle.ConstantTimeCompare([]byte(secret), []byte(s.opt.ClientSecret)) == 1
	}
	if !good {
		refuse(w, http.StatusUnauthorized, "invalid_client", "unknown client or wrong secret")
	}
	return id, good
}

// give answers with an access token, and with a refresh token unless it is "".
func (s *Server) give(w http.ResponseWriter, g *grant, refresh string) {
	v := map[string]any{"access_token": s.newAccess(g), "token_type": "Bearer", "expires_in": int(s.opt.Lifetime.Seconds())}
	if refresh != "" {
		v["refresh_token"] = refresh
	}
	if g.scope != "" {
		v["scope"] = g.scope
	}
	answer(w, v)
}

func (s *Server) byRefresh(w http.ResponseWriter, token string) {
	if g := s.spent[token]; g != nil {
		g.revoked = true
		refuse(w, http.StatusBadRequest, "invalid_grant", "an old refresh token was used again; the grant is revoked")
		return
	}
	g := s.refresh[token]
	if g == nil || g.revoked {
		refuse(w, http.StatusBadRequest, "invalid_grant", "Token has been expired or revoked.")
		return
	}
	next := ""
	if s.opt.Rotate {
		delete(s.refresh, token)
		s.spent[token] = g
		next = s.newRefresh(g)
	}
	s.give(w, g, next)
}

// authorize is the authorization endpoint. The person is logged in and says yes.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.Scheme != "http" || back.Hostname() != "127.0.0.1" && back.Hostname() != "localhost" {
		http.Error(w, "redirect_uri is not registered", http.StatusBadRequest)
		return
	}
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" {
		http.Error(w, "response_type=code and PKCE with S256 are needed", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	c := "code-" + rand.Text()
	s.codes[c] = &code{grant: &grant{user: s.opt.User, scope: q.Get("scope")}, client: q.Get("client_id"),
		redirect: q.Get("redirect_uri"), challenge: q.Get("code_challenge"), expires: time.Now().Add(time.Minute)}
	s.mu.Unlock()
	back.RawQuery = url.Values{"code": {c}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (s *Server) byCode(w http.ResponseWriter, client string, form url.Values) {
	c := s.codes[form.Get("code")]
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case c == nil, time.Now().After(c.expires), c.client != client, c.redirect != form.Get("redirect_uri"):
		refuse(w, http.StatusBadRequest, "invalid_grant", "the code is unknown, old or another's")
	case base64.RawURLEncoding.EncodeToString(sum[:]) != c.challenge:
		refuse(w, http.StatusBadRequest, "invalid_grant", "the verifier does not fit")
	case c.exchangedForRefresh != "":
		c.grant.revoked = true
		refuse(w, http.StatusBadRequest, "invalid_grant", "the code was used before")
	default:
		c.exchangedForRefresh = s.newRefresh(c.grant)
		s.give(w, c.grant, c.exchangedForRefresh)
	}
}

// introspect answers whom a token lets in (RFC 7662).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	token := r.FormValue("token")
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.access[token]
	if g == nil || g.revoked || !time.Now().Before(s.expires[token]) {
		answer(w, map[string]any{"active": false})
		return
	}
	answer(w, map[string]any{"active": true, "username": g.user, "scope": g.scope, "exp": s.expires[token].Unix()})
}
