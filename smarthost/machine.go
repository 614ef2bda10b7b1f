package smarthost

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"relayd/internal/envelope"
)

// machine notes what this machine itself has no more of for a connection. No host is to blame for that. A nil machine
// notes nothing.
type machine struct {
	mu    sync.Mutex
	since time.Time // zero while all is well
	words string
}

// machinePause is how long a message waits when the machine has nothing left for a connection.
const machinePause = 5 * time.Second

// machineFault returns in words what this machine lacks, when that is why a connection failed.
func machineFault(err error) (words string, ok bool) {
	for _, lack := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		// A failed lookup has the error of its socket only in its words.
		if errors.Is(err, lack) || err != nil && strings.HasSuffix(err.Error(), ": "+lack.Error()) {
			return lack.Error(), true
		}
	}
	return "", false
}

// failed notes that a connection failed for want of what words say, and returns what that means for its message.
func (m *machine) failed(log *slog.Logger, words string) *envelope.Failure {
	f := &envelope.Failure{Scope: envelope.ScopeSite, Stage: stageDial,
		Reason: "this machine, and not the host, is the trouble: " + words + "; the message waits"}
	if m == nil {
		return f
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		m.since = time.Now()
		log.Error("no connection can be made for want of something on this machine; raise its limits", "error", words)
	}
	m.words = words
	return f
}

// well notes that a connection was made.
func (m *machine) well(log *slog.Logger) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.since.IsZero() {
		m.since = time.Time{}
		log.Info("connections can be made again")
	}
}

// Troubles returns, in words, what keeps mail from being handed on that no host is to blame for.
func (r *Router) Troubles() []string {
	r.machine.mu.Lock()
	defer r.machine.mu.Unlock()
	if r.machine.since.IsZero() {
		return nil
	}
	return []string{fmt.Sprintf("no connection to a smarthost can be made since %s: %s on this machine; raise the limit "+
		"(LimitNOFILE in the unit, or the memory)", r.machine.since.Format(time.DateTime), r.machine.words)}
}
