//go:build unix

package owner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	daemon = 65534
	other  = 65533
)

// tree makes folders and links below a folder of root's. A name that ends in a slash is a folder; one with " -> " a link.
func tree(t *testing.T, owners map[string]int, names ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, whom it is about")
	}
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		from, to, link := strings.Cut(name, " -> ")
		path := filepath.Join(base, from)
		if link {
			err = os.Symlink(strings.Replace(to, "BASE", base, 1), path)
		} else {
			err = os.Mkdir(path, 0o755)
		}
		if err == nil {
			err = os.Lchown(path, owners[from], owners[from])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func TestOf_IsTheOneUserWhoCanExchangeTheFolder(t *testing.T) {
	base := tree(t, map[string]int{"theirs": daemon, "theirs/data": daemon, "theirs/roots": 0, "theirs/link": daemon, "theirs/others": other,
		"daemons": daemon, "lent": daemon},
		"roots", "theirs", "theirs/data", "theirs/roots", "theirs/others", "theirs/link -> BASE/roots", "daemons", "link -> daemons",
		"lent -> roots", "open", "open/data", "loop -> loop", "up -> theirs/../daemons")
	if err := os.Chmod(filepath.Join(base, "open"), 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"roots": 0, "theirs": daemon, "theirs/data": daemon, "daemons": daemon, "link": daemon,
		"none": 0, "theirs/none": daemon, "up": daemon,
		"theirs/roots": -1, "theirs/link": -1, "theirs/others": -1, "lent": -1, "open": -1, "open/data": -1, "open/none": -1, "loop": -1} {
		u, err := Of(filepath.Join(base, path))
		got := 0
		switch {
		case err != nil:
			got = -1
		case u != nil:
			got = u.uid
		}
		if got != want {
			t.Errorf("%s: %d (%v), want %d", path, got, err, want)
		}
	}
}

func TestMakeFolder_GoesWhereTheUserDoesNotReach(t *testing.T) {
	base := tree(t, map[string]int{"theirs": daemon, "led": daemon}, "theirs", "roots", "led -> roots")
	u, err := Of(filepath.Join(base, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := u.MakeFolder(filepath.Join(base, "roots", "new", "export"))
	if err != nil {
		t.Fatal(err)
	}
	root.Close()
	info, err := os.Stat(filepath.Join(base, "roots", "new", "export"))
	if err != nil || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%v, %v", info, err)
	}
	for _, path := range []string{"led", "led/made", "theirs/made"} {
		if root, err := u.MakeFolder(filepath.Join(base, path)); !errors.Is(err, ErrExchanged) {
			t.Errorf("%s: %v, %v", path, root, err)
		}
		if reached, err := u.Reaches(filepath.Join(base, path)); !reached || err != nil {
			t.Errorf("%s: %v, %v", path, reached, err)
		}
	}
	for _, path := range []string{"roots/made", "theirs/made"} {
		if _, err := os.Lstat(filepath.Join(base, path)); err == nil {
			t.Errorf("%s was made", path)
		}
	}
}
