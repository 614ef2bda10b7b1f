package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/quick"
	"time"

	"relayd/internal/envelope"
)

func TestBackoff(t *testing.T) {
	const lo, hi = time.Minute, time.Hour
	for _, c := range []struct {
		n      int
		jitter float64
		want   time.Duration
	}{
		{1, 0.5, time.Minute}, {1, 0, time.Minute}, {1, 1, 72 * time.Second},
		{2, 0.5, 2 * time.Minute}, {2, 0, 96 * time.Second}, {3, 0.5, 4 * time.Minute}, {6, 0.5, 32 * time.Minute},
		{7, 0.5, time.Hour}, {7, 1, time.Hour}, {7, 0, 48 * time.Minute}, {math.MaxInt, 0.5, time.Hour},
	} {
		if got := backoff(c.n, lo, hi, c.jitter); got != c.want {
			t.Errorf("backoff(%d, jitter %v) = %s, want %s", c.n, c.jitter, got, c.want)
		}
	}
	if got := backoff(40, 1, math.MaxInt64, 0.5); got <= 0 {
		t.Errorf("a huge retry_max overflows: %d", got)
	}
}

func TestID(t *testing.T) {
	roundTrip := func(n uint64) bool {
		id, err := ParseID(ID(n).String())
		return err == nil && id == ID(n)
	}
	if err := quick.Check(roundTrip, nil); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "0", "ZZZZZZZZZZZZZ", "000000000000U", "0000000000000 ", "00000000000é"} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %d", bad, id)
		}
	}
	var src idSource
	now := time.Now()
	last := src.next(now)
	for range 3_000_000 { // more than the random bits of one millisecond
		id := src.next(now.Add(-time.Hour)) // a clock that was set back
		if id <= last {
			t.Fatalf("%s does not rise above %s", id, last)
		}
		last = id
	}
	if at := ID(idAt(now)).time(); at.UnixMilli() != now.UnixMilli() {
		t.Errorf("an id of %s says %s", now, at)
	}
}

func TestRecord_DamageIsNoticed(t *testing.T) {
	r := newRecord(7, testEnvelope("a@example.com"), envelope.Origin{Helo: "h"}, time.Unix(1, 2).UTC())
	v, err := encodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeRecord(7, v)
	if err != nil || back.Envelope.ReversePath != r.Envelope.ReversePath || !back.ReceivedAt.Equal(r.ReceivedAt) {
		t.Fatalf("round trip: %+v, %v", back, err)
	}
	for i := range v {
		bad := bytes.Clone(v)
		bad[i] ^= 0x20
		if _, err := decodeRecord(7, bad); !errors.Is(err, errDamaged) {
			t.Fatalf("octet %d flipped: %v", i, err)
		}
	}
	for i := range v {
		if _, err := decodeRecord(7, v[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("cut to %d octets: %v", i, err)
		}
	}
}

func TestSlot_RoundTrip(t *testing.T) {
	for _, s := range []slot{
		{ID: 1, Due: 2, Size: 3, Routes: "isp"},
		{ID: 1, Due: 2, Size: 3, Routes: "isp" + routeSeparator + "other", Source: source{0xfedc, 0xba98}, Recipients: 1000, Record: 65_000},
		{ID: 1, Due: 2, Size: 3, Source: source{client: 7}},
		{ID: math.MaxUint64, Due: heldDue, Size: math.MaxInt64, Recipients: math.MaxInt32},
	} {
		got, err := decodeSlot(s.key(), s.value())
		if err != nil || got != s {
			t.Errorf("%+v became %+v, %v", s, got, err)
		}
	}
}

func TestStore_HistoryIsPruned(t *testing.T) {
	st, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	now := time.Now()
	put := func(received, settled time.Time) ID {
		r := newRecord(idAt(received)+1, testEnvelope("a@example.com"), envelope.Origin{}, received)
		r.Events = []Event{{At: settled, What: "delivered"}}
		c := &change{id: r.ID, history: r}
		if err := c.encode(); err != nil {
			t.Fatal(err)
		}
		if err := st.commit([]*change{c}); err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	old := put(now.Add(-40*24*time.Hour), now.Add(-39*24*time.Hour))
	late := put(now.Add(-34*24*time.Hour), now.Add(-29*24*time.Hour)) // waited five days: settled within the month
	recent := put(now, now)
	prune := &pruning{before: now.Add(-30 * 24 * time.Hour), most: math.MaxInt64}
	if err := st.commit([]*change{{prune: prune}}); prune.done != 1 || err != nil {
		t.Fatalf("pruned %d, %v", prune.done, err)
	}
	for id, want := range map[ID]error{old: ErrNotFound, late: nil, recent: nil} {
		if _, err := st.history(id); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
}

// Many writers share one commit.
func TestCommitter_GroupsWhatWaits(t *testing.T) {
	q := openRig(t, t.TempDir(), newFakeTransport(), testPolicy)
	defer q.stop()
	frames := func() (n int) {
		q.committer.read(func(s *store) error {
			s.commits.Lock()
			defer s.commits.Unlock()
			n = int(s.journal.seq)
			return nil
		})
		return n
	}
	first := frames()
	const writers = 400
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range writers {
		w, err := q.Begin(testEnvelope(fmt.Sprintf("u%d@example.com", i)), envelope.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			<-start
			if err := w.Commit(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	if commits := frames() - first; commits > writers/4 {
		t.Errorf("%d messages took %d commits", writers, commits)
	}
}

// When a commit fails the client gets a 451, what must be recorded is recorded once the store is back, and mail is
// taken again.
func TestCommitter_RecoversFromAFailedCommit(t *testing.T) {
	tr := newFakeTransport()
	r := startRig(t, tr, testPolicy)
	inDelivery, goOn := make(chan struct{}), make(chan struct{})
	tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
		close(inDelivery)
		<-goOn
		return tr.accept(ctx, route, m)
	})
	id := r.send("a@example.com")
	<-inDelivery
	r.committer.mu.Lock()
	if err := sever(r.committer.store); err != nil { // every commit fails from here on
		t.Fatal(err)
	}
	reopen := r.committer.open
	var fails int
	r.committer.open = func(dir string) (*store, error) {
		if fails++; fails < 3 {
			return nil, errors.New("injected: the disk is away")
		}
		return reopen(dir)
	}
	r.committer.mu.Unlock()
	w, err := r.Begin(testEnvelope("b@example.com"), envelope.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	assertReply(t, w.Commit(context.Background()), 451)
	close(goOn)
	until(t, "the outcome to be recorded", func() bool {
		d, err := r.Show(id)
		return err == nil && d.Gone
	})
	tr.set(nil)
	until(t, "mail to be taken again", func() bool {
		w, err := r.Begin(testEnvelope("c@example.com"), envelope.Origin{})
		return err == nil && w.Commit(context.Background()) == nil
	})
	until(t, "the new message to be delivered", func() bool { return tr.deliveredTo("c@example.com") >= 1 })
	if tr.deliveredTo("a@example.com") != 1 || tr.deliveredTo("b@example.com") != 0 {
		t.Errorf("a was delivered to %d times (want 1), b, whose client got a 451, %d times (want 0)",
			tr.deliveredTo("a@example.com"), tr.deliveredTo("b@example.com"))
	}
}

// The folder is made with all that is missing above it, and one that is there stays as it is.
func TestStore_MakesItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := makeFolder(dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info, err)
		}
	}
}

func TestOpen_SaysWhatIsInTheWayOfItsFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := Open(Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), file+": file exists; what has this name is no folder: move it away, or set another data_dir") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// A first start that ended while it made the database is followed by one that makes it.
func TestStore_FirstStartCutShort(t *testing.T) {
	whole := t.TempDir()
	st, err := openStore(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(whole, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 100, 4096, 8192, 12288} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, databaseName+".new"), b[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := openStore(dir)
		if err != nil {
			t.Fatalf("%d octets of a database: %v", size, err)
		}
		if err := st.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, databaseName+".new")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d octets are left: %v", size, err)
		}
	}
}

// Who waits for the lock of a database that is being compacted or recovered does not go on with the file that was there
// before: what it wrote there would be lost.
func TestStore_DatabaseThatIsReplacedWhileItIsOpened(t *testing.T) {
	dir := t.TempDir()
	if err := mustOpenStore(t, dir).close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, databaseName)
	holder, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := lockFile(holder, true); err != nil {
		t.Fatal(err)
	}
	has, opened := make(chan struct{}), make(chan error, 1)
	go func() {
		opts := boltOptions()
		opts.Timeout = time.Minute
		opts.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			close(has)
			return f, err
		}
		db, _, err := openBolt(path, opts)
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	<-has // it has the file, and waits
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+".compact", content, 0o600)
	}
	if err = errors.Join(err, os.Rename(path+".compact", path), holder.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; !errors.Is(err, ErrLocked) {
		t.Errorf("it is opened: %v", err)
	}
}
