//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relayd/internal/control"
	"relayd/internal/sandbox"
)

// Clients that take every descriptor, with connections and with large messages, keep no operator from an answer.
func TestDescriptors_StatusAnswersWithoutAny(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	s.write("relayd.toml", strings.Replace(s.read("relayd.toml"), `address = "127.0.0.1:0"`,
		"address = \"127.0.0.1:0\"\nmax_connections_per_client = 500", 1), 0o600)
	p := &process{t: t, log: &logFile{}, done: make(chan struct{})}
	p.cmd = exec.Command("/bin/sh", "-c", `ulimit -n 96; exec "$0" "$@"`, os.Args[0], "--config", s.config)
	p.cmd.Env = append(os.Environ(), asDaemon+"=1")
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(p.kill)
	p.addr = p.waitFor(`msg="relayd is up".* listening="?([^ "]+)`)[1]

	var busy sync.WaitGroup
	for range 60 { // each of them takes two
		busy.Go(func() {
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(3 * time.Second))
			client, err := smtp.NewClient(c, "localhost")
			if err != nil || client.Mail("a@example.com") != nil || client.Rcpt("b@example.net") != nil {
				return
			}
			if w, err := client.Data(); err == nil {
				w.Write(bytes.Repeat([]byte("large\r\n"), 30_000)) // and no end
			}
		})
	}
	for range 140 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	p.waitFor(`cannot accept a connection|too many open files|file descriptor is left`)
	busy.Wait()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		c, err := control.Dial(ctx, filepath.Join(s.dir, "data", "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(ctx); err != nil {
			t.Errorf("no status: %v", err)
		}
		t.Logf("answered after %v", time.Since(begin))
		c.Close()
	}
}

// Connections to the control socket that ask nothing keep no operator waiting.
func TestDescriptors_StatusAnswersBehindSilentConnections(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	s.start()
	socket := filepath.Join(s.dir, "data", "control.sock")
	for range 200 {
		c, err := net.Dial("unix", socket)
		for begin := time.Now(); errors.Is(err, syscall.EAGAIN) && time.Since(begin) < patience; {
			c, err = net.Dial("unix", socket)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	c, err := control.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("answered after %v", time.Since(begin))
}
