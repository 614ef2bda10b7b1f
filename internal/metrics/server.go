package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"

	"relayd/internal/control"
)

const (
	maxConnections = 128 // a scraper needs one
	stall          = 10 * time.Second
	// leave is how long an address that is given up waits for the answers under way there.
	leave = time.Second
)

// Options is what a Server shows, and where it tells of itself. Status and Log are required. Status is called for each
// request, from several goroutines at once.
type Options struct {
	Status func() control.Status
	Log    *slog.Logger
	// Stall is how long a client may take to send its request, and how long its answer may take; 10 s each when it is 0.
	Stall time.Duration
}

// Server answers at one address at a time, or at none.
type Server struct {
	opt Options

	mu sync.Mutex
	at *endpoint // nil while the server answers nowhere
}

// endpoint is an address that is listened on.
type endpoint struct {
	asked  string // the address as it was given, whose port may be 0
	bound  net.Addr
	http   *http.Server
	served chan struct{}
}

// New returns a server that answers nowhere yet.
func New(opt Options) *Server {
	if opt.Stall == 0 {
		opt.Stall = stall
	}
	return &Server{opt: opt}
}

// Listen makes the server answer at address, a host:port, and nowhere else; at "" it answers nowhere. The address that it
// has already is kept as it is. On an error nothing has changed.
func (s *Server) Listen(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at != nil && s.at.asked == address || s.at == nil && address == "" {
		return nil
	}
	var next *endpoint
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			words := remedy(err)
			if s.at != nil && errors.Is(err, syscall.EADDRINUSE) {
				words += fmt.Sprintf(" (if it is relayd's own address until now, %s, that holds the port, restart relayd)", s.at.bound)
			}
			return fmt.Errorf("cannot show metrics on %s: %w%s", address, err, words)
		}
		next = s.serve(address, l)
		s.opt.Log.Info("metrics are shown", "url", "http://"+next.bound.String()+path)
	}
	if s.at != nil {
		s.opt.Log.Info("metrics are shown no more", "address", s.at.bound.String())
		ctx, cancel := context.WithTimeout(context.Background(), leave)
		defer cancel()
		if err := s.at.close(ctx); err != nil {
			s.opt.Log.Debug("readers of metrics were cut off", "address", s.at.bound.String(), "error", err)
		}
	}
	s.at = next
	return nil
}

// remedy says what to do about an address that cannot be listened on.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another program has it: stop that one, or set another address in [metrics]"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; this machine does not have that address: correct it in [metrics]"
	}
	return "; set another address in [metrics]"
}

func (s *Server) serve(address string, l net.Listener) *endpoint {
	e := &endpoint{asked: address, bound: l.Addr(), served: make(chan struct{}), http: &http.Server{
		Handler:        http.HandlerFunc(s.answer),
		ReadTimeout:    s.opt.Stall,
		WriteTimeout:   s.opt.Stall, // begins when the request has been read
		MaxHeaderBytes: 8 << 10,
		ConnContext:    withSeat,
		ErrorLog:       slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelWarn),
	}}
	e.http.SetKeepAlivesEnabled(false) // so that none holds a place but who is being answered
	go func() {
		defer close(e.served)
		if err := e.http.Serve(newDoor(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			s.opt.Log.Error("the metrics' listener has failed; none are shown until relayd is restarted", "address", e.bound.String(), "error", err)
		}
	}()
	return e
}

// Addr returns the address that is listened on, or nil.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		return nil
	}
	return s.at.bound
}

// Close makes the server answer nowhere. Answers under way may finish until ctx ends and are cut off then, which is the
// error.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		return nil
	}
	e := s.at
	s.at = nil
	return e.close(ctx)
}

func (e *endpoint) close(ctx context.Context) error {
	err := e.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, e.http.Close())
	}
	<-e.served
	return err
}

const path = "/metrics"

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	hasAsked(r.Context())
	if r.URL.Path != path || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		http.NotFound(w, r)
		return
	}
	text, err := render(s.opt.Status())
	if err != nil {
		s.opt.Log.Error("the metrics cannot be shown; please report it", "error", err)
		http.Error(w, "relayd failed inside while answering; its log has the details", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(text) // when this fails, nobody is left to tell
}
