package smarthost

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"relayd/internal/envelope"
)

// trialPatience bounds how long a login waits for what another shows of the same secret: a host that hangs there must
// not hold up the mail for all others.
const trialPatience = 30 * time.Second

// errWithheld: another host refused the secret since this one was asked for a session, so that it was not shown.
var errWithheld = errors.New("another host refused the same login meanwhile, so that it was not shown")

// secret is a password, or the source of an account's tokens, and the hosts that check it: those of all routes that have
// username, password and a host in common. To the provider that is one account, and each host that is shown a wrong
// password counts one more on the way to its lock. Therefore:
//
//   - Until a host has taken it, it is shown to one host at a time.
//   - When a host refuses it, all others are left alone, for longer each time in a row. Then it is the turn of the host that
//     refused it the longest time ago, or never: one that does not know the account, as it is with a provider's regions,
//     delays mail and does not stop it.
//   - A host that refuses what another takes is the odd one. Its refusal keeps nobody else.
type secret struct {
	trial chan struct{} // holds one token while a login is under way that may be the first to go well

	mu    sync.Mutex
	hosts []*host
	// took are the addresses of the hosts that took it, since one of them refused it; refused are those that refused it
	// last, with the number of the refusal.
	took    map[string]bool
	refused map[string]int
	// refusals counts those that kept the other hosts from being asked, and last is what was shown at the last of them:
	// another token is another secret.
	refusals int
	last     string
	// inRow is how often the other hosts were left alone since a host took it.
	inRow int
}

func newSecret() *secret {
	return &secret{trial: make(chan struct{}, 1), took: make(map[string]bool), refused: make(map[string]int)}
}

// trusted reports whether a host has taken the secret and none of those that did has refused it since.
func (s *secret) trusted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.took) > 0
}

// showing is a host's leave to show its secret on one new connection. The zero value is that of one that shows none.
type showing struct {
	secret *secret
	host   *host
	seen   int // secret.refusals when it was given
}

// show gives leave to show the secret of h, as things stand now.
func (h *host) show() showing {
	s := h.secret.Load()
	if s == nil {
		return showing{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return showing{s, h, s.refusals}
}

// enter waits for its turn to show value, and returns errWithheld when that is not to be shown any more. What ends the
// login calls done with what it came to.
func (w showing) enter(ctx context.Context, value string) (done func(err error), err error) {
	s := w.secret
	if s == nil {
		return func(error) {}, nil
	}
	leave := func() {}
	if !s.trusted() {
		patience := time.NewTimer(trialPatience)
		defer patience.Stop()
		select {
		case s.trial <- struct{}{}:
			leave = func() { <-s.trial }
			if s.trusted() { // meanwhile: those behind need not wait for this one
				leave()
				leave = func() {}
			}
		case <-patience.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusals != w.seen && s.last == value {
		leave()
		return nil, errWithheld
	}
	return func(err error) {
		defer leave()
		w.settle(value, err)
	}, nil
}

// settle notes what the host made of value.
func (w showing) settle(value string, err error) {
	s, addr := w.secret, w.host.place.addr
	switch {
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.took[addr], s.inRow = true, 0
		delete(s.refused, addr)
	case w.host.refusesSecret(err) && s.distrust(addr):
		if w.host.endpoint.tokens == nil { // a token is renewed first
			w.host.withhold()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refusals++
		s.refused[addr], s.last = s.refusals, value
	}
}

// distrust forgets that hosts took the secret, now that the one at addr refuses it; it reports false when that is the odd
// one.
func (s *secret) distrust(addr string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) > 0 && !s.took[addr] {
		return false
	}
	clear(s.took)
	return true
}

// inTurn returns hosts, which share the secret, in the order in which to try them.
func (s *secret) inTurn(hosts []*host) []*host {
	if s == nil {
		return hosts
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) > 0 || len(s.refused) == 0 {
		return hosts
	}
	hosts = slices.Clone(hosts)
	slices.SortStableFunc(hosts, func(a, b *host) int {
		return cmp.Compare(s.refused[a.place.addr], s.refused[b.place.addr])
	})
	return hosts
}

// refusesSecret reports whether err is a host's word that the password or token which it was shown is wrong: not that it
// cannot check it for now, or does not know or want this way to log in.
func refusesSecret(err error) bool {
	failed, ok := errors.AsType[*stageError](err)
	if !ok || failed.stage != stageAuth {
		return false
	}
	if _, ok := errors.AsType[*proofRefusedError](failed.err); ok || errors.Is(failed.err, errTokenRefused) {
		return true
	}
	code := failed.reply.Code
	return code/100 == 5 && !slices.Contains([]int{500, 502, 503, 504, 530, 538}, code)
}

// refusesSecret is refusesSecret where the user's own rows do not say that it means something else.
func (h *host) refusesSecret(err error) bool {
	return refusesSecret(err) && classifyError(h.place, err).trouble == loginRefused
}

// withhold leaves the other hosts that check the secret of h alone, which has refused it, for as long as such a refusal in a
// row asks for, unless one of them has taken it.
func (h *host) withhold() {
	s := h.secret.Load()
	if s == nil {
		return
	}
	fails := s.refusedInRow()
	if fails == 0 {
		return
	}
	next := time.Now().Add(h.health.after(loginRefused, fails)) // not later than h, so that the turn is one of theirs
	for _, other := range s.others(h) {
		f := envelope.Failure{Scope: envelope.ScopeSite, Stage: stageAuth, Reason: other.place.words(h.place.addr +
			" refused the login of %USER. It is the same account at %HOST, which is not shown the same login for now, since each " +
			"refused one counts until the account locks. Mail waits")}
		other.mu.Lock()
		other.health.withhold(f, next, fails, time.Now())
		other.mu.Unlock()
		other.pool.desert()
	}
}

// refusedInRow returns how often in a row the hosts are left alone by now; 0 when they are not to be, since one of them has
// taken the secret. It is not the count of the host that refuses: that may have known the account never.
func (s *secret) refusedInRow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) > 0 {
		return 0
	}
	s.inRow++
	return s.inRow
}

// release ends that for all hosts that check the secret of h, which has taken it.
func (h *host) release() {
	s := h.secret.Load()
	if s == nil {
		return
	}
	for _, held := range s.others(nil) {
		held.mu.Lock()
		held.health.release(time.Now())
		held.mu.Unlock()
	}
}

// others returns the hosts that check the secret, but for one.
func (s *secret) others(one *host) []*host {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.hosts), func(h *host) bool { return h == one })
}

// shareSecrets gives the hosts of each account one secret, which is the one that they had in an earlier table, if any.
func (t *table) shareSecrets() {
	taken := make(map[*secret]bool)
	for _, group := range t.accounts() {
		var s *secret
		for _, h := range group {
			if have := h.secret.Load(); have != nil && !taken[have] {
				s = have
				break
			}
		}
		if s == nil {
			s = newSecret()
		}
		taken[s] = true
		s.belongTo(group)
		for _, h := range group {
			h.secret.Store(s)
		}
	}
}

// belongTo makes hosts those that check the secret, and forgets what any other made of it.
func (s *secret) belongTo(hosts []*host) {
	gone := func(addr string) bool {
		return !slices.ContainsFunc(hosts, func(h *host) bool { return h.place.addr == addr })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = hosts
	maps.DeleteFunc(s.took, func(addr string, _ bool) bool { return gone(addr) })
	maps.DeleteFunc(s.refused, func(addr string, _ int) bool { return gone(addr) })
}

// accounts returns the hosts that are logged in to, by account.
func (t *table) accounts() [][]*host {
	var groups [][]*host
	for _, rt := range t.routes {
		if len(rt.hosts) == 0 || !rt.hosts[0].endpoint.login {
			continue
		}
		group := slices.Clone(rt.hosts)
		groups = slices.DeleteFunc(groups, func(other []*host) bool {
			same := slices.ContainsFunc(other, func(a *host) bool {
				return slices.ContainsFunc(rt.hosts, func(b *host) bool { return a.sameAccount(b) })
			})
			if same {
				group = append(other, group...)
			}
			return same
		})
		groups = append(groups, group)
	}
	return groups
}

// sameAccount reports whether h and o are one host that is shown the same login.
func (h *host) sameAccount(o *host) bool {
	a, b := &h.endpoint, &o.endpoint
	return strings.EqualFold(a.addr, b.addr) && a.credentials == b.credentials && a.tokens == b.tokens
}
