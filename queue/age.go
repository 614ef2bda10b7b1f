package queue

import (
	"sync"
	"sync/atomic"
	"time"
)

// ages tells which messages have waited for a given time, without the wall clock: that may be set, and would have senders
// warned of a delay that there was not. Ids rise with the order of arrival, and the marks say which id was the last at
// which time of the monotonic clock. What was there at a start counts from the start; the time before it is not known.
type ages struct {
	began time.Time
	mu    sync.Mutex
	marks []ageMark // in order of time
	old   atomic.Uint64
}

type ageMark struct {
	at   time.Duration // since began
	last ID
}

// ageMarks is how many marks are kept of the time that is asked for, about.
const ageMarks = 240

// mark notes that last is the highest id that was given out until now, and finds out which messages have waited for d. It is
// called again and again; the answer lags behind by the time between two calls. With a d of 0 none have.
func (a *ages) mark(last ID, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d <= 0 {
		a.marks = nil
		a.old.Store(0)
		return
	}
	now := time.Since(a.began)
	if n := len(a.marks); n == 0 || now-a.marks[n-1].at >= d/ageMarks {
		a.marks = append(a.marks, ageMark{now, last})
	}
	old := 0
	for old+1 < len(a.marks) && now-a.marks[old+1].at >= d {
		old++
	}
	a.marks = a.marks[old:]
	if now-a.marks[0].at < d {
		a.old.Store(0)
		return
	}
	a.old.Store(uint64(a.marks[0].last))
}

// isOld reports whether a message has waited for the time that mark was called with.
func (a *ages) isOld(id ID) bool { return uint64(id) <= a.old.Load() }
