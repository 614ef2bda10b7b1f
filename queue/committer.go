package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"relayd/internal/envelope"
)

// errStore: the last commit failed and the store is being opened again. The client is asked to come back.
var errStore = fmt.Errorf("the queue's store has failed: %w", envelope.Reply{
	Code: 451, Enhanced: envelope.EnhancedCode{4, 3, 0}, Text: "The mail queue cannot be written at the moment; try again later"})

// request is what one caller wants committed together.
type request struct {
	changes []*change
	// keep makes the request outlive a failed commit: it is committed again once the store is back. Without it done
	// gets errStore, and what may have reached the disk is undone.
	keep bool
	done func(error)
	// optional gives the request up when the disk has no room for it.
	optional bool
	// undone, where it is set, is called after done got errStore, once it is sure that nothing of the request is on disk.
	undone func()
}

// committer is the one goroutine that writes. It takes one request, drains what else is waiting, and commits all in
// one transaction, so that the price of a flush is shared by all who wait for it.
//
// After a commit error nothing is known of the batch (a failed fdatasync must not be tried again as if nothing had
// happened). The committer then takes no more mail, closes the store, opens it anew, removes what callers were told
// has failed, and commits what must not get lost.
type committer struct {
	dir  string
	log  *slog.Logger
	open func(dir string) (*store, error)
	// patience is how long outcomes alone wait for an intake, to be committed with it.
	patience time.Duration
	watch    *watch // of calls to the disk

	requests chan *request
	failing  chan struct{} // the store has failed by itself
	quit     chan struct{} // a recovery gives up
	last     chan struct{} // no request comes any more
	stopped  chan struct{}
	broken   atomic.Bool           // no mail is taken
	cause    atomic.Pointer[error] // why the store has failed last
	full     atomic.Bool           // that is because the disk is full
	gate     sync.RWMutex          // held for reading while a request is handed over
	closed   bool

	mu    sync.RWMutex // held for writing while the store is replaced
	store *store
}

// Bounds of one commit.
const (
	batchRequests = 1000
	batchBytes    = 8 << 20
	reopenPause   = 100 * time.Millisecond
	reopenMax     = 5 * time.Second
)

func newCommitter(dir string, st *store, log *slog.Logger, patience time.Duration, w *watch) *committer {
	c := &committer{
		dir: dir, log: log, open: openStore, store: st, patience: patience, watch: w,
		requests: make(chan *request, batchRequests),
		failing:  make(chan struct{}, 1),
		quit:     make(chan struct{}),
		last:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	st.watch = w
	st.attend(c.fail)
	return c
}

// fail tells the committer that its store has failed although nobody is committing.
func (c *committer) fail() {
	select {
	case c.failing <- struct{}{}:
	default:
	}
}

// submit hands r over. Its done is called exactly once, on another goroutine or on this one.
func (c *committer) submit(r *request) {
	for _, ch := range r.changes {
		if err := ch.encode(); err != nil {
			r.done(fmt.Errorf("%s: %w", ch.id, err))
			return
		}
	}
	if c.broken.Load() && !r.keep {
		r.refuse(c.unable())
		return
	}
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.closed {
		r.done(ErrClosed)
		return
	}
	c.requests <- r // the committer takes requests until it is closed
}

// unable returns why no mail is taken.
func (c *committer) unable() error {
	if c.full.Load() {
		return errDiskFull
	}
	return errStore
}

// refuse answers a request of which nothing was written.
func (r *request) refuse(why error) {
	r.done(why)
	if r.undone != nil {
		r.undone()
	}
}

// inside is store.inside; nothing while the store is away, or being opened.
func (c *committer) inside() int64 {
	if !c.mu.TryRLock() {
		return 0
	}
	defer c.mu.RUnlock()
	if c.store == nil {
		return 0
	}
	return c.store.inside()
}

// extend is store.extend.
func (c *committer) extend(n int64) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.store == nil {
		return errStore
	}
	defer c.watch.begin("reserving room on the disk")()
	return c.store.extend(n)
}

// commit submits changes and waits for them.
func (c *committer) commit(keep bool, changes ...*change) error {
	return c.await(&request{changes: changes, keep: keep})
}

// await submits r and waits for it.
func (c *committer) await(r *request) error {
	done := make(chan error, 1)
	r.done = func(err error) { done <- err }
	c.submit(r)
	return <-done
}

// read runs f with the store, which stays open meanwhile. f must be brief: an open reader can hold up a commit. A store
// that cannot be read is opened anew, like one that cannot be written.
func (c *committer) read(f func(*store) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.store == nil {
		return errStore
	}
	end := c.watch.begin("reading the queue's database")
	err := f(c.store)
	end()
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) || errors.Is(err, errDatabase) {
		c.store.fail(err)
		c.fail()
		return errStore
	}
	return err
}

func (c *committer) run() {
	defer close(c.stopped)
	for {
		select {
		case first := <-c.requests:
			c.write(c.gather(first))
		case <-c.failing:
			c.write(nil)
		case <-c.last:
			for {
				select {
				case first := <-c.requests:
					c.write(c.drain([]*request{first}))
				default:
					return
				}
			}
		}
	}
}

// gather returns what first is committed with: all that waits already. Outcomes alone, for which no client is waiting,
// wait a moment for the next intake, so that they cost no flush of their own.
func (c *committer) gather(first *request) []*request {
	batch := c.drain([]*request{first})
	if c.patience <= 0 || !patient(batch) {
		return batch
	}
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	for len(batch) < outcomeBatch {
		select {
		case r := <-c.requests:
			if batch = c.drain(append(batch, r)); !patient(batch) {
				return batch
			}
		case <-timer.C:
			return batch
		case <-c.quit:
			return batch
		}
	}
	return batch
}

const (
	// outcomePatience is the patience of a queue: long for a client that sends one message after the other, short for
	// what a crash would have delivered twice.
	outcomePatience = 4 * time.Millisecond
	// outcomeBatch is how many outcomes are worth a flush of their own.
	outcomeBatch = 16
)

func patient(batch []*request) bool {
	for _, r := range batch {
		if !r.keep {
			return false
		}
	}
	return true
}

// drain adds to batch what waits already.
func (c *committer) drain(batch []*request) []*request {
	bytes := 0
	for _, r := range batch {
		bytes += r.size()
	}
	for len(batch) < batchRequests && bytes < batchBytes {
		select {
		case r := <-c.requests:
			batch = append(batch, r)
			bytes += r.size()
		default:
			return batch
		}
	}
	return batch
}

func (r *request) size() (n int) {
	for _, ch := range r.changes {
		n += ch.size()
	}
	return n
}

func (c *committer) write(batch []*request) {
	err := c.apply(collect(batch))
	if errors.Is(err, errNoRoom) {
		batch, err = c.withoutRoom(batch, err)
	}
	if err == nil {
		for _, r := range batch {
			r.done(nil)
		}
		return
	}
	if !errors.Is(err, ErrClosed) {
		c.recover(batch, err)
		return
	}
	for _, r := range batch {
		r.done(err)
	}
}

// withoutRoom answers the intake of a batch for which the disk has no room, and works until what is to be kept is on
// disk. It returns what is left, and the error that is not a full disk. The store stays open meanwhile: what is queued
// can be read, and delivered.
func (c *committer) withoutRoom(batch []*request, cause error) (kept []*request, err error) {
	c.full.Store(true)
	c.broken.Store(true)
	defer c.full.Store(false)
	defer c.broken.Store(false)
	for _, r := range batch {
		if r.keep {
			kept = append(kept, r)
		} else {
			r.refuse(fmt.Errorf("%w: %w", errDiskFull, cause))
		}
	}
	for told := false; ; {
		if kept, err = c.commitEach(kept); err != nil || len(kept) == 0 {
			if told && err == nil {
				c.log.Info("the disk of the queue has room again")
			}
			return kept, err
		}
		if !told {
			c.log.Error("the disk of the queue is full; outcomes wait for room to be recorded, and no mail is taken; make room", "error", cause)
			told = true
		}
		more, ok := c.wait(roomPause/4, maxUnrecorded-len(kept))
		if kept = append(kept, more...); !ok {
			return kept, ErrClosed
		}
	}
}

// commitEach commits requests one by one, so that one that needs more room than there is holds up no other, and returns
// those for which there was none. After another error it returns all that is not done.
func (c *committer) commitEach(requests []*request) (left []*request, err error) {
	for i, r := range requests {
		switch err := c.apply(r.changes); {
		case errors.Is(err, errNoRoom) && r.optional:
			r.done(err)
		case errors.Is(err, errNoRoom):
			left = append(left, r)
		case err != nil:
			return append(left, requests[i:]...), err
		default:
			r.done(nil)
		}
	}
	return left, nil
}

// maxUnrecorded is how many outcomes may wait for room on the disk. A crash would have their messages delivered again.
const maxUnrecorded = 256

func (c *committer) apply(changes []*change) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.store == nil {
		return errStore
	}
	defer c.watch.begin("writing the queue's journal")()
	return c.store.commit(changes)
}

func collect(batch []*request) []*change {
	changes := make([]*change, 0, len(batch))
	for _, r := range batch {
		changes = append(changes, r.changes...)
	}
	return changes
}

// recover answers the callers that can be answered, and works until the store holds what the others were promised.
func (c *committer) recover(batch []*request, cause error) {
	c.cause.Store(&cause)
	c.broken.Store(true)
	defer c.broken.Store(false)
	c.log.Error("the queue's store has failed; no mail is taken until it is back", "error", cause)
	var kept, failed []*request
	var undo []*change
	for _, r := range batch {
		if r.keep {
			kept = append(kept, r)
			continue
		}
		for _, ch := range r.changes {
			undo = append(undo, ch.undo())
		}
		failed = append(failed, r)
		r.done(errStore)
	}
	for pause := reopenPause; ; pause = min(2*pause, reopenMax) {
		err := c.rescue()
		if err == nil {
			err = c.reopen(append(undo, collect(kept)...))
		}
		if err == nil {
			break
		}
		c.log.Error("the queue's store is still failing", "error", err, "next_try", pause.String())
		more, ok := c.wait(pause, math.MaxInt)
		if kept = append(kept, more...); ok {
			continue
		}
		for _, r := range kept {
			r.done(ErrClosed)
		}
		return
	}
	c.log.Info("the queue's store is back")
	for _, r := range failed {
		if r.undone != nil {
			r.undone()
		}
	}
	for _, r := range kept {
		r.done(nil)
	}
}

// wait waits out a pause of the recovery. Intake that was handed over before the store failed gets its answer; what
// is to be kept joins the rest, about limit requests at most. ok is false when the committer is being closed.
func (c *committer) wait(pause time.Duration, limit int) (kept []*request, ok bool) {
	after := time.After(pause)
	for {
		requests := c.requests
		if len(kept) >= limit {
			requests = nil
		}
		select {
		case <-after:
			return kept, true
		case r := <-requests:
			if r.keep {
				kept = append(kept, r)
			} else {
				r.refuse(c.unable())
			}
		case <-c.quit:
			return kept, false
		}
	}
}

// rescue writes anew what the store has, when the names of its files have gone astray.
func (c *committer) rescue() error {
	if c.store == nil { // which only this goroutine changes
		return nil
	}
	lost, err := c.store.rescue()
	if lost != nil && err == nil {
		c.log.Error("files of the queue were gone; they were written anew from what relayd had of them", "error", lost)
	}
	return err
}

func (c *committer) reopen(changes []*change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.watch.begin("opening the queue's store again")()
	if c.store != nil {
		if err := c.store.abandon(); err != nil {
			c.log.Warn("closing the failed store", "error", err)
		}
		c.store = nil
	}
	st, err := c.open(c.dir)
	if err != nil {
		return err
	}
	st.tell(c.log)
	st.watch = c.watch
	st.reclaim()
	st.attend(c.fail)
	for _, ch := range changes {
		ch.again = true
	}
	if err := st.commit(changes); err != nil {
		return errors.Join(err, st.abandon())
	}
	c.store = st
	return nil
}

// close commits what was submitted, stops the goroutine and closes the store.
func (c *committer) close() error {
	close(c.quit)
	c.gate.Lock() // what is being handed over is taken first
	c.closed = true
	c.gate.Unlock()
	close(c.last)
	<-c.stopped
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.store == nil {
		return nil
	}
	st := c.store
	c.store = nil
	return st.close()
}
