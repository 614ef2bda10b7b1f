//go:build unix

package main

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relayd/internal/sandbox"
)

// greeting connects from an address and returns what the relay says first.
func (p *process) greeting(from string) string {
	p.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	return line
}

// A listener that refuses clients because all its places are taken is a problem.
func TestRelayd_StatusTellsOfAFullListener(t *testing.T) {
	s := newSite(t)
	sb := s.smarthost(sandbox.Options{})
	s.configure(route(sb.CAFile(), sb.Addr()))
	text, err := os.ReadFile(filepath.Join(s.dir, "relayd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("relayd.toml", strings.Replace(string(text), "[[listener]]", "[[listener]]\nmax_connections = 1\nmax_connections_per_client = 1", 1), 0o600)
	p := s.start()
	if problems := s.status().Problems; len(problems) > 0 {
		t.Errorf("a quiet relay: %q", problems)
	}
	for _, c := range []struct{ from, want string }{{"127.0.0.1", "220 "}, {"127.0.0.1", "421 4.7.0 "}} {
		if line := p.greeting(c.from); !strings.HasPrefix(line, c.want) {
			t.Fatalf("the relay said %q to %s", line, c.from)
		}
	}
	if problems := s.status().Problems; len(problems) > 0 {
		t.Errorf("a client that has its share is refused: %q", problems)
	}
	if line := p.greeting("127.0.0.2"); !strings.HasPrefix(line, "421 4.3.2 ") {
		t.Fatalf("the relay said %q", line)
	}
	if problems := strings.Join(s.status().Problems, "\n"); !strings.Contains(problems, "is full, and refuses clients: 1 connections") {
		t.Errorf("another is refused: %q", problems)
	}
}
