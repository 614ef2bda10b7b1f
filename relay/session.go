package relay

import (
	"errors"
	"fmt"
	"io"

	"github.com/emersion/go-smtp"

	"relayd/internal/envelope"
)

// session is the mail transaction of one connection. It is the library's smtp.Session; the guard asks it what is in
// order, and hands it what it parsed from the line that the library runs. One goroutine has both.
type session struct {
	guard *guard
	helo  string // "" before EHLO or HELO
	esmtp bool

	offered   envelope.Envelope  // from the MAIL command that the library is running
	candidate envelope.Recipient // from its RCPT command

	held, borrowed int64 // octets that the recipients take in memory, and those of them that are from the pool
	offeredRoom    int64 // held, once candidate is a recipient

	active  bool // MAIL was accepted
	env     envelope.Envelope
	message *message // open from DATA or the first BDAT on
}

func (s *session) greet(name string, esmtp bool) { s.helo, s.esmtp = name, esmtp }

// Mail begins a transaction. The library's idea of the address is not used.
func (s *session) Mail(string, *smtp.MailOptions) error {
	s.env, s.offered, s.active = s.offered, envelope.Envelope{}, true
	s.guard.peer.achieved(commandWorth)
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(string, *smtp.RcptOptions) error {
	s.env.Recipients = append(s.env.Recipients, s.candidate)
	s.held = s.offeredRoom
	s.guard.peer.achieved(commandWorth)
	return nil
}

// Reset ends the transaction. A message that is not committed by then is aborted.
func (s *session) Reset() {
	m := s.message
	s.active, s.env, s.message = false, envelope.Envelope{}, nil
	s.letGo()
	if m != nil {
		m.abort()
	}
}

// Logout ends the session.
func (s *session) Logout() error {
	s.Reset()
	return nil
}

// Data takes a body after the library's 354. It reads from the guard; the library's reader, which would pass bare CR
// and LF, miss some ends and stop at lines too long for it, gets an empty body to read to its end.
func (s *session) Data(io.Reader) error {
	return libraryReply(s.attempt(func() envelope.Reply {
		m := s.message
		if err := s.guard.readBody(m); err != nil {
			return s.broken(err)
		}
		s.guard.hand = dotEnd
		return s.settle(m)
	}))
}

// attempt runs what may panic in the queue or here. The answer to a panic is never a 250, and the session is over.
func (s *session) attempt(f func() envelope.Reply) (r envelope.Reply) {
	defer func() {
		if v := recover(); v != nil {
			s.guard.peer.logPanic(v)
			s.guard.ended = true
			r = reply(421, 3, 0, "the relay failed to take the message; try again later")
			s.Reset()
		}
	}()
	return f()
}

// open begins a message in the queue. The refusal is zero when it is open.
func (s *session) open(chunked bool) envelope.Reply {
	return s.attempt(func() envelope.Reply {
		p := s.guard.peer
		o := envelope.Origin{Addr: p.addr, Helo: s.helo, Protocol: protocol(s.esmtp, s.guard.tls != nil, s.env.UTF8)}
		w, err := p.terms.set.Begin(s.env, o)
		if err != nil {
			r := replyFor(err)
			s.refused(r, err)
			return r
		}
		m := newMessage(w, p.maxSize, p.srv.tune.hops)
		m.scan.chunked = chunked
		m.trace(s.env, o, p.terms.set.Hostname, s.guard.tls)
		if !m.refusal.IsZero() {
			s.refused(m.refusal, m.cause)
			return m.refusal
		}
		s.message = m
		return envelope.Reply{}
	})
}

// settle ends a message whose body is complete, and says what the client is told.
func (s *session) settle(m *message) envelope.Reply {
	r, err := m.commit(s.guard.peer.srv.work)
	if !r.Positive() {
		s.refused(r, err)
		return r
	}
	s.guard.tally = tally{}
	s.guard.peer.achieved(s.guard.peer.srv.tune.stale / 2)
	return r
}

// broken ends a session whose body did not come to its end: what follows on the wire is nobody's to interpret.
func (s *session) broken(err error) envelope.Reply {
	g, m := s.guard, s.message
	g.ended = true
	m.abort()
	var r envelope.Reply
	switch {
	case errors.Is(err, errDoubledCR):
		g.sending = true
		r = reply(550, 6, 0, "the message has a CR without LF: its lines end in CR CR LF, which the client makes when it turns "+
			"LF into CR LF twice; let it send CR LF; closing")
	case errors.Is(err, errBareCR):
		g.sending = true
		r = reply(550, 6, 0, "the message has a CR without LF; its lines must end in CRLF; closing")
	case errors.Is(err, errNoEnd):
		g.sending = true
		r, err = m.refusal, errors.Join(m.cause, err)
	case errors.Is(err, errCrowded):
		r = crowded
	case errors.Is(err, errTooSlow):
		r = reply(421, 4, 2, "the message came too slowly; closing")
	default:
		r = reply(421, 4, 2, "the connection was lost before the end of the message")
	}
	s.refused(r, err)
	return r
}

// refused logs a message that was not taken. A nil err means that the reply says it all. A reply 421 ends the session
// (RFC 5321 section 3.8).
func (s *session) refused(r envelope.Reply, err error) {
	if r.Code == 421 {
		s.guard.ended = true
	}
	attrs := []any{"helo", s.helo, "from", s.env.ReversePath.String(), "recipients", len(s.env.Recipients),
		"reply", r.String()}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.guard.peer.warn(several, "message refused", fmt.Sprint(r.Code, r.Enhanced), attrs...)
}
