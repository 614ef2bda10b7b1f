//go:build !linux

package control

import "net"

// peerUID: unknown here; the socket's mode decides alone.
func peerUID(*net.UnixConn) (uid int, known bool) { return -1, false }
