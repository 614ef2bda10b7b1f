package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Bounds of what waits in lines.
const (
	linePause = 3 * time.Millisecond
	lineRoom  = 32 << 10
)

// lines is where the log goes: lines wait a moment for each other, so that a busy relay makes one system call for many.
// A kill costs what came in that moment; what says that something is wrong does not wait (see prompt).
type lines struct {
	w io.Writer

	mu    sync.Mutex
	buf   []byte
	timer *time.Timer // nil while nothing waits
}

// Write takes a whole line.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, line...)
	switch {
	case len(l.buf) >= lineRoom:
		l.write()
	case l.timer == nil:
		l.timer = time.AfterFunc(linePause, l.flush)
	}
	return len(line), nil
}

// flush writes what waits.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
}

// write empties the buffer. A log that cannot be written has nobody to tell. l.mu is held.
func (l *lines) write() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.buf) > 0 {
		_, _ = l.w.Write(l.buf)
		l.buf = l.buf[:0]
	}
}

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
