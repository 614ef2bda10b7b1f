package relay

import (
	"bytes"
	"crypto/tls"
	"net/netip"
	"strings"
	"time"

	"relayd/internal/envelope"
)

// trace returns the Received field that goes before the content (RFC 5321 section 4.4). The recipient is named only
// when there is one, so that no recipient learns of another (section 7.6). The cipher clause is RFC 8314 section 4.3's.
func trace(env envelope.Envelope, o envelope.Origin, hostname, id string, state *tls.ConnectionState, at time.Time) []byte {
	var b bytes.Buffer
	b.WriteString("Received: from " + o.Helo + " (" + literal(o.Addr) + ")\r\n")
	b.WriteString("\tby " + hostname + " with " + o.Protocol + " id " + id)
	if len(env.Recipients) == 1 {
		b.WriteString("\r\n\tfor " + env.Recipients[0].Path.String())
	}
	if state != nil {
		b.WriteString("\r\n\ttls " + tls.CipherSuiteName(state.CipherSuite))
	}
	b.WriteString(";\r\n\t" + at.Format(time.RFC1123Z) + "\r\n")
	return b.Bytes()
}

// literal returns a as an address literal (RFC 5321 section 4.1.3).
func literal(a netip.Addr) string {
	if a.Is6() {
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}

// protocol returns the "with" word of RFC 3848 and RFC 6531 section 3.7.3.
func protocol(esmtp, overTLS, utf8 bool) string {
	word := "SMTP"
	switch {
	case utf8:
		word = "UTF8SMTP"
	case esmtp:
		word = "ESMTP"
	default:
		return word // no word is registered for HELO over TLS
	}
	if overTLS {
		word += "S"
	}
	return word
}

// traceAtom returns a name as it may stand in a header field and a log: whatever is no part of a domain or an address
// literal becomes "?".
func traceAtom(name string) string {
	if name == "" {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("-._:[]", r):
			return r
		}
		return '?'
	}, name)
}

// hopCounter counts the Received fields in a message's header. It is fed the content as it passes.
type hopCounter struct {
	count int
	done  bool // the header is over
	head  [9]byte
	n     int // how much of the line's start is in head
}

func (h *hopCounter) scan(p []byte) {
	for !h.done && len(p) > 0 {
		lf := bytes.IndexByte(p, '\n')
		line := p
		if lf >= 0 {
			line = p[:lf]
		}
		h.n += copy(h.head[h.n:], line)
		if lf < 0 {
			return
		}
		switch {
		case h.n == len(h.head) && strings.EqualFold(string(h.head[:]), "received:"):
			h.count++
		case h.n == 1: // the CR of an empty line
			h.done = true
		}
		h.n, p = 0, p[lf+1:]
	}
}
