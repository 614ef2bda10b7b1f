//go:build unix

package oauth

import (
	"io/fs"
	"os"
	"syscall"
)

// noFollow makes opening a symbolic link fail.
const noFollow = syscall.O_NOFOLLOW

// giveTo gives a file to the owner of a folder: root, who logs in for the daemon, is not who reads the grant.
func giveTo(f *os.File, of fs.FileInfo) error {
	owner, ok := of.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// giveDirTo is giveTo for a folder.
func giveDirTo(path string, of fs.FileInfo) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|noFollow|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return giveTo(dir, of)
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
