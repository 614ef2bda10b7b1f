package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

// breakStore makes the store as on a disk that went read-only: it can be read until the first commit fails, and not be
// opened again before the returned function was called.
func (r *rig) breakStore() (mend func()) {
	r.t.Helper()
	var back atomic.Bool
	c := r.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(settled(c.store), c.store.journal.close()); err != nil { // no append gets through
		r.t.Fatal(err)
	}
	reopen := c.open
	c.open = func(dir string) (*store, error) {
		if !back.Load() {
			return nil, errors.New("injected: the disk is away")
		}
		return reopen(dir)
	}
	return func() { back.Store(true) }
}

// quicken spares a store what only takes time where nobody pulls the plug: syncs, and a large file.
func quicken(st *store) { st.db.NoSync, st.db.AllocSize, st.journal.unsynced = true, 64<<10, true }

// settled brings the database up to date, for a look at it.
func settled(s *store) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	return s.flush()
}

// sever makes every commit to the store fail, and every read.
func sever(s *store) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	if s.written != nil {
		<-s.written
	}
	return errors.Join(s.journal.close(), s.db.Close())
}

// notice has the store fail as when its background work fails.
func (c *committer) notice() {
	_ = c.read(func(s *store) error { return s.fail(errors.New("injected: the disk has gone")) })
	c.fail()
}

// change writes to the store behind the queue's back.
func (r *rig) change(c *change) {
	r.t.Helper()
	if err := r.committer.read(func(s *store) error { return s.commit([]*change{c}) }); err != nil {
		r.t.Fatal(err)
	}
}

func mustID(t *testing.T, s string) ID {
	t.Helper()
	id, err := ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// dueLines counts the lines of the due index, good ones and damaged ones.
func dueLines(t *testing.T, s *store) (n int) {
	t.Helper()
	if err := settled(s); err != nil {
		t.Fatal(err)
	}
	if err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketDue()).ForEach(func(_, _ []byte) error { n++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A commit that comes after the end is refused at once, and never waits for a committer that is gone.
func TestCommitter_AnswersWhatComesAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 { // whoever submits and whoever ends meet in any order
			dir := t.TempDir()
			st, err := openStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			c := newCommitter(dir, st, slog.New(slog.DiscardHandler), 0, nil)
			go c.run()
			if err := c.close(); err != nil {
				t.Fatal(err)
			}
			rec := newRecord(1, testEnvelope("a@example.com"), envelope.Origin{}, time.Now())
			done := make(chan error, 1)
			go func() { done <- c.commit(true, &change{id: 1, put: rec}) }()
			select {
			case err := <-done:
				if !errors.Is(err, ErrClosed) {
					t.Fatalf("a commit after the end: %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("a commit after the end is never answered")
			}
		}
	})
}

// Close ends although the queue itself is about to change a message, wherever that change has come to.
func TestClose_IsNotHeldUpByTheQueuesOwnChanges(t *testing.T) {
	for _, step := range []int32{1, 2} { // a warning asks for its route when it is considered, and when it is written
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				goOn := make(chan struct{})
				tr := newFakeTransport()
				tr.legs = func(env envelope.Envelope) []envelope.Leg {
					if env.ReversePath.IsNull() && asked.Add(1) == step {
						<-goOn
					}
					return byDomain(env)
				}
				tr.set(func(context.Context, string, envelope.Message) envelope.Attempt { return siteDown(time.Minute) })
				r := openRig(t, t.TempDir(), tr, warningPolicy())
				r.Start()
				r.send("a@example.com")
				time.Sleep(5 * time.Hour)
				if asked.Load() != step {
					t.Fatalf("the warning has come to step %d", asked.Load())
				}
				closed := make(chan error, 1)
				go func() { closed <- r.Close(context.Background()) }()
				synctest.Wait()
				close(goOn)
				select {
				case err := <-closed:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(time.Minute):
					t.Fatal("Close hangs")
				}
			})
		})
	}
}

// Close does not wait for a disk that is away, not even with an operator's action to be done.
func TestClose_DoesNotWaitForADiskThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.set(func(context.Context, string, envelope.Message) envelope.Attempt {
			time.Sleep(10 * time.Second)
			return siteDown(time.Hour)
		})
		dir := t.TempDir()
		r := openRig(t, dir, tr, testPolicy)
		r.Start()
		id := r.send("a@example.com")
		synctest.Wait()
		if _, err := r.Apply(ActionHold, []string{id}); err != nil {
			t.Fatal(err)
		}
		mend := r.breakStore()
		time.Sleep(time.Minute)
		if !r.committer.broken.Load() {
			t.Fatal("nothing was committed; the test shows nothing")
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = r.Close(ctx) // it may say that the store has failed
		}()
		select {
		case <-closed:
		case <-time.After(time.Hour):
			mend()
			<-closed
			t.Fatal("Close waits for the disk")
		}
		second := openRig(t, dir, tr, testPolicy)
		second.Start()
		defer second.stop()
		if d, err := second.Show(id); err != nil || d.Gone {
			t.Errorf("after the restart: %+v, %v", d, err)
		}
	})
}

// A stop while the store is away sets nothing aside and loses nothing, whether or not the store comes back meanwhile.
func TestClose_WhileTheStoreIsAwayLosesNothing(t *testing.T) {
	for name, mended := range map[string]bool{"it stays away": false, "it is back just now": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, dir := newFakeTransport(), t.TempDir()
				first := openRig(t, dir, tr, testPolicy)
				first.send("a@example.com")
				first.stop()
				r := openRig(t, dir, tr, testPolicy)
				mend := r.breakStore()
				w, err := r.Begin(testEnvelope("b@example.com"), envelope.Origin{})
				if err != nil {
					t.Fatal(err)
				}
				assertReply(t, w.Commit(context.Background()), 451)
				time.Sleep(time.Millisecond) // the store is given up
				r.Start()
				time.Sleep(800 * time.Millisecond)
				if mended {
					mend()
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				_ = r.Close(ctx) // it may say that the store has failed
				second := openRig(t, dir, tr, testPolicy)
				second.Start()
				defer second.stop()
				time.Sleep(time.Minute)
				if tr.deliveredTo("a@example.com") != 1 || tr.deliveredTo("b@example.com") != 0 {
					t.Errorf("a was delivered to %d times (want 1), b, whose client got a 451, %d times (want 0); the log of the stop:\n%s",
						tr.deliveredTo("a@example.com"), tr.deliveredTo("b@example.com"), r.log)
				}
				if c := second.Counts(); c != (Counts{}) {
					t.Errorf("after the restart: %+v", c)
				}
			})
		})
	}
}

// A failed commit may have reached the disk all the same. The file of its large message stays until that is undone: a crash
// in between leaves a whole message or none, and nobody is told of damage.
func TestCommitter_FileStaysAsLongAsItsRecordMayBeOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		var back atomic.Bool
		r.committer.mu.Lock()
		reopen := r.committer.open
		r.committer.open = func(dir string) (*store, error) {
			if !back.Load() {
				return nil, errors.New("injected: the disk is away")
			}
			return reopen(dir)
		}
		r.committer.store.around = func(commit func() error) error {
			return errors.Join(commit(), errors.New("injected: the disk does not answer for what it has written"))
		}
		r.committer.mu.Unlock()
		w, err := r.Begin(testEnvelope("a@example.com"), envelope.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("large\r\n"), inlineLimit)); err != nil {
			t.Fatal(err)
		}
		assertReply(t, w.Commit(t.Context()), 451)
		killed, tr := t.TempDir(), newFakeTransport()
		if err := copyFolder(killed, r.dir, nil); err != nil {
			t.Fatal(err)
		}
		second := openRig(t, killed, tr, testPolicy)
		second.Start()
		time.Sleep(time.Minute)
		if c := second.Counts(); c != (Counts{}) || tr.deliveredTo("a@example.com") != 1 || len(tr.reportsTo("sender@lan.example")) != 0 {
			t.Errorf("after a crash: %+v, delivered %d times, log:\n%s", c, tr.deliveredTo("a@example.com"), second.log)
		}
		second.stop()
		back.Store(true)
		time.Sleep(time.Minute)
		list, _, err := r.List("", 0)
		if n := spoolFiles(t, filepath.Join(r.dir, "spool")); n != 0 || len(list) != 0 || err != nil || r.transport.callCount() != 0 {
			t.Errorf("once the store is back %d files and the records %+v are left of refused mail, %v, and %d attempts were made",
				n, list, err, r.transport.callCount())
		}
	})
}

// Abort after a Commit does nothing: the message keeps its file and is delivered.
func TestWriter_AbortAfterACommitDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newFakeTransport()
		tr.set(hostAway)
		r := startRig(t, tr, testPolicy)
		w, err := r.Begin(testEnvelope("a@example.com"), envelope.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("large\r\n"), inlineLimit)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Commit(t.Context()), w.Abort()); err != nil {
			t.Fatal(err)
		}
		tr.set(nil)
		r.Retry()
		time.Sleep(time.Minute)
		if c := r.Counts(); c != (Counts{}) || tr.deliveredTo("a@example.com") != 1 {
			t.Errorf("%+v, delivered %d times, log:\n%s", c, tr.deliveredTo("a@example.com"), r.log)
		}
	})
}

// A client whose message stands behind the commit that failed gets its 451 while the store is away, not when it is back.
func TestCommitter_AnswersIntakeThatWaitsWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		busy := make(chan struct{})
		r.committer.submit(&request{keep: true, done: func(error) { <-busy }})
		synctest.Wait()
		// So large that it is a batch of its own.
		r.committer.submit(&request{keep: true, changes: []*change{{id: 1, body: make([]byte, batchBytes)}}, done: func(error) {}})
		answers := make(chan error, 3)
		for range cap(answers) {
			go func() {
				w, err := r.Begin(testEnvelope("b@example.com"), envelope.Origin{})
				if err == nil {
					err = w.Commit(context.Background())
				}
				answers <- err
			}()
		}
		synctest.Wait()
		mend := r.breakStore()
		close(busy)
		for i := range cap(answers) {
			select {
			case err := <-answers:
				assertReply(t, err, 451)
			case <-time.After(time.Hour):
				t.Fatalf("%d of %d clients got an answer", i, cap(answers))
			}
		}
		mend()
		time.Sleep(time.Minute)
		if c := r.Counts(); c != (Counts{}) {
			t.Errorf("after the store is back: %+v", c)
		}
	})
}

// The free space is asked for again after a second, however much there was.
func TestFreeSpace_IsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := freeSpace{dir: t.TempDir(), min: 1}
		if ok, err := f.reserve(0, true); !ok || err != nil {
			t.Fatal(ok, err)
		}
		f.dir = filepath.Join(f.dir, "missing") // asking would fail now
		if _, err := f.reserve(100, true); err != nil {
			t.Skip("the disk is so full that it is asked each time")
		}
		time.Sleep(time.Second)
		if _, err := f.reserve(100, true); err == nil {
			t.Error("the disk was not asked again")
		}
	})
}

// A spool file that is there and cannot be opened now is not damage: its message waits, and spends no attempt.
func TestAttempt_FileThatCannotBeOpenedIsNotDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, dir := newFakeTransport(), t.TempDir()
		r := openRig(t, dir, tr, testPolicy)
		defer r.stop()
		body := bytes.Repeat([]byte("line\r\n"), 50_000)
		id := r.submit(body, testEnvelope("a@example.com"))
		file, aside := filepath.Join(dir, "spool", id), filepath.Join(dir, "aside")
		// A link to itself fails with ELOOP, for root as well, as an open without descriptors left does with EMFILE.
		if err := errors.Join(os.Rename(file, aside), os.Symlink(file, file)); err != nil {
			t.Fatal(err)
		}
		r.Start()
		synctest.Wait()
		d, err := r.Show(id)
		if err != nil || d.Gone || d.State != StateDeferred || d.Attempts != 0 || r.Counts().Quarantined != 0 {
			t.Fatalf("%+v, %v, %+v", d.Entry, err, r.Counts())
		}
		if err := errors.Join(os.Remove(file), os.Rename(aside, file)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * testPolicy.RetryMin)
		if tr.deliveredTo("a@example.com") != 1 || !bytes.Equal(tr.bodies[id], body) {
			t.Errorf("delivered %d times at the retry, %d octets", tr.deliveredTo("a@example.com"), len(tr.bodies[id]))
		}
	})
}

// What was delivered stays delivered when the content is then lost for the rest; of that alone the sender is told.
func TestAttempt_DeliveredStaysDeliveredWhenTheContentIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, newFakeTransport(), testPolicy)
		var first atomic.Bool
		r.transport.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if m.Envelope.ReversePath.IsNull() || first.Swap(true) {
				return r.transport.accept(ctx, route, m)
			}
			a := r.transport.accept(ctx, route, m)
			if err := os.Remove(filepath.Join(r.dir, "spool", m.ID)); err != nil {
				t.Error(err)
			}
			if _, err := m.Open(); err == nil {
				t.Error("content that is gone can be opened")
			}
			a.Results[1] = envelope.Result{Failure: failure(451, false)}
			return a
		})
		id := r.submit(bytes.Repeat([]byte("line\r\n"), 50_000), testEnvelope("a@example.com", "b@example.com"))
		synctest.Wait()
		d, err := r.Show(id)
		if err != nil || r.Counts().Quarantined != 0 || d.Recipients[0].Status != StatusDelivered || d.Recipients[1].Status != StatusWaiting {
			t.Fatalf("%+v, %v, %+v", d.Recipients, err, r.Counts())
		}
		time.Sleep(2 * testPolicy.RetryMin)
		if c := r.Counts(); c.Quarantined != 1 || c.Active+c.Deferred > 0 || r.transport.deliveredTo("a@example.com") != 1 {
			t.Errorf("after the retry: %+v; a was delivered to %d times", c, r.transport.deliveredTo("a@example.com"))
		}
		reports := r.transport.reportsTo("sender@lan.example")
		if len(reports) != 1 || !strings.Contains(reports[0], "b@example.com") || strings.Contains(reports[0], "a@example.com") {
			t.Errorf("reports: %q", reports)
		}
	})
}
