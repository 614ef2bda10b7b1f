package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// daemonGroup is the group that the service runs in, by the README and the unit file.
const daemonGroup = "relayd"

// initFiles are the files of a configuration that is not in place yet.
type initFiles struct {
	target    string
	temporary string // the configuration, beside target
	secret    string // the file of the password or of the client's secret, if one was written; in place
	folder    string // that of target, if it was made
	access    access
	placed    bool
}

// access is who may read what init writes.
type access struct {
	mode fs.FileMode
	gid  int // -1: as it comes
}

// accessForDaemon lets the group of the service read the files when root writes them and there is such a group; otherwise
// they are for their owner alone.
func accessForDaemon() access {
	if os.Geteuid() == 0 {
		if g, err := user.LookupGroup(daemonGroup); err == nil {
			if gid, err := strconv.Atoi(g.Gid); err == nil {
				return access{mode: 0o640, gid: gid}
			}
		}
	}
	return access{mode: 0o600, gid: -1}
}

func (f *initFiles) modeText() string {
	switch {
	case f.access.gid >= 0:
		return fmt.Sprintf("mode %04o, for the group %s", f.access.mode, daemonGroup)
	case os.Geteuid() == 0:
		return fmt.Sprintf("mode %04o, for root alone, since there is no group %s: let the user that relayd runs as read it", f.access.mode,
			daemonGroup)
	}
	return fmt.Sprintf("mode %04o", f.access.mode)
}

// write writes the password or the client's secret to its own file, if it was typed, and the configuration beside where it will be. After an
// error nothing is left of them.
func (s *setup) write() (*initFiles, error) {
	f := &initFiles{target: s.target, access: accessForDaemon()}
	dir := filepath.Dir(s.target)
	if err := f.makeFolder(dir); err != nil {
		return nil, notWritten(dir, err)
	}
	if path, text := s.own(); path != "" {
		if err := writeNew(path, text+"\n", f.access); err != nil {
			f.remove()
			return nil, notWritten(path, err)
		}
		f.secret = path
	}
	temporary, err := writeBeside(s.target, s.text(), f.access)
	if err != nil {
		f.remove()
		return nil, notWritten(s.target, err)
	}
	f.temporary = temporary
	return f, nil
}

// makeFolder makes the folder of the configuration where there is none yet.
func (f *initFiles) makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && f.access.gid >= 0 {
		err = os.Chown(dir, -1, f.access.gid)
	}
	if err == nil {
		f.folder = dir
	}
	return err
}

// place gives the configuration its name, at once and whole, unless something has that name by now. From then on remove
// leaves it alone, also when its name could not be flushed.
func (f *initFiles) place() error {
	err := os.Link(f.temporary, f.target)
	switch {
	case errors.Is(err, fs.ErrExist):
		return existsError(f.target, nil)
	case err != nil: // a file system without hard links
		text, readErr := os.ReadFile(f.temporary)
		if readErr != nil {
			return readErr
		}
		if err := writeNew(f.target, string(text), f.access); err != nil {
			return notWritten(f.target, err)
		}
	}
	f.placed = true
	if err := errors.Join(os.Remove(f.temporary), syncFolder(filepath.Dir(f.target))); err != nil {
		return fmt.Errorf("%s is written, but not all went well: %w", f.target, err)
	}
	return nil
}

// remove takes away what was written and is not in place.
func (f *initFiles) remove() {
	if f.placed {
		return
	}
	for _, path := range []string{f.temporary, f.secret, f.folder} {
		if path != "" {
			os.Remove(path)
		}
	}
}

// notWritten says what to do about a file that cannot be written.
func notWritten(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be written: this user may not; use sudo, or name another file with --config", path)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists already, and init never overwrites it: remove it, or name another file with --config", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s cannot be written: its folder does not exist; make it, or name another file with --config", path)
	}
	return err
}

// writeNew writes a file that must not exist, and flushes it.
func writeNew(path, text string, a access) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := fill(w, text, a); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// writeBeside writes text to a new file in the folder of path and returns its path.
func writeBeside(path, text string, a access) (string, error) {
	w, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	if err := fill(w, text, a); err != nil {
		os.Remove(w.Name())
		return "", err
	}
	return w.Name(), nil
}

// fill writes text to w, which only its owner can read so far, then lets others read it as a says, flushes and closes it.
func fill(w *os.File, text string, a access) error {
	_, err := w.WriteString(text)
	if err == nil && a.gid >= 0 {
		err = w.Chown(-1, a.gid)
	}
	if err == nil {
		err = w.Chmod(a.mode)
	}
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// syncFolder makes the names in a folder last. Where folders cannot be flushed, the system does it by itself.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}
