package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store is the seam to bbolt: records and content in, records and content out, one commit. Nothing outside this
// file knows a bucket or a transaction. Envelopes, content and the due index are buckets of their own, so that
// neither a start nor a list reads content.
type store struct {
	db *bolt.DB
	// around, when it is set, does each commit; the tests' disks fail there.
	around func(commit func() error) error
}

// change is what one step does to one message. A commit applies many of them or none.
type change struct {
	id      ID
	put     *record // written when set
	body    []byte  // inline content of a new message
	oldSlot slot    // leaves the due index when hasOld
	newSlot slot    // enters it when hasNew
	hasOld  bool
	hasNew  bool
	remove  bool    // the record and its content go
	history *record // the line of history that stays
	// quarantine sets the stored record aside as it is, for a person to look at.
	quarantine string
	// prune removes lines of history whose message was settled before it, at most pruneLimit; pruned says how many.
	prune  time.Time
	pruned int

	putValue, historyValue []byte // put and history as they are stored
}

// size returns how many octets the change writes, about.
func (c *change) size() int { return 64 + len(c.putValue) + len(c.body) + len(c.historyValue) }

// encode prepares the change for the committer, so that the one goroutine that writes does nothing else.
func (c *change) encode() (err error) {
	if c.put != nil && c.putValue == nil {
		c.putValue, err = encodeRecord(c.put)
	}
	if err == nil && c.history != nil && c.historyValue == nil {
		c.historyValue, err = encodeRecord(c.history)
	}
	return err
}

// undo returns the change that removes what c, the intake of a new message, may have left.
func (c *change) undo() *change {
	return &change{id: c.id, oldSlot: c.newSlot, hasOld: c.hasNew, remove: true}
}

const (
	databaseName = "queue.db"
	markerName   = "FORMAT"
	markerText   = "relayd queue, format 1\n"
)

func bucketEnvelopes() []byte  { return []byte("envelopes") }
func bucketBodies() []byte     { return []byte("bodies") }
func bucketDue() []byte        { return []byte("due") }
func bucketHistory() []byte    { return []byte("history") }
func bucketQuarantine() []byte { return []byte("quarantine") }

func boltOptions() *bolt.Options {
	return &bolt.Options{
		// Without a timeout Open waits for ever for the lock of another process.
		Timeout:        100 * time.Millisecond,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		// A commit that must remap waits for open readers; address space is cheap.
		InitialMmapSize: 1 << 30,
		NoStatistics:    true,
	}
}

// openStore opens or creates the database in dir. A marker beside it tells a folder that was never used from one
// whose database was lost or emptied: bbolt would silently turn the latter into a new, empty queue.
func openStore(dir string) (*store, error) {
	path, marker := filepath.Join(dir, databaseName), filepath.Join(dir, markerName)
	used, err := checkMarker(marker)
	if err != nil {
		return nil, err
	}
	if used {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			return nil, fmt.Errorf("%s is missing or empty, though %s says that a queue was here; "+
				"put the database back, or remove %s to begin with an empty queue", path, marker, marker)
		}
	}
	if !used {
		if err := createDatabase(path); err != nil {
			return nil, err
		}
	}
	db, err := openBolt(path, boltOptions())
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEnvelopes(), bucketBodies(), bucketDue(), bucketHistory(), bucketQuarantine()} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && !used {
		err = writeFileSync(marker, []byte(markerText))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare %s: %w", path, err), db.Close())
	}
	return &store{db: db}, nil
}

// openStoreReadOnly opens the database of a queue that no daemon holds.
func openStoreReadOnly(dir string) (*store, error) {
	path := filepath.Join(dir, databaseName)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	opts := boltOptions()
	opts.ReadOnly = true
	opts.InitialMmapSize = 0
	db, err := openBolt(path, opts)
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketQuarantine()) == nil { // the last one that a first start makes
			return fmt.Errorf("%s was never finished; start relayd once", path)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &store{db: db}, nil
}

// createDatabase makes an empty database under another name first, so that a start that ends in the middle leaves none
// that cannot be opened. One that is there stays. Its name is safe before the marker's, which says that there is one.
func createDatabase(path string) error {
	next := path + ".new"
	if _, err := os.Lstat(path); err == nil {
		return syncDir(filepath.Dir(path))
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(next, boltOptions())
	if err != nil {
		return err
	}
	if err := errors.Join(db.Close(), os.Rename(next, path)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func openBolt(path string, opts *bolt.Options) (db *bolt.DB, err error) {
	// bbolt panics on some damaged files; the person who started the daemon needs an error.
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%s is damaged: %v", path, p)
		}
	}()
	db, err = bolt.Open(path, 0o600, opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s is locked; stop that one, or set another data_dir", ErrLocked, path)
	case err != nil:
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return db, nil
}

func checkMarker(path string) (used bool, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case errors.Is(err, os.ErrPermission):
		return false, fmt.Errorf("%w; the folder belongs to another user: give it to the one that relayd runs as, with chown -R", err)
	case err != nil:
		return false, err
	case string(text) != markerText:
		return false, fmt.Errorf("%s says %q; this version reads only %q; install the relayd that wrote it", path, text, markerText)
	}
	return true, nil
}

func (s *store) close() error { return s.db.Close() }

// commit applies all changes in one durable transaction. After an error nothing is known of them: bbolt may fail
// on the second of its two syncs and the data be there all the same.
func (s *store) commit(changes []*change) error {
	if s.around != nil {
		return s.around(func() error { return s.update(changes) })
	}
	return s.update(changes)
}

func (s *store) update(changes []*change) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b := openBuckets(tx)
		for _, c := range changes {
			if err := b.apply(c); err != nil {
				return fmt.Errorf("%s: %w", c.id, err)
			}
		}
		return nil
	})
}

type buckets struct {
	envelopes, bodies, due, history, quarantine *bolt.Bucket
}

func openBuckets(tx *bolt.Tx) buckets {
	return buckets{tx.Bucket(bucketEnvelopes()), tx.Bucket(bucketBodies()), tx.Bucket(bucketDue()),
		tx.Bucket(bucketHistory()), tx.Bucket(bucketQuarantine())}
}

func (b buckets) apply(c *change) error {
	key := idKey(c.id)
	if c.hasOld && (!c.hasNew || c.oldSlot != c.newSlot) {
		if err := b.due.Delete(c.oldSlot.key()); err != nil {
			return err
		}
	}
	if c.hasNew && (!c.hasOld || c.oldSlot != c.newSlot) {
		if err := b.due.Put(c.newSlot.key(), c.newSlot.value()); err != nil {
			return err
		}
	}
	if c.quarantine != "" {
		return b.setAside(key, c.quarantine)
	}
	if !c.prune.IsZero() {
		var err error
		c.pruned, err = b.pruneHistory(c.prune)
		return err
	}
	if c.putValue != nil {
		if err := b.envelopes.Put(key, c.putValue); err != nil {
			return err
		}
	}
	if c.body != nil {
		if err := b.bodies.Put(key, c.body); err != nil {
			return err
		}
	}
	if c.historyValue != nil {
		if err := b.history.Put(key, c.historyValue); err != nil {
			return err
		}
	}
	if c.remove {
		return errors.Join(b.envelopes.Delete(key), b.bodies.Delete(key))
	}
	return nil
}

func (b buckets) setAside(key []byte, why string) error {
	// What a Get returned may not be handed to Put while the bucket changes beneath it.
	old := append([]byte(nil), b.envelopes.Get(key)...)
	if old == nil && b.quarantine.Get(key) != nil {
		return nil // applied before, in a commit that said it had failed
	}
	v := binary.BigEndian.AppendUint16(nil, uint16(len(why)))
	v = append(append(v, why...), old...)
	if err := b.quarantine.Put(key, v); err != nil {
		return err
	}
	return b.envelopes.Delete(key) // its content stays in bodies or in the spool
}

// record returns the record of a queued message, or ErrNotFound, or an error that is errDamaged.
func (s *store) record(id ID) (r *record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketEnvelopes()).Get(idKey(id))
		if v == nil {
			return ErrNotFound
		}
		r, err = decodeRecord(id, v)
		return err
	})
	return r, err
}

// history returns the line of history of a message that left the queue, or ErrNotFound.
func (s *store) history(id ID) (r *record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketHistory()).Get(idKey(id))
		if v == nil {
			return ErrNotFound
		}
		r, err = decodeRecord(id, v)
		return err
	})
	return r, err
}

// body returns a copy of the inline content of a message, or ErrNotFound.
func (s *store) body(id ID) (body []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketBodies()).Get(idKey(id))
		if v == nil {
			return ErrNotFound
		}
		body = bytes.Clone(v)
		return nil
	})
	return body, err
}

// slots calls f with every line of the due index that can be read, in order of time, and returns how many cannot.
func (s *store) slots(f func(slot)) (damaged int, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketDue()).ForEach(func(k, v []byte) error {
			sl, err := decodeSlot(k, v)
			if err != nil {
				damaged++
				return nil
			}
			f(sl)
			return nil
		})
	})
	return damaged, err
}

// page returns at most limit records with ids above after, and the last id it looked at. A record that cannot be
// read is left out.
func (s *store) page(after ID, limit int) (records []*record, last ID, err error) {
	last = after
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEnvelopes()).Cursor()
		for k, v := c.Seek(idKey(after + 1)); k != nil && len(records) < limit; k, v = c.Next() {
			last = ID(binary.BigEndian.Uint64(k))
			if r, err := decodeRecord(last, v); err == nil {
				records = append(records, r)
			}
		}
		return nil
	})
	return records, last, err
}

// list returns at most limit records (all for limit <= 0) with ids above after, in transactions of a page each.
func (s *store) list(after ID, limit int) ([]*record, error) {
	const pageSize = 1000
	var all []*record
	for limit <= 0 || len(all) < limit {
		want := pageSize
		if limit > 0 {
			want = min(want, limit-len(all))
		}
		records, last, err := s.page(after, want)
		if err != nil {
			return nil, err
		}
		all = append(all, records...)
		if last == after {
			break
		}
		after = last
	}
	return all, nil
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

// last returns the highest id in the queue, or 0 when it is empty.
func (s *store) last() (id ID, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketEnvelopes()).Cursor().Last(); k != nil {
			id = ID(binary.BigEndian.Uint64(k))
		}
		return nil
	})
	return id, err
}

// queued reports whether a message's record is in the store.
func (s *store) queued(id ID) (found bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		found = tx.Bucket(bucketEnvelopes()).Get(idKey(id)) != nil
		return nil
	})
	return found, err
}

// has reports whether a message's record or quarantined record is in the store.
func (s *store) has(id ID) (found bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		found = tx.Bucket(bucketEnvelopes()).Get(idKey(id)) != nil || tx.Bucket(bucketQuarantine()).Get(idKey(id)) != nil
		return nil
	})
	return found, err
}

// quarantined counts the records that were set aside.
func (s *store) quarantined() (n int, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketQuarantine()).Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			n++
		}
		return nil
	})
	return n, err
}

// pruneLimit is how many lines of history one commit removes.
const pruneLimit = 500

// pruneHistory removes lines of history whose message was received and settled before t, the oldest ids first, and
// returns how many it removed.
func (b buckets) pruneHistory(t time.Time) (int, error) {
	var old [][]byte
	c := b.history.Cursor()
	for k, v := c.First(); k != nil && len(old) < pruneLimit; k, v = c.Next() {
		r, err := decodeRecord(0, v)
		if err == nil && !r.ReceivedAt.Before(t) {
			break
		}
		if err != nil || len(r.Events) == 0 || r.Events[len(r.Events)-1].At.Before(t) {
			old = append(old, bytes.Clone(k))
		}
	}
	for _, k := range old {
		if err := b.history.Delete(k); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}
