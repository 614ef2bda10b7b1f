//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"relayd/internal/config"
)

// writes notes what each write had.
type writes struct {
	mu  sync.Mutex
	all []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), nil
}

func (w *writes) so() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func TestLines_WaitForEachOtherButNotWithAWarning(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		synctest.Test(t, func(t *testing.T) {
			var w writes
			out := newLines(&w)
			defer out.close()
			log := newLogger(config.Log{Level: slog.LevelInfo, Format: format}, new(slog.LevelVar), out).With("a", 1).WithGroup("g")
			log.Info("one")
			log.Info("two")
			if seen := w.so(); len(seen) != 0 {
				t.Errorf("written at once: %q", seen)
			}
			time.Sleep(linePause)
			synctest.Wait()
			if seen := w.so(); len(seen) != 1 || strings.Count(seen[0], "\n") != 2 || strings.Index(seen[0], "one") > strings.Index(seen[0], "two") {
				t.Errorf("after the pause: %q", seen)
			}
			log.Info("three")
			log.Warn("four")
			synctest.Wait()
			if seen := w.so(); len(seen) != 2 || !strings.Contains(seen[1], "three") || !strings.Contains(seen[1], "four") {
				t.Errorf("with a warning: %q", seen)
			}
			log.Info("five")
			out.flush()
			synctest.Wait()
			if seen := w.so(); len(seen) != 3 || !strings.Contains(seen[2], "five") {
				t.Errorf("at the end: %q", seen)
			}
			time.Sleep(time.Minute)
			if seen := w.so(); len(seen) != 3 {
				t.Errorf("written again: %q", seen[3:])
			}
		})
	}
}

// stuck is a reader of the log that reads nothing until it is free.
type stuck struct {
	writes
	free chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.writes.Write(p)
}

// Nobody waits for who reads the log. What it has no room for is counted, and told of when it is read again.
func TestLines_NobodyWaitsForTheReader(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		synctest.Test(t, func(t *testing.T) {
			w := stuck{free: make(chan struct{})}
			out := newLines(&w)
			log := newLogger(config.Log{Format: format}, new(slog.LevelVar), out)
			log.Info("first")
			time.Sleep(time.Second)
			long := strings.Repeat("x", 1000)
			for range 3000 {
				log.Warn(long)
			}
			close(w.free)
			out.close()
			all := strings.Join(w.so(), "")
			came := strings.Count(all, long)
			if came < 900 || came > 1100 {
				t.Errorf("%d of 3000 lines came", came)
			}
			if want := fmt.Sprint(3000 - came); !strings.Contains(all, "lines="+want+"\n") && !strings.Contains(all, `"lines":`+want+"}") {
				t.Errorf("%s lines were lost, of which is said %q", want, all[strings.LastIndex(all[:len(all)-1], "\n"):])
			}
		})
	}
}

// broken is a log that cannot be written for a while.
type broken struct {
	writes
	err error
}

func (b *broken) Write(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.writes.Write(p)
}

func TestLines_LinesThatCouldNotBeWrittenAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := broken{err: syscall.EPIPE}
		out := newLines(&w)
		defer out.close()
		log := newLogger(config.Log{}, new(slog.LevelVar), out)
		log.Info("one")
		log.Info("two")
		time.Sleep(time.Second)
		synctest.Wait()
		w.err = nil
		log.Info("three")
		time.Sleep(time.Second)
		if all := strings.Join(w.so(), ""); strings.Contains(all, "two") || !strings.Contains(all, "three") || !strings.Contains(all, "lines=2\n") {
			t.Errorf("the log has %q", all)
		}
	})
}

// At the end nobody waits long, either.
func TestLines_TheEndWaitsAMomentForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stuck{free: make(chan struct{})}
		defer close(w.free)
		out := newLines(&w)
		fmt.Fprintln(out, "last words")
		begin := time.Now()
		out.close()
		if took := time.Since(begin); took != lineGrace {
			t.Errorf("the end took %v", took)
		}
	})
}

func TestLines_AreBounded(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		synctest.Test(t, func(t *testing.T) {
			var w writes
			out := newLines(&w)
			log := newLogger(config.Log{Format: format}, new(slog.LevelVar), out)
			log.Info("long", "reply", strings.Repeat("\u00fc\u202e", 100_000), "error", errors.New(strings.Repeat("\n", 100_000)))
			out.close()
			line := strings.Join(w.so(), "")
			if len(line) > lineLimit || strings.Count(line, "\n") != 1 || !utf8.ValidString(line) || !strings.Contains(line, "long") {
				t.Errorf("%d octets: %.100q", len(line), line)
			}
			if format == "json" && !json.Valid([]byte(line)) {
				t.Errorf("no JSON: %.100q", line)
			}
		})
	}
}

// What a stranger has written moves nobody's terminal, and a program reads it as it was.
func TestLines_ShowNothingThatSteersATerminal(t *testing.T) {
	var hostile strings.Builder
	for _, r := range []rune{0x7f, 0x80, 0x85, 0x9b, 0x9f, 0xad, 0x200b, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202e, 0x2066, 0x2069, 0xfeff, 0xe0001, 0x1b, 'é'} {
		hostile.WriteRune(r)
	}
	for _, format := range []string{"text", "json"} {
		synctest.Test(t, func(t *testing.T) {
			var w writes
			out := newLines(&w)
			log := newLogger(config.Log{Format: format}, new(slog.LevelVar), out)
			log.Info("msg "+hostile.String(), "a "+hostile.String(), hostile.String(), "raw", "\x9b31m", "error", errors.New(hostile.String()))
			out.close()
			line := strings.TrimSuffix(strings.Join(w.so(), ""), "\n")
			for _, r := range line {
				if !unicode.IsPrint(r) {
					t.Errorf("%s: %U is in %q", format, r, line)
				}
			}
			if !utf8.ValidString(line) || strings.Contains(line, "\x9b") {
				t.Errorf("%q", line)
			}
			var read struct{ Error string }
			if format == "json" && (json.Unmarshal([]byte(line), &read) != nil || read.Error != hostile.String()) {
				t.Errorf("%q is read as %q", line, read.Error)
			}
		})
	}
}
