package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The files that a daemon has open can lose their names: somebody removes them, or puts others in their place. What is
// written then is gone when the daemon ends. The queue looks every few seconds, and before it removes the journal. When a
// name does not lead to its file, no mail is taken, and the database is written anew from what is open and in memory.

// lookPause is how often the queue looks whether the names of its files still lead to them.
const lookPause = 5 * time.Second

// strayed returns an error when the name of f does not lead to f any more.
func strayed(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return nil // it cannot be used at all, which the next write finds out
	}
	now, err := os.Stat(f.Name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is gone", f.Name())
	case err != nil:
		return err
	case !os.SameFile(info, now):
		return fmt.Errorf("%s is another file than the one that relayd has open", f.Name())
	}
	return nil
}

// astray returns an error when the name of one of the store's files does not lead to it.
func (s *store) astray() error {
	err := strayed(s.file)
	for _, f := range s.journal.files {
		err = errors.Join(err, strayed(f))
	}
	return err
}

// rescue makes the names lead to what the store has, if they do not: a database that has everything. Files of others that
// have the names are kept beside. It returns what was astray, and leaves the store open.
func (s *store) rescue() (lost, err error) {
	if lost = s.astray(); lost == nil {
		return nil, nil
	}
	s.commits.Lock()
	defer s.commits.Unlock()
	s.settle()
	if strayed(s.file) == nil {
		err = s.update(s.writeAll)
	} else {
		err = s.writeAnew()
	}
	for _, f := range s.journal.files {
		if err == nil {
			err = makeWay(f)
		}
	}
	if err != nil {
		return lost, fmt.Errorf("%w, and what relayd has of the queue cannot be written: %w", lost, err)
	}
	return lost, nil
}

// writeAll writes what the database does not have yet, and that this is all.
func (s *store) writeAll(tx *bolt.Tx) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range []*layer{s.frozen, s.active} {
		if l == nil {
			continue
		}
		if err := l.write(openBuckets(tx)); err != nil {
			return err
		}
	}
	return journalState{gen: s.journal.gen, salt: s.journal.salt, seq: s.journal.seq}.put(tx)
}

// writeAnew writes all that the store has to a new database, and gives it the name of the old one.
func (s *store) writeAnew() error {
	path := s.file.Name()
	to := path + ".rescue"
	if err := s.view(func(*bolt.Tx) error { return compactTo(to, s.db) }); err != nil {
		return err
	}
	opts := boltOptions()
	opts.InitialMmapSize = 0
	db, _, err := openBolt(to, opts)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(s.writeAll), db.Close(), makeWay(s.file)); err != nil {
		return err
	}
	return errors.Join(os.Rename(to, path), syncDir(filepath.Dir(path)))
}

// makeWay gives another name to a file that has the name of f and is not f.
func makeWay(f *os.File) error {
	if strayed(f) == nil {
		return nil
	}
	err := os.Rename(f.Name(), f.Name()+".foreign-"+time.Now().Format("20060102-150405.000"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// look has the committer open its store anew when that has gone astray.
func (c *committer) look() {
	defer c.watch.begin("looking at the queue's files")()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.store == nil || c.store.failed() != nil {
		return
	}
	if lost := c.store.astray(); lost != nil {
		c.store.fail(lost)
		c.fail()
	}
}

// lostFiles is what the last looks at the queue's folder have found.
type lostFiles struct {
	mu     sync.Mutex
	spool  error        // the spool is not the folder that the queue has locked
	kept   []string     // folders of what was kept of a damaged journal
	unread map[ID]error // messages whose content cannot be read for now
	// emptied is set when the spool has no message at all although it should have several: then it is the folder that was
	// lost, and not a message. No large message is taken, which would make the folder seem whole.
	emptied bool
}

// lookAfter looks at the names of the queue's files, and at what operators have to see.
func (q *Queue) lookAfter() {
	for {
		q.committer.look()
		q.lookAtSpool()
		select {
		case <-q.ctx.Done():
			return
		case <-time.After(q.lookPause):
		}
	}
}

// lookAtSpool looks whether the spool is still the folder that the queue has locked, and for folders of what was kept of a
// damaged journal.
func (q *Queue) lookAtSpool() {
	defer q.watch.begin("looking at the queue's folder")()
	err := strayed(q.lock)
	kept, _ := lostFolders(q.dir)
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	if (err == nil) != (q.lost.spool == nil) {
		if err != nil {
			q.log.Error("the folder of large messages is not the one that relayd has opened; no mail is taken", "error", err)
		} else {
			q.log.Info("the folder of large messages is back")
		}
	}
	q.lost.spool, q.lost.kept = err, kept
	q.lost.emptied = q.lost.emptied && len(q.lost.unread) > 0 && q.spool.empty()
}

// spoolPause is how long a message waits whose content cannot be read for now.
const spoolPause = 30 * time.Second

// noteUnread notes that the content of a message cannot be read, for a reason that is not the message's.
func (q *Queue) noteUnread(id ID, err error) {
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	if q.lost.unread == nil {
		q.lost.unread = make(map[ID]error)
	}
	if _, known := q.lost.unread[id]; !known {
		q.log.Error("a large message cannot be read; it waits", "queue_id", id.String(), "error", err)
	}
	q.lost.unread[id] = err
}

// noteRead notes that the content of a message can be read, or is of no interest any more.
func (q *Queue) noteRead(id ID) {
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	delete(q.lost.unread, id)
}

// emptied looks whether the spool has lost its files.
func (q *Queue) emptied() bool {
	if !q.spool.empty() {
		return false
	}
	large := 0
	known := q.scheduler.do(func() {
		for _, it := range q.scheduler.items {
			if it.slot.Size > inlineLimit {
				large++
			}
		}
	})
	if !known {
		return true // the queue is closing
	}
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	q.lost.emptied = large > 1
	return large > 1
}

// isDamage reports whether an error of a spool file means that its message is damaged, and not that the disk or the
// folder cannot be read for now.
func (q *Queue) isDamage(err error) bool {
	return errors.Is(err, fs.ErrNotExist) && strayed(q.lock) == nil && !q.emptied()
}

// lostObstacles returns why new mail is refused while the folder of large messages is not there, or cannot be read.
func (q *Queue) lostObstacles() []obstacle {
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	var out []obstacle
	if err := q.lost.spool; err != nil {
		out = append(out, obstacle{name: "spool", err: errStore,
			words: fmt.Sprintf("%s; no mail is taken, and large messages wait; put the folder back", err)})
	}
	if q.lost.emptied {
		out = append(out, obstacle{name: "spool", large: true, err: errStore, words: fmt.Sprintf("%s has lost its files; "+
			"no message over %d KiB is taken; put them back, or delete the messages", q.spool.dir, inlineLimit>>10)})
	}
	return out
}

// spoolLost returns the error for a client whose message is large while the spool has lost its files.
func (q *Queue) spoolLost() error {
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	if q.lost.emptied {
		return errStore
	}
	return nil
}

// lostTroubles says which messages cannot be read, and what was kept of a damaged journal.
func (q *Queue) lostTroubles() (out []string) {
	q.lost.mu.Lock()
	defer q.lost.mu.Unlock()
	for id, why := range q.lost.unread {
		out = append(out, fmt.Sprintf("large messages that cannot be read, and wait: %d; the first: %s: %v", len(q.lost.unread), id, why))
		break
	}
	for _, path := range q.lost.kept {
		out = append(out, fmt.Sprintf("the journal was damaged and messages may be lost; what was kept is in %s; look at it, then remove it", path))
	}
	return out
}
