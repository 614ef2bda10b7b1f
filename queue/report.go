package queue

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"relayd/internal/dsn"
	"relayd/internal/envelope"
)

// reportContent is the size of the largest message that a report carries whole, in octets.
const reportContent = 50_000

// notice is what somebody, mostly the sender of a message, is to be told about some of its recipients, in one report.
type notice struct {
	to         envelope.Path
	action     dsn.Action
	recipients []int // indexes into the record's
}

// notices returns what a verdict calls for. There is none for a null reverse-path (RFC 5321 section 4.5.5) or about a
// report of our own (RFC 3461 section 6.1), and none that NOTIFY does not ask for (section 4.1). A host that
// offered DSN reports success itself (section 6.2.5.2). old says that the message has waited for the delay warning.
func (v verdict) notices(a envelope.Attempt, old bool) []notice {
	r := v.record
	if r.Report || r.Envelope.ReversePath.IsNull() {
		return nil
	}
	var out []notice
	add := func(action dsn.Action, from []int, wanted func(int) bool) {
		n := notice{to: r.Envelope.ReversePath, action: action}
		for _, i := range from {
			if wanted(i) {
				n.recipients = append(n.recipients, i)
			}
		}
		if len(n.recipients) > 0 {
			out = append(out, n)
		}
	}
	notify := func(i int) envelope.Notify { return r.Envelope.Recipients[i].Notify }
	add(dsn.Failed, v.failed, func(i int) bool { return notify(i).WantsFailure() })
	add(dsn.Relayed, v.delivered, func(i int) bool { return notify(i).WantsSuccess() && !a.DSNOffered })
	add(dsn.Delayed, v.deferred, func(i int) bool { return (old || v.late[i]) && r.wantsWarning(i) })
	return out
}

// wantsWarning reports whether recipient i waits and its sender is to be told, and was not.
func (r *record) wantsWarning(i int) bool {
	s := r.Recipients[i]
	return s.Status == StatusWaiting && !s.Warned && r.Envelope.Recipients[i].Notify.WantsDelay()
}

// report composes the report that n asks for and notes it in v, the record that will be committed with it. host is
// whose replies there are.
func (q *Queue) report(v *verdict, n notice, host string, from *content) *report {
	r, now := v.record, q.now()
	var original []byte
	if from != nil {
		var err error
		if original, err = from.start(inlineLimit); err != nil {
			q.log.Warn("a report goes out without the message that it is about", "queue_id", r.ID.String(), "error", err)
			original = nil
		}
	}
	rep := q.newReport(n.to)
	d := dsn.Report{
		ID: rep.record.ID.String(), Reporter: q.hostname(), To: n.to, Now: now, Action: n.action,
		Arrival: r.ReceivedAt, MessageID: r.ID.String(), EnvID: r.Envelope.EnvID, Original: original, Quote: v.quote(n),
	}
	for _, i := range n.recipients {
		switch state := &r.Recipients[i]; n.action {
		case dsn.Delayed:
			state.Warned = true
			if until := state.Next.Add(q.policy.Load().MaxAge - state.Waited); host != "" && until.After(d.Until) {
				d.Until = until
			}
		case dsn.Failed:
			v.tell(i)
		}
		rc := dsn.Recipient{Recipient: r.Envelope.Recipients[i], Reply: v.replies[i], Words: v.words[i],
			Expired: v.expired[i], Local: v.local[i], Doubtful: v.doubtful && n.action == dsn.Failed}
		if (!rc.Reply.IsZero() && !rc.Local) || rc.Doubtful {
			rc.Host = host
		}
		d.Recipients = append(d.Recipients, rc)
	}
	rep.seal(dsn.Compose(d), "a report about "+r.ID.String())
	r.note(Event{At: now, What: "reported", Recipients: []string{string(n.to)},
		Words: string(n.action) + ", in message " + rep.record.ID.String()})
	return rep
}

// quote returns how much of the message its report carries. It is the header, unless RET=FULL asks for more: a host that
// refuses content refuses a report that quotes it. Success is always reported with the header only (RFC 3461 section 6.2).
func (v *verdict) quote(n notice) dsn.Quote {
	r := v.record
	if n.action != dsn.Failed || r.Envelope.Ret != "FULL" || r.Size > reportContent {
		return dsn.QuoteHeader
	}
	for _, i := range n.recipients {
		if v.content[i] {
			return dsn.QuoteHeader
		}
	}
	return dsn.QuoteAll
}

func (v *verdict) tell(i int) {
	if v.told == nil {
		v.told = make(map[int]bool)
	}
	v.told[i] = true
}

// reports composes the reports that notices ask for. from is the message's content, or nil when it cannot be read.
func (q *Queue) reports(v *verdict, notices []notice, host string, from *content) []*report {
	var out []*report
	for _, n := range notices {
		out = append(out, q.report(v, n, host, from))
	}
	if rep := q.retell(v, from); rep != nil {
		out = append(out, rep)
	}
	return out
}

// retell composes what goes out in place of a report that has failed; nil when that was no report, or nobody is left to
// tell. One that was refused for its content goes once more without a word that is not the relay's own; then it is the
// postmaster's turn.
func (q *Queue) retell(v *verdict, from *content) *report {
	r := v.record
	if !r.Report || len(v.failed) == 0 {
		return nil
	}
	first, postmaster := v.failed[0], q.policy.Load().Postmaster
	sender := r.Envelope.Recipients[first].Path
	to := sender
	if r.Plain || !v.content[first] {
		if postmaster.IsNull() || postmaster == sender {
			return nil
		}
		to = postmaster
	}
	var refused []byte
	if from != nil {
		var err error
		if refused, err = from.start(maxRetold); err != nil {
			q.log.Warn("a report that failed cannot be read to be told again", "queue_id", r.ID.String(), "error", err)
			refused = nil
		}
	}
	rep := q.newReport(to)
	rep.record.Plain = true
	body := dsn.Retell(refused, dsn.Retelling{ID: rep.record.ID.String(), Reporter: q.hostname(), To: to, Now: rep.record.ReceivedAt,
		Refused: r.ID.String(), Sender: sender, Reply: v.replies[first]})
	rep.seal(body, "in place of the report "+r.ID.String())
	v.tell(first)
	r.note(Event{At: rep.record.ReceivedAt, What: "reported", Recipients: []string{string(to)},
		Words: "without quotation, in message " + rep.record.ID.String()})
	return rep
}

// maxRetold bounds how much of a report is read to tell it again, in octets.
const maxRetold = 16 << 20

// report is a message that the relay writes itself, and its content.
type report struct {
	record *record
	body   []byte
	slot   slot
	stored *change
}

// newReport begins a report to the given mailbox.
func (q *Queue) newReport(to envelope.Path) *report {
	now := q.now()
	rep := &report{record: newRecord(q.ids.next(now), reportEnvelope(to), envelope.Origin{}, now)}
	rep.record.Report = true
	rep.slot = q.slotOf(rep.record)
	return rep
}

func reportEnvelope(to envelope.Path) envelope.Envelope {
	return envelope.Envelope{
		ReversePath: envelope.Null,
		Recipients:  []envelope.Recipient{{Path: to, Notify: envelope.NotifyNever}},
		UTF8:        to.NeedsUTF8(),
		Body:        "7BIT",
	}
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (rep *report) seal(body []byte, what string) {
	rep.body = body
	if !ascii(body) {
		rep.record.Envelope.Body = "8BITMIME"
	}
	rep.record.Size, rep.record.Sum = int64(len(body)), checksum(body)
	rep.slot.Size = rep.record.Size
	rep.record.Events = []Event{{At: rep.record.ReceivedAt, What: "received", Words: what}}
}

func (rep *report) change() *change {
	rep.stored = &change{id: rep.record.ID, put: rep.record, body: rep.body, newSlot: rep.slot, hasNew: true}
	return rep.stored
}

// keepUndeliverable has a report that nobody got, and that nobody is told of, wait for an operator.
func (v *verdict) keepUndeliverable(now time.Time) {
	r := v.record
	if !r.Report {
		return
	}
	for _, i := range v.failed {
		if v.told[i] {
			continue
		}
		if !r.Undeliverable {
			r.Held, r.Undeliverable = true, true
			r.note(Event{At: now, What: "held", Words: "undeliverable: nobody was told"})
		}
		r.Recipients[i].Status, r.Recipients[i].Next = StatusWaiting, now
	}
}

// maxUndeliverable bounds the undeliverable reports that are kept: a device with a wrong sender can make any number.
const maxUndeliverable = 1000

// actionForget is what the queue itself does to the oldest undeliverable reports when there are too many.
const actionForget Action = "forget"

func (q *Queue) forgetUndeliverable() {
	var ids []ID
	q.scheduler.do(func() { ids = slices.Sorted(maps.Keys(q.scheduler.undeliverable)) })
	for len(ids) > maxUndeliverable {
		batch := ids[:min(applyBatch, len(ids)-maxUndeliverable)]
		ids = ids[len(batch):]
		if err := q.request(actionForget, batch); err != nil {
			q.log.Warn("cannot remove the oldest undeliverable reports; trying again later", "error", err)
			return
		}
		q.log.Error("too many undeliverable reports: the oldest were removed; queue show has their history",
			"removed", len(batch), "first", batch[0].String(), "kept", maxUndeliverable)
	}
}

// takeOver makes committed reports known to the scheduler.
func (q *Queue) takeOver(about ID, reports []*report) {
	for _, rep := range reports {
		q.log.LogAttrs(context.Background(), slog.LevelInfo, "reported", slog.String("queue_id", about.String()),
			slog.String("report_id", rep.record.ID.String()), slog.String("to", rep.record.Envelope.Recipients[0].Path.String()))
		q.scheduler.add(rep.stored.newSlot, q.cache.keep(rep.record, rep.body))
	}
}
