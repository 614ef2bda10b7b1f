package smarthost

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"

	"relayd/internal/envelope"
)

// What a host may send in one reply. RFC 5321 section 4.5.3.1.5 allows lines of 512 octets; real hosts send longer ones.
const (
	maxReplyLine  = 4 << 10
	maxReplyLines = 100
	// maxReplyText is how much of a reply is kept, and so what one can cost in the queue, the log and a report.
	maxReplyText = 8 << 10
)

var (
	errReplyLine  = errors.New("it sent a reply line of more than 4 KiB")
	errReplyLines = errors.New("it sent a reply of more than 100 lines")
)

// notSMTPError is a line that cannot be read as a reply (RFC 5321 section 4.2).
type notSMTPError struct{ line string }

func (e *notSMTPError) Error() string {
	return fmt.Sprintf("it answered %.80q, which is not an SMTP reply", e.line)
}

// readReply reads one reply, of one line or several. The text comes without codes, its lines joined by "\n", cleaned of
// control characters, and cut at maxReplyText. The reader's buffer must hold maxReplyLine octets.
func readReply(br *bufio.Reader) (envelope.Reply, error) {
	var reply envelope.Reply
	var text strings.Builder
	for range maxReplyLines {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply, errReplyLine
		}
		if err != nil {
			return reply, err
		}
		line = bytes.TrimRight(line, "\r\n")
		code, more, ok := cutCode(line)
		if !ok || reply.Code != 0 && code != reply.Code {
			return reply, &notSMTPError{line: cleanText(line)}
		}
		first := reply.Code == 0
		reply.Code = code
		addLine(&reply, &text, line[min(len(line), 4):], first)
		if !more {
			reply.Text = text.String()
			return reply, nil
		}
	}
	return reply, errReplyLines
}

// cutCode reads the code of a reply line, and whether another line follows.
func cutCode(line []byte) (code int, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = code*10 + int(c-'0')
	}
	switch {
	case len(line) == 3 || line[3] == ' ':
		return code, false, true
	case line[3] == '-':
		return code, true, true
	}
	return 0, false, false
}

// addLine adds a reply line's text, without an enhanced status code of the reply's class (RFC 2034 section 4).
func addLine(reply *envelope.Reply, text *strings.Builder, line []byte, first bool) {
	s := cleanText(line)
	if len(s) > 2 && s[1] == '.' && int(s[0]-'0') == reply.Code/100 {
		if e, rest, ok := envelope.ParseEnhancedCode(s); ok {
			if reply.Enhanced == (envelope.EnhancedCode{}) {
				reply.Enhanced = e
			}
			if e == reply.Enhanced {
				s = rest
			}
		}
	}
	if !first {
		s = "\n" + s
	}
	if room := maxReplyText - text.Len(); len(s) > room {
		s = strings.ToValidUTF8(s[:room], "")
	}
	text.WriteString(s)
}

// cleanText makes a peer's words fit for a log, a terminal and a report: control characters become spaces, and what is
// not UTF-8 a replacement character.
func cleanText(b []byte) string {
	plain := true
	for _, c := range b {
		if c < ' ' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return string(b)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || 0x7f <= r && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "\ufffd"))
}
