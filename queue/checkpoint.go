package queue

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// How the layers get into the database: see store.

// rotateLater has the active layer written to the database after a while. s.commits is held.
func (s *store) rotateLater(after time.Duration) {
	if s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(after, s.aged)
	}
}

// aged writes the active layer to the database because of its age, or tries again what there was no room for.
func (s *store) aged() {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.timer = nil
	if !s.closed && s.failed() == nil && (!s.active.empty() || s.stuck()) {
		s.rotate()
	}
}

// stuck reports whether there was no room to write the frozen layer to the database. s.commits is held.
func (s *store) stuck() bool {
	s.settle()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.frozen != nil
}

// settle waits for what is being written to the database.
func (s *store) settle() {
	if s.written != nil {
		<-s.written
	}
}

// flush returns once the database has everything. The error is errNoRoom when that is not possible for now. s.commits is
// held.
func (s *store) flush() error {
	for s.failed() == nil && (s.stuck() || !s.active.empty()) {
		s.rotate()
		if s.stuck() && s.failed() == nil {
			return fmt.Errorf("%w: the database is behind the journal", errNoRoom)
		}
	}
	return s.failed()
}

// rotate freezes the active layer, and has it written to the database once the one before it is there. When there was no
// room for that one, it is tried again instead. s.commits is held.
func (s *store) rotate() {
	stuck := s.stuck()
	if s.failed() != nil {
		return
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if !stuck {
		seq := s.journal.seq
		if err := s.journal.rotate(); err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.frozen, s.active = s.active, newLayer(s.journal.gen)
		s.frozen.seq = seq
		s.mu.Unlock()
	}
	s.written = make(chan struct{})
	go s.checkpoint(s.frozen, s.written)
}

// checkpoint writes a frozen layer to the database. When there is no room for it, it stays frozen, and is tried again
// later: the journal has it, and outcomes still fit there.
func (s *store) checkpoint(l *layer, written chan<- struct{}) {
	defer s.watch.begin("writing the queue's database")()
	err := s.writeLayer(l, journalState{gen: l.gen, salt: s.journal.salt, seq: l.seq, made: s.journal.made})
	switch {
	case err == nil:
		s.mu.Lock()
		s.frozen = nil
		s.mu.Unlock()
		close(written)
		_ = s.release() // the memory is the system's to take back in any case
	case errors.Is(err, errNoRoom):
		close(written)
		s.commits.Lock()
		defer s.commits.Unlock()
		s.rotateLater(roomPause)
	default:
		s.fail(fmt.Errorf("writing the journal to the database: %w", err))
		close(written)
		if s.failing != nil {
			s.failing()
		}
	}
}

// freelistSynced is how many free pages the list of them may name that each checkpoint writes. It saves an open the look at
// all pages, and costs 8 octets a page.
const freelistSynced = 100_000

// keepFreelist says whether the list of free pages is written to the file with the next transaction.
func (s *store) keepFreelist(yes bool) { s.db.NoFreelistSync = !yes }

// writeClosed notes that the database has everything, so that nobody misses the journal, and names all free pages for
// the next open. It is called after flush.
func (s *store) writeClosed() error {
	s.keepFreelist(true)
	return s.update(func(tx *bolt.Tx) error {
		return journalState{gen: s.journal.gen, salt: s.journal.salt, seq: s.journal.seq}.put(tx)
	})
}

// roomPause is how long the store waits for room on the disk before it tries again.
const roomPause = 2 * time.Second
