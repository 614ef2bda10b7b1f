package smarthost

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Pipelining is what the relay remembers of how a host takes commands that are sent ahead of its replies.
type Pipelining struct {
	// LockStep is set when the host did not keep them in step, and is used without.
	LockStep bool      `json:"lock_step"`
	Since    time.Time `json:"since"`
}

const (
	// pipeliningAge is how long that is believed.
	pipeliningAge = 7 * 24 * time.Hour
	// maxBanners bounds the greetings of one host that are told apart.
	maxBanners = 8
)

// tryOrder has a host that has not shown yet how it takes pipelined commands answer a group that puts no message at risk:
// two envelopes that are reset, one behind the other. It does so when another message waits for the connection, and could
// follow behind the body of w. Where done is set the connection is of no more use, and o says how w goes on.
func (h *host) tryOrder(ctx context.Context, c *conn, w *work, tx *transaction) (o outcome, done bool) {
	if !c.caps.pipelining || c.order.tried.Load() || c.order.strict.Load() || tx.behind || w.tried || c.oweReset || !h.pool.inDemand() {
		return outcome{}, false
	}
	w.tried = true
	stop := c.watch(ctx)
	taken, read, err := tx.sendHarmless(c)
	if !stop() {
		return outcome{stopped: true}, true
	}
	switch failed, _ := err.(*stageError); {
	case err == nil:
		if taken {
			c.order.tried.Store(true)
		}
		return outcome{}, false
	case read == 0 || failed != nil && failed.reply.Code == 421: // the connection had gone, or goes for another reason
	case isLost(err) && !isTimeout(err):
		h.mistrust(c, w.m.ID, tx.refusal(), err)
	default:
		h.distrust(c, w.m.ID, tx.refusal(), err)
	}
	return outcome{stale: true}, true
}

// sendHarmless sends two envelopes like that of t, each with RSET behind it, as one group. It returns whether the host
// took them, how many replies came, and what kept the others from coming.
func (t *transaction) sendHarmless(c *conn) (taken bool, read int, err error) {
	lines := []string{t.command(stepMail), t.command(stepRcpt), "RSET"}
	lines = append(lines, lines...)
	for _, line := range lines {
		if err := c.put(stageMail, line); err != nil {
			return false, 0, err
		}
	}
	if err := c.flush(stageMail); err != nil {
		return false, 0, err
	}
	taken = true
	for i, line := range lines {
		patience := c.timeouts.Command
		if i > 0 {
			patience = min(patience, unprovenPatience)
		}
		reply, err := c.receive(stageMail, patience)
		if err == nil && (outOfPlace(false, reply) || line == "RSET" && !reply.Positive()) {
			err = &stageError{stage: stageMail, reply: reply}
		}
		if err != nil {
			return false, i, err
		}
		taken = taken && reply.Positive()
	}
	return taken, len(lines), nil
}

// inDemand reports whether somebody waits for a connection.
func (p *pool) inDemand() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// orderOf returns what is known of a host that greets with banner. h.mu is held.
func (h *host) orderOf(banner string, now time.Time) *order {
	switch o := h.orders[banner]; {
	case o != nil:
		h.order = o
		return o
	case len(h.orders) > 0:
		h.order = new(order)
	}
	if h.orders == nil || len(h.orders) >= maxBanners {
		h.orders = make(map[string]*order)
	}
	o := h.order
	h.orders[banner] = o
	o.banner = banner
	if known, ok := h.facts.Pipelining[banner]; ok && now.Sub(known.Since) < pipeliningAge {
		o.tried.Store(!known.LockStep)
		o.proven.Store(!known.LockStep)
		o.strict.Store(known.LockStep)
	}
	return o
}

// prove notes that a host answered an envelope behind a body as it should.
func (h *host) prove(o *order) {
	if !o.proven.Swap(true) {
		h.remember(o)
	}
}

// remember keeps what o says over a restart.
func (h *host) remember(o *order) {
	h.mu.Lock()
	known := maps.Clone(h.facts.Pipelining)
	if known == nil {
		known = make(map[string]Pipelining)
	}
	known[o.banner] = Pipelining{LockStep: o.strict.Load(), Since: time.Now().Truncate(time.Second)}
	if len(known) > maxBanners {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(known)), func(a, b string) int { return known[a].Since.Compare(known[b].Since) })
		delete(known, oldest)
	}
	h.facts.Pipelining = known
	facts := h.facts
	h.mu.Unlock()
	if h.learn != nil {
		h.learn(h.place.addr, facts)
	}
}

// bannerOf returns the words of a greeting that stay the same while a host runs the same program: not its name, the time,
// or an id of the session. Versions stay.
func bannerOf(greeting string) string {
	const most = 100 // octets
	words := strings.Fields(greeting)
	var kept []string
	for _, w := range words[min(1, len(words)):] {
		plain := strings.Trim(w, "(),;.[]")
		switch {
		case slices.Contains(calendar, plain):
		case !strings.ContainsAny(plain, "0123456789"), isVersion(plain):
			kept = append(kept, w)
		}
	}
	banner := strings.Join(kept, " ")
	return banner[:min(most, len(banner))]
}

var calendar = strings.Fields("Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec GMT UTC CET CEST EST EDT PST PDT")

// isVersion reports whether a word is of digits, with dots between them.
func isVersion(w string) bool {
	return strings.Contains(w, ".") && strings.Trim(w, "0123456789.v") == ""
}
