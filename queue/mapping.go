package queue

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bbolt maps the file of the database into memory and reads it there. When the disk cannot read a page any more, or
// somebody has cut the file short, that is a fault of memory, which would end the daemon and is an error here. After one
// amid a transaction bbolt may hold a lock of its own for ever; see store.faulted.

// openBolt opens the database at path, and returns the file that bbolt has of it beside.
func openBolt(path string, opts *bolt.Options) (db *bolt.DB, file *os.File, err error) {
	// What checkDatabase has not seen, and what the disk cannot read any more, would be a panic, or a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, file, err = nil, nil, fmt.Errorf("%s: %w: %v%s", path, errDatabase, p, recoverRemedy)
		}
	}()
	open := opts.OpenFile
	if open == nil {
		open = openFile
	}
	opts.OpenFile = func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
		f, err = open(name, flag, perm)
		file = f
		return f, err
	}
	db, err = bolt.Open(path, 0o600, opts)
	if err == nil && !isAt(file, path) {
		// Who had the lock until now has put another file in its place, and nobody would see again what this one gets.
		return nil, nil, errors.Join(fmt.Errorf("%w: %s was replaced while it was opened; try again", ErrLocked, path), db.Close())
	}
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, nil, fmt.Errorf("%w: %s is locked; stop that one, or set another data_dir", ErrLocked, path)
	case errors.Is(err, syscall.ENOMEM):
		return nil, nil, fmt.Errorf("cannot open %s: %w; relayd needs address space of 2 GB and the size of this file: raise the limit (ulimit -v)",
			path, err)
	case err != nil:
		return nil, nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return db, file, nil
}

// isAt reports whether f is the file that path names.
func isAt(f *os.File, path string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(info, now)
}

// view runs f with what the database holds now. When the disk cannot be read, or the file is not what bbolt takes it for,
// the error is errDatabase.
func (s *store) view(f func(*bolt.Tx) error) (err error) {
	if err := s.legible(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := s.fault(recover()); fault != nil {
			err = fault
		}
	}()
	return s.db.View(f)
}

// update runs f in a transaction that writes. Its errors are those of view, and then the store is of no more use.
func (s *store) update(f func(*bolt.Tx) error) (err error) {
	if err := s.legible(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := s.fault(recover()); fault != nil {
			s.faulted.Store(true)
			err = fault
		}
	}()
	if err := s.db.Update(f); err != nil {
		return err
	}
	s.measure()
	return nil
}

// legible returns an error when the two meta pages cannot be read. A transaction begins with them, under locks that a fault
// of memory would leave held.
func (s *store) legible() error {
	var octet [1]byte
	for _, at := range []int64{0, s.pageSize} {
		if _, err := s.file.ReadAt(octet[:], at); err != nil && !errors.Is(err, os.ErrClosed) { // of which bbolt tells itself
			return fmt.Errorf("%s: %w: its meta pages cannot be read: %w", s.file.Name(), errDatabase, err)
		}
	}
	return nil
}

// fault returns what was recovered from a panic as an error, if it is about the database; another panic goes on.
func (s *store) fault(p any) error {
	switch p := p.(type) {
	case nil:
		return nil
	case interface{ Addr() uintptr }: // a fault of memory that is a file
		return fmt.Errorf("%s: %w: it cannot be read at %#x", s.file.Name(), errDatabase, p.Addr())
	case string: // an assertion of bbolt's
		return fmt.Errorf("%s: %w: %s", s.file.Name(), errDatabase, p)
	default:
		panic(p)
	}
}

// closeDatabase closes the database. After a fault in a transaction that wrote, bbolt's Close may wait for ever for the
// end of that: the lock is given back and the file closed; the mapping stays.
func (s *store) closeDatabase() error {
	if s.faulted.Load() {
		return errors.Join(unlockFile(s.file), s.file.Close())
	}
	return s.db.Close()
}

// smallMapping is the size up to which the database may stay in memory whole, in octets.
const smallMapping = 32 << 20

// release gives back the memory through which the database was read: bbolt maps the file, and every page that was looked
// at counts as the daemon's until the system wants it back. The pages stay in the system's cache.
func (s *store) release() error {
	return s.view(func(tx *bolt.Tx) error { // which keeps the mapping where it is
		if tx.Size() <= smallMapping {
			return nil
		}
		return releaseMapping(s.db.Info().Data, uintptr(tx.Size()))
	})
}
