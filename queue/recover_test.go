package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

// damagedQueue makes a folder with n messages, every fifth of them with a file in the spool, in the database when stopped
// and in the journal alone otherwise, and returns their ids.
func damagedQueue(t *testing.T, n int, stopped bool) (dir string, ids []string) {
	t.Helper()
	from := t.TempDir()
	tr := newFakeTransport()
	r := openRig(t, from, tr, testPolicy)
	still(r.committer.store)
	for i := range n {
		body := []byte(fmt.Sprintf("Subject: %d\r\n\r\n", i))
		if i%5 == 4 {
			body = append(body, bytes.Repeat([]byte("spool\r\n"), 10_000)...)
		}
		ids = append(ids, r.submit(body, testEnvelope(fmt.Sprintf("u%d@example.com", i))))
	}
	if stopped {
		r.stop()
		return from, ids
	}
	dir = crashed(t, from, r.committer.store)
	r.stop()
	return dir, ids
}

// damages are what disks and people do to a database.
var damages = []struct {
	name string
	do   func(file []byte) []byte
}{
	{"cut to a half", func(b []byte) []byte { return b[:newestMeta(b).end/2*4096] }},
	{"cut within the first page", func(b []byte) []byte { return b[:100] }},
	{"cut amid a page", func(b []byte) []byte { return b[:3*4096+99] }},
	{"all zeros", func(b []byte) []byte { return make([]byte, len(b)) }},
	{"both meta pages flipped", func(b []byte) []byte { b[30] ^= 1; b[4096+30] ^= 1; return b }},
	{"newer meta page flipped", func(b []byte) []byte {
		if binary.NativeEndian.Uint64(b[16+48:]) > binary.NativeEndian.Uint64(b[4096+16+48:]) {
			b[50] ^= 1
		} else {
			b[4096+50] ^= 1
		}
		return b
	}},
	{"root page zeroed", func(b []byte) []byte {
		p := newestMeta(b)
		clear(b[p.root*4096:][:4096])
		return b
	}},
	{"something else", func([]byte) []byte { return bytes.Repeat([]byte("not a database\n"), 5000) }},
}

func newestMeta(b []byte) meta {
	p := &pages{f: bytes.NewReader(b), size: int64(len(b))}
	one, _ := p.readMeta(0)
	two, _ := p.readMeta(4096)
	if two.txid > one.txid {
		return two
	}
	return one
}

// A damaged database is refused with what to do, and nothing is changed; recovery saves the messages.
func TestRecover_DamagedDatabase(t *testing.T) {
	const n = 60
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			dir, ids := damagedQueue(t, n, true)
			path := filepath.Join(dir, databaseName)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, d.do(file), 0o600); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			_, err = openStore(dir)
			_, readErr := OpenReadOnly(dir)
			for _, e := range []error{err, readErr} {
				if !errors.Is(e, errDatabase) || !strings.Contains(e.Error(), "relayctl queue recover") || !strings.Contains(e.Error(), path) {
					t.Fatalf("the damaged database: %v", e)
				}
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("refusing it changed the folder:\n%s\nwas\n%s", after, before)
			}
			got, err := Recover(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", got)
			for line := range strings.Lines(snapshot(t, got.Old)) {
				if !strings.Contains(before, line) {
					t.Errorf("what is kept differs from what was there: %s", line)
				}
			}
			if kept := snapshot(t, got.Old); !strings.Contains(kept, databaseName) || !strings.Contains(kept, markerName) {
				t.Errorf("the old one is not kept: %s", kept)
			}
			checkRecovered(t, dir, ids, got)
			if strings.Contains(d.name, "meta") || strings.Contains(d.name, "root") {
				if got.Messages != n {
					t.Errorf("%d of %d messages were saved, though none was damaged", got.Messages, n)
				}
			}
		})
	}
}

// checkRecovered opens a recovered queue, and delivers what is in it.
func checkRecovered(t *testing.T, dir string, ids []string, got Recovered) {
	t.Helper()
	tr := newFakeTransport()
	r := openRig(t, dir, tr, testPolicy)
	defer r.stop()
	list, _, err := r.committer.store.page(0, 0)
	if err != nil || len(list) != got.Messages || got.FaultCount == 0 || len(got.Faults) == 0 {
		t.Errorf("%d messages are in the new queue, %v; it says %+v", len(list), err, got)
	}
	r.Start()
	if n := r.Counts().Held; n != got.Held {
		t.Errorf("%d are held; it says %+v", n, got)
	}
	if got.Held > 0 {
		if _, err := r.ApplyAll(ActionRelease); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the messages to be delivered", func() bool {
		c := r.Counts()
		return c.Active+c.Deferred+c.Held == 0
	})
	known := make(map[string]bool)
	for _, id := range ids {
		known[id] = true
	}
	for id, body := range tr.bodies {
		if !known[id] || !bytes.HasPrefix(body, []byte("Subject: ")) {
			t.Errorf("message %s was never there, or is not as it was", id)
		}
	}
	if len(tr.bodies) != got.Messages {
		t.Errorf("%d were delivered of %d that were saved", len(tr.bodies), got.Messages)
	}
}

// Without any database, the journal alone gives back what the last start took.
func TestRecover_FromTheJournalAlone(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"gone":  os.Remove,
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"zeros": func(path string) error { return os.WriteFile(path, make([]byte, 1<<16), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			const n = 20
			dir, ids := damagedQueue(t, n, false)
			if err := spoil(filepath.Join(dir, databaseName)); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(dir); err == nil {
				t.Fatal("it is opened")
			}
			got, err := Recover(dir)
			if err != nil || got.Messages != n || got.Held != 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			got.FaultCount, got.Faults = 1, []string{"none has to be"}
			checkRecovered(t, dir, ids, got)
		})
	}
}

// Whatever page of a database is damaged, however: a start refuses it or works, and never ends the process; and a
// recovery saves all messages but those that lay there.
func TestRecover_AnyPage(t *testing.T) {
	dir, ids := damagedQueue(t, 25, true)
	whole, err := os.ReadFile(filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	m := newestMeta(whole)
	whole = whole[:m.end*4096]
	refused := 0
	for page := uint64(0); page < m.end; page++ {
		for name, spoil := range map[string]func(p []byte){
			"zeros":   func(p []byte) { clear(p) },
			"noise":   func(p []byte) { copy(p, bytes.Repeat([]byte{0xff, 0x5a, 0x01, 0x02, 0x80}, len(p)/5+1)) },
			"id":      func(p []byte) { p[0] ^= 4 },
			"flags":   func(p []byte) { p[8] ^= 3 },
			"count":   func(p []byte) { p[11] ^= 0x7f },
			"reach":   func(p []byte) { p[13] ^= 0x10 },
			"element": func(p []byte) { p[16] ^= 0x40; p[21] ^= 0x40 },
			"tail":    func(p []byte) { clear(p[len(p)/2:]) },
		} {
			to := t.TempDir()
			if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			file := bytes.Clone(whole)
			spoil(file[page*4096:][:4096])
			if err := os.WriteFile(filepath.Join(to, databaseName), file, 0o600); err != nil {
				t.Fatal(err)
			}
			st, err := openStore(to)
			if err == nil {
				_, _, err = st.page(0, 0)
				if e := st.abandon(); err != nil || e != nil {
					t.Fatalf("page %d, %s: opened, and then %v, %v", page, name, err, e)
				}
				continue
			}
			refused++
			if !errors.Is(err, errDatabase) && !errors.Is(err, errDamaged) {
				t.Fatalf("page %d, %s: %v", page, name, err)
			}
			got, err := Recover(to)
			if err != nil || got.Messages > len(ids) {
				t.Fatalf("page %d, %s: %+v, %v", page, name, got, err)
			}
			again := mustOpenStore(t, to)
			if again.close() != nil {
				t.Fatalf("page %d, %s: the new queue cannot be closed", page, name)
			}
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d pages, refused %d times", m.end, refused)
}

func TestRecover_RunningDaemonAndNewerFormatAreRefused(t *testing.T) {
	r := openRig(t, t.TempDir(), newFakeTransport(), testPolicy)
	if _, err := Recover(r.dir); !errors.Is(err, ErrLocked) {
		t.Errorf("recover: %v", err)
	}
	if _, _, err := Compact(r.dir); !errors.Is(err, ErrLocked) {
		t.Errorf("compact: %v", err)
	}
	r.stop()
	if err := os.WriteFile(filepath.Join(r.dir, markerName), []byte(markerText(3)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, r.dir)
	if _, err := Recover(r.dir); err == nil || !strings.Contains(err.Error(), "no format above 2") {
		t.Errorf("recover: %v", err)
	}
	if _, err := Recover(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither a database nor a journal") {
		t.Errorf("recover: %v", err)
	}
	if after := snapshot(t, r.dir); after != before {
		t.Errorf("the folder was changed:\n%s", after)
	}
}

// A daemon whose store has failed and is away has its queue all the same: what came in behind its back would wait for its
// next start, or be written over.
func TestLock_IsTheDaemonsWhileItsStoreIsAway(t *testing.T) {
	_, backup, _ := exportFrom(t, newFakeTransport())
	tr := newFakeTransport()
	tr.set(hostAway)
	r := openRig(t, t.TempDir(), tr, testPolicy)
	r.Start()
	defer r.stop()
	r.send("a@example.com")
	mend := r.breakStore()
	if _, reply := r.try("b@example.com", 100); reply.Code != 451 {
		t.Fatalf("the store works: %v", reply)
	}
	until(t, "the store to be away", func() bool { return strings.Contains(r.log.String(), "still failing") })
	_, imported := Import(r.dir, os.DirFS(backup), false)
	_, recovered := Recover(r.dir)
	_, _, compacted := Compact(r.dir)
	_, read := OpenReadOnly(r.dir)
	for what, err := range map[string]error{"import": imported, "recover": recovered, "compact": compacted, "reading": read} {
		if !errors.Is(err, ErrLocked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	mend()
	until(t, "mail to be taken again", func() bool { id, _ := r.try("again@example.com", 100); return id != "" })
	if n := r.Counts().Deferred + r.Counts().Active; n != 2 {
		t.Errorf("%d messages", n)
	}
}

// Until the exchange is complete nobody else gets the new database: a daemon that is started amid it would write its
// first commits to a journal whose name is then removed.
func TestRecover_IsAloneUntilItsEnd(t *testing.T) {
	dir, _ := damagedQueue(t, 10, false)
	const orphans = 3000
	for i := range orphans {
		if err := os.WriteFile(filepath.Join(dir, "spool", (ID(1<<40)+ID(i)).String()), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, databaseName)
	old, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	unfinished := func() bool {
		_, err := os.Stat(filepath.Join(dir, "spool", ID(1<<40+orphans-1).String()))
		return err == nil || hasJournal(dir)
	}
	watched := make(chan bool)
	go func() {
		for {
			f, err := os.Open(path)
			if err != nil {
				continue
			}
			info, err := f.Stat()
			if err == nil && !os.SameFile(old, info) && lockFile(f, true) == nil {
				watched <- unfinished()
				f.Close()
				return
			}
			f.Close()
		}
	}()
	if _, err := Recover(dir); err != nil {
		t.Fatal(err)
	}
	if <-watched {
		t.Error("another could open the new database before recovery was through with the old files")
	}
}

func TestCompact(t *testing.T) {
	tr := newFakeTransport()
	tr.set(hostAwayNow)
	r := openRig(t, t.TempDir(), tr, testPolicy)
	r.Start()
	for i := range 300 {
		r.submit(bytes.Repeat([]byte("x"), 50_000), testEnvelope(fmt.Sprintf("u%d@example.com", i)))
	}
	ids, _, err := r.List("", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ids[10:] {
		if _, err := r.Apply(ActionDelete, []string{e.ID}); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	before, after, err := Compact(r.dir)
	if err != nil || after > before/4 || after < 10*50_000 {
		t.Errorf("%d octets became %d, %v", before, after, err)
	}
	if hasJournal(r.dir) {
		t.Error("a journal is left")
	}
	again := openRig(t, r.dir, newFakeTransport(), testPolicy)
	again.Start()
	until(t, "the rest to be delivered", func() bool {
		c := again.Counts()
		return c.Active+c.Deferred+c.Held == 0
	})
	again.stop()
	if len(again.transport.bodies) != 10 {
		t.Errorf("%d were delivered of 10", len(again.transport.bodies))
	}
}

// A queue that crashed is compacted with what is in its journal.
func TestCompact_TakesTheJournalIn(t *testing.T) {
	dir, ids := damagedQueue(t, 10, false)
	if _, _, err := Compact(dir); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if list, _, err := r.List("", 0); err != nil || len(list) != len(ids) {
		t.Errorf("%d messages, %v", len(list), err)
	}
}

// hostAwayNow is a transport whose host cannot be reached.
func hostAwayNow(context.Context, string, envelope.Message) envelope.Attempt {
	return siteDown(time.Hour)
}

// A file that is cut while it is open, or a disk that cannot be read any more, is an error and not the end of the process.
func TestStore_FileThatIsCutWhileItIsOpen(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	for id := ID(1); id <= 20; id++ {
		mustCommit(t, st, newMessage(t, id, bytes.Repeat([]byte("x"), 5000)))
	}
	if err := settled(st); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, databaseName)
	if err := os.Truncate(path, 2*4096); err != nil {
		t.Fatal(err)
	}
	_, _, listErr := st.page(0, 0)
	_, recordErr := st.record(7)
	_, slotsErr := st.slots(func(slot) {})
	for _, err := range []error{listErr, recordErr, slotsErr} {
		if !errors.Is(err, errDatabase) || !strings.Contains(err.Error(), path) {
			t.Errorf("reading: %v", err)
		}
	}
	if err := st.abandon(); err != nil {
		t.Error(err)
	}
}

// badSector is a file with octets that the disk cannot read.
type badSector struct {
	*os.File
	at int64
}

func (b badSector) ReadAt(p []byte, at int64) (int, error) {
	if at <= b.at && b.at < at+int64(len(p)) {
		return 0, &fs.PathError{Op: "read", Path: b.Name(), Err: syscall.EIO}
	}
	return b.File.ReadAt(p, at)
}

// A sector of the journal that cannot be read costs a recovery what lies there, and not what comes after it.
func TestRecover_ReadsOnBehindABadSector(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	defer st.close()
	for id := ID(1); id <= 4; id++ {
		mustCommit(t, st, newMessage(t, id, bytes.Repeat([]byte("content"), 1000)))
	}
	f, err := os.Open(filepath.Join(dir, journalName(st.journal.gen)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	state := journalState{salt: st.journal.salt}
	at := frames(t, file)
	for what, bad := range map[string]int{"head": at[1], "payload": at[1] + frameBlock + 5} {
		var faults []error
		l := newLayer(0)
		legible := legibleFile{badSector{f, int64(bad)}, func(err error) { faults = append(faults, err) }}
		if r, err := state.replayFile(legible, st.journal.gen, 0, l.apply); err != nil || r.frames != 3 || r.missing != 1 {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if _, ok := l.envelopes[2]; ok || len(l.envelopes) != 3 || len(faults) == 0 || !errors.Is(faults[0], syscall.EIO) {
			t.Errorf("%s: %d messages, faults %v", what, len(l.envelopes), faults)
		}
	}
}

// When the journal cannot be read in one go, and it is known what the database holds: the frames that it does not have are
// found without the header of their file, and those that it has are not applied again, since a newer one may be lost.
func TestRecover_BadSectorBringsNothingBack(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	defer st.close()
	first := newMessage(t, 1, []byte("delivered"))
	mustCommit(t, st, first)
	mustCommit(t, st, leaves(t, first))
	left := st.journal.gen
	rotated(t, st)
	mustCommit(t, st, newMessage(t, 2, []byte("waits")))
	state, err := st.journalState()
	if err != nil {
		t.Fatal(err)
	}
	copied := crashed(t, dir, st)
	for gen, at := range map[uint64]func([]int) int{
		left:           func(at []int) int { return at[1] }, // that the first message has left
		st.journal.gen: func([]int) int { return 0 },        // the header
	} {
		path := filepath.Join(copied, journalName(gen))
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(file[at(frames(t, file)):][:frameBlock])
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &salvage{dir: copied, state: state, known: true}
	l := newLayer(0)
	s.replayAll(l)
	if _, ok := l.envelopes[2]; !ok || len(l.envelopes) != 1 || s.FaultCount != 0 {
		t.Errorf("%d messages, the one that waits: %v; faults %v", len(l.envelopes), ok, s.Faults)
	}
}

// Without what the database says of the journal all of it is applied, also what the database has already: a message that
// came in the older file and was delivered in the newer one does not come back.
func TestRecover_WhatHasGoneStaysGone(t *testing.T) {
	from := t.TempDir()
	st := still(mustOpenStore(t, from))
	first := newMessage(t, 1, []byte("gone"))
	mustCommit(t, st, first, newMessage(t, 2, []byte("waits")))
	st.commits.Lock()
	st.rotate()
	st.settle()
	st.commits.Unlock()
	still(st)
	mustCommit(t, st, leaves(t, first))
	dir := crashed(t, from, st)
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	db, _, err := openBolt(filepath.Join(dir, databaseName), boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketJournal()).Put([]byte(stateKey), []byte("damaged")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if st, err := openStore(dir); err == nil {
		t.Fatal("it is opened", st.close())
	}
	got, err := Recover(dir)
	if err != nil || got.Messages != 1 || got.History != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	st = mustOpenStore(t, dir)
	defer st.close()
	if ids := holds(t, st, 2); len(ids) != 1 || ids[0] != 2 {
		t.Errorf("it holds %v", ids)
	}
}
