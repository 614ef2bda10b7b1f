package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"relayd/internal/envelope"
)

// Policy is what the operator decides about waiting and room. It can be replaced while the queue runs.
type Policy struct {
	RetryMin, RetryMax time.Duration // bounds of the pause between two attempts
	MaxAge             time.Duration // how long a recipient is tried again that is refused for the time being
	MaxMessages        int           // 0: no limit
	MaxBytes           int64         // of content and records; 0: no limit
	MinFree            int64         // octets that stay free on the disk
	History            time.Duration // how long a line stays of a message that is gone
	HistoryMaxSize     int64         // octets that all those lines take; 0: no limit
	DelayWarning       time.Duration // when the sender of a message that waits is told, once; 0: never
	Postmaster         envelope.Path // who gets reports that cannot be delivered; null: nobody
}

// verdict is what an attempt made of a message.
type verdict struct {
	record *record
	events []Event
	// The recipients that took part, by what became of them, as indexes into the record's.
	delivered, deferred, failed []int
	// replies has what the peer said of each, words what is to be told; expired are those of failed that were given up.
	replies map[int]envelope.Reply
	words   map[int]string
	expired map[int]bool
	// local are those whose reply is the relay's own; doubtful says that the last attempt may have delivered.
	local    map[int]bool
	doubtful bool
	content  map[int]bool // of failed, those for whom the message itself was refused
	late     map[int]bool // of deferred, those that have waited for the delay warning between answers
	told     map[int]bool // of failed, those of whom somebody is told
	// cut has the replies as they are stored, each once: many recipients get the same.
	cut map[string]string
}

// kept returns what is stored of a reply.
func (v *verdict) kept(reply string) string {
	short, ok := v.cut[reply]
	if !ok {
		short = clip(reply, queuedLimits().words)
		v.cut[reply] = short
	}
	return short
}

// settle applies an attempt to a copy of r: indexes are the recipients that took part, in the order of the attempt's
// results. It is pure but for the jitter of the retry time.
func settle(r *record, indexes []int, a envelope.Attempt, p Policy, now time.Time) verdict {
	v := verdict{record: r.clone(), replies: make(map[int]envelope.Reply), words: make(map[int]string),
		expired: make(map[int]bool), local: make(map[int]bool), content: make(map[int]bool), late: make(map[int]bool),
		cut: make(map[string]string), doubtful: a.PossibleDuplicate}
	v.record.Attempts++
	v.record.Smarthost = a.Host
	jitter := rand.Float64() // one for all: those that were deferred together are tried together
	for i, n := range indexes {
		res := resultOf(a, i)
		state := &v.record.Recipients[n]
		state.Attempts++
		state.Next, state.Route = time.Time{}, ""
		switch {
		case res.Failure == nil:
			state.Status, state.LastReply = StatusDelivered, res.Reply.String()
			v.delivered, v.replies[n] = append(v.delivered, n), res.Reply
		case v.giveUp(n, res.Failure, a.PossibleDuplicate, p):
			state.Status = StatusFailed
			v.failed, v.replies[n], v.local[n] = append(v.failed, n), res.Failure.Reply, res.Failure.Local
			v.content[n] = res.Failure.Scope == envelope.ScopeMessage
		default:
			pause := min(backoff(state.Attempts, p.RetryMin, p.RetryMax, jitter), max(p.RetryMin, p.MaxAge-state.Waited))
			state.Next = now.Add(pause)
			v.late[n] = p.DelayWarning > 0 && state.Waited >= p.DelayWarning
			state.Waited += pause
			v.deferred, v.replies[n] = append(v.deferred, n), res.Failure.Reply
		}
		v.words[n] = state.LastReply
		state.LastReply = v.kept(state.LastReply)
		if res.Failure != nil {
			v.record.LastError = state.LastReply
		}
	}
	v.note("delivered", v.delivered, a.Host, now)
	v.note("deferred", v.deferred, a.Host, now)
	v.note("failed", v.failed, a.Host, now)
	return v
}

// maxDoubts is how many attempts a recipient may have whose connection broke after the final dot. Each may have delivered
// the message; a host that breaks every time must not deliver it every time. It counts for each recipient, since those of a
// message that goes in parts have had an attempt each, and not all of them.
const maxDoubts = 5

// giveUp reports whether recipient n has failed for good, and sets its last reply to say why.
func (v *verdict) giveUp(n int, f *envelope.Failure, doubtful bool, p Policy) bool {
	state := &v.record.Recipients[n]
	state.LastReply = f.String()
	if doubtful {
		state.Doubts++
	}
	switch {
	case f.Permanent:
		return true
	case doubtful && state.Doubts >= maxDoubts:
		state.LastReply = fmt.Sprintf("given up after %d attempts, each of which may have delivered it: %s", state.Doubts, state.LastReply)
		return true
	case state.Waited >= p.MaxAge:
		v.expired[n] = true
		state.LastReply = fmt.Sprintf("given up after trying for %s; the last answer was: %s", state.Waited.Round(time.Second), state.LastReply)
		return true
	}
	return false
}

// maxPanics is how many attempts a fault in the relay may end before the message is held for a person to look at.
const maxPanics = 3

// isolate counts an attempt that ended in a panic, and holds the message that causes it again and again, so that it
// takes no more of the daemon's time than it must.
func (v *verdict) isolate(now time.Time) {
	v.record.Panics++
	if _, waits := v.record.next(); !waits || v.record.Panics < maxPanics {
		return
	}
	v.record.Held, v.record.Panics = true, 0
	v.record.note(Event{At: now, What: "held", Words: "its handling failed several times by a fault in the relay"})
}

// eventsPerStep is how many events of one attempt a record keeps of those that differ in words alone.
const eventsPerStep = 3

// note makes events of what became of recipients, one for those that got the same words, so that a message to many
// does not make an event for each. The record keeps few of them.
func (v *verdict) note(what string, recipients []int, host string, now time.Time) {
	at := make(map[string]int)
	var events []Event
	for _, n := range recipients {
		w := v.kept(v.words[n])
		i, ok := at[w]
		if !ok {
			i = len(events)
			at[w] = i
			events = append(events, Event{At: now, What: what, Host: host, Words: w})
		}
		events[i].Recipients = append(events[i].Recipients, string(v.record.Envelope.Recipients[n].Path))
	}
	v.events = append(v.events, events...)
	if len(events) > eventsPerStep {
		rest := events[eventsPerStep-1]
		for _, e := range events[eventsPerStep:] {
			rest.More += len(e.Recipients)
		}
		rest.Words = "several answers, such as: " + rest.Words
		events = append(slices.Clone(events[:eventsPerStep-1]), rest)
	}
	for _, e := range events {
		v.record.note(e)
	}
}

// resultOf returns the i-th result of a; a transport that gave too few has not spoken for the rest, and they wait.
func resultOf(a envelope.Attempt, i int) envelope.Result {
	if i < len(a.Results) {
		return a.Results[i]
	}
	return envelope.Result{Failure: &envelope.Failure{Scope: envelope.ScopeMessage, Reason: "the transport gave no result"}}
}
