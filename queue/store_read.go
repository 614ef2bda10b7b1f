package queue

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// How what is stored is read, through the layers that the database does not have yet.

// value returns what a bucket holds for a message, or ErrNotFound. It is not to be changed.
func (s *store) value(id ID, bucket []byte, of func(*layer) map[ID]pending) (value []byte, err error) {
	s.mu.RLock()
	known := s.layers(func(l *layer) bool {
		p, ok := of(l)[id]
		value = p.value
		return ok
	})
	s.mu.RUnlock()
	if !known {
		// What leaves a layer meanwhile is in the database by then.
		err = s.view(func(tx *bolt.Tx) error {
			if b := tx.Bucket(bucket); b != nil {
				value = bytes.Clone(b.Get(idKey(id)))
			}
			return nil
		})
	}
	if err == nil && value == nil {
		err = ErrNotFound
	}
	return value, err
}

func (l *layer) ofEnvelopes() map[ID]pending { return l.envelopes }
func (l *layer) ofBodies() map[ID]pending    { return l.bodies }
func (l *layer) ofHistory() map[ID]pending   { return l.history }

// record returns the record of a queued message, or ErrNotFound, or an error that is errDamaged.
func (s *store) record(id ID) (*record, error) {
	v, err := s.value(id, bucketEnvelopes(), (*layer).ofEnvelopes)
	if err != nil {
		return nil, err
	}
	return decodeRecord(id, v)
}

// history returns the line of history of a message that left the queue, or ErrNotFound.
func (s *store) history(id ID) (*record, error) {
	v, err := s.value(id, bucketHistory(), (*layer).ofHistory)
	if err != nil {
		return nil, err
	}
	return decodeRecord(id, v)
}

// body returns the inline content of a message, which is not to be changed, or ErrNotFound.
func (s *store) body(id ID) ([]byte, error) {
	return s.value(id, bucketBodies(), (*layer).ofBodies)
}

// slots calls f with every line of the due index that can be read, and returns how many cannot. Those that the database
// has come first, in order of time.
func (s *store) slots(f func(slot)) (damaged int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	see := func(k, v []byte) {
		if sl, err := decodeSlot(k, v); err == nil {
			f(sl)
		} else {
			damaged++
		}
	}
	err = s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketDue()).ForEach(func(k, v []byte) error {
			if len(k) != slotKey || !s.layers(func(l *layer) bool { _, over := l.due[dueKey(k)]; return over }) {
				see(k, v)
			}
			return nil
		})
	})
	seen := make(map[dueKey]bool)
	s.layers(func(l *layer) bool {
		for k, p := range l.due {
			if !seen[k] && p.value != nil {
				see(k[:], p.value)
			}
			seen[k] = true
		}
		return false
	})
	return damaged, err
}

// pageOctets is how much memory a page of records takes, about, but for one record that is larger.
const pageOctets = 2 << 20

// page returns some records with ids above after, and the last id it looked at: after itself behind the last record. They
// are at most limit (as many as there are for limit <= 0), and fewer when these would be more than pageOctets. A record that cannot be read is left out.
func (s *store) page(after ID, limit int) (records []*record, last ID, err error) {
	return s.pageOr(after, limit, func(ID, error) {})
}

// pageOr is page, and calls damaged with each record that cannot be read.
func (s *store) pageOr(after ID, limit int, damaged func(ID, error)) (records []*record, last ID, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	last = after
	over := s.pendingAfter(after)
	octets := 0
	see := func(id ID, v []byte) {
		last = id
		if r, err := decodeRecord(id, v); err == nil {
			records = append(records, r)
			octets += r.weight()
		} else {
			damaged(id, err)
		}
	}
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEnvelopes()).Cursor()
		k, v := c.Seek(idKey(after + 1))
		for (limit <= 0 || len(records) < limit) && octets < pageOctets && (k != nil || len(over) > 0) {
			id := ID(math.MaxUint64)
			if k != nil {
				id = ID(binary.BigEndian.Uint64(k))
			}
			if len(over) > 0 && over[0].id <= id {
				if over[0].id == id && k != nil {
					k, v = c.Next()
				}
				if over[0].value != nil {
					see(over[0].id, over[0].value)
				}
				over = over[1:]
				continue
			}
			see(id, v)
			k, v = c.Next()
		}
		return nil
	})
	return records, last, err
}

// anyAfter reports whether there is a record with an id above after.
func (s *store) anyAfter(after ID) (more bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	over := s.pendingAfter(after)
	gone := make(map[ID]bool)
	for _, e := range over {
		if e.value != nil {
			return true, nil
		}
		gone[e.id] = true
	}
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEnvelopes()).Cursor()
		for k, _ := c.Seek(idKey(after + 1)); k != nil && !more; k, _ = c.Next() {
			more = !gone[ID(binary.BigEndian.Uint64(k))]
		}
		return nil
	})
	return more, err
}

// envelopeOver is an envelope in the layers: what the database has for the id does not count.
type envelopeOver struct {
	id    ID
	value []byte
}

// pendingAfter returns the envelopes in the layers with ids above after, in order. s.mu is held.
func (s *store) pendingAfter(after ID) []envelopeOver {
	var over []envelopeOver
	seen := make(map[ID]bool)
	s.layers(func(l *layer) bool {
		for id, p := range l.envelopes {
			if id > after && !seen[id] {
				over = append(over, envelopeOver{id, p.value})
			}
			seen[id] = true
		}
		return false
	})
	slices.SortFunc(over, func(a, b envelopeOver) int { return cmp.Compare(a.id, b.id) })
	return over
}

// eachRecord calls f with every record in the queue and in its history that can be read. It is for a store at whose start
// everything was written to the database.
func (s *store) eachRecord(f func(*record)) error {
	return s.view(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEnvelopes(), bucketHistory()} {
			err := tx.Bucket(name).ForEach(func(k, v []byte) error {
				if r, err := decodeRecord(ID(binary.BigEndian.Uint64(k)), v); err == nil {
					f(r)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// countOldest sets c.Oldest from the lowest ids in the queue: the first of them may have come while the clock was ahead.
func (s *store) countOldest(c *Counts, now time.Time) error {
	const look = 16
	records, _, err := s.page(0, look)
	for _, r := range records {
		if c.Oldest.IsZero() || r.ReceivedAt.Before(c.Oldest) {
			c.Oldest = r.ReceivedAt
		}
	}
	if c.Oldest.After(now) {
		c.Oldest = now
	}
	return err
}

// last returns the highest id in the queue, or one above it that has left it not long ago, or 0.
func (s *store) last() (id ID, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.layers(func(l *layer) bool {
		for over := range l.envelopes {
			id = max(id, over)
		}
		return false
	})
	err = s.view(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketEnvelopes()).Cursor().Last(); k != nil {
			id = max(id, ID(binary.BigEndian.Uint64(k)))
		}
		return nil
	})
	return id, err
}

// queued reports whether a message's record is in the store.
func (s *store) queued(id ID) (bool, error) {
	_, err := s.value(id, bucketEnvelopes(), (*layer).ofEnvelopes)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// has reports whether a message's record or quarantined record is in the store.
func (s *store) has(id ID) (bool, error) {
	found, err := s.queued(id)
	if err != nil || found {
		return found, err
	}
	err = s.view(func(tx *bolt.Tx) error {
		found = tx.Bucket(bucketQuarantine()).Get(idKey(id)) != nil
		return nil
	})
	return found, err
}

// quarantined counts the records that were set aside.
func (s *store) quarantined() (n int, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketQuarantine()).Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			n++
		}
		return nil
	})
	return n, err
}
