//go:build unix

package main

import (
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"relayd/internal/sandbox"
	"relayd/test/tap"
)

// noRoom is a disk that has no room for the queue's database, while it is full.
type noRoom struct {
	full    atomic.Bool
	refused atomic.Int32
}

func (n *noRoom) Begin(c *tap.Call) tap.Answer {
	if !n.full.Load() || c.Op != tap.OpWrite || filepath.Base(c.Path) != "queue.db" {
		return tap.Answer{}
	}
	n.refused.Add(1)
	return tap.Answer{Skip: true, Errno: syscall.ENOSPC}
}

func (n *noRoom) End(*tap.Call) {}

// The daemon is killed while the disk has no room for its database, and started again: it delivers what is queued, and is
// killed and started once more. Nothing is lost, and once there is room the database has everything.
func TestRelayd_StartsAndDeliversOnAFullDisk(t *testing.T) {
	s, sb := loadSite(t, sandbox.Options{})
	if err := sb.Inject(trouble(2)...); err != nil {
		t.Fatal(err)
	}
	disk, l := &noRoom{}, newLedger()
	p := s.launchTapped(disk)
	if !p.up() {
		t.Fatal("the daemon ended")
	}
	if err := sb.Stop(); err != nil {
		t.Fatal(err)
	}
	disk.full.Store(true)
	sent := s.sendOneByOne(p, l, 8)
	until(t, "the database to be refused", func() bool { return disk.refused.Load() > 0 })
	p.kill()
	if err := sb.Resume(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		before := disk.refused.Load()
		p = s.launchTapped(disk)
		if !p.up() {
			t.Fatalf("the daemon ended on a full disk:\n%s", p.log)
		}
		p.waitFor("stays there; what is queued is delivered")
		if disk.refused.Load() == before {
			t.Error("the start did not try to write the database")
		}
		s.drained(p, len(sent))
		p.kill()
	}
	p = s.launchTapped(disk)
	if !p.up() {
		t.Fatalf("the daemon ended on a full disk:\n%s", p.log)
	}
	disk.full.Store(false)
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("the stop, with room: %v", err)
	}
	p.ended()
	if left, err := filepath.Glob(filepath.Join(s.dir, "data", "journal-*")); err != nil || len(left) != 0 {
		t.Errorf("the database has not everything: %v, %v", left, err)
	}
	if o := s.settle(l, sb); o.accepted != len(sent) || o.lost != 0 {
		t.Errorf("%d got a 250: %s", len(sent), o)
	}
}
