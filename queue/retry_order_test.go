package queue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
)

// After queue retry --all amid deliveries the messages of a source go about in the order of their arrival, whether they
// stood in line or waited for their time.
func TestRetryAll_KeepsTheOrderOfArrival(t *testing.T) {
	const many, near = 3000, 50
	for name, waiting := range map[string]func(context.Context, string, envelope.Message) envelope.Attempt{
		"in an outage": hostAway,
		"each deferred": func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			return refused(route, m, 451, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newFakeTransport()
				tr.concurrency = 1 // so that attempts reach the transport in the order in which they began
				tr.set(waiting)
				r := openRig(t, t.TempDir(), tr, testPolicy)
				quicken(r.committer.store)
				r.Start()
				t.Cleanup(r.stop)
				for i := range many {
					r.from("192.168.1.2", "a@lan.example", fmt.Sprintf("%d@example.com", i))
				}
				synctest.Wait()
				order := inOrder(tr)
				r.Retry()
				if out, err := r.ApplyAll(ActionRetry); err != nil || len(out.Done) < many/2 {
					t.Fatalf("%d done, %d asked, %v", len(out.Done), len(out.Asked), err)
				}
				time.Sleep(time.Hour)
				got := order()
				if len(got) != many {
					t.Fatalf("%d of %d are out", len(got), many)
				}
				for at, to := range got {
					var n int
					fmt.Sscanf(to, "%d@", &n)
					if off := max(at-n, n-at); off > near {
						t.Fatalf("number %d to arrive was number %d to go", n, at)
					}
				}
			})
		})
	}
}
