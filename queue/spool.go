package queue

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// spool is the folder of content that is too large to be stored inline: a file for each message, named by its id.
type spool struct{ dir string }

// openSpool opens the spool of the queue in dir, and makes it for a new one. One that is missing beside a queue may be on a
// disk that is not mounted: its messages would all seem damaged.
func openSpool(dir string) (spool, error) {
	s := spool{filepath.Join(dir, "spool")}
	_, markerErr := os.Stat(filepath.Join(dir, markerName))
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) && markerErr == nil {
		return s, fmt.Errorf("%s is missing, and the content of large messages with it; put it back, or make an empty folder of that name", s.dir)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return s, err
	}
	return s, syncDir(dir)
}

func (s spool) path(id ID) string { return filepath.Join(s.dir, id.String()) }

// create opens the file of a message that is arriving. It must not exist.
func (s spool) create(id ID) (*os.File, error) {
	return openFile(s.path(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// keep makes a finished file durable: its data first, then its name.
func (s spool) keep(f *os.File) error {
	if err := fdatasync(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// remove unlinks a message's file. A file that is left behind by a crash is removed at the next start.
func (s spool) remove(id ID) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// empty reports whether the folder has no message, or is not there.
func (s spool) empty() bool {
	entries, _ := os.ReadDir(s.dir)
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool { _, err := ParseID(e.Name()); return err == nil })
}

// verify returns an error when a message's file is not as it was stored.
func (s spool) verify(r *record) error {
	f, err := openFile(s.path(r.ID), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyContent(io.Discard, f, r)
}

// copyContent copies the content of r, and returns an error when it is not what was stored.
func copyContent(w io.Writer, from io.Reader, r *record) error {
	sum := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(w, sum), from)
	switch {
	case err != nil:
		return err
	case n != r.Size || sum.Sum32() != r.Sum:
		return fmt.Errorf("its content does not match its checksum (%d octets of %d)", n, r.Size)
	}
	return nil
}

// sweep calls dispose with the files that known does not claim, and returns how many those are.
func (s spool) sweep(known func(ID) (bool, error), dispose func(ID) error) (disposed int, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		id, err := ParseID(e.Name())
		if err != nil {
			continue // not ours
		}
		ok, err := known(id)
		if err != nil {
			return disposed, err
		}
		if ok {
			continue
		}
		if err := dispose(id); err != nil {
			return disposed, err
		}
		disposed++
	}
	return disposed, nil
}

// makeFolder makes dir and what is missing above it, so that no power cut takes away again what will be promised in it.
func makeFolder(dir string) error {
	parent := filepath.Dir(dir)
	info, err := os.Stat(dir)
	there := err == nil && info.IsDir()
	if !there {
		if parent != dir {
			if err := makeFolder(parent); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	// Also when it is there: the start that made it may have ended before this. But then the folder above may be one
	// that cannot be synced: another user's, or of a file system that is never written.
	if err := syncDir(parent); err != nil && !there {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|onlyFolder, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFileSync creates path with text so that a crash leaves all of it or nothing.
func writeFileSync(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
