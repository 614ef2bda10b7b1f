package smarthost

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// host is one host of a route: its endpoint, its connections and its health.
type host struct {
	endpoint endpoint
	place    place
	pool     *pool
	order    *order // of the last session
	log      *slog.Logger
	secret   atomic.Pointer[secret] // nil without a login

	mu        sync.Mutex
	orders    map[string]*order // by banner
	health    health
	lastReply envelope.Reply
	// caps and tls are those of the last session; known is set once there was one.
	caps    capabilities
	tls     string
	known   bool
	machine *machine
	// facts is what was learnt of the host, maybe in an earlier run. Learn is told of changes.
	facts HostFacts
	low   doubtedSize
	learn func(addr string, f HostFacts)
	// completed counts messages taken, of which takenID was the last, at taken; accused is the count at the last site's
	// reply to a message. Suspects are messages at which the host failed.
	completed, accused int
	taken              time.Time
	takenID            string
	suspects           map[string]suspect
	doubts             []string // ids of messages lost after the dot since one was answered
	cuts               cuts
	senders            refusedSenders
}

// outcome is what a host made of the work. The zero value means that it is done with.
type outcome struct {
	// site is set when the host failed, skipped when it was not asked at all: it is in a pause, or being probed.
	site    *verdict
	skipped bool
	// unfit is set when the host cannot carry the message, eightBit when it could if that were encoded.
	unfit    *envelope.Failure
	eightBit bool
	// blamed is set when the host met the message with the site's reply, and others with none.
	blamed *envelope.Failure
	// machine is set when the relay's own machine has nothing left for a connection.
	machine *envelope.Failure
	// stopped is set when the delivery was cancelled.
	stopped bool
	// stale and more ask for another transaction at once: on a new connection since this one, kept from earlier, was
	// dead, or for recipients that the host had no room for in this transaction.
	stale, more bool
}

// admit asks for leave to use the host, and waits while the first delivery of all finds out what it is like.
func (h *host) admit(ctx context.Context) (ticket, outcome, bool) {
	for {
		h.mu.Lock()
		t, a := h.health.admit(time.Now())
		shown := h.health.shown
		h.mu.Unlock()
		switch a {
		case admitted:
			return t, outcome{}, true
		case turnedAway:
			return t, outcome{skipped: true}, false
		}
		select {
		case <-shown:
		case <-ctx.Done():
			return t, outcome{stopped: true}, false
		}
	}
}

// deliver hands w on to the host, in as many transactions as it takes.
func (h *host) deliver(ctx context.Context, w *work) outcome {
	t, o, ok := h.admit(ctx)
	if !ok {
		return o
	}
	defer h.leave(t)
	for fresh := t.probe; w.left > 0; {
		c, begun, o := h.connection(ctx, t, w, fresh)
		if c == nil {
			return o
		}
		if o = h.use(ctx, t, c, w, begun); !o.stale && !o.more {
			return o
		}
		fresh = o.stale
	}
	return outcome{}
}

// use hands w on over c, by tx if that is begun or can begin on it, and disposes of c. A panic on the
// way, which the caller of Deliver makes one failed attempt of one message, must not cost the pool a connection for good.
func (h *host) use(ctx context.Context, t ticket, c *conn, w *work, tx *transaction) outcome {
	disposed := false
	defer func() {
		if !disposed {
			h.pool.drop(c)
		}
	}()
	w.host, w.dsn = h.place.addr, c.caps.dsn
	if c.order.strict.Load() {
		c.caps.pipelining = false
	}
	if tx == nil || !tx.behind && !tx.suits(c) {
		b, o, ok := h.fit(w, c)
		if !ok {
			disposed = true
			return h.declined(t, c, w, o)
		}
		tx = newTransaction(c.caps, &w.m.Envelope, w.place(h), b, w.pending())
	}
	o := h.transact(ctx, t, c, w, tx)
	disposed = true
	return o
}

// declined disposes of c, over which w cannot go, and returns what comes of that. A SIZE that is doubted is asked for once
// more, in a new session.
func (h *host) declined(t ticket, c *conn, w *work, o outcome) outcome {
	if o.unfit != nil && !o.unfit.Permanent && w.asked != h {
		w.asked = h
		h.pool.drop(c)
		return outcome{stale: true}
	}
	h.well(t, w.m.ID, envelope.Reply{})
	h.pool.put(c)
	return o
}

// prepare returns the transaction that w may begin behind another's body, or nil when that needs a look at the
// connection first. It goes by the host's last session.
func (h *host) prepare(w *work) *transaction {
	h.mu.Lock()
	caps, known, secured, strict := h.caps, h.known, h.tls != "", h.order.strict.Load()
	h.mu.Unlock()
	if !known || !caps.pipelining || strict || w.doubt.host == h ||
		unfit(&w.m, w.m.Size, caps, secured, h.place) != nil {
		return nil
	}
	if !caps.eightBit {
		if is8Bit, err := w.is8Bit(); err != nil || is8Bit {
			return nil
		}
	}
	return newTransaction(caps, &w.m.Envelope, w.place(h), w.plain(), w.pending())
}

// fit returns the form in which the content goes over c, or what it means that it cannot.
func (h *host) fit(w *work, c *conn) (body, outcome, bool) {
	// Most that does not fit does not in any form, which is known without reading the content.
	if f := unfit(&w.m, w.m.Size, c.caps, c.tls != "", h.place); f != nil {
		return body{}, outcome{unfit: f}, false
	}
	b, o, err := w.shape(c.caps, h.place)
	switch {
	case err != nil:
		w.settleRest(contentFailure(err))
		return body{}, outcome{}, false
	case o.unfit != nil || o.eightBit:
		return body{}, o, false
	}
	o.unfit = unfit(&w.m, b.size, c.caps, c.tls != "", h.place)
	return b, o, o.unfit == nil
}

// stands reports whether t still is leave to use the host.
func (h *host) stands(t ticket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return t.round == h.health.round
}

// leave ends a delivery's use of the host, with nothing shown unless well or failed said so.
func (h *host) leave(t ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.health.end(t)
}

// connection returns a connection that is ready for mail: a warm one, unless fresh is set, or a new one. With the former
// comes a transaction, begun on it behind another or yet to begin, or nil. Where there is none it says what that means.
func (h *host) connection(ctx context.Context, t ticket, w *work, fresh bool) (*conn, *transaction, outcome) {
	for {
		var tx *transaction
		if !fresh {
			tx = h.prepare(w)
		}
		g := h.pool.get(ctx, fresh, tx)
		login := h.show() // before the look at whether it failed, so that no refusal falls in between
		switch {
		case errors.Is(g.err, errLate):
			continue
		case g.err != nil:
			return nil, nil, h.unconnected(ctx, t, w, g.err)
		case g.begun:
			return g.c, tx, outcome{}
		case g.c != nil && g.c.br.Buffered() == 0:
			if tx != nil && tx.behind { // begun on another connection, which broke
				tx = nil
			}
			return g.c, tx, outcome{}
		case g.c != nil: // whatever the host said unasked, most likely goodbye
			h.pool.drop(g.c)
			continue
		case !h.stands(t): // it failed since; a wrong password, say, is not to be tried once more
			h.pool.forgo()
			return nil, nil, outcome{skipped: true}
		}
		begun := time.Now()
		c, err := h.connect(ctx, w.m.ID, login)
		if err == nil {
			h.machine.well(h.log)
			return c, nil, outcome{}
		}
		if h.limited(err, begun) {
			h.log.Debug("connection limit met", "queue_id", w.m.ID, "error", err.Error())
			fresh = false
			continue
		}
		if lack, ours := machineFault(err); ours {
			h.pool.forgo()
			return nil, nil, outcome{machine: h.machine.failed(h.log, lack)}
		}
		// The host is known to have failed before the next in line may open a connection.
		o := h.unconnected(ctx, t, w, err)
		h.pool.forgo()
		return nil, nil, o
	}
}

// connect opens a connection, for which the pool has given leave.
func (h *host) connect(ctx context.Context, id string, login showing) (*conn, error) {
	e := h.endpoint // a copy: the leave to log in is for this connection
	e.showing = login
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	if e.login {
		h.release()
	}
	h.pool.opened(c)
	h.mu.Lock()
	doubted, news := h.heedSize(c.offered, time.Now())
	c.caps.doubtedSize = doubted && c.caps.maxSize == c.offered
	h.caps, h.tls, h.known = c.caps, c.tls, true
	c.order = h.orderOf(c.banner, time.Now())
	facts := h.facts
	h.mu.Unlock()
	if news && h.learn != nil {
		h.learn(h.place.addr, facts)
	}
	h.log.Debug("connection opened", "queue_id", id, "address", c.raw.RemoteAddr().String(),
		"tls", c.tls, "auth", c.mech, "pipelining", c.caps.pipelining)
	return c, nil
}

// unconnected decides what it means that there was no connection.
func (h *host) unconnected(ctx context.Context, t ticket, w *work, err error) outcome {
	switch {
	case errors.Is(err, errHostDown), errors.Is(err, errWithheld):
		return outcome{skipped: true}
	case ctx.Err() != nil, errors.Is(err, errClosed):
		return outcome{stopped: true}
	}
	w.host = h.place.addr
	v := classifyError(h.place, err)
	if h.endpoint.tokens != nil && h.refusesSecret(err) && h.stands(t) { // the renewed token, too
		h.withhold() // before those that wait for what this host shows go on to the next
	}
	return h.failed(t, w.m.ID, v)
}

// transact runs one transaction on c for what is left of w, settles what it decided, and disposes of c.
func (h *host) transact(ctx context.Context, t ticket, c *conn, w *work, tx *transaction) outcome {
	content, err := w.m.Open()
	if err != nil {
		if tx.behind {
			h.pool.drop(c)
		} else {
			h.pool.put(c)
		}
		w.settleRest(contentFailure(&contentError{err}))
		return outcome{}
	}
	defer content.Close()
	if o, done := h.tryOrder(ctx, c, w, tx); done {
		h.pool.drop(c)
		return o
	}
	tx.begin(c)
	if c.caps.pipelining && w.doubt.host != h {
		tx.follow = func() *transaction { return h.follower(c) }
	}
	c.allow(transactionPatience + time.Duration(len(tx.rcpts))*recipientPatience)
	stop := c.watch(ctx)
	err = tx.run(content, func() {
		h.well(t, w.m.ID, envelope.Reply{})
		h.cameFar()
		if tx.afterTaken {
			h.prove(c.order)
		}
	})
	stopped := !stop()
	c.allow(0)
	if !tx.mail.IsZero() {
		w.transactions++
	}
	// What it came to is known before the next in line may use the connection's place.
	again := h.heed(w, tx, err, stopped)
	var o outcome
	switch {
	case err != nil:
		o = h.interrupted(ctx, t, tx, w, err)
	case again:
		o = outcome{more: true}
	case tx.confusedByOther():
		h.log.Debug("the host confused a message with the one before it; connecting anew", "queue_id", w.m.ID,
			"reply", tx.refusal().String())
		o = outcome{stale: true}
	default:
		o = h.concluded(t, tx, w)
	}
	c.uses++
	if err != nil || stopped || c.spent {
		h.pool.drop(c)
	} else {
		h.pool.put(c)
	}
	return o
}

// concluded settles a transaction that came to its end.
func (h *host) concluded(t ticket, tx *transaction, w *work) outcome {
	if v, site := h.judgeSender(tx); site {
		return h.failedAmid(t, w, tx, v)
	}
	site, progress := w.settle(tx)
	if site != nil && !h.blame(w.m.ID, *site) {
		if site.crowded {
			h.pool.crowded()
		}
		return h.failedAmid(t, w, tx, *site)
	}
	h.well(t, w.m.ID, tx.last())
	h.mu.Lock()
	h.health.finished(t)
	if !tx.dot.IsZero() {
		h.doubts, h.cuts = nil, cuts{}
	}
	if tx.dot.Positive() {
		h.completed++
		h.taken, h.takenID = time.Now(), w.m.ID
		h.health.fails[unreachable] = 0 // also when another message has made it fail meanwhile
	}
	if site == nil {
		delete(h.suspects, w.m.ID)
	}
	h.mu.Unlock()
	if site != nil {
		return h.blames(w.m.ID, *site)
	}
	return outcome{more: progress && w.left > 0}
}

// blames returns the outcome of a message that met the site's reply v while others got through.
func (h *host) blames(id string, v verdict) outcome {
	f := onlyThis(v)
	h.log.Warn("one message was refused with words about the account; others get through, so it waits alone", "queue_id", id,
		"stage", v.Stage, "reply", v.Reply.String(), "problem", v.Reason)
	return outcome{blamed: &f}
}

// interrupted settles a transaction that err ended.
func (h *host) interrupted(ctx context.Context, t ticket, tx *transaction, w *work, err error) outcome {
	failed, _ := errors.AsType[*stageError](err)
	refused := failed != nil && failed.reply.Code == 421
	switch {
	case failed == nil || errors.Is(err, errUnsafe):
		w.settleRest(contentFailure(err))
		return outcome{}
	case tx.dotSent && !refused:
		w.duplicate = true
		w.settleTransaction(tx, lostAfterDot(tx.place, failed))
		if ctx.Err() == nil && h.doubt(w.m.ID) {
			h.failedAmid(t, w, tx, classifyError(tx.place, err))
		}
		return outcome{}
	case ctx.Err() != nil:
		return outcome{stopped: true}
	case tx.c.uses > 0 && tx.data.IsZero():
		h.log.Debug("a kept connection had gone; connecting anew", "queue_id", w.m.ID, "error", err.Error())
		return outcome{stale: true}
	}
	v := classifyError(tx.place, err)
	enough := cutsToBlame
	if tx.data.Code != 354 || refused {
		enough = repliesToBlame // its body was not at stake, or the host has said why, so that it takes more to blame it
	}
	if h.suspect(w.m.ID, enough) {
		w.settleTransaction(tx, onlyThis(v))
		return outcome{}
	}
	return h.failedAmid(t, w, tx, v)
}

// well notes that the host does its work.
func (h *host) well(t ticket, id string, last envelope.Reply) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !last.IsZero() {
		h.lastReply = last
	}
	was, since := h.health.state, h.health.since
	if h.health.well(t, time.Now()) && was != StateUnknown {
		h.log.Info("host back", "queue_id", id, "was", string(was),
			"after", time.Since(since).Round(time.Second).String())
	}
}

// failed notes that the host failed, and sends those that wait for one of its connections on.
func (h *host) failed(t ticket, id string, v verdict) outcome {
	h.mu.Lock()
	if !v.Reply.IsZero() {
		h.lastReply = v.Reply
	}
	counts, news := h.health.fail(t, v, time.Now())
	state, next := h.health.state, h.health.next
	h.mu.Unlock()
	if counts {
		h.pool.desert()
	}
	level := slog.LevelDebug
	switch {
	case news && (state == StateDown || state == StateThrottled):
		level = slog.LevelWarn
	case news:
		level = slog.LevelError
	}
	h.log.Log(context.Background(), level, "host "+string(state), "queue_id", id, "stage", v.Stage,
		"reply", v.Reply.String(), "problem", v.Reason, "next_probe", next)
	return outcome{site: &v}
}
