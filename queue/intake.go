package queue

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"relayd/internal/envelope"
)

// obstacle is a reason why new mail is refused. Begin answers with it, and the status shows it: there is one list.
type obstacle struct {
	name  string // of the kind, for the log
	words string // for an operator
	err   error  // for a client
	// large is set when only messages over inlineLimit are refused.
	large bool
}

// obstacles returns why new mail is refused, the reason that a client is told first. It reads what is known, and waits
// for nothing.
func (q *Queue) obstacles() []obstacle {
	var out []obstacle
	add := func(large bool, name string, err error, words string, args ...any) {
		out = append(out, obstacle{name: name, words: fmt.Sprintf(words, args...), err: err, large: large})
	}
	where := q.free.where()
	if call, hangs := q.watch.hanging(); hangs {
		add(false, "hang", errHangs, "%s has not answered since %s (%s); no mail is taken; look at the disk and the system's log",
			where, call.since.Format(time.DateTime), call.what)
	}
	switch {
	case q.committer.full.Load():
		add(false, "full", errDiskFull, "%s is full: no mail is taken, and what was delivered cannot be recorded; make room", where)
	case q.committer.broken.Load():
		add(false, "store", errStore, "the queue's store in %s has failed and no mail is taken: %v", q.dir, *q.committer.cause.Load())
	}
	p := q.policy.Load()
	if queued := q.total.Load() + q.pending.Load(); p.MaxMessages > 0 && queued >= int64(p.MaxMessages) {
		add(false, "max_messages", errQueueFull, "the queue is full and no mail is taken: it has %d messages, and max_messages is %d",
			queued, p.MaxMessages)
	}
	if bytes := q.bytes.Load() + q.records.Load(); p.MaxBytes > 0 && bytes >= p.MaxBytes {
		add(false, "max_bytes", errQueueFull, "the queue is full and no mail is taken: it has %d octets, and max_bytes is %d", bytes, p.MaxBytes)
	}
	return append(append(out, q.lostObstacles()...), q.diskObstacles()...)
}

// diskObstacles returns those reasons for which the disk is to blame, as it answered last.
func (q *Queue) diskObstacles() []obstacle {
	if q.free.short(pruneRoom) {
		q.wakePrune() // history gives way before mail is refused
	}
	var out []obstacle
	add := func(large bool, name string, err error, words string, args ...any) {
		out = append(out, obstacle{name: name, words: fmt.Sprintf(words, args...), err: err, large: large})
	}
	where := q.free.where()
	disk, small, large, refused, unspooled := q.free.state()
	switch {
	case disk.err != nil:
		add(false, "statfs", fmt.Errorf("%w: %w", errStore, disk.err), "%s; no mail is taken", disk.err)
	case !small:
		add(false, "room", errDiskFull, "%s is nearly full and no mail is taken; make room, or lower min_free", where)
	case refused != nil:
		add(false, "quota", errDiskFull, "%s gives no room to relayd and no mail is taken (%s); make room, or raise its quota", where, refused)
	case !large:
		add(true, "large", errDiskFull, "%s is nearly full, and a large message was refused; make room, or lower min_free%s", where,
			q.free.compactWords())
	}
	switch why := errors.Join(disk.writable, unspooled); {
	case why != nil:
		add(true, "spool", fmt.Errorf("%w: %w", errStore, why), "messages over %d KiB are refused, since %s cannot be written: %s",
			inlineLimit>>10, q.spool.dir, why)
	case disk.err == nil && disk.files < minFiles:
		add(true, "inodes", errDiskFull, "messages over %d KiB are refused, since %s has no inodes left; delete files there",
			inlineLimit>>10, where)
	}
	return out
}

// refusal returns why a new message is refused, or one that turned out to be large; nil when it is not.
func (q *Queue) refusal(large bool) error {
	for _, o := range q.obstacles() {
		if large || !o.large {
			q.intakeLog.note(q, time.Now(), o)
			return o.err
		}
	}
	return nil
}

// Troubles returns, in words, what keeps mail from being taken or handed on that no smarthost is to blame for. It
// answers within a second, also while the disk does not.
func (q *Queue) Troubles() []string {
	q.free.refresh(statPatience)
	if _, hangs := q.watch.hanging(); !hangs {
		q.lookAtSpool()
	}
	var out []string
	found := append(q.obstacles(), q.shares.recent()...)
	for _, o := range found {
		out = append(out, o.words)
	}
	q.intakeLog.note(q, time.Now(), found...)
	out = append(out, q.lostTroubles()...)
	q.scheduler.do(func() {
		// Mail that no route takes stands before the route without a name.
		if l := q.scheduler.lanes[""]; l != nil && l.ready() > 0 && l.reason != nil {
			out = append(out, fmt.Sprintf("%d waiting: %s", l.ready(), l.reason))
		}
	})
	return out
}

// intakeLog says in the log when mail begins to be refused for a reason, and when that has ended: once each.
type intakeLog struct {
	mu   sync.Mutex
	seen map[string]time.Time // when each reason that was logged was last there
}

// intakeCalm is how long a reason must have been away before the log says that it has ended: a queue at its limit
// takes a message for each one that leaves.
const intakeCalm = 10 * time.Second

// note logs the reasons that are new.
func (l *intakeLog) note(q *Queue, now time.Time, found ...obstacle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range found {
		if o.name == "store" {
			continue // the committer tells
		}
		if l.seen == nil {
			l.seen = make(map[string]time.Time)
		}
		if _, known := l.seen[o.name]; !known {
			q.log.Warn("new mail is refused; what is queued is delivered", "reason", o.words)
		}
		l.seen[o.name] = now
	}
}

// ended logs the reasons that are gone, and returns how many are left.
func (l *intakeLog) ended(q *Queue, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, last := range l.seen {
		if now.Sub(last) >= intakeCalm {
			delete(l.seen, name)
			q.log.Info("new mail is taken again", "after", name)
		}
	}
	return len(l.seen)
}

// watchIntake looks at what refuses mail, so that the log tells of it also when no client comes.
func (q *Queue) watchIntake() {
	const calm, troubled = 30 * time.Second, 2 * time.Second
	for pause := troubled; ; {
		select {
		case <-q.ctx.Done():
			return
		case <-time.After(pause):
		}
		q.free.keep()
		now := time.Now()
		q.intakeLog.note(q, now, q.obstacles()...)
		pause = calm
		if q.intakeLog.ended(q, now) > 0 {
			pause = troubled
		}
	}
}

// Replies to a client that the queue has no room for. 452 asks it to keep the message and come back.
var (
	errDiskFull  = fullError("the disk is nearly full")
	errQueueFull = fullError("the queue is full")
)

// errHangs: the disk does not answer. The client is asked to come back.
var errHangs = fmt.Errorf("the disk does not answer: %w", envelope.Reply{
	Code: 451, Enhanced: envelope.EnhancedCode{4, 3, 0}, Text: "The mail queue cannot be written at the moment; try again later"})

func fullError(why string) error {
	return fmt.Errorf("%s: %w", why, envelope.Reply{
		Code: 452, Enhanced: envelope.EnhancedCode{4, 3, 1}, Text: "Insufficient system storage: " + why + "; try again later"})
}

// admit reports whether another message of an origin may begin, and counts it.
func (q *Queue) admit(from envelope.Origin) error {
	if q.closing.Load() {
		return fmt.Errorf("%w: %w", ErrClosed, envelope.Reply{
			Code: 421, Enhanced: envelope.EnhancedCode{4, 3, 2}, Text: "The relay is shutting down; try again later"})
	}
	if _, hangs := q.watch.hanging(); !hangs {
		_, _ = q.free.reserve(0, true) // which asks the disk when it must; what comes of it is an obstacle
	}
	if err := q.refusal(false); err != nil {
		return err
	}
	if err := q.shareUsed(from); err != nil {
		return err
	}
	q.arriving(clientOf(from), 1)
	return nil
}
