package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID returns the user id that the process at c's other end had when it connected (SO_PEERCRED). When it cannot be
// read, the answer is a user id that nobody has: the check must not be open by accident.
func peerUID(c *net.UnixConn) (uid int, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, true
	}
	uid = -1
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if err != nil {
		return -1, true
	}
	return uid, true
}
