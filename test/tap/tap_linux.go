//go:build amd64 || arm64

package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tap is a tapped process.
type Tap struct {
	pid, pidfd int
	listener   int
	root       string
	observer   Observer
	syncs      sync.WaitGroup
	done       chan struct{}
	err        error
}

// Wait returns when the process has ended and been waited for, with what went wrong with the tap.
func (t *Tap) Wait() error {
	<-t.done
	return t.err
}

// notification and response are struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

func (t *Tap) run() {
	defer close(t.done)
	defer unix.Close(t.pidfd)
	defer unix.Close(t.listener)
	defer t.syncs.Wait()
	for {
		poll := []unix.PollFd{{Fd: int32(t.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			t.err = os.NewSyscallError("poll", err)
			return
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return // nobody is left
		}
		var n notification
		switch errno := t.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno {
		case 0:
			t.serve(&n)
		case unix.ENOENT, unix.EINTR: // killed meanwhile
		default:
			t.err = os.NewSyscallError("seccomp notification", errno)
			return
		}
	}
}

func (t *Tap) ioctl(request uintptr, arg unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.listener), request, uintptr(arg))
	return errno
}

// proceed lets the kernel do a call.
func (t *Tap) proceed(n *notification) {
	t.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}))
}

// reply answers a call in the kernel's place.
func (t *Tap) reply(n *notification, value int64, errno syscall.Errno) {
	t.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response{id: n.id, value: value, errno: -int32(errno)}))
}

func (t *Tap) serve(n *notification) {
	c, err := t.decode(n)
	switch {
	case err != nil || c == nil:
		t.proceed(n) // what cannot be read here the kernel refuses by itself
	case c.Op == OpSend:
		t.send(n, c)
	case c.Op == OpSync:
		t.syncs.Go(func() { t.decide(n, c) })
	default:
		t.decide(n, c)
	}
}

// send lets a write to a socket be done, or the process die before or after it.
func (t *Tap) send(n *notification, c *Call) {
	a := t.observer.Begin(c)
	if !a.Kill {
		t.proceed(n)
		return
	}
	if !a.Skip {
		t.perform(c)
	}
	_ = unix.Kill(t.pid, unix.SIGKILL)
}

// decide does with a call what the observer says.
func (t *Tap) decide(n *notification, c *Call) {
	a := t.observer.Begin(c)
	if a.Limit > 0 && a.Limit < len(c.Data) {
		c.Data = c.Data[:a.Limit]
	}
	if c.Op == OpCreate && a == (Answer{}) {
		t.observer.End(c)
		t.proceed(n) // the process needs the descriptor that only its own call gets
		return
	}
	var errno syscall.Errno
	if !a.Skip {
		if errno = t.perform(c); errno == 0 {
			t.observer.End(c)
		}
	}
	if a.Kill {
		_ = unix.Kill(t.pid, unix.SIGKILL)
		return
	}
	if a.Errno != 0 {
		errno = a.Errno
	}
	t.reply(n, int64(len(c.Data)), errno)
}

// perform does a call in the process's place, on its own open file.
func (t *Tap) perform(c *Call) syscall.Errno {
	var err error
	switch c.Op {
	case OpCreate:
		var fd int
		if fd, err = unix.Open(c.Path, c.flags|unix.O_CLOEXEC, 0o600); err == nil {
			err = unix.Close(fd)
		}
	case OpRename:
		err = unix.Rename(c.Path, c.To)
	case OpUnlink:
		err = unix.Unlink(c.Path)
	case OpMkdir:
		err = unix.Mkdir(c.Path, uint32(c.Size))
	default:
		var fd int
		if fd, err = unix.PidfdGetfd(t.pidfd, c.fd, 0); err == nil {
			err = errors.Join(change(fd, c), unix.Close(fd))
		}
	}
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	return errno
}

func change(fd int, c *Call) error {
	switch c.Op {
	case OpSync:
		return c.sync(fd)
	case OpTruncate:
		return unix.Ftruncate(fd, c.Size)
	}
	for done := 0; done < len(c.Data); {
		var n int
		var err error
		if c.append {
			n, err = unix.Write(fd, c.Data[done:])
		} else {
			n, err = unix.Pwrite(fd, c.Data[done:], c.Offset+int64(done))
		}
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

// decode returns the call that a notification is of, or nil for one that nobody wants to know of.
func (t *Tap) decode(n *notification) (*Call, error) {
	switch n.nr {
	case unix.SYS_OPENAT:
		return t.decodeOpen(n)
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return t.decodeNames(n, &Call{Op: OpRename}, 0, 2)
	case unix.SYS_UNLINKAT:
		if n.args[2] != 0 {
			return nil, nil // a folder
		}
		return t.decodeNames(n, &Call{Op: OpUnlink}, 0)
	case unix.SYS_MKDIRAT:
		return t.decodeNames(n, &Call{Op: OpMkdir, Size: int64(n.args[2])}, 0)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.pid, n.args[0]))
	if err != nil {
		return nil, err
	}
	c := &Call{Path: path, fd: int(n.args[0])}
	switch n.nr {
	case unix.SYS_FSYNC:
		c.Op, c.sync = OpSync, unix.Fsync
	case unix.SYS_FDATASYNC:
		c.Op, c.sync = OpSync, unix.Fdatasync
	case unix.SYS_FTRUNCATE:
		c.Op, c.Size = OpTruncate, int64(n.args[1])
	default:
		c.Op, c.Offset, c.append = OpWrite, int64(n.args[3]), n.nr == unix.SYS_WRITE
		if c.append {
			c.Offset = -1
		}
	}
	if c.append && strings.HasPrefix(path, "socket:") {
		c.Op = OpSend
	} else if !t.ours(path) {
		return nil, nil
	}
	if c.Op == OpWrite || c.Op == OpSend {
		c.Data, err = t.memory(n.args[1], int(n.args[2]))
	}
	return c, err
}

func (t *Tap) decodeOpen(n *notification) (*Call, error) {
	flags := int(n.args[2])
	if flags&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return nil, nil
	}
	return t.decodeNames(n, &Call{Op: OpCreate, Trunc: flags&unix.O_TRUNC != 0, flags: flags}, 0)
}

// decodeNames fills in the names of c, each given by two arguments from the given ones on.
func (t *Tap) decodeNames(n *notification, c *Call, at ...int) (*Call, error) {
	for i, arg := range at {
		name, err := t.name(int32(n.args[arg]), n.args[arg+1])
		if err != nil {
			return nil, err
		}
		if i == 0 {
			c.Path = name
		} else {
			c.To = name
		}
	}
	if !t.ours(c.Path) {
		return nil, nil
	}
	return c, nil
}

func (t *Tap) ours(path string) bool {
	return strings.HasPrefix(path, t.root+"/") || path == t.root
}

// name returns the absolute path that a folder's descriptor and a string of the process give.
func (t *Tap) name(dir int32, address uint64) (string, error) {
	b, err := t.memory(address, unix.PathMax)
	if err != nil {
		return "", err
	}
	path := unix.ByteSliceToString(b)
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	base := fmt.Sprintf("/proc/%d/cwd", t.pid)
	if dir != unix.AT_FDCWD {
		base = fmt.Sprintf("/proc/%d/fd/%d", t.pid, dir)
	}
	folder, err := os.Readlink(base)
	return filepath.Join(folder, path), err
}

// memory copies up to size octets of the process's memory; less where its mapping ends.
func (t *Tap) memory(address uint64, size int) ([]byte, error) {
	b := make([]byte, size)
	if size == 0 {
		return b, nil
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(size)
	// In pieces that end at a page, so that what is readable is read.
	var remote []unix.RemoteIovec
	const page = 4096
	for at, left := uintptr(address), size; left > 0; {
		n := min(left, int(page-at%page))
		if len(remote) > 500 {
			n = left
		}
		remote = append(remote, unix.RemoteIovec{Base: at, Len: n})
		at, left = at+uintptr(n), left-n
	}
	n, err := unix.ProcessVMReadv(t.pid, local, remote, 0)
	if err != nil {
		return nil, os.NewSyscallError("process_vm_readv", err)
	}
	return b[:n], nil
}
