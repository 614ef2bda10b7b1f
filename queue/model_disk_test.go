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
	err := copyFolder(lf.copied, lf.dir, used(st))
	before, readErr := os.ReadFile(filepath.Join(lf.dir, databaseName))
	commitErr := commit()
	after, readErr2 := os.ReadFile(filepath.Join(lf.dir, databaseName))
	torn := tear(before, after, 2*st.db.Info().PageSize, rand.New(rand.NewPCG(5, lf.tear)))
	err = errors.Join(err, readErr, commitErr, readErr2, os.WriteFile(filepath.Join(lf.copied, databaseName), torn, 0o600))
	if err != nil {
		w.fault("cannot tear a commit: %v", err)
	}
	return commitErr
}

// tear returns a database in the middle of a commit, which writes pages first and, when they are synced, one of the two
// meta pages in the first octets of the file: some sectors of pages, or all of them and a part of the meta page, or all.
func tear(before, after []byte, metas int, rnd *rand.Rand) []byte {
	torn := bytes.Clone(after)
	copy(torn, before[:min(metas, len(before))])
	const sector = 512
	if stage := rnd.IntN(3); stage > 0 {
		// A meta page's sector that was being written is as the drive left it: old, new, or half of each.
		for at := 0; at < metas; at += sector {
			if !bytes.Equal(before[at:at+sector], after[at:at+sector]) {
				n := sector
				if stage == 1 {
					n = rnd.IntN(sector)
				}
				copy(torn[at:at+n], after[at:at+n])
			}
		}
		return torn
	}
	likely := rnd.Float64()
	for at := metas; at < len(torn); at += sector {
		if rnd.Float64() < likely {
			continue
		}
		end := min(at+sector, len(torn))
		clear(torn[at:end])
		if at < len(before) {
			copy(torn[at:end], before[at:])
		}
	}
	return torn
}
