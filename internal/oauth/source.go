package oauth

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

const (
	// skew is how long before its end a token counts as ended: clocks differ, and a login takes a moment.
	skew = 10 * time.Second
	// usualLife is that of a token of which the provider does not say it (RFC 6749 section 5.1 lets it).
	usualLife = time.Hour
	// tick is how often a running Source looks whether there is something to do.
	tick = 2 * time.Second

	endpointPauseMin, endpointPauseMax = 5 * time.Second, time.Minute
	grantPauseMin, grantPauseMax       = time.Minute, time.Hour

	// parting is how long Close lets a renewal finish that may bring a new refresh token.
	parting = 5 * time.Second
)

// Options are what a Source works with beside its account.
type Options struct {
	// Store holds the grants of the flows of a person.
	Store *Store
	Log   *slog.Logger
	// Recovered, when set, is called after a token was had again following a failure, or a first one from a new login, with
	// no lock held.
	Recovered func()
	// Transport sends the requests; nil is http.DefaultTransport.
	Transport http.RoundTripper
}

// Source gives out the tokens of one account. Its methods may be called at the same time.
type Source struct {
	account Account
	opt     Options
	ctx     context.Context // of all requests
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	token token
	style oauth2.AuthStyle
	// flight is closed when the renewal under way is done; nil while there is none.
	flight chan struct{}
	closed bool
	// failure is what the last renewal came to; nil when it went well. No request is made before retry, unless the grant's
	// file is no longer as seen.
	failure error
	since   time.Time
	fails   int
	retry   time.Time
	seen    stamp
	unsaved error // why the grant that was had last cannot be written; nil when it is
}

// token is an access token and its times.
type token struct {
	value        string
	due, expires time.Time // due: when to get the next one
}

func (t token) lives(now time.Time) bool { return t.value != "" && now.Before(t.expires.Add(-skew)) }

// New returns a Source for the account. It asks nobody until Token or Start is called.
func New(account Account, opt Options) *Source {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Transport == nil {
		opt.Transport = http.DefaultTransport
	}
	s := &Source{account: account, opt: opt}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Is reports whether the Source is for the same account with the same secrets.
func (s *Source) Is(a Account) bool {
	b := s.account
	mine, theirs := b.Certificate, a.Certificate
	b.Certificate, a.Certificate = nil, nil
	if mine == nil || theirs == nil {
		return mine == theirs && reflect.DeepEqual(a, b)
	}
	return bytes.Equal(mine.Leaf, theirs.Leaf) && mine.Key.Equal(theirs.Key) && reflect.DeepEqual(a, b)
}

// Start keeps the token fresh from now on, so that deliveries need not wait for one, a grant does not lapse from disuse,
// and one that was revoked is known before there is mail for it.
func (s *Source) Start() {
	s.running.Go(func() {
		timer := time.NewTicker(tick)
		defer timer.Stop()
		for {
			s.mu.Lock()
			s.save()
			// A new login counts at once, also where the token of the one before still lives: perhaps no host takes that one.
			if now := time.Now(); !s.token.lives(now) || !now.Before(s.token.due) || s.changed() {
				s.launch(now)
			}
			s.mu.Unlock()
			select {
			case <-timer.C:
			case <-s.ctx.Done():
				return
			}
		}
	})
}

// Close ends all requests. Token fails from then on. A renewal with a person's grant may finish for a moment first: the
// provider may have exchanged the refresh token already, and whoever hangs up then has lost the login.
func (s *Source) Close() { s.closeWithin(parting) }

// Retire is Close for an account that another Source takes over, while the process goes on: a renewal with a person's
// grant may take all the time that it has in any case.
func (s *Source) Retire() { s.closeWithin(2 * requestTimeout) }

func (s *Source) closeWithin(patience time.Duration) {
	s.mu.Lock()
	s.closed = true
	flight := s.flight
	s.mu.Unlock()
	if flight != nil && s.account.Flow.Personal() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-flight:
		case <-timer.C:
		}
	}
	s.cancel()
	s.running.Wait()
}

// closedError is that the Source was closed.
type closedError struct{}

func (closedError) Error() string {
	return "the relay is stopping or has a new configuration"
}

// Unavailable tells that this is no refusal.
func (closedError) Unavailable() bool { return true }

// Token returns an access token that may be shown to the host now. refused is a token that the host has just refused, ""
// for none: it is not given out again, but renewed at once, and once for all who come with it. Where no token can be had
// the error is a *GrantError or an *EndpointError, unless ctx ended.
func (s *Source) Token(ctx context.Context, refused string) (string, error) {
	s.mu.Lock()
	if refused != "" && refused == s.token.value {
		s.token = token{}
	}
	for asked := false; ; asked = true {
		now := time.Now()
		if s.token.lives(now) {
			if !now.Before(s.token.due) {
				s.launch(now)
			}
			value := s.token.value
			s.mu.Unlock()
			return value, nil
		}
		// A token that was had and has been refused since, by another connection, is worth another try; a failure is not.
		if s.flight == nil && (asked && s.failure != nil || !s.launch(now)) {
			err := s.failure
			if s.closed {
				err = closedError{}
			}
			s.mu.Unlock()
			return "", err
		}
		flight := s.flight
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		s.mu.Lock()
	}
}

// Retry forgets the pause after a failure: somebody has said that it is over.
func (s *Source) Retry() {
	s.mu.Lock()
	s.retry = time.Time{}
	s.mu.Unlock()
}

// changed reports whether the stored grant is another than at the last renewal. s.mu is held.
func (s *Source) changed() bool {
	return s.account.Flow.Personal() && !s.seen.equal(s.opt.Store.stamp(s.account.Name))
}

// launch starts a renewal unless one is under way or it is too soon after a failure; it reports whether one is under way
// now. s.mu is held.
func (s *Source) launch(now time.Time) bool {
	if s.flight != nil {
		return true
	}
	changed := s.changed()
	relogged := changed && s.seen.info != nil
	if s.closed || s.failure != nil && now.Before(s.retry) && !changed {
		return false
	}
	flight := make(chan struct{})
	s.flight = flight
	style := s.style
	s.running.Go(func() {
		got, err := s.renew(&style)
		s.mu.Lock()
		s.style = style
		recovered := s.settle(got, err, time.Now()) || relogged && err == nil
		s.flight = nil
		close(flight)
		s.mu.Unlock()
		if recovered && s.opt.Recovered != nil {
			s.opt.Recovered()
		}
	})
	return true
}

// renew gets the next token, and keeps the refresh token that may come with it.
func (s *Source) renew(style *oauth2.AuthStyle) (token, error) {
	ctx := withClient(s.ctx, s.opt.Transport)
	a := &s.account
	if a.Flow.Personal() {
		done, err := s.opt.Store.exchange(s.ctx, a.Name)
		if err != nil {
			return token{}, closedError{}
		}
		defer done()
	}
	grant, err := s.grant()
	if err != nil {
		return token{}, err
	}
	var tok *oauth2.Token
	asked := time.Now()
	err = a.withStyle(style, func(style oauth2.AuthStyle) (err error) {
		tok, err = a.fetch(ctx, style, grant.RefreshToken)
		return err
	})
	if err != nil {
		return token{}, err
	}
	if a.Flow.Personal() && tok.RefreshToken != "" && tok.RefreshToken != grant.RefreshToken {
		next := grant
		next.RefreshToken, next.Obtained = tok.RefreshToken, time.Now().UTC()
		s.opt.Store.Keep(a.Name, grant.RefreshToken, next)
		s.mu.Lock()
		s.save()
		s.mu.Unlock()
	}
	life := usualLife
	if !tok.Expiry.IsZero() {
		life = time.Until(tok.Expiry)
	}
	if life <= skew {
		return token{}, a.translate(errors.New("it gives tokens that have ended already; check this machine's clock"))
	}
	return token{value: tok.AccessToken, expires: asked.Add(life), due: asked.Add(life - min(10*time.Minute, life/4))}, nil
}

// grant returns what the account lives on: nothing, or a person's grant.
func (s *Source) grant() (Grant, error) {
	a := &s.account
	if !a.Flow.Personal() {
		return Grant{}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed { // while another Source exchanged the token
		return Grant{}, closedError{}
	}
	s.seen = s.opt.Store.stamp(a.Name)
	s.save()
	g, err := s.opt.Store.Current(a.Name)
	switch {
	case errors.Is(err, ErrNoGrant):
		return g, a.notLoggedIn("nobody has logged in as %USER yet")
	case err != nil:
		return g, &GrantError{Advice: "the grant of " + a.Username + " cannot be used: " + err.Error()}
	case g.Username != a.Username || g.ClientID != a.ClientID || g.TokenURL != a.TokenURL:
		return g, a.notLoggedIn("the stored login is for another username, client_id or token_url than [smarthost.oauth2] has now")
	}
	return g, nil
}

// save writes a grant that waits for it. s.mu is held.
func (s *Source) save() {
	if !s.account.Flow.Personal() {
		return
	}
	wrote, err := s.opt.Store.Flush(s.account.Name)
	if err != nil {
		if s.unsaved == nil {
			s.opt.Log.Error("a new refresh token cannot be written; it is used, and writing is tried again", "route", s.account.Name,
				"error", err)
		}
		s.unsaved = err
		return
	}
	if s.unsaved != nil {
		s.opt.Log.Info("the new refresh token is written", "route", s.account.Name)
	}
	s.unsaved = nil
	if wrote { // otherwise a login came in between, which is news
		s.seen = s.opt.Store.stamp(s.account.Name)
	}
}
