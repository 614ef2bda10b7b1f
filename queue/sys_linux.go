package queue

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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

// preallocate gives a file room for its first size octets without changing its length.
func preallocate(f *os.File, size int64) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size))
}

// adopt gives the files of a queue to the owner of its folder, when root has worked on it.
func adopt(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var owner unix.Stat_t
	if err := unix.Stat(dir, &owner); err != nil {
		return os.NewSyscallError("stat", err)
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid == owner.Uid && st.Gid == owner.Gid {
			return os.NewSyscallError("lstat", err)
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}
