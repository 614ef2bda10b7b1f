package relay

import (
	"net/netip"
	"sync"
	"time"
)

// quiet bounds the lines of the log that one client can cause. In a window, a client has a few lines of each cause. What is
// beyond is counted, and at the window's end the last of it is logged, with the number that went before as "repeated". So
// nothing is silent, and a client that tries again without a pause fills no disk. The number of subjects in memory is bounded:
// further clients share one.
type quiet struct {
	window time.Duration

	mu     sync.Mutex
	seen   map[subject]*told
	closed bool
}

// subject is what lines are counted by.
type subject struct {
	client netip.Prefix
	cause  string
}

// told is what a window has of a subject.
type told struct {
	lines, more int
	last        func(repeated int) // logs what was counted last
	end         *time.Timer
}

const quietSubjects = 256

// How many lines of a cause a client may cause in a window.
const (
	once    = 1
	several = 10
)

func newQuiet(window time.Duration) *quiet {
	return &quiet{window: window, seen: make(map[subject]*told)}
}

// tell runs line with 0 when the subject has had fewer than most lines in its window, and otherwise once at the window's end,
// with how many were told by then that had no line.
func (q *quiet) tell(s subject, most int, line func(repeated int)) {
	if q.count(s, most, line) {
		line(0)
	}
}

// count reports whether the subject is to have a line now.
func (q *quiet) count(s subject, most int, line func(repeated int)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	t := q.seen[s]
	if t == nil && len(q.seen) >= quietSubjects {
		s.client = netip.Prefix{}
		t = q.seen[s]
	}
	if t == nil {
		t = &told{}
		t.end = time.AfterFunc(q.window, func() { q.forget(s, t) })
		q.seen[s] = t
	}
	if t.lines < most {
		t.lines++
		return true
	}
	t.more++
	t.last = line
	return false
}

// forget ends a window.
func (q *quiet) forget(s subject, t *told) {
	q.mu.Lock()
	if q.seen[s] == t {
		delete(q.seen, s)
	}
	last, more := t.last, t.more
	t.last = nil
	q.mu.Unlock()
	if last != nil {
		last(more)
	}
}

// close ends all windows. From then on every line is logged.
func (q *quiet) close() {
	q.mu.Lock()
	q.closed = true
	seen := q.seen
	q.seen = nil
	q.mu.Unlock()
	for s, t := range seen {
		t.end.Stop()
		q.forget(s, t)
	}
}

// warn logs a line about the client, unless it has had most of them, of this message and cause, in the window.
func (p *peer) warn(most int, message, cause string, attrs ...any) {
	p.srv.quiet.tell(subject{clientNetwork(p.addr), message + " " + cause}, most, func(repeated int) {
		if repeated > 0 {
			attrs = append(attrs, "repeated", repeated)
		}
		p.log.Warn(message, attrs...)
	})
}
