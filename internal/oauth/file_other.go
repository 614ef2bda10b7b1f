//go:build !unix

package oauth

import (
	"io/fs"
	"os"
)

const noFollow = 0

func giveTo(*os.File, fs.FileInfo) error { return nil }

func giveDirTo(string, fs.FileInfo) error { return nil }

func lockFile(*os.File) error { return nil }
