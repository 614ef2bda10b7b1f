package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
	"relayd/internal/envelope"
	"relayd/internal/pace"
)

// life is the daemon from a start to its stop or its death. It is the queue's transport and its log too, which are
// places where it can die.
type life struct {
	w        *world
	q        *Queue
	book     *pace.Book
	accounts map[string]*pace.Account // by route
	dir      string
	left     atomic.Int64 // moments until it dies, when that is above 0
	commits  atomic.Int64 // commits until it dies amid one, when that is above 0
	tear     uint64       // what is left of that commit
	lies     atomic.Bool  // the next commit reaches the disk and says that it failed
	draining bool         // as the fields below, under w.mu
	broken   bool         // its store fails
	dead     bool
	copied   string // the folder as it was at its death
}

// open starts the daemon in a new folder.
func (w *world) open() { w.startLife(filepath.Join(w.dir, fmt.Sprintf("life%d", w.nextLife())), false) }

func (w *world) nextLife() int {
	w.lives++
	return w.lives
}

// startLife opens and starts a queue in dir, whose records are held against the ledger before it delivers anything.
// lossy says that the last life may have ended with outcomes that were not recorded.
func (w *world) startLife(dir string, lossy bool) {
	lf := &life{w: w, dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.rt.Fatal(err)
	}
	w.openAccounts(lf)
	q, err := Open(Options{hasty: true, Dir: dir, Hostname: "relay.example", Transport: lf, Policy: w.policy, Log: slog.New(lf)})
	if err != nil {
		w.rt.Fatalf("Open: %v", err)
	}
	lf.q = q
	c := q.committer
	c.mu.Lock()
	lf.quicken(c.store)
	c.open = lf.reopen
	c.mu.Unlock()
	w.life = lf
	w.checkFolder(w.rt, dir)
	w.reconcile(w.rt, lossy)
	time.Sleep(time.Second) // a daemon does not start in the millisecond in which the last one ended
	q.Start()
}

// quicken spares the store what only takes time here: syncs, since nobody pulls the plug, and a large file. It puts lf
// around its commits.
func (lf *life) quicken(st *store) {
	quicken(st)
	st.around = func(commit func() error) error { return lf.commit(st, commit) }
}

func (lf *life) reopen(dir string) (*store, error) {
	st, err := openStore(dir)
	if err == nil {
		lf.quicken(st)
	}
	return st, err
}

// stop ends the daemon in order, with patience for what is under way.
func (w *world) stop(rt *rapid.T, patience time.Duration) {
	synctest.Wait()
	lf := w.life
	w.mu.Lock()
	lf.draining = true
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := errors.Join(lf.q.Close(ctx), lf.book.Close()); err != nil {
		rt.Fatalf("Close: %v", err)
	}
	w.reportFaults(rt)
	if _, err := lf.q.Begin(testEnvelope("a@a.example"), envelope.Origin{}); !errors.Is(err, ErrClosed) {
		rt.Fatalf("Begin after Close: %v", err)
	}
	if _, err := lf.q.Apply(ActionHold, nil); !errors.Is(err, ErrClosed) {
		rt.Fatalf("Apply after Close: %v", err)
	}
}

func (w *world) restart(rt *rapid.T) {
	patience := rapid.SampledFrom([]time.Duration{time.Minute, 0}).Draw(rt, "patience")
	w.logf("stop and start")
	for _, l := range w.writing {
		w.abort(l)
	}
	w.writing = nil
	w.stop(rt, patience)
	if !w.life.broken {
		w.checkFolder(rt, w.life.dir)
	}
	w.startLife(w.life.dir, w.life.broken)
}

// crash kills the daemon, if it has not died yet, and starts another one on what it left.
func (w *world) crash(rt *rapid.T) {
	w.life.arm(0)
	w.life.moment()
	w.logf("killed and started")
	w.abandon(w.life)
	w.writing = nil
	w.reportFaults(rt)
	w.startLife(w.life.copied, true)
}

// abandon lets the goroutines of a life that is over end.
func (w *world) abandon(lf *life) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, l := range w.writing {
		_ = l.writer.Abort()
	}
	_ = lf.q.Close(ctx)
	_ = os.RemoveAll(lf.dir)
}

// close ends the world in whatever state a failed check has left it.
func (w *world) close() {
	if lf := w.life; lf != nil {
		w.mu.Lock()
		lf.dead = true
		w.mu.Unlock()
		if !lf.q.closing.Load() {
			w.abandon(lf)
		}
		_ = os.RemoveAll(lf.dir)
	}
}

// arm has the daemon die at the n-th of the moments to come.
func (lf *life) arm(n int) { lf.left.Store(int64(n) + 1) }

// moment is one at which the daemon can die: its folder is copied as it is then, and what it does later did not happen.
func (lf *life) moment() {
	if lf.left.Add(-1) != 0 {
		return
	}
	w, c := lf.w, lf.q.committer
	c.mu.Lock() // between two commits; and before w.mu, as in a commit
	defer c.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if lf.dead {
		return
	}
	lf.dead = true
	lf.copied = filepath.Join(w.dir, fmt.Sprintf("life%d", w.nextLife()))
	if c.store != nil {
		c.store.commits.Lock() // the journal stands still
		defer c.store.commits.Unlock()
	}
	if err := copyFolder(lf.copied, lf.dir, c.store); err != nil {
		w.fault("cannot copy the folder: %v", err)
	}
}

// copyFolder copies a queue as a crash would leave it now. A layer may be on its way to the database: then the copy has
// what was there before. The caller holds st.commits.
func copyFolder(to, from string, st *store) error {
	if err := os.MkdirAll(filepath.Join(to, "spool"), 0o700); err != nil {
		return err
	}
	var err error
	if st == nil || st.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(filepath.Join(to, databaseName), 0o600) }) != nil {
		err = copyFile(to, from, databaseName) // that of a store that has failed
	}
	err = errors.Join(err, copyFile(to, from, markerName), copyFile(to, from, journalName(0)), copyFile(to, from, journalName(1)))
	if e := copyFile(to, from, "pace.json"); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	spooled, readErr := os.ReadDir(filepath.Join(from, "spool"))
	for _, e := range spooled {
		// One that is removed meanwhile was needed by no record any more.
		if e := copyFile(to, from, filepath.Join("spool", e.Name())); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, readErr)
}

// copyFile copies the file called name.
func copyFile(to, from, name string) error {
	src, err := os.Open(filepath.Join(from, name))
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(to, name))
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// breakStore makes every commit fail until the store has been opened anew, which fails some times first. With lies the
// one commit that fails has reached the disk all the same.
func (w *world) breakStore(rt *rapid.T, fails int, lies bool) {
	synctest.Wait()
	w.logf("the store fails (it lies: %v); %d tries to open it will too", lies, fails)
	w.mu.Lock()
	lf := w.life
	lf.broken = true
	w.mu.Unlock()
	c := lf.q.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	if lies {
		lf.lies.Store(true)
	} else if err := sever(c.store); err != nil {
		rt.Fatal(err)
	}
	c.open = func(dir string) (*store, error) {
		if fails--; fails >= 0 {
			return nil, errors.New("injected: the disk is away")
		}
		st, err := lf.reopen(dir)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		lf.broken = false
		return st, nil
	}
}

// The log. What is committed is logged before anything follows from it, on the committer's own goroutine where it has
// written an outcome: moments to die at.

func (lf *life) Enabled(context.Context, slog.Level) bool { return true }
func (lf *life) WithAttrs([]slog.Attr) slog.Handler       { return lf }
func (lf *life) WithGroup(string) slog.Handler            { return lf }

func (lf *life) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "received", "delivered", "deferred", "failed", "reported", "held", "released", "retry", "deleted", "waiting":
		lf.moment()
	}
	return nil
}
