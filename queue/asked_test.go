package queue

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// An action on a message that is being delivered is asked for, and is not said to be done. What became of it is in the
// message's history and in the log.
func TestAsked_ActionOnAMessageInFlight(t *testing.T) {
	for _, action := range []Action{ActionDelete, ActionHold, ActionRelease, ActionRetry, ActionReroute} {
		for name, code := range map[string]int{"delivered": 250, "deferred": 451} {
			t.Run(string(action)+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := startRig(t, newFakeTransport(), testPolicy)
					r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
						time.Sleep(10 * time.Second)
						if code == 250 {
							return r.transport.accept(ctx, route, m)
						}
						return refused(route, m, code, false)
					})
					busy := r.send("a@example.com")
					synctest.Wait()
					got, err := r.Apply(action, []string{busy, strings.ToLower(busy)})
					if err != nil || len(got.Done) != 0 || !slices.Equal(got.Asked, []string{busy}) {
						t.Fatalf("%+v, %v", got, err)
					}
					if d, err := r.Show(busy); err != nil || !slices.Equal(d.Asked, []Action{action}) || d.Gone {
						t.Errorf("while it is being delivered: %+v, %v", d.Entry, err)
					}
					time.Sleep(11 * time.Second)
					synctest.Wait()
					d, err := r.Show(busy)
					if err != nil || len(d.Asked) != 0 || d.Gone != (code == 250 || action == ActionDelete) {
						t.Fatalf("afterwards: %+v, %v", d, err)
					}
					last := d.Events[len(d.Events)-1]
					late := "[" + string(action) + "] by an operator, too late"
					if code == 250 && (last.What != "asked" || last.Words != late || r.transport.deliveredTo("a@example.com") != 1) {
						t.Errorf("history: %+v", d.Events)
					}
					if logged := strings.Contains(r.log.String(), "asked for too late"); logged != (code == 250) {
						t.Errorf("logged that it was too late: %v", logged)
					}
					if action == ActionDelete && code != 250 && last.What != "deleted" || action == ActionHold && code != 250 && d.State != StateHeld {
						t.Errorf("%s, history: %+v", d.State, d.Events)
					}
				})
			})
		}
	}
}

// Of all messages only those that nobody has are said to be done with.
func TestAsked_ActionOnAllMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		r.transport.concurrency = 2
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			time.Sleep(10 * time.Second)
			return r.transport.accept(ctx, route, m)
		})
		var ids []string
		for range 5 {
			ids = append(ids, r.send("a@example.com"))
		}
		synctest.Wait()
		got, err := r.ApplyAll(ActionDelete)
		if err != nil || len(got.Done) != 3 || len(got.Asked) != 2 || !slices.Equal(got.all(), ids) {
			t.Fatalf("%+v, %v", got, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := r.transport.deliveredTo("a@example.com"); n != len(got.Asked) {
			t.Errorf("%d were delivered, and of %d it was said that they might be", n, len(got.Asked))
		}
	})
}
