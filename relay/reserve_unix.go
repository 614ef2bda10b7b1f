//go:build unix

package relay

import (
	"net"
	"syscall"
)

// scarce reports whether a connection got one of the last descriptors that the process may have. The system gives out the
// lowest number that is free. Those last ones are for messages, smarthosts and operators.
func scarce(c net.Conn) bool {
	var limit syscall.Rlimit
	tcp, ok := c.(*net.TCPConn)
	if !ok || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	most := uint64(limit.Cur)
	found := false
	err = raw.Control(func(fd uintptr) { found = uint64(fd) >= most-min(most/8, reservedDescriptors) })
	return err == nil && found
}

// reservedDescriptors is how many descriptors clients leave, or an eighth where there are few.
const reservedDescriptors = 64
