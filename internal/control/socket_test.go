//go:build unix

package control_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
)

func server(q control.Queue) *control.Server {
	return control.NewServer(control.Options{Queue: q, Log: slog.New(slog.DiscardHandler)})
}

func closeServer(t *testing.T, s *control.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestSocket_IsPrivateWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(filepath.Dir(socketPath(t)), "made", "c.sock")
	s := server(&fakeQueue{})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	defer closeServer(t, s)
	for p, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o600, filepath.Dir(path): fs.ModeDir | 0o700} {
		if info, err := os.Lstat(p); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
}

func TestSocket_OfADeadDaemonIsReplaced(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := control.Dial(t.Context(), path); !errors.Is(err, control.ErrNotRunning) || !strings.Contains(err.Error(), path) ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Dial = %v; want ErrNotRunning with the path and the reason", err)
	}
	s := server(&fakeQueue{})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	defer closeServer(t, s)
	if _, err := control.Dial(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestSocket_OfALiveDaemonIsLeftAlone(t *testing.T) {
	path := socketPath(t)
	first := server(&fakeQueue{})
	if err := first.Start(path); err != nil {
		t.Fatal(err)
	}
	defer closeServer(t, first)
	second := server(&fakeQueue{})
	if err := second.Start(path); !errors.Is(err, control.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("Start = %v; want ErrInUse with the path", err)
	}
	closeServer(t, second)
	if _, err := control.Dial(t.Context(), path); err != nil {
		t.Errorf("the first daemon cannot be reached any more: %v", err)
	}
}

func TestSocket_DoesNotReplaceAFile(t *testing.T) {
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server(&fakeQueue{}).Start(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Start = %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

func TestSocket_TooLongAPathIsExplained(t *testing.T) {
	path := filepath.Join(filepath.Dir(socketPath(t)), strings.Repeat("x", 120))
	if err := server(&fakeQueue{}).Start(path); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("Start = %v", err)
	}
}

func TestSocket_IsRemovedAtCloseButNotAnothers(t *testing.T) {
	path := socketPath(t)
	s := server(&fakeQueue{})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v; want no socket", err)
	}
	if _, err := control.Dial(t.Context(), path); !errors.Is(err, control.ErrNotRunning) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Dial = %v; want ErrNotRunning", err)
	}
	if err := s.Start(path); !errors.Is(err, control.ErrClosed) {
		t.Errorf("Start after Close = %v; want ErrClosed", err)
	}

	s = server(&fakeQueue{})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("Close removed a file that it had not made: %v", err)
	}
}

func TestServer_CloseLetsAnAnswerFinish(t *testing.T) {
	path := socketPath(t)
	src, feed := io.Pipe()
	s := server(&fakeQueue{bodies: map[string]func() io.ReadCloser{"m1": func() io.ReadCloser { return src }}})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	c, err := control.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	go io.WriteString(feed, strings.Repeat("x", 100_000))
	body, err := c.Body(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { defer close(closed); closeServer(t, s) }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("Close does not begin")
		}
	}
	go func() { io.WriteString(feed, "end"); feed.Close() }()
	got, err := io.ReadAll(body)
	if err != nil || !strings.HasSuffix(string(got), "end") {
		t.Errorf("%d octets, %v; want the whole answer", len(got), err)
	}
	<-closed
}

func TestServer_CloseCutsOffWhatDoesNotEnd(t *testing.T) {
	path := socketPath(t)
	endless := func() io.ReadCloser { return io.NopCloser(zeros{}) }
	s := server(&fakeQueue{bodies: map[string]func() io.ReadCloser{"m1": endless}})
	if err := s.Start(path); err != nil {
		t.Fatal(err)
	}
	c, err := control.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	body, err := c.Body(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close = %v; want that it says that time ran out", err)
	}
	if _, err := io.Copy(io.Discard, body); err == nil {
		t.Error("the cut-off body looked whole")
	}
}
