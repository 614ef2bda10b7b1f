package queue

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root has made in a folder becomes its owner's; nothing that the owner makes a name there lead to does.
func TestAdopt_GivesAwayNothingElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, who alone gives files away")
	}
	const daemon = 65534
	dir, outside := t.TempDir(), t.TempDir()
	for _, name := range []string{filepath.Join(dir, "made"), filepath.Join(outside, "secret"), filepath.Join(outside, "linked")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "spool"), 0o700),
		os.WriteFile(filepath.Join(dir, "spool", "made"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "folder")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "file")),
		os.Link(filepath.Join(outside, "linked"), filepath.Join(dir, "linked")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.Lchown(filepath.Join(dir, "folder"), daemon, daemon),
		os.Chown(dir, daemon, daemon))
	if err != nil {
		t.Fatal(err)
	}
	if err := adopt(dir); err != nil {
		t.Error(err)
	}
	// The folder was one when it was listed, and is a link by now.
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := adoptOne(root, "folder/secret", &syscall.Stat_t{Uid: daemon, Gid: daemon}); err == nil {
		t.Error("a file outside of the folder was reached")
	}
	for path, want := range map[string]uint32{
		filepath.Join(dir, "made"): daemon, filepath.Join(dir, "spool"): daemon, filepath.Join(dir, "spool", "made"): daemon,
		outside: 0, filepath.Join(outside, "secret"): 0, filepath.Join(outside, "linked"): 0,
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
	}
	if err := adopt(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
