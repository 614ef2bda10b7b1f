package main

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"relayd/internal/config"
	"relayd/internal/control"
	"relayd/internal/oauth"
	"relayd/internal/wiring"
)

// accounts are the sources of OAuth2 tokens of the configured smarthosts. One whose account stays the same outlives a
// reload, with its token.
type accounts struct {
	store *oauth.Store
	log   *slog.Logger
	back  func(route string) // told when an account has a token again

	mu      sync.Mutex
	sources []source // more than the configuration in force needs, between source and keep
	leaving []source // those of earlier configurations that still end
	order   []string // the routes of the configuration in force
	ended   chan struct{}
}

type source struct {
	route string
	*oauth.Source
	started bool
}

// secretReminder is how often the log says that a client's secret ends soon.
const secretReminder = 24 * time.Hour

func newAccounts(dataDir string, log *slog.Logger, back func(route string)) *accounts {
	a := &accounts{store: oauth.NewStore(dataDir), log: log, back: back, ended: make(chan struct{})}
	go a.remind()
	return a
}

// source returns the source for a smarthost's account: the one that there is, or a new one, which keep starts.
func (a *accounts) source(s config.Smarthost) *oauth.Source {
	account := wiring.Account(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, have := range a.sources {
		if have.Is(account) {
			return have.Source
		}
	}
	src := oauth.New(account, oauth.Options{Store: a.store, Log: a.log, Recovered: func() { a.back(s.Name) }})
	a.sources = append(a.sources, source{route: s.Name, Source: src})
	return src
}

// keep starts the sources of c, which is in force from now on, and closes all others.
func (a *accounts) keep(c *config.Config) {
	wanted := map[*oauth.Source]bool{}
	var order []string
	for _, s := range c.Smarthosts {
		if s.OAuth2 != nil {
			wanted[a.source(s)] = true
			order = append(order, s.Name)
		}
	}
	a.mu.Lock()
	a.order = order
	var gone []source
	var kept []source
	for _, s := range a.sources {
		if wanted[s.Source] {
			kept = append(kept, s)
		} else {
			gone = append(gone, s)
		}
	}
	a.sources = kept
	defer a.mu.Unlock()
	for _, s := range gone {
		a.leave(s)
	}
	for i := range a.sources {
		if s := &a.sources[i]; !s.started {
			s.Start()
			s.started = true
		}
	}
}

// leave ends a source that the configuration in force does not have. Its last renewal may take its time: the store sees to
// it that no other exchanges the same refresh token meanwhile. a.mu is held.
func (a *accounts) leave(s source) {
	a.leaving = append(a.leaving, s)
	go func() {
		s.Retire()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.leaving = slices.DeleteFunc(a.leaving, func(other source) bool { return other.Source == s.Source })
	}()
}

// retry forgets the pauses of all accounts.
func (a *accounts) retry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sources {
		s.Retry()
	}
}

// status tells how the accounts are, in the order of the configuration.
func (a *accounts) status() []control.OAuthStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []control.OAuthStatus
	for _, route := range a.order {
		i := slices.IndexFunc(a.sources, func(s source) bool { return s.route == route })
		if i < 0 {
			continue
		}
		st := a.sources[i].Status()
		out = append(out, control.OAuthStatus{Route: st.Name, Username: st.Username, Flow: string(st.Flow), TokenExpires: st.TokenExpires,
			SecretExpires: st.SecretExpires, Problem: st.Problem, Refused: st.Refused, Since: st.Since})
	}
	return out
}

// remind warns once a day of secrets that end soon; the warnings of the configuration itself come at start and reload.
func (a *accounts) remind() {
	timer := time.NewTicker(secretReminder)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-a.ended:
			return
		}
		for _, st := range a.status() {
			if words := st.SecretProblem(time.Now()); words != "" {
				a.log.Warn(words, "route", st.Route)
			}
		}
	}
}

// close ends all sources.
func (a *accounts) close() {
	close(a.ended)
	a.mu.Lock()
	all := slices.Concat(a.sources, a.leaving)
	a.sources = nil
	a.mu.Unlock()
	var ending sync.WaitGroup
	for _, s := range all {
		ending.Go(s.Close)
	}
	ending.Wait()
}
