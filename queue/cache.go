package queue

import "sync/atomic"

// cacheLimit bounds the content that is kept in memory between intake and the first attempt, in octets.
const cacheLimit = 8 << 20

// cache keeps what has just been stored, so that a message that can be delivered at once is not read back.
type cache struct{ used atomic.Int64 }

// cached is a record and its inline content; body is nil when that is in the spool.
type cached struct {
	record *record
	body   []byte
	size   int64 // octets of memory, about
}

// cachedRecipient is what a recipient of a record takes in memory beside its words, in octets, about.
const cachedRecipient = 256

// keep returns r and body as a cached pair, or nil when there is no room.
func (c *cache) keep(r *record, body []byte) *cached {
	e := &cached{record: r, body: body, size: 1024 + int64(cap(body))}
	for _, rcpt := range r.Envelope.Recipients {
		e.size += cachedRecipient + int64(len(rcpt.Path)+len(rcpt.ORcpt))
	}
	if c.used.Add(e.size) > cacheLimit {
		c.drop(e)
		return nil
	}
	return e
}

func (c *cache) drop(e *cached) { c.used.Add(-e.size) }
