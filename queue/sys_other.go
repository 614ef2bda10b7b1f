//go:build !linux

package queue

import (
	"math"
	"os"
)

// fdatasync flushes a file: what Linux can do cheaper, other systems do in full.
func fdatasync(f *os.File) error { return f.Sync() }

// diskFree returns that there is room: only Linux is asked, elsewhere a full disk shows at the write.
func diskFree(string) (octets, files int64, err error) { return math.MaxInt64 / 2, math.MaxInt64, nil }

// writable reports whether the folder is there; its rights show at the write.
func writable(dir string) error {
	_, err := os.Stat(dir)
	return err
}

// releaseMapping leaves it to the system to take pages back.
func releaseMapping(_, _ uintptr) error { return nil }

// preallocate does nothing: only Linux is asked.
func preallocate(*os.File, int64) error { return nil }

// adopt does nothing: run the tool as the user that relayd runs as.
func adopt(string) error { return nil }
