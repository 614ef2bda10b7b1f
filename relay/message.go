package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"relayd/internal/envelope"
	"relayd/internal/smuggling"
)

// message is one message on its way into the queue. Once it is refused, for whatever reason, its writer is aborted
// and the rest of the body goes nowhere.
type message struct {
	scan scanner
	lag  lag   // of its client, for the body
	raw  int64 // octets declared by BDAT so far

	w       Writer
	maxSize int64
	maxHops int
	size    int64 // octets of content, without the trace header
	hops    hopCounter
	guard   smuggling.Guard

	refusal envelope.Reply // zero while there is none
	cause   error          // what the refusal does not say
	drained int64          // octets that came after it
	settled bool           // committed or aborted
}

func newMessage(w Writer, maxSize int64, maxHops int) *message {
	return &message{w: w, maxSize: maxSize, maxHops: maxHops}
}

// trace writes the Received field.
func (m *message) trace(env envelope.Envelope, o envelope.Origin, hostname string, state *tls.ConnectionState) {
	if _, err := m.w.Write(trace(env, o, hostname, m.w.ID(), state, time.Now())); err != nil {
		m.refuse(replyFor(err), err)
	}
}

// write takes content. A refusal is kept for the end.
func (m *message) write(p []byte) {
	if !m.refusal.IsZero() {
		m.drained += int64(len(p))
		return
	}
	if len(p) == 0 {
		return
	}
	m.size += int64(len(p))
	m.hops.scan(p)
	ambiguous := m.guard.Scan(p)
	switch {
	case ambiguous != nil:
		m.refuse(reply(550, 6, 0, ambiguous.Error()), nil)
	case m.size > m.maxSize:
		m.refuse(tooLarge(m.maxSize), nil)
	case m.hops.count > m.maxHops:
		m.refuse(reply(554, 4, 6, fmt.Sprintf("the message went through more than %d hosts: it is in a loop", m.maxHops)), nil)
	default:
		if _, err := m.w.Write(p); err != nil {
			m.refuse(replyFor(err), err)
		}
	}
}

func (m *message) refuse(r envelope.Reply, cause error) {
	m.refusal, m.cause = r, cause
	m.abort()
}

// commit makes a complete message durable and returns the reply to its end. The error is for the log, and nil where
// the reply says it all.
func (m *message) commit(ctx context.Context) (envelope.Reply, error) {
	if m.refusal.IsZero() {
		if err := m.w.Commit(ctx); err != nil {
			m.refuse(replyFor(err), err)
		}
	}
	if !m.refusal.IsZero() {
		return m.refusal, m.cause
	}
	m.settled = true
	return reply(250, 0, 0, "OK queued as "+m.w.ID()), nil
}

// abort gives the message up, unless it is settled.
func (m *message) abort() {
	if m.settled {
		return
	}
	m.settled = true
	_ = m.w.Abort() // nothing is lost by a failure here: the client still has the message
}
