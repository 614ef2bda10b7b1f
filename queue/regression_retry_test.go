package queue

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// answerMail has mail answered by f, and reports taken.
func (r *rig) answerMail(f func(ctx context.Context, route string, m envelope.Message) envelope.Attempt) {
	r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		if m.Envelope.ReversePath.IsNull() {
			return r.transport.accept(ctx, route, m)
		}
		return f(ctx, route, m)
	})
}

func deferAll(_ context.Context, route string, m envelope.Message) envelope.Attempt {
	return refused(route, m, 451, false)
}

func siteAway(context.Context, string, envelope.Message) envelope.Attempt {
	return siteDown(time.Minute)
}

func manyRecipients() (to []string) {
	for i := range 50 {
		to = append(to, fmt.Sprintf("recipient%d@example.com", i))
	}
	return to
}

// A recipient that was deferred is tried again on time while another of its message waits for a route that is away,
// however often that route is probed.
func TestRetry_DeferredRecipientDoesNotWaitOutAnotherRoutesOutage(t *testing.T) {
	for _, probes := range []time.Duration{5 * time.Second, time.Minute, 5 * time.Minute} {
		t.Run("probed each "+probes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.legs = byDomain
				r := startRig(t, tr, testPolicy)
				var asked atomic.Int32
				tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					switch {
					case route == "down.example":
						return siteDown(probes)
					case asked.Add(1) == 1:
						return refused(route, m, 451, false)
					}
					return tr.accept(ctx, route, m)
				})
				r.send("other@down.example")
				synctest.Wait()
				r.send("a@up.example", "b@down.example")
				time.Sleep(2 * testPolicy.RetryMin)
				if n := tr.deliveredTo("a@up.example"); n != 1 {
					t.Errorf("deferred for a minute, and delivered %d times after two", n)
				}
			})
		})
	}
}

// A route that is back is noticed although all mail for it stands before another route that stays away.
func TestRetry_LaneThatNobodyStandsInOpensAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.legs = byDomain
		r := startRig(t, tr, testPolicy)
		var back atomic.Bool
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if route == "b.example" && back.Load() {
				return tr.accept(ctx, route, m)
			}
			return siteDown(time.Minute)
		})
		r.send("x@a.example", "y@b.example")
		time.Sleep(5 * time.Minute)
		back.Store(true)
		time.Sleep(5 * time.Minute)
		if n := tr.deliveredTo("y@b.example"); n != 1 {
			t.Errorf("five minutes after its route is back it is delivered %d times", n)
		}
	})
}

// The first temporary answer defers, however long an outage or a hold was before; max_age counts from there.
func TestRetry_MaxAgeCountsTheTimeOfBeingRefused(t *testing.T) {
	for _, before := range []string{"outage", "hold"} {
		t.Run(before, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startRig(t, newFakeTransport(), testPolicy)
				r.answerMail(siteAway)
				id := r.send("a@example.com")
				synctest.Wait()
				if before == "hold" {
					if _, err := r.Apply(ActionHold, []string{id}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(6 * 24 * time.Hour)
				r.answerMail(deferAll)
				if before == "hold" {
					if _, err := r.Apply(ActionRelease, []string{id}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(15 * time.Minute)
				if d, err := r.Show(id); err != nil || d.Gone || d.Attempts == 0 {
					t.Fatalf("after the first answers: %+v, %v", d, err)
				}
				refusedFirst := time.Now()
				time.Sleep(testPolicy.MaxAge - time.Hour)
				if d, err := r.Show(id); err != nil || d.Gone {
					t.Fatalf("given up after %s of being refused: %v", time.Since(refusedFirst), err)
				}
				time.Sleep(4 * time.Hour)
				if d, err := r.Show(id); err != nil || !d.Gone || r.transport.deliveredTo("sender@lan.example") != 1 {
					t.Errorf("after max_age: %+v, %v, %d reports", d.Entry, err, r.transport.deliveredTo("sender@lan.example"))
				}
			})
		})
	}
}

// Recipients that were deferred together are tried together again.
func TestRetry_DeferredTogetherIsTriedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.answerMail(deferAll)
		to := manyRecipients()
		r.send(to...)
		synctest.Wait()
		r.transport.set(nil)
		time.Sleep(2 * testPolicy.RetryMin)
		if n := r.transport.callCount(); n != 2 {
			t.Errorf("%d attempts; one that deferred and one for all that it deferred are two", n)
		}
		for _, rc := range to {
			if n := r.transport.deliveredTo(rc); n != 1 {
				t.Errorf("%s was delivered to %d times", rc, n)
			}
		}
	})
}

// Recipients that expire together are told of in one report.
func TestRetry_ExpiredTogetherIsOneReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy
		p.MaxAge = 5 * time.Hour
		r := startRig(t, newFakeTransport(), p)
		r.answerMail(deferAll)
		to := manyRecipients()
		r.send(to...)
		time.Sleep(9 * time.Hour)
		reports := r.transport.reportsTo("sender@lan.example")
		if len(reports) != 1 {
			t.Fatalf("%d reports", len(reports))
		}
		for _, rc := range to {
			if !strings.Contains(reports[0], "Final-Recipient: rfc822; "+rc) {
				t.Errorf("the report lacks %s", rc)
			}
		}
	})
}

// A message whose delivery panics again and again is held after maxPanics; others flow, and a release tries it anew.
func TestRetry_MessageThatPanicsIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		var panics atomic.Int32
		r.answerMail(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if m.Envelope.Recipients[0].Path == "bad@example.com" {
				panics.Add(1)
				panic("injected")
			}
			return r.transport.accept(ctx, route, m)
		})
		id := r.send("bad@example.com")
		for i := range 4 {
			good := fmt.Sprintf("good%d@example.com", i)
			r.send(good)
			synctest.Wait()
			if r.transport.deliveredTo(good) != 1 {
				t.Errorf("%s was not delivered beside the message that panics", good)
			}
			time.Sleep(time.Hour)
		}
		d, err := r.Show(id)
		if err != nil || d.State != StateHeld || panics.Load() != maxPanics {
			t.Fatalf("after %d panics: %+v, %v", panics.Load(), d.Entry, err)
		}
		if !strings.Contains(r.log.String(), `level=ERROR msg="held: `) {
			t.Error("the log does not say that it is held")
		}
		r.transport.set(nil)
		if _, err := r.Apply(ActionRelease, []string{id}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := r.transport.deliveredTo("bad@example.com"); n != 1 {
			t.Errorf("after its release it was delivered %d times", n)
		}
	})
}

// A message whose connection breaks after the final dot each time is given up after maxDoubts, and its sender is told.
func TestRetry_MessageThatMayHaveArrivedIsNotSentForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		var tries atomic.Int32
		r.answerMail(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			tries.Add(1)
			lost := &envelope.Failure{Scope: envelope.ScopeMessage, Stage: "dot", Reason: "the connection was lost"}
			return envelope.Attempt{Host: route + ":25", Results: []envelope.Result{{Failure: lost}}, PossibleDuplicate: true}
		})
		id := r.send("a@example.com")
		time.Sleep(24 * time.Hour)
		if d, err := r.Show(id); err != nil || !d.Gone || tries.Load() != maxDoubts {
			t.Errorf("after %d attempts: %+v, %v", tries.Load(), d.Entry, err)
		}
		reports := r.transport.reportsTo("sender@lan.example")
		if len(reports) != 1 || !strings.Contains(reports[0], "Action: failed") || !strings.Contains(reports[0], "may have delivered it") {
			t.Errorf("reports: %q", reports)
		}
	})
}

// The parts of a large message have an attempt each. A line that breaks after each of their dots for a moment is no reason to
// give up the later ones, which were sent once.
func TestRetry_DoubtsCountForEachPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		var broken atomic.Bool
		broken.Store(true)
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			all := m.Envelope.Recipients
			m.Envelope.Recipients = all[:1]
			a := r.transport.accept(ctx, route, m)
			if broken.Load() {
				lost := &envelope.Failure{Scope: envelope.ScopeMessage, Stage: "dot", Reason: "the connection was lost"}
				a.Results, a.PossibleDuplicate = []envelope.Result{{Failure: lost}}, true
			}
			a.Left = len(all) - 1
			return a
		})
		to := make([]string, 2*maxDoubts)
		for i := range to {
			to[i] = fmt.Sprintf("rcpt%d@example.com", i)
		}
		id := r.send(to...)
		synctest.Wait()
		d, err := r.Show(id)
		if err != nil || d.Gone {
			t.Fatalf("%+v %v", d.Entry, err)
		}
		for _, rc := range d.Recipients {
			if rc.Status != StatusWaiting || rc.Attempts != 1 {
				t.Errorf("%+v", rc)
			}
		}
		broken.Store(false)
		time.Sleep(time.Hour)
		for _, a := range to {
			if n := r.transport.deliveredTo(a); n != 1 {
				t.Errorf("%s got it %d times", a, n)
			}
		}
	})
}

// A fault of the relay outside of the transport ends an attempt, not the daemon: the message is held after a few, and the
// others flow.
func TestRetry_PanicOutsideTheTransportIsolatesTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		var armed atomic.Bool
		tr.legs = func(env envelope.Envelope) []envelope.Leg {
			if armed.Load() && env.Recipients[0].Path == "poison@example.com" {
				panic("injected: a fault in the relay")
			}
			return byDomain(env)
		}
		r := startRig(t, tr, testPolicy)
		tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 451, false)
		})
		poison := r.send("poison@example.com")
		synctest.Wait()
		armed.Store(true)
		tr.set(nil)
		r.send("good@example.com")
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		if tr.deliveredTo("good@example.com") != 1 {
			t.Error("the rest does not flow")
		}
		if n := strings.Count(r.log.String(), "failed by a fault in the relay"); n != maxPanics {
			t.Errorf("it was tried %d times, want %d", n, maxPanics)
		}
		if c := r.Counts(); c.Held != 1 || c.Active+c.Deferred != 0 {
			t.Errorf("%+v", c)
		}
		armed.Store(false)
		if _, err := r.Apply(ActionRetry, []string{poison}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if tr.deliveredTo("poison@example.com") != 1 {
			t.Error("once the fault is mended the message is not delivered")
		}
	})
}
