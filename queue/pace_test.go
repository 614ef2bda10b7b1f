package queue

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// paceBy makes tr a transport whose routes share one account with these limits, and that takes at most split recipients at
// a time.
func paceBy(t *testing.T, tr *fakeTransport, l pace.Limits, split int) *pace.Account {
	t.Helper()
	b, err := pace.Open(pace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := b.Configure([]pace.Spec{{Name: pace.Name{Hosts: []string{"main:25"}}, Limits: l}})[0]
	tr.admit = func(string) (time.Time, bool) { return a.Admit() }
	tr.forgo = func(string) { a.Forgo() }
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		all := m.Envelope.Recipients
		turn, at := a.Begin(min(len(all), split), m.Contended)
		if turn == nil {
			return envelope.Attempt{Left: len(all), RetryAt: at}
		}
		m.Envelope.Recipients = all[:turn.Recipients]
		attempt := tr.accept(ctx, route, m)
		turn.End(1, turn.Recipients, false)
		attempt.Left = len(all) - turn.Recipients
		return attempt
	})
	return a
}

var oneAMinute = pace.Limits{Rate: pace.Rate{Messages: 1, Per: time.Minute}}

// from submits a message of a sender on a client.
func (r *rig) from(client, sender, to string) string {
	r.t.Helper()
	env := testEnvelope(to)
	env.ReversePath = envelope.Path(sender)
	w, err := r.Begin(env, envelope.Origin{Addr: netip.MustParseAddr(client)})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := w.Write([]byte("Subject: test\r\n\r\nbody\r\n")); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Commit(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	return w.ID()
}

// A message to more recipients than the day has left does not use the day up while mail of another client waits; when
// nobody else waits it may.
func TestPace_OneClientLeavesAPartOfTheDayToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 100
		tr := newFakeTransport()
		account := paceBy(t, tr, pace.Limits{Recipients: limit}, 1000)
		r := openRig(t, t.TempDir(), tr, testPolicy)
		defer r.stop()
		many := testEnvelope("many0@example.com")
		for i := range 499 {
			many.Recipients = append(many.Recipients, envelope.Recipient{Path: envelope.Path(fmt.Sprintf("many%d@example.com", i+1))})
		}
		w, err := r.Begin(many, envelope.Origin{Addr: netip.MustParseAddr("192.168.1.1")})
		if err == nil {
			err = w.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		const others = 20 // more than are under way at once
		for i := range others {
			r.from("192.168.1.2", "scan@example.com", fmt.Sprintf("scan%d@example.com", i))
		}
		r.Start()
		time.Sleep(time.Minute)
		scans := 0
		for i := range others {
			scans += tr.deliveredTo(fmt.Sprintf("scan%d@example.com", i))
		}
		if scans < 6 {
			t.Errorf("%d of the other client's %d messages went today", scans, others)
		}
		if used := account.Status().UsedToday; used != limit {
			t.Errorf("%d of the day's %d are used while mail waits", used, limit)
		}
		time.Sleep(10 * 24 * time.Hour)
		if n := tr.deliveredTo("many499@example.com"); n != 1 {
			t.Errorf("the last recipient got %d messages", n)
		}
	})
}

// What exceeds the pace waits: no attempt, no error, no report, and it is seen.
func TestPace_WhatExceedsWaitsAndIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		paceBy(t, tr, oneAMinute, 100)
		p := testPolicy
		p.DelayWarning = time.Hour
		r := startRig(t, tr, p)
		var ids []string
		for range 200 {
			ids = append(ids, r.send("a@example.com"))
		}
		synctest.Wait()
		if n := tr.callCount(); n != 1 {
			t.Fatalf("%d attempts in the first minute", n)
		}
		c := r.Counts()
		if c.Active != 0 || c.Deferred != 199 || c.Paced != 199 {
			t.Errorf("counts %+v", c)
		}
		d, err := r.Show(ids[199])
		if err != nil || d.State != StateDeferred || d.WaitsFor != WaitsForPace || d.LastError != "" || d.Attempts != 0 ||
			time.Until(d.NextAttempt).Round(time.Second) != time.Minute {
			t.Errorf("%+v %v", d.Entry, err)
		}
		if b := r.Backlogs()["main"]; b != (Backlog{199, 199, 199}) {
			t.Errorf("backlog %+v", b)
		}
		time.Sleep(199*time.Minute + time.Second)
		if n, calls := tr.deliveredTo("a@example.com"), tr.callCount(); n != 200 || calls != 200 {
			t.Errorf("%d delivered by %d attempts", n, calls)
		}
		for _, id := range []string{ids[0], ids[199]} {
			if d, err := r.Show(id); err != nil || !d.Gone || d.Attempts != 1 {
				t.Errorf("%+v %v", d, err)
			}
		}
		if n := tr.deliveredTo("sender@lan.example"); n > 0 {
			t.Errorf("the sender got %d reports", n)
		}
		if n := strings.Count(r.log.String(), "the pace holds mail back"); n != 1 {
			t.Errorf("the log says %d times that the pace holds", n)
		}
	})
}

// The scheduler asks when the pace has said, and not in between; nobody probes.
func TestPace_AHeldLaneDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		paceBy(t, tr, oneAMinute, 100)
		var asked atomic.Int64
		admit := tr.admit
		tr.admit = func(route string) (time.Time, bool) { asked.Add(1); return admit(route) }
		r := startRig(t, tr, testPolicy)
		for range 100 {
			r.send("a@example.com")
		}
		synctest.Wait()
		before := asked.Load()
		time.Sleep(60*time.Minute + time.Second)
		if n := tr.deliveredTo("a@example.com"); n != 61 {
			t.Errorf("%d delivered in an hour", n)
		}
		if per := (asked.Load() - before) / 60; per > 3 {
			t.Errorf("asked %d times a minute", per)
		}
	})
}

// A scan goes next or next but one, whether what it meets is a backlog of an earlier run or a mailing that came a moment
// before it, and also when it has more than one page for the same reader.
func TestPace_AFreshScanIsNotBuriedUnderABacklog(t *testing.T) {
	const many = 1000
	mailing := func(r *rig) {
		for i := range many {
			r.from("192.168.1.2", fmt.Sprintf("news+%d@lan.example", i), "a@example.com")
		}
	}
	for name, build := range map[string]func(*testing.T, *fakeTransport) *rig{
		"of an earlier run": func(t *testing.T, tr *fakeTransport) *rig {
			r := openRig(t, t.TempDir(), tr, testPolicy)
			tr.set(siteAway)
			r.Start()
			mailing(r)
			r.stop()
			paceBy(t, tr, oneAMinute, 100)
			again := openRig(t, r.dir, tr, testPolicy)
			again.Start()
			t.Cleanup(again.stop)
			return again
		},
		"of a moment ago": func(t *testing.T, tr *fakeTransport) *rig {
			paceBy(t, tr, oneAMinute, 100)
			r := startRig(t, tr, testPolicy)
			mailing(r)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				r := build(t, tr)
				time.Sleep(10*time.Minute + time.Second)
				for range 3 {
					r.from("192.168.1.3", "scanner@lan.example", "boss@example.com")
				}
				time.Sleep(2 * time.Minute)
				if tr.deliveredTo("boss@example.com") < 1 {
					t.Error("the scan went neither next nor next but one")
				}
				time.Sleep(8 * time.Minute)
				if n := tr.deliveredTo("boss@example.com"); n != 3 {
					t.Errorf("%d of 3 pages after ten minutes", n)
				}
				if n := tr.deliveredTo("a@example.com"); n < 15 {
					t.Errorf("the mailing got %d of the slots", n)
				}
			})
		})
	}
}

// A message to more recipients than fit goes in parts: each to others, none with an error, and fresh to the end.
func TestPace_ALargeMessageGoesInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		paceBy(t, tr, pace.Limits{Recipients: 35}, 20)
		r := startRig(t, tr, testPolicy)
		id := r.send(manyRecipients()...)
		synctest.Wait()
		d, err := r.Show(id)
		if err != nil || d.WaitsFor != WaitsForPace || d.LastError != "" {
			t.Fatalf("%+v %v", d.Entry, err)
		}
		delivered := 0
		for _, rc := range d.Recipients {
			switch {
			case rc.Status == StatusDelivered && rc.Attempts == 1:
				delivered++
			case rc.Status != StatusWaiting || rc.Attempts != 0 || rc.LastReply != "":
				t.Errorf("%+v", rc)
			}
		}
		if delivered != 35 || tr.callCount() != 2 {
			t.Errorf("%d delivered by %d attempts, want the 35 of the day by 2", delivered, tr.callCount())
		}
		if b := r.Backlogs()["main"]; b != (Backlog{1, 15, 1}) {
			t.Errorf("backlog %+v", b)
		}
		time.Sleep(24*time.Hour + 2*time.Minute)
		for _, to := range manyRecipients() {
			if n := tr.deliveredTo(to); n != 1 {
				t.Errorf("%s got it %d times", to, n)
			}
		}
		if d, _ := r.Show(id); !d.Gone || d.Attempts != 3 {
			t.Errorf("%+v", d.Entry)
		}
	})
}

// A recipient on another route does not wait for the pace of the first.
func TestPace_OneRoutesPaceHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		tr.admit = func(route string) (time.Time, bool) { return time.Now().Add(time.Hour), route != "slow.example" }
		r := startRig(t, tr, testPolicy)
		r.send("first@slow.example")
		synctest.Wait()
		r.send("a@slow.example", "b@fast.example")
		synctest.Wait()
		if tr.deliveredTo("b@fast.example") != 1 || tr.deliveredTo("a@slow.example") != 0 {
			t.Error("the recipient on the other route waits too")
		}
	})
}

// Leave that an attempt has no use for, as its message takes another route by now, is given back.
func TestPace_LeaveThatIsNotUsedIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		a := paceBy(t, tr, oneAMinute, 100)
		admit := tr.admit
		var turned atomic.Bool
		tr.admit = func(route string) (time.Time, bool) {
			if !turned.Load() {
				return time.Now().Add(time.Minute), false
			}
			return admit(route)
		}
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			if turned.Load() {
				return toRoute("other")(env)
			}
			return toRoute("main")(env)
		}
		r := startRig(t, tr, testPolicy)
		r.send("a@example.com")
		synctest.Wait()
		turned.Store(true)
		time.Sleep(time.Minute + time.Second)
		if tr.deliveredTo("a@example.com") != 1 {
			t.Error("it waits for leave that was lost")
		}
		time.Sleep(time.Minute)
		if a.Status().NextSlot != (time.Time{}) {
			t.Errorf("leave was lost: %+v", a.Status())
		}
	})
}

// No sender is told of a delay that is nothing but the pace; one that is late for another reason is told still.
func TestPace_NoWarningOfAWaitForTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		paceBy(t, tr, pace.Limits{Rate: pace.Rate{Messages: 1, Per: time.Hour}}, 100)
		deliver, admit := tr.deliver, tr.admit
		tr.admit = func(route string) (time.Time, bool) {
			if route != "example.com" {
				return time.Time{}, true
			}
			return admit(route)
		}
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			switch route {
			case "down.example":
				return siteDown(time.Minute)
			case "lan.example":
				return tr.accept(ctx, route, m)
			}
			return deliver(ctx, route, m)
		})
		p := testPolicy
		p.DelayWarning = 4 * time.Hour
		r := startRig(t, tr, p)
		for range 10 {
			r.from("192.168.1.2", "paced@lan.example", "a@example.com")
		}
		r.from("192.168.1.2", "late@lan.example", "a@down.example")
		time.Sleep(9 * time.Hour)
		if n := tr.deliveredTo("paced@lan.example"); n != 0 {
			t.Errorf("%d warnings to one who only waits", n)
		}
		if n := tr.deliveredTo("late@lan.example"); n != 1 {
			t.Errorf("%d warnings to one whose smarthost is away", n)
		}
	})
}

// A throttling reply, after which all that waits is backlog, does not put a scan behind the mailing that it stood beside.
func TestPace_AThrottledLaneKeepsTheTurnsOfItsSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		paceBy(t, tr, oneAMinute, 100)
		deliver := tr.deliver
		var n atomic.Int64
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if n.Add(1) == 3 {
				return siteDown(time.Minute)
			}
			return deliver(ctx, route, m)
		})
		r := startRig(t, tr, testPolicy)
		for range 300 {
			r.from("192.168.1.2", "news@lan.example", "a@example.com")
		}
		time.Sleep(119 * time.Second)
		for range 2 {
			r.from("192.168.1.3", "scanner@lan.example", "boss@example.com")
		}
		time.Sleep(10 * time.Minute)
		if got := tr.deliveredTo("boss@example.com"); got != 2 || n.Load() < 3 {
			t.Errorf("%d of 2 pages after ten minutes", got)
		}
	})
}

// An operator who has all messages routed anew, or tried again, takes from no scan its place before a backlog, and from
// the backlog not its order.
func TestPace_AnActionOnAllBuriesNoScan(t *testing.T) {
	for _, action := range []Action{ActionReroute, ActionRetry} {
		t.Run(string(action), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				paceBy(t, tr, oneAMinute, 100)
				r := startRig(t, tr, testPolicy)
				var mu sync.Mutex
				var order []string
				deliver := tr.deliver
				tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					mu.Lock()
					order = append(order, string(m.Envelope.Recipients[0].Path))
					mu.Unlock()
					return deliver(ctx, route, m)
				})
				for i := range 200 {
					r.from("192.168.1.2", "news@lan.example", fmt.Sprintf("a%d@example.com", i))
				}
				time.Sleep(2*time.Minute + time.Second)
				r.from("192.168.1.3", "scanner@lan.example", "boss@example.com")
				if n, err := r.ApplyAll(action); err != nil || len(n.all()) < 190 {
					t.Fatal(n, err)
				}
				time.Sleep(3 * time.Minute)
				if tr.deliveredTo("boss@example.com") != 1 {
					t.Error("the scan stands behind the mailing")
				}
				time.Sleep(time.Hour)
				mu.Lock()
				defer mu.Unlock()
				want := 0
				for _, to := range order {
					if to == "boss@example.com" {
						continue
					}
					if to != fmt.Sprintf("a%d@example.com", want) {
						t.Fatalf("%s came in place of a%d", to, want)
					}
					want++
				}
			})
		})
	}
}

// A message of which one recipient is due on a route that another message probes, and one later on a route that works, is
// not moved to and fro between the two while the pace holds a third.
func TestPace_AProbeMovesNoMessageToAndFro(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		var asked, down atomic.Int64
		down.Store(1)
		tr.admit = func(route string) (time.Time, bool) {
			if route == "works.example" && asked.Add(1) > 1000 {
				return time.Now().Add(time.Hour), false // so that the test ends
			}
			return time.Now().Add(24 * time.Hour), route != "paced.example"
		}
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			switch {
			case route == "works.example":
				return refused(route, m, 450, false)
			case down.Load() == 1:
				return siteDown(time.Minute)
			}
			time.Sleep(50 * time.Second) // and says nothing
			return siteDown(time.Minute)
		})
		p := testPolicy
		p.RetryMin = time.Hour
		r := startRig(t, tr, p)
		for range 3 {
			r.send("a@away.example")
		}
		r.send("a@away.example", "b@works.example")
		r.send("a@paced.example")
		synctest.Wait()
		down.Store(0)
		before := asked.Load()
		time.Sleep(10 * time.Minute)
		if n := asked.Load() - before; n > 50 {
			t.Errorf("asked %d times in ten minutes for leave on the route that has nothing to do", n)
		}
	})
}

// What a turn on one route has not used of the day of its account is there for the account's other routes, long before the
// day is over.
func TestPace_WhatAnotherRouteGivesBackIsUsedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		a := paceBy(t, tr, pace.Limits{Recipients: 2}, 100)
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			_, route, _ := strings.Cut(string(env.Recipients[0].Path), "@")
			return []envelope.Leg{{Route: route, Recipients: []int{0}}}
		}
		refuse := make(chan struct{})
		paced := tr.deliver
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if route == "two" {
				return paced(ctx, route, m)
			}
			turn, _ := a.Begin(1, false)
			<-refuse
			turn.End(1, 0, false)
			return refused(route, m, 451, false)
		})
		r := startRig(t, tr, testPolicy)
		r.send("a@one")
		r.send("b@one")
		synctest.Wait()
		r.send("c@two")
		synctest.Wait()
		if n := tr.deliveredTo("c@two"); n > 0 {
			t.Fatal("the account's day was not full")
		}
		close(refuse)
		time.Sleep(2 * time.Minute)
		if n := tr.deliveredTo("c@two"); n != 1 {
			t.Errorf("c@two was not delivered to although the account has room; it waits until %v", a.Status().NextSlot)
		}
	})
}

// BenchmarkDispatch is what the scheduler spends on a message, with leave asked for each: lines in, turn, lines out.
func BenchmarkDispatch(b *testing.B) {
	for _, sources := range []int{1, 1000} {
		b.Run(fmt.Sprintf("of %d sources", sources), func(b *testing.B) {
			book, err := pace.Open(pace.Options{})
			if err != nil {
				b.Fatal(err)
			}
			a := book.Configure([]pace.Spec{{Name: pace.Name{Hosts: []string{"main:25"}},
				Limits: pace.Limits{Rate: pace.Rate{Messages: 1 << 30, Per: time.Second}, Recipients: 1 << 30}}})[0]
			s := &scheduler{admit: func(string) (time.Time, bool) { return a.Admit() }, lanes: map[string]*lane{}}
			l := s.lane("main")
			items := make([]*item, 10_000)
			for i := range items {
				items[i] = &item{slot: slot{ID: ID(i), Routes: "main", Source: source{client: uint16(i % sources)}}, fresh: true}
				l.push(items[i], 0)
			}
			for b.Loop() {
				if !s.admitted(l, 0) {
					b.Fatal("not admitted")
				}
				it := l.pop()
				a.Forgo()
				l.push(it, 0)
			}
		})
	}
}
