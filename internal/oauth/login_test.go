package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/issuer"
)

// logInByDevice runs a login while person does something with the code.
func logInByDevice(t *testing.T, s *issuer.Server, a Account, person func(code string)) (Grant, error) {
	t.Helper()
	return LoginByDevice(t.Context(), a, inMemory{s}, func(p Prompt) {
		if p.URL != base+"/activate" || p.Expires.Before(time.Now().Add(14*time.Minute)) {
			t.Errorf("%+v", p)
		}
		go person(p.Code)
	})
}

func TestLoginByDevice_WaitsForThePersonAtTheProvidersPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := issuer.New(options(), base)
		start := time.Now()
		g, err := logInByDevice(t, s, account(FlowDevice), func(code string) {
			s.Hurry(code) // wants twice the pause: the first polls are too soon
			time.Sleep(time.Minute)
			fault := issuer.Fault{}
			s.Fail(&fault) // the line is away for a while
			time.Sleep(time.Minute)
			s.Fail(nil)
			s.Approve(code, user)
		})
		if err != nil {
			t.Fatal(err)
		}
		if g.Username != user || g.ClientID != "relay" || g.TokenURL != base+"/token" || g.RefreshToken != s.RefreshTokens()[0] {
			t.Errorf("%+v %+v", g, g.RefreshToken)
		}
		if took := time.Since(start); took < 2*time.Minute || took > 5*time.Minute {
			t.Errorf("took %v", took)
		}
		if n := len(s.Requests()); n > 25 {
			t.Errorf("%d polls in %v", n, time.Since(start))
		}
	})
}

func TestLoginByDevice_Refusals(t *testing.T) {
	for name, c := range map[string]struct {
		person func(*issuer.Server, string)
		want   string
	}{
		"declined": {func(s *issuer.Server, code string) { s.Deny(code) }, "consent was declined"},
		"too late": {func(s *issuer.Server, code string) { s.Lapse(code) }, "was not used in time"},
		"nobody":   {func(*issuer.Server, string) {}, "was not used in time"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := issuer.New(options(), base)
				_, err := logInByDevice(t, s, account(FlowDevice), func(code string) { c.person(s, code) })
				refused, ok := errors.AsType[*GrantError](err)
				if !ok {
					t.Fatal(err)
				}
				wantAll(t, refused.Error(), c.want)
			})
		})
	}
	a := account(FlowDevice)
	a.ClientID = "unknown"
	if _, err := logInByDevice(t, issuer.New(options(), base), a, nil); err == nil || !strings.Contains(err.Error(), "check client_id") {
		t.Error(err)
	}
}

func TestLoginByDevice_CanBeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := LoginByDevice(ctx, account(FlowDevice), inMemory{issuer.New(options(), base)}, func(Prompt) {
			time.AfterFunc(time.Minute, cancel)
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// startRedirect begins a login by browser at a real server on loopback.
func startRedirect(t *testing.T, o issuer.Options, change func(*Account)) (*Redirect, *issuer.Server) {
	t.Helper()
	s, err := issuer.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a := account(FlowRefreshToken)
	a.TokenURL, a.AuthURL = s.TokenURL(), s.AuthURL()
	change(&a)
	r, err := StartRedirect(a, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, s
}

// browse opens a URL as a browser does, redirects and all.
func browse(t *testing.T, address string) int {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestLoginByRedirect_TheBrowserComesBackWithACodeForThisLoginAlone(t *testing.T) {
	for _, o := range []issuer.Options{options(), confidential()} {
		r, s := startRedirect(t, o, func(a *Account) { a.ClientSecret = o.ClientSecret })
		// Another page's answer ends nothing.
		for _, stray := range []string{"/", "/?code=evil", "/?code=evil&state=guess", "/favicon.ico"} {
			if code := browse(t, r.back[:len(r.back)-1]+stray); code < 400 {
				t.Errorf("%s: %d", stray, code)
			}
		}
		if code := browse(t, r.URL); code != http.StatusOK {
			t.Errorf("the browser was told %d", code)
		}
		g, err := r.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if g.Username != user || g.RefreshToken != s.RefreshTokens()[0] {
			t.Errorf("%+v", g)
		}
	}
}

func TestLoginByRedirect_ABrowserElsewhereIsServedByPasting(t *testing.T) {
	r, _ := startRedirect(t, options(), func(*Account) {})
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if done, _ := r.Returned("hello"); done {
		t.Error("any line ends the login")
	}
	if done, err := r.Returned(" " + resp.Header.Get("Location") + "\r\n"); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	if _, err := r.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLoginByRedirect_ARefusalIsTold(t *testing.T) {
	r, _ := startRedirect(t, options(), func(*Account) {})
	back := r.back + "?" + url.Values{"error": {"access_denied"}, "error_description": {"no"}, "state": {r.state}}.Encode()
	browse(t, back)
	_, err := r.Wait(t.Context())
	if err == nil || !strings.Contains(err.Error(), "consent was declined") {
		t.Error(err)
	}
}

// What Google and Microsoft need in the address to open.
func TestLoginByRedirect_AsksAsTheProviderWants(t *testing.T) {
	google, _ := startRedirect(t, options(), func(a *Account) { a.Provider = ProviderGoogle })
	wantAll(t, google.URL, "access_type=offline", "prompt=consent", "code_challenge_method=S256", "login_hint=me%40example.com",
		"redirect_uri=http%3A%2F%2F127.0.0.1%3A")
	microsoft, _ := startRedirect(t, options(), func(a *Account) { a.Provider = ProviderMicrosoft })
	wantAll(t, microsoft.URL, "redirect_uri=http%3A%2F%2Flocalhost%3A", "scope=mail.send+offline_access")
}

func TestGrant_ATokenWithoutARefreshTokenIsNoLogin(t *testing.T) {
	a := account(FlowDevice)
	fault := issuer.Fault{Status: 200, Body: `{"access_token": "x", "token_type": "Bearer", "expires_in": 3600}`}
	synctest.Test(t, func(t *testing.T) {
		s := issuer.New(options(), base)
		_, err := logInByDevice(t, s, a, func(string) { s.Fail(&fault) })
		if err == nil || !strings.Contains(err.Error(), "offline_access") {
			t.Error(err)
		}
	})
}
