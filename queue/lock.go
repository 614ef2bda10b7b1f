package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// lockQueue takes the lock of the queue in dir, which ends when the file that it returns is closed: one for itself, or with
// others who only read. bbolt's own lock goes with its file, which a daemon closes to open its store anew after a failure;
// this one, of the spool's folder, stays, so that nobody changes the queue behind a daemon that knows what was in it. The
// error is ErrLocked when a daemon, or for one for itself anybody, has it. Without the folder nobody can have it, and there
// is no file.
func lockQueue(dir string, alone bool) (*os.File, error) {
	f, err := openFolder(filepath.Join(dir, "spool"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		// Somebody who only looks is gone in a moment.
		if err = lockFile(f, alone); !errors.Is(err, ErrLocked) || try == lockTries {
			break
		}
		time.Sleep(lockPause)
	}
	if errors.Is(err, ErrLocked) {
		err = fmt.Errorf("%w: %s is locked; stop that one, or set another data_dir", ErrLocked, f.Name())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

const (
	lockTries = 10
	lockPause = 10 * time.Millisecond
)

// unlockQueue ends a lock that lockQueue has taken.
func unlockQueue(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
