// Package owner lets a program that root runs work in another user's folder as that user. Whoever owns a folder can put a
// link, a pipe or a device at any name in it, and exchange it at any moment. As that user the program cannot be led to
// anything that the user has no access to.
package owner

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// User is who a program of root's has to be. A nil User is the one that the program runs as.
type User struct {
	uid, gid int
	groups   []int
	own      []int // root's groups, to come back to
}

// nogroup is the group of a user that the system does not know, whose folder belongs to root's group.
const nogroup = 65534

// Of returns the user as whom to work in the folder path, or with the socket path. It is nil when root does not run the
// program, and when the folder and the way to it are root's alone. The error says that a further user can exchange a part of
// the way, and so lead the program elsewhere. A folder that does not exist counts as that of who can make it.
func Of(path string) (*User, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	t, err := walk(path, nil)
	if err != nil {
		return nil, err
	}
	return t.user(path)
}

func (t *trail) user(path string) (*User, error) {
	uid := t.uid
	for other, where := range t.users {
		if !t.found && uid == 0 {
			uid = other
		}
		if other != uid {
			return nil, fmt.Errorf("%s belongs to the user %s, but %s to the user %s, who can exchange what it leads to; "+
				"give both to the user that relayd runs as, with chown", path, name(uid), where, name(other))
		}
	}
	if t.anyone != "" {
		return nil, fmt.Errorf("everybody can exchange %s, since all may write to %s; run chmod o-w %s", path, t.anyone, t.anyone)
	}
	if uid != 0 {
		return lookup(uid, t.gid), nil
	}
	for gid, where := range t.groups {
		return nil, fmt.Errorf("the group %d can exchange %s, which is root's, since it may write to %s; run chmod g-w %s", gid, path, where, where)
	}
	return nil, nil
}

func name(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// lookup returns the user with a uid in the groups that the system knows, or in gid when it does not know the user.
func lookup(uid, gid int) *User {
	if gid == 0 {
		gid = nogroup
	}
	u := &User{uid: uid, gid: gid}
	known, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return u
	}
	if n, err := strconv.Atoi(known.Gid); err == nil {
		u.gid = n
	}
	ids, _ := known.GroupIds() // without them there is less access
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			u.groups = append(u.groups, n)
		}
	}
	return u
}

// Name returns the user's name, or "" for nil.
func (u *User) Name() string {
	if u == nil {
		return ""
	}
	return name(u.uid)
}

// Reaches reports whether the user can exchange a part of path, so that only as that user it is safe to work there.
func (u *User) Reaches(path string) (bool, error) {
	if u == nil {
		return false, nil
	}
	t, err := walk(path, nil)
	return t.reached(u), err
}

func (t *trail) reached(u *User) bool {
	_, mine := t.users[u.uid]
	for _, gid := range append(u.groups, u.gid) {
		if _, ok := t.groups[gid]; ok {
			mine = true
		}
	}
	return mine || t.anyone != ""
}

// ErrExchanged: the folder was exchanged while it was opened. Nothing was written to it.
var ErrExchanged = errors.New("the folder was exchanged while it was opened")

// MakeFolder makes the folder path where it is missing, with what is missing above it, and opens it. The folder that it
// returns is not one that the user has led the program to.
func (u *User) MakeFolder(path string) (*os.Root, error) {
	if u == nil {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
		return os.OpenRoot(path)
	}
	return u.openFolder(path, true)
}

// OpenFolder is MakeFolder for a folder that exists.
func (u *User) OpenFolder(path string) (*os.Root, error) {
	if u == nil {
		return os.OpenRoot(path)
	}
	return u.openFolder(path, false)
}

func (u *User) openFolder(path string, create bool) (*os.Root, error) {
	var maker *User
	if create {
		maker = u
	}
	t, err := walk(path, maker)
	if err != nil {
		return nil, err
	}
	if t.reached(u) {
		return nil, fmt.Errorf("%s: %w", path, ErrExchanged)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && (!t.found || !t.is(info)) {
		err = fmt.Errorf("%s: %w", path, ErrExchanged)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}
