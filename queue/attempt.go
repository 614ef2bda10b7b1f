package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// grant is what the pace has admitted of an attempt.
type grant struct {
	contended bool // mail of other clients waits for the route
	begun     bool // it is used up
}

// startAttempt runs one attempt for an item that the scheduler has marked busy.
func (q *Queue) startAttempt(it *item, route string) {
	// The scheduler owns the item; what the attempt needs of it is taken here, on the scheduler's goroutine.
	sl, c, l := it.slot, it.cached, it.lane
	it.handedOn = false
	g := &grant{contended: l.contended(sl.Source.client)}
	q.attempts.Go(func() {
		defer func() {
			if !g.begun {
				q.forgo(route)
			}
		}()
		defer q.rescue(it, sl.ID)
		q.attempt(it, sl, c, l, g)
	})
}

// rescue makes a panic in an attempt, outside of the transport, the end of that attempt and not of the daemon.
func (q *Queue) rescue(it *item, id ID) {
	p := recover()
	if p == nil {
		return
	}
	q.log.Error("an attempt failed by a fault in the relay; please report it", "queue_id", id.String(), "panic", fmt.Sprint(p),
		"stack", string(debug.Stack()))
	if !it.handedOn {
		q.scheduler.post(func() { q.scheduler.finishPanicked(it) })
	}
}

// safely runs f, and logs a panic in it.
func (q *Queue) safely(what string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("a fault in the relay; please report it", "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// attempt makes one try to hand on the message of sl by the route of l, and tells the scheduler what came of it. It sets
// g.begun when it uses up what the pace has admitted.
func (q *Queue) attempt(it *item, sl slot, c *cached, l *lane, g *grant) {
	route := l.name
	r, err := q.load(sl.ID, c)
	switch {
	case errors.Is(err, ErrNotFound):
		q.unreadable(it, sl, errors.New("its record is missing"))
		return
	case errors.Is(err, errDamaged):
		q.unreadable(it, sl, err)
		return
	case err != nil: // the store is away and the queue is closing; nothing is known of the message
		it.handedOn = true
		q.scheduler.post(func() { q.scheduler.finishWait(it, sl) })
		return
	}
	// The scheduler, whose clock nobody can set, found the message due; what a wall clock says now cannot undo that.
	now := latest(q.now(), time.Unix(0, sl.Due))
	due := r.waiting(now)
	legs := q.transport().Legs(r.Origin, r.pick(due))
	leg := legOf(legs, route)
	next := stand{due: joinRoutes(legs)}
	if next.later = r.later(now); !next.later.IsZero() {
		next.all = q.slotOf(r).Routes
	}
	if leg == nil {
		q.elsewhere(it, r, sl, due, next)
		return
	}
	indexes := make([]int, len(leg.Recipients))
	for i, n := range leg.Recipients {
		indexes[i] = due[n]
	}
	content := q.content(r, c)
	g.begun = true
	a := q.deliver(r, indexes, route, content, g.contended)
	undecided := !a.Decided()
	if refusedHere(a) && content.verify() {
		undecided = true
	}
	switch {
	case content.err != nil && undecided:
		q.unreadable(it, sl, content.err)
	case a.Site != nil:
		it.handedOn = true
		q.scheduler.post(func() { q.scheduler.finishSite(it, next, route, a) })
	case content.unread && undecided:
		it.handedOn = true
		q.scheduler.post(func() { q.scheduler.finishUnread(it) })
	case a.Left >= len(indexes):
		it.handedOn = true
		q.scheduler.post(func() { q.scheduler.finishPaced(it, next, route, a.RetryAt) })
	default:
		q.settle(it, sl, r, indexes[:len(indexes)-max(0, a.Left)], a, l, content)
	}
}

// maxUncommitted is how many outcomes may wait for their commit while others are sent in their place. A crash has their
// messages delivered again.
const maxUncommitted = 2 * outcomeBatch

// makeRoom lets the next message of a crowded lane go although the outcome of this one is not committed yet: a route of
// few connections would else send as many messages as it has connections for each commit. unrecorded counts this outcome.
// It reports whether it did, and has then said what doubtful shows of the route.
func (q *Queue) makeRoom(it *item, l *lane, doubtful bool, unrecorded int64) bool {
	if !l.crowded.Load() || unrecorded > maxUncommitted || q.committer.broken.Load() {
		return false
	}
	return q.scheduler.post(func() {
		q.scheduler.shown(it, l, doubtful)
		q.scheduler.leave(it)
	})
}

// elsewhere files an item for which there is nothing to do on the route that it stood before.
func (q *Queue) elsewhere(it *item, r *record, sl slot, due []int, next stand) {
	if len(due) == 0 {
		it.handedOn = true
		q.scheduler.post(func() { q.scheduler.finishWait(it, sl) })
		return
	}
	q.log.LogAttrs(context.Background(), slog.LevelDebug, "rerouted", slog.String("queue_id", r.ID.String()))
	it.handedOn = true
	q.scheduler.post(func() { q.scheduler.finishMoved(it, next) })
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// legOf returns the leg that takes route, or nil.
func legOf(legs []envelope.Leg, route string) *envelope.Leg {
	for i := range legs {
		if legs[i].Route == route {
			return &legs[i]
		}
	}
	return nil
}

// joinRoutes returns the routes of legs as a slot has them.
func joinRoutes(legs []envelope.Leg) string {
	if len(legs) == 1 {
		return legs[0].Route
	}
	names := make([]string, len(legs))
	for i, l := range legs {
		names[i] = l.Route
	}
	return strings.Join(names, routeSeparator)
}

// deliver calls the transport. A panic in it is one failed attempt of one message, not the end of the daemon.
func (q *Queue) deliver(r *record, indexes []int, route string, content *content, contended bool) (a envelope.Attempt) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("the attempt panicked; the message is deferred", "queue_id", r.ID.String(), "panic", fmt.Sprint(p),
				"stack", string(debug.Stack()))
			content.panicked = true
			failure := &envelope.Failure{Scope: envelope.ScopeMessage, Reason: "an internal error; the log of the relay has the details"}
			a = envelope.Attempt{Host: route, Results: slices.Repeat([]envelope.Result{{Failure: failure}}, len(indexes))}
		}
	}()
	return q.transport().Deliver(q.ctx, route, envelope.Message{
		ID: r.ID.String(), Envelope: r.pick(indexes), Origin: r.Origin, Size: r.Size, ReceivedAt: r.ReceivedAt,
		Open: content.open, Contended: contended})
}

// settle records what an attempt came to: the outcome and the reports that it calls for are one commit.
func (q *Queue) settle(it *item, sl slot, r *record, indexes []int, a envelope.Attempt, l *lane, from *content) {
	p, now := *q.policy.Load(), q.now()
	v := settle(r, indexes, a, p, now)
	for _, n := range v.deferred {
		v.record.Recipients[n].Route = l.name
	}
	if from.panicked {
		v.isolate(now)
	}
	reports := q.reports(&v, v.notices(a, q.ages.isOld(r.ID)), a.Host, from)
	v.keepUndeliverable(now)
	main := &change{id: r.ID, oldSlot: sl, hasOld: true}
	_, waits := v.record.next()
	if waits {
		main.put, main.hasNew = v.record, true
		main.newSlot = q.slotOf(v.record)
	} else {
		v.record.Gone = true
		main.remove, main.history = true, v.record
	}
	changes := []*change{main}
	for _, rep := range reports {
		changes = append(changes, rep.change())
	}
	it.handedOn = true
	// An outcome may wait for its commit: what hosts said at length is not kept meanwhile.
	v.replies, v.words, v.cut = nil, nil, nil
	left, doubtful := a.Left, a.PossibleDuplicate
	told := q.makeRoom(it, l, doubtful, q.unrecorded.Add(1))
	q.committer.submit(&request{changes: changes, keep: true, done: func(err error) {
		q.unrecorded.Add(-1)
		if err != nil {
			// Only a queue that is closing refuses: the message is on disk as it was before this attempt.
			q.log.Warn("an outcome could not be recorded; the message will be tried again", "queue_id", r.ID.String(), "error", err)
			return
		}
		q.traffic.settled(l.name, &v)
		q.grow(len(main.historyValue))
		q.logVerdict(&v, doubtful)
		q.logUnreported(&v)
		if !waits && r.Spooled {
			q.removeSpooled(r.ID)
		}
		q.takeOver(r.ID, reports)
		q.scheduler.post(func() {
			if !told {
				q.scheduler.shown(it, l, a.PossibleDuplicate)
			}
			q.scheduler.dropCache(it)
			switch {
			case !waits:
				q.scheduler.finishGone(it)
			case left > 0:
				q.scheduler.finishRest(it, main.newSlot)
			default:
				q.scheduler.finishWait(it, main.newSlot)
			}
		})
	}})
}

func (q *Queue) removeSpooled(id ID) {
	q.noteRead(id)
	if err := q.spool.remove(id); err != nil {
		q.log.Warn("a spool file could not be removed; the next start will", "queue_id", id.String(), "error", err)
	}
}

// slotOf returns the line of the due index for r, with the routes that its recipients take.
func (q *Queue) slotOf(r *record) slot {
	return r.slot(joinRoutes(q.transport().Legs(r.Origin, r.pick(r.unsettled()))))
}

// unreadable sets a message aside whose record or content cannot be read. tellQuarantine does the rest.
func (q *Queue) unreadable(it *item, sl slot, cause error) {
	it.handedOn = true
	aside := &change{id: sl.ID, oldSlot: sl, hasOld: true, quarantine: cause.Error()}
	q.committer.submit(&request{changes: []*change{aside}, keep: true, done: func(err error) {
		if err != nil {
			return
		}
		q.quarantined.Add(1)
		q.noteAside()
		q.scheduler.post(func() { q.scheduler.finishGone(it) })
	}})
}

func (q *Queue) load(id ID, c *cached) (r *record, err error) {
	if c != nil {
		return c.record, nil
	}
	err = q.retryRead(func(s *store) error { r, err = s.record(id); return err })
	return r, err
}

// retryRead reads from the store, and waits while that is being opened again.
func (q *Queue) retryRead(f func(*store) error) error {
	for {
		err := q.committer.read(f)
		if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, errDamaged) {
			return err
		}
		select {
		case <-time.After(reopenPause):
		case <-q.ctx.Done():
			return err
		}
	}
}

// content gives out a message's octets and notices when they are not what was stored.
type content struct {
	q   *Queue
	rec *record
	c   *cached
	err error // the content is damaged or missing
	// unread is set when it cannot be read for now: nothing is known of the message.
	unread bool

	panicked bool // the attempt was ended by a fault in the relay
}

func (q *Queue) content(r *record, c *cached) *content { return &content{q: q, rec: r, c: c} }

// open returns the content from its start. What does not match its checksum ends in an error instead of io.EOF, so
// that a damaged message is never given a final dot.
func (c *content) open() (io.ReadCloser, error) {
	if c.rec.Spooled {
		f, err := openFile(c.q.spool.path(c.rec.ID), os.O_RDONLY, 0)
		if err != nil && c.q.isDamage(err) {
			return nil, c.damaged(errors.New("its file in the spool is missing"))
		}
		if err != nil {
			return nil, c.unreadable(err) // such as too many open files: the message is as it was
		}
		c.q.noteRead(c.rec.ID)
		return &checkedReader{c: c, r: f, Closer: f}, nil
	}
	body, err := c.inline()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

func (c *content) inline() ([]byte, error) {
	if c.c != nil {
		return c.c.body, nil
	}
	var body []byte
	err := c.q.retryRead(func(s *store) (err error) { body, err = s.body(c.rec.ID); return err })
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, c.damaged(errors.New("its content is missing"))
	case err != nil:
		return nil, err
	case checksum(body) != c.rec.Sum:
		return nil, c.damaged(errors.New("its content does not match its checksum"))
	}
	return body, nil
}

// refusedHere reports whether a came to nothing but refusals, and some were made by the relay itself for good. Damage to the
// content may be why.
func refusedHere(a envelope.Attempt) bool {
	here := false
	for _, r := range a.Results {
		switch {
		case r.Failure == nil || r.Failure.Permanent && !r.Failure.Local:
			return false
		case r.Failure.Permanent:
			here = true
		}
	}
	return here
}

// verify reads the content to its end. It reports whether that shows damage, or cannot be done now.
func (c *content) verify() bool {
	r, err := c.open()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		r.Close()
	}
	return err != nil
}

func (c *content) unreadable(err error) error {
	c.unread = true
	c.q.noteUnread(c.rec.ID, err)
	return err
}

func (c *content) damaged(cause error) error {
	c.err = cause
	return cause
}

// start returns at most limit octets from the start of the content.
func (c *content) start(limit int64) ([]byte, error) {
	r, err := c.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}

// checkedReader reads a spool file and checks its sum at the end.
type checkedReader struct {
	c   *content
	r   io.Reader
	sum uint32
	io.Closer
}

func (r *checkedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.sum = crc32.Update(r.sum, castagnoli, p[:n])
	switch {
	case err == io.EOF && r.sum != r.c.rec.Sum:
		return n, r.c.damaged(errors.New("its spool file does not match its checksum"))
	case err != nil && err != io.EOF && !errors.Is(err, fs.ErrClosed):
		return n, r.c.unreadable(err)
	}
	return n, err
}

// logVerdict writes a line for each event of an attempt.
func (q *Queue) logVerdict(v *verdict, doubtful bool) {
	next, _ := v.record.next()
	for _, e := range v.events {
		level := slog.LevelInfo
		if e.What == "failed" {
			level = slog.LevelWarn
		}
		attrs := []slog.Attr{slog.String("queue_id", v.record.ID.String()), slog.String("host", e.Host),
			slog.String("from", v.record.Envelope.ReversePath.String()), slog.String("to", firstFew(e.Recipients)),
			slog.String("reply", e.Words), slog.Int("attempt", v.record.Attempts),
			slog.String("age", e.At.Sub(v.record.ReceivedAt).Round(time.Millisecond).String())}
		if e.What == "deferred" {
			attrs = append(attrs, slog.Time("next_attempt", next), slog.Bool("possible_duplicate", doubtful))
		}
		q.log.LogAttrs(context.Background(), level, e.What, attrs...)
	}
	if v.record.Held && !v.record.Undeliverable {
		q.log.Error("held: its handling keeps failing by a fault in the relay; please report it, and release it after an update",
			"queue_id", v.record.ID.String(), "panics", v.record.Panics)
	}
}

// firstFew joins addresses for the log; a line is not to grow with a mailing list.
func firstFew(addresses []string) string {
	const few = 20
	if len(addresses) <= few {
		return strings.Join(addresses, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(addresses[:few], " "), len(addresses)-few)
}

// logWaiting says, once for each message, that it waits for its smarthost.
func (q *Queue) logWaiting(id ID, l *lane) {
	reason := ""
	if l.reason != nil {
		reason = l.reason.String()
	}
	q.log.LogAttrs(context.Background(), slog.LevelInfo, "waiting", slog.String("queue_id", id.String()),
		slog.String("route", l.name), slog.String("reason", reason))
}

// logUnreported says which recipients have failed without anybody being told: the log is then the only place that
// knows.
func (q *Queue) logUnreported(v *verdict) {
	var silent []string
	for _, i := range v.failed {
		if !v.told[i] {
			silent = append(silent, string(v.record.Envelope.Recipients[i].Path))
		}
	}
	switch {
	case len(silent) == 0:
	case v.record.Report:
		q.log.Error("undeliverable report: nobody was told of the failure; it is kept until an operator releases or deletes it",
			"queue_id", v.record.ID.String(), "to", silent[0])
	default:
		q.log.Warn("not reported: the sender is null or asked for no report", "queue_id", v.record.ID.String(), "to", firstFew(silent))
	}
}
