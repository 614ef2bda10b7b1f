package queue

import (
	"errors"
	"fmt"
	"os"
)

// errWindows: a queue needs a lock on a folder and folders that can be flushed, which Windows has not.
var errWindows = fmt.Errorf("a queue cannot be kept on Windows: %w; run relayd on Linux, macOS, FreeBSD or OpenBSD", errors.ErrUnsupported)

func diskFree(string) (octets, files int64, err error) { return 0, 0, errWindows }

func writable(string) error { return errWindows }

func lockFile(*os.File, bool) error { return errWindows }

func unlockFile(*os.File) error { return errWindows }

const noFollow, onlyFolder = 0, 0

// supported returns an error where no queue can be kept.
func supported() error { return errWindows }
