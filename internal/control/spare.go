package control

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// spareListener keeps descriptors in reserve. When the process has no other, one of them makes room for the connection of an
// operator, who wants to know why nothing goes on.
type spareListener struct {
	net.Listener

	mu     sync.Mutex
	spare  []*os.File
	closed bool
}

// spares is how many descriptors are kept: for the operator that asks, and one more.
const spares = 2

func withSpares(l net.Listener) *spareListener {
	s := &spareListener{Listener: l}
	s.refill()
	return s
}

// Accept returns the next connection.
func (s *spareListener) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err == nil || !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) || !s.release() {
			return c, err
		}
	}
}

// release gives up a descriptor. It returns false when there is none.
func (s *spareListener) release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) == 0 {
		return false
	}
	last := len(s.spare) - 1
	_ = s.spare[last].Close() // of /dev/null
	s.spare = s.spare[:last]
	return true
}

// refill takes back what was given up, as far as there are descriptors.
func (s *spareListener) refill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.spare) < spares && !s.closed {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		s.spare = append(s.spare, f)
	}
}

// Close ends the listening.
func (s *spareListener) Close() error {
	err := s.Listener.Close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for s.release() {
	}
	return err
}
