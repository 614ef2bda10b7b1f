package config

import (
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"time"
)

// maxSocketPath is what fits into sun_path of a unix socket on Linux, with the NUL behind it (unix(7)).
const maxSocketPath = 107

// leastFree is the least min_free, in octets, that says anything: about as much is kept for the outcomes of what is queued
// and for the small files of data_dir, whatever min_free is.
const leastFree = 4_000_000

// controlSocket returns the path of the operator's socket, by default in the queue's folder.
func (t *table) controlSocket(dataDir string) string {
	const key = "control_socket"
	if t.has(key) {
		path := t.path(key)
		if len(path) > maxSocketPath {
			t.bad(key, fmt.Sprintf("the path of a socket has at most %d bytes, %s has %d", maxSocketPath, path, len(path)),
				`write a shorter one, such as "/run/relayd/control.sock"`)
		}
		return path
	}
	if dataDir == "" {
		return ""
	}
	path := filepath.Join(dataDir, "control.sock")
	if len(path) > maxSocketPath {
		t.bad("data_dir", fmt.Sprintf("its control.sock would have a path of %d bytes, a socket's has at most %d",
			len(path), maxSocketPath), `set control_socket to a shorter path, such as "/run/relayd/control.sock"`)
	}
	return path
}

func readLog(t *table) Log {
	l := Log{Format: t.choice("format", "text", "json")}
	switch t.choice("level", "debug", "info", "warn", "error") {
	case "debug":
		l.Level = slog.LevelDebug
	case "warn":
		l.Level = slog.LevelWarn
	case "error":
		l.Level = slog.LevelError
	}
	return l
}

// readQueue returns the queue's limits and times. The listeners tell what the largest message is.
func readQueue(t *table, listeners []Listener) Queue {
	const (
		longest       = 10 * 365 * 24 * time.Hour
		shortestPause = 100 * time.Millisecond // for trying things out
	)
	var q Queue
	var okMin, okMax, okAge bool
	q.RetryMin, okMin = t.duration("retry_min", shortestPause, longest)
	q.RetryMax, okMax = t.duration("retry_max", shortestPause, longest)
	q.MaxAge, okAge = t.duration("max_age", shortestPause, longest)
	q.DelayWarning, _ = t.duration("delay_warning", 0, longest)
	q.History, _ = t.duration("history", time.Hour, longest)
	q.HistoryMaxSize, _ = t.size("history_max_size", 1_000_000)
	if okMin && okMax && q.RetryMin > q.RetryMax {
		t.badPair("retry_min", "retry_max", shortDuration(q.RetryMin), shortDuration(q.RetryMax))
	}
	if okMax && okAge && q.RetryMax > q.MaxAge {
		t.badPair("retry_max", "max_age", shortDuration(q.RetryMax), shortDuration(q.MaxAge))
	}
	q.MaxMessages = t.number("max_messages", 1, maxCount)
	var okFree bool
	if q.MinFree, okFree = t.size("min_free", 0); okFree && q.MinFree > 0 && q.MinFree < leastFree {
		t.bad("min_free", fmt.Sprintf("%s is less than relayd keeps for itself in any case", shortSize(q.MinFree)),
			fmt.Sprintf("write at least %q, or \"0\" for that alone", shortSize(leastFree)))
	}
	var ok bool
	if q.MaxBytes, ok = t.size("max_bytes", 0); !ok || q.MaxBytes == 0 {
		return q
	}
	largest := int64(math.MinInt64)
	for _, l := range listeners {
		largest = max(largest, l.MaxMessageSize)
	}
	if q.MaxBytes < largest {
		t.bad("max_bytes", fmt.Sprintf("%s is less than one message may have, max_message_size is %s",
			shortSize(q.MaxBytes), shortSize(largest)), `raise it, lower max_message_size, or write "0" for no limit`)
	}
	return q
}

// badPair reports two durations of which the first must not be more than the second, at the one that the file gives.
func (t *table) badPair(less, more, a, b string) {
	if t.has(less) {
		byDefault := ""
		if !t.has(more) {
			byDefault = ", by default"
		}
		t.bad(less, fmt.Sprintf("%s is more than %s, which is %s%s", a, more, b, byDefault), "lower it, or raise "+more)
		return
	}
	t.bad(more, fmt.Sprintf("%s is less than %s, which is %s, by default", b, less, a), "raise it, or lower "+less)
}
