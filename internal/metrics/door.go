package metrics

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// door lets a bounded number of clients in. When all places are taken, the one that has been silent longest gives its place to
// who comes, so that clients that ask nothing keep nobody else from an answer.
type door struct {
	net.Listener
	most int

	mu     sync.Mutex
	seats  []*seat // the oldest first
	closed bool
	change chan struct{} // is closed, and made anew, when a place becomes free or a client silent
}

// seat is the connection of a client.
type seat struct {
	net.Conn
	door   *door
	since  time.Time // the server waits for the client; zero while it does not
	asked  bool      // its request has been read
	leaves sync.Once
}

// patience is how long a client may take until it is silent.
const patience = 500 * time.Millisecond

func newDoor(l net.Listener, most int) *door {
	return &door{Listener: l, most: most, change: make(chan struct{})}
}

// Accept returns the next client, once there is a place for it.
func (d *door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &seat{Conn: c, door: d}
	for {
		wait, silent := d.admit(s)
		switch {
		case silent != nil:
			silent.Close()
			continue
		case wait == nil:
			return s, nil
		}
		select {
		case <-wait:
		case <-time.After(patience):
		}
	}
}

// admit gives s a place. Without one it returns a client that has to leave, or what ends when something has changed.
func (d *door) admit(s *seat) (wait <-chan struct{}, silent *seat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.seats) < d.most || d.closed { // of a closed one, Shutdown ends the client
		d.seats = append(d.seats, s)
		return nil, nil
	}
	for _, s := range d.seats {
		if !s.asked && !s.since.IsZero() && time.Since(s.since) >= patience {
			return nil, s
		}
	}
	return d.change, nil
}

func (d *door) changed() {
	close(d.change)
	d.change = make(chan struct{})
}

// Close ends the listening.
func (d *door) Close() error {
	d.mu.Lock()
	d.closed = true
	d.changed()
	d.mu.Unlock()
	return d.Listener.Close()
}

// Read reads what the client sends.
func (s *seat) Read(p []byte) (int, error) {
	s.waits(time.Now())
	defer s.waits(time.Time{})
	return s.Conn.Read(p)
}

func (s *seat) waits(since time.Time) {
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.since = since
}

// Close ends the connection and gives up its place.
func (s *seat) Close() error {
	s.leaves.Do(func() {
		s.door.mu.Lock()
		defer s.door.mu.Unlock()
		s.door.seats = slices.DeleteFunc(s.door.seats, func(o *seat) bool { return o == s })
		s.door.changed()
	})
	return s.Conn.Close()
}

type seatKey struct{}

func withSeat(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, seatKey{}, c)
}

// hasAsked notes that the client's request has been read: it keeps its place until it has been answered.
func hasAsked(ctx context.Context) {
	if s, ok := ctx.Value(seatKey{}).(*seat); ok {
		s.door.mu.Lock()
		defer s.door.mu.Unlock()
		s.asked = true
	}
}
