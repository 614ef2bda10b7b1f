//go:build unix

package oauth

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	// noFollow makes opening a link an error, and opening a pipe not wait.
	noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	// onlyFolder makes opening what is no folder an error.
	onlyFolder = syscall.O_DIRECTORY
)

// lockPatience is how long lockFile waits. Whoever has the lock only writes a file.
const lockPatience = 10 * time.Second

// lockFile waits for the file's lock, which ends when the file is closed.
func lockFile(f *os.File) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return err
		case time.Since(begin) > lockPatience:
			return errors.New("another process has held the lock for 10 seconds; end it, and try again")
		}
	}
}
