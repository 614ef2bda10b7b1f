package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Recovered says what Recover saved and what it could not.
type Recovered struct {
	Messages int `json:"messages"` // in the new queue, Held among them
	// Held are messages that were found outside of the database's order, in pages that it may have given up: they may have
	// been delivered before, and wait for an operator.
	Held    int `json:"held"`
	History int `json:"history"`
	// Quarantined are messages whose record or content is damaged or missing; what there is of them is kept.
	Quarantined int `json:"quarantined"`
	Commits     int `json:"commits"` // of the journal that could not be read
	// Orphans are files of the spool that belong to no message that was saved. They are in Old.
	Orphans int `json:"orphans"`
	// Faults are what is wrong with the database and the journal, the first few of them, and FaultCount all.
	Faults     []string `json:"faults"`
	FaultCount int      `json:"fault_count"`
	Old        string   `json:"old"` // the folder in which everything that was there before is kept
}

// Recover saves what can be read of the queue in dir, whose daemon is not running, into a new one. What was there is
// kept beside it in a folder of its own. When it fails or is interrupted everything is as it was.
func Recover(dir string) (done Recovered, err error) {
	lock, err := lockQueue(dir, true)
	if err != nil {
		return Recovered{}, err
	}
	defer func() { err = errors.Join(err, unlockQueue(lock)) }()
	f, err := openFile(filepath.Join(dir, databaseName), os.O_RDONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Recovered{}, err
	}
	if err == nil {
		defer f.Close()
		if err := lockFile(f, true); err != nil {
			return Recovered{}, fmt.Errorf("%w: %s; stop it first", err, f.Name())
		}
	} else if !hasJournal(dir) {
		return Recovered{}, fmt.Errorf("there is neither a database nor a journal in %s; is it the data_dir?", dir)
	}
	if err := refuseNewer(dir); err != nil {
		return Recovered{}, err
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".recover-*")); err == nil { // of one that was interrupted
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return Recovered{}, err
			}
		}
	}
	tmp, err := os.MkdirTemp(dir, ".recover-*")
	if err != nil {
		return Recovered{}, err
	}
	defer os.RemoveAll(tmp)
	st, err := openStore(tmp)
	if err != nil {
		return Recovered{}, sayRoom(err, dir, roomToRecover(f))
	}
	s := &salvage{dir: dir, st: st, spool: spool{filepath.Join(dir, "spool")}, routes: make(map[ID]string)}
	var orphans []ID
	if err = s.outrun(); err == nil {
		orphans, err = s.run(f)
	}
	if err = errors.Join(err, st.close()); err != nil {
		return s.Recovered, sayRoom(fmt.Errorf("the queue cannot be recovered: %w; nothing was changed", err), dir, roomToRecover(f))
	}
	s.Orphans = len(orphans)
	if err := s.exchange(tmp, orphans); err != nil {
		return s.Recovered, err
	}
	return s.Recovered, nil
}

// roomToRecover returns how many octets the new queue may need: as many as the damaged database, and two journals.
func roomToRecover(f *os.File) int64 {
	need := int64(2 * journalReserve)
	if f != nil {
		if info, err := f.Stat(); err == nil {
			need += min(info.Size(), max(allocated(f), compactStep))
		}
	}
	return need
}

// refuseNewer returns an error when the folder says that it is in a format that is not known here.
func refuseNewer(dir string) error {
	text, err := readFile(filepath.Join(dir, markerName), 1<<10)
	if err != nil {
		return nil // it may be what was lost
	}
	var format int
	if n, _ := fmt.Sscanf(string(text), markerText(0)[:len("relayd queue, format ")]+"%d", &format); n == 1 && format > currentFormat {
		_, err = checkFormat(dir)
	}
	return err
}

// salvage fills a new store with what there is of an old one.
type salvage struct {
	Recovered
	dir    string
	st     *store
	spool  spool
	routes map[ID]string // from the due index: hints
	state  journalState
	known  bool // state is what the database says
	buffer []entry
	size   int
	err    error // of writing the new store
}

type entry struct{ bucket, key, value []byte }

// run fills the new store, and returns the files of the spool that belong to none of its messages.
func (s *salvage) run(f *os.File) (orphans []ID, err error) {
	var old *pages
	if f != nil {
		if old, err = openPages(f); old == nil {
			return nil, err
		}
		old.fault = s.fault
		switch {
		case err != nil:
			s.fault(err)
		case old.torn:
			s.fault(errors.New("one of the two meta pages cannot be read"))
			fallthrough
		default:
			old.walk(s.entry)
		}
	}
	steps := []func() error{s.flush, s.replay}
	if old == nil {
		s.fault(fmt.Errorf("%s is missing", filepath.Join(s.dir, databaseName)))
	} else if s.FaultCount > 0 {
		steps = append(steps, func() error { return s.strays(old) })
	}
	for _, step := range append(steps, s.verify) {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s.orphans()
}

// mostFaults is how many faults are told in words.
const mostFaults = 10

func (s *salvage) fault(err error) {
	if s.FaultCount++; len(s.Faults) < mostFaults {
		s.Faults = append(s.Faults, err.Error())
	}
}

// entry takes one entry of the old database.
func (s *salvage) entry(in [][]byte, key []byte, value func() []byte) {
	if len(in) != 1 {
		return
	}
	v := value()
	if v == nil {
		s.fault(fmt.Errorf("an entry of %q cannot be read", in[0]))
		return
	}
	switch bucket := string(in[0]); {
	case bucket == string(bucketJournal()) && string(key) == stateKey:
		s.state, s.known = decodeState(v)
	case bucket == string(bucketDue()):
		if sl, err := decodeSlot(key, v); err == nil {
			s.routes[sl.ID] = sl.Routes
		}
	case len(key) != 8:
	case bucket == string(bucketEnvelopes()), bucket == string(bucketBodies()), bucket == string(bucketHistory()), bucket == string(bucketQuarantine()):
		s.put(in[0], key, v)
	}
}

// put adds an entry to the new database, with others.
func (s *salvage) put(bucket, key, value []byte) {
	s.buffer = append(s.buffer, entry{slices.Clone(bucket), slices.Clone(key), slices.Clone(value)})
	if s.size += len(value) + 64; s.size >= layerSize {
		_ = s.flush() // which says so again when it is asked
	}
}

// flush writes what put has gathered. Once that has failed it returns the error each time.
func (s *salvage) flush() error {
	entries := s.buffer
	s.buffer, s.size = nil, 0
	if s.err != nil {
		return s.err
	}
	s.err = s.st.update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketJournal()).Delete([]byte(historyKey)); err != nil { // it is counted anew
			return err
		}
		for _, e := range entries {
			if err := tx.Bucket(e.bucket).Put(e.key, e.value); err != nil {
				return err
			}
		}
		return nil
	})
	return s.err
}

// replay applies what the journal holds and the database does not. When it is not known which that is, it is all that
// there is, from the older file on: to apply twice is to apply once.
func (s *salvage) replay() error {
	l := newLayer(0)
	if s.known {
		if err := s.state.overtaken(s.dir); err != nil {
			s.fault(err)
			s.known = false
		}
	}
	if s.known {
		for _, f := range s.state.faults(s.dir) {
			s.fault(errors.New(f))
		}
		end, err := s.state.replay(s.dir, func(_ uint64, d delta) { l.apply(d) })
		if s.Commits = end.missing; err != nil {
			s.replayAll(l) // which reads on behind what cannot be read
		}
	} else {
		s.replayAll(l)
	}
	for k, p := range l.due {
		if sl, err := decodeSlot(k[:], p.value); err == nil {
			s.routes[sl.ID] = sl.Routes
		}
	}
	clear(l.due) // it is made anew
	return s.st.update(func(tx *bolt.Tx) error { return l.write(openBuckets(tx)) })
}

// outrun begins the journal of the new store with a generation that no file of the old one has: an exchange that is cut
// short leaves these beside the new database, which must not take itself for an older one than they were written for.
func (s *salvage) outrun() error {
	gen := namedGeneration(s.dir)
	j := s.st.journal
	j.gen, s.st.active = gen+1, newLayer(gen+1)
	return s.st.update(func(tx *bolt.Tx) error { return journalState{gen: gen, salt: j.salt}.put(tx) })
}

// replayAll applies what can be read of the journal, around what cannot: what the database does not hold, or all when it is
// not known which that is.
func (s *salvage) replayAll(l *layer) {
	type file struct {
		f   *os.File
		gen uint64
		journalState
	}
	var files []file
	for n := range uint64(2) {
		f, err := openFile(filepath.Join(s.dir, journalName(n)), os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		gen, salt, ok := readFileHeader(legibleFile{f, s.fault})
		if s.known {
			// The database tells, whatever became of the header. It has all older frames: of those a file may have lost some, and
			// what the others say is the past.
			if gen, salt, ok = s.state.gen+1, s.state.salt, true; gen&1 != n {
				gen++
			}
		}
		if ok {
			files = append(files, file{f, gen, journalState{salt: salt}})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return int(int64(a.gen - b.gen)) })
	// The old database may have the older file already: what came there and left later is to leave the new one, too.
	apply := func(d delta) { d.intake = false; l.apply(d) }
	for _, j := range files {
		if _, err := j.replayFile(legibleFile{j.f, s.fault}, j.gen, 0, apply); err != nil {
			s.fault(err)
		}
	}
}

// legibleFile is a file of which what the disk cannot read is zeros, and told of.
type legibleFile struct {
	readerAtSize
	fault func(error)
}

// ReadAt reads all of p, unless the file ends within.
func (f legibleFile) ReadAt(p []byte, at int64) (int, error) {
	n, err := f.readerAtSize.ReadAt(p, at)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	f.fault(err)
	clear(p)
	return len(p), nil
}

// strays looks for messages in pages that no order leads to any more. Such a page may also be one that the database had
// given up, so that its messages may have been delivered: they are held.
func (s *salvage) strays(old *pages) error {
	found := make(map[ID]*record)
	gone := make(map[ID]bool)
	var failed error
	old.strays(func(key, value []byte) {
		if len(key) != 8 || failed != nil {
			return
		}
		id := ID(binary.BigEndian.Uint64(key))
		r, err := decodeRecord(id, value)
		if err != nil || len(r.Recipients) == 0 {
			return
		}
		if r.Gone {
			gone[id] = true
			if _, err := s.st.history(id); errors.Is(err, ErrNotFound) {
				s.put(bucketHistory(), key, value)
			}
			return
		}
		if has, err := s.st.has(id); err != nil {
			failed = err
		} else if before := found[id]; !has && (before == nil || before.Attempts <= r.Attempts) {
			found[id] = r
		}
	})
	if err := errors.Join(failed, s.flush()); err != nil {
		return err
	}
	for id := range found {
		if _, err := s.st.history(id); gone[id] || err == nil {
			delete(found, id)
		}
	}
	clear(old.seen) // the content is looked for in all pages: that of a message that was found in order may be lost, too
	old.strays(func(key, value []byte) { s.strayContent(found, key, value) })
	return errors.Join(s.flush(), s.hold(found))
}

// strayContent keeps a value when it is the content of a message that has none yet.
func (s *salvage) strayContent(found map[ID]*record, key, value []byte) {
	if len(key) != 8 {
		return
	}
	id := ID(binary.BigEndian.Uint64(key))
	r := found[id]
	if r == nil {
		r, _ = s.st.record(id)
	}
	if r == nil || r.Spooled || int64(len(value)) != r.Size || checksum(value) != r.Sum {
		return
	}
	if body, err := s.st.body(id); err != nil || checksum(body) != r.Sum {
		s.put(bucketBodies(), key, value)
	}
}

// hold puts messages that may have been delivered before into the new queue. Those without their content are what is
// left of ones that have gone, or of no use.
func (s *salvage) hold(found map[ID]*record) error {
	for id, r := range found {
		if s.content(r) != nil {
			continue
		}
		r.Held = true
		r.note(Event{At: time.Now(), What: "held", Words: "saved from a damaged database; it may have been delivered before"})
		v, err := encodeRecord(r)
		if err != nil {
			return err
		}
		s.put(bucketEnvelopes(), idKey(id), v)
		s.Held++
	}
	return s.flush()
}

// content returns an error when the content of a message is not there as it was.
func (s *salvage) content(r *record) error {
	if r.Spooled {
		return s.spool.verify(r)
	}
	return s.st.verifyBody(r)
}

// verify looks at every message of the new queue, sets aside what cannot be delivered, and makes the due index.
func (s *salvage) verify() error {
	var ids []ID
	err := s.st.view(func(tx *bolt.Tx) error {
		s.History = tx.Bucket(bucketHistory()).Inspect().KeyN
		return tx.Bucket(bucketEnvelopes()).ForEach(func(k, _ []byte) error {
			ids = append(ids, ID(binary.BigEndian.Uint64(k)))
			return nil
		})
	})
	for len(ids) > 0 && err == nil {
		batch := ids[:min(applyBatch, len(ids))]
		ids = ids[len(batch):]
		var changes []*change
		for _, id := range batch {
			changes = append(changes, s.verifyOne(id))
		}
		err = s.st.commit(changes)
	}
	if err != nil {
		return err
	}
	s.Quarantined, err = s.st.quarantined()
	return err
}

func (s *salvage) verifyOne(id ID) *change {
	r, err := s.st.record(id)
	if err == nil {
		err = s.content(r)
	}
	if err != nil && r != nil && r.Spooled && s.unread(err) {
		s.fault(fmt.Errorf("the content of %s cannot be read, and it waits: %w", id, err))
		err = nil
	}
	if err != nil {
		return &change{id: id, quarantine: err.Error()}
	}
	s.Messages++
	return &change{id: id, newSlot: r.slot(s.routes[id]), hasNew: true}
}

// unread reports whether an error of a spool file means that the disk or the folder cannot be read for now, and not that the
// message is damaged.
func (s *salvage) unread(err error) bool {
	if errors.Is(err, fs.ErrNotExist) {
		return s.spool.empty()
	}
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}

// orphans returns the files of the spool that no message of the new queue names.
func (s *salvage) orphans() (orphans []ID, err error) {
	entries, err := os.ReadDir(s.spool.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		id, idErr := ParseID(e.Name())
		if idErr != nil {
			continue
		}
		has, hasErr := s.st.has(id)
		if err = errors.Join(err, hasErr); !has {
			orphans = append(orphans, id)
		}
	}
	return orphans, err
}

// exchange puts the new database in the place of the old one, which is kept with all that belongs to it. The exchange
// itself is one rename.
func (s *salvage) exchange(tmp string, orphans []ID) (err error) {
	s.Old = filepath.Join(s.dir, "queue.damaged-"+time.Now().Format("20060102-150405.000"))
	// One that is there is that of another recovery, from before the clock was set back.
	if err := os.Mkdir(s.Old, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.Old, "spool"), 0o700); err != nil {
		return err
	}
	old := []string{databaseName, markerName, journalName(0), journalName(1)}
	for _, name := range old {
		if e := os.Link(filepath.Join(s.dir, name), filepath.Join(s.Old, name)); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	for _, id := range orphans {
		err = errors.Join(err, os.Link(s.spool.path(id), filepath.Join(s.Old, "spool", id.String())))
	}
	if err = errors.Join(err, syncDir(filepath.Join(s.Old, "spool")), syncDir(s.Old)); err != nil {
		return errors.Join(fmt.Errorf("what is there cannot be kept: %w; nothing was changed", err), os.RemoveAll(s.Old))
	}
	// The lock of the old database ends with its name: a daemon that is started now must not begin a journal yet.
	f, err := openFile(filepath.Join(tmp, databaseName), os.O_RDONLY, 0)
	if err == nil {
		defer f.Close()
		err = lockFile(f, true)
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, databaseName))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(s.Old))
	}
	// What is removed now was of the old database, which a power cut could bring back until here.
	if err := syncDir(s.dir); err != nil {
		return err
	}
	// Frames of the old journal do not count for the new database, whose salt is another.
	for _, name := range old[2:] {
		if e := os.Remove(filepath.Join(s.dir, name)); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	for _, id := range orphans {
		err = errors.Join(err, s.spool.remove(id))
	}
	return errors.Join(err, writeFormat(s.dir), syncDir(s.dir))
}
