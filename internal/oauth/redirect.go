package oauth

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// Redirect is a login in a browser that comes back to this machine's loopback address (RFC 8252 section 7.3), with PKCE
// (RFC 7636), so that a code which somebody else sees is worth nothing.
type Redirect struct {
	// URL is what to open in a browser, and Port where the browser comes back to.
	URL  string
	Port int

	account  Account
	rt       http.RoundTripper
	server   *http.Server
	verifier string
	state    string
	back     string // redirect_uri
	codes    chan result
}

type result struct {
	code string
	err  error
}

// StartRedirect listens on the loopback address for the browser's return; port 0 is any that is free. Close it.
func StartRedirect(a Account, rt http.RoundTripper, port int) (*Redirect, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	r := &Redirect{account: a, rt: rt, verifier: oauth2.GenerateVerifier(), state: oauth2.GenerateVerifier(),
		Port: l.Addr().(*net.TCPAddr).Port, codes: make(chan result, 1)}
	host := "127.0.0.1"
	if a.Provider == ProviderMicrosoft { // which has http://localhost registered, and lets the port vary
		host = "localhost"
	}
	r.back = fmt.Sprintf("http://%s:%d/", host, r.Port)
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(r.verifier), oauth2.SetAuthURLParam("login_hint", a.Username)}
	if a.Provider == ProviderGoogle { // which gives a refresh token only with these
		options = append(options, oauth2.AccessTypeOffline, oauth2.SetAuthURLParam("prompt", "consent"))
	}
	r.URL = r.config(oauth2.AuthStyleInParams).AuthCodeURL(r.state, options...)
	r.server = &http.Server{Handler: http.HandlerFunc(r.serve), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	go r.server.Serve(l) // until Close
	return r, nil
}

func (r *Redirect) config(style oauth2.AuthStyle) *oauth2.Config {
	c := r.account.config(style)
	c.RedirectURL = r.back
	return c
}

// Close ends the listener; the browser still gets the page that it has asked for.
func (r *Redirect) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if r.server.Shutdown(ctx) != nil {
		return r.server.Close()
	}
	return nil
}

// serve takes the browser's return.
func (r *Redirect) serve(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if req.URL.Path != "/" || req.Method != http.MethodGet {
		http.NotFound(w, req)
		return
	}
	done, err := r.Returned(req.URL.String())
	switch {
	case !done:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, "<p>This is not the answer to the login that relayctl waits for.</p>")
	case err != nil:
		fmt.Fprintf(w, "<p>%s</p>\n", html.EscapeString(err.Error()))
	default:
		fmt.Fprintln(w, "<p>Thank you. relayctl goes on in its terminal; this window can be closed.</p>")
	}
}

// Returned takes the address to which the browser was sent back, for a browser on another machine, which finds nobody
// there: the person pastes the address. It reports whether that ends the login, and what the provider's refusal was.
func (r *Redirect) Returned(address string) (done bool, err error) {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return false, nil
	}
	q := u.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(r.state)) != 1 {
		return false, nil
	}
	got := result{code: q.Get("code")}
	if got.code == "" {
		a := &r.account
		code, words := cmp.Or(q.Get("error"), "no code"), q.Get("error_description")
		got.err = &GrantError{Code: a.tidy(code, nil), Words: a.tidy(words, nil), Advice: a.advice(code, aadsts.FindString(words), words)}
	}
	select {
	case r.codes <- got:
	default: // a reload of the page
	}
	return true, got.err
}

// Wait returns the grant once the browser has come back, or ctx ends.
func (r *Redirect) Wait(ctx context.Context) (Grant, error) {
	var got result
	select {
	case got = <-r.codes:
	case <-ctx.Done():
		return Grant{}, context.Cause(ctx)
	}
	if got.err != nil {
		return Grant{}, got.err
	}
	rt := r.rt
	if rt == nil {
		rt = http.DefaultTransport
	}
	a, client := &r.account, withClient(ctx, rt)
	var style oauth2.AuthStyle
	var tok *oauth2.Token
	err := a.withStyle(&style, func(style oauth2.AuthStyle) (err error) {
		tok, err = r.config(style).Exchange(client, got.code, oauth2.VerifierOption(r.verifier))
		return a.translate(err, got.code, r.verifier)
	})
	if err != nil {
		return Grant{}, errors.Join(err, ctx.Err())
	}
	return a.grant(tok)
}
