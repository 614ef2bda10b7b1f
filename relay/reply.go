package relay

import (
	"errors"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"relayd/internal/envelope"
)

// maxReplyText keeps a reply line within the 512 octets of RFC 5321 section 4.5.3.1.5.
const maxReplyText = 480

// reply makes a Reply from the digits of its enhanced status code, whose class is the code's.
func reply(code, subject, detail int, text string) envelope.Reply {
	return envelope.Reply{Code: code, Enhanced: envelope.EnhancedCode{code / 100, subject, detail}, Text: text}
}

// replyFor returns what a client is told about an error: the Reply in its chain, or that the relay is in trouble.
// A Reply that is no refusal cannot be the answer to an error.
func replyFor(err error) envelope.Reply {
	if r, ok := errors.AsType[envelope.Reply](err); ok && (r.Temporary() || r.Permanent()) {
		return r
	}
	return reply(451, 3, 0, "the relay cannot take the message now; try again later")
}

// appendReply appends r as it stands on the wire.
func appendReply(dst []byte, r envelope.Reply) []byte {
	lines := strings.Split(r.Text, "\n")
	for i, text := range lines {
		dst = strconv.AppendInt(dst, int64(r.Code), 10)
		if i < len(lines)-1 {
			dst = append(dst, '-')
		} else {
			dst = append(dst, ' ')
		}
		if e := r.Enhanced.String(); e != "" {
			dst = append(append(dst, e...), ' ')
		}
		dst = append(append(dst, words(text)...), '\r', '\n')
	}
	return dst
}

// libraryReply returns r as the library takes it from a session's methods.
func libraryReply(r envelope.Reply) *smtp.SMTPError {
	lines := strings.Split(r.Text, "\n")
	for i := range lines {
		lines[i] = words(lines[i])
	}
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: smtp.EnhancedCode(r.Enhanced), Message: strings.Join(lines, "\n")}
}

// words makes foreign text fit for one line of a reply: printable US-ASCII, and no longer than a reply may be.
func words(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ':
			return ' '
		case r > '~':
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxReplyText)]
}
