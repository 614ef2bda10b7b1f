package queue

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// reference is what a store should hold.
type reference struct {
	queued  map[ID]*change // the intake of each message, with what it has become
	history map[ID]*record
	aside   map[ID]bool
}

// The store holds what was committed, whichever of it is in a layer, in the journal or in the database, and whatever
// rotations, checkpoints, stops and crashes lie between.
func TestStore_ReadsAgreeWithAModel(t *testing.T) {
	base := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := filepath.Join(base, fmt.Sprint(run))
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &storeModel{t: t, dir: dir, ref: reference{map[ID]*change{}, map[ID]*record{}, map[ID]bool{}}}
		m.open(rt)
		defer func() { _ = m.st.abandon() }()
		rt.Repeat(map[string]func(*rapid.T){
			"":           m.check,
			"commit":     m.commit,
			"again":      m.commit,
			"rotate":     func(*rapid.T) { m.locked(m.st.rotate) },
			"checkpoint": func(*rapid.T) { m.locked(func() { m.st.rotate(); m.st.settle() }) },
			"set aside":  m.setAside,
			"prune":      m.prune,
			"stop":       func(rt *rapid.T) { m.reopen(rt, m.st.close) },
			"crash":      func(rt *rapid.T) { m.reopen(rt, m.st.abandon) },
			"reopen":     m.recommit,
			"no room":    m.noRoom,
		})
	})
}

type storeModel struct {
	t    *testing.T
	dir  string
	st   *store
	ref  reference
	last ID
}

func (m *storeModel) open(rt *rapid.T) {
	st, err := openStore(m.dir)
	if err != nil {
		rt.Fatal(err)
	}
	quicken(st)
	if st.missing != 0 {
		rt.Fatalf("%d frames are missing", st.missing)
	}
	m.st = still(st)
}

func (m *storeModel) locked(f func()) {
	m.st.commits.Lock()
	defer m.st.commits.Unlock()
	f()
}

func (m *storeModel) reopen(rt *rapid.T, end func() error) {
	if err := end(); err != nil {
		rt.Fatal(err)
	}
	m.open(rt)
}

// noRoom is a crash after which the disk has no room for the database.
func (m *storeModel) noRoom(rt *rapid.T) {
	if err := m.st.abandon(); err != nil {
		rt.Fatal(err)
	}
	st, err := resumed(m.dir)
	if err != nil {
		rt.Fatal(err)
	}
	quicken(st)
	m.st = still(st)
}

// commit commits up to four steps of messages at once.
func (m *storeModel) commit(rt *rapid.T) {
	var changes []*change
	for range rapid.IntRange(1, 4).Draw(rt, "steps") {
		changes = append(changes, m.step(rt))
	}
	if err := m.st.commit(changes); err != nil {
		rt.Fatal(err)
	}
}

// recommit is what a commit that failed for the caller, and may be on disk or not, ends in.
func (m *storeModel) recommit(rt *rapid.T) {
	c := m.step(rt)
	if rapid.Bool().Draw(rt, "on disk") {
		if err := m.st.commit([]*change{c}); err != nil {
			rt.Fatal(err)
		}
	}
	m.reopen(rt, m.st.abandon)
	c.again = true
	if err := m.st.commit([]*change{c}); err != nil {
		rt.Fatal(err)
	}
}

// step makes a change of one message and files what it comes to.
func (m *storeModel) step(rt *rapid.T) *change {
	ids := slices.Sorted(maps.Keys(m.ref.queued))
	what := rapid.SampledFrom([]string{"new", "new", "defer", "leave", "undo"}).Draw(rt, "what")
	if len(ids) == 0 || what == "new" {
		m.last += ID(rapid.IntRange(1, 3).Draw(rt, "id"))
		c := newMessage(m.t, m.last, bytes.Repeat([]byte{byte(m.last)}, rapid.IntRange(0, 9000).Draw(rt, "size")))
		if rapid.IntRange(0, 4).Draw(rt, "spooled") == 0 {
			c.body = nil
		}
		kept := *c
		m.ref.queued[m.last] = &kept
		return c
	}
	id := rapid.SampledFrom(ids).Draw(rt, "message")
	old := m.ref.queued[id]
	switch what {
	case "leave":
		delete(m.ref.queued, id)
		c := leaves(m.t, old)
		m.ref.history[id] = c.history
		return c
	case "undo":
		delete(m.ref.queued, id)
		return old.undo()
	}
	r := old.put.clone()
	r.Attempts++
	c := &change{id: id, put: r, oldSlot: old.newSlot, hasOld: true, newSlot: old.newSlot, hasNew: true}
	c.newSlot.Due += rapid.Int64Range(0, 3).Draw(rt, "pause")
	c.newSlot.Recipients = rapid.Int32Range(0, 3).Draw(rt, "recipients")
	if err := c.encode(); err != nil {
		rt.Fatal(err)
	}
	m.ref.queued[id] = &change{id: id, put: r, body: old.body, newSlot: c.newSlot, hasNew: true}
	return c
}

func (m *storeModel) setAside(rt *rapid.T) {
	ids := slices.Sorted(maps.Keys(m.ref.queued))
	if len(ids) == 0 {
		rt.Skip("nothing is queued")
	}
	id := rapid.SampledFrom(ids).Draw(rt, "message")
	c := &change{id: id, oldSlot: m.ref.queued[id].newSlot, hasOld: true, quarantine: "why"}
	if err := m.st.commit([]*change{c}); err != nil {
		rt.Fatal(err)
	}
	delete(m.ref.queued, id)
	m.ref.aside[id] = true
}

func (m *storeModel) prune(rt *rapid.T) {
	t := time.Unix(rapid.Int64Range(0, int64(m.last)).Draw(rt, "until"), 0)
	p := &pruning{before: t, most: rapid.SampledFrom([]int64{math.MaxInt64, 2000, 0}).Draw(rt, "most")}
	if err := m.st.commit([]*change{{prune: p}}); err != nil {
		rt.Fatal(err)
	}
	var have int64
	for _, r := range m.ref.history {
		have += historyLine + int64(len(encoded(rt, r)))
	}
	for _, id := range slices.Sorted(maps.Keys(m.ref.history)) {
		if r := m.ref.history[id]; have > p.most || r.ReceivedAt.Before(t) {
			have -= historyLine + int64(len(encoded(rt, r)))
			delete(m.ref.history, id)
		}
	}
	if n, err := m.st.historyOctets(); n != have || err != nil {
		rt.Errorf("history takes %d octets, and %d are counted, %v", have, n, err)
	}
}

// check holds every way to read the store against the model.
func (m *storeModel) check(rt *rapid.T) {
	var want []ID
	slots := map[slot]bool{}
	for id := ID(1); id <= m.last+1; id++ {
		c := m.ref.queued[id]
		m.checkMessage(rt, id, c)
		if c != nil {
			want = append(want, id)
			slots[c.newSlot] = true
		}
	}
	damaged, err := m.st.slots(func(s slot) {
		if !slots[s] {
			rt.Errorf("a line of the due index is wrong, or there twice: %+v", s)
		}
		delete(slots, s)
	})
	if err != nil || damaged != 0 || len(slots) != 0 {
		rt.Errorf("due index: %d damaged, %v missing, %v", damaged, slots, err)
	}
	m.checkLists(rt, want)
	if n, err := m.st.quarantined(); err != nil || n != len(m.ref.aside) {
		rt.Errorf("%d in quarantine, want %d, %v", n, len(m.ref.aside), err)
	}
}

func (m *storeModel) checkMessage(rt *rapid.T, id ID, c *change) {
	r, err := m.st.record(id)
	if c == nil {
		if !errors.Is(err, ErrNotFound) {
			rt.Errorf("record %d: %+v, %v; it is not queued", id, r, err)
		}
	} else if err != nil || r.Attempts != c.put.Attempts || r.Sum != c.put.Sum {
		rt.Errorf("record %d: %+v, %v; want %+v", id, r, err, c.put)
	}
	if queued, err := m.st.queued(id); err != nil || queued != (c != nil) {
		rt.Errorf("queued(%d): %v, %v", id, queued, err)
	}
	if has, err := m.st.has(id); err != nil || has != (c != nil || m.ref.aside[id]) {
		rt.Errorf("has(%d): %v, %v", id, has, err)
	}
	if h, err := m.st.history(id); (err == nil) != (m.ref.history[id] != nil) || err == nil && !h.Gone {
		rt.Errorf("history(%d): %+v, %v", id, h, err)
	}
	body, err := m.st.body(id)
	switch {
	case c != nil && c.body != nil:
		if err != nil || !bytes.Equal(body, c.body) {
			rt.Errorf("body(%d): %d octets, want %d, %v", id, len(body), len(c.body), err)
		}
	case !m.ref.aside[id] && !errors.Is(err, ErrNotFound): // the content of one that was set aside stays
		rt.Errorf("body(%d): %d octets, %v", id, len(body), err)
	}
}

func (m *storeModel) checkLists(rt *rapid.T, want []ID) {
	after := ID(rapid.Uint64Range(0, uint64(m.last)).Draw(rt, "after"))
	limit := rapid.IntRange(0, 6).Draw(rt, "limit")
	list, _, err := m.st.page(after, limit)
	from, _ := slices.BinarySearchFunc(want, after, func(id, after ID) int {
		return cmp.Or(cmp.Compare(id, after), -1) // the first above it
	})
	wanted := want[from:]
	if limit > 0 {
		wanted = wanted[:min(limit, len(wanted))]
	}
	var got []ID
	for _, r := range list {
		got = append(got, r.ID)
	}
	if err != nil || !slices.Equal(got, wanted) {
		rt.Errorf("list(%d, %d): %v, want %v, %v", after, limit, got, wanted, err)
	}
}

// What came and went between two checkpoints reaches the database only as its line of history.
func TestLayer_WhatCameAndWentLeavesNoTrace(t *testing.T) {
	l := newLayer(1)
	c := newMessage(t, 1, []byte("content"))
	l.apply(c.delta())
	l.apply(leaves(t, c).delta())
	if len(l.envelopes)+len(l.bodies)+len(l.due) != 0 || len(l.history) != 1 {
		t.Errorf("%+v", l)
	}
	// One that may be in the database leaves word that it goes.
	c.again = true
	l.apply(c.delta())
	l.apply(leaves(t, c).delta())
	if p, ok := l.envelopes[1]; !ok || p.value != nil {
		t.Errorf("%+v", l.envelopes)
	}
}

// oldFormat makes a folder as format 1 was: a database without a journal.
func oldFormat(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, databaseName), 0o600, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	c := newMessage(t, 1, []byte("content"))
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEnvelopes(), bucketBodies(), bucketDue(), bucketHistory(), bucketQuarantine()} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		l := newLayer(0)
		l.apply(c.delta())
		return l.write(openBuckets(tx))
	})
	if err = errors.Join(err, db.Close(), os.WriteFile(filepath.Join(dir, markerName), []byte("relayd queue, format 1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFormat_OlderOneIsCopiedAndBroughtUp(t *testing.T) {
	dir := oldFormat(t)
	old, err := os.ReadFile(filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	// Looking at it changes nothing.
	before := snapshot(t, dir)
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err := r.List("", 0); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	r.Close()
	if after := snapshot(t, dir); after != before {
		t.Errorf("changed by looking at it:\n%s", after)
	}
	st := mustOpenStore(t, dir)
	if got := fmt.Sprint(holds(t, st, 1)); got != "[1]" {
		t.Errorf("there are %s", got)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	if copied, err := os.ReadFile(filepath.Join(dir, databaseName+".format-1")); err != nil || !bytes.Equal(copied, old) {
		t.Errorf("the copy has %d octets, the old database had %d: %v", len(copied), len(old), err)
	}
	if format, err := checkFormat(dir); err != nil || format != 2 {
		t.Errorf("format %d, %v", format, err)
	}
}

func TestFormat_NewerOneAndNonsenseAreRefused(t *testing.T) {
	for _, text := range []string{"relayd queue, format 3\n", "relayd queue, format 99\n", "relayd queue, format 2", "", "\x00\x00"} {
		dir := t.TempDir()
		if err := mustOpenStore(t, dir).close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, markerName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)
		_, err := openStore(dir)
		_, readErr := openStoreReadOnly(dir)
		for _, e := range []error{err, readErr} {
			if e == nil || !bytes.Contains([]byte(e.Error()), []byte("install the relayd that wrote it, or a newer one")) {
				t.Errorf("%q: %v", text, e)
			}
		}
		if after := snapshot(t, dir); after != before {
			t.Errorf("%q: the folder was changed:\n%s", text, after)
		}
	}
}
