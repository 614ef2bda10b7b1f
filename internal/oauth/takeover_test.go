package oauth

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// changed is the account of newRig as a reload may have changed it.
func changed() Account {
	a := account(FlowDevice)
	a.Scopes = a.Scopes[:1]
	return a
}

// An issuer that sees one refresh token twice takes it for stolen and ends the grant.
func TestSource_TwoOfOneAccountDoNotExchangeTheSameRefreshToken(t *testing.T) {
	for name, end := range map[string]func(*Source){"both live": func(*Source) {}, "one is retired": (*Source).Retire, "one is closed": (*Source).Close} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, rotating(), account(FlowDevice))
				g.opt.Transport = slow{g.opt.Transport, parting - time.Second}
				next := New(changed(), g.opt)
				t.Cleanup(next.Close)
				var wg sync.WaitGroup
				wg.Go(func() { g.Token(t.Context(), "") })
				synctest.Wait() // its request is out
				wg.Go(func() { end(g.Source) })
				for range 3 {
					wg.Go(func() {
						token, err := next.Token(t.Context(), "")
						if err != nil || !g.server.Verify(user, token) {
							t.Errorf("%q, %v", token, err)
						}
					})
				}
				wg.Wait()
				g.stored(t)
				if n := g.requests(); n != 2 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// An endpoint that takes longer than a stop would wait for it.
func TestSource_RetireLeavesARenewalItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.opt.Transport = slow{g.opt.Transport, requestTimeout - time.Second}
		g.Start()
		synctest.Wait()
		g.Retire()
		g.stored(t)
	})
}

// Of a Source that waits for another's exchange nobody wants a token any more: it asks for none.
func TestSource_OneThatWasClosedInLineExchangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.opt.Transport = slow{g.opt.Transport, time.Second}
		next := New(changed(), g.opt)
		go g.Token(t.Context(), "")
		synctest.Wait()
		next.Start()
		synctest.Wait()
		next.Close()
		synctest.Wait()
		g.stored(t)
		if n := g.requests(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// The only copy of a rotated token that cannot be written is in memory, and goes over to the Source that takes over.
func TestSource_WhatCannotBeWrittenIsNotLostToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		chmod(t, 0o755, g.dir, "oauth")
		g.must(t, "")
		g.Retire()
		g.Source = New(changed(), g.opt)
		t.Cleanup(g.Close)
		g.must(t, g.must(t, ""))
		wantAll(t, g.Status().Problem, "a new refresh token cannot be written")
		chmod(t, 0o700, g.dir, "oauth")
		g.must(t, "")
		g.Start()
		synctest.Wait()
		g.stored(t)
	})
}

// Another process stores a login while a renewal with the grant before is under way.
func TestSource_ALoginDuringARenewalStaysAndIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, rotating(), account(FlowDevice))
		g.opt.Transport = slow{g.opt.Transport, time.Second}
		g.Start()
		synctest.Wait() // the exchange is under way
		login := g.server.Grant(user)
		if err := NewStore(g.dir).Save("isp", Grant{RefreshToken: login, Username: user, ClientID: "relay", TokenURL: base + "/token"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if have, err := g.store.Load("isp"); err != nil || have.RefreshToken != login {
			t.Fatalf("the login was overwritten: %v", err)
		}
		time.Sleep(tick + time.Second)
		synctest.Wait()
		have, err := g.store.Load("isp")
		if err != nil || have.RefreshToken == login || g.requests() != 2 {
			t.Errorf("the login is not used: %v, %d requests", err, g.requests())
		}
		g.must(t, "")
	})
}
