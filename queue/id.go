package queue

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// ID names a message for as long as the queue or its history knows it. The upper 44 bits are the milliseconds since
// the epoch at which it was given out, so that ids sort by age; the lower 20 are random, so that a clock that was set
// back does not give out an id again.
type ID uint64

const (
	idAlphabet   = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's base 32: no I, L, O, U
	idLength     = 13
	idRandomBits = 20
)

var errBadID = errors.New("a queue id has 13 letters and digits, as in 3F8K2M0Q7XA1B")

// String returns the id as 13 letters and digits.
func (id ID) String() string {
	var b [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		b[i] = idAlphabet[id&31]
		id >>= 5
	}
	return string(b[:])
}

// idAt returns the lowest id that can have been given out at t.
func idAt(t time.Time) ID { return ID(t.UnixMilli()) << idRandomBits }

// time returns when the id was given out.
func (id ID) time() time.Time { return time.UnixMilli(int64(id >> idRandomBits)) }

// ParseID reads an id in either case.
func ParseID(s string) (ID, error) {
	if len(s) != idLength {
		return 0, errBadID
	}
	var id ID
	for i := range len(s) {
		d := strings.IndexByte(idAlphabet, upper(s[i]))
		if d < 0 || (i == 0 && d > 15) {
			return 0, errBadID
		}
		id = id<<5 | ID(d)
	}
	return id, nil
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}

// idSource gives out ids that rise, each at least one above the one before.
type idSource struct {
	mu   sync.Mutex
	last ID
}

// highest returns the last id that was given out.
func (s *idSource) highest() ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *idSource) next(now time.Time) ID {
	id := idAt(now) | ID(rand.Uint32N(1<<idRandomBits))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(id, s.last+1)
	return s.last
}
