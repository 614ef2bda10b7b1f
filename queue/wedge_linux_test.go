package queue

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// A life on a small disk: it is filled, drained and filled again, with restarts between. smallLives are those of `go test`;
// RELAYD_SMALL_DISKS=all has every size, kind of message and min_free.
type smallLife struct {
	disk    int64
	message int
	minFree int64
	kind    string // of the file system
}

func smallLives() (all []smallLife) {
	if os.Getenv("RELAYD_SMALL_DISKS") == "" {
		return []smallLife{{16 << 20, 2000, 0, "tmpfs"}, {64 << 20, 2000, 5_000_000, "tmpfs"}, {64 << 20, 200, 0, "ext4"},
			{32 << 20, 60_000, 0, "tmpfs"}, {48 << 20, 1 << 20, 0, "ext4"}}
	}
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, disk := range []int64{16 << 20, 32 << 20, 64 << 20, 128 << 20} {
			for _, message := range []int{200, 2000, 10_000, 60_000, 300_000, 1 << 20} {
				for _, minFree := range []int64{0, 4_000_000, 5_000_000, 10_000_000, 32_000_000} {
					if minFree < disk/4 {
						all = append(all, smallLife{disk, message, minFree, kind})
					}
				}
			}
		}
	}
	return all
}

// With every size of disk and message and every min_free: all that was accepted is delivered once, whatever the disk is
// full of, and then there is room for as much again.
func TestFullDisk_IsNoWedge(t *testing.T) {
	for _, l := range smallLives() {
		t.Run(fmt.Sprintf("%dMB-%d-%d-%s", l.disk>>20, l.message, l.minFree, l.kind), func(t *testing.T) {
			if l.kind == "tmpfs" {
				onSmallDisk(t, int(l.disk), l.live)
				return
			}
			onSmallDisk(t, int(l.disk+l.disk/4), func(t *testing.T, dir string) { l.live(t, ext4In(t, dir, l.disk)) })
		})
	}
}

// ext4In returns a folder that is an ext4 file system of so many octets, in a file of dir.
func ext4In(t *testing.T, dir string, size int64) string {
	t.Helper()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, size))
	must(t, os.Mkdir(at, 0o700))
	for _, c := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", at).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	return at
}

func (l smallLife) live(t *testing.T, dir string) {
	policy := testPolicy
	policy.MinFree = l.minFree
	first := 0
	for round := range 3 {
		tr := newFakeTransport()
		tr.concurrency = 16
		tr.set(hostAway)
		r := openRig(t, dir, tr, policy)
		r.Start()
		accepted := r.fillQueue(fmt.Sprintf("round%d-", round), l.message)
		r.settleNow()
		accepted = append(accepted, r.fillQueue(fmt.Sprintf("more%d-", round), l.message)...)
		if round == 1 { // every outcome is recorded in records that grow
			tr.set(func(_ context.Context, route string, m envelope.Message) envelope.Attempt {
				return refused(route, m, 451, false)
			})
			r.Retry()
			until(t, "all to be deferred", func() bool {
				return tr.callCount() >= len(accepted) && r.Counts().Active == 0 && r.unrecorded.Load() == 0
			})
		}
		if err := r.Close(context.Background()); err != nil {
			t.Fatalf("round %d: the stop with %d messages: %v\n%s", round, len(accepted), err, tail(r.log.String()))
		}
		tr.set(nil)
		r = openRig(t, dir, tr, policy)
		r.Start()
		if _, err := r.ApplyAll(ActionRetry); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for r.Counts().Active+r.Counts().Deferred > 0 {
			if time.Since(began) > time.Minute {
				t.Fatalf("round %d: wedged: %+v of %d\n%s", round, r.Counts(), len(accepted), tail(r.log.String()))
			}
			time.Sleep(time.Millisecond)
		}
		r.allDelivered(accepted)
		r.stop()
		t.Logf("round %d: %d messages of %d octets", round, len(accepted), l.message)
		if first == 0 {
			first = len(accepted)
		}
		if len(accepted) == 0 || len(accepted) < first/2 {
			t.Errorf("round %d: %d messages were taken, %d at first", round, len(accepted), first)
		}
	}
}

// Each message that fills the disk fails, and the reports cannot be delivered for now: they have room too, which was kept
// for them before the 250. Once their host is back they all go out.
func TestFullDisk_EveryMessageFails(t *testing.T) {
	for _, size := range []int{200, 2000, 50_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			onSmallDisk(t, 32<<20, func(t *testing.T, dir string) {
				tr := newFakeTransport()
				tr.concurrency = 16
				tr.set(hostAway)
				policy := testPolicy
				policy.MinFree = 0
				r := openRig(t, dir, tr, policy)
				r.Start()
				accepted := len(r.fillQueue("u", size))
				r.settleNow()
				accepted += len(r.fillQueue("v", size))
				fill(t, dir) // nothing but what is reserved
				tr.set(func(ctx context.Context, route string, m envelope.Message) envelope.Attempt {
					if m.Envelope.ReversePath.IsNull() {
						return refused(route, m, 451, false)
					}
					return refused(route, m, 550, true)
				})
				r.Retry()
				until(t, "all to fail", func() bool {
					return r.Counts().Active == 0 && r.unrecorded.Load() == 0 && strings.Count(r.log.String(), "msg=reported") >= accepted
				})
				if err := r.Close(context.Background()); err != nil {
					t.Fatalf("the stop: %v\n%s", err, tail(r.log.String()))
				}
				tr.set(nil)
				r = openRig(t, dir, tr, policy)
				r.Start()
				if _, err := r.ApplyAll(ActionRetry); err != nil {
					t.Fatal(err)
				}
				r.allDelivered(nil)
				if n := tr.deliveredTo("sender@lan.example"); n != accepted {
					t.Errorf("%d reports about %d messages", n, accepted)
				}
				r.stop()
			})
		})
	}
}

// settleNow waits until the database has what the journal has.
func (r *rig) settleNow() {
	r.t.Helper()
	until(r.t, "the database to be written", func() bool { return r.committer.read(settled) == nil })
}

// tail returns the end of a log.
func tail(s string) string { return s[max(0, len(s)-4000):] }

// The commands that write a new database work on a disk that somebody else has filled, when little of it is in use: with
// the room that was reserved for outcomes. Else they say how much room they need and where, and change nothing.
func TestFullDisk_CompactAndRecover(t *testing.T) {
	onSmallDisk(t, 48<<20, func(t *testing.T, dir string) {
		tr := newFakeTransport()
		tr.concurrency = 16
		tr.set(hostAway)
		policy := testPolicy
		policy.MinFree = 0
		r := openRig(t, dir, tr, policy)
		r.Start()
		accepted := r.fillQueue("u", 2000)
		r.stop()
		fill(t, dir)
		if _, _, err := Compact(dir); err != nil {
			t.Errorf("compact with what is reserved: %v", err)
		}
		free := fill(t, dir) // also what compact gave back
		_, _, compact := Compact(dir)
		_, recovering := Recover(dir)
		for name, err := range map[string]error{"compact": compact, "recover": recovering} {
			if err == nil || !strings.Contains(err.Error(), "MB free on the disk of "+dir) {
				t.Errorf("%s on a disk that is full of mail: %v", name, err)
			}
		}
		free()
		r = openRig(t, dir, tr, policy)
		tr.set(nil)
		r.Start()
		if _, err := r.ApplyAll(ActionRetry); err != nil {
			t.Fatal(err)
		}
		r.allDelivered(accepted)
		r.stop()
		r = openRig(t, dir, tr, policy) // which reserves again
		r.stop()
		fill(t, dir)
		was, now, err := Compact(dir)
		if err != nil || now >= was/2 {
			t.Errorf("compact with little in use: from %d to %d, %v", was, now, err)
		}
	})
}

// Small messages that have filled a disk, and left, leave their room within the database's file. When that has a large message
// refused, the trouble names the command that gives the room back.
func TestFullDisk_LargeMessagesAfterSmallOnes(t *testing.T) {
	onSmallDisk(t, 16<<20, func(t *testing.T, dir string) {
		tr := newFakeTransport()
		tr.set(hostAway)
		policy := testPolicy
		policy.MinFree = 0
		r := openRig(t, dir, tr, policy)
		r.Start()
		accepted := r.fillQueue("u", 200)
		r.stop()
		r = openRig(t, dir, tr, policy)
		tr.set(nil)
		r.Start()
		if _, err := r.ApplyAll(ActionRetry); err != nil {
			t.Fatal(err)
		}
		r.allDelivered(accepted)
		fill(t, dir) // what the database did not take
		if code := r.refused(large()); code != 452 {
			t.Errorf("a large message got %d", code)
		}
		if said := strings.Join(r.Troubles(), "\n"); !strings.Contains(said, `"relayctl queue compact"`) {
			t.Errorf("the troubles are %q", said)
		}
		r.stop()
		if _, _, err := Compact(dir); err != nil {
			t.Fatal(err)
		}
		r = openRig(t, dir, tr, policy)
		r.Start()
		defer r.stop()
		r.submit(large(), testEnvelope("b@example.com"))
	})
}
