package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what waits in lines, and of one line of it.
const (
	linePause = 3 * time.Millisecond
	lineRoom  = 32 << 10
	lineMost  = 1 << 20  // octets that wait while nobody reads the log
	lineLimit = 16 << 10 // octets of one line
	lineGrace = time.Second
)

// lines is where the log goes. A goroutine of its own writes it, so that a reader that is stuck holds nobody up: lines that
// find no room are dropped and counted. Lines wait a moment for each other, so that a busy relay makes one system call for
// many. What says that something is wrong does not wait for others (see prompt), but it does not wait until it is written either.
type lines struct {
	w    io.Writer
	json bool
	// lost logs how many lines were lost; see newLogger.
	lost func(n int)

	mu      sync.Mutex
	buf     []byte
	dropped int
	urgent  chan struct{} // has an element when what waits is to be written now
	some    chan struct{} // has an element when something waits
	closing bool
	closed  chan struct{} // is closed when nothing is written any more
}

func newLines(w io.Writer) *lines {
	l := &lines{w: w, urgent: make(chan struct{}, 1), some: make(chan struct{}, 1), closed: make(chan struct{})}
	go l.run()
	return l
}

// Write takes a whole line, and never waits.
func (l *lines) Write(line []byte) (int, error) {
	n := len(line)
	line = l.bound(visible(line))
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf)+len(line) > lineMost {
		l.dropped++
		return n, nil
	}
	l.buf = append(l.buf, line...)
	if len(l.buf) >= lineRoom {
		nudge(l.urgent)
	}
	nudge(l.some)
	return n, nil
}

// flush has what waits written now, and does not wait for it.
func (l *lines) flush() { nudge(l.urgent) }

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close writes what waits, for as long as lineGrace at most.
func (l *lines) close() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	nudge(l.urgent)
	nudge(l.some)
	select {
	case <-l.closed:
	case <-time.After(lineGrace):
	}
}

func (l *lines) run() {
	defer close(l.closed)
	pause := time.NewTimer(0)
	for {
		<-l.some
		pause.Reset(linePause)
		select {
		case <-l.urgent:
		case <-pause.C:
		}
		for l.write() {
		}
		l.mu.Lock()
		ended := l.closing && len(l.buf) == 0
		l.mu.Unlock()
		if ended {
			return
		}
	}
}

// write writes what waits, and reports whether there is more by now. What could not be written is lost, and is told of once
// something can be.
func (l *lines) write() bool {
	l.mu.Lock()
	buf := l.buf
	l.buf = nil
	l.mu.Unlock()
	if len(buf) == 0 {
		return false
	}
	n, err := l.w.Write(buf)
	l.mu.Lock()
	if err != nil {
		l.dropped += bytes.Count(buf[n:], []byte("\n"))
	}
	lost := l.dropped
	if err == nil {
		l.dropped = 0
	}
	more := len(l.buf) > 0
	l.mu.Unlock()
	if err == nil && lost > 0 && l.lost != nil {
		l.lost(lost)
		more = true
	}
	return more
}

// bound cuts a line that is too long. One of JSON becomes an object that has its beginning as a string.
func (l *lines) bound(line []byte) []byte {
	if len(line) <= lineLimit {
		return line
	}
	if !l.json {
		cut := lineLimit - 64
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		return fmt.Appendf(nil, "%s... (%d octets were cut)\n", line[:cut], len(line)-cut)
	}
	var b bytes.Buffer
	cut := lineLimit / 4
	for !utf8.RuneStart(line[cut]) {
		cut--
	}
	log := slog.New(slog.NewJSONHandler(&b, nil))
	log.Warn("a log line was too long", "octets", len(line), "begins", string(line[:cut]))
	return b.Bytes()
}

// visible returns a line without what could steer a terminal: C1 controls, bidirectional overrides and marks, and separators of
// lines are written as escapes. The handlers escape C0 controls. In JSON such a character stands in a string.
func visible(line []byte) []byte {
	if bytes.IndexFunc(line, hidden) < 0 && utf8.Valid(line) {
		return line
	}
	var b []byte
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case hidden(r) && r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		case hidden(r):
			b = fmt.Appendf(b, `\u%04x\u%04x`, (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00)
		default:
			b = append(b, line[:n]...)
		}
		line = line[n:]
	}
	return b
}

func hidden(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

// prompt has warnings and errors written at once, behind what came before them.
type prompt struct {
	slog.Handler
	out *lines
}

func (p prompt) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		p.out.flush()
	}
	return err
}

func (p prompt) WithAttrs(attrs []slog.Attr) slog.Handler {
	return prompt{p.Handler.WithAttrs(attrs), p.out}
}

func (p prompt) WithGroup(name string) slog.Handler { return prompt{p.Handler.WithGroup(name), p.out} }
