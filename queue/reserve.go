package queue

import (
	"errors"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// What the store may need to record what becomes of everything that is queued is reserved before a message gets its 250,
// whatever min_free says. It is room inside the database's file: free pages, and blocks behind the last page that the file
// system was asked to keep for it (fallocate). Where it keeps none, as much stays free on the disk.
//
// With that, an outcome never lacks room. The journal has kept some of its own for each (journalAhead). A layer gets into
// the database in steps when one transaction of all would need more pages than there are: what is removed first, whose pages
// the next step uses.

const (
	// outcomeRoom is what the outcome of a message may need in the database beyond what the message itself gives back, in
	// octets: its line of history, and the report about it. recipientOutcome is added for each recipient, quoteRoom for a
	// message whose content is in the spool, which a report quotes from.
	outcomeRoom      = 6 << 10
	recipientOutcome = 448
	quoteRoom        = inlineLimit
	// stepRoom is what one step needs for the pages that it writes anew before their old ones are free.
	stepRoom = 2 << 20
	// floorRoom is what stays free on the disk even with min_free = 0: other files are written there, too.
	floorRoom = 1 << 20
	// extendStep is how much more of the file is reserved at a time.
	extendStep = 256 << 10
)

// outcomeRoom returns what the outcome of the message may need, in octets.
func (s slot) outcomeRoom() int64 {
	recipients := max(1, s.Recipients)
	l := queuedLimits()
	report := outcomeRoom + recipientOutcome*int64(recipients) + min(int64(l.words)*int64(recipients), int64(l.table))
	if s.Size > inlineLimit {
		return report + quoteRoom
	}
	// While it waits its record grows, by what it does not hold yet of the words of hosts. Once it fails, its record and its
	// content make room for the report.
	return max(l.growth(int(recipients))-int64(s.Words)*recordBlock, report-s.Size-s.record())
}

// inside returns the room that is inside the database's file for what is not there yet, less what the layers will take of it,
// in octets. Of the free pages half is counted, since content needs several in a row.
func (s *store) inside() int64 {
	n := s.pages()/2 + s.tail()
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.layers(func(l *layer) bool { n -= 2 * int64(l.size); return false })
	return n
}

// pages returns how many octets of its file the database has in free pages.
func (s *store) pages() int64 {
	stats := s.db.Stats()
	return int64(stats.FreePageN+stats.PendingPageN) * s.pageSize
}

// tail returns how many octets behind its last page are the database's.
func (s *store) tail() int64 { return max(0, s.secured.Load()-s.end.Load()) }

// extend reserves n more octets behind the database's last page. The error is errNoRoom, or the file system cannot.
func (s *store) extend(n int64) error {
	s.extending.Lock()
	defer s.extending.Unlock()
	to := max(s.secured.Load(), s.end.Load()) + n
	err := preallocate(s.file, to)
	switch {
	case err == nil:
		s.secured.Store(to)
	case isFull(err):
		return errors.Join(errNoRoom, err)
	}
	return nil
}

// reclaim takes what an earlier run has reserved for the database.
func (s *store) reclaim() {
	s.measure()
	if n := allocated(s.file); n > s.end.Load() && preallocate(s.file, n) == nil {
		s.secured.Store(n)
	}
}

// measure notes where the database's last page ends.
func (s *store) measure() {
	_ = s.view(func(tx *bolt.Tx) error { s.end.Store(tx.Size()); return nil })
}

// budget returns how many octets of pages one transaction may write.
func (s *store) budget() int64 {
	free, _, err := diskFree(s.dir)
	if err != nil {
		free = 0
	}
	return s.pages() + s.tail() + free/4
}

// step is a part of a layer that is written in one transaction: for each bucket the keys and their values, nil for one that
// goes.
type step struct {
	writes []write
	cost   int64
}

type write struct {
	to    func(buckets) *bolt.Bucket
	key   []byte
	value []byte
}

// cost returns what the write may need, in octets: the page that holds the key and those above it, which are shared, and
// its value.
func (w write) cost(pageSize int64) int64 {
	return pageSize + int64(len(w.value)) + int64(len(w.value))/4
}

// steps returns the layer in parts that cost at most limit each, if they have more than one write: what is removed first.
func (l *layer) steps(limit, pageSize int64) []step {
	writes := l.writes()
	slices.SortStableFunc(writes, func(a, b write) int {
		switch gone := a.value == nil; {
		case gone == (b.value == nil):
			return 0
		case gone:
			return -1
		}
		return 1
	})
	var out []step
	for _, w := range writes {
		cost := w.cost(pageSize)
		if n := len(out); n == 0 || out[n-1].cost+cost > limit {
			out = append(out, step{})
		}
		at := &out[len(out)-1]
		at.writes, at.cost = append(at.writes, w), at.cost+cost
	}
	return out
}

// cost returns what it may need to write the whole layer at once, in octets.
func (l *layer) cost(pageSize int64) int64 {
	keys := len(l.envelopes) + len(l.bodies) + len(l.history) + len(l.due)
	return int64(keys)*pageSize + int64(l.size) + int64(l.size)/4
}

// writeLayer writes the layer to the database, at once if there is room for that, or else in steps. Until the last one is
// there, the journal is what counts.
func (s *store) writeLayer(l *layer, state journalState) error {
	budget, fits := s.budget(), false
	if fits = l.cost(s.pageSize) <= budget; fits {
		s.keepFreelist(s.db.Stats().FreePageN <= freelistSynced)
		err := s.updateNoRoom(func(tx *bolt.Tx) error {
			if err := l.write(openBuckets(tx)); err != nil {
				return err
			}
			return state.put(tx)
		})
		if !errors.Is(err, errNoRoom) {
			return err
		}
	}
	s.keepFreelist(false) // it takes many pages in a row, and the next open can do without
	var short error
	for _, st := range l.steps(min(budget/2, stepRoom/2), s.pageSize) {
		if err := s.writeStep(st.writes); errors.Is(err, errNoRoom) {
			short = err // others may fit, and what they remove makes room for the next time
		} else if err != nil {
			return err
		}
	}
	if short != nil {
		return short
	}
	return s.updateNoRoom(state.put)
}

// writeStep makes some writes in one transaction, or in several where there is no room for one.
func (s *store) writeStep(writes []write) error {
	err := s.updateNoRoom(func(tx *bolt.Tx) error { return openBuckets(tx).write(writes) })
	n := len(writes)
	if !errors.Is(err, errNoRoom) || n == 1 {
		return err
	}
	first := s.writeStep(writes[:n/2])
	if first != nil && !errors.Is(first, errNoRoom) {
		return first
	}
	// The second half is tried whatever became of the first: what it removes may make room.
	if err := s.writeStep(writes[n/2:]); err != nil {
		return err
	}
	return first
}

// write makes all writes, and counts those of history.
func (b buckets) write(writes []write) error {
	history, counted := int64(0), false
	for _, w := range writes {
		to := w.to(b)
		if to == b.history {
			if !counted {
				history, counted = b.historyOctets(), true
			}
			history += lineOctets(w.value) - lineOctets(to.Get(w.key))
		}
		if err := w.apply(to); err != nil {
			return err
		}
	}
	if !counted {
		return nil
	}
	return b.countHistory(history)
}

func (w write) apply(b *bolt.Bucket) error {
	if w.value == nil {
		return b.Delete(w.key)
	}
	return b.Put(w.key, w.value)
}

func (s *store) updateNoRoom(f func(*bolt.Tx) error) error { return noRoom(s.update(f)) }
