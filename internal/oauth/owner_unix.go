//go:build unix

package oauth

import (
	"io/fs"
	"os"
	"syscall"
)

// giveTo gives path to the owner of a folder: root, who logs in for the daemon, is not who reads the grant.
func giveTo(path string, of fs.FileInfo) error {
	owner, ok := of.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}

// lockFile waits for the file's lock, which ends when the file is closed.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			return err
		}
	}
}
