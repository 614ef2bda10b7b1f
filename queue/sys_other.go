//go:build !linux

package queue

import (
	"errors"
	"os"
)

// fdatasync flushes a file in full: fdatasync(2) is only used on Linux. On macOS this is F_FULLFSYNC.
func fdatasync(f *os.File) error { return f.Sync() }

// releaseMapping leaves it to the system to take pages back.
func releaseMapping(_, _ uintptr) error { return nil }

// allocated returns 0: nobody preallocates.
func allocated(*os.File) int64 { return 0 }

// preallocate reserves nothing, and says so: a full disk shows at the write.
func preallocate(*os.File, int64) error { return errors.ErrUnsupported }
