package queue

import (
	"fmt"
	"math/rand/v2"
	"time"

	"relayd/internal/envelope"
)

// Policy is what the operator decides about waiting and room. It can be replaced while the queue runs.
type Policy struct {
	RetryMin, RetryMax time.Duration // bounds of the pause between two attempts
	MaxAge             time.Duration // a message this old fails at its next temporary failure
	MaxMessages        int           // 0: no limit
	MaxBytes           int64         // of content; 0: no limit
	MinFree            int64         // octets that stay free on the disk
	History            time.Duration // how long a line stays of a message that is gone
	DelayWarning       time.Duration // when the sender of a message that waits is told, once; 0: never
	Postmaster         envelope.Path // who gets reports that cannot be delivered; null: nobody
}

// verdict is what an attempt made of a message.
type verdict struct {
	record *record
	events []Event
	// The recipients that took part, by what became of them, as indexes into the record's.
	delivered, deferred, failed []int
	// replies has what the peer said of each, words what is to be told.
	replies map[int]envelope.Reply
	words   map[int]string
}

// settle applies an attempt to a copy of r: indexes are the recipients that took part, in the order of the attempt's
// results. It is pure but for the jitter of the retry time.
func settle(r *record, indexes []int, a envelope.Attempt, p Policy, now time.Time) verdict {
	v := verdict{record: r.clone(), replies: make(map[int]envelope.Reply), words: make(map[int]string)}
	v.record.Attempts++
	v.record.Smarthost = a.Host
	for i, n := range indexes {
		res := resultOf(a, i)
		state := &v.record.Recipients[n]
		state.Attempts++
		state.Next = time.Time{}
		switch {
		case res.Failure == nil:
			state.Status, state.LastReply = StatusDelivered, res.Reply.String()
			v.delivered, v.replies[n] = append(v.delivered, n), res.Reply
		case v.giveUp(state, res.Failure, p, now):
			state.Status = StatusFailed
			v.failed, v.replies[n] = append(v.failed, n), res.Failure.Reply
		default:
			age := now.Sub(r.ReceivedAt)
			pause := backoff(state.Attempts, p.RetryMin, p.RetryMax, rand.Float64())
			state.Next = now.Add(min(pause, max(p.RetryMin, p.MaxAge-age)))
			v.deferred, v.replies[n] = append(v.deferred, n), res.Failure.Reply
		}
		v.words[n] = state.LastReply
		if res.Failure != nil {
			v.record.LastError = state.LastReply
		}
	}
	v.note("delivered", v.delivered, a.Host, now)
	v.note("deferred", v.deferred, a.Host, now)
	v.note("failed", v.failed, a.Host, now)
	return v
}

// giveUp reports whether a recipient has failed for good, and sets its last reply to say why.
func (v *verdict) giveUp(state *recipientState, f *envelope.Failure, p Policy, now time.Time) bool {
	state.LastReply = f.String()
	age := now.Sub(v.record.ReceivedAt)
	if f.Permanent || age < p.MaxAge {
		return f.Permanent
	}
	state.LastReply = fmt.Sprintf("given up after %s; the last answer was: %s", age.Round(time.Second), state.LastReply)
	return true
}

// note makes events of what became of recipients, one for those that got the same words, so that a message to many
// does not make an event for each.
func (v *verdict) note(what string, recipients []int, host string, now time.Time) {
	at := make(map[string]int)
	var events []Event
	for _, n := range recipients {
		w := v.words[n]
		i, ok := at[w]
		if !ok {
			i = len(events)
			at[w] = i
			events = append(events, Event{At: now, What: what, Host: host, Words: w})
		}
		events[i].Recipients = append(events[i].Recipients, string(v.record.Envelope.Recipients[n].Path))
	}
	for _, e := range events {
		v.record.note(e)
	}
	v.events = append(v.events, events...)
}

// resultOf returns the i-th result of a; a transport that gave too few has not spoken for the rest, and they wait.
func resultOf(a envelope.Attempt, i int) envelope.Result {
	if i < len(a.Results) {
		return a.Results[i]
	}
	return envelope.Result{Failure: &envelope.Failure{Scope: envelope.ScopeMessage, Reason: "the transport gave no result"}}
}
