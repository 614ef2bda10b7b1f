package queue

import (
	"math"
	"os"
	"syscall"

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

// diskFree returns the octets that the daemon may still write to the file system of dir, and how many files it may make.
func diskFree(dir string) (octets, files int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, os.NewSyscallError("statfs", err)
	}
	files = int64(min(st.Ffree, math.MaxInt64))
	if st.Files == 0 { // such as btrfs, which has no such limit
		files = math.MaxInt64
	}
	return int64(st.Bavail) * int64(st.Bsize), files, nil
}

// releaseMapping takes the pages of a file's mapping out of the daemon's memory. They are read again when they are needed.
func releaseMapping(at, size uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, at, size, unix.MADV_DONTNEED)
	if errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}

// allocated returns how many octets of the disk a file has.
func allocated(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// preallocate gives a file room for its first size octets without changing its length.
func preallocate(f *os.File, size int64) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size))
}
