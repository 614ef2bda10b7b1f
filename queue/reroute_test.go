package queue

import (
	"context"
	"strings"
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
		if n, err := r.ApplyAll(ActionReroute); n != 2 || err != nil {
			t.Fatalf("%d %v", n, err)
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
		if done, err := r.Apply(ActionReroute, ids); err != nil || len(done) != 5 {
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
