package relay

import (
	"fmt"
	"strconv"
	"strings"

	"relayd/internal/envelope"
)

// bdat serves BDAT (RFC 3030), which the library would read in a goroutine of its own and take for complete when the
// connection ends inside the last chunk. The library hears of it as the RSET that the end of a transaction amounts to;
// its reply to that is swapped for the reply to the chunk.
func (g *guard) bdat(arg string) string {
	n, last, ok := parseBdat(arg)
	if !ok {
		// Where the chunk ends, and commands begin again, cannot be known.
		g.expel(reply(501, 5, 4, "write BDAT and a number of octets, and LAST or nothing; closing"), "malformed BDAT")
		return ""
	}
	if n < smallChunk && !last {
		g.tally.idle++
	}
	over := false
	r := g.session.attempt(func() (r envelope.Reply) {
		r, over = g.session.chunk(n, last)
		return r
	})
	if g.ended || !over {
		g.say(r)
		return ""
	}
	g.swap = swap{code: "250", with: appendReply(nil, r)}
	return "RSET"
}

// parseBdat parses a chunk size in octets and the word LAST.
func parseBdat(arg string) (n int64, last, ok bool) {
	size, word, more := strings.Cut(arg, " ")
	last = strings.EqualFold(strings.TrimLeft(word, " "), "LAST")
	if (more && !last) || strings.Trim(size, "0123456789") != "" {
		return 0, false, false
	}
	n, err := strconv.ParseInt(size, 10, 64)
	return n, last, err == nil
}

// chunk reads one chunk. over is true when the transaction has ended, well or not; the chunks that a client has
// already sent behind a failed one are then refused for want of a transaction (RFC 3030 section 2).
func (s *session) chunk(n int64, last bool) (r envelope.Reply, over bool) {
	raw := n
	if s.message != nil {
		raw += s.message.raw
	}
	switch {
	case !s.active:
		return s.refuseChunk(n, reply(503, 5, 1, "say MAIL first")), false
	case len(s.env.Recipients) == 0:
		return s.refuseChunk(n, reply(503, 5, 1, "no valid recipients")), false
	case raw > s.guard.peer.maxSize || raw < n:
		r = tooLarge(s.guard.peer.maxSize)
		s.refused(r, nil)
		return s.refuseChunk(n, r), true
	case s.message == nil:
		if r := s.open(true); !r.IsZero() {
			return s.refuseChunk(n, r), true
		}
	}
	m := s.message
	m.raw = raw
	if err := s.guard.readChunk(m, n); err != nil {
		return s.broken(err), true
	}
	if last && m.refusal.IsZero() {
		rest, err := m.scan.finish()
		if err != nil {
			return s.broken(err), true
		}
		m.write(rest)
	}
	if last || !m.refusal.IsZero() {
		return s.settle(m), true
	}
	return reply(250, 0, 0, fmt.Sprintf("%d octets received", n)), false
}

// refuseChunk answers r after reading the chunk, which follows its command also when that is refused. One that is too
// long to be read for nothing costs the connection.
func (s *session) refuseChunk(n int64, r envelope.Reply) envelope.Reply {
	g := s.guard
	if g.ended {
		return r
	}
	if n > g.peer.srv.tune.drain {
		g.ended, g.sending = true, true
		return r
	}
	if err := g.skip(n, new(lag)); err != nil {
		g.ended = true
		return reply(421, 4, 2, "the connection was lost or too slow inside a chunk")
	}
	return r
}
