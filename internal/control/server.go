package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"relayd/queue"
	"relayd/smarthost"
)

// Queue is what the server needs of the queue. *queue.Queue is one; a *queue.Reader has the reading half.
type Queue interface {
	List(after string, limit int) (entries []queue.Entry, next string, err error)
	Quarantined(after string, limit int) (entries []queue.Entry, next string, err error)
	Show(id string) (queue.Detail, error)
	Body(id string) (io.ReadCloser, error)
	Export(id string) (io.ReadCloser, error)
	Apply(action queue.Action, ids []string) (queue.Applied, error)
	ApplyAll(action queue.Action) (queue.Applied, error)
	Counts() queue.Counts
}

// Options is what a Server shows and works on. Queue and Log are required. The functions are called for each request
// that needs them, from several goroutines at once, so that they follow a reload of the configuration; nil stands for
// nothing to tell.
type Options struct {
	Queue     Queue
	Smarthost func() []smarthost.RouteStatus
	// Undeliverable lists the reports that nobody got.
	Undeliverable func() []string
	// Traffic tells what has gone through the queue since the start.
	Traffic func() queue.Traffic
	// Probe makes the daemon forget the pauses of hosts that it leaves alone; it is called when an operator asks for a
	// retry.
	Probe func()
	// Paused says why the relay as a whole takes no mail or hands none on; empty while it does.
	Paused func() []string
	// OAuth tells of the accounts that log in with OAuth2 tokens.
	OAuth func() []OAuthStatus
	// Hostname is the name under which the daemon greets.
	Hostname func() string
	Version  string
	Started  time.Time
	Log      *slog.Logger
	// Stall is how long a client may take over one step, such as sending its header or taking the next part of a
	// body; 30 s when it is 0.
	Stall time.Duration
}

// Server answers on the control socket.
type Server struct {
	opt   Options
	parts *parts
	http  *http.Server

	mu     sync.Mutex
	path   string
	file   os.FileInfo // the socket as it was made, so that Close removes no other
	served chan struct{}

	silent silentConns
	spare  atomic.Pointer[spareListener]
}

// note is told of what becomes of connections.
func (s *Server) note(c net.Conn, state http.ConnState) {
	s.silent.note(c, state)
	if l := s.spare.Load(); l != nil && state == http.StateClosed {
		l.refill()
	}
}

// silentConns are the connections that have not sent a request yet. http.Server.Shutdown would wait for them.
type silentConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once closed
}

func (s *silentConns) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.conns, c)
	case s.conns == nil:
		c.Close()
	default:
		s.conns[c] = struct{}{}
	}
}

func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// ErrInUse: another process answers on the socket. Stop it, or give this relayd its own control_socket.
var ErrInUse = errors.New("another relayd answers on this control_socket")

// ErrClosed: Start was called on a server that has been started or closed before. Make a new one.
var ErrClosed = errors.New("the control server has been started or closed before")

// NewServer returns a server that Start puts on a socket.
func NewServer(opt Options) *Server {
	if opt.Stall == 0 {
		opt.Stall = 30 * time.Second
	}
	s := &Server{opt: opt, parts: newParts(opt), silent: silentConns{conns: make(map[net.Conn]struct{})}}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: opt.Stall,
		ReadTimeout:       opt.Stall,
		WriteTimeout:      opt.Stall, // begins anew with each request; the handlers extend it as they go
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug),
		ConnContext:       withPeer,
		ConnState:         s.note,
	}
	return s
}

// Start makes the socket at path, with the folder that holds it if that is missing, and serves on it until Close. It
// returns once clients can connect. It fails with ErrInUse when another process answers at path.
func (s *Server) Start(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served != nil {
		return ErrClosed
	}
	l, err := listen(path)
	if err != nil {
		return err
	}
	s.path, s.served = path, make(chan struct{})
	if s.file, err = os.Lstat(path); err != nil {
		l.Close()
		return err
	}
	spare := withSpares(l)
	s.spare.Store(spare)
	go s.serve(spare)
	return nil
}

func (s *Server) serve(l net.Listener) {
	defer close(s.served)
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.opt.Log.Error("the control socket has failed; relayctl cannot reach this relayd until it is restarted",
			"socket", s.path, "error", err)
	}
}

// Close removes the socket, lets requests that are under way finish until ctx ends, then cuts them off. It may be
// called on a server that was never started, and again.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlink()
	s.silent.close()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if s.served == nil {
		s.served = make(chan struct{})
		close(s.served)
	}
	<-s.served
	return err
}

// unlink removes the socket unless somebody has put another in its place.
func (s *Server) unlink() {
	if s.file == nil {
		return
	}
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.file) {
		os.Remove(s.path)
	}
	s.file = nil
}
