package queue

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// openFile opens a file of the queue. A link, a pipe or a device in its place is an error at once: the queue follows nothing
// that leads out of its folder, and waits for nobody who would have to write to a pipe.
func openFile(path string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, perm)
	if err != nil {
		if info, e := os.Lstat(path); e == nil && !info.Mode().IsRegular() {
			return nil, notRegular(path, info)
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func notRegular(path string, info os.FileInfo) error {
	return fmt.Errorf("%s is no regular file but %s; move it away, and put the queue's own file in its place", path, kind(info.Mode()))
}

func kind(mode os.FileMode) string {
	switch mode.Type() {
	case os.ModeSymlink:
		return "a link"
	case os.ModeDir:
		return "a folder"
	case os.ModeNamedPipe:
		return "a pipe"
	case os.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// openFolder opens a folder of the queue. What is no folder, and a link, is an error at once.
func openFolder(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|noFollow|onlyFolder, 0)
}

// readFile returns what a small file of the queue holds.
func readFile(path string, most int64) ([]byte, error) {
	f, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
