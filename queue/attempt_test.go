package queue

import (
	"context"
	"fmt"
	"testing"

	"relayd/internal/envelope"
)

// stalledRig is a queue with a route of one connection, before which messages stand, and whose outcomes are not committed
// before resume.
func stalledRig(t *testing.T, messages int) (r *rig, attempts, resume func()) {
	tr := newFakeTransport()
	tr.concurrency = 1
	begin := make(chan struct{})
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		<-begin
		return tr.accept(ctx, route, m)
	})
	r = startRig(t, tr, testPolicy)
	for i := range messages {
		r.send(fmt.Sprintf("to%d@example.com", i))
	}
	until(t, "the first attempt", func() bool { return tr.callCount() == 1 })
	r.committer.mu.Lock()
	return r, func() { close(begin) }, r.committer.mu.Unlock
}

// settled waits until n outcomes wait for their commit, and the scheduler has begun what it may.
func (r *rig) settled(n int) {
	r.t.Helper()
	until(r.t, fmt.Sprint(n, " outcomes"), func() bool { return r.unrecorded.Load() == int64(n) })
	r.scheduler.do(func() {})
	r.scheduler.do(func() {}) // what the first had it begin is counted
}

// A route of one connection does not wait with its next message for the commit of the last outcome, and does not go on
// without end: what a crash would have delivered twice is bounded.
func TestAttempt_TheNextBeginsBeforeTheOutcomeIsCommitted(t *testing.T) {
	const messages = 2 * maxUncommitted
	r, attempts, resume := stalledRig(t, messages)
	attempts()
	r.settled(maxUncommitted + 1)
	if n := r.transport.callCount(); n != maxUncommitted+1 {
		t.Errorf("%d attempts began while no outcome was committed; want %d", n, maxUncommitted+1)
	}
	if n := r.total.Load(); n != messages {
		t.Errorf("%d messages are in the queue; want %d, since no outcome is on disk", n, messages)
	}
	resume()
	until(t, "the queue to be empty", func() bool { return r.total.Load() == 0 })
	for i := range messages {
		if n := r.transport.deliveredTo(fmt.Sprintf("to%d@example.com", i)); n != 1 {
			t.Errorf("to%d was delivered to %d times", i, n)
		}
	}
	if n := r.transport.maxRunning; n != 1 {
		t.Errorf("%d attempts ran at once on a route of one connection", n)
	}
}

// While the store fails nothing goes on ahead of it.
func TestAttempt_TheNextWaitsWhileTheStoreFails(t *testing.T) {
	r, attempts, resume := stalledRig(t, 5)
	r.committer.broken.Store(true)
	attempts()
	r.settled(1)
	if n := r.transport.callCount(); n != 1 {
		t.Errorf("%d attempts began while the store was failing; want 1", n)
	}
	r.committer.broken.Store(false)
	resume()
	until(t, "the queue to be empty", func() bool { return r.total.Load() == 0 })
}
