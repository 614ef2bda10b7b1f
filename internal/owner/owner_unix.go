//go:build unix

package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// trail is what a walk along a path has met.
type trail struct {
	users  map[int]string // others than root who can exchange a part of the path, and which
	groups map[int]string // likewise groups, except root's
	anyone string         // a folder in which everybody can exchange everything
	found  bool
	st     unix.Stat_t // of the path's end, when it was found
	uid    int
	gid    int
}

// maxLinks is how many links a path may have, as on Linux.
const maxLinks = 40

// walk goes along path, name by name, and notes who can exchange what. Each folder is opened as it is looked at: what is
// exchanged later is not what was judged, but it was exchanged by one of those who are noted. With a user, missing folders are
// made as long as that user has not led there.
func walk(path string, unless *User) (t trail, err error) {
	t = trail{users: make(map[int]string), groups: make(map[int]string)}
	if path, err = filepath.Abs(path); err != nil {
		return t, err
	}
	w := walker{at: "/", rest: strings.Split(path, "/")}
	if w.dir, err = openFolderAt(unix.AT_FDCWD, w.at); err != nil {
		return t, err
	}
	defer func() { unix.Close(w.dir) }()
	for {
		if err := t.container(w.dir, w.at); err != nil {
			return t, &fs.PathError{Op: "stat", Path: w.at, Err: err}
		}
		w.rest = slices.DeleteFunc(w.rest, func(s string) bool { return s == "" || s == "." })
		if len(w.rest) == 0 {
			return t, nil
		}
		next := filepath.Join(w.at, w.rest[0])
		create := unless != nil && !t.reached(unless)
		st, err := statAt(w.dir, w.rest[0], create)
		if errors.Is(err, fs.ErrNotExist) && !create {
			t.found, t.uid, t.gid = false, 0, 0
			return t, nil
		}
		if err == nil {
			t.note(&st, next)
			if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFLNK && len(w.rest) == 1 { // such as a socket
				t.end(&st)
				return t, nil
			}
			err = w.step(next, &st)
		}
		if err != nil {
			return t, &fs.PathError{Op: "open", Path: next, Err: err}
		}
	}
}

// walker is how far a walk has come.
type walker struct {
	dir   int      // open
	at    string   // its path
	rest  []string // the names that follow
	links int      // that were followed
}

// step goes on to the first name of rest, which next is the path of.
func (w *walker) step(next string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := openFolderAt(w.dir, w.rest[0])
		if err != nil {
			return err
		}
		unix.Close(w.dir)
		w.dir, w.at, w.rest = fd, next, w.rest[1:]
		return nil
	case unix.S_IFLNK:
		if w.links++; w.links > maxLinks {
			return unix.ELOOP
		}
		to, err := readLinkAt(w.dir, w.rest[0])
		if err != nil {
			return err
		}
		w.rest = append(strings.Split(to, "/"), w.rest[1:]...)
		if strings.HasPrefix(to, "/") {
			unix.Close(w.dir)
			w.at = "/"
			w.dir, err = openFolderAt(unix.AT_FDCWD, w.at)
		}
		return err
	}
	return unix.ENOTDIR
}

// container notes who may exchange what is in an open folder.
func (t *trail) container(dir int, at string) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	t.note(&st, at)
	t.end(&st)
	switch mode := uint32(st.Mode); {
	case mode&unix.S_ISVTX != 0: // only its owner can exchange a thing there, and has been or will be noted
	case mode&0o002 != 0:
		t.anyone = at
	case mode&0o020 != 0 && st.Gid != 0:
		t.groups[int(st.Gid)] = at
	}
	return nil
}

func (t *trail) note(st *unix.Stat_t, where string) {
	if st.Uid != 0 {
		t.users[int(st.Uid)] = where
	}
}

func (t *trail) end(st *unix.Stat_t) {
	t.found, t.st, t.uid, t.gid = true, *st, int(st.Uid), int(st.Gid)
}

// is reports whether the walk has ended at the file that info is of.
func (t *trail) is(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(st.Dev) == uint64(t.st.Dev) && st.Ino == t.st.Ino
}

func openFolderAt(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func statAt(dir int, name string, create bool) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err = unix.Mkdirat(dir, name, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	return st, err
}

func readLinkAt(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	return string(buf[:max(n, 0)]), err
}

// Become makes the process u for good. There is no way back to root.
func (u *User) Become() error {
	if u == nil {
		return nil
	}
	err := syscall.Setgroups(u.groups)
	if err == nil {
		err = syscall.Setgid(u.gid)
	}
	if err == nil {
		err = syscall.Setuid(u.uid) // root's sets all three
	}
	return u.cannot(err)
}

// Enter makes the process u. Aside is the way back.
func (u *User) Enter() (err error) {
	if u == nil {
		return nil
	}
	if u.own, err = syscall.Getgroups(); err == nil {
		err = syscall.Setgroups(u.groups)
	}
	if err == nil {
		err = syscall.Setregid(-1, u.gid)
	}
	if err == nil {
		err = syscall.Setreuid(-1, u.uid)
	}
	return u.cannot(err)
}

func (u *User) cannot(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot become the user %s, who can exchange the files: %w; run this as that user", name(u.uid), err)
}

// Aside runs f as root, after Enter. It is the whole process that is root meanwhile.
func (u *User) Aside(f func() error) error {
	if u == nil || os.Geteuid() == 0 {
		return f()
	}
	err := syscall.Setreuid(-1, 0)
	if err == nil {
		err = errors.Join(syscall.Setregid(-1, 0), syscall.Setgroups(u.own))
	}
	if err == nil {
		err = f()
	}
	return errors.Join(err, u.Enter())
}
