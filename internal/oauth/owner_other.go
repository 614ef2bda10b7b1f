//go:build !unix

package oauth

import (
	"io/fs"
	"os"
)

func giveTo(string, fs.FileInfo) error { return nil }

func lockFile(*os.File) error { return nil }
