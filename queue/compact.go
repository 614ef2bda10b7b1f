package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// compactStep is how many octets are copied in one transaction.
const compactStep = 4 << 20

// Compact writes the database of the queue in dir, whose daemon is not running, anew without the room that it does not
// use, and returns its size before and after, in octets. When it fails or is interrupted the old one stays.
func Compact(dir string) (before, after int64, err error) {
	path := filepath.Join(dir, databaseName)
	if _, err := os.Stat(path); err != nil {
		return 0, 0, fmt.Errorf("there is no queue in %s: %w", dir, err)
	}
	lock, err := lockQueue(dir, true)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unlockQueue(lock)) }()
	st, err := openStore(dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, st.abandon()) }()
	st.commits.Lock()
	if err = st.flush(); err == nil {
		err = st.writeClosed()
	}
	st.commits.Unlock()
	if err != nil {
		return 0, 0, err
	}
	if before, err = fileSize(path); err != nil {
		return 0, 0, err
	}
	to := path + ".compact"
	need := st.end.Load() - st.pages()
	if free, _, err := diskFree(dir); err == nil && free < need+compactStep {
		// What is reserved for outcomes is not needed now; the next start reserves it again.
		if err := st.file.Truncate(st.end.Load()); err != nil {
			return 0, 0, err
		}
	}
	if err := compactTo(to, st.db); err != nil {
		err = errors.Join(fmt.Errorf("%s cannot be written: %w; nothing was changed", to, err), os.Remove(to))
		return 0, 0, sayRoom(err, dir, need+compactStep)
	}
	// The database has all that is in the journal, and the lock goes with the old file.
	if err = errors.Join(st.journal.remove(), syncDir(dir)); err == nil {
		err = errors.Join(os.Rename(to, path), syncDir(dir))
	}
	if err != nil {
		return 0, 0, err
	}
	after, err = fileSize(path)
	return before, after, err
}

// sayRoom adds to the error of a full disk how many octets are needed where, about.
func sayRoom(err error, dir string, need int64) error {
	free, _, e := diskFree(dir)
	if e != nil || !isFull(err) {
		return err
	}
	return fmt.Errorf("%w\nThis needs about %d MB free on the disk of %s, which has %d MB: delete other files there, or copy the whole "+
		"folder to a larger disk and run this command there", err, need/1_000_000+1, dir, free/1_000_000)
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// compactTo copies db into a new file, which is on disk and whole when it returns nil.
func compactTo(to string, db *bolt.DB) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	opts := boltOptions()
	opts.NoSync = true
	opts.OpenFile = openFile
	opts.InitialMmapSize = 0
	dst, err := bolt.Open(to, 0o600, opts)
	if err != nil {
		return err
	}
	dst.AllocSize = 1 << 20
	if err = errors.Join(bolt.Compact(dst, db, compactStep), dst.Sync(), dst.Close()); err != nil {
		return err
	}
	f, err := openFile(to, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkPages(f, currentFormat, false)
}
