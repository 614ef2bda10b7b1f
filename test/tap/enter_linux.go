//go:build amd64 || arm64

package tap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execEnv names the program that a process becomes after Enter; its descriptor 3 is the socket to the tap.
const (
	execEnv  = "RELAYD_TAP_EXEC"
	socketFD = 3
)

// Enter makes a process that Start has begun the one that is tapped; in any other it does nothing. A program that calls
// Start calls Enter first thing in its main.
func Enter() {
	program := os.Getenv(execEnv)
	if program == "" {
		return
	}
	runtime.LockOSThread() // the filter is this thread's, and so of what it becomes
	err := enter(program)
	_, _ = unix.Write(socketFD, []byte("!"+err.Error()))
	os.Exit(127)
}

func enter(program string) error {
	if err := os.Unsetenv(execEnv); err != nil {
		return err
	}
	fd, err := installFilter()
	if err != nil {
		return err
	}
	// Its write would go to the tap, which is not there yet; sendmsg and read do not.
	if err := unix.Sendmsg(socketFD, []byte("+"), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	if _, err := unix.Read(socketFD, make([]byte, 1)); err != nil {
		return err
	}
	unix.CloseOnExec(socketFD)
	unix.CloseOnExec(fd)
	return syscall.Exec(program, os.Args, os.Environ())
}

func installFilter() (fd int, err error) {
	filter := program()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	// Without WAIT_KILLABLE_RECV (Linux 5.19) a signal makes a call that waits for its answer begin again.
	for _, flags := range []uintptr{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER} {
		n, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		if errno == 0 {
			return int(n), nil
		}
		err = os.NewSyscallError("seccomp", errno)
	}
	return 0, err
}

// program is the filter: tapped calls of this architecture go to the listener, all others to the kernel.
func program() []unix.SockFilter {
	const nr, arch = 0, 4 // offsets in struct seccomp_data
	ours := uint32(unix.AUDIT_ARCH_X86_64)
	if runtime.GOARCH == "arm64" {
		ours = unix.AUDIT_ARCH_AARCH64
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	calls := tapped()
	n := uint8(len(calls))
	p := []unix.SockFilter{load(arch), jump(ours, 0, n+1), load(nr)}
	for i, call := range calls {
		p = append(p, jump(uint32(call), n-uint8(i), 0))
	}
	return append(p, ret(unix.SECCOMP_RET_ALLOW), ret(unix.SECCOMP_RET_USER_NOTIF))
}

func tapped() []int {
	return []int{unix.SYS_PWRITE64, unix.SYS_WRITE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_OPENAT,
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT}
}

// Start starts cmd with its calls on files beneath root, and its writes to sockets, going to o. The program that calls
// it is started in between, so its main must begin with Enter. The error is ErrUnsupported where this cannot be done.
func Start(cmd *exec.Cmd, root string, o Observer) (*Tap, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "tap")
	defer unix.Close(pair[0])
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, execEnv+"="+cmd.Path)
	cmd.Path, cmd.ExtraFiles = self, append([]*os.File{theirs}, cmd.ExtraFiles...)
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	t := &Tap{pid: cmd.Process.Pid, root: root, observer: o, done: make(chan struct{})}
	if err := t.attach(pair[0]); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return t, nil
}

// attach takes the listener from the new process and lets it go on.
func (t *Tap) attach(socket int) error {
	words, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(socket, words, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	if n == 0 || words[0] != '+' {
		return fmt.Errorf("%w: %s", ErrUnsupported, words[min(n, 1):n])
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	t.listener = fds[0]
	if t.pidfd, err = unix.PidfdOpen(t.pid, 0); err != nil {
		return fmt.Errorf("%w: pidfd_open: %w", ErrUnsupported, err)
	}
	go t.run()
	_, err = unix.Write(socket, []byte{'+'})
	return err
}
