package queue

import (
	"os"

	"golang.org/x/sys/unix"
)

// fdatasync flushes a file's data, and of its metadata what is needed to read it back.
func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// diskFree returns the octets that the daemon may still write to the file system of dir.
func diskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// releaseMapping takes the pages of a file's mapping out of the daemon's memory. They are read again when they are needed.
func releaseMapping(at, size uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, at, size, unix.MADV_DONTNEED)
	if errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}
