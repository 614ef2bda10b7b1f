package oauth

import (
	"errors"
	"log/slog"
	"time"
)

// Status is how an account is doing, without any secret.
type Status struct {
	Name, Username string
	Flow           Flow
	// TokenExpires is when the present token ends; zero without one.
	TokenExpires time.Time
	// SecretExpires is when the client's secret or certificate ends; zero when that is not known.
	SecretExpires time.Time
	// Problem says what is wrong and what to do, and Since when it began; empty while all is well. Refused tells a refusal,
	// which wants a person, from an endpoint that is away.
	Problem string
	Refused bool
	Since   time.Time
}

// Status returns how the account is doing.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Name: s.account.Name, Username: s.account.Username, Flow: s.account.Flow, SecretExpires: s.account.SecretExpires}
	if s.token.lives(time.Now()) {
		st.TokenExpires = s.token.expires.Round(0)
	}
	switch {
	case s.failure != nil:
		st.Problem, st.Since = s.failure.Error(), s.since
		_, st.Refused = errors.AsType[*GrantError](s.failure)
	case s.unsaved != nil:
		st.Problem, st.Refused = "a new refresh token cannot be written, so that a restart would need a new login: "+s.unsaved.Error(), true
	}
	return st
}

// settle takes in what a renewal came to, and reports whether it ended a failure. s.mu is held.
func (s *Source) settle(got token, err error, now time.Time) (recovered bool) {
	if err == nil {
		recovered = s.failure != nil
		if recovered {
			s.opt.Log.Info("a token is had again", "route", s.account.Name, "username", s.account.Username)
		}
		s.token, s.failure, s.fails, s.retry, s.since = got, nil, 0, time.Time{}, time.Time{}
		return recovered
	}
	if s.closed {
		return false
	}
	_, refused := errors.AsType[*GrantError](err)
	_, before := errors.AsType[*GrantError](s.failure)
	if s.failure == nil || refused != before {
		s.since, s.fails = now, 0
	}
	s.report(err, refused, s.failure == nil || s.failure.Error() != err.Error())
	s.failure = err
	s.fails++
	s.retry = now.Add(pause(refused, s.fails))
	return false
}

// report logs a failure: once aloud, and quietly when it is the same again.
func (s *Source) report(err error, refused, news bool) {
	level := slog.LevelDebug
	switch {
	case news && refused:
		level = slog.LevelError
	case news:
		level = slog.LevelWarn
	}
	words := "no token can be had; mail waits"
	if s.token.lives(time.Now()) {
		words = "no new token can be had; mail waits when the present one ends"
	}
	s.opt.Log.Log(s.ctx, level, words, "route", s.account.Name,
		"username", s.account.Username, "problem", err.Error())
}

// pause returns how long the endpoint is left alone after the nth failure in a row.
func pause(refused bool, n int) time.Duration {
	least, most := endpointPauseMin, endpointPauseMax
	if refused {
		least, most = grantPauseMin, grantPauseMax
	}
	for range n - 1 {
		if least >= most/2 {
			return most
		}
		least *= 2
	}
	return least
}
