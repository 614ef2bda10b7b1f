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
}

// verdict is what an attempt made of a message.
type verdict struct {
	record *record
	events []Event
	// failed are the recipients that failed for good now, as indexes into the record's; replies has what the peer said
	// to each.
	failed  []int
	replies map[int]envelope.Reply
}

// settle applies an attempt to a copy of r: indexes are the recipients that took part, in the order of the attempt's
// results. It is pure but for the jitter of the retry time.
func settle(r *record, indexes []int, a envelope.Attempt, p Policy, now time.Time) verdict {
	v := verdict{record: r.clone(), replies: make(map[int]envelope.Reply)}
	v.record.Attempts++
	v.record.Smarthost = a.Host
	var delivered, deferred, failed outcomes
	for i, n := range indexes {
		state, res := &v.record.Recipients[n], resultOf(a, i)
		address := string(r.Envelope.Recipients[n].Path)
		state.Attempts++
		if res.Failure == nil {
			state.Status, state.Next, state.LastReply = StatusDelivered, time.Time{}, res.Reply.String()
			delivered.add(address, state.LastReply)
			continue
		}
		state.LastReply = res.Failure.String()
		v.record.LastError = state.LastReply
		age := now.Sub(r.ReceivedAt)
		switch {
		case res.Failure.Permanent:
			state.Status = StatusFailed
		case age >= p.MaxAge:
			state.Status = StatusFailed
			state.LastReply = fmt.Sprintf("given up after %s; the last answer was: %s", age.Round(time.Second), state.LastReply)
		default:
			pause := backoff(state.Attempts, p.RetryMin, p.RetryMax, rand.Float64())
			state.Next = now.Add(min(pause, max(p.RetryMin, p.MaxAge-age)))
			deferred.add(address, state.LastReply)
			continue
		}
		state.Next = time.Time{}
		v.failed = append(v.failed, n)
		v.replies[n] = res.Failure.Reply
		failed.add(address, state.LastReply)
	}
	v.events = append(v.events, delivered.events("delivered", a.Host, now)...)
	v.events = append(v.events, deferred.events("deferred", a.Host, now)...)
	v.events = append(v.events, failed.events("failed", a.Host, now)...)
	for _, e := range v.events {
		v.record.note(e)
	}
	return v
}

// resultOf returns the i-th result of a; a transport that gave too few has not spoken for the rest, and they wait.
func resultOf(a envelope.Attempt, i int) envelope.Result {
	if i < len(a.Results) {
		return a.Results[i]
	}
	return envelope.Result{Failure: &envelope.Failure{Scope: envelope.ScopeMessage, Reason: "the transport gave no result"}}
}

// outcomes collects recipients by the words they got, so that a message to many does not make an event for each.
type outcomes struct {
	words []string
	to    map[string][]string
}

func (o *outcomes) add(address, words string) {
	if o.to == nil {
		o.to = make(map[string][]string)
	}
	if _, ok := o.to[words]; !ok {
		o.words = append(o.words, words)
	}
	o.to[words] = append(o.to[words], address)
}

func (o *outcomes) events(what, host string, now time.Time) []Event {
	events := make([]Event, 0, len(o.words))
	for _, w := range o.words {
		events = append(events, Event{At: now, What: what, Host: host, Recipients: o.to[w], Words: w})
	}
	return events
}

// reportable returns those of the failed recipients whose sender is to be told: none for a null reverse-path, for a
// report of our own, or where NOTIFY says so (RFC 3461 section 4.1, RFC 5321 section 4.5.5).
func reportable(r *record, failed []int) []int {
	if r.Report || r.Envelope.ReversePath.IsNull() {
		return nil
	}
	var tell []int
	for _, n := range failed {
		if r.Envelope.Recipients[n].Notify.WantsFailure() {
			tell = append(tell, n)
		}
	}
	return tell
}
