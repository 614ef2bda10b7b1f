package queue

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The folder of a queue names the format that it is in, in a file beside the database. It also tells a folder that was
// never used from one whose database was lost or emptied, which bbolt would silently turn into a new, empty queue.
//
//	1  the database alone
//	2  the journal beside it
const (
	markerName    = "FORMAT"
	currentFormat = 2
)

func markerText(format int) string { return fmt.Sprintf("relayd queue, format %d\n", format) }

// checkFormat returns the format that the folder is in, 0 for one that was not used yet.
func checkFormat(dir string) (format int, err error) {
	marker, path := filepath.Join(dir, markerName), filepath.Join(dir, databaseName)
	text, err := readFile(marker, 1<<10)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return 0, nil
	case errors.Is(err, os.ErrPermission):
		return 0, fmt.Errorf("%w; the folder belongs to another user: give it to the one that relayd runs as, with chown -R", err)
	case err != nil:
		return 0, err
	}
	for format = 1; string(text) != markerText(format); format++ {
		if format == currentFormat {
			return 0, fmt.Errorf("%s says %q; this version reads no format above %d; install the relayd that wrote it, or a newer one",
				marker, text, currentFormat)
		}
	}
	if info, err := os.Lstat(path); err != nil || info.Size() == 0 {
		return 0, fmt.Errorf("%s is missing or empty, though %s says that a queue was here; "+
			"put the database back, or remove %s to begin with an empty queue", path, marker, marker)
	}
	return format, nil
}

func writeFormat(dir string) error {
	return writeFileSync(filepath.Join(dir, markerName), []byte(markerText(currentFormat)))
}

// migrate keeps a copy of a database of an older format, before anything is written to it. The database is locked by the
// caller.
func migrate(dir string, format int) error {
	if format == 0 || format == currentFormat {
		return nil
	}
	path := filepath.Join(dir, databaseName)
	src, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	to := fmt.Sprintf("%s.format-%d", path, format)
	dst, err := openFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("the queue is in format %d and must be copied before it is brought to format %d: %w", format, currentFormat, err)
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("the queue is in format %d and must be copied before it is brought to format %d; %s could not be written: %w",
			format, currentFormat, to, errors.Join(err, os.Remove(to)))
	}
	return syncDir(dir)
}
