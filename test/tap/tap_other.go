//go:build !linux || !(amd64 || arm64)

package tap

import "os/exec"

// Enter does nothing here.
func Enter() {}

// Tap is a tapped process.
type Tap struct{}

// Start returns ErrUnsupported here.
func Start(*exec.Cmd, string, Observer) (*Tap, error) { return nil, ErrUnsupported }

// Wait does nothing here.
func (t *Tap) Wait() error { return nil }
