package relay

import (
	"strings"
	"sync/atomic"

	"relayd/internal/envelope"
)

// What waits in memory of a message that is not in the queue yet are its recipients, up to max_recipients of them in each
// of max_connections sessions: a gigabyte, if clients want it. So each transaction has room of its own, which is plenty for
// what people send, and longer lists share one pool. Who finds that empty is asked to send what was taken, and the others
// afterwards.

// room is the pool.
type room struct {
	most int64
	used atomic.Int64
}

// take takes n octets out of the pool, if they are there.
func (r *room) take(n int64) bool {
	if r.used.Add(n) > r.most {
		r.used.Add(-n)
		return false
	}
	return true
}

func (r *room) give(n int64) { r.used.Add(-n) }

// hold makes room for a recipient in the transaction. It returns false when there is none.
func (s *session) hold(r envelope.Recipient) bool {
	srv := s.guard.peer.srv
	held := s.held + recipientRoom + 2*int64(len(r.Path)+len(r.ORcpt))
	if more := held - srv.tune.ownRoom - s.borrowed; more > 0 {
		if !srv.room.take(more) {
			return false
		}
		s.borrowed += more
	}
	s.offeredRoom = held // what the library refuses after all is not held
	return true
}

// letGo gives back what the transaction's recipients took.
func (s *session) letGo() {
	s.guard.peer.srv.room.give(s.borrowed)
	s.held, s.offeredRoom, s.borrowed = 0, 0, 0
}

// recipientRoom is what a recipient takes in memory beside its words, in octets, about; those are there twice, since the
// library keeps the line that it got.
const recipientRoom = 200

// canonical returns the RCPT command for a recipient. What it holds in memory is its own: a line as it came may have 4 KiB,
// for an address of ten octets that would keep all of it.
func canonical(r envelope.Recipient) string {
	var b strings.Builder
	b.WriteString("RCPT TO:" + r.Path.String())
	if r.Notify != 0 {
		b.WriteString(" NOTIFY=" + r.Notify.String())
	}
	if r.ORcpt != "" {
		b.WriteString(" ORCPT=" + r.ORcpt)
	}
	return b.String()
}
