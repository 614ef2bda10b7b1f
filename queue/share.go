package queue

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"relayd/internal/envelope"
)

// shares bounds what one client may have of max_messages and max_bytes: as much as is still free. So a client that is alone
// may fill half of the queue, and finds others there before it has filled all of it. It counts by clientOf.
type shares struct {
	mu      sync.Mutex
	clients map[uint16]clientShare
	refused obstacle // the last one, for the operator
	at      time.Time
}

// clientShare is what a client has: messages, also those that are arriving, and octets of those that are queued, with their records.
type clientShare struct{ messages, bytes int64 }

// errShareUsed answers a client that has its share. Others are served.
var errShareUsed = fullError("this client has used up its share of the queue")

// clientOf returns the client that mail came from as a hash: an IPv4 address, or the IPv6 /64 that one machine can fill; 0
// is none. Clients of one hash share a share, which is rare. It is stored, as sourceOf is.
func clientOf(o envelope.Origin) uint16 {
	a := o.Addr.Unmap()
	if !a.IsValid() {
		return 0
	}
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		a = p.Addr()
	}
	return max(1, hash16(a.AsSlice()))
}

// count adds to what a client has.
func (s *shares) count(client uint16, messages, bytes int64) {
	if client == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.clients[client]
	h.messages, h.bytes = max(0, h.messages+messages), max(0, h.bytes+bytes)
	if h == (clientShare{}) {
		delete(s.clients, client)
		return
	}
	if s.clients == nil {
		s.clients = make(map[uint16]clientShare)
	}
	s.clients[client] = h
}

// full returns why a client may have no more, or nil. freeMessages and freeBytes are what is left of the limits for all,
// -1 where there is no limit.
func (s *shares) full(client uint16, from netip.Addr, freeMessages, freeBytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.clients[client]
	o := obstacle{name: "share", err: errShareUsed}
	switch {
	case freeMessages >= 0 && h.messages > 0 && h.messages >= freeMessages:
		o.words = fmt.Sprintf("%s is refused, and others are served: it has %d messages in the queue, and max_messages leaves %d",
			from, h.messages, freeMessages)
	case freeBytes >= 0 && h.bytes > 0 && h.bytes >= freeBytes:
		o.words = fmt.Sprintf("%s is refused, and others are served: it has %d octets in the queue, and max_bytes leaves %d",
			from, h.bytes, freeBytes)
	default:
		return nil
	}
	s.refused, s.at = o, time.Now()
	return o.err
}

// recent returns the client that was refused last, unless that is over.
func (s *shares) recent() []obstacle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() || time.Since(s.at) >= intakeCalm {
		return nil
	}
	return []obstacle{s.refused}
}

// shareUsed returns why a client is refused that others do not wait for, or nil.
func (q *Queue) shareUsed(o envelope.Origin) error {
	p := q.policy.Load()
	messages, bytes := int64(-1), int64(-1)
	if p.MaxMessages > 0 {
		messages = max(0, int64(p.MaxMessages)-q.total.Load()-q.pending.Load())
	}
	if p.MaxBytes > 0 {
		bytes = max(0, p.MaxBytes-q.bytes.Load()-q.records.Load())
	}
	err := q.shares.full(clientOf(o), o.Addr, messages, bytes)
	if err != nil {
		q.intakeLog.note(q, time.Now(), q.shares.recent()...)
	}
	return err
}

// arriving counts a message that begins to arrive (1), or that has arrived or was given up (-1).
func (q *Queue) arriving(client uint16, n int64) {
	q.pending.Add(n)
	q.shares.count(client, n, 0)
}
