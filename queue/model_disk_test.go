package queue

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"pgregory.net/rapid"
)

// commit is the disk under the daemon's store.
func (lf *life) commit(st *store, commit func() error) error {
	if lf.lies.CompareAndSwap(true, false) {
		return errors.Join(errors.New("injected: the second sync failed"), commit())
	}
	if lf.commits.Add(-1) == 0 {
		return lf.dieIn(st, commit)
	}
	return commit()
}

// tearCommit lets letters arrive, operators act and time pass, and kills the daemon amid one of the commits.
func (w *world) tearCommit(rt *rapid.T) {
	w.life.tear = rapid.Uint64().Draw(rt, "tear")
	w.life.commits.Store(int64(rapid.IntRange(1, 6).Draw(rt, "commit")))
	w.storm(rt, true)
}

// dieIn is death amid a commit: what the folder holds is that of before, and a part of what the commit wrote.
func (lf *life) dieIn(st *store, commit func() error) error {
	w := lf.w
	w.mu.Lock() // the committer holds c.mu already
	defer w.mu.Unlock()
	if lf.dead {
		return commit()
	}
	lf.dead = true
	lf.copied = filepath.Join(w.dir, fmt.Sprintf("life%d", w.nextLife()))
	err := copyFolder(lf.copied, lf.dir, st)
	name := journalName(st.journal.gen)
	before, readErr := os.ReadFile(filepath.Join(lf.dir, name))
	commitErr := commit()
	after, readErr2 := os.ReadFile(filepath.Join(lf.dir, name))
	torn := tear(before, after, rand.New(rand.NewPCG(5, lf.tear)))
	err = errors.Join(err, readErr, commitErr, readErr2, os.WriteFile(filepath.Join(lf.copied, name), torn, 0o600))
	if err != nil {
		w.fault("cannot tear a commit: %v", err)
	}
	return commitErr
}

// tear returns a journal in the middle of a commit, which is one write: some of its sectors are on the disk, or all, or
// none.
func tear(before, after []byte, rnd *rand.Rand) []byte {
	const sector = 512
	torn := bytes.Clone(after)
	part := rnd.IntN(11) // tenths that are not there
	for at := 0; at < len(torn); at += sector {
		end := min(at+sector, len(torn))
		if rnd.IntN(10) >= part {
			continue
		}
		clear(torn[at:end])
		if at < len(before) {
			copy(torn[at:end], before[at:])
		}
	}
	return torn
}
