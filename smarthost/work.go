package smarthost

import (
	"time"

	"relayd/internal/envelope"
)

// work is one Deliver: a message, and what was decided so far for each of its recipients. What one host leaves undecided
// the next one gets.
type work struct {
	m       envelope.Message
	results []envelope.Result
	settled []bool
	left    int
	// host gave the last outcome; dsn says that it offers DSN.
	host      string
	dsn       bool
	duplicate bool
	tried     bool    // its envelope was sent for a trial of the host's pipelining
	amid      bool    // a host failed in the midst of its transaction
	cutBy     []*host // those of them that may be probed at once
	eight     eightBit
	doubt     doubt
	// transactions counts those to which a host said anything; slower is set when one asked for less mail.
	transactions int
	slower       bool
	// asked is the host that was asked for its SIZE once more.
	asked *host
	// ours is what hosts have been told of the message.
	ours contribution
}

func newWork(m envelope.Message) *work {
	n := len(m.Envelope.Recipients)
	w := &work{m: m, results: make([]envelope.Result, n), settled: make([]bool, n), left: n}
	w.ours.m = &w.m
	return w
}

// place returns h's place for the replies to w.
func (w *work) place(h *host) place {
	p := h.place
	w.ours.hostname, w.ours.username = h.endpoint.hostname, p.username
	p.ours = &w.ours
	return p
}

// pending returns the indexes of the recipients that are not decided.
func (w *work) pending() []int {
	out := make([]int, 0, w.left)
	for i, done := range w.settled {
		if !done {
			out = append(out, i)
		}
	}
	return out
}

func (w *work) set(i int, r envelope.Result) {
	if !w.settled[i] {
		w.settled[i], w.results[i] = true, r
		w.left--
	}
}

func (w *work) fail(i int, f envelope.Failure) { w.set(i, envelope.Result{Failure: &f}) }

// settleRest decides all recipients that are left.
func (w *work) settleRest(f envelope.Failure) {
	for i := range w.results {
		w.fail(i, f)
	}
}

// settle decides what the replies of tx decide. It returns the site's failure if one of them is that, and whether any
// recipient was decided by more than the lack of room for it.
func (w *work) settle(tx *transaction) (site *verdict, progress bool) {
	p := tx.place
	if !tx.mail.Positive() {
		v := classifyReply(p, stageMail, tx.mail)
		if v.Scope == envelope.ScopeSite {
			return &v, false
		}
		w.settleRest(v.Failure)
		return nil, true
	}
	if tx.accepted > 0 {
		progress = true
		site = w.settleBody(tx)
	}
	var full *verdict
	for i, reply := range tx.replies {
		if reply.IsZero() || reply.Positive() {
			continue
		}
		v := classifyReply(p, stageRcpt, reply)
		switch {
		case v.Scope == envelope.ScopeSite:
			site = &v
		case v.rest:
			full = &v
		default:
			w.fail(tx.rcpts[i], v.Failure)
		}
	}
	if full != nil && tx.accepted == 0 && site == nil {
		// Not even one has room: another transaction at once would fare no better.
		w.settleRest(full.Failure)
	}
	return site, progress
}

// settleBody decides the recipients that were accepted, by the reply to DATA or to the final dot.
func (w *work) settleBody(tx *transaction) *verdict {
	stage, reply := stageData, tx.data
	if !tx.dot.IsZero() {
		stage, reply = stageDot, tx.dot
	}
	var v verdict
	if delivered := stage == stageDot && reply.Positive(); !delivered {
		if v = classifyReply(tx.place, stage, reply); v.Scope == envelope.ScopeSite {
			return &v
		}
	}
	for i, r := range tx.replies {
		switch {
		case !r.Positive():
		case v.Stage == "":
			w.set(tx.rcpts[i], envelope.Result{Reply: reply})
		default:
			w.fail(tx.rcpts[i], v.Failure)
		}
	}
	return nil
}

// settleTransaction decides all recipients of a transaction that an error ended: those that were refused by their
// replies, the others by f.
func (w *work) settleTransaction(tx *transaction, f envelope.Failure) {
	for i, reply := range tx.replies {
		if reply.IsZero() || reply.Positive() {
			w.fail(tx.rcpts[i], f)
		} else {
			w.fail(tx.rcpts[i], classifyReply(tx.place, stageRcpt, reply).Failure)
		}
	}
}

// attempt returns what the work came to. Where the site's failure f left every recipient undecided, the attempt is the
// site's and nothing is spent; where it left some, those have it as their result.
func (w *work) attempt(f envelope.Failure, retryAt time.Time) envelope.Attempt {
	if w.left == len(w.results) {
		return envelope.Attempt{Host: w.host, Site: &f, RetryAt: retryAt, Amid: w.amid}
	}
	w.settleRest(f)
	return envelope.Attempt{Host: w.host, Results: w.results, PossibleDuplicate: w.duplicate, DSNOffered: w.dsn}
}
