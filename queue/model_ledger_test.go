package queue

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"relayd/internal/dsn"
	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// world is the model: the ledger of all letters, the smarthosts' weather, and the daemon's present life.
type world struct {
	rt     *rapid.T
	dir    string
	start  time.Time
	policy Policy
	room   int         // concurrency of each route
	limits pace.Limits // of each route's account
	shared bool        // which is one and the same
	split  int         // recipients of one transaction
	merged atomic.Bool // b.example goes by a.example's route
	life   *life       // changed by the test's own goroutine alone
	lives  int

	writing []*letter // begun, and their clients have not ended them

	mu      sync.Mutex
	letters int
	all     []*letter // that got an id
	byID    map[string]*letter
	scripts map[envelope.Path][]outcome
	weather map[string]weather
	turned  chan struct{}     // closed when the weather changes
	sent    map[string][]sent // by route, where there is a limit for the day
	calm    bool              // every recipient is accepted now
	faults  []string          // what other goroutines saw that must not be

	asked      int // times that the pace was asked since askedSince
	askedSince time.Time
}

// sent is a recipient for whom a host took a letter.
type sent struct{ at time.Time }

// countSent enters a recipient that a host took on route, and holds it against the day's limit. w.mu is held.
func (w *world) countSent(route string) {
	if w.limits.Recipients == 0 || w.calm {
		return
	}
	if w.shared {
		route = "the account of all routes"
	}
	now := time.Now()
	w.sent[route] = slices.DeleteFunc(append(w.sent[route], sent{now}), func(s sent) bool { return now.Sub(s.at) >= 24*time.Hour })
	if n := len(w.sent[route]); n > w.limits.Recipients {
		w.fault("%s took %d recipients in 24 hours; the limit is %d", route, n, w.limits.Recipients)
	}
}

// letter is a message in the ledger, one of the relay's own reports included.
type letter struct {
	name   string
	id     string
	env    envelope.Envelope
	origin envelope.Origin
	body   []byte
	at     time.Time // when it was received
	to     []*addressee
	fates  []fate
	report bool
	plain  bool // a report without quotation, in place of one that failed
	// undeliverable is a report that nobody got; it is held.
	undeliverable bool

	life    *life
	writer  *Writer
	state   intake
	doubted bool // refused by a store that has failed, and is not back: it may have the letter all the same
	tries   int  // attempts that reached a host
	lost    int  // of those, the ones that ended after the dot
	busy    bool
	pending []Action // asked for while it was busy
	held    bool
	deleted bool
	acted   bool // by an operator, since the last check
	// loose is set while an operator's action may come before or after something else: the disk tells which it was.
	loose  bool
	buried bool // seen to be gone, with a line of history
}

// intake is how far a letter's client has come.
type intake string

const (
	arriving   intake = "arriving"
	doubtful   intake = "doubtful" // its end was sent and not answered
	turnedAway intake = "refused"
	accepted   intake = "accepted"
)

// addressee is one recipient of a letter in the ledger.
type addressee struct {
	envelope.Recipient
	script  []outcome // what its mailbox answers, the last for ever
	asked   int
	tries   int    // as the record counts them
	status  string // by what the transport was told
	firm    string // as it was last seen on disk
	mayFail bool   // it was deferred, and so long or so often that the queue may give it up
	content bool   // its last failure was the letter's content
	offered bool   // the host that took it reports by itself
	taken   int    // how many times a host has it
	// excused is how many of those no record could be made of: the daemon or the connection died in between.
	excused int
	told    map[dsn.Action]int
}

func newAddressee(rc envelope.Recipient, script []outcome) *addressee {
	return &addressee{Recipient: rc, script: script, status: StatusWaiting, firm: StatusWaiting,
		told: map[dsn.Action]int{}}
}

func (a *addressee) String() string { return fmt.Sprintf("%s(%s)%v", a.Path, a.Notify, a.script) }

func newWorld(rt *rapid.T, dir string) *world {
	w := &world{rt: rt, dir: dir, start: time.Now(), byID: map[string]*letter{}, scripts: map[envelope.Path][]outcome{},
		weather: map[string]weather{}, turned: make(chan struct{})}
	w.policy = Policy{RetryMin: 20 * time.Minute, RetryMax: 20 * time.Minute, History: 100 * 365 * 24 * time.Hour}
	if rapid.IntRange(0, 3).Draw(rt, "growing pauses") == 3 {
		w.policy.RetryMin, w.policy.RetryMax = time.Minute, time.Hour // these are spread at random
	}
	w.policy.MaxAge = rapid.SampledFrom([]time.Duration{30 * time.Hour, 2 * time.Hour}).Draw(rt, "max age")
	w.policy.DelayWarning = rapid.SampledFrom([]time.Duration{0, 0, 4 * time.Hour}).Draw(rt, "delay warning")
	w.policy.Postmaster = rapid.SampledFrom([]envelope.Path{"", "pm@lan.example"}).Draw(rt, "postmaster")
	w.policy.MaxMessages = rapid.SampledFrom([]int{0, 8}).Draw(rt, "most messages")
	w.scripts["pm@lan.example"] = drawScript(rt, "the postmaster's mailbox")
	w.room = rapid.IntRange(1, 3).Draw(rt, "concurrency")
	w.limits = rapid.SampledFrom([]pace.Limits{{}, {Rate: pace.Rate{Messages: 1, Per: 5 * time.Minute}},
		{Rate: pace.Rate{Messages: 20, Per: time.Hour}, Recipients: 9}, {Recipients: 3}}).Draw(rt, "pace")
	w.shared = rapid.Bool().Draw(rt, "the routes share an account")
	w.split = rapid.SampledFrom([]int{100, 1, 2}).Draw(rt, "recipients of a transaction")
	w.sent = map[string][]sent{}
	return w
}

func (w *world) logf(format string, args ...any) {
	w.rt.Logf("%11s  %s", time.Since(w.start).Round(time.Second), fmt.Sprintf(format, args...))
}

// faultf notes what must not be, from any goroutine; the next check fails with it.
func (w *world) faultf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault(format, args...)
}

func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// live returns the letters that the queue must have, in the order of their arrival.
func (w *world) live() (live []*letter) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.all {
		if l.state == accepted && !l.gone() {
			live = append(live, l)
		}
	}
	return live
}

// gone reports whether the letter has left the queue.
func (l *letter) gone() bool { return l.deleted || !l.waits() }

func (l *letter) waits() bool {
	for _, a := range l.to {
		if a.status == StatusWaiting {
			return true
		}
	}
	return false
}

func (l *letter) act(a Action) {
	l.acted = true
	switch a {
	case ActionHold:
		l.held = true
	case ActionRelease:
		l.held, l.undeliverable = false, false
	case ActionDelete:
		l.deleted = true
	}
}

func (l *letter) addressee(p envelope.Path) *addressee {
	for _, a := range l.to {
		if a.Path == p {
			return a
		}
	}
	return nil
}

// beginLetter opens l's writer and reports whether there is one. A full queue refuses, and only that.
func (w *world) beginLetter(rt *rapid.T, l *letter) bool {
	full := w.policy.MaxMessages > 0 && len(w.live())+w.arrivingNow() >= w.policy.MaxMessages || w.shareUsed(l.origin.Addr)
	writer, err := w.life.q.Begin(l.env, l.origin)
	if err != nil {
		var reply envelope.Reply
		if !full || !errors.As(err, &reply) || reply.Code != 452 {
			rt.Fatalf("Begin of %s: %v; the queue is full: %v", l.name, err, full)
		}
		return false
	}
	if full {
		rt.Fatalf("Begin of %s: the queue is full and takes it", l.name)
	}
	l.writer, l.id, l.at = writer, writer.ID(), time.Now()
	w.mu.Lock()
	if w.byID[l.id] != nil {
		w.fault("%s has the id of %s", l.name, w.byID[l.id].name)
	}
	w.byID[l.id] = l
	w.all = append(w.all, l)
	w.mu.Unlock()
	half := len(l.body) / 2
	for _, part := range [][]byte{l.body[:half], l.body[half:]} {
		if _, err := writer.Write(part); err != nil {
			rt.Fatalf("%s: Write: %v", l.name, err)
		}
	}
	return true
}

func (w *world) arrivingNow() int { return w.arrivingOf(netip.Addr{}) }

// shareUsed reports whether a client has as many messages as there is room for.
func (w *world) shareUsed(client netip.Addr) bool {
	live := w.live()
	own := w.arrivingOf(client)
	for _, l := range live {
		if l.origin.Addr == client {
			own++
		}
	}
	return w.policy.MaxMessages > 0 && own > 0 && own >= w.policy.MaxMessages-len(live)-w.arrivingNow()
}

// arrivingOf returns how many messages of a client are arriving; of all clients for the zero address.
func (w *world) arrivingOf(client netip.Addr) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.all {
		if l.state == arriving && l.life == w.life && (!client.IsValid() || l.origin.Addr == client) {
			n++
		}
	}
	return n
}

// commit is the client's final dot. What it is answered counts only if the daemon was alive to answer.
func (w *world) commit(l *letter) {
	w.mu.Lock()
	l.state = doubtful
	w.mu.Unlock()
	err := l.writer.Commit(context.Background())
	l.life.moment()
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.life.dead {
		return
	}
	if err == nil {
		l.state = accepted
		w.logf("%s: accepted", l.name)
		return
	}
	l.state, l.doubted = turnedAway, l.life.broken
	w.logf("%s: refused", l.name)
	var reply envelope.Reply
	if !errors.As(err, &reply) || !reply.Temporary() {
		w.fault("%s was refused without a temporary reply: %v", l.name, err)
	}
}

func (w *world) abort(l *letter) {
	if err := l.writer.Abort(); err != nil {
		w.faultf("Abort of %s: %v", l.name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.state = turnedAway
}

// learn enters a report that the queue has written, and who is told by it of what. w.mu is held.
func (w *world) learn(id string, env envelope.Envelope, body []byte) *letter {
	about, refused, action, told := parseReport(body)
	n, _ := ParseID(id)
	l := &letter{id: id, env: env, body: body, at: n.time(), life: w.life, state: accepted, report: true}
	w.byID[id] = l
	w.all = append(w.all, l)
	for _, rc := range env.Recipients {
		l.to = append(l.to, newAddressee(rc, w.scripts[rc.Path]))
	}
	of := w.byID[about]
	if of == nil || of.state == turnedAway || len(env.Recipients) != 1 || !env.ReversePath.IsNull() {
		w.fault("a message that nobody sent: from %s to %v\n%s", env.ReversePath, env.Recipients, body)
		l.name = "unknown"
		return l
	}
	l.name = fmt.Sprintf("report(%s, %s)", of.name, action)
	w.logf("%s: to %s, of %v", l.name, env.Recipients[0].Path, told)
	if refused != "" {
		w.learnRetold(l, w.byID[refused])
		return l
	}
	if env.Recipients[0].Path != of.env.ReversePath || len(told) == 0 {
		w.fault("%s goes to %s, and tells of %v", l.name, env.Recipients[0].Path, told)
	}
	for _, p := range told {
		a := of.addressee(p)
		if a == nil {
			w.fault("%s tells of %s, who is no recipient", l.name, p)
			continue
		}
		a.told[action]++
	}
	return l
}

// learnRetold enters a report that went out in place of another.
func (w *world) learnRetold(l, in *letter) {
	if in == nil || !in.report {
		w.fault("%s is in place of no report", l.name)
		return
	}
	a := in.to[0]
	a.told[dsn.Failed]++
	l.plain = true
	want := w.policy.Postmaster
	if a.content && !in.plain {
		want = a.Path
	}
	if to := l.to[0].Path; to != want {
		w.fault("%s, in place of %s, goes to %s; should go to %s", l.name, in.name, to, want)
	}
}

// parseReport returns the id of the message that a report is about and of the report that it is in place of, what it tells,
// and of which recipients.
func parseReport(body []byte) (about, refused string, action dsn.Action, told []envelope.Path) {
	_, status, _ := bytes.Cut(body, []byte("Content-Type: message/delivery-status\r\n"))
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "--=_") {
		k, v, _ := strings.Cut(lines.Text(), ": ")
		switch k {
		case "X-Queue-ID":
			about = v
		case "X-Refused-Report":
			refused = v
		case "Action":
			action = dsn.Action(v)
		case "Final-Recipient":
			_, p, _ := strings.Cut(v, "; ")
			told = append(told, envelope.Path(p))
		}
	}
	return about, refused, action, told
}
