package queue

import (
	"errors"
	"time"

	"relayd/internal/dsn"
	"relayd/internal/envelope"
)

// actionWarn is what the queue itself asks of a message that waits for its smarthost to be back: to tell its sender.
// A message that is deferred by an answer is warned about when it is settled.
const actionWarn Action = "warn"

// warnings tells the senders of late messages, once each. Ids rise with the time of arrival, so that a look at the
// store begins where the last one ended and does not read a message twice, but for those whose sender could not be
// told yet.
func (q *Queue) warnings() {
	var seen ID
	var pause time.Duration
	q.ages.mark(q.ids.highest(), q.policy.Load().DelayWarning)
	for {
		every := time.Minute
		if w := q.policy.Load().DelayWarning; w > 0 {
			every = max(time.Second, min(every, w/4))
		}
		select {
		case <-q.ctx.Done():
			return
		case <-time.After(max(every, pause)):
		}
		warning := q.policy.Load().DelayWarning
		q.ages.mark(q.ids.highest(), warning)
		if warning <= 0 {
			continue
		}
		start := q.now()
		last, err := seen, error(nil)
		q.safely("the warnings of delay", func() { last, err = q.warnAfter(seen) })
		if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, errStore) {
			q.log.Warn("senders of delayed messages could not be told; it is tried again", "error", err)
		}
		seen, pause = last, 20*q.now().Sub(start) // a look at a long queue is not to be all that happens
	}
}

// warnAfter warns about the messages with ids above seen that are late, up to the first that is not: the ones behind it
// came later. It returns up to which id no message is left to warn about.
func (q *Queue) warnAfter(seen ID) (ID, error) {
	done, behind := seen, false
	open := make(map[string]bool)
	for {
		var records []*record
		last := seen
		err := q.committer.read(func(s *store) (err error) {
			records, last, err = s.page(seen, applyBatch)
			return err
		})
		if err != nil || last == seen {
			return done, err
		}
		var late []ID
		end := false
		for _, r := range records {
			if end = !q.ages.isOld(r.ID); end {
				last = r.ID - 1
				break
			}
			switch {
			case r.Held || len(r.toWarn()) == 0:
			case q.canReport(r, open):
				late = append(late, r.ID)
			default:
				behind = true
			}
		}
		// The sender of mail that waits for its turn is not told: nothing is wrong, and a report would take the turn of mail.
		waits := q.notInTurn(late)
		behind = behind || len(waits) < len(late)
		if err := q.request(actionWarn, waits); err != nil {
			return done, err
		}
		if !behind {
			done = last
		}
		if end {
			return done, nil
		}
		seen = last
	}
}

// canReport reports whether a report to the sender of r could go now. One that would wait for the same smarthost as
// the message, to arrive together with it, tells nobody anything.
func (q *Queue) canReport(r *record, known map[string]bool) bool {
	routes := joinRoutes(q.transport().Legs(envelope.Origin{}, reportEnvelope(r.Envelope.ReversePath)))
	ok, asked := known[routes]
	if !asked {
		q.scheduler.do(func() { ok = q.scheduler.lane(routes).isOpen(q.scheduler.clock()) })
		known[routes] = ok
	}
	return ok
}

// toWarn returns the recipients of r, which is old, about whose delay the sender is to be told.
func (r *record) toWarn() []int {
	if r.Report || r.Envelope.ReversePath.IsNull() {
		return nil
	}
	var out []int
	for i := range r.Recipients {
		if r.wantsWarning(i) {
			out = append(out, i)
		}
	}
	return out
}

// request has the scheduler's items changed as an operator would.
func (q *Queue) request(a Action, ids []ID) error {
	if len(ids) == 0 {
		return nil
	}
	var claimed []*item
	if !q.scheduler.do(func() { claimed, _ = q.claim(a, ids) }) {
		return ErrClosed
	}
	return q.operate(claimed, []Action{a})
}

// warn composes the report that a message which waits for its smarthost calls for; nil when it no longer does.
func (q *Queue) warn(r *record) *report {
	to := r.toWarn()
	if len(to) == 0 || !q.ages.isOld(r.ID) {
		return nil
	}
	v := &verdict{record: r, words: map[int]string{}}
	for _, i := range to {
		v.words[i] = "The outgoing mail server does not take mail from this relay at the moment."
		if r.Recipients[i].LastReply != "" {
			v.words[i] = "The last answer was: " + r.Recipients[i].LastReply
		}
	}
	return q.report(v, notice{r.Envelope.ReversePath, dsn.Delayed, to}, "", q.content(r, nil))
}
