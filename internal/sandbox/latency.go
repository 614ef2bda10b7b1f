package sandbox

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// slowConn delivers what is written to it one round trip later, as if the client were far away. Writes do not wait for
// each other's delay; the first one has the round trip of TCP's own handshake on top.
type slowConn struct {
	net.Conn
	latency time.Duration
	pump    sync.WaitGroup
	failed  atomic.Pointer[error] // of the last write that went out

	mu    sync.Mutex
	queue chan parcel // nil when closed
	begun bool
}

// parcel is one write under way.
type parcel struct {
	due  time.Time
	data []byte
}

// slowed returns conn, or conn behind a line with that round-trip time.
func slowed(conn net.Conn, latency time.Duration) net.Conn {
	if latency <= 0 {
		return conn
	}
	s := &slowConn{Conn: conn, latency: latency, queue: make(chan parcel, 1024)}
	queue := s.queue
	s.pump.Go(func() { s.deliver(queue) })
	return s
}

func (s *slowConn) deliver(queue <-chan parcel) {
	for p := range queue {
		time.Sleep(time.Until(p.due))
		if _, err := s.Conn.Write(p.data); err != nil {
			s.failed.Store(&err)
		}
	}
}

func (s *slowConn) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed.Load(); err != nil {
		return 0, *err
	}
	if s.queue == nil {
		return 0, net.ErrClosed
	}
	delay := s.latency
	if !s.begun {
		s.begun, delay = true, 2*delay
	}
	s.queue <- parcel{time.Now().Add(delay), append([]byte(nil), p...)}
	return len(p), nil
}

// drain takes no more writes and returns when those under way have gone out.
func (s *slowConn) drain() {
	s.mu.Lock()
	if s.queue != nil {
		close(s.queue)
		s.queue = nil
	}
	s.mu.Unlock()
	s.pump.Wait()
}

func (s *slowConn) Close() error {
	s.drain()
	return s.Conn.Close()
}

// CloseWrite and SetLinger are those of the TCP connection.
func (s *slowConn) CloseWrite() error {
	s.drain()
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (s *slowConn) SetLinger(seconds int) error {
	if c, ok := s.Conn.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(seconds)
	}
	return nil
}
