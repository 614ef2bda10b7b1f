package smarthost

import "time"

// A host's SIZE decides what intake refuses and what bounces, and one slip of a host must do neither for long.
const (
	// leastSize is below what any provider takes: a smaller SIZE is believed for its session alone.
	leastSize = 1 << 20
	// farBelow is by how much an offer must be smaller than what is remembered to be doubted likewise.
	farBelow = 4
	// sizeLife is how long a SIZE is remembered, and how long a doubted one must be repeated to be believed.
	sizeLife = 24 * time.Hour
	// sizeAsk is how old what is remembered may be for intake to refuse by it. With an older one intake takes the message,
	// and the session that is to deliver it asks anew.
	sizeAsk = time.Hour
	// sizeNote is how often a SIZE that stays the same is noted.
	sizeNote = 10 * time.Minute
)

// doubtedSize is an offer that is not believed yet.
type doubtedSize struct {
	size  int64
	since time.Time
}

// size returns the SIZE that is remembered, if it is no older than age; 0 otherwise, as for a host without limit.
func (f HostFacts) size(age time.Duration, now time.Time) int64 {
	if old := now.Sub(f.SizeAt); old < 0 || old > age {
		return 0
	}
	return f.Size
}

// heedSize takes note of the SIZE that a new session offers, in octets, 0 for none. It reports whether the offer is doubted,
// and whether what is to be remembered has changed. h.mu is held.
func (h *host) heedSize(offered int64, now time.Time) (doubted, news bool) {
	if offered > 0 && (offered < leastSize || offered < h.facts.size(sizeLife, now)/farBelow) {
		if h.low.size != offered {
			h.low = doubtedSize{offered, now}
		}
		if now.Sub(h.low.since) < sizeLife {
			return true, false
		}
		if offered < leastSize {
			return false, false
		}
	}
	h.low = doubtedSize{}
	news = h.facts.Size != offered || h.facts.size(sizeNote, now) != offered
	if news {
		h.facts.Size, h.facts.SizeAt = offered, now.Round(0)
	}
	return false, news
}
