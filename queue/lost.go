package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// damage is what a start found wrong with a journal. Messages that got a 250 may be lost with it, so it is logged, and
// what there is of them is kept for a person to look at, in a folder whose name begins with lostPrefix.
type damage struct {
	missing int      // commits that could not be read
	faults  []string // files that are missing or were cut short
	kept    string   // the folder; "" when nothing was kept
	unkept  error    // why not
}

const lostPrefix = "queue.lost-"

// found takes what was left of the journal in dir, and keeps copies of its files when that is damaged: they are about to
// be written over.
func (d *damage) found(dir string, left remains) {
	if d.missing, d.faults = left.missing, left.faults; !d.any() {
		return
	}
	if d.unkept = d.keep(dir); d.unkept != nil {
		return
	}
	for n := range uint64(2) {
		err := keepCopy(filepath.Join(dir, journalName(n)), filepath.Join(d.kept, journalName(n)))
		if !errors.Is(err, fs.ErrNotExist) {
			d.unkept = errors.Join(d.unkept, err)
		}
	}
}

func (d *damage) any() bool { return d.missing > 0 || len(d.faults) > 0 }

// keep makes the folder of what is kept.
func (d *damage) keep(dir string) error {
	if d.kept != "" {
		return nil
	}
	path := filepath.Join(dir, lostPrefix+time.Now().Format("20060102-150405.000"))
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d.kept = path
	return syncDir(dir)
}

// tell logs the damage.
func (d *damage) tell(log *slog.Logger) {
	if !d.any() {
		return
	}
	attrs := []any{"commits", d.missing, "kept_in", d.kept}
	for _, f := range d.faults {
		attrs = append(attrs, "fault", f)
	}
	if d.unkept != nil {
		attrs = append(attrs, "not_kept", d.unkept)
	}
	log.Error("the journal is damaged; messages may be lost", attrs...)
}

// lostFolders returns the folders of what was kept that an operator has not removed yet.
func lostFolders(dir string) (found []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), lostPrefix) {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found, err
}

// setAside moves the file of a message that no record names into the folder of what is kept.
func (d *damage) setAside(s spool, id ID) error {
	if err := d.keep(filepath.Dir(s.dir)); err != nil {
		return err
	}
	to := filepath.Join(d.kept, filepath.Base(s.dir))
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Rename(s.path(id), filepath.Join(to, id.String()))
}

func keepCopy(from, to string) error {
	src, err := openFile(from, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := openFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, src); err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("cannot keep %s: %w", from, errors.Join(err, os.Remove(to)))
	}
	return nil
}
