package queue

import (
	"errors"
	"io/fs"
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

// writable returns why no file can be made in the folder dir.
func writable(dir string) error {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	return os.NewSyscallError("access", err)
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

// adopt gives what root has made in the folder of a queue to the folder's owner. That user can exchange anything there while
// root looks: nothing outside of the folder is reached, whatever a name leads to, and no file that has another name too.
func adopt(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if owner.Uid == 0 {
		return nil
	}
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = adoptOne(root, path, owner)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func adoptOne(root *os.Root, path string, owner *syscall.Stat_t) error {
	if info, err := root.Lstat(path); err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		return err
	}
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // what has become a pipe since holds nobody up
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if st.Uid != 0 || !info.IsDir() && (!info.Mode().IsRegular() || st.Nlink != 1) {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
