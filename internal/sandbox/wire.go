package sandbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const bufferSize = 64 << 10

// wire is the session's end of a connection. What is written to w goes out when the session is about to wait for the
// client, and not before: so the replies to a pipelined group leave as a group (RFC 2920 section 3.2), and a group that
// comes in pieces stalls nobody.
type wire struct {
	raw net.Conn
	in  *bufio.Reader // what came from raw: plain text, or TLS records
	r   *bufio.Reader
	w   *bufio.Writer
	tls *tls.Conn // nil before TLS

	idle   time.Duration
	onTurn func()

	mu          sync.Mutex
	interrupted bool
}

func newWire(raw net.Conn, idle time.Duration, onTurn func()) *wire {
	w := &wire{raw: raw, idle: idle, onTurn: onTurn}
	w.in = bufio.NewReaderSize(inlet{w}, bufferSize)
	w.r, w.w = w.in, bufio.NewWriter(raw)
	return w
}

// inlet reads from the connection below TLS.
type inlet struct{ *wire }

func (w inlet) Read(p []byte) (int, error) {
	if w.w.Buffered() > 0 {
		w.onTurn()
		if err := w.w.Flush(); err != nil {
			return 0, err
		}
	}
	w.mu.Lock()
	if w.interrupted {
		w.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	w.raw.SetReadDeadline(time.Now().Add(w.idle))
	w.mu.Unlock()
	return w.raw.Read(p)
}

// socket is what TLS runs on: it reads what was buffered before and writes to the connection.
type socket struct {
	net.Conn
	in io.Reader
}

func (s socket) Read(p []byte) (int, error) { return s.in.Read(p) }

// startTLS runs the handshake and speaks TLS from then on.
func (w *wire) startTLS(ctx context.Context, config *tls.Config) (tls.ConnectionState, error) {
	conn := tls.Server(socket{w.raw, w.in}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	w.tls = conn
	w.r, w.w = bufio.NewReaderSize(conn, bufferSize), bufio.NewWriter(conn)
	return conn.ConnectionState(), nil
}

// behind reports whether the client has already sent more than was read.
func (w *wire) behind() bool { return w.r.Buffered() > 0 }

// hang waits until release is closed, which it reports as true, or until ctx is done or the client has left. What the
// client sends meanwhile is kept, as far as it fits into the buffer.
func (w *wire) hang(ctx context.Context, release <-chan struct{}) bool {
	left := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		if w.watch() {
			close(left)
		}
	})
	defer func() {
		w.interrupt(true)
		watch.Wait()
		w.interrupt(false)
	}()
	select {
	case <-release:
		return true
	case <-left:
	case <-ctx.Done():
	}
	return false
}

// watch returns true when the client has left, and false when it was interrupted or the buffer is full.
func (w *wire) watch() bool {
	for n := w.r.Buffered() + 1; ; n = w.r.Buffered() + 1 {
		_, err := w.r.Peek(n)
		switch {
		case err == nil:
		case errors.Is(err, bufio.ErrBufferFull):
			return false
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return true
		case w.isInterrupted():
			return false
		}
	}
}

func (w *wire) interrupt(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.interrupted = on
	if on {
		w.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

func (w *wire) isInterrupted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.interrupted
}

// lingerTime is how long a closed session still listens, so that its last reply is not lost to the RST that closing a
// socket with unread input would send.
const lingerTime = time.Second

// hangUp sends what is left, says goodbye and waits for the client to do the same.
func (w *wire) hangUp() {
	if w.w.Flush() != nil {
		return
	}
	if w.tls != nil {
		w.tls.CloseWrite()
	}
	if half, ok := w.raw.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	w.idle = lingerTime
	io.Copy(io.Discard, w.in)
}

// reset makes the close that follows send a RST.
func (w *wire) reset() {
	if c, ok := w.raw.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
}
