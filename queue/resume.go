package queue

import (
	"errors"
	"fmt"
	"io"
)

// remains is what a crash has left in the journal and the database does not have: a layer for each generation, the older
// one first.
type remains struct {
	journalEnd
	layers []*layer
	faults []string // files of the journal that are missing or were cut short
}

// load returns what the journal in dir holds and the database does not. An error that is errDatabase says that it cannot
// be known.
func (s journalState) load(dir string) (left remains, err error) {
	if err := s.overtaken(dir); err != nil {
		return left, fmt.Errorf("%w%s", err, recoverRemedy)
	}
	if s.salt == 0 {
		left.gen = s.gen
		return left, nil
	}
	left.faults = s.faults(dir)
	left.journalEnd, err = s.replay(dir, func(gen uint64, d delta) {
		if n := len(left.layers); n == 0 || left.layers[n-1].gen != gen {
			left.layers = append(left.layers, newLayer(gen))
		}
		left.layers[len(left.layers)-1].apply(d)
	})
	if err != nil {
		err = fmt.Errorf("the journal cannot be read: %w%s", err, recoverRemedy)
	}
	return left, err
}

// split returns what is left as the layers of a store whose database is as state says. There is no frozen one when one
// generation is left, or none.
func (left remains) split(state journalState) (frozen, active *layer) {
	switch {
	case left.gen == state.gen:
		return nil, newLayer(state.gen + 1)
	case left.gen == state.gen+1:
		return nil, left.layers[0]
	case len(left.layers) == 1: // none of the generation before could be read
		frozen = newLayer(state.gen + 1)
	default:
		frozen = left.layers[0]
	}
	frozen.seq = left.first
	return frozen, left.layers[len(left.layers)-1]
}

// resume goes on as if there had been no crash: what is left is in the layers again, and the journal goes on where it
// ends. A start does so when the disk has no room to write the database: the journal has kept some for outcomes, so that
// what is queued can be delivered.
func (s *store) resume(state journalState, left remains) error {
	s.frozen, s.active = left.split(state)
	return s.journal.resume(s.active.gen, state.salt, left.seq, left.at)
}

// resume sets where the next frame goes. The frame before it may have been written and never synced, which those that
// come after it must be able to rely on: the file is written over with what it has, since a system that has once failed to
// write a page may take it for written from then on.
func (j *journal) resume(gen, salt, seq uint64, end int64) error {
	j.gen, j.salt, j.seq, j.at = gen, salt, seq, end
	f := j.files[gen&1]
	b := make([]byte, journalCopy)
	for at := int64(0); at < end; at += int64(len(b)) {
		b = b[:min(int64(len(b)), end-at)]
		if n, err := f.ReadAt(b, at); err != nil && !(errors.Is(err, io.EOF) && n > 0) {
			return err
		} else if _, err := f.WriteAt(b[:n], at); err != nil {
			return err
		}
	}
	return fdatasync(f)
}

// journalCopy is how much of the journal is written over at a time, in octets.
const journalCopy = 1 << 20

// attend has fail called when the store fails by itself, and sees to it that what a start has left for later gets into the
// database.
func (s *store) attend(fail func()) {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.failing = fail
	if s.frozen != nil || !s.active.empty() {
		s.rotateLater(roomPause)
	}
}
