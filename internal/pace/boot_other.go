//go:build !linux

package pace

import "time"

// bootClock knows nothing here; the wall clock has to do.
func bootClock() (id string, ago time.Duration) { return "", 0 }
