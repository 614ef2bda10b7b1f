//go:build darwin || freebsd

package queue

import (
	"os"

	"golang.org/x/sys/unix"
)

// diskFree returns the octets that the daemon may still write to the file system of dir, and how many files it may make.
func diskFree(dir string) (octets, files int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, os.NewSyscallError("statfs", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Ffree), nil // below 0 when only root's reserve is left
}
