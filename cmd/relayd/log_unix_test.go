//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

// startLoggingTo starts the daemon at a port of its own with a log that goes to stderr, and waits until it takes mail.
func (s *site) startLoggingTo(stderr *os.File) *process {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.write("relayd.toml", strings.Replace(s.read("relayd.toml"), "127.0.0.1:0", addr, 1), 0o600)
	p := &process{t: s.t, log: &logFile{}, addr: addr, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], "--config", s.config)
	p.cmd.Env = append(os.Environ(), asDaemon+"=1")
	p.cmd.Stderr = stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	s.t.Cleanup(p.kill)
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return p
		}
		select {
		case <-p.done:
			s.t.Fatalf("the daemon ended: %v", p.err)
		default:
		}
	}
	s.t.Fatal("the daemon takes no mail")
	return nil
}

// Mail comes and goes, and SIGTERM ends the daemon in order, while nobody reads its log, and when the reader has gone.
func TestLog_IsNoWayToDie(t *testing.T) {
	for _, kind := range []string{"a full pipe", "a closed pipe"} {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t)
			sb := s.smarthost(sandbox.Options{})
			s.configure(route(sb.CAFile(), sb.Addr()))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if kind == "a full pipe" {
				fill(t, w)
				defer r.Close()
			} else {
				r.Close()
			}
			p := s.startLoggingTo(w)
			const messages = 300
			for i := range messages {
				if err := p.submit("a@example.com", fmt.Sprintf("Subject: %d\r\n\r\n", i), "b@example.net"); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			for begin := time.Now(); len(sb.Messages()) < messages; time.Sleep(10 * time.Millisecond) {
				if time.Since(begin) > patience {
					t.Fatalf("%d of %d were delivered", len(sb.Messages()), messages)
				}
			}
			begin := time.Now()
			p.signal(syscall.SIGTERM)
			if err := p.wait(); err != nil {
				t.Errorf("the daemon ended with %v", err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("the end took %v", took)
			}
		})
	}
}

// fill writes to a pipe until it is full.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	fd := int(w.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for _, err := syscall.Write(fd, make([]byte, 4096)); err != syscall.EAGAIN; _, err = syscall.Write(fd, []byte{0}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}
