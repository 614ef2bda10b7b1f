package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"relayd/internal/envelope"
)

// onSmallDisk runs the test f in a process of its own, in a mount namespace in which dir is a file system of so many
// octets. Without the right to mount one the test is skipped.
func onSmallDisk(t *testing.T, size int, f func(t *testing.T, dir string)) {
	t.Helper()
	const where = "RELAYD_TEST_SMALL_DISK"
	if dir := os.Getenv(where); dir != "" {
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Skip("no mount namespace: ", err)
		}
		if err := syscall.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Skip("no file system can be mounted: ", err)
		}
		f(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), where+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	_, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err != nil && !failed:
		t.Skipf("a full disk needs a file system of its own, and a mount namespace cannot be had (run as root): %v", err)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("a full disk needs a file system of its own (run as root):\n%s", out)
	case failed:
		t.Fatalf("in its own mount namespace (%v):\n%s", err, out)
	case testing.Verbose():
		t.Logf("%s", out)
	}
}

// fill takes all room of a disk, as somebody else's file does, and returns what frees it again.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "somebody.else")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 4096; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// fillQueue hands in mail until it is refused, and returns who it was accepted for.
func (r *rig) fillQueue(prefix string, size int) (accepted []string) {
	r.t.Helper()
	for n := 0; ; n++ {
		to := fmt.Sprintf("%s%d@example.com", prefix, n)
		id, reply := r.try(to, size)
		switch {
		case id != "":
			accepted = append(accepted, to)
		case replyCode(reply) != fullDisk:
			r.t.Fatalf("message %d is answered with %s", n, reply)
		default:
			return accepted
		}
		if n == 100_000 {
			r.t.Fatal("the disk does not get full")
		}
	}
}

func (r *rig) allDelivered(to []string) {
	r.t.Helper()
	until(r.t, "everything to be delivered", func() bool {
		c := r.Counts()
		return c.Active+c.Deferred+c.Held == 0
	})
	for _, a := range to {
		if n := r.transport.deliveredTo(a); n != 1 {
			r.t.Errorf("%s got its message %d times\n%s", a, n, r.log)
			return
		}
	}
}

// With a reserve: intake ends with 452 while there is still room, what is queued is delivered, and intake goes on by
// itself when there is room again. Small messages, and large ones that go to the spool.
func TestFullDisk_TheReserveIsForDeliveries(t *testing.T) {
	onSmallDisk(t, 64<<20, func(t *testing.T, dir string) {
		policy := testPolicy
		policy.MinFree = 16 << 20
		tr := newFakeTransport()
		tr.concurrency = 64
		tr.set(hostAway)
		r := openRig(t, dir, tr, policy)
		r.Start()
		accepted := r.fillQueue("small", 30_000)
		// What was reckoned for the database is known once it is there: then there is room for some more.
		r.settle(nil)
		accepted = append(accepted, r.fillQueue("more", 300_000)...)
		r.settle(nil)
		if len(accepted) < 100 {
			t.Fatalf("only %d messages were accepted: nothing is shown", len(accepted))
		}
		free, _, err := diskFree(dir)
		if err != nil || free < policy.MinFree*3/4 {
			t.Errorf("%d octets are left of a reserve of %d, %v", free, policy.MinFree, err)
		}
		t.Logf("%d messages, %d octets free of a reserve of %d", len(accepted), free, policy.MinFree)
		tr.set(nil)
		r.Retry()
		r.allDelivered(accepted)
		if n := strings.Count(r.log.String(), "level=ERROR"); n != 0 {
			t.Errorf("%d errors:\n%s", n, r.log)
		}
		until(t, "mail to be taken again", func() bool { id, _ := r.try("again@example.com", 3000); return id != "" })
		until(t, "it to be delivered", func() bool { return tr.deliveredTo("again@example.com") == 1 })
		r.stop()
	})
}

// The reserve holds also while records grow: small messages to many recipients, each of whom the host defers with long
// words of its own, time and again.
func TestFullDisk_TheReserveHoldsForLargeRecords(t *testing.T) {
	onSmallDisk(t, 64<<20, func(t *testing.T, dir string) {
		const recipients, attempts = 300, 4
		policy := testPolicy
		policy.MinFree = 16 << 20
		tr := newFakeTransport()
		tr.set(hostAway)
		r := openRig(t, dir, tr, policy)
		r.Start()
		var accepted []string
		for n := 0; ; n++ {
			var to []string
			for i := range recipients {
				to = append(to, fmt.Sprintf("r%d-of-%d@example.com", i, n))
			}
			id, reply := r.tryFor(testEnvelope(to...), 400)
			if id == "" && replyCode(reply) != fullDisk {
				t.Fatalf("message %d is answered with %s", n, reply)
			}
			if id == "" {
				break
			}
			accepted = append(accepted, to...)
		}
		messages := len(accepted) / recipients
		if messages < 10 {
			t.Fatalf("only %d messages were accepted: nothing is shown", messages)
		}
		var least atomic.Int64
		least.Store(1 << 40)
		tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
			if free, _, err := diskFree(dir); err == nil && free < least.Load() {
				least.Store(free)
			}
			a := refused(route, m, 450, false)
			for i, f := range a.Results {
				f.Failure.Reply.Text = fmt.Sprint(m.Envelope.Recipients[i].Path, strings.Repeat(" is not wanted now", 40))
			}
			return a
		})
		for n := 1; n <= attempts; n++ {
			before := tr.callCount()
			r.Retry()
			if _, err := r.ApplyAll(ActionRetry); err != nil {
				t.Fatal(err)
			}
			until(t, "all messages to be deferred", func() bool { return tr.callCount() >= before+messages })
			r.settle(nil)
		}
		t.Logf("%d messages to %d recipients, %d octets free at least of a reserve of %d", messages, recipients, least.Load(), policy.MinFree)
		if least.Load() < policy.MinFree*3/4 {
			t.Errorf("%d octets were left of a reserve of %d", least.Load(), policy.MinFree)
		}
		tr.set(nil)
		if _, err := r.ApplyAll(ActionRetry); err != nil {
			t.Fatal(err)
		}
		r.allDelivered(accepted)
		r.stop()
	})
}

// Large messages leave the reserve alone while they arrive, and not only at their end.
func TestFullDisk_LargeMessages(t *testing.T) {
	onSmallDisk(t, 64<<20, func(t *testing.T, dir string) {
		policy := testPolicy
		policy.MinFree = 16 << 20
		tr := newFakeTransport()
		tr.set(hostAway)
		r := openRig(t, dir, tr, policy)
		r.Start()
		w, err := r.Begin(testEnvelope("endless@example.com"), envelope.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(w, io.LimitReader(lines{}, 128<<20))
		assertReply(t, err, 452)
		if free, _, err := diskFree(dir); err != nil || free < policy.MinFree || n < 8<<20 {
			t.Errorf("after %d octets of one message %d are left of a reserve of %d, %v", n, free, policy.MinFree, err)
		}
		if err := w.Abort(); err != nil {
			t.Error(err)
		}
		accepted := r.fillQueue("large", 3<<20)
		if free, _, err := diskFree(dir); err != nil || free < policy.MinFree || len(accepted) < 4 {
			t.Errorf("%d large messages were taken, %d octets are left of a reserve of %d, %v", len(accepted), free, policy.MinFree, err)
		}
		tr.set(nil)
		r.Retry()
		r.allDelivered(accepted)
		until(t, "a large message to be taken again", func() bool { id, _ := r.try("again@example.com", 3<<20); return id != "" })
		r.stop()
	})
}

// smallDiskPolicy keeps as little free as a small disk has.
func smallDiskPolicy() Policy {
	p := testPolicy
	p.MinFree = 1 << 20
	return p
}

// waitingRig is a queue in which 400 messages wait for a host that is away, and to whom they go.
func waitingRig(t *testing.T, dir string) (r *rig, tr *fakeTransport, accepted []string) {
	t.Helper()
	tr = newFakeTransport()
	tr.concurrency = 64
	tr.set(hostAway)
	r = openRig(t, dir, tr, smallDiskPolicy())
	r.Start()
	for n := range 400 {
		accepted = append(accepted, fmt.Sprintf("u%d@example.com", n))
		r.submit([]byte("Subject: x\r\n\r\nbody\r\n"), testEnvelope(accepted[n]))
	}
	return r, tr, accepted
}

// Somebody else fills the disk to the last block: what is queued is delivered all the same, the outcomes are recorded, and
// all goes on by itself when there is room again. A crash meanwhile delivers nothing twice.
func TestFullDisk_SomebodyElseTakesTheReserve(t *testing.T) {
	onSmallDisk(t, 64<<20, func(t *testing.T, dir string) {
		r, tr, accepted := waitingRig(t, dir)
		free := fill(t, dir)
		if _, reply := r.try("late@example.com", 3000); replyCode(reply) != fullDisk {
			t.Errorf("with a full disk the answer is %s", reply)
		}
		tr.set(nil)
		r.Retry()
		r.allDelivered(accepted)
		r.settle(nil) // into the room that was reserved for it
		if strings.Contains(r.log.String(), "store has failed") {
			t.Errorf("the store has failed:\n%s", r.log)
		}
		// Killed now, and started with room: what was delivered stays delivered.
		copied := t.TempDir()
		if err := copyFolder(copied, dir, r.committer.store); err != nil {
			t.Fatal(err)
		}
		left, err := OpenReadOnly(copied)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := left.Counts(); err != nil || c.Active+c.Deferred+c.Held != 0 {
			t.Errorf("after a crash on a full disk there are %+v, %v", c, err)
		}
		left.Close()
		free()
		until(t, "mail to be taken again", func() bool { id, _ := r.try("again@example.com", 3000); return id != "" })
		until(t, "it to be delivered", func() bool { return tr.deliveredTo("again@example.com") == 1 })
		r.stop() // which needs the database to be written
	})
}

// forfeit takes the room away that is reserved for the database, as on a file system that cannot reserve any.
func (r *rig) forfeit() {
	r.t.Helper()
	must(r.t, r.committer.read(func(s *store) error {
		return unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.end.Load(), 1<<30)
	}))
}

// A start that finds the disk full, and in the journal what the run before could not write to the database, delivers what
// is queued all the same, asks clients to come back, and goes on by itself when there is room. Nothing is delivered twice.
func TestFullDisk_StartsWithAJournalThatDoesNotFit(t *testing.T) {
	onSmallDisk(t, 64<<20, func(t *testing.T, dir string) {
		r, tr, accepted := waitingRig(t, dir)
		r.settle(nil)
		r.forfeit()
		free := fill(t, dir)
		tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
			if strings.HasPrefix(string(m.Envelope.Recipients[0].Path), "u1") {
				return refused(route, m, 451, false) // which fills layers and journal, and stays in the queue
			}
			return tr.accept(ctx, route, m)
		})
		r.Retry()
		until(t, "all to be tried", func() bool { return tr.callCount() >= len(accepted) && r.Counts().Active == 0 })
		r.settle(errNoRoom)
		stays := r.Counts().Deferred
		if err := r.Close(context.Background()); !errors.Is(err, errNoRoom) || stays != 111 {
			t.Fatalf("the stop, with %d messages left: %v", stays, err)
		}
		for range 2 { // a start that is ended without room leaves all as it was
			tr.set(hostAway)
			r = openRig(t, dir, tr, smallDiskPolicy())
			r.Start()
			if n := r.Counts().Active + r.Counts().Deferred; n != stays {
				t.Errorf("%d messages at the start, %d were left", n, stays)
			}
			if _, reply := r.try("late@example.com", 3000); replyCode(reply) != fullDisk {
				t.Errorf("with a full disk the answer is %s", reply)
			}
			if !strings.Contains(r.log.String(), "stays there; what is queued is delivered") {
				t.Errorf("the log does not tell:\n%s", r.log)
			}
			if err := r.Close(context.Background()); !errors.Is(err, errNoRoom) {
				t.Fatalf("the stop: %v", err)
			}
		}
		// An import needs to know of all that is here, and leaves what it finds to the daemon.
		other := t.TempDir()
		if err := os.WriteFile(filepath.Join(other, "1M8063JNNNMR7"+recordSuffix), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(dir, os.DirFS(other), false); !errors.Is(err, errNoRoom) {
			t.Errorf("an import: %v", err)
		}
		tr.set(nil)
		r = openRig(t, dir, tr, smallDiskPolicy())
		r.Start()
		entries, _, err := r.List("", 1)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%v, %v", entries, err)
		}
		id := entries[0].ID
		if _, err := r.ApplyAll(ActionRetry); err != nil {
			t.Fatal(err)
		}
		r.allDelivered(accepted)
		r.settle(errNoRoom)
		free()
		until(t, "mail to be taken again", func() bool { id, _ := r.try("again@example.com", 3000); return id != "" })
		until(t, "it to be delivered", func() bool { return tr.deliveredTo("again@example.com") == 1 })
		r.stop()
		left, err := OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer left.Close()
		if c, err := left.Counts(); err != nil || c.Active+c.Deferred+c.Held != 0 {
			t.Errorf("at the end there are %+v, %v", c, err)
		}
		if d, err := left.Show(id); err != nil || !d.Gone {
			t.Errorf("the history of %s: %+v, %v", id, d, err)
		}
	})
}

// Without a reserve the write itself finds that there is no room: the answer is the same, nothing that was refused is
// delivered, and nothing that was accepted is lost.
func TestFullDisk_WithoutAReserve(t *testing.T) {
	onSmallDisk(t, 48<<20, func(t *testing.T, dir string) {
		policy := testPolicy
		policy.MinFree = 0
		tr := newFakeTransport()
		tr.concurrency = 64
		tr.set(hostAway)
		r := openRig(t, dir, tr, smallDiskPolicy())
		r.Start()
		accepted := r.fillQueue("u", 30_000)
		if _, reply := r.try("large@example.com", 8<<20); replyCode(reply) != fullDisk {
			t.Errorf("a large message is answered with %s", reply)
		}
		if n := r.Counts().Deferred + r.Counts().Active; n != len(accepted) {
			t.Errorf("%d in the queue, %d were accepted", n, len(accepted))
		}
		if strings.Contains(r.log.String(), "store has failed") {
			t.Errorf("the store has failed:\n%s", r.log)
		}
		tr.set(nil)
		r.Retry()
		until(t, "something to be delivered", func() bool { return tr.deliveredTo(accepted[0]) == 1 })
		// Where nothing is reserved, outcomes may have to wait for room.
		if err := syscall.Mount("small", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", 256<<20)); err != nil {
			t.Fatal(err)
		}
		r.allDelivered(accepted)
		until(t, "mail to be taken again", func() bool { id, _ := r.try("again@example.com", 3000); return id != "" })
		r.stop()
	})
}

// A queue of an older format is copied before it is touched: without room for the copy it stays as it was.
func TestFullDisk_MigrationNeedsItsCopy(t *testing.T) {
	onSmallDisk(t, 48<<20, func(t *testing.T, small string) {
		dir := filepath.Join(small, "queue")
		if err := os.CopyFS(dir, os.DirFS(oldFormat(t))); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)
		free := fill(t, small)
		if _, err := openStore(dir); !isFull(err) || !strings.Contains(err.Error(), "must be copied before it is brought to format 2") {
			t.Errorf("without room: %v", err)
		}
		if after := snapshot(t, dir); after != before {
			t.Errorf("the folder was changed:\n%s\nwas\n%s", after, before)
		}
		free()
		st := mustOpenStore(t, dir)
		defer st.close()
		if got := fmt.Sprint(holds(t, st, 1)); got != "[1]" {
			t.Errorf("with room there are %s", got)
		}
	})
}

// With min_free = 0 a full disk shows at the write: a trouble all the same, which is over when there is room.
func TestFullDisk_IsATroubleWithoutAReserve(t *testing.T) {
	onSmallDisk(t, 48<<20, func(t *testing.T, dir string) {
		policy := testPolicy
		policy.MinFree = 0
		tr := newFakeTransport()
		tr.set(hostAway)
		r := openRig(t, dir, tr, policy)
		r.Start()
		free := fill(t, dir)
		until(t, "mail to be refused", func() bool {
			id, reply := r.try("a@example.com", 60_000)
			return id == "" && replyCode(reply) == fullDisk
		})
		if said := strings.Join(r.Troubles(), "\n"); !strings.Contains(said, "no mail is taken") {
			t.Errorf("the troubles are %q", said)
		}
		if n := strings.Count(r.log.String(), "new mail is refused"); n != 1 {
			t.Errorf("the log says it %d times:\n%s", n, r.log)
		}
		free()
		if said := r.Troubles(); len(said) != 0 {
			t.Errorf("with room: %q", said)
		}
		r.stop()
	})
}
