package control

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/queue"
)

// The tests of this file are about how long a client may take, and run on synctest's time: connections are pipes, since
// what happens on a socket is not seen by it.

// idleQueue needs an hour for an action, and a body of it never ends.
type idleQueue struct{ Queue }

func (idleQueue) ApplyAll(queue.Action) (queue.Applied, error) {
	time.Sleep(time.Hour)
	return queue.Applied{Done: []string{"a"}}, nil
}

func (idleQueue) Body(string) (io.ReadCloser, error) { return io.NopCloser(endless{}), nil }

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// pipes is a listener whose connections are made in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	gone  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.gone) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// connect serves q on a pipe, to whoever is at its other end, until the test ends.
func connect(t *testing.T, q Queue, log *slog.Logger) (*Server, net.Conn) {
	t.Helper()
	s := NewServer(Options{Queue: q, Log: log})
	s.http.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return context.WithValue(ctx, peerKey{}, true) }
	l := &pipes{conns: make(chan net.Conn), gone: make(chan struct{})}
	s.served = make(chan struct{})
	go s.serve(l)
	ours, theirs := net.Pipe()
	l.conns <- theirs
	t.Cleanup(func() {
		ours.Close()
		if err := s.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return s, ours
}

func TestClient_ActionMayTakeLongerThanAStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := connect(t, idleQueue{}, slog.New(slog.DiscardHandler))
		c := &Client{http: &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}}}
		defer c.Close()
		for range 2 { // the second runs into what the first left behind on the connection
			if res, err := c.ApplyAll(t.Context(), queue.ActionHold); err != nil || res.Done != 1 {
				t.Errorf("ApplyAll = %+v, %v", res, err)
			}
		}
	})
}

func TestServer_CutsOffWhoTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		_, conn := connect(t, idleQueue{}, slog.New(slog.NewTextHandler(&log, nil)))
		if _, err := io.WriteString(conn, "GET /v1/queue/m1/body HTTP/1.1\r\nHost: relayd\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !strings.Contains(log.String(), "could not be sent") {
			t.Errorf("a client that reads nothing still holds its handler: %s", log.String())
		}
	})
}

func TestServer_CloseDoesNotWaitForWhoSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := connect(t, idleQueue{}, slog.New(slog.DiscardHandler))
		synctest.Wait()
		began := time.Now()
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("Close = %v", err)
		}
		if took := time.Since(began); took > time.Second { // of synctest's time: http.Server alone would wait for 5 s
			t.Errorf("it took %v", took)
		}
	})
}
