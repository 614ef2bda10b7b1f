package queue

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damageNewestMeta damages the newer of the two meta pages of the database in dir, so that bbolt takes the older one.
func damageNewestMeta(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, databaseName)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	if first, _ := (&pages{f: bytes.NewReader(file)}).readMeta(0); first.txid != newestMeta(file).txid {
		at = 4096
	}
	file[at+pageHeader+30] ^= 0x40
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rotated freezes the active layer of a store and waits until the database has it.
func rotated(t *testing.T, st *store) {
	t.Helper()
	st.commits.Lock()
	st.rotate()
	st.settle()
	st.commits.Unlock()
	still(st)
}

// A database whose newest state cannot be read any more is refused when its journal has gone on: to replay what fits, and
// leave out the rest, would lose mail in silence. A recovery has all of it.
func TestJournal_ThatIsAheadOfTheDatabaseIsRefused(t *testing.T) {
	// What was written to the database by the meta page that is lost is found outside of its order, and held.
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string) (copied string)
		n    ID
		held int
	}{
		"two generations are not written": {func(t *testing.T, dir string) string {
			st := still(mustOpenStore(t, dir))
			defer st.close()
			mustCommit(t, st, newMessage(t, 1, []byte("first")), newMessage(t, 2, []byte("second")))
			rotated(t, st)
			mustCommit(t, st, newMessage(t, 3, []byte("third")))
			database, err := os.ReadFile(filepath.Join(dir, databaseName))
			if err != nil {
				t.Fatal(err)
			}
			rotated(t, st)
			mustCommit(t, st, newMessage(t, 4, []byte("fourth")))
			copied := crashed(t, dir, st)
			if err := os.WriteFile(filepath.Join(copied, databaseName), database, 0o600); err != nil {
				t.Fatal(err)
			}
			return copied
		}, 4, 2},
		"the start's": {func(t *testing.T, dir string) string {
			st := still(mustOpenStore(t, dir))
			mustCommit(t, st, newMessage(t, 1, []byte("first")))
			if err := st.close(); err != nil {
				t.Fatal(err)
			}
			st = still(mustOpenStore(t, dir))
			defer st.close()
			mustCommit(t, st, newMessage(t, 2, []byte("second")))
			copied := crashed(t, dir, st)
			if err := copyFile(copied, dir, databaseName); err != nil {
				t.Fatal(err)
			}
			return copied
		}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.make(t, t.TempDir())
			damageNewestMeta(t, dir)
			before := snapshot(t, dir)
			_, err := openStore(dir)
			_, readErr := OpenReadOnly(dir)
			for _, err := range []error{err, readErr} {
				if !errors.Is(err, errDatabase) || !strings.Contains(err.Error(), "older than its journal") || strings.Count(err.Error(), "relayctl queue recover") != 1 {
					t.Fatalf("it is opened, or refused without a remedy: %v", err)
				}
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("refusing it changed the folder:\n%s\nwas\n%s", after, before)
			}
			got, err := Recover(dir)
			if err != nil || got.Messages != int(c.n) || got.Held != c.held {
				t.Errorf("recovered: %+v, %v", got, err)
			}
			// An exchange that was cut short leaves the old journal beside the new database.
			for gen := range uint64(2) {
				if err := copyFile(dir, got.Old, journalName(gen)); err != nil {
					t.Fatal(err)
				}
			}
			st := mustOpenStore(t, dir)
			defer st.close()
			if ids := holds(t, st, c.n); len(ids) != int(c.n) || st.missing != 0 {
				t.Errorf("the new queue has %v, %d missing", ids, st.missing)
			}
		})
	}
}

// What is written to the database alone, past the journal, survives the loss of its newest meta page, too.
func TestJournal_WhatIsNotInItHasTwoMetaPages(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	defer st.close()
	mustCommit(t, st, newMessage(t, 1, []byte("first")))
	mustCommit(t, st, newMessage(t, 2, []byte("second")), &change{id: 1, quarantine: "why"})
	copied := crashed(t, dir, st)
	if err := copyFile(copied, dir, databaseName); err != nil {
		t.Fatal(err)
	}
	damageNewestMeta(t, copied)
	again := mustOpenStore(t, copied)
	defer again.close()
	if n, err := again.quarantined(); err != nil || n != 1 || fmt.Sprint(holds(t, again, 2)) != "[2]" {
		t.Errorf("there are %v and %d in quarantine, %v", holds(t, again, 2), n, err)
	}
}

// resumed opens a store as a start does for which the disk has no room.
func resumed(dir string) (*store, error) {
	path := filepath.Join(dir, databaseName)
	if err := checkDatabase(path, currentFormat); err != nil {
		return nil, err
	}
	db, file, err := openBolt(path, boltOptions())
	if err != nil {
		return nil, err
	}
	st := &store{db: db, file: file, pageSize: int64(db.Info().PageSize)}
	state, err := st.journalState()
	if err != nil {
		return nil, errors.Join(err, st.abandon())
	}
	left, err := state.load(dir)
	if err == nil {
		st.missing = left.missing
		st.journal, err = openJournal(dir, left.gen+1)
	}
	if err == nil {
		err = st.resume(state, left)
	}
	if err != nil {
		return nil, errors.Join(err, st.abandon())
	}
	return st, nil
}

// A start that goes on in the journal writes behind what is there, also behind a frame that a power cut has torn, and what
// it writes is there after the next crash; the database gets all of it in the end.
func TestResume_GoesOnWhereTheJournalEnds(t *testing.T) {
	dir := t.TempDir()
	st := still(mustOpenStore(t, dir))
	copied := twoGenerations(t, st, dir)
	path := filepath.Join(copied, journalName(2))
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := frames(t, file)
	file[at[2]+frameHeader+3] ^= 0x10 // message 6 was never answered for
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	for id := ID(7); id <= 9; id++ {
		st, err := resumed(copied)
		if err != nil {
			t.Fatal(err)
		}
		still(st)
		if last, err := st.last(); err != nil || last < id-1 && id > 7 {
			t.Errorf("the last id is %d, %v", last, err)
		}
		mustCommit(t, st, newMessage(t, id, bytes.Repeat([]byte("more"), int(id)*700)))
		if err := st.abandon(); err != nil {
			t.Fatal(err)
		}
	}
	st, err = resumed(copied)
	if err != nil {
		t.Fatal(err)
	}
	st.attend(func() { t.Error("the store failed") })
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	st = mustOpenStore(t, copied)
	defer st.close()
	if got := fmt.Sprint(holds(t, st, 9)); got != "[1 2 3 4 5 7 8 9]" || st.missing != 0 {
		t.Errorf("there are %s, %d missing", got, st.missing)
	}
}

// The first frame of a generation that a power cut has torn leaves the file's header, and nothing was answered for: neither
// the start after it nor one after another crash takes the database for older than that journal.
func TestJournal_TornFirstFrameIsNoLaterState(t *testing.T) {
	for name, earlier := range map[string]ID{"of the first generation": 0, "of the second": 1} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			st := still(mustOpenStore(t, dir))
			defer st.close()
			for id := ID(1); id <= earlier; id++ {
				mustCommit(t, st, newMessage(t, id, []byte("earlier")))
				rotated(t, st)
			}
			mustCommit(t, st, newMessage(t, earlier+1, []byte("torn")))
			copied := crashed(t, dir, st)
			path := filepath.Join(copied, journalName(st.journal.gen))
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			clear(file[frameBlock:])
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			for id := earlier + 2; id <= earlier+4; id++ {
				again := still(mustOpenStore(t, copied))
				defer again.close()
				copied = crashed(t, copied, again) // before anything was committed
				look, err := OpenReadOnly(copied)
				if err != nil {
					t.Fatal(err)
				}
				look.Close()
				again = still(mustOpenStore(t, copied))
				defer again.close()
				mustCommit(t, again, newMessage(t, id, []byte("later")))
				copied = crashed(t, copied, again)
			}
			last := mustOpenStore(t, copied)
			defer last.close()
			if n := ID(len(holds(t, last, 9))); n != earlier+3 || last.missing != 0 {
				t.Errorf("%d messages, %d missing", n, last.missing)
			}
		})
	}
}
