package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// terms are what a connection is taken under: its listener's limits and the settings of the moment it was accepted.
type terms struct {
	set *settings
	Listener
}

// socket is a bound listener with the count of its sessions. It outlives changes of its terms.
type socket struct {
	address  string // as configured
	listener net.Listener
	terms    atomic.Pointer[terms]
	gone     chan struct{}

	mu        sync.Mutex
	total     int
	perClient map[netip.Prefix]int
	perSite   map[netip.Prefix]int
	fullAt    time.Time // when a client was last refused for want of a place
	fullWords string    // why
}

func newSocket(address string, l net.Listener) *socket {
	return &socket{address: address, listener: l, gone: make(chan struct{}),
		perClient: make(map[netip.Prefix]int), perSite: make(map[netip.Prefix]int)}
}

func (k *socket) close() {
	close(k.gone)
	k.listener.Close()
}

// take counts a session of addr in, unless a limit is reached; which one is then told. With scarce no place is free.
func (k *socket) take(addr netip.Addr, t *terms, scarce bool) (refused verdict) {
	network := clientNetwork(addr)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.perClient[network] >= t.MaxConnectionsPerClient: // first: no other is to make room for one that is refused
		return tooManyOfClient
	case scarce || k.total >= t.MaxConnections:
		return tooMany
	}
	k.total++
	k.perClient[network]++
	k.perSite[siteNetwork(addr)]++
	return welcome
}

func (k *socket) give(addr netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.total--
	less(k.perClient, clientNetwork(addr))
	less(k.perSite, siteNetwork(addr))
}

func less(counts map[netip.Prefix]int, network netip.Prefix) {
	if counts[network]--; counts[network] == 0 {
		delete(counts, network)
	}
}

// accept takes connections until the socket is closed. When the system has no descriptors or memory for one, it
// waits a little and tries again.
func (s *Server) accept(k *socket) {
	const first, longest = 5 * time.Millisecond, time.Second
	wait := first
	for {
		c, err := k.listener.Accept()
		if err == nil && s.receive(k, c, s.tune.scarce(c)) {
			wait = first
			continue
		}
		if err == nil {
			err = errScarce
		}
		select {
		case <-k.gone:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		k.full("cannot take clients: " + err.Error())
		k.terms.Load().set.Log.Error("cannot accept a connection", "listener", k.address, "error", err)
		select {
		case <-k.gone:
			return
		case <-time.After(wait):
			wait = min(2*wait, longest)
		}
	}
}

// errScarce: the process has hardly any descriptor left. Raise LimitNOFILE, or lower max_connections.
var errScarce = errors.New("hardly any file descriptor is left; raise LimitNOFILE in the unit, or lower max_connections")

// receive decides what becomes of a new connection. It does not block. With scarce, c has one of the last descriptors: then
// it needs the place of another session, and without one receive closes it and returns false.
func (s *Server) receive(k *socket, c net.Conn, scarce bool) bool {
	t := k.terms.Load()
	p := &peer{srv: s, terms: t, maxSize: t.maxSize(), raw: c, addr: clientAddr(c.RemoteAddr())}
	p.log = t.set.Log.With("client", p.addr.String())
	s.alone.session(p.addr)
	v := welcome
	if !t.set.trusts(p.addr) {
		v = stranger
	} else {
		v = k.take(p.addr, t, scarce)
		if v == tooMany && s.makeRoom(k, p.addr) {
			v = k.take(p.addr, t, false)
		}
		if v == tooMany {
			k.full(k.crowd())
		}
		if v == welcome {
			p.socket = k
		}
	}
	if scarce && v != welcome { // a reply would keep the descriptor
		c.Close()
		return false
	}
	if !s.enrol(p) {
		if p.socket != nil {
			k.give(p.addr)
		}
		c.Close()
		return true
	}
	if v == welcome {
		go p.serve()
		return true
	}
	p.turnAway(v)
	return true
}
