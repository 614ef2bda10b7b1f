package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A line of history stays of each message that leaves the queue. It goes when it is old, and before that when all lines
// take more than they may or the disk has little room: history stops no mail.

const (
	// pruneLimit is how many lines of history one commit removes, and pruneStep how many octets when room is short.
	pruneLimit = 10_000
	pruneStep  = 4 << 20
	// pruneEvery is how often lines are looked for that are old, and pruneAgain how soon after a commit that left some.
	pruneEvery = time.Hour
	pruneAgain = 100 * time.Millisecond
	// pruneRoom is how much room above min_free history leaves for mail, in octets, and pruneGrowth how many octets of
	// lines come until their size is looked at.
	pruneRoom   = 16 << 20
	pruneGrowth = 1 << 20
)

// pruning asks for lines of history to be removed, the oldest first.
type pruning struct {
	before time.Time // those of messages that were received and settled before
	most   int64     // and as many as leave so many octets
	done   int       // how many were removed, at most pruneLimit
	short  bool      // the disk has little room
}

// prune removes history that is old or takes too much room, a few lines at a time.
func (q *Queue) prune() {
	q.free.refresh(statPatience)
	for pause := time.Minute; ; {
		due := false
		select {
		case <-q.ctx.Done():
			return
		case <-q.pruneNow:
			due = q.pruneDue.Swap(false)
		case <-time.After(pause):
			due = true
		}
		pause = pruneEvery
		p := q.prunes(*q.policy.Load(), due)
		if p == nil {
			continue
		}
		q.forgetUndeliverable()
		err := q.committer.await(&request{changes: []*change{{prune: p}}, keep: true, optional: true})
		if err != nil && !errors.Is(err, errNoRoom) {
			return
		}
		if p.done > 0 && (p.done == pruneLimit || p.short) {
			pause = pruneAgain
		}
	}
}

// prunes returns what is to be removed now: nil while history is neither due to be looked through nor too large.
func (q *Queue) prunes(p Policy, due bool) *pruning {
	var have int64
	if q.committer.read(func(s *store) (err error) { have, err = s.historyOctets(); return err }) != nil {
		return nil
	}
	out := &pruning{before: q.now().Add(-p.History), most: math.MaxInt64} // what comes meanwhile is not to be counted against it
	if p.HistoryMaxSize > 0 {
		out.most = p.HistoryMaxSize
	}
	if q.free.short(pruneRoom) {
		q.free.refresh(statPatience) // what is known may be old
		// When the disk would be full without history, too, it stays.
		if out.short = q.free.shortFor(pruneRoom, have); out.short {
			out.most = max(0, min(out.most, have-pruneStep))
		}
	}
	if !due && have <= out.most {
		return nil
	}
	return out
}

// grow notes that history has grown by so many octets.
func (q *Queue) grow(octets int) {
	if q.historyGrowth.Add(int64(octets)) >= pruneGrowth {
		q.historyGrowth.Store(0)
		q.wakePrune()
	}
}

// wakePrune has it looked whether history is to be pruned.
func (q *Queue) wakePrune() {
	select {
	case q.pruneNow <- struct{}{}:
	default:
	}
}

const (
	historyKey = "history" // in the bucket of the journal: how many octets the lines of history take
	// historyLine is what a line takes beside its value: its key, and its place in a page.
	historyLine = 24
)

// historyOctets returns how many octets the lines of history take.
func (s *store) historyOctets() (n int64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	err = s.view(func(tx *bolt.Tx) error { n = openBuckets(tx).historyOctets(); return nil })
	s.layers(func(l *layer) bool {
		for _, p := range l.history {
			n += lineOctets(p.value)
		}
		return false
	})
	return n, err
}

func (b buckets) historyOctets() (n int64) {
	if v, err := openValue(b.journal.Get([]byte(historyKey))); err == nil && len(v) == 8 {
		return int64(binary.BigEndian.Uint64(v))
	}
	c := b.history.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		n += lineOctets(v)
	}
	return n
}

// countHistory notes that the lines of history take n octets.
func (b buckets) countHistory(n int64) error {
	return b.journal.Put([]byte(historyKey), sealValue(binary.BigEndian.AppendUint64(nil, uint64(max(0, n)))))
}

// lineOctets returns how many octets a line of history takes with its value, which is nil for none.
func lineOctets(value []byte) int64 {
	if value == nil {
		return 0
	}
	return int64(len(value)) + historyLine
}

// pruneHistory removes lines of history, the oldest ids first.
func (b buckets) pruneHistory(p *pruning) error {
	var old [][]byte
	have := b.historyOctets()
	c := b.history.Cursor()
	for k, v := c.First(); k != nil && len(old) < pruneLimit; k, v = c.Next() {
		if have <= p.most {
			r, err := decodeRecord(0, v)
			if err == nil && !r.ReceivedAt.Before(p.before) {
				break
			}
			if err == nil && len(r.Events) > 0 && !r.Events[len(r.Events)-1].At.Before(p.before) {
				continue
			}
		}
		old = append(old, bytes.Clone(k))
		have -= lineOctets(v)
	}
	for _, k := range old {
		if err := b.history.Delete(k); err != nil {
			return err
		}
	}
	p.done = len(old)
	return b.countHistory(have)
}
