//go:build unix

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const backlog = 128

// listen makes a unix socket at path that only its owner (and root) can connect to. The order matters: a socket that is
// bound but does not listen yet refuses everybody, so that it can get its mode before anyone can be let in, whatever the
// umask of the process is.
func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("control_socket %s: %w", path, err)
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("control_socket %s: %w", path, err)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, fmt.Errorf("control_socket %s: %w", path, err)
	}
	l, err := bindPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control_socket %s: %w", path, explainBind(err))
	}
	return l, nil
}

// lockFolder keeps two daemons that start at once from taking each other's fresh socket for a stale one.
func lockFolder(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

// clearStale removes the socket that a daemon left behind when it died. A refused connection is the only proof that
// nobody listens; every other answer leaves the file alone.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file here that is not a socket; move it away, or name another path")
	}
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err == nil {
		c.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another relayd answers here: %w", err)
	}
	return os.Remove(path)
}

func bindPrivate(path string) (net.Listener, error) {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // net.FileListener works on a duplicate
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	var l net.Listener
	if err == nil {
		l, err = net.FileListener(f)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	// The path is the server's to remove: it knows whether the file there is still its own.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

func explainBind(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENAMETOOLONG) {
		return fmt.Errorf("%w; the path may be too long for a socket (about 100 characters), name a shorter one", err)
	}
	return err
}
