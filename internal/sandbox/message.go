package sandbox

import (
	"slices"
	"strings"
	"time"
)

// Message is a message that the server kept: one that got its 250, or would have if the connection had lived.
type Message struct {
	Number     int    // counts from 1 as bodies end
	ID         string // the queue id of the reply
	Connection int    // number of the connection, as in the transcript
	Hello      string // argument of the last EHLO or HELO

	ReversePath string     // without the angle brackets; "" is the null reverse-path
	MailParams  []string   // parameters of MAIL as they were sent, such as "BODY=8BITMIME"
	Recipients  []string   // forward-paths that were accepted, without the angle brackets
	RcptParams  [][]string // parameters of RCPT, one list for each of Recipients

	// Data is the body as it was on the wire, with the dot-stuffing undone and its CRLFs: header, empty line and text.
	// It is nil with DiscardBodies. It is shared: do not write to it.
	Data   []byte
	Size   int64  // octets of the body
	SHA256 string // of the body, in hex

	TLS        bool
	TLSVersion string // such as "TLS 1.3"; "" without TLS
	ServerName string // the name of the server that the TLS client asked for (SNI); "" is none
	Client     string // the common name in the certificate that the TLS client showed; "" is none
	User       string // who had logged in; "" is nobody
	At         time.Time
	File       string // path of the .eml file; "" without Dir
}

// MailParam returns the value of the MAIL parameter of that name, and whether there was one.
func (m Message) MailParam(name string) (string, bool) { return param(m.MailParams, name) }

// RcptParam returns the value of a RCPT parameter of recipient number i, and whether there was one.
func (m Message) RcptParam(i int, name string) (string, bool) { return param(m.RcptParams[i], name) }

func param(params []string, name string) (string, bool) {
	for _, p := range params {
		if k, v, _ := strings.Cut(p, "="); strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

// Messages returns the messages kept so far, in order of arrival.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// keep stores m and its body. Only an error of the spool makes it fail.
func (s *Server) keep(m Message, body []byte) (Message, error) {
	file, err := s.spool.write(m, body)
	if err != nil {
		return m, err
	}
	m.File = file
	if !s.opts.DiscardBodies {
		m.Data = body
	}
	s.mu.Lock()
	s.stats.Messages++
	s.stats.Bytes += m.Size
	s.messages = append(s.messages, m)
	s.notify()
	s.mu.Unlock()
	if s.opts.OnMessage != nil {
		s.opts.OnMessage(m)
	}
	return m, nil
}

// nextNumber returns the number for the next message that arrives.
func (s *Server) nextNumber() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived++
	return s.arrived
}
