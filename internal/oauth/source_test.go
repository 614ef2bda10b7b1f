package oauth

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/issuer"
)

func TestSource_EveryFlowGetsATokenThatTheServerHonours(t *testing.T) {
	cert, registered := certificate(t)
	key := rsaKey(t)
	for name, c := range map[string]struct {
		flow   Flow
		server func(*issuer.Options)
		client func(*Account)
	}{
		"secret":             {FlowClientCredentials, func(o *issuer.Options) { o.ClientSecret = secret }, func(a *Account) {}},
		"secret in header":   {FlowClientCredentials, func(o *issuer.Options) { o.ClientSecret, o.HeaderOnly = secret, true }, func(a *Account) {}},
		"certificate":        {FlowClientCredentials, func(o *issuer.Options) { o.Certificate = registered }, func(a *Account) { a.ClientSecret, a.Certificate = "", cert }},
		"refresh token":      {FlowRefreshToken, func(o *issuer.Options) {}, func(a *Account) {}},
		"refresh and secret": {FlowRefreshToken, func(o *issuer.Options) { o.ClientSecret = secret }, func(a *Account) { a.ClientSecret = secret }},
		"device":             {FlowDevice, func(o *issuer.Options) { o.Rotate = true }, func(a *Account) {}},
		"service account": {FlowServiceAccount, func(o *issuer.Options) { o.ServiceAccount, o.ServiceKey = "relay@project.example", &key.PublicKey },
			func(a *Account) {
				a.ServiceAccount = &ServiceAccount{Email: "relay@project.example", KeyID: "k1", Key: pemKey(t, key)}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			o, a := options(), account(c.flow)
			c.server(&o)
			c.client(&a)
			g := newRig(t, o, a)
			first := g.must(t, "")
			if again := g.must(t, ""); again != first {
				t.Error("a token that lives was not used again")
			}
			if next := g.must(t, first); next == first {
				t.Error("a refused token was given out again")
			}
		})
	}
}

func TestSource_OneRequestServesAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		ask := func(refused string) string {
			tokens := make([]string, 20)
			var all sync.WaitGroup
			for i := range tokens {
				all.Go(func() { tokens[i] = g.must(t, refused) })
			}
			all.Wait()
			for _, token := range tokens {
				if token != tokens[0] {
					t.Fatal("two tokens were given out")
				}
			}
			return tokens[0]
		}
		first := ask("")
		if n := g.requests(); n != 1 {
			t.Errorf("%d requests for the first token, want 1", n)
		}
		// All have it refused; who comes later with the same old token gets the new one, too.
		second := ask(first)
		if second == first || g.must(t, first) != second || g.requests() != 2 {
			t.Errorf("%d requests after a refused token, want 2", g.requests())
		}
	})
}

func TestSource_RenewsAheadOfExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		g.Start()
		time.Sleep(49 * time.Minute)
		if n := g.requests(); n != 1 {
			t.Errorf("%d requests in the first 49 minutes, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		if n := g.requests(); n != 2 {
			t.Errorf("%d requests by 10 minutes before the expiry, want 2", n)
		}
		time.Sleep(24 * time.Hour)
		if n := g.requests(); n < 28 || n > 32 {
			t.Errorf("%d requests in a day", n)
		}
		g.must(t, "")
	})
}

func TestSource_ATokenThatLivesIsUsedWhileTheEndpointIsDown(t *testing.T) {
	for name, fault := range map[string]issuer.Fault{
		"no answer": {}, "503": {Status: http.StatusServiceUnavailable}, "a web page": {Status: 200, Body: "<html>log in to the hotel"},
		"429": {Status: http.StatusTooManyRequests}, "proxy": {Status: http.StatusProxyAuthRequired, Body: "<html>"},
		"busy":            issuer.Refusal("temporarily_unavailable", "later"),
		"a transient one": issuer.Refusal("invalid_grant", "AADSTS90033: A transient error has occurred."),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, confidential(), account(FlowClientCredentials))
				g.Start()
				first := g.must(t, "")
				g.server.Fail(&fault)
				time.Sleep(59 * time.Minute)
				if g.must(t, "") != first {
					t.Error("another token")
				}
				if st := g.Status(); st.Problem == "" || st.Refused || st.TokenExpires.IsZero() {
					t.Errorf("%+v", st)
				}
				time.Sleep(time.Minute)
				g.mustBeAway(t)
				if g.back.Load() != 0 {
					t.Error("said to be back")
				}
				before := g.requests()
				time.Sleep(10 * time.Minute)
				if n := g.requests() - before; n < 8 || n > 20 {
					t.Errorf("%d requests in ten minutes of an outage", n)
				}
				g.server.Fail(nil)
				time.Sleep(time.Minute + tick)
				g.must(t, "")
				if g.back.Load() != 1 || g.Status().Problem != "" {
					t.Errorf("back %d times, %+v", g.back.Load(), g.Status())
				}
				if n := strings.Count(g.log.String(), "level=WARN"); n != 1 || strings.Contains(g.log.String(), "level=ERROR") {
					t.Errorf("%d warnings:\n%s", n, g.log)
				}
			})
		})
	}
}

func TestSource_ARevokedGrantIsLoudAndSeldomTriedAndEndsWithTheNextLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := account(FlowDevice)
		g := newRig(t, options(), a)
		g.Start()
		token := g.must(t, "")
		g.server.RevokeAll()
		before := g.requests()
		if _, err := g.Token(t.Context(), token); err == nil {
			t.Fatal("a token of a revoked grant")
		}
		refused := g.refusal(t)
		wantAll(t, refused.Error(), `run "relayctl oauth login isp"`, user, "Token has been expired or revoked.")
		time.Sleep(12 * time.Hour)
		if n := g.requests() - before; n < 12 || n > 20 {
			t.Errorf("%d requests in 12 hours", n)
		}
		if st := g.Status(); !st.Refused || time.Since(st.Since) < 11*time.Hour || !st.TokenExpires.IsZero() {
			t.Errorf("%+v", st)
		}
		if n := strings.Count(g.log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors logged, want 1:\n%s", n, g.log)
		}
		g.login(t, a)
		time.Sleep(tick)
		synctest.Wait()
		g.must(t, "")
		if g.back.Load() != 1 {
			t.Errorf("told %d times that it is back", g.back.Load())
		}
	})
}

func TestSource_WithoutALoginItSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := account(FlowRefreshToken)
		g := newRig(t, options(), a)
		if err := os.Remove(g.store.Path("isp")); err != nil {
			t.Fatal(err)
		}
		wantAll(t, g.refusal(t).Error(), "nobody has logged in as "+user+` yet: run "relayctl oauth login isp"`)
		g.login(t, a)
		g.must(t, "") // the first to ask finds it
	})
}

// A refresh token goes only to whom it was for: with another client, server or user in the configuration it stays here.
func TestSource_AGrantForAnotherAccountIsNotShown(t *testing.T) {
	for name, change := range map[string]func(*Account){
		"username": func(a *Account) { a.Username = "you@example.com" }, "client_id": func(a *Account) { a.ClientID = "other" },
		"token_url": func(a *Account) { a.TokenURL = "https://elsewhere.example/token" },
	} {
		t.Run(name, func(t *testing.T) {
			a := account(FlowDevice)
			change(&a)
			g := newRig(t, options(), account(FlowDevice))
			s := New(a, g.opt)
			_, err := s.Token(t.Context(), "")
			wantAll(t, fmt.Sprint(err), "another username, client_id or token_url", "relayctl oauth login isp")
			if g.requests() != 0 {
				t.Error("somebody was asked")
			}
		})
	}
}

func TestSource_TokenEndsWithItsContextAndWithTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		block := make(chan struct{})
		g.opt.Transport = inMemory{http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-block:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Token(ctx, ""); err != context.DeadlineExceeded {
			t.Error(err)
		}
		go func() { time.Sleep(time.Second); g.Close() }()
		_, err := g.Token(t.Context(), "")
		if away, ok := err.(interface{ Unavailable() bool }); !ok || !away.Unavailable() {
			t.Errorf("%v", err)
		}
	})
}

func TestSource_ARequestThatHangsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, confidential(), account(FlowClientCredentials))
		g.opt.Transport = inMemory{http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		})}
		start := time.Now()
		g.mustBeAway(t)
		if took := time.Since(start); took != requestTimeout {
			t.Errorf("took %v", took)
		}
	})
}
