package smarthost

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// limited reports whether err, which kept a connection from being opened that was begun at the given time, is the host's
// limit of connections. Hosts say that with 421 or another reply, by hanging up, or by refusing TCP; what tells it from an
// outage is that the host goes on working on the connections it has. From now on it gets fewer then.
func (h *host) limited(err error, begun time.Time) bool {
	failed, ok := errors.AsType[*stageError](err)
	if !ok || !h.mayBeLimit(failed) {
		return false
	}
	since := time.Now().Add(-aliveTime)
	if isTimeout(failed.err) {
		since = begun // a line that broke is silent, too, and on all connections
	}
	return h.pool.refused(since)
}

// mayBeLimit reports whether failed is among the forms in which hosts refuse one connection more.
func (h *host) mayBeLimit(failed *stageError) bool {
	if failed.reply.Code == 421 {
		return true
	}
	if !failed.reply.IsZero() {
		return failed.stage == stageGreeting && !failed.reply.Positive() || classifyReply(h.place, failed.stage, failed.reply).crowded
	}
	switch failed.stage {
	case stageDial:
		if _, dns := errors.AsType[*net.DNSError](failed.err); dns {
			return false
		}
		return errors.Is(failed.err, syscall.ECONNREFUSED) || isLost(failed.err)
	case stageTLS, stageGreeting:
		return isLost(failed.err)
	}
	return false
}
