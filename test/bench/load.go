//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// smtpSink is Postfix's smtp-sink. It prints how many messages it has after each.
type smtpSink struct {
	counter
	kept *kept
	port int
}

// startSMTPSink starts one; dir is for its log.
func (l *lab) startSMTPSink(dir string) (*smtpSink, error) {
	port, err := l.freePort()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "smtp-sink.log")
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s := &smtpSink{port: port}
	s.kept, err = l.startTo(w, out, "smtp-sink", log, l.peerEnv(),
		l.peers.file("usr/sbin/smtp-sink"), "-c", "-u", "nobody", "-m", "1000", portAddress(port), "1024")
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go s.follow(r)
	if err := s.kept.waitForPort(port); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// follow reads what smtp-sink prints: "sess=1 quit=0 mesg=7", each ended by CR.
func (s *smtpSink) follow(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 64<<10)
	lines.Split(func(data []byte, _ bool) (int, []byte, error) {
		if i := bytes.LastIndexByte(data, '\r'); i >= 0 { // only the last counts
			from := bytes.LastIndexByte(data[:i], '\r') + 1
			return i + 1, data[from:i], nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		if n, ok := sinkCount(lines.Text()); ok {
			s.set(n)
		}
	}
}

func sinkCount(line string) (int, bool) {
	_, after, ok := strings.Cut(line, "mesg=")
	n, err := strconv.Atoi(strings.TrimSpace(after))
	return n, ok && err == nil
}

func (s *smtpSink) addr() string { return portAddress(s.port) }
func (s *smtpSink) close()       { s.kept.stop() }

// load is what smtp-source is to send.
type load struct {
	sessions, messages, size int
	keepOpen                 bool
}

// send has smtp-source send a load to addr, and returns how long that took: until all had their 250.
func (l *lab) send(ctx context.Context, addr string, what load) (time.Duration, error) {
	args := []string{"-s", strconv.Itoa(min(what.sessions, what.messages)), "-m", strconv.Itoa(what.messages), "-l", strconv.Itoa(what.size),
		"-f", "a@lan.example", "-t", "b@dest.example"}
	if what.keepOpen {
		args = append(args, "-d")
	}
	cmd := exec.CommandContext(ctx, l.peers.file("usr/sbin/smtp-source"), append(args, addr)...)
	cmd.Env, cmd.WaitDelay = l.peerEnv(), time.Second
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return 0, fmt.Errorf("smtp-source %s: %v: %.500s", strings.Join(args, " "), err, out)
	}
	return time.Since(begun), nil
}
