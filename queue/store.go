package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store is the seam to what is on disk: records and content in, records and content out, one commit. Nothing outside
// this file and its neighbours (layer.go, checkpoint.go, resume.go, store_read.go; recover.go and compact.go for a store that is
// repaired) knows a bucket or a transaction. Envelopes, content and the due index are buckets of their own,
// so that neither a start nor a list reads content.
//
// A commit is durable once it is in the journal. It is then kept in memory too, in the active layer, which is written to
// the database, in the background and in one transaction, when it has grown or aged; a start writes what a crash has
// left in the journal. Whoever reads looks through the layers first, so that nobody else knows of all this.
type store struct {
	db        *bolt.DB
	file      *os.File    // of the database, as bbolt has it
	faulted   atomic.Bool // memory that is the database's file could not be read amid a transaction that wrote
	journal   *journal    // nil for one that is only read
	pageSize  int64       // of the database, in octets
	dir       string
	extending sync.Mutex
	end       atomic.Int64 // of the database's last page
	secured   atomic.Int64 // octets of the file that have their place on the disk, as far as was asked for
	damage                 // of the journal, as the start found it
	created   bool         // there was no database
	behind    error        // why the start could not write the journal to the database: there was no room

	commits sync.Mutex // held by a commit, and to rotate
	timer   *time.Timer
	closed  bool
	// written is closed when the frozen layer is in the database, or that failed. failing is called on the latter.
	written chan struct{}
	failing func()
	watch   *watch

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
	newSlot slot    // enters it when hasNew; with put, encode fills in how large that is
	hasOld  bool
	hasNew  bool
	remove  bool // the record and its content go
	// again is set when the change was committed before, in a commit that failed: it may be in the store already.
	again   bool
	history *record // the line of history that stays
	// quarantine sets the stored record aside as it is, for the reason that it says. told notes that everybody knows of that,
	// unquarantine takes the message out of quarantine.
	quarantine   string
	told         bool
	unquarantine bool
	prune        *pruning // removes lines of history

	putValue, historyValue []byte // put and history as they are stored
}

// size returns how many octets the change writes, about.
func (c *change) size() int { return 64 + len(c.putValue) + len(c.body) + len(c.historyValue) }

// encode prepares the change for the committer, so that the one goroutine that writes does nothing else.
func (c *change) encode() (err error) {
	if c.put != nil && c.putValue == nil {
		c.putValue, c.newSlot.Words, err = encodeCounted(c.put)
		c.newSlot.Record = blocksOf(len(c.putValue))
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

// initialMapping is the address space that the database gets at once, in octets. More would cost no memory, but keep the
// daemon from starting under a limit of address space.
const initialMapping = 128 << 20

func boltOptions() *bolt.Options {
	return &bolt.Options{
		// Without a timeout Open waits for ever for the lock of another process.
		Timeout: 100 * time.Millisecond,
		// Without the list of free pages in the file an open maps every page: for a million messages a gigabyte. See
		// freelistSynced.
		NoFreelistSync: false,
		FreelistType:   bolt.FreelistMapType,
		// A commit that must remap waits for open readers.
		InitialMmapSize: initialMapping,
	}
}

// openStore opens or creates the store in dir.
func openStore(dir string) (*store, error) {
	path := filepath.Join(dir, databaseName)
	format, err := checkFormat(dir)
	if err != nil {
		return nil, err
	}
	created := false
	if format == 0 {
		_, err := os.Lstat(path)
		created = errors.Is(err, os.ErrNotExist)
		if err := createDatabase(path); err != nil {
			return nil, err
		}
	}
	if err := checkDatabase(path, format); err != nil {
		return nil, err
	}
	db, file, err := openBolt(path, boltOptions())
	if err != nil {
		return nil, err
	}
	s := &store{db: db, file: file, dir: dir, pageSize: int64(db.Info().PageSize), created: created}
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
	s.found(dir, left)
	gen := max(left.gen, namedGeneration(dir))
	if s.journal, err = openJournal(dir, gen+1); err != nil {
		return err
	}
	s.active = newLayer(gen + 1)
	err = noRoom(s.update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEnvelopes(), bucketBodies(), bucketDue(), bucketHistory(), bucketJournal(), bucketQuarantine()} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		for _, l := range left.layers {
			if err := l.write(openBuckets(tx)); err != nil {
				return err
			}
		}
		return journalState{gen: gen, salt: s.journal.salt, made: s.journal.made}.put(tx)
	}))
	if errors.Is(err, errNoRoom) && state.salt != 0 {
		s.behind = err
		return s.resume(state, left)
	}
	if err != nil {
		return err
	}
	return s.journal.shrink()
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
	if err != nil || len(v) != 32 {
		return st, false
	}
	return journalState{gen: binary.BigEndian.Uint64(v), salt: binary.BigEndian.Uint64(v[8:]), seq: binary.BigEndian.Uint64(v[16:]),
		made: int64(binary.BigEndian.Uint64(v[24:]))}, true
}

func (s journalState) put(tx *bolt.Tx) error {
	v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.gen), s.salt)
	v = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(v, s.seq), uint64(s.made))
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
	db, file, err := openBolt(path, opts)
	if err != nil {
		return nil, err
	}
	s := &store{db: db, file: file, dir: dir, pageSize: int64(db.Info().PageSize)}
	err = s.view(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketQuarantine()) == nil { // the last one that a first start makes
			return fmt.Errorf("%s was never finished; start relayd once", path)
		}
		return nil
	})
	if err == nil {
		var state journalState
		if state, err = s.journalState(); err == nil {
			var left remains
			if left, err = state.load(dir); err == nil {
				s.frozen, s.active = left.split(state)
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.closeDatabase())
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
	db, _, err := openBolt(next, boltOptions())
	if err != nil {
		return err
	}
	if err := errors.Join(db.Close(), os.Rename(next, path)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// close writes everything to the database and closes the store.
func (s *store) close() error {
	var err error
	if s.journal != nil {
		s.commits.Lock()
		if err = s.flush(); err == nil {
			err = s.writeClosed()
		}
		lost := s.astray()
		if err == nil && lost == nil {
			err = s.journal.remove()
		}
		s.commits.Unlock()
		if lost != nil {
			_, rescueErr := s.rescue()
			err = errors.Join(err, fmt.Errorf("files of the queue were gone at the stop; the journal is kept: %w", lost), rescueErr)
		}
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
	err := s.closeDatabase()
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
	err := s.append(deltas)
	if errors.Is(err, errNoRoom) && s.flush() == nil {
		err = s.append(deltas) // at the start of a journal's file, whose room is there
	}
	if errors.Is(err, errNoRoom) {
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
func (c *change) direct() bool {
	return c.quarantine != "" || c.told || c.unquarantine || c.prune != nil
}

func (s *store) commitDirectly(changes []*change) error {
	if err := s.flush(); err != nil {
		return err
	}
	err := noRoom(s.update(func(tx *bolt.Tx) error {
		b := openBuckets(tx)
		for _, c := range changes {
			if err := b.apply(c); err != nil {
				return fmt.Errorf("%s: %w", c.id, err)
			}
		}
		return nil
	}))
	if err == nil {
		// The journal has nothing of this. With a second transaction both meta pages lead to it, of which one may be lost.
		if err = noRoom(s.update(func(*bolt.Tx) error { return nil })); errors.Is(err, errNoRoom) {
			err = nil
		}
	}
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
	envelopes, bodies, due, history, quarantine, journal *bolt.Bucket
}

func openBuckets(tx *bolt.Tx) buckets {
	b := buckets{tx.Bucket(bucketEnvelopes()), tx.Bucket(bucketBodies()), tx.Bucket(bucketDue()),
		tx.Bucket(bucketHistory()), tx.Bucket(bucketQuarantine()), tx.Bucket(bucketJournal())}
	// Keys rise with time: pages are filled, not halved.
	for _, rising := range []*bolt.Bucket{b.envelopes, b.bodies, b.history, b.due} {
		rising.FillPercent = 0.9
	}
	return b
}

// apply makes a change that is direct, or one that came with it in a commit.
func (b buckets) apply(c *change) error {
	if c.prune != nil {
		return b.pruneHistory(c.prune)
	}
	l := newLayer(0)
	l.apply(c.delta())
	if err := l.write(b); err != nil {
		return err
	}
	switch {
	case c.quarantine != "":
		return b.setAside(c.id, c.quarantine)
	case c.told:
		return b.tell(c.id)
	case c.unquarantine:
		return b.quarantine.Delete(idKey(c.id))
	}
	return nil
}
