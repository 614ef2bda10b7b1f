package queue

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// The promise as a property: whatever clients, smarthosts, operators, the clock, stops and crashes do, in whatever
// order, each accepted recipient is at every moment exactly one of waiting, delivered, reported (or failed with nobody
// to be told) and deleted by an operator. The world keeps a ledger of what was promised and of what the smarthosts
// did; after each step the queue and its folder are held against it.
//
// More of it: go test ./queue -run KeepsItsPromise -rapid.checks=5000
func TestQueue_KeepsItsPromise(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	if checks.String() == "100" { // nobody has asked for another number than rapid's own
		t.Cleanup(func() { _ = checks.Set("100") })
		if err := checks.Set("10"); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newWorld(rt, dir)
			defer w.close()
			w.open()
			rt.Repeat(map[string]func(*rapid.T){
				"":                                  w.check,
				"letters arrive":                    w.arrive,
				"letters arrive, again":             w.arrive, // so that there is something to happen to
				"clients end their letters":         w.endWriters,
				"time passes":                       w.pass,
				"the weather changes":               w.turn,
				"an operator acts":                  w.operate,
				"an operator acts on all":           w.operateAll,
				"all at once":                       func(rt *rapid.T) { w.storm(rt, false) },
				"the daemon is stopped and started": w.restart,
				"the daemon is killed":              func(rt *rapid.T) { w.crash(rt) },
				"the daemon is killed amid it all":  func(rt *rapid.T) { w.storm(rt, true) },
				"the daemon is killed in a commit":  w.tearCommit,
				"the store fails":                   w.failStore,
				"the routes change":                 w.reroute,
			})
			w.finish(rt)
		})
	})
}

// arrive lets up to three letters come in at once.
func (w *world) arrive(rt *rapid.T) {
	w.commitAll(w.begin(rt))
}

// begin opens up to three letters and returns those that their clients end at once.
func (w *world) begin(rt *rapid.T) (ready []*letter) {
	for range rapid.IntRange(1, 3).Draw(rt, "letters") {
		l := w.newLetter(rt)
		end := rapid.SampledFrom([]string{"commit", "commit", "commit", "commit", "commit", "later", "abort"}).Draw(rt, "end")
		if !w.beginLetter(rt, l) {
			continue
		}
		switch end {
		case "commit":
			ready = append(ready, l)
		case "later":
			w.writing = append(w.writing, l)
		case "abort":
			w.abort(l)
		}
	}
	return ready
}

func (w *world) endWriters(rt *rapid.T) {
	if len(w.writing) == 0 {
		rt.Skip("nobody is writing")
	}
	letters := w.writing
	w.writing = nil
	switch rapid.SampledFrom([]string{"commit", "abort", "disk full"}).Draw(rt, "end") {
	case "commit":
		w.commitAll(letters)
	case "abort":
		for _, l := range letters {
			w.abort(l)
		}
	case "disk full":
		full := w.policy
		full.MinFree = 1 << 60
		w.life.q.Configure(w.life, "relay.example", full)
		w.commitAll(letters)
		w.life.q.Configure(w.life, "relay.example", w.policy)
		for _, l := range letters {
			if l.state != turnedAway {
				rt.Fatalf("%s was accepted on a full disk", l.name)
			}
		}
	}
}

func (w *world) commitAll(letters []*letter) {
	var wg sync.WaitGroup
	for _, l := range letters {
		wg.Go(func() { w.commit(l) })
	}
	wg.Wait()
}

var pauses = []time.Duration{time.Second, time.Minute, 11 * time.Minute, time.Hour, 5 * time.Hour, 26 * time.Hour}

func (w *world) pass(rt *rapid.T) {
	time.Sleep(rapid.SampledFrom(pauses).Draw(rt, "pause"))
}

func (w *world) turn(rt *rapid.T) {
	w.turnTo(rapid.SampledFrom(routes).Draw(rt, "route"), rapid.SampledFrom(weathers).Draw(rt, "weather"))
}

// reroute lets one route take another's recipients, or no longer, as a changed configuration does.
func (w *world) reroute(*rapid.T) {
	w.merged.Store(!w.merged.Load())
	w.life.q.Configure(w.life, "relay.example", w.policy)
}

var actions = []Action{ActionRetry, ActionHold, ActionRelease, ActionDelete, ActionReroute}

// operate does an action to some letters, now and then with an id among them that is not in the queue.
func (w *world) operate(rt *rapid.T) {
	live := w.live()
	if len(live) == 0 {
		rt.Skip("the queue is empty")
	}
	action := rapid.SampledFrom(actions).Draw(rt, "action")
	letters := drawLetters(rt, live, 1) // one may be named twice
	var ids []string
	for _, l := range letters {
		ids = append(ids, l.id)
	}
	if rapid.IntRange(0, 5).Draw(rt, "unknown") == 5 {
		if _, err := w.life.q.Apply(action, append(ids, "0000000000000")); !errors.Is(err, ErrNotFound) {
			rt.Fatalf("%s of an unknown id: %v", action, err)
		}
		return
	}
	w.act(action, letters)
	slices.Sort(ids)
	if got, err := w.life.q.Apply(action, ids); err != nil || !slices.Equal(got.all(), slices.Compact(ids)) {
		rt.Fatalf("%s of %v: %+v, %v", action, ids, got, err)
	} else {
		w.checkAsked(rt, got)
	}
	if action == ActionReroute {
		w.checkRerouted(rt, letters)
	}
}

// drawLetters draws up to three of letters.
func drawLetters(rt *rapid.T, letters []*letter, least int) (drawn []*letter) {
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(letters)-1), least, 3).Draw(rt, "letters") {
		drawn = append(drawn, letters[i])
	}
	return drawn
}

func (w *world) operateAll(rt *rapid.T) {
	if rapid.Bool().Draw(rt, "routes") {
		w.life.q.Retry()
		return
	}
	action, live := rapid.SampledFrom(actions).Draw(rt, "action"), w.live()
	w.act(action, live)
	if got, err := w.life.q.ApplyAll(action); err != nil || len(got.all()) != len(live) {
		rt.Fatalf("%s of all %d letters: %+v, %v", action, len(live), got, err)
	} else {
		w.checkAsked(rt, got)
	}
	if action == ActionReroute {
		w.checkRerouted(rt, live)
	}
}

// all returns the ids of a that it was done to, or asked for.
func (a Applied) all() []string { return slices.Sorted(slices.Values(slices.Concat(a.Done, a.Asked))) }

// checkAsked holds what the queue says of an action against the ledger: it is asked for of those that a host has.
func (w *world) checkAsked(rt *rapid.T, got Applied) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range got.Done {
		if l := w.byID[id]; l.busy {
			rt.Fatalf("%s is done with, and a host has it", l.name)
		}
	}
}

// act enters an operator's action in the ledger, before the queue hears of it.
func (w *world) act(action Action, letters []*letter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range letters {
		w.logf("%s: %s by an operator", l.name, action)
		if l.busy {
			l.pending = append(l.pending, action)
			continue
		}
		l.act(action)
	}
}

// storm lets letters arrive, operators act and the weather change at the same time, and the daemon die at some moment
// of it when crash is set.
func (w *world) storm(rt *rapid.T, crash bool) {
	if crash {
		w.life.arm(rapid.IntRange(0, 30).Draw(rt, "moment"))
	}
	var acts []func()
	for _, l := range w.begin(rt) {
		acts = append(acts, func() { w.commit(l) })
	}
	q := w.life.q
	if live := w.live(); len(live) > 0 {
		for _, l := range drawLetters(rt, live, 0) {
			action := rapid.SampledFrom(actions).Draw(rt, "action")
			w.mu.Lock()
			l.loose = true
			w.mu.Unlock()
			w.logf("%s: %s by an operator, meanwhile", l.name, action)
			acts = append(acts, func() {
				_, err := q.Apply(action, []string{l.id})
				if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrClosed) {
					w.faultf("%s of %s: %v", action, l.name, err)
				}
			})
		}
	}
	if rapid.Bool().Draw(rt, "turn") {
		route, to := rapid.SampledFrom(routes).Draw(rt, "route"), rapid.SampledFrom(weathers).Draw(rt, "weather")
		acts = append(acts, func() { w.turnTo(route, to) })
	}
	pause := rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour, 26 * time.Hour}).Draw(rt, "pause")
	var wg sync.WaitGroup
	for _, act := range acts {
		wg.Go(act)
	}
	time.Sleep(pause)
	wg.Wait()
	if crash {
		w.crash(rt)
	}
}

// failStore makes commits fail until the store has been opened again, which fails some times too. What clients were
// told has failed must not be in the queue, and outcomes must not be lost.
func (w *world) failStore(rt *rapid.T) {
	fails := rapid.IntRange(0, 4).Draw(rt, "fails")
	stop := rapid.IntRange(0, 3).Draw(rt, "stop") == 3
	lies := rapid.Bool().Draw(rt, "the commit reached the disk")
	letters := w.begin(rt)
	w.breakStore(rt, fails, lies)
	w.commitAll(letters)
	// One that comes a moment later may find the store back.
	if len(letters) > 0 && !slices.ContainsFunc(letters, func(l *letter) bool { return l.state == turnedAway }) {
		rt.Fatalf("%s was accepted by a store that has failed", letters[0].name)
	}
	w.life.q.committer.notice() // a store that nobody writes to does not notice
	if rapid.Bool().Draw(rt, "answers come meanwhile") {
		for _, r := range routes {
			w.turnTo(r, fair)
		}
		time.Sleep(time.Hour)
	}
	if stop {
		w.restart(rt)
		return
	}
	time.Sleep(time.Minute)
}

// finish ends the world well: smarthosts are up and take all, operators release what is held. Then nothing may be left.
func (w *world) finish(rt *rapid.T) {
	w.commitAll(w.writing)
	w.writing = nil
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	w.life.pacedBy(pace.Limits{}) // and nobody counts any more
	w.life.q.Retry()
	for _, r := range routes {
		w.turnTo(r, fair)
	}
	synctest.Wait()
	w.act(ActionRelease, w.live())
	if _, err := w.life.q.ApplyAll(ActionRelease); err != nil {
		rt.Fatal(err)
	}
	for range 3 {
		time.Sleep(w.policy.RetryMax + w.policy.RetryMax/4 + time.Minute)
		w.check(rt)
	}
	if live := w.live(); len(live) > 0 {
		rt.Fatalf("%s is still in the queue, though its smarthost has been taking mail for hours", live[0].name)
	}
	w.stop(rt, time.Minute)
	w.checkFolder(rt, w.life.dir)
	w.checkEnds(rt)
}

// newLetter draws a letter and what will become of it.
func (w *world) newLetter(rt *rapid.T) *letter {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.letters++
	client := netip.AddrFrom4([4]byte{192, 168, 1, rapid.SampledFrom([]byte{2, 2, 3}).Draw(rt, "client")})
	l := &letter{name: fmt.Sprintf("m%d", w.letters), state: arriving, life: w.life,
		origin: envelope.Origin{Addr: client, Helo: "lan.example", Protocol: "ESMTP"}}
	if rapid.IntRange(0, 4).Draw(rt, "null sender") < 4 {
		l.env.ReversePath = envelope.Path(l.name + ".sender@lan.example")
		w.scripts[l.env.ReversePath] = drawScript(rt, "the sender's mailbox")
	}
	for i := range rapid.IntRange(1, 4).Draw(rt, "recipients") {
		domain := rapid.SampledFrom([]string{"a.example", "b.example"}).Draw(rt, "domain")
		rc := envelope.Recipient{
			Path: envelope.Path(fmt.Sprintf("%s.r%d@%s", l.name, i+1, domain)),
			Notify: rapid.SampledFrom([]envelope.Notify{0, 0, envelope.NotifyNever, envelope.NotifyDelay, envelope.NotifyFailure,
				envelope.NotifySuccess, envelope.NotifySuccess | envelope.NotifyFailure | envelope.NotifyDelay}).Draw(rt, "notify"),
		}
		w.scripts[rc.Path] = drawScript(rt, "mailbox")
		l.env.Recipients = append(l.env.Recipients, rc)
		l.to = append(l.to, newAddressee(rc, w.scripts[rc.Path]))
	}
	l.fates = rapid.SliceOfN(rapid.SampledFrom(fates), 0, 6).Draw(rt, "fates")
	l.body = []byte("Subject: " + l.name + "\r\n\r\n")
	if rapid.IntRange(0, 3).Draw(rt, "large") == 3 {
		l.body = append(l.body, strings.Repeat("0123456789abcdef\r\n", inlineLimit/18+10)...)
	}
	w.logf("%s: from %s to %v, fates %v, %d octets", l.name, l.env.ReversePath, l.to, l.fates, len(l.body))
	return l
}

func drawScript(rt *rapid.T, label string) []outcome {
	often := []outcome{accepts, accepts, accepts, defers, defers, fails, refuses}
	return rapid.SliceOfN(rapid.SampledFrom(often), 1, 3).Draw(rt, label)
}
