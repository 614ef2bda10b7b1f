//go:build unix

package oauth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestStore_NobodyIsLedElsewhere(t *testing.T) {
	g := newRig(t, options(), account(FlowDevice))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, put := range []func(string) error{
		func(path string) error { return syscall.Mkfifo(path, 0o600) },
		func(path string) error { return os.Symlink(elsewhere, path) },
		func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		path := g.store.Path("isp")
		if err := errors.Join(os.Remove(path), put(path)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.store.Load("isp"); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Error(err)
		}
	}
	lock := filepath.Join(g.dir, "oauth", "lock")
	if err := errors.Join(os.Remove(lock), os.Symlink(elsewhere, lock)); err != nil {
		t.Fatal(err)
	}
	if err := g.store.Save("other", Grant{RefreshToken: "x"}); err == nil {
		t.Error("a grant was saved under a lock elsewhere")
	}
	if _, err := os.Lstat(elsewhere); !os.IsNotExist(err) {
		t.Error("a file was made elsewhere")
	}
}
