package queue

import (
	"sync"
	"time"
)

// diskPatience is how long the disk may take over one call before it counts as a disk that does not answer.
const diskPatience = 5 * time.Second

// watch knows which calls to the disk are under way, and since when. Looking at it never waits for the disk. A nil
// watch notes nothing.
type watch struct {
	mu    sync.Mutex
	next  uint64
	calls map[uint64]diskCall
}

// diskCall is a call to the disk that has not returned.
type diskCall struct {
	what  string
	since time.Time
}

// begin notes a call. The caller runs the function that it returns when the call has returned.
func (w *watch) begin(what string) (end func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = make(map[uint64]diskCall)
	}
	w.next++
	id := w.next
	w.calls[id] = diskCall{what: what, since: time.Now()}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, id)
	}
}

// hanging returns the call that has waited longest, if that is longer than diskPatience.
func (w *watch) hanging() (oldest diskCall, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if oldest.since.IsZero() || c.since.Before(oldest.since) {
			oldest = c
		}
	}
	return oldest, !oldest.since.IsZero() && time.Since(oldest.since) >= diskPatience
}
