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
}

func (c *cached) size() int64 { return int64(cap(c.body)) + 1024 }

// keep returns r and body as a cached pair, or nil when there is no room.
func (c *cache) keep(r *record, body []byte) *cached {
	e := &cached{record: r, body: body}
	if c.used.Add(e.size()) > cacheLimit {
		c.used.Add(-e.size())
		return nil
	}
	return e
}

func (c *cache) drop(e *cached) { c.used.Add(-e.size()) }
