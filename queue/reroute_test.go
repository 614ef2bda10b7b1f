package queue

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// toRoute sends all mail by one route.
func toRoute(name string) func(envelope.Envelope) []envelope.Leg {
	return func(env envelope.Envelope) []envelope.Leg {
		leg := envelope.Leg{Route: name}
		for i := range env.Recipients {
			leg.Recipients = append(leg.Recipients, i)
		}
		return []envelope.Leg{leg}
	}
}

// What waits on a route that does not take it any more goes at once; what still takes its route goes on waiting.
func TestReroute_EndsTheWaitOfWhatTakesAnotherRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		r := startRig(t, tr, testPolicy)
		tr.set(deferAll)
		moved, stays := r.send("a@old.example"), r.send("b@same.example")
		synctest.Wait()
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			if env.Recipients[0].Path.Domain() == "old.example" {
				return toRoute("new")(env)
			}
			return byDomain(env)
		}
		tr.set(tr.accept)
		if n, err := r.ApplyAll(ActionReroute); len(n.Done) != 2 || err != nil {
			t.Fatalf("%+v %v", n, err)
		}
		synctest.Wait()
		if tr.deliveredTo("a@old.example") != 1 || tr.deliveredTo("b@same.example") != 0 {
			t.Errorf("delivered: %v", tr.delivered)
		}
		d, err := r.Show(moved)
		if err != nil || len(d.Events) < 3 || d.Events[2].What != "rerouted" {
			t.Errorf("%+v %v", d.Events, err)
		}
		if d, err = r.Show(stays); err != nil || d.State != StateDeferred || len(d.Events) != 2 {
			t.Errorf("%+v %v", d.Entry, err)
		}
	})
}

// Mail before a route that is away goes by the new one without waiting for the old one to be probed.
func TestReroute_FreesMailFromARouteThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = toRoute("old")
		r := startRig(t, tr, testPolicy)
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if route == "old" {
				return siteDown(testPolicy.RetryMax)
			}
			return tr.accept(ctx, route, m)
		})
		var ids []string
		for range 5 {
			ids = append(ids, r.send("a@example.com", "b@example.com"))
		}
		synctest.Wait()
		tr.legs = toRoute("new")
		if done, err := r.Apply(ActionReroute, ids); err != nil || len(done.Done) != 5 {
			t.Fatal(done, err)
		}
		synctest.Wait()
		if n := tr.deliveredTo("b@example.com"); n != 5 {
			t.Errorf("%d of 5 went", n)
		}
	})
}

// A message that stands before the pace of one route, while a recipient of it waits on another, is rerouted by both.
func TestReroute_KnowsTheRoutesOfWhatStandsInLine(t *testing.T) {
	for name, removed := range map[string]bool{"the other stays": false, "the other is removed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.legs = byDomain
				tr.admit = func(route string) (time.Time, bool) { return time.Now().Add(10 * time.Hour), route != "paced.example" }
				r := startRig(t, tr, testPolicy)
				tr.set(deferAll)
				id := r.send("a@paced.example", "b@other.example")
				synctest.Wait()
				if removed {
					tr.legs = toRoute("paced.example")
				}
				want := 2
				for range 2 {
					if removed && want == 2 {
						want++
					}
					if _, err := r.Apply(ActionReroute, []string{id}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if d, err := r.Show(id); err != nil || len(d.Events) != want {
						t.Errorf("%+v %v", d.Events, err)
					}
				}
				if n := tr.callCount(); n != 1 {
					t.Errorf("%d attempts", n)
				}
			})
		})
	}
}

// Of two recipients that wait on a route that takes neither any more, one comes to be tried on the new one by itself. The
// other's wait ends all the same, once, and that of the first does not.
func TestReroute_SeesEachRecipientsRoute(t *testing.T) {
	for name, keep := range map[string]bool{"": true, "after a restart": true, "as an earlier version has left it": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				var route atomic.Value
				route.Store("old")
				tr.legs = func(env envelope.Envelope) []envelope.Leg { return toRoute(route.Load().(string))(env) }
				p := testPolicy
				p.RetryMin, p.RetryMax = 20*time.Minute, 20*time.Minute // without a spread
				r := openRig(t, t.TempDir(), tr, p)
				r.Start()
				tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
					left := len(m.Envelope.Recipients) - 1
					m.Envelope.Recipients = m.Envelope.Recipients[:1]
					if left == 0 {
						time.Sleep(5 * time.Minute)
					}
					a := refused(route, m, 450, false)
					a.Left = left
					return a
				})
				id := r.send("first@example.com", "second@example.com")
				time.Sleep(10 * time.Minute)
				route.Store("new")
				tr.set(deferAll)
				time.Sleep(10*time.Minute + time.Second)
				if d, err := r.Show(id); err != nil || d.Recipients[0].Attempts != 2 || d.Recipients[1].Attempts != 1 {
					t.Fatalf("%+v %v", d.Recipients, err)
				}
				if name != "" {
					r.stop()
					r = openRig(t, r.dir, tr, p)
					r.Start()
				}
				t.Cleanup(r.stop)
				if !keep {
					r.forgetRoutes(id)
				}
				tr.set(tr.accept)
				for range 2 {
					if _, err := r.Apply(ActionReroute, []string{id}); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if n := tr.deliveredTo("second@example.com"); n == 1 != keep {
					t.Errorf("the second was delivered to %d times", n)
				}
				if n := tr.deliveredTo("first@example.com"); n != 0 {
					t.Error("the first, which had been tried on the new route, did not wait")
				}
				d, err := r.Show(id)
				if n := len(slices.DeleteFunc(d.Events, func(e Event) bool { return e.What != "rerouted" })); err != nil || n == 1 != keep {
					t.Errorf("rerouted %d times, %v", n, err)
				}
			})
		})
	}
}

// forgetRoutes stores the message as an earlier version has it, which notes no routes with recipients.
func (r *rig) forgetRoutes(id string) {
	n, _ := ParseID(id)
	rec, err := r.committer.store.record(n)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range rec.Recipients {
		rec.Recipients[i].Route = ""
	}
	sl := r.slotOf(rec)
	if err := r.committer.commit(true, &change{id: n, put: rec, oldSlot: sl, hasOld: true, newSlot: sl, hasNew: true}); err != nil {
		r.t.Fatal(err)
	}
}

func TestReroute_KeepsAHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = toRoute("old")
		r := startRig(t, tr, testPolicy)
		tr.set(deferAll)
		id := r.send("a@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionHold, []string{id}); err != nil {
			t.Fatal(err)
		}
		tr.legs = toRoute("new")
		tr.set(tr.accept)
		if _, err := r.Apply(ActionReroute, []string{strings.ToLower(id)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if d, err := r.Show(id); err != nil || d.State != StateHeld {
			t.Fatalf("%+v %v", d.Entry, err)
		}
		if _, err := r.Apply(ActionRelease, []string{id}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if tr.deliveredTo("a@example.com") != 1 {
			t.Error("released, it did not go")
		}
	})
}
