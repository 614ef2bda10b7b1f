package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Queue is opened with.
type Options struct {
	Dir       string // created when missing; the queue's alone
	Hostname  string // names the relay in reports
	Transport Transport
	Policy    Policy
	Log       *slog.Logger

	// hasty is for tests that look at once, or let years pass: outcomes are committed without outcomePatience, and the names
	// of the files are looked at once an hour.
	hasty bool
}

// Queue owns the messages of one folder.
type Queue struct {
	dir       string
	lock      *os.File // see lockQueue
	log       *slog.Logger
	committer *committer
	scheduler *scheduler
	spool     spool
	free      freeSpace
	cache     cache
	ids       idSource
	ages      ages
	watch     watch
	intakeLog intakeLog
	shares    shares
	config    atomic.Pointer[config]
	policy    atomic.Pointer[Policy]

	total       atomic.Int64 // messages in the queue
	owed        atomic.Int64 // octets that their outcomes may need
	pending     atomic.Int64 // messages that are arriving
	bytes       atomic.Int64 // of content in the queue
	records     atomic.Int64 // octets of its records
	quarantined atomic.Int64
	asideMu     sync.Mutex    // held while a message in quarantine is told of, released or deleted
	setAside    chan struct{} // see noteAside
	lost        lostFiles
	lookPause   time.Duration
	pruneNow    chan struct{} // see prune
	pruneDue    atomic.Bool   // history is to be looked through
	// historyGrowth is how many octets of history have come since their size was looked at.
	historyGrowth atomic.Int64
	exports       atomic.Uint64 // messages that were exported
	traffic       traffic
	unrecorded    atomic.Int64 // outcomes that wait to be committed
	closing       atomic.Bool

	ctx      context.Context // of the attempts
	cancel   context.CancelFunc
	attempts sync.WaitGroup
	others   sync.WaitGroup // the queue's own goroutines
	started  bool
	restored ID // the highest id that was in the store at Open
}

type config struct {
	transport Transport
	hostname  string
}

// Open opens the queue in o.Dir, or creates it. The error is ErrLocked when another daemon has it. Nothing is
// delivered before Start.
func Open(o Options) (*Queue, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if err := makeFolder(o.Dir); err != nil {
		remedy := "create it, or set another data_dir"
		if errors.Is(err, fs.ErrExist) {
			remedy = "what has this name is no folder: move it away, or set another data_dir"
		}
		return nil, fmt.Errorf("cannot create the queue's folder: %w; %s", err, remedy)
	}
	spool, err := openSpool(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot create the folder of large messages: %w", err)
	}
	lock, err := lockQueue(o.Dir, true)
	if err != nil {
		return nil, err
	}
	st, err := openStore(o.Dir)
	if err != nil {
		return nil, errors.Join(err, unlockQueue(lock))
	}
	q := &Queue{dir: o.Dir, lock: lock, spool: spool, log: o.Log, ages: ages{began: time.Now()},
		setAside: make(chan struct{}, 1), pruneNow: make(chan struct{}, 1), free: freeSpace{dir: o.Dir, spool: spool.dir}}
	q.free.watch = &q.watch
	q.ctx, q.cancel = context.WithCancel(context.Background())
	patience := outcomePatience
	q.lookPause = lookPause
	if o.hasty {
		patience, q.lookPause = 0, time.Hour
	}
	q.committer = newCommitter(o.Dir, st, o.Log, patience, &q.watch)
	q.free.has, q.free.extend, q.free.owed = q.committer.inside, q.committer.extend, &q.owed
	q.scheduler = newScheduler(q)
	q.Configure(o.Transport, o.Hostname, o.Policy)
	if err := q.restore(st); err != nil {
		return nil, errors.Join(err, st.close(), unlockQueue(lock))
	}
	st.reclaim()
	q.free.keep()
	go q.committer.run()
	return q, nil
}

// restore makes the store's messages known to the scheduler, and removes what a crash has left in the spool.
func (q *Queue) restore(st *store) (err error) {
	st.tell(q.log)
	if st.behind != nil {
		q.log.Error("the disk of the queue is full: what the last run left in the journal stays there; what is queued is delivered, "+
			"and no mail is taken; make room", "error", st.behind)
	}
	removed, err := q.sweep(st)
	if err != nil {
		return fmt.Errorf("cannot clean the spool: %w", err)
	}
	damaged, err := st.slots(func(sl slot) {
		q.scheduler.insert(&item{slot: sl})
		q.total.Add(1)
		q.bytes.Add(sl.Size)
		q.records.Add(sl.record())
		q.shares.count(sl.Source.client, 1, sl.octets())
		q.owed.Add(sl.outcomeRoom())
	})
	if err != nil {
		return fmt.Errorf("cannot read the queue in %s: %w", q.dir, err)
	}
	_ = st.release()
	if damaged > 0 {
		q.log.Error("lines of the due index are damaged; they are made anew from their messages", "lines", damaged)
	}
	if q.restored, err = st.last(); err != nil {
		return err
	}
	q.ids.last = q.restored
	n, err := st.quarantined()
	if err != nil {
		return err
	}
	q.quarantined.Store(int64(n))
	if q.total.Load() > 0 || removed > 0 || n > 0 {
		q.log.Info("queue opened", "messages", q.total.Load(), "bytes", q.bytes.Load(), "unfinished_removed", removed, "quarantined", n)
	}
	return nil
}

// sweep removes the files of the spool that no record names, and returns how many: a crash has left those of messages
// that were arriving. When records may be lost, it keeps the files and says so.
func (q *Queue) sweep(st *store) (removed int, err error) {
	if !st.any() && !st.created {
		return q.spool.sweep(st.has, q.spool.remove)
	}
	kept, err := q.spool.sweep(st.has, func(id ID) error { return st.setAside(q.spool, id) })
	if kept > 0 {
		q.log.Error("files of the spool belong to no message; their records may be lost", "files", kept, "kept_in", st.kept)
	}
	return 0, err
}

// Start begins to deliver.
func (q *Queue) Start() {
	q.started = true
	q.others.Go(q.scheduler.run)
	q.others.Go(q.prune)
	q.others.Go(q.warnings)
	q.others.Go(q.audit)
	q.others.Go(q.watchIntake)
	q.others.Go(q.tellQuarantine)
	q.others.Go(q.lookAfter)
}

// Configure replaces the transport, the name in reports and the policy, and has every route tried anew.
func (q *Queue) Configure(t Transport, hostname string, p Policy) {
	q.config.Store(&config{t, hostname})
	q.policy.Store(&p)
	q.free.setMin(p.MinFree)
	q.pruneDue.Store(true)
	q.wakePrune()
	if q.started {
		q.Retry()
	}
}

// Retry has every route tried at once that waits for its smarthost to be back.
func (q *Queue) Retry() { q.scheduler.post(q.scheduler.openAll) }

// Close ends the queue in order: no message begins, running attempts may end until ctx does and are cut short then,
// what they came to is committed, and the store is closed. Writers must be done before.
func (q *Queue) Close(ctx context.Context) error {
	q.closing.Store(true)
	if q.started {
		q.scheduler.do(func() { q.scheduler.draining = true })
		done := make(chan struct{})
		go func() { q.attempts.Wait(); close(done) }()
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	q.cancel()
	q.attempts.Wait()
	if q.started {
		done := make(chan struct{})
		q.others.Go(func() { q.finishPending(); close(done) })
		select {
		case <-done:
		case <-time.After(pendingPatience):
			q.log.Warn("the queue's store does not answer; what operators asked for of messages in flight may be lost")
		}
	}
	err := q.committer.close()
	if q.started {
		q.scheduler.post(func() { q.scheduler.quit = true })
	}
	q.others.Wait()
	return errors.Join(err, unlockQueue(q.lock))
}

// pendingPatience is how long Close waits for finishPending, which a store that is away holds up; pendingPause is how
// long that waits for items that somebody else is about to give back.
const (
	pendingPatience = 5 * time.Second
	pendingPause    = 10 * time.Millisecond
)

// finishPending does what operators asked for of messages whose attempts have ended with the daemon.
func (q *Queue) finishPending() {
	// Once an empty request is through, so are the outcomes before it, and the scheduler knows them.
	if err := q.committer.commit(true); err != nil {
		return
	}
	for busy := true; busy; {
		claimed := make(map[*item][]Action)
		if !q.scheduler.do(func() {
			busy = q.scheduler.busy > 0 // with an action, or a warning, that is being written
			for _, it := range q.scheduler.items {
				if it.asked() && q.scheduler.claim(it) {
					claimed[it] = it.takeAsked()
				}
			}
		}) {
			return
		}
		for it, actions := range claimed {
			if err := q.operate([]*item{it}, actions); err != nil {
				q.log.Warn("an operator's action could not be done before the end", "error", err)
				return
			}
		}
		if busy {
			<-time.After(pendingPause)
		}
	}
}

// audit looks once, after the start, for messages that the due index does not name, and gives them their line back. The
// start itself does not look at messages, so that it takes no longer for a long queue.
func (q *Queue) audit() {
	pages := 0
	for after := ID(0); after < q.restored; {
		var records []*record
		last := after
		err := q.committer.read(func(s *store) (err error) {
			records, last, err = s.page(after, applyBatch)
			return err
		})
		if err == nil && last == after {
			return
		}
		if err == nil {
			q.safely("the audit of the due index", func() { q.restoreSlots(records) })
			after = last
			if pages++; pages%auditRelease == 0 {
				_ = q.committer.read((*store).release)
			}
		}
		select {
		case <-q.ctx.Done():
			return
		case <-time.After(auditPause):
		}
	}
}

// auditPause is how long the audit rests between two pages, auditRelease how many pages it looks at before it gives the
// memory back that it read them through.
const (
	auditPause   = 20 * time.Millisecond
	auditRelease = 20
)

func (q *Queue) restoreSlots(records []*record) {
	var missing []*record
	q.scheduler.do(func() {
		for _, r := range records {
			if r.ID <= q.restored && q.scheduler.items[r.ID] == nil {
				missing = append(missing, r)
			}
		}
	})
	for _, r := range missing {
		// It may have been settled since the page was read; the record goes before the item does.
		var found bool
		if err := q.retryRead(func(s *store) (err error) { found, err = s.queued(r.ID); return err }); err != nil || !found {
			continue
		}
		sl := q.slotOf(r)
		if err := q.committer.commit(true, &change{id: r.ID, newSlot: sl, hasNew: true}); err != nil {
			return
		}
		q.log.Error("a message was missing in the due index; it is back", "queue_id", r.ID.String())
		q.scheduler.add(sl, nil)
	}
}

func (q *Queue) now() time.Time       { return time.Now() }
func (q *Queue) transport() Transport { return q.config.Load().transport }
func (q *Queue) hostname() string     { return q.config.Load().hostname }
