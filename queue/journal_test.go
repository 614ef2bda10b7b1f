package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"relayd/internal/envelope"
)

// newMessage is the intake of a message with content.
func newMessage(t testing.TB, id ID, body []byte) *change {
	t.Helper()
	r := newRecord(id, testEnvelope(fmt.Sprintf("u%d@example.com", id)), envelope.Origin{}, time.Unix(int64(id%1e6), 0).UTC())
	r.Size, r.Sum = int64(len(body)), checksum(body)
	c := &change{id: id, put: r, body: body, newSlot: slot{ID: id, Due: int64(id), Size: r.Size, Routes: "main"}, hasNew: true}
	if err := c.encode(); err != nil {
		t.Fatal(err)
	}
	return c
}

// leaves is the end of a message that newMessage made.
func leaves(t testing.TB, c *change) *change {
	t.Helper()
	r := c.put.clone()
	r.Gone = true
	out := &change{id: c.id, oldSlot: c.newSlot, hasOld: true, remove: true, history: r}
	if err := out.encode(); err != nil {
		t.Fatal(err)
	}
	return out
}

// mustOpenStore opens the store of a folder as Open does, which makes the spool of a new one first.
func mustOpenStore(t testing.TB, dir string) *store {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, markerName)); errors.Is(err, fs.ErrNotExist) {
		if _, err := openSpool(dir); err != nil {
			t.Fatal(err)
		}
	}
	st, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func mustCommit(t testing.TB, st *store, changes ...*change) {
	t.Helper()
	if err := st.commit(changes); err != nil {
		t.Fatal(err)
	}
}

// still keeps a store's background work from beginning.
func still(st *store) *store {
	st.commits.Lock()
	defer st.commits.Unlock()
	st.rotateLater(time.Hour)
	return st
}

// crashed returns a copy of the folder of a store as a crash leaves it.
func crashed(t testing.TB, dir string, st *store) string {
	t.Helper()
	to := t.TempDir()
	if err := copyFolder(to, dir, st); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return to
}

// holds returns the ids of the messages 1 to n that a store has whole.
func holds(t testing.TB, st *store, n ID) (ids []uint64) {
	t.Helper()
	for id := ID(1); id <= n; id++ {
		r, err := st.record(id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if body, err := st.body(id); err != nil || checksum(body) != r.Sum {
			t.Fatalf("content of %d: %d octets, %v", id, len(body), err)
		}
		ids = append(ids, uint64(id))
	}
	return ids
}

func TestJournal_WhatWasCommittedSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	for id := ID(1); id <= 5; id++ {
		mustCommit(t, st, newMessage(t, id, bytes.Repeat([]byte{byte(id)}, int(id)*3000)))
	}
	mustCommit(t, st, leaves(t, newMessage(t, 3, nil)))
	if err := st.abandon(); err != nil {
		t.Fatal(err)
	}
	st = mustOpenStore(t, dir)
	defer st.close()
	if got := fmt.Sprint(holds(t, st, 5)); got != "[1 2 4 5]" || st.missing != 0 {
		t.Errorf("after the crash there are %s, %d missing", got, st.missing)
	}
	if r, err := st.history(3); err != nil || !r.Gone {
		t.Errorf("history: %+v, %v", r, err)
	}
}

// A power cut leaves any part of the last write: the frames before it stay, and it is there whole or not at all.
func TestJournal_TornLastFrame(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	defer st.close()
	mustCommit(t, st, newMessage(t, 1, []byte("first")))
	mustCommit(t, st, newMessage(t, 2, []byte("second")))
	start := st.journal.at
	mustCommit(t, st, newMessage(t, 3, bytes.Repeat([]byte("third"), 3000)))
	copied := crashed(t, dir, st)
	untally(t, copied, st.journal.gen)
	path := filepath.Join(copied, journalName(st.journal.gen))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	state, err := st.journalState()
	if err != nil {
		t.Fatal(err)
	}
	length := int(st.journal.at)
	for torn := int(start); torn < length; torn += 512 {
		for name, rest := range map[string][]byte{"cut": nil, "zeros": make([]byte, length-torn), "old": bytes.Repeat([]byte{0xa5}, length-torn)} {
			if err := os.WriteFile(path, append(bytes.Clone(whole[:torn]), rest...), 0o600); err != nil {
				t.Fatal(err)
			}
			left, err := state.load(copied)
			if err != nil {
				t.Fatal(err)
			}
			l := left.layers[0]
			_, third := l.envelopes[3]
			_, body := l.bodies[3]
			if len(l.envelopes) < 2 || l.envelopes[1].value == nil || l.envelopes[2].value == nil || third != body || left.missing != 0 {
				t.Fatalf("torn at %d (%s): %d envelopes, the third %v, its content %v, missing %d", torn, name, len(l.envelopes), third, body, left.missing)
			}
			if end := int(start) + frameHeader + frameLength(whole[start:]); third != (torn >= end) && name != "zeros" {
				t.Fatalf("torn at %d of a frame that ends at %d (%s): it is there: %v", torn, end, name, third)
			}
		}
	}
}

// untally takes away the tally of the frames of generation gen: one that was torn while it was written is in none.
func untally(t *testing.T, dir string, gen uint64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, journalName(gen+1)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, tallyLength), tallyAt); err != nil {
		t.Fatal(err)
	}
}

func frameLength(frame []byte) int { return int(binary.BigEndian.Uint32(frame[20:])) }

// frames returns the offsets of the frames in a journal's file, and the end of the last one.
func frames(t *testing.T, file []byte) (at []int) {
	t.Helper()
	for i := frameBlock; i+frameHeader <= len(file) && binary.BigEndian.Uint32(file[i:]) == frameMagic; {
		at = append(at, i)
		i += (frameHeader + frameLength(file[i:]) + frameBlock - 1) / frameBlock * frameBlock
	}
	return at
}

// A frame that was answered for and cannot be read is counted, wherever it is; the others count.
func TestJournal_DamagedFrameIsTold(t *testing.T) {
	for _, c := range []struct {
		name    string
		gen     uint64 // which file is damaged, 1 or 2
		frames  []int  // of that file
		offset  int
		left    string
		missing int
	}{
		{"payload, first frame", 1, []int{0}, frameHeader + 20, "[2 3 4 5 6]", 1},
		{"header, in the middle", 1, []int{1}, 0, "[1 3 4 5 6]", 1},
		{"length", 1, []int{1}, 20, "[1 3 4 5 6]", 1},
		{"last of the file before", 1, []int{2}, frameHeader, "[1 2 4 5 6]", 1},
		{"all of the file before", 1, []int{0, 1, 2}, frameHeader, "[4 5 6]", 3},
		{"first of the second file", 2, []int{0}, 4, "[1 2 3 5 6]", 1},
		{"several", 2, []int{0, 1}, 13, "[1 2 3 6]", 2},
		{"the last of all", 2, []int{2}, frameHeader, "[1 2 3 4 5]", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			st := still(mustOpenStore(t, dir))
			copied := twoGenerations(t, st, dir)
			path := filepath.Join(copied, journalName(c.gen))
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := frames(t, file)
			if len(at) != 3 {
				t.Fatalf("the journal's file has %d frames", len(at))
			}
			for _, f := range c.frames {
				file[at[f]+c.offset] ^= 0x40
			}
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			again := mustOpenStore(t, copied)
			defer again.close()
			if got := fmt.Sprint(holds(t, again, 6)); got != c.left || again.missing != c.missing {
				t.Errorf("there are %s and %d missing; want %s and %d", got, again.missing, c.left, c.missing)
			}
		})
	}
}

// twoGenerations commits messages 1 to 3 to one file of the journal and 4 to 6 to the other, and returns a copy of the
// folder from a moment at which the database has none of them.
func twoGenerations(t *testing.T, st *store, dir string) string {
	t.Helper()
	for id := ID(1); id <= 3; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("content")))
	}
	before := filepath.Join(t.TempDir(), databaseName)
	if err := st.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(before, 0o600) }); err != nil {
		t.Fatal(err)
	}
	st.commits.Lock()
	st.rotate()
	st.settle()
	st.commits.Unlock()
	for id := ID(4); id <= 6; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("content")))
	}
	copied := crashed(t, dir, st)
	if err := os.Rename(before, filepath.Join(copied, databaseName)); err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

// A crash after the journal has begun its next file, with the database at any state that a crash can leave it in.
func TestJournal_CrashAroundACheckpoint(t *testing.T) {
	t.Run("before it", func(t *testing.T) {
		dir := t.TempDir()
		copied := twoGenerations(t, still(mustOpenStore(t, dir)), dir)
		for range 2 { // the second time, the first start has written all that to the database, and has been killed
			st := still(mustOpenStore(t, copied))
			if got := fmt.Sprint(holds(t, st, 6)); got != "[1 2 3 4 5 6]" || st.missing != 0 {
				t.Errorf("there are %s, %d missing", got, st.missing)
			}
			copied = crashed(t, copied, st)
			st.close()
		}
	})
	t.Run("amid it", func(t *testing.T) {
		dir := t.TempDir()
		st := still(mustOpenStore(t, dir))
		copied := twoGenerations(t, st, dir)
		// Pages were written, the meta page was not: what lies above what the database uses is anything.
		f, err := os.OpenFile(filepath.Join(copied, databaseName), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Repeat([]byte("halfway"), 5000)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		again := mustOpenStore(t, copied)
		defer again.close()
		if got := fmt.Sprint(holds(t, again, 6)); got != "[1 2 3 4 5 6]" {
			t.Errorf("there are %s", got)
		}
	})
	t.Run("after it", func(t *testing.T) {
		dir := t.TempDir()
		st := still(mustOpenStore(t, dir))
		mustCommit(t, st, newMessage(t, 1, nil))
		if err := settled(st); err != nil {
			t.Fatal(err)
		}
		copied := crashed(t, dir, st)
		// Behind the daemon's back message 1 goes: were the frame replayed, it would be back.
		db, err := bolt.Open(filepath.Join(copied, databaseName), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketEnvelopes()).Delete(idKey(1)) }); err != nil {
			t.Fatal(err)
		}
		db.Close()
		st.close()
		again := mustOpenStore(t, copied)
		defer again.close()
		if got := holds(t, again, 1); got != nil {
			t.Errorf("a frame that the database had was replayed: %v", got)
		}
	})
}

// What is committed while the database is written is in the next generation, which a crash right after that replays whole.
func TestJournal_CommitsDuringACheckpointSurviveACrash(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	for id := ID(1); id <= 3; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("content")))
	}
	st.watch = &watch{}
	st.watch.mu.Lock() // the checkpoint begins when it has noted its call
	st.commits.Lock()
	st.rotate()
	st.commits.Unlock()
	for id := ID(4); id <= 6; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("content")))
	}
	st.watch.mu.Unlock()
	st.commits.Lock()
	st.settle()
	st.commits.Unlock()
	again := mustOpenStore(t, crashed(t, dir, st))
	if got := fmt.Sprint(holds(t, again, 6)); got != "[1 2 3 4 5 6]" || again.missing != 0 {
		t.Errorf("there are %s, %d missing", got, again.missing)
	}
	if err := errors.Join(again.close(), st.close()); err != nil {
		t.Error(err)
	}
}

// A frame for which there was no room may have got to the disk whole but for its padding. It was refused, and is not there
// after a crash.
func TestJournal_FrameThatWasRefusedIsUndone(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	mustCommit(t, st, newMessage(t, 1, []byte("content")))
	j := st.journal
	at, seq := j.at, j.seq
	mustCommit(t, st, newMessage(t, 2, []byte("content")))
	written := int(j.at - at)
	j.at, j.seq = at, seq // as append leaves them when the write has failed
	full := fmt.Errorf("%w: injected", errNoRoom)
	if err := j.unwrite(j.files[j.gen&1], written-1, full); !errors.Is(err, errNoRoom) {
		t.Fatal(err)
	}
	j.tally()
	again := mustOpenStore(t, crashed(t, dir, st))
	if got := fmt.Sprint(holds(t, again, 2)); got != "[1]" || again.missing != 0 {
		t.Errorf("there are %s, %d missing", got, again.missing)
	}
	if err := errors.Join(again.close(), st.close()); err != nil {
		t.Error(err)
	}
}

// A full disk that a flush tells of leaves nothing to rely on: only a write that found no room can be tried again.
func TestJournal_OnlyAWriteFindsNoRoom(t *testing.T) {
	for op, want := range map[string]bool{"write": true, "sync": false, "truncate": false} {
		if got := errors.Is(noRoom(&fs.PathError{Op: op, Path: "journal-0", Err: syscall.ENOSPC}), errNoRoom); got != want {
			t.Errorf("no room at %s: %v, want %v", op, got, want)
		}
	}
}

// A large file of the journal must not be cut before the database has what is in it.
func TestJournal_StartCutsNothingThatIsNeeded(t *testing.T) {
	dir := t.TempDir()
	copied := twoGenerations(t, still(mustOpenStore(t, dir)), dir)
	path := filepath.Join(copied, journalName(1))
	if err := os.Truncate(path, journalKeep+frameBlock); err != nil {
		t.Fatal(err)
	}
	// The next generation goes into the file of the first one. Its database cannot be written: a start must leave it.
	state := journalState{gen: 2}
	j, err := openJournal(copied, state.gen+1)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if info, err := os.Stat(path); err != nil || info.Size() != journalKeep+frameBlock {
		t.Errorf("the file has %d octets, %v", info.Size(), err)
	}
	if err := j.shrink(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != journalKeep {
		t.Errorf("the file has %d octets once it is not needed, %v", info.Size(), err)
	}
}

// What an earlier use left in a file, and content that looks like a frame, are not replayed.
func TestJournal_OnlyItsOwnFramesCount(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	for id := ID(1); id <= 8; id++ {
		mustCommit(t, st, newMessage(t, id, []byte("old")))
	}
	first, err := os.ReadFile(filepath.Join(dir, journalName(st.journal.gen)))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.abandon(); err != nil { // a crash: the next start has another salt, and the generation after
		t.Fatal(err)
	}
	st = still(mustOpenStore(t, dir))
	for id := ID(1); id <= 8; id++ {
		mustCommit(t, st, leaves(t, newMessage(t, id, []byte("old"))))
	}
	st.commits.Lock()
	st.rotate() // its file is that of the first start
	st.settle()
	st.commits.Unlock()
	// A message whose content is a journal, at an offset at which it lies on blocks as frames do.
	fake := bytes.Clone(first)
	for i := 0; i+frameHeader < len(fake); i += frameBlock {
		binary.BigEndian.PutUint64(fake[i+4:], st.journal.gen)
	}
	mustCommit(t, st, newMessage(t, 9, []byte("new")))
	at := st.journal.at
	mustCommit(t, st, newMessage(t, 10, append(make([]byte, 3*frameBlock), fake[:min(len(fake), 48<<10)]...)))
	copied := crashed(t, dir, st)
	path := filepath.Join(copied, journalName(st.journal.gen))
	st.close()
	// The frame with that content is damaged, so that its inside is searched for frames.
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file[at+frameHeader] ^= 1
	copy(file[int(at)+frameBlock:], fake)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	again := mustOpenStore(t, copied)
	defer again.close()
	if got := fmt.Sprint(holds(t, again, 10)); got != "[9]" {
		t.Errorf("there are %s, want message 9 alone", got)
	}
}

// A change that is committed again, after a commit that said it had failed, may be in the database: it can be removed.
func TestStore_CommittedAgainDoesNotComeBack(t *testing.T) {
	dir := t.TempDir()
	c := newCommitter(dir, still(mustOpenStore(t, dir)), nil, 0, nil)
	message := newMessage(t, 1, []byte("content"))
	mustCommit(t, c.store, message) // and the committer is told that this has failed
	if err := c.reopen([]*change{message}); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, c.store, leaves(t, message))
	if err := c.store.close(); err != nil {
		t.Fatal(err)
	}
	st := mustOpenStore(t, dir)
	defer st.close()
	if got := holds(t, st, 1); got != nil {
		t.Error("a message that has left the queue is back")
	}
}

// When the database cannot be written any more the store fails, and the next one has everything.
func TestStore_CheckpointThatFailsLosesNothing(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	failed := make(chan struct{})
	st.failing = func() { close(failed) }
	mustCommit(t, st, newMessage(t, 1, []byte("content")))
	if err := st.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := settled(st); err == nil {
		t.Fatal("the database is closed and was written")
	}
	<-failed
	if err := st.commit([]*change{newMessage(t, 2, nil)}); err == nil {
		t.Error("a store that has failed takes a commit")
	}
	if err := st.abandon(); err != nil {
		t.Fatal(err)
	}
	again := mustOpenStore(t, dir)
	defer again.close()
	if got := fmt.Sprint(holds(t, again, 2)); got != "[1]" {
		t.Errorf("there are %s", got)
	}
}

func TestReader_SeesTheJournalAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	mustCommit(t, st, newMessage(t, 1, []byte("in the database")))
	if err := settled(st); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, st, newMessage(t, 2, []byte("in the journal")), leaves(t, newMessage(t, 1, nil)))
	copied := crashed(t, dir, st)
	st.close()
	before := snapshot(t, copied)
	r, err := OpenReadOnly(copied)
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := r.List("", 0)
	if err != nil || len(list) != 1 || list[0].ID != ID(2).String() {
		t.Errorf("list: %+v, %v", list, err)
	}
	if d, err := r.Show(ID(1).String()); err != nil || !d.Gone {
		t.Errorf("the one that has left: %+v, %v", d, err)
	}
	if c, err := r.Counts(); err != nil || c.Active != 1 || c.Bytes != int64(len("in the journal")) {
		t.Errorf("counts: %+v, %v", c, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after := snapshot(t, copied); after != before {
		t.Errorf("the folder was changed:\n%s\nwas\n%s", after, before)
	}
}

// snapshot returns a folder's files with their sizes and checksums.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %d %08x\n", name, len(content), checksum(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// memoryFile is a journal's file for the fuzzer.
type memoryFile struct {
	*bytes.Reader
	fs.FileInfo
}

func (m memoryFile) Stat() (fs.FileInfo, error) { return m, nil }
func (m memoryFile) Size() int64                { return m.Reader.Size() }

// Whatever a journal's file holds: nothing panics, and what is applied has the form that the database expects.
func FuzzJournal(f *testing.F) {
	dir := f.TempDir()
	j, err := openJournal(dir, 1)
	if err != nil {
		f.Fatal(err)
	}
	j.salt, j.unsynced = 0, true // one that the fuzzer can compute with
	message := newMessage(f, 1, []byte("content"))
	for _, c := range []*change{message, leaves(f, message), newMessage(f, 2, nil)} {
		if err := j.append([]delta{c.delta()}); err != nil {
			f.Fatal(err)
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, journalName(1)))
	if err != nil {
		f.Fatal(err)
	}
	j.close()
	d := message.delta()
	f.Add(file, d.append(nil))
	f.Add(file[:frameBlock+300], []byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, file, payload []byte) {
		l := newLayer(1)
		r, err := journalState{}.replayFile(memoryFile{Reader: bytes.NewReader(file)}, 1, 0, l.apply)
		if err == nil && r.frames == 0 && !l.empty() {
			t.Error("changes without a frame")
		}
		// What can be read is written the same again, and what cannot is an error that names damage.
		var again []byte
		err = eachDelta(payload, func(d delta) {
			newLayer(1).apply(d)
			again = d.append(again)
		})
		if err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("error: %v", err)
		}
		var twice []byte
		if e := eachDelta(again, func(d delta) { twice = d.append(twice) }); e != nil || !bytes.Equal(again, twice) {
			t.Errorf("%x became %x, %v", again, twice, e)
		}
	})
}
