package metrics

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
)

func newServer(t *testing.T, o Options) *Server {
	t.Helper()
	if o.Status == nil {
		o.Status = fullStatus
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

func listen(t *testing.T, o Options) *Server {
	t.Helper()
	s := newServer(t, o)
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends a request on a connection of its own.
func ask(method, address, path string) (*http.Response, []byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	req, err := http.NewRequest(method, "http://"+address+path, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func mustAsk(t *testing.T, method, address, path string) (*http.Response, []byte) {
	t.Helper()
	resp, body, err := ask(method, address, path)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestServer_AnswersOneQuestion(t *testing.T) {
	s := listen(t, Options{})
	addr := s.Addr().String()
	resp, body := mustAsk(t, "GET", addr, "/metrics?x=y")
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	if got := parse(t, body); len(got) != len(families()) {
		t.Errorf("%d families, want %d", len(got), len(families()))
	}
	if resp, body := mustAsk(t, "HEAD", addr, "/metrics"); resp.StatusCode != http.StatusOK || len(body) > 0 {
		t.Errorf("HEAD: %s, %q", resp.Status, body)
	}
	for _, c := range [][2]string{{"GET", "/"}, {"GET", "/metrics/"}, {"GET", "//metrics"}, {"GET", "/v1/status"}, {"GET", "/debug/pprof/"},
		{"POST", "/metrics"}, {"PUT", "/metrics"}, {"DELETE", "/metrics"}, {"OPTIONS", "/metrics"}} {
		if resp, body := mustAsk(t, c[0], addr, c[1]); resp.StatusCode != http.StatusNotFound || bytes.Contains(body, []byte("relayd_")) {
			t.Errorf("%s %s: %s, %q", c[0], c[1], resp.Status, body)
		}
	}
}

func TestServer_SaysWhenItCannotShowTheStatus(t *testing.T) {
	var log bytes.Buffer
	s := listen(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Status: func() control.Status {
		st := fullStatus()
		st.Routes = append(st.Routes, st.Routes...)
		return st
	}})
	resp, body := mustAsk(t, "GET", s.Addr().String(), "/metrics")
	if resp.StatusCode != http.StatusInternalServerError || bytes.Contains(body, []byte("isp")) {
		t.Errorf("%s, %q", resp.Status, body)
	}
	if err := s.Listen(""); err != nil { // after which nobody writes to the log
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), `level=ERROR msg="the metrics cannot be shown`) {
		t.Error(log.String())
	}
}

func TestServer_CutsOffWhoSaysNothingAndWhoReadsOn(t *testing.T) {
	for name, c := range map[string]struct {
		stall   time.Duration
		words   string
		answers int
	}{
		"silence":        {50 * time.Millisecond, "", 0},
		"half a request": {50 * time.Millisecond, "GET /metrics HTTP/1.1\r\nHost: x\r\n", 0},
		"a second request": {time.Hour,
			"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 1},
	} {
		s := listen(t, Options{Stall: c.stall})
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Who was silent for too long may be cut off before it says anything.
		if _, err := io.WriteString(conn, c.words); err != nil && c.answers > 0 {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		got, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		if n := bytes.Count(got, []byte("200 OK")); n != c.answers {
			t.Errorf("%s: %d answers", name, n)
		}
	}
}

// Who comes while all places are taken waits, and is served.
func TestServer_ServesABoundedNumberAtOnce(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	release := make(chan struct{})
	full := make(chan struct{})
	s := listen(t, Options{Status: func() control.Status {
		mu.Lock()
		now++
		most = max(most, now)
		if now == maxConnections {
			close(full)
		}
		mu.Unlock()
		<-release
		mu.Lock()
		now--
		mu.Unlock()
		return fullStatus()
	}})
	var all sync.WaitGroup
	for i := range maxConnections + 8 {
		if i == maxConnections {
			<-full // so that nobody is taken for a silent client who only is slow to ask
		}
		all.Go(func() {
			resp, _, err := ask("GET", s.Addr().String(), "/metrics")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
	close(release)
	all.Wait()
	if most != maxConnections {
		t.Errorf("%d at once, want %d", most, maxConnections)
	}
}

func TestListen_MovesAndStopsWithTheConfiguration(t *testing.T) {
	s := newServer(t, Options{})
	if err := s.Listen(""); err != nil || s.Addr() != nil {
		t.Errorf("%v, %v", err, s.Addr())
	}
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	first := s.Addr().String()
	if err := s.Listen("127.0.0.1:0"); err != nil || s.Addr().String() != first {
		t.Errorf("the same address again: %v, %s and %s", err, first, s.Addr())
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = s.Listen(taken.Addr().String())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "set another address in [metrics]") {
		t.Errorf("an address that is taken: %v", err)
	}
	mustAsk(t, "GET", first, "/metrics") // nothing has changed
	_, port, err := net.SplitHostPort(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen("0.0.0.0:" + port); err == nil || !strings.Contains(err.Error(), first+", that holds the port, restart relayd") {
		t.Errorf("its own port: %v", err)
	}
	mustAsk(t, "GET", first, "/metrics")
	if err := s.Listen("localhost:0"); err != nil {
		t.Fatal(err)
	}
	second := s.Addr().String()
	mustAsk(t, "GET", second, "/metrics")
	mustRefuse(t, first)
	if err := s.Listen(""); err != nil || s.Addr() != nil {
		t.Errorf("%v, %v", err, s.Addr())
	}
	mustRefuse(t, second)
}

// mustRefuse fails the test if anybody listens at address.
func mustRefuse(t *testing.T, address string) {
	t.Helper()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Errorf("%s is still listened on", address)
	}
}

func TestClose_LetsAnAnswerFinishAndCutsOffWhoSaysNothing(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := listen(t, Options{Status: func() control.Status { close(begun); <-release; return fullStatus() }})
	addr := s.Addr().String()
	answered := make(chan error, 1)
	go func() {
		_, body, err := ask("GET", addr, "/metrics")
		if err == nil && len(body) == 0 {
			err = io.ErrUnexpectedEOF
		}
		answered <- err
	}()
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	for { // until Close has begun
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the answer was cut off: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}

	s = listen(t, Options{Stall: time.Hour})
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s.Close(ctx)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who says nothing is still connected: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// Clients that connect and ask nothing keep nobody waiting.
func TestServer_AnswersBehindSilentClients(t *testing.T) {
	s := listen(t, Options{Status: fullStatus})
	for i := range 200 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nX-Slow: "); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := time.Now()
	resp, _, err := ask("GET", s.Addr().String(), "/metrics")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	took := time.Since(begin)
	t.Logf("answered after %v", took)
	if took > stall/2 { // a second on a machine that does nothing else
		t.Errorf("the answer took %v", took)
	}
}
