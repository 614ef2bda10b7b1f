package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store is the seam to what is on disk: records and content in, records and content out, one commit. Nothing outside
// this file and its neighbours (layer.go, checkpoint.go, store_read.go; recover.go and compact.go for a store that is
// repaired) knows a bucket or a transaction. Envelopes, content and the due index are buckets of their own,
// so that neither a start nor a list reads content.
//
// A commit is durable once it is in the journal. It is then kept in memory too, in the active layer, which is written to
// the database, in the background and in one transaction, when it has grown or aged; a start writes what a crash has
// left in the journal. Whoever reads looks through the layers first, so that nobody else knows of all this.
type store struct {
	db       *bolt.DB
	journal  *journal // nil for one that is only read
	pageSize int64    // of the database, in octets
	missing  int      // commits in the journal that could not be read at the start

	commits sync.Mutex // held by a commit, and to rotate
	timer   *time.Timer
	closed  bool
	// written is closed when the frozen layer is in the database, or that failed. failing is called on the latter.
	written chan struct{}
	failing func()

	mu      sync.RWMutex // guards what follows
	active  *layer
	frozen  *layer // on its way to the database; nil when none is
	failure error  // of the journal or the database: nothing is known of what was being written

	// around, when it is set, does each append to the journal; the tests' disks fail there.
	around func(append func() error) error
}

// Bounds of a layer: it is written to the database when it has so many octets or so old changes, and commits wait for the
// one before it when it has layerMax.
const (
	layerSize = 4 << 20
	layerAge  = time.Second
	layerMax  = 32 << 20
)

// change is what one step does to one message. A commit applies many of them or none.
type change struct {
	id      ID
	put     *record // written when set
	body    []byte  // inline content of a new message
	oldSlot slot    // leaves the due index when hasOld
	newSlot slot    // enters it when hasNew
	hasOld  bool
	hasNew  bool
	remove  bool // the record and its content go
	// again is set when the change was committed before, in a commit that failed: it may be in the store already.
	again   bool
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
)

func bucketEnvelopes() []byte  { return []byte("envelopes") }
func bucketBodies() []byte     { return []byte("bodies") }
func bucketDue() []byte        { return []byte("due") }
func bucketHistory() []byte    { return []byte("history") }
func bucketQuarantine() []byte { return []byte("quarantine") }
func bucketJournal() []byte    { return []byte("journal") }

func boltOptions() *bolt.Options {
	return &bolt.Options{
		// Without a timeout Open waits for ever for the lock of another process.
		Timeout: 100 * time.Millisecond,
		// Without the list of free pages in the file an open maps every page: for a million messages a gigabyte. See
		// freelistSynced.
		NoFreelistSync: false,
		FreelistType:   bolt.FreelistMapType,
		// A commit that must remap waits for open readers; address space is cheap.
		InitialMmapSize: 1 << 30,
	}
}

// openStore opens or creates the store in dir.
func openStore(dir string) (*store, error) {
	path := filepath.Join(dir, databaseName)
	format, err := checkFormat(dir)
	if err != nil {
		return nil, err
	}
	if format == 0 {
		if err := createDatabase(path); err != nil {
			return nil, err
		}
	}
	if err := checkDatabase(path, format); err != nil {
		return nil, err
	}
	db, err := openBolt(path, boltOptions())
	if err != nil {
		return nil, err
	}
	s := &store{db: db, pageSize: int64(db.Info().PageSize)}
	if err = migrate(dir, format); err == nil {
		err = s.recover(dir)
	}
	if err == nil && format != currentFormat {
		err = writeFormat(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare %s: %w", path, err), s.abandon())
	}
	return s, nil
}

// recover makes the buckets, writes to the database what a crash has left in the journal, and begins a new generation.
func (s *store) recover(dir string) error {
	state, err := s.journalState()
	if err != nil {
		return err
	}
	left, err := state.load(dir)
	if err != nil {
		return err
	}
	s.missing = left.missing
	if s.journal, err = openJournal(dir, left.gen+1); err != nil {
		return err
	}
	s.active = newLayer(left.gen + 1)
	err = s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEnvelopes(), bucketBodies(), bucketDue(), bucketHistory(), bucketJournal(), bucketQuarantine()} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if err := left.write(openBuckets(tx)); err != nil {
			return err
		}
		return journalState{gen: left.gen, salt: s.journal.salt}.put(tx)
	})
	if err != nil {
		return err
	}
	return s.journal.shrink()
}

// load returns what the journal in dir holds and the database does not.
func (s journalState) load(dir string) (*layer, error) {
	l := newLayer(s.gen)
	if s.salt == 0 {
		return l, nil
	}
	gen, missing, err := s.replay(dir, l.apply)
	if err != nil {
		return nil, err
	}
	l.gen, l.missing = gen, missing
	return l, nil
}

func (s *store) journalState() (st journalState, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketJournal())
		if b == nil {
			return nil
		}
		var ok bool
		if st, ok = decodeState(b.Get([]byte(stateKey))); !ok {
			return fmt.Errorf("what the database says of the journal cannot be read: %w%s", errDamaged, recoverRemedy)
		}
		return nil
	})
	return st, err
}

const stateKey = "state"

func decodeState(v []byte) (st journalState, ok bool) {
	v, err := openValue(v)
	if err != nil || len(v) != 24 {
		return st, false
	}
	return journalState{gen: binary.BigEndian.Uint64(v), salt: binary.BigEndian.Uint64(v[8:]), seq: binary.BigEndian.Uint64(v[16:])}, true
}

func (s journalState) put(tx *bolt.Tx) error {
	v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.gen), s.salt)
	v = binary.BigEndian.AppendUint64(v, s.seq)
	return tx.Bucket(bucketJournal()).Put([]byte(stateKey), sealValue(v))
}

// openStoreReadOnly opens the store of a queue that no daemon holds.
func openStoreReadOnly(dir string) (*store, error) {
	path := filepath.Join(dir, databaseName)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	format, err := checkFormat(dir)
	if err == nil {
		err = checkDatabase(path, format)
	}
	if err != nil {
		return nil, err
	}
	opts := boltOptions()
	opts.ReadOnly = true
	opts.InitialMmapSize = 0
	db, err := openBolt(path, opts)
	if err != nil {
		return nil, err
	}
	s := &store{db: db}
	err = s.view(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketQuarantine()) == nil { // the last one that a first start makes
			return fmt.Errorf("%s was never finished; start relayd once", path)
		}
		return nil
	})
	if err == nil {
		var state journalState
		if state, err = s.journalState(); err == nil {
			s.active, err = state.load(dir)
		}
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
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
	// What checkDatabase has not seen, and what the disk cannot read any more, would be a panic, or a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%s: %w: %v%s", path, errDatabase, p, recoverRemedy)
		}
	}()
	var file *os.File
	open := opts.OpenFile
	if open == nil {
		open = os.OpenFile
	}
	opts.OpenFile = func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
		f, err = open(name, flag, perm)
		file = f
		return f, err
	}
	db, err = bolt.Open(path, 0o600, opts)
	if err == nil && !isAt(file, path) {
		// Who had the lock until now has put another file in its place, and nobody would see again what this one gets.
		return nil, errors.Join(fmt.Errorf("%w: %s was replaced while it was opened; try again", ErrLocked, path), db.Close())
	}
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s is locked; stop that one, or set another data_dir", ErrLocked, path)
	case err != nil:
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return db, nil
}

// isAt reports whether f is the file that path names.
func isAt(f *os.File, path string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(info, now)
}

// view runs f with what the database holds now. When the disk cannot be read, or the file is not what bbolt takes it for,
// the error is errDatabase.
func (s *store) view(f func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // a fault of memory that is a file
			err = fmt.Errorf("%s: %w: it cannot be read at %#x", s.db.Path(), errDatabase, p.Addr())
		case string: // an assertion of bbolt's
			err = fmt.Errorf("%s: %w: %s", s.db.Path(), errDatabase, p)
		default:
			panic(p)
		}
	}()
	return s.db.View(f)
}

// close writes everything to the database and closes the store.
func (s *store) close() error {
	var err error
	if s.journal != nil {
		s.commits.Lock()
		if err = s.flush(); err == nil {
			err = s.writeFreelist()
		}
		if err == nil {
			err = s.journal.remove()
		}
		s.commits.Unlock()
	}
	return errors.Join(err, s.abandon())
}

// abandon closes the store as it is: the next start writes to the database what is in the journal.
func (s *store) abandon() error {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.settle()
	err := s.db.Close()
	if s.journal != nil {
		err = errors.Join(err, s.journal.close())
	}
	return err
}

// commit makes all changes durable, or none. After an error nothing is known of them: they may be on disk all the same,
// and the store is of no more use but to read and to be closed.
func (s *store) commit(changes []*change) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	if s.journal == nil {
		return bolterrors.ErrDatabaseReadOnly
	}
	if err := s.failed(); err != nil || len(changes) == 0 {
		return err
	}
	deltas := make([]delta, 0, len(changes))
	for _, c := range changes {
		if c.direct() {
			return s.commitDirectly(changes)
		}
		deltas = append(deltas, c.delta())
	}
	if err := s.append(deltas); errors.Is(err, errNoRoom) {
		return err
	} else if err != nil {
		return s.fail(err)
	}
	s.mu.Lock()
	for _, d := range deltas {
		s.active.apply(d)
	}
	size, busy := s.active.size, s.frozen != nil
	s.mu.Unlock()
	if size >= layerMax || s.journal.at >= layerMax || size >= layerSize && !busy {
		s.rotate()
	}
	s.rotateLater(layerAge)
	return nil
}

func (s *store) append(deltas []delta) error {
	if s.around != nil {
		return s.around(func() error { return s.journal.append(deltas) })
	}
	return s.journal.append(deltas)
}

// direct reports whether the change is one of the rare ones that depend on what the database holds. They are made there.
func (c *change) direct() bool { return c.quarantine != "" || !c.prune.IsZero() }

func (s *store) commitDirectly(changes []*change) error {
	if err := s.flush(); err != nil {
		return err
	}
	err := noRoom(s.db.Update(func(tx *bolt.Tx) error {
		b := openBuckets(tx)
		for _, c := range changes {
			if err := b.apply(c); err != nil {
				return fmt.Errorf("%s: %w", c.id, err)
			}
		}
		return nil
	}))
	if err != nil && !errors.Is(err, errNoRoom) {
		return s.fail(err)
	}
	return err
}

func (s *store) failed() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failure
}

func (s *store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
	}
	return s.failure
}

// layers calls f with the layers that there are, the newest first, until it returns true. s.mu is held.
func (s *store) layers(f func(*layer) bool) bool {
	return s.active != nil && f(s.active) || s.frozen != nil && f(s.frozen)
}

type buckets struct {
	envelopes, bodies, due, history, quarantine *bolt.Bucket
}

func openBuckets(tx *bolt.Tx) buckets {
	b := buckets{tx.Bucket(bucketEnvelopes()), tx.Bucket(bucketBodies()), tx.Bucket(bucketDue()),
		tx.Bucket(bucketHistory()), tx.Bucket(bucketQuarantine())}
	// Keys rise with time: pages are filled, not halved.
	for _, rising := range []*bolt.Bucket{b.envelopes, b.bodies, b.history, b.due} {
		rising.FillPercent = 0.9
	}
	return b
}

// apply makes a change that is direct, or one that came with it in a commit.
func (b buckets) apply(c *change) error {
	if !c.prune.IsZero() {
		var err error
		c.pruned, err = b.pruneHistory(c.prune)
		return err
	}
	l := newLayer(0)
	l.apply(c.delta())
	if err := l.write(b); err != nil {
		return err
	}
	if c.quarantine != "" {
		return b.setAside(idKey(c.id), c.quarantine)
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
