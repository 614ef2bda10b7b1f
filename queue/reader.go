package queue

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Reader looks at a queue whose daemon is not running. It changes nothing, and holds a lock that keeps a daemon from
// starting while it is open.
type Reader struct {
	lock  *os.File // see lockQueue
	store *store
	spool spool
}

// OpenReadOnly opens the queue in dir to look at it. The error is ErrLocked when a daemon has it.
func OpenReadOnly(dir string) (*Reader, error) {
	lock, err := lockQueue(dir, false)
	if err != nil {
		return nil, err
	}
	st, err := openStoreReadOnly(dir)
	if err != nil {
		return nil, errors.Join(err, unlockQueue(lock))
	}
	return &Reader{lock: lock, store: st, spool: spool{filepath.Join(dir, "spool")}}, nil
}

func (r *Reader) read(f func(*store) error) error { return f(r.store) }

// Close ends the look.
func (r *Reader) Close() error { return errors.Join(r.store.close(), unlockQueue(r.lock)) }

// List is Queue.List.
func (r *Reader) List(after string, limit int) (entries []Entry, next string, err error) {
	return list(r.read, after, limit, time.Now())
}

// Show is Queue.Show.
func (r *Reader) Show(id string) (Detail, error) { return show(r.read, id, time.Now()) }

// Body is Queue.Body.
func (r *Reader) Body(id string) (io.ReadCloser, error) { return openBody(r.read, r.spool, id) }

// Undeliverable is Queue.Undeliverable.
func (r *Reader) Undeliverable() ([]string, error) {
	var ids []ID
	_, err := r.store.slots(func(sl slot) {
		if sl.Due == undeliverableDue {
			ids = append(ids, sl.ID)
		}
	})
	slices.Sort(ids)
	return names(ids), err
}

// Counts is Queue.Counts. Nothing is being delivered, so what is due counts as active: it will be at the next start.
func (r *Reader) Counts() (Counts, error) {
	var c Counts
	now := time.Now()
	_, err := r.store.slots(func(sl slot) {
		c.Bytes += sl.Size
		switch {
		case sl.Due == undeliverableDue:
			c.Held++
			c.Unreported++
		case sl.Due == heldDue:
			c.Held++
		case sl.Due <= now.UnixNano():
			c.Active++
		default:
			c.Deferred++
		}
	})
	if err != nil {
		return c, err
	}
	if c.Quarantined, err = r.store.quarantined(); err != nil {
		return c, err
	}
	return c, r.store.countOldest(&c, now)
}
