package queue

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// outcome is what a mailbox answers.
type outcome string

const (
	accepts outcome = "accepts"
	defers  outcome = "defers"
	fails   outcome = "fails"
	refuses outcome = "refuses the content"
)

// fate is what happens to one attempt of a letter, beside its recipients' outcomes.
type fate string

const (
	plain         fate = "plain"
	offersDSN     fate = "the host offers DSN"
	panics        fate = "panic"
	lostTaken     fate = "lost after the dot, taken"
	lostUntaken   fate = "lost after the dot, not taken"
	answersTooFew fate = "too few results"
)

var fates = []fate{plain, offersDSN, panics, lostTaken, lostUntaken, answersTooFew}

// weather is what a route's smarthost is up to.
type weather string

const (
	fair weather = "fair"
	down weather = "down" // no connection
	slow weather = "slow" // no answer, and nothing taken, until the weather changes
	mute weather = "mute" // it takes what it takes, and answers when the weather changes
)

var (
	weathers = []weather{fair, down, slow, mute}
	routes   = []string{"a.example", "b.example", "lan.example"}
)

// turnTo changes the weather of a route.
func (w *world) turnTo(route string, to weather) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logf("%s is %s", route, to)
	w.weather[route] = to
	close(w.turned)
	w.turned = make(chan struct{})
}

// await waits, with w.mu held, until the weather of route is not bad any more; it reports false when ctx ended first.
func (w *world) await(ctx context.Context, route string, bad weather) bool {
	for w.weather[route] == bad {
		turned := w.turned
		w.mu.Unlock()
		select {
		case <-turned:
		case <-ctx.Done():
		}
		w.mu.Lock()
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// Legs routes by domain.
func (lf *life) Legs(_ envelope.Origin, env envelope.Envelope) []envelope.Leg {
	if lf.w.merged.Load() {
		return byDomain(merge(env))
	}
	return byDomain(env)
}

func merge(env envelope.Envelope) envelope.Envelope {
	m := envelope.Envelope{Recipients: make([]envelope.Recipient, len(env.Recipients))}
	for i, rc := range env.Recipients {
		if m.Recipients[i] = rc; rc.Path.Domain() == "b.example" {
			m.Recipients[i].Path = "any@a.example"
		}
	}
	return m
}

func (lf *life) Concurrency(string) int { return lf.w.room }

// Admit asks the account of the route. Once the world ends well there is no limit.
func (lf *life) Admit(route string) (time.Time, bool) {
	if lf.w.asksTooMuch(route) {
		return time.Now().Add(time.Hour), false
	}
	return lf.accounts[route].Admit()
}

// asksTooMuch reports whether the pace was asked so often within a minute that the queue goes in circles.
func (w *world) asksTooMuch(route string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.askedSince) > time.Minute {
		w.asked, w.askedSince = 0, now
	}
	if w.asked++; w.asked < 3000 {
		return false
	}
	w.fault("%s was asked %d times within %v", route, w.asked, time.Since(w.askedSince))
	return true
}

func (lf *life) Forgo(route string) { lf.accounts[route].Forgo() }

// paced is Deliver by the pace of the route and its limit of recipients.
func (lf *life) paced(route string, m envelope.Message, deliver func(envelope.Message) envelope.Attempt) envelope.Attempt {
	all := m.Envelope.Recipients
	turn, at := lf.accounts[route].Begin(min(len(all), lf.w.split), m.Contended)
	if turn == nil {
		return envelope.Attempt{Left: len(all), RetryAt: at}
	}
	m.Envelope.Recipients = all[:turn.Recipients]
	transactions, taken := 1, turn.Recipients
	decided := false
	defer func() {
		turn.End(transactions, taken, false)
		if !decided { // it panics, which the queue takes for an attempt of all
			lf.w.tryAll(m.ID, all[turn.Recipients:])
		}
	}()
	a := deliver(m)
	decided = true
	if a.Site != nil {
		transactions, taken = 0, 0
		return a
	}
	a.Left = len(all) - turn.Recipients
	return a
}

// tryAll counts an attempt of recipients that were not asked.
func (w *world) tryAll(id string, recipients []envelope.Recipient) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, rc := range recipients {
		w.byID[id].addressee(rc.Path).tries++
	}
}

// openAccounts opens the routes' accounts on what earlier lives have written.
func (w *world) openAccounts(lf *life) {
	b, err := pace.Open(pace.Options{Path: filepath.Join(lf.dir, "pace.json"),
		Boot: func() (string, time.Duration) { return "boot", time.Since(w.start) }})
	if err != nil {
		w.rt.Fatalf("the pace: %v", err)
	}
	lf.book, lf.accounts = b, map[string]*pace.Account{}
	for i, a := range lf.pacedBy(w.limits) {
		lf.accounts[routes[i]] = a
	}
}

// pacedBy gives the routes' accounts these limits. An account stays the same through it, so that it can happen while
// attempts go on.
func (lf *life) pacedBy(l pace.Limits) []*pace.Account {
	var specs []pace.Spec
	for i := range routes {
		hosts := routes[i : i+1]
		if lf.w.shared {
			hosts = routes[:]
		}
		specs = append(specs, pace.Spec{Name: pace.Name{Hosts: hosts}, Limits: l})
	}
	return lf.book.Configure(specs)
}

// siteTrouble is an attempt that found no host.
func siteTrouble() envelope.Attempt { return siteDown(7 * time.Minute) }

// Deliver is the smarthosts. It holds each attempt against the ledger, and enters what came of it.
func (lf *life) Deliver(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
	return lf.paced(route, m, func(m envelope.Message) envelope.Attempt { return lf.deliver(ctx, route, m) })
}

func (lf *life) deliver(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
	lf.moment()
	body, err := read(m)
	w := lf.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if lf.dead || err != nil {
		return siteTrouble() // the store is away, or this daemon is
	}
	l := w.byID[m.ID]
	if l == nil {
		l = w.learn(m.ID, m.Envelope, body)
	}
	w.checkAttempt(l, m, body)
	if len(w.faults) > 20 { // a queue that tries in a loop would not let the check speak
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		return siteTrouble()
	}
	l.busy = true
	defer lf.endAttempt(l)
	if w.weather[route] == down || !w.await(ctx, route, slow) || lf.dead || w.weather[route] == down {
		return siteTrouble()
	}
	return lf.attempt(ctx, route, l, m)
}

func read(m envelope.Message) ([]byte, error) {
	r, err := m.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// checkAttempt holds what is to be delivered against what was accepted.
func (w *world) checkAttempt(l *letter, m envelope.Message, body []byte) {
	if !bytes.Equal(body, l.body) || m.Size != int64(len(l.body)) || m.Envelope.ReversePath != l.env.ReversePath {
		w.fault("%s: its content or its sender has changed", l.name)
	}
	switch {
	case l.busy:
		w.fault("%s: two attempts at once", l.name)
	case l.state == arriving || l.state == turnedAway:
		w.fault("%s is tried, and is %s", l.name, l.state)
	case !l.loose && (l.deleted || l.held):
		w.fault("%s is tried; deleted: %v, held: %v", l.name, l.deleted, l.held)
	}
	for _, rc := range m.Envelope.Recipients {
		a := l.addressee(rc.Path)
		if a == nil || a.Recipient != rc || a.status != StatusWaiting {
			w.fault("%s is tried for %s, who is not waiting for it", l.name, rc.Path)
			continue
		}
		a.mayFail = false
	}
}

// attempt is the dialogue with a host that answers.
func (lf *life) attempt(ctx context.Context, route string, l *letter, m envelope.Message) envelope.Attempt {
	w, what := lf.w, lf.w.nextFate(l)
	a := envelope.Attempt{Host: route + ":25", DSNOffered: what == offersDSN}
	a.PossibleDuplicate = what == lostTaken || what == lostUntaken
	for i, rc := range m.Envelope.Recipients {
		answer := w.answer(l.addressee(rc.Path))
		if what == answersTooFew && i > 0 || what == panics || a.PossibleDuplicate {
			answer = defers // what was asked does not count: nobody heard the answer
		}
		switch answer {
		case accepts:
			w.take(l, rc.Path)
			a.Results = append(a.Results, envelope.Result{Reply: envelope.Reply{Code: 250, Text: "taken"}})
		case defers:
			if what == lostTaken {
				w.take(l, rc.Path)
				l.addressee(rc.Path).excused++
			}
			a.Results = append(a.Results, envelope.Result{Failure: failure(451, false)})
		case fails:
			a.Results = append(a.Results, envelope.Result{Failure: failure(550, true)})
		case refuses:
			f := failure(554, true)
			f.Scope = envelope.ScopeMessage
			a.Results = append(a.Results, envelope.Result{Failure: f})
		}
	}
	w.mu.Unlock()
	lf.moment() // taken, and the daemon does not know yet
	w.mu.Lock()
	if !w.await(ctx, route, mute) || lf.dead {
		w.excuse(l)
		return siteTrouble()
	}
	w.logf("%s: %s on %s: %v", l.name, what, route, replies(a))
	for i, rc := range m.Envelope.Recipients {
		lf.enter(l, l.addressee(rc.Path), a.Results[i], a.DSNOffered)
		if a.Results[i].Failure == nil {
			w.countSent(route)
		}
	}
	switch what {
	case panics:
		panic("injected")
	case answersTooFew:
		a.Results = a.Results[:1]
	}
	return a
}

// nextFate returns what happens to the next attempt of l.
func (w *world) nextFate(l *letter) fate {
	what := plain
	if l.tries < len(l.fates) && !w.calm {
		what = l.fates[l.tries]
	}
	l.tries++
	switch what {
	case lostTaken, lostUntaken:
		l.lost++
	case panics:
		l.loose = true // one whose attempts panic again and again is held
	}
	return what
}

func replies(a envelope.Attempt) (codes []int) {
	for _, r := range a.Results {
		if r.Failure != nil {
			codes = append(codes, r.Failure.Reply.Code)
		} else {
			codes = append(codes, r.Reply.Code)
		}
	}
	return codes
}

func (w *world) answer(a *addressee) outcome {
	if w.calm {
		return accepts
	}
	o := a.script[min(a.asked, len(a.script)-1)]
	a.asked++
	return o
}

// take is a host taking the letter for p. More than once is wrong, unless no record of it could be made.
func (w *world) take(l *letter, p envelope.Path) {
	a := l.addressee(p)
	if a.taken++; a.taken > a.excused+1 {
		w.fault("%s was delivered to %s %d times; %d of them could not be recorded", l.name, p, a.taken, a.excused)
	}
}

// excuse notes that what hosts have taken of l for those who wait is in no record.
func (w *world) excuse(l *letter) {
	for _, a := range l.to {
		if a.status == StatusWaiting {
			a.excused = a.taken
		}
	}
}

// enter notes what the queue is told about one recipient, and what it has to make of it.
func (lf *life) enter(l *letter, a *addressee, r envelope.Result, offered bool) {
	a.tries++
	a.content = r.Failure != nil && r.Failure.Scope == envelope.ScopeMessage
	switch {
	case r.Failure == nil:
		a.status, a.offered = StatusDelivered, offered
	case r.Failure.Permanent:
		lf.fail(l, a)
	default:
		a.mayFail = time.Since(l.at) >= lf.w.policy.MaxAge || l.lost >= maxDoubts
	}
}

// fail notes that a recipient has failed. A report of which nobody is told stays for an operator.
func (lf *life) fail(l *letter, a *addressee) {
	pm := lf.w.policy.Postmaster
	if l.report && (l.plain || !a.content) && (pm.IsNull() || a.Path == pm) {
		l.held, l.undeliverable = true, true
		return
	}
	a.status = StatusFailed
}

// endAttempt does what operators asked for in the meantime. A stop does so too, unless the store is away.
func (lf *life) endAttempt(l *letter) {
	if lf.dead {
		return
	}
	l.busy = false
	if len(l.pending) > 0 && lf.draining && lf.broken {
		l.loose = true
	}
	for _, a := range l.pending {
		if !l.gone() {
			l.act(a)
		}
	}
	l.pending = nil
}
