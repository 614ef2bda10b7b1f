package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"
)

// applyBatch is how many messages an operator's action changes in one commit.
const applyBatch = 500

// Applied is what became of an operator's action. Asked are the messages that are being delivered at the moment: the
// action is done when the attempt has ended, unless it has delivered the message. Entry.Asked has it until then.
type Applied struct {
	Done  []string
	Asked []string
}

// Apply does action to the messages with the given ids. When one of them is not in the queue the error is
// a *NotFoundError and nothing is done.
func (q *Queue) Apply(action Action, ids []string) (Applied, error) {
	if q.closing.Load() || !q.started {
		return Applied{}, ErrClosed
	}
	parsed, known, missing := make([]ID, 0, len(ids)), make(map[ID]bool, len(ids)), &NotFoundError{}
	for _, s := range ids {
		id, err := ParseID(s)
		if err != nil {
			missing.IDs = append(missing.IDs, s)
			continue
		}
		if !known[id] {
			known[id] = true
			parsed = append(parsed, id)
		}
	}
	asides, err := q.asidesAmong(parsed)
	if err != nil {
		return Applied{}, err
	}
	others := slices.DeleteFunc(parsed, func(id ID) bool { return slices.Contains(asides, id) })
	find := func() {
		for _, id := range others {
			if q.scheduler.items[id] == nil {
				missing.IDs = append(missing.IDs, id.String())
			}
		}
	}
	if !q.scheduler.do(find) {
		return Applied{}, ErrClosed
	}
	if len(missing.IDs) > 0 {
		return Applied{}, missing
	}
	if err := q.applyAside(action, asides); err != nil {
		return Applied{}, err
	}
	out := Applied{Done: names(asides)}
	err = q.apply(&out, action, others)
	return out, err
}

// apply does action to the messages with the given ids that are in the queue, and adds to out what comes of it.
func (q *Queue) apply(out *Applied, action Action, ids []ID) error {
	if action == ActionRetry {
		inLine := q.inLine(ids)
		out.Done = append(out.Done, names(inLine)...)
		ids = slices.DeleteFunc(ids, func(id ID) bool { return slices.Contains(inLine, id) })
	}
	var claimed []*item
	var asked []ID
	if !q.scheduler.do(func() { claimed, asked = q.claim(action, ids) }) {
		return ErrClosed
	}
	for _, it := range claimed {
		out.Done = append(out.Done, it.slot.ID.String())
	}
	out.Asked = append(out.Asked, names(asked)...)
	for _, id := range asked {
		q.log.Info("asked for while the message is being delivered", "queue_id", id.String(), "action", string(action))
	}
	return q.operate(claimed, []Action{action})
}

// ApplyAll does action to every message that is in the queue now.
func (q *Queue) ApplyAll(action Action) (Applied, error) {
	if q.closing.Load() || !q.started {
		return Applied{}, ErrClosed
	}
	var ids []ID
	if !q.scheduler.do(func() {
		for id := range q.scheduler.items {
			ids = append(ids, id)
		}
	}) {
		return Applied{}, ErrClosed
	}
	slices.Sort(ids) // so that those that stand in line keep their order
	var out Applied
	for len(ids) > 0 {
		batch := ids[:min(applyBatch, len(ids))]
		ids = ids[len(batch):]
		if err := q.apply(&out, action, batch); err != nil {
			return out, err
		}
	}
	return out, nil
}

// inLine returns those of ids that stand in line with all their recipients. A retry has nothing to change of these, and
// must not take them out: what stands behind them would go first.
func (q *Queue) inLine(ids []ID) []ID {
	var ready []ID
	q.scheduler.do(func() {
		for _, id := range ids {
			if it := q.scheduler.items[id]; it != nil && it.state == itemReady {
				ready = append(ready, id)
			}
		}
	})
	now := q.now()
	return slices.DeleteFunc(ready, func(id ID) bool {
		var r *record
		err := q.retryRead(func(s *store) (err error) { r, err = s.record(id); return err })
		return err != nil || !r.later(now).IsZero()
	})
}

// claim takes the items that nobody has, and leaves word with the others. It runs on the scheduler's goroutine.
func (q *Queue) claim(action Action, ids []ID) (claimed []*item, asked []ID) {
	for _, id := range ids {
		it := q.scheduler.items[id]
		switch {
		case it == nil:
		case q.scheduler.claim(it):
			claimed = append(claimed, it)
		default:
			it.ask(action)
			asked = append(asked, id)
		}
	}
	return claimed, asked
}

// tooLate says, in the log and in the message's history, what was asked for of a message that has left the queue before it
// could be done. It runs on the scheduler's goroutine.
func (q *Queue) tooLate(it *item) {
	id, actions := it.slot.ID, it.open()
	it.rare.pending = nil
	if len(actions) == 0 {
		return
	}
	words := fmt.Sprint(actions)
	q.log.Warn("asked for too late: the message has left the queue before", "queue_id", id.String(), "actions", words)
	q.others.Go(func() {
		var r *record
		if err := q.retryRead(func(s *store) (err error) { r, err = s.history(id); return err }); err != nil {
			return // it is in quarantine, or history is not kept
		}
		r.note(Event{At: q.now(), What: "asked", Words: words + " by an operator, too late"})
		if err := q.committer.await(&request{changes: []*change{{id: id, history: r}}, keep: true, optional: true}); err != nil {
			q.log.Warn("cannot note in the history what was asked for too late", "queue_id", id.String(), "error", err)
		}
	})
}

// operatePending does what was asked for while the item was busy.
func (q *Queue) operatePending(it *item, actions []Action) {
	id := it.slot.ID
	q.others.Go(func() {
		if err := q.operate([]*item{it}, actions); err != nil {
			q.log.Warn("an operator's action could not be done", "queue_id", id.String(), "error", err)
		}
	})
}

// operation is what actions make of one claimed item.
type operation struct {
	change  *change // nil when there is nothing to change
	reports []*report
	finish  func() // gives the item back, on the scheduler's goroutine
}

// operate changes claimed items and gives them back, as many in one commit as take a few octets.
func (q *Queue) operate(items []*item, actions []Action) (failed error) {
	var ops []operation
	octets := 0
	for i, it := range items {
		op, err := q.operateOne(it, actions)
		switch {
		case errors.Is(err, errDamaged):
			q.unreadable(it, it.slot, err)
		case err != nil:
			failed = errors.Join(failed, err)
			ops = append(ops, operation{finish: func() { q.scheduler.finishAsked(it, it.slot) }})
		default:
			ops = append(ops, op)
			octets += int(it.slot.bound())
		}
		if octets < operateOctets && i < len(items)-1 {
			continue
		}
		if err := q.finishOperations(ops); err != nil {
			return err
		}
		ops, octets = nil, 0
	}
	return failed
}

// operateOctets is how much the records may take, about, that one commit of an operator's action changes.
const operateOctets = 8 << 20

// finishOperations commits what was done to items and gives these back.
func (q *Queue) finishOperations(ops []operation) error {
	var changes []*change
	for _, op := range ops {
		if op.change != nil {
			changes = append(changes, op.change)
		}
		for _, rep := range op.reports {
			changes = append(changes, rep.change())
		}
	}
	if len(changes) > 0 {
		if err := q.committer.commit(true, changes...); err != nil {
			return err
		}
	}
	for _, op := range ops {
		if op.change == nil {
			continue
		}
		if op.change.remove && op.change.history.Spooled {
			q.removeSpooled(op.change.id)
		}
		q.takeOver(op.change.id, op.reports)
	}
	q.scheduler.post(func() {
		for _, op := range ops {
			op.finish()
		}
	})
	return nil
}

func (q *Queue) operateOne(it *item, actions []Action) (op operation, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: a fault in the relay, please report it: %v", it.slot.ID, p)
		}
	}()
	var r *record
	err = q.retryRead(func(s *store) (err error) { r, err = s.record(it.slot.ID); return err })
	if err != nil {
		return operation{}, err
	}
	now := q.now()
	op = operation{finish: func() { q.scheduler.finishAsked(it, it.slot) }}
	ch := &change{id: r.ID, oldSlot: it.slot, hasOld: true}
	for _, a := range actions {
		if a == actionWarn {
			if rep := q.warn(r); rep != nil {
				op.reports, op.change = append(op.reports, rep), ch
			}
			continue
		}
		what := act(r, a, now)
		if a == ActionReroute {
			what = q.reroute(r, it.slot, now)
		}
		if what == "" {
			continue
		}
		op.change = ch
		words := "by an operator"
		if a == actionForget {
			words = "there are too many undeliverable reports"
		}
		r.note(Event{At: now, What: what, Words: words})
		q.log.LogAttrs(context.Background(), slog.LevelInfo, what, slog.String("queue_id", r.ID.String()))
		if a == ActionRelease {
			if rep := q.warn(r); rep != nil { // the senders of held messages are not told that they are late
				op.reports = append(op.reports, rep)
			}
		}
		if a == ActionDelete || a == actionForget {
			r.Gone = true
			ch.remove, ch.history = true, r
			op.finish = func() { q.scheduler.finishGone(it) }
			return op, nil
		}
	}
	if op.change == nil {
		return op, nil
	}
	ch.put, ch.newSlot, ch.hasNew = r, q.slotOf(r), true
	op.finish = func() { q.scheduler.dropCache(it); q.scheduler.finishAsked(it, ch.newSlot) }
	return op, nil
}

// act changes r as an operator asked and returns the event's name, or "" when there is nothing to change.
func act(r *record, a Action, now time.Time) string {
	switch a {
	case ActionHold:
		if r.Held {
			return ""
		}
		r.Held = true
		return "held"
	case actionForget:
		if !r.Undeliverable {
			return ""
		}
		return "deleted"
	case ActionDelete:
		return "deleted"
	case ActionRelease:
		if !r.Held {
			return ""
		}
		r.Held, r.Undeliverable = false, false
		dueNow(r, now)
		return "released"
	case ActionRetry:
		if r.Held {
			return "" // a hold is ended by a release alone
		}
		dueNow(r, now)
		return "retry"
	}
	return ""
}

func dueNow(r *record, now time.Time) {
	for i := range r.Recipients {
		r.dueNow(i, now)
	}
}

// dueNow ends the pause of recipient i, and reports whether it is in one.
func (r *record) dueNow(i int, now time.Time) bool {
	s := &r.Recipients[i]
	if s.Status != StatusWaiting || !s.Next.After(now) {
		return false
	}
	s.Waited -= min(s.Waited, s.Next.Sub(now))
	s.Next = now
	return true
}

// List returns messages in the order of their ids, from the first above after on, and the id to go on behind, which is ""
// on the last page. They are at most limit (no limit for limit <= 0), and fewer when these would take much memory.
func (q *Queue) List(after string, limit int) (entries []Entry, next string, err error) {
	entries, next, err = list(q.committer.read, after, limit, q.now())
	if err != nil {
		return nil, "", err
	}
	q.scheduler.do(func() {
		for i := range entries {
			q.scheduler.describe(&entries[i])
		}
	})
	return entries, next, nil
}

func list(read reading, after string, limit int, now time.Time) (entries []Entry, next string, err error) {
	from, err := parseAfter(after)
	if err != nil {
		return nil, "", err
	}
	err = read(func(s *store) error {
		records, last, err := s.page(from, limit)
		if err != nil {
			return err
		}
		entries = make([]Entry, len(records))
		for i, r := range records {
			entries[i] = r.entry(now)
		}
		more := false
		if last != from {
			if more, err = s.anyAfter(last); more {
				next = last.String()
			}
		}
		return err
	})
	return entries, next, err
}

// Show returns a message that is in the queue, or in its history.
func (q *Queue) Show(id string) (Detail, error) {
	d, err := show(q.committer.read, id, q.now())
	if err == nil && !d.Gone {
		q.scheduler.do(func() { q.scheduler.describe(&d.Entry) })
	}
	return d, err
}

// Body returns the content of a message that is in the queue.
func (q *Queue) Body(id string) (io.ReadCloser, error) {
	return openBody(q.committer.read, q.spool, id)
}

// Counts sums the queue up.
func (q *Queue) Counts() Counts {
	c := Counts{Quarantined: int(q.quarantined.Load()), Bytes: q.bytes.Load()}
	q.scheduler.do(func() {
		s, now := q.scheduler, q.scheduler.clock()
		c.Active, c.Held, c.Deferred = s.busy, s.held, len(s.waiting)
		c.Unreported = int64(len(s.undeliverable))
		for _, l := range s.lanes {
			switch {
			case l.gated(now):
				c.Deferred += l.ready()
			case l.paced > now:
				c.Deferred += l.ready()
				c.Paced += l.ready()
			default:
				c.Active += l.ready()
			}
		}
	})
	if err := q.committer.read(func(s *store) error { return s.countOldest(&c, q.now()) }); err != nil {
		q.log.Warn("the oldest message could not be read", "error", err)
	}
	return c
}

// Undeliverable returns the ids of the reports that nobody got and nobody was told of, oldest first.
func (q *Queue) Undeliverable() []string {
	var ids []ID
	q.scheduler.do(func() { ids = slices.Sorted(maps.Keys(q.scheduler.undeliverable)) })
	return names(ids)
}

func names(ids []ID) []string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = id.String()
	}
	return words
}

// describe adds to an entry what only the scheduler knows: whether it is under way, and the outage it waits for.
func (s *scheduler) describe(e *Entry) {
	id, _ := ParseID(e.ID)
	it := s.items[id]
	if it == nil {
		return
	}
	e.Asked = it.open()
	switch it.state {
	case itemBusy:
		e.State = StateActive
	case itemWaiting: // its content may have been unreadable when it was due
		if wait := it.due - s.clock(); wait > 0 && e.State == StateActive {
			e.State, e.NextAttempt = StateDeferred, time.Now().Add(wait)
		}
	case itemReady:
		e.State = StateActive
		now := s.clock()
		if l := it.lane; l.gated(now) {
			e.State = StateDeferred
			e.NextAttempt = time.Now().Add(l.gate - now)
		} else if it.waitsForPace(now) {
			e.State, e.WaitsFor = StateDeferred, WaitsForPace
			e.NextAttempt = time.Now().Add(l.paced - now)
		}
	}
	if it.lane != nil && it.lane.reason != nil {
		e.LastError = it.lane.reason.String()
	}
	if e.Smarthost == "" {
		e.Smarthost = it.slot.routes()[0]
	}
}

type reading func(func(*store) error) error

func show(read reading, id string, now time.Time) (Detail, error) {
	n, err := ParseID(id)
	if err != nil {
		return Detail{}, &NotFoundError{IDs: []string{id}}
	}
	var r *record
	var a *aside
	err = read(func(s *store) (err error) {
		if r, err = s.record(n); !errors.Is(err, ErrNotFound) {
			return err
		}
		if a, err = s.aside(n); !errors.Is(err, ErrNotFound) {
			return err
		}
		r, err = s.history(n)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return Detail{}, &NotFoundError{IDs: []string{id}}
	}
	if err != nil {
		return Detail{}, err
	}
	if a != nil {
		return a.detail(now), nil
	}
	return Detail{Entry: r.entry(now), Envelope: r.Envelope, Origin: r.Origin, Events: r.Events, Gone: r.Gone}, nil
}

func openBody(read reading, sp spool, id string) (io.ReadCloser, error) {
	_, body, err := openMessage(read, sp, id)
	if n, parseErr := ParseID(id); errors.Is(err, ErrNotFound) && parseErr == nil {
		if _, left, asideErr := openAside(read, sp, n); asideErr == nil {
			return left, nil
		}
	}
	return body, err
}

// openMessage returns the record and the content of a message in the queue.
func openMessage(read reading, sp spool, id string) (*record, io.ReadCloser, error) {
	gone := &NotFoundError{IDs: []string{id}}
	n, err := ParseID(id)
	if err != nil {
		return nil, nil, gone
	}
	var r *record
	var body []byte
	err = read(func(s *store) (err error) {
		if r, err = s.record(n); err == nil && !r.Spooled {
			body, err = s.body(n)
		}
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil, gone
	case err != nil:
		return nil, nil, err
	case !r.Spooled:
		return r, io.NopCloser(bytes.NewReader(body)), nil
	}
	f, err := openFile(sp.path(n), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// It may have been delivered since its record was read.
		if e := read(func(s *store) error { _, err := s.record(n); return err }); errors.Is(e, ErrNotFound) {
			return nil, nil, gone
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return r, f, nil
}

func parseAfter(after string) (ID, error) {
	if after == "" {
		return 0, nil
	}
	return ParseID(after)
}

// entry returns what the record itself says; a running queue knows more.
func (r *record) entry(now time.Time) Entry {
	e := Entry{ID: r.ID.String(), State: StateDeferred, ReversePath: r.Envelope.ReversePath, Size: r.Size, ReceivedAt: r.ReceivedAt,
		Attempts: r.Attempts, LastError: r.LastError, Smarthost: r.Smarthost, Recipients: make([]EntryRecipient, len(r.Recipients))}
	for i, s := range r.Recipients {
		e.Recipients[i] = EntryRecipient{Address: string(r.Envelope.Recipients[i].Path), Status: s.Status, Attempts: s.Attempts, LastReply: s.LastReply}
	}
	if next, ok := r.next(); ok {
		e.NextAttempt = next
		if !next.After(now) {
			e.State = StateActive
		}
	}
	if r.Held {
		e.State, e.NextAttempt = StateHeld, time.Time{}
	}
	if r.Undeliverable {
		e.State, e.NextAttempt = StateUndeliverable, time.Time{}
	}
	return e
}
