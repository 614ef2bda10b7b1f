//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package queue

import "os"

// lockFile does nothing: bbolt's own lock is all that there is here.
func lockFile(*os.File, bool) error { return nil }

// unlockFile does nothing, either.
func unlockFile(*os.File) error { return nil }
