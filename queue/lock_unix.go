//go:build darwin || freebsd || linux || openbsd

package queue

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes a lock on an open database that goes with f: one for itself, or with others who only read. The error is
// ErrLocked when a daemon, or for one for itself anybody, has it.
func lockFile(f *os.File, alone bool) error {
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return os.NewSyscallError("flock", err)
}

// unlockFile gives back the lock that goes with f, which its mapping would keep.
func unlockFile(f *os.File) error {
	return os.NewSyscallError("flock", unix.Flock(int(f.Fd()), unix.LOCK_UN))
}

const (
	// noFollow makes opening a link an error, and opening a pipe not wait.
	noFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK
	// onlyFolder makes opening what is no folder an error.
	onlyFolder = unix.O_DIRECTORY
)

// writable returns why no file can be made in the folder dir.
func writable(dir string) error {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	return os.NewSyscallError("access", err)
}

// supported returns an error where no queue can be kept.
func supported() error { return nil }
