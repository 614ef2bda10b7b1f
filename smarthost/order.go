package smarthost

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// order is what is known of how a host keeps commands and replies in step when the envelope of a message travels behind
// the body of the one before it. A host that does not is used in lock-step from then on, until the relay is restarted.
type order struct {
	// proven is set once such an envelope was answered as it should be, strict once one was not.
	proven, strict atomic.Bool
	// hangups counts the connections that ended where the first replies were due.
	hangups atomic.Int32
}

const (
	// unprovenPatience is how long an envelope behind a body is waited for at a host that never answered one: hosts that
	// throw away what comes with a body do not answer at all.
	unprovenPatience = time.Minute
	// maxHangups is how many connections may end instead; hosts with a limit of messages for each do that too.
	maxHangups = 2
)

// outOfStep reports whether the replies that t had, or err, show a host that cannot take the body of one message and the
// envelope of the next as one group. Neither message has been accepted then.
func (t *transaction) outOfStep(err error) bool {
	switch {
	case t.led && complainsOfOrder(t.dot):
		return true
	case !t.behind || t.dotSent:
		return false
	case err == nil:
		return complainsOfOrder(t.mail) || t.mail.Positive() && (t.anyRcpt(complainsOfOrder) || t.accepted > 0 && complainsOfOrder(t.data))
	}
	failed, _ := errors.AsType[*stageError](err)
	switch {
	case failed == nil || t.unwritten != nil || failed.reply.Code == 421:
		return false
	case !failed.reply.IsZero(): // positive, to another command
		return true
	}
	if _, garbage := errors.AsType[*notSMTPError](err); garbage {
		return true
	}
	return !t.c.order.proven.Load() && t.mail.IsZero() && (isTimeout(err) || isLost(err) && t.c.order.hangups.Add(1) >= maxHangups)
}

// complainsOfOrder reports whether a reply refuses the order of commands and not what they say.
func complainsOfOrder(r envelope.Reply) bool {
	if r.Code == 500 || r.Code == 503 {
		return true
	}
	text := strings.ToLower(r.Text)
	return r.Code >= 400 && (strings.Contains(text, "synchroni") || strings.Contains(text, "pipelin"))
}

func (t *transaction) anyRcpt(f func(envelope.Reply) bool) bool {
	for _, r := range t.replies {
		if f(r) {
			return true
		}
	}
	return false
}
