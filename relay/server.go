package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is what a Server's methods return after Shutdown.
var ErrClosed = errors.New("the relay's listeners are shut down")

// Server listens and takes mail. Its methods may be called from any goroutine.
type Server struct {
	tune      tuning
	listen    func(network, address string) (net.Listener, error)
	buffers   *sync.Pool // of *[bodyBuffer]byte
	quiet     *quiet
	room      *room // for recipients
	alone     alone
	lingering chan struct{} // holds an item for each refused client that is being waited for

	// work ends when sessions may no longer finish what they are doing; it is the context of Commit.
	work     context.Context
	stopWork context.CancelFunc
	running  sync.WaitGroup // accept loops and peers

	mu      sync.Mutex
	set     *settings
	sockets []*socket // in the order of set.Listeners
	peers   map[*peer]struct{}
	started bool
	closed  bool
}

// New checks o and returns a Server that does not listen yet. The error names everything that is wrong with o.
func New(o Options) (*Server, error) {
	return newServer(o, standardTuning())
}

func newServer(o Options, tune tuning) (*Server, error) {
	set, err := settle(o)
	if err != nil {
		return nil, err
	}
	s := &Server{
		tune:      tune,
		buffers:   &sync.Pool{New: func() any { return new([bodyBuffer]byte) }},
		quiet:     newQuiet(tune.quiet),
		room:      &room{most: tune.sharedRoom},
		lingering: make(chan struct{}, tune.lingerers),
		set:       set,
		peers:     make(map[*peer]struct{}),
	}
	s.work, s.stopWork = context.WithCancel(context.Background())
	s.listen = func(network, address string) (net.Listener, error) {
		return new(net.ListenConfig).Listen(s.work, network, address)
	}
	return s, nil
}

// Start binds all listeners, or none and returns an error, and takes mail in the background.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.started:
		return errors.New("the relay's listeners are started already")
	}
	if err := s.adopt(s.set); err != nil {
		return err
	}
	s.started = true
	return nil
}

// Reconfigure puts o in the place of the options that s has. Listeners are opened and closed as they differ, and one
// that stays keeps its socket; sessions that are under way keep the options they began with. On an error nothing has
// changed.
func (s *Server) Reconfigure(o Options) error {
	set, err := settle(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case !s.started:
		s.set = set
		return nil
	}
	return s.adopt(set)
}

// adopt makes the sockets those that set asks for. The caller holds mu.
func (s *Server) adopt(set *settings) error {
	old := slices.Clone(s.sockets)
	var next, fresh []*socket
	for _, l := range set.Listeners {
		if i := slices.IndexFunc(old, func(k *socket) bool { return k.address == l.Address }); i >= 0 {
			next = append(next, old[i])
			old = slices.Delete(old, i, i+1)
			continue
		}
		k, err := s.bind(l)
		if err != nil {
			for _, k := range fresh {
				k.listener.Close()
			}
			if len(old) > 0 {
				err = fmt.Errorf("%w (if a listener that is to go still holds the port, restart the relay)", err)
			}
			return err
		}
		next, fresh = append(next, k), append(fresh, k)
	}
	for i, l := range set.Listeners {
		next[i].terms.Store(&terms{set: set, Listener: l})
	}
	for _, k := range old {
		k.close()
		set.Log.Info("listener closed", "listener", k.listener.Addr().String())
	}
	for _, k := range fresh {
		set.Log.Info("listening", "listener", k.listener.Addr().String(), "tls", string(k.terms.Load().TLS))
		s.running.Go(func() { s.accept(k) })
	}
	s.set, s.sockets = set, next
	return nil
}

func (s *Server) bind(l Listener) (*socket, error) {
	nl, err := s.listen(l.network(), l.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w%s", l.Address, err, bindRemedy(err))
	}
	return newSocket(l.Address, nl), nil
}

// bindRemedy says what to do about an address that cannot be listened on.
func bindRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another program has it: stop that one, or set another address in [[listener]]"
	case errors.Is(err, syscall.EACCES):
		return "; ports below 1024 are for root or CAP_NET_BIND_SERVICE, which the service unit gives: start it as a service, " +
			"or set another port in [[listener]]"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; this machine does not have that address: correct it in [[listener]]"
	}
	return ""
}

// Addrs returns the addresses that are listened on, in the order of Options.Listeners.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addrs []net.Addr
	for _, k := range s.sockets {
		addrs = append(addrs, k.listener.Addr())
	}
	return addrs
}

// Shutdown stops listening, says 421 to sessions that are in no mail transaction, and waits for those that are. When
// ctx ends first it cuts them: their messages are aborted, they get no 250, and Shutdown returns ctx's error. In both
// cases nothing of s runs any more when it returns, unless the queue holds a Commit whose context has ended.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	for _, k := range s.sockets {
		k.close()
	}
	for p := range s.peers {
		p.stop()
	}
	log := s.set.Log
	s.mu.Unlock()
	defer s.stopWork()
	defer s.quiet.close()

	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.stopWork()
	log.Warn("sessions cut at shutdown", "sessions", s.cutAll())
	select {
	case <-ended:
	case <-time.After(s.tune.linger):
	}
	return fmt.Errorf("sessions were cut: %w", context.Cause(ctx))
}

func (s *Server) cutAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.peers {
		p.raw.Close()
	}
	return len(s.peers)
}

// enrol counts p among what Shutdown waits for. It returns false after Shutdown.
func (s *Server) enrol(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.peers[p] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) discharge(p *peer) {
	s.mu.Lock()
	delete(s.peers, p)
	s.mu.Unlock()
	s.running.Done()
}
