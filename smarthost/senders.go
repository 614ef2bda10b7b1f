package smarthost

import (
	"slices"
	"time"

	"relayd/internal/envelope"
)

// A host that refuses one sender after the other most likely refuses the relay, or its account. It takes so many
// different senders in a row, within that time, and none that was accepted between them.
const (
	sendersInARow     = 3
	sendersInARowTime = 10 * time.Minute
)

// refusedSenders are the reverse-paths that a host refused since it last accepted one. A host's lock guards it.
//
// The first senders of a row are refused for themselves, since nobody can know better; the one that completes it waits,
// and so does whatever else is refused until one is accepted. A few bad senders among good ones do not get that far;
// if they do, because no good one sends for a while, pauses stay short, and the first good one ends it.
type refusedSenders struct {
	paths []envelope.Path
	since time.Time // of the first
	site  bool
}

func (s *refusedSenders) accepted() { *s = refusedSenders{} }

// refuse notes a refusal, and reports whether it is the site's. The null reverse-path counts for nothing: there are hosts
// that take no reports and all else.
func (s *refusedSenders) refuse(p envelope.Path, now time.Time) bool {
	if s.site || p.IsNull() {
		return s.site && !p.IsNull()
	}
	if now.Sub(s.since) > sendersInARowTime {
		s.paths = s.paths[:0]
	}
	if len(s.paths) == 0 {
		s.since = now
	}
	if !slices.Contains(s.paths, p) {
		s.paths = append(s.paths, p)
	}
	s.site = len(s.paths) >= sendersInARow
	return s.site
}

// manySenders is what the refusal v of a sender is at the end of such a row.
func manySenders(p place, v verdict) verdict {
	v.Scope, v.Permanent, v.trouble = envelope.ScopeSite, false, sendersRefused
	v.Reason = p.words("%HOST refuses one sender after the other, so that the trouble seems to be the account %USER or " +
		"this relay, and not the senders: the host's words say why; see [[smarthost]] %ROUTE. Mail waits")
	return v
}

// judgeSender notes what the host said to MAIL. It reports whether it has refused so many senders in a row that this is
// the site's failure, which it returns.
func (h *host) judgeSender(tx *transaction) (verdict, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if tx.mail.Positive() {
		h.senders.accepted()
		return verdict{}, false
	}
	v := classifyReply(tx.place, stageMail, tx.mail)
	if v.Scope != envelope.ScopeSender || v.own || !h.senders.refuse(tx.env.ReversePath, time.Now()) {
		return v, false
	}
	return manySenders(h.place, v), true
}
