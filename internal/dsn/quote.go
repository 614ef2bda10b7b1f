package dsn

import (
	"bytes"
	"mime/quotedprintable"
)

// Quote is how much of a message its report carries.
type Quote uint8

const (
	// QuoteHeader quotes the header section, up to maxHeader octets.
	QuoteHeader Quote = iota
	// QuoteAll quotes all of Original where every host can take that, and else the header.
	QuoteAll
)

const (
	// maxLine is the longest line that SMTP allows, in octets without its end (RFC 5321 section 4.5.3.1.6).
	maxLine = 998
	// maxHeader bounds a quoted header, in octets.
	maxHeader = 20_000
)

// part is one part of a multipart/report. Encoding is its Content-Transfer-Encoding, or "" where it needs none.
type part struct {
	kind, encoding string
	content        []byte
}

func statusPart(content []byte) part { return part{kind: "message/delivery-status", content: content} }

// textPart returns a part of a text type, quoted-printable where the text could not travel as it is. Of
// text/rfc822-headers RFC 6522 section 4 says the same.
func textPart(kind string, text []byte) part {
	if isPlain(text) {
		return part{kind: kind, content: text}
	}
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	w.Write(text) // a bytes.Buffer takes all
	w.Close()
	return part{kind: kind, encoding: "quoted-printable", content: b.Bytes()}
}

// quote returns the part that carries the original.
func quote(original []byte, q Quote) part {
	head := header(original)
	if q == QuoteAll && isPlain(head) && hasSafeLines(original) {
		p := part{kind: "message/rfc822", content: original}
		if !ascii(original) {
			p.encoding = "8bit"
		}
		return p
	}
	if len(head) > maxHeader {
		head = head[:bytes.LastIndexByte(head[:maxHeader], '\n')+1]
	}
	return textPart("text/rfc822-headers", head)
}

// header returns the header of content: all up to the empty line, or all whole lines of it.
func header(content []byte) []byte {
	end := 0
	for line := range bytes.Lines(content) {
		if text, whole := bytes.CutSuffix(line, []byte("\n")); !whole || len(bytes.TrimSuffix(text, []byte("\r"))) == 0 {
			break
		}
		end += len(line)
	}
	return content[:end]
}

// isPlain reports whether text is printable ASCII in lines that every host takes.
func isPlain(text []byte) bool {
	for _, c := range text {
		if (c < ' ' && c != '\t' && c != '\r' && c != '\n') || c > '~' {
			return false
		}
	}
	return hasSafeLines(text)
}

// hasSafeLines reports whether text has no line that SMTP does not allow, and no NUL.
func hasSafeLines(text []byte) bool {
	for line := range bytes.Lines(text) {
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		line, pair := bytes.CutSuffix(line, []byte("\r"))
		if len(line) > maxLine || whole != pair || bytes.ContainsAny(line, "\r\x00") {
			return false
		}
	}
	return true
}
