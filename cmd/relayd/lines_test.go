package main

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
			out := &lines{w: &w}
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
			if seen := w.so(); len(seen) != 2 || !strings.Contains(seen[1], "three") || !strings.Contains(seen[1], "four") {
				t.Errorf("with a warning: %q", seen)
			}
			log.Info("five")
			out.flush()
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

func TestLines_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		out := &lines{w: &w}
		line := []byte(strings.Repeat("x", 999) + "\n")
		for range 100 {
			if _, err := out.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if seen := w.so(); len(seen) != 3 {
			t.Errorf("%d writes for 100 KB", len(seen))
		}
		out.flush()
		if n := len(strings.Join(w.so(), "")); n != 100_000 {
			t.Errorf("%d octets came", n)
		}
	})
}
