package smarthost

import (
	"errors"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// order is what is known of how a host keeps commands and replies in step when the envelope of a message travels behind
// the body of the one before it. A host that does not is used in lock-step from then on, until its greeting changes or
// what is known of it is old.
type order struct {
	banner string
	// tried is set once the host answered a harmless group well, proven once it answered such an envelope as it should,
	// and strict once it is used in lock-step.
	tried, proven, strict atomic.Bool
	// doubts counts what may be a sign of disorder, and may be chance.
	doubts atomic.Int32
}

const (
	// unprovenPatience is how long a host that never answered pipelined commands may take for each but the first: hosts
	// that throw away what comes with a body do not answer at all.
	unprovenPatience = 5 * time.Second
	// maxDoubts is how many doubts end the trial.
	maxDoubts = 2
)

// doubt is a refusal that a message met at a host that may not have kept step. It is not believed: the message goes there
// again, by itself, and what is said then counts.
type doubt struct {
	host  *host
	reply envelope.Reply
}

// evidence is what the replies to a transaction say of the host's keeping in step.
type evidence uint8

const (
	noDisorder evidence = iota
	// perhaps: connections also end, and mail is also refused, for other reasons.
	perhaps
	disorder
)

// heed draws the conclusions for the order of commands at this host from what tx, which ended with err, was answered. It
// reports whether w is to be handed on again without another's envelope or body beside it, because the refusal that it
// met may not have been meant for it. The host has not accepted the message then.
func (h *host) heed(w *work, tx *transaction, err error, stopped bool) (again bool) {
	switch tx.evidence(err, stopped) {
	case disorder:
		h.distrust(tx.c, w.m.ID, tx.refusal(), err)
		if err == nil {
			tx.c.spent = true
			return true
		}
	case perhaps:
		h.mistrust(tx.c, w.m.ID, tx.refusal(), err)
	}
	switch {
	case w.doubt.host == h:
		if tx.dot.Positive() {
			if w.doubt.reply.Permanent() { // what was refused for now may well be taken a moment later
				h.mistrust(tx.c, w.m.ID, w.doubt.reply, nil)
			}
			w.doubt = doubt{}
		}
	case err == nil && !tx.c.order.proven.Load() && tx.refusedInCompany():
		w.doubt = doubt{h, tx.refusal()}
		return true
	}
	return false
}

// mistrust counts a doubt.
func (h *host) mistrust(c *conn, id string, reply envelope.Reply, err error) {
	if c.order.doubts.Add(1) >= maxDoubts {
		h.distrust(c, id, reply, err)
	}
}

// distrust uses the host in lock-step from now on.
func (h *host) distrust(c *conn, id string, reply envelope.Reply, err error) {
	if c.order.strict.Swap(true) {
		return
	}
	h.remember(c.order)
	said := reply.String()
	if err != nil {
		said = err.Error()
	}
	h.log.Warn("the host offers PIPELINING and answers out of step; it is used in lock-step from now on", "queue_id", id, "reply", said)
}

// follower returns the transaction that may begin behind the body on c, or nil.
func (h *host) follower(c *conn) *transaction {
	if c.order.strict.Load() || !c.order.tried.Load() {
		return nil
	}
	return h.pool.follower(c)
}

// evidence returns what the replies that t had, and err, say. With stopped, the relay itself ended the waiting for them.
func (t *transaction) evidence(err error, stopped bool) evidence {
	failed, _ := errors.AsType[*stageError](err)
	_, garbage := errors.AsType[*notSMTPError](err)
	waiting := t.next != nil && t.dotSent || t.behind && t.data.IsZero()
	switch {
	case t.next != nil && t.complains(stageDot, t.dot) || t.behind && !t.dotSent && t.confused():
		return disorder
	case !waiting || failed == nil || t.unwritten != nil || failed.reply.Code == 421:
		return noDisorder
	case !failed.reply.IsZero() || garbage: // a reply that this command cannot have
		return disorder
	case stopped || t.c.order.proven.Load():
		return noDisorder
	case isTimeout(err):
		return disorder
	case isLost(err) && t.dotSent: // a second one would perhaps be delivered twice as well
		return disorder
	case isLost(err) && !t.mail.Positive():
		return perhaps
	}
	return noDisorder
}

// confused reports whether the replies to an envelope show that the host took its commands for something else, or that
// they are the replies to something else.
func (t *transaction) confused() bool {
	if !t.mail.Positive() { // or not answered
		return t.complains(stageMail, t.mail) || t.accepted > 0 || t.data.Code == 354
	}
	for _, r := range t.replies {
		if t.complains(stageRcpt, r) {
			return true
		}
	}
	return t.accepted > 0 && t.complains(stageData, t.data)
}

// confusedByOther reports whether the host confused the envelope with that of another message on the same connection. The
// body was not sent then.
func (t *transaction) confusedByOther() bool {
	return (t.behind || t.c.uses > 0) && !t.dotSent && t.confused()
}

// refusedInCompany reports whether the host refused t while its envelope or body travelled with another's.
func (t *transaction) refusedInCompany() bool {
	return t.next != nil && !t.dot.IsZero() && !t.dot.Positive() || t.behind && !t.dotSent
}

// refusal returns the reply to the dot if that is a refusal, or else the first reply that is one, if any.
func (t *transaction) refusal() envelope.Reply {
	for _, r := range append([]envelope.Reply{t.dot, t.mail}, append(t.replies, t.data)...) {
		if !r.IsZero() && !r.Positive() {
			return r
		}
	}
	return envelope.Reply{}
}

// complains reports whether a reply to t refuses the order of commands and not what they say.
func (t *transaction) complains(stage string, r envelope.Reply) bool {
	return complainsOfOrder(t.place, stage, r)
}

func complainsOfOrder(p place, stage string, r envelope.Reply) bool {
	if r.Code == 500 || r.Code == 503 {
		return true
	}
	s := p.saying(stage, r)
	return r.Code >= 400 && (s.has("pipelining") || s.has("synchronization error") || s.has("synchronisation error"))
}
