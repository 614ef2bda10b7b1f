package queue

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

func TestTraffic_CountsRecipientsByRouteAndOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		r := startRig(t, tr, testPolicy)
		if got := r.Traffic(); !reflect.DeepEqual(got, Traffic{Routes: []RouteTraffic{}}) {
			t.Errorf("before any mail: %+v", got)
		}
		later := 2 // attempts that are refused for the time being
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			switch to := m.Envelope.Recipients[0].Path; {
			case to == "later@west" && later > 0:
				later--
				return refused(route, m, 451, false)
			case to == "never@east":
				return refused(route, m, 550, true)
			}
			return tr.accept(ctx, route, m)
		})
		r.send("a@west", "b@west", "c@east")
		r.send("later@west")
		r.send("never@east") // and a report of it, to the sender's route
		time.Sleep(time.Hour)
		synctest.Wait()
		want := Traffic{Received: 3, Routes: []RouteTraffic{
			{Route: "east", Delivered: 1, Failed: 1}, {Route: "lan.example", Delivered: 1}, {Route: "west", Delivered: 3, Deferred: 2}}}
		if got := r.Traffic(); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\nwant %+v", got, want)
		}
	})
}

// A site failure is no outcome of a message, and what the queue did not take was not received.
func TestTraffic_DoesNotCountWhatWasNotDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		r := startRig(t, tr, testPolicy)
		tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return envelope.Attempt{Host: route, Site: &envelope.Failure{Scope: envelope.ScopeSite, Reason: "away"}, RetryAt: time.Now().Add(time.Minute)}
		})
		r.send("a@example.com")
		w, err := r.Begin(testEnvelope("b@example.com"), envelope.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := r.Traffic(); tr.callCount() < 3 || !reflect.DeepEqual(got, Traffic{Received: 1, Routes: []RouteTraffic{}}) {
			t.Errorf("after %d attempts: %+v", tr.callCount(), got)
		}
	})
}
