//go:build !unix

package oauth

import (
	"errors"
	"fmt"
	"os"
)

const noFollow, onlyFolder = 0, 0

// lockFile fails, and with it each login: without a lock and private modes a grant cannot be kept.
func lockFile(*os.File) error {
	return fmt.Errorf("a login cannot be kept on this system: %w", errors.ErrUnsupported)
}
