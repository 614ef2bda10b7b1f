package rewrite

import (
	"bytes"
	"errors"
	"io"

	"relayd/internal/header"
)

const (
	// maxHead is the longest header section that is changed, in octets.
	maxHead    = 256 << 10
	bufferSize = 4 << 10
)

// kind tells the header fields that matter here from the rest.
type kind uint8

const (
	anyField kind = iota
	trace         // Received and Return-Path, as far as they stand at the top
	from
	sender
	replyTo
	date
	messageID
	dkim
	arcSignature
	arcSeal
	arcResults
	kinds
)

// fieldNames are in lower case, as a signature's h= is compared.
func (k kind) fieldName() string {
	switch k {
	case from:
		return "from"
	case sender:
		return "sender"
	case replyTo:
		return "reply-to"
	case date:
		return "date"
	case messageID:
		return "message-id"
	}
	return ""
}

// signature names what signs or seals a message.
func (k kind) signature() string {
	switch k {
	case dkim:
		return "DKIM-Signature"
	case arcSignature:
		return "ARC-Message-Signature"
	case arcSeal:
		return "ARC-Seal"
	case arcResults:
		return "ARC-Authentication-Results"
	}
	return ""
}

func kindOf(name []byte) kind {
	is := func(s string) bool { return bytes.EqualFold(name, []byte(s)) }
	switch len(name) {
	case 4:
		if is("From") {
			return from
		}
		if is("Date") {
			return date
		}
	case 6:
		if is("Sender") {
			return sender
		}
	case 8:
		switch {
		case is("Received"):
			return trace
		case is("Reply-To"):
			return replyTo
		case is("ARC-Seal"):
			return arcSeal
		}
	case 10:
		if is("Message-ID") {
			return messageID
		}
	case 11:
		if is("Return-Path") {
			return trace
		}
	case 14:
		if is("DKIM-Signature") {
			return dkim
		}
	case 21:
		if is("ARC-Message-Signature") {
			return arcSignature
		}
	case 26:
		if is("ARC-Authentication-Results") {
			return arcResults
		}
	}
	return anyField
}

// needsText reports whether the octets of the field that is being read matter, and not only where it stands.
func (h *head) needsText() bool {
	switch h.last {
	case from, sender:
		return h.authors
	case dkim, arcSignature:
		return true
	}
	return false
}

// field is a header field that matters: where it begins, its length, and its octets if they matter.
type field struct {
	kind     kind
	at, size int64
	text     []byte
}

// head is what is known of a header section.
type head struct {
	fields []field
	has    [kinds]bool
	// traceEnd is the place behind the trace fields at the top. Bare is set when nothing but those is there, and other
	// text or nothing at all follows, so that an empty line is missing. Ragged: what is before traceEnd has no line end.
	traceEnd     int64
	bare, ragged bool
	tooLong      bool

	authors bool  // the octets of From and Sender matter
	end     int64 // what was read so far
	inTrace bool
	last    kind
	open    bool // a field is being read
}

// readHead reads the header section of a message. Text that is no field ends it like an empty line, except for the
// "From " line of a mailbox file, which some programs leave at the top.
// Authors says whether the octets of From and Sender are wanted.
func readHead(r io.Reader, authors bool) (*head, error) {
	h := &head{inTrace: true, authors: authors}
	lines := header.NewLines(r, bufferSize)
	for {
		chunk, first, err := lines.Next()
		if errors.Is(err, io.EOF) {
			h.bare = h.inTrace
			return h, nil
		}
		if err != nil {
			return nil, err
		}
		if first {
			if content, _ := header.CutLineEnd(chunk); len(content) == 0 {
				return h, nil
			}
			if !h.line(chunk) {
				h.bare = h.inTrace
				return h, nil
			}
		}
		if h.end+int64(len(chunk)) > maxHead {
			h.tooLong = true
			return h, nil
		}
		h.take(chunk)
	}
}

// line notes what a line begins. It returns false when it is not of the header.
func (h *head) line(chunk []byte) bool {
	if h.open && header.IsFolded(chunk) {
		return true
	}
	name, ok := header.Name(chunk)
	if !ok {
		h.open = false
		return h.inTrace && isMailboxLine(chunk)
	}
	h.open, h.last = true, kindOf(name)
	h.has[h.last] = true
	h.inTrace = h.inTrace && h.last == trace
	if h.last > trace {
		h.fields = append(h.fields, field{kind: h.last, at: h.end})
	}
	return true
}

func isMailboxLine(line []byte) bool {
	return bytes.HasPrefix(bytes.TrimPrefix(line, []byte(">")), []byte("From "))
}

// take adds a chunk to the field that it is of.
func (h *head) take(chunk []byte) {
	h.end += int64(len(chunk))
	if h.inTrace {
		h.traceEnd = h.end
		h.ragged = chunk[len(chunk)-1] != '\n'
	}
	if !h.open || h.last <= trace {
		return
	}
	f := &h.fields[len(h.fields)-1]
	f.size += int64(len(chunk))
	if h.needsText() {
		f.text = append(f.text, chunk...)
	}
}
