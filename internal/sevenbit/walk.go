package sevenbit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"relayd/internal/header"
)

const (
	bufferSize = 16 << 10
	// maxField is how much of a header field is looked at, as Postfix has it (header_size_limit).
	maxField = 100 << 10
	// maxDepth is how many entities may stand around one another (Postfix: mime_nesting_limit).
	maxDepth = 100
	maxParts = 1 << 20
	// maxBoundary is what fits a line. RFC 2046 wants 70, but longer ones are seen.
	maxBoundary = 990
)

// visitor is told of a message from its first octet to its last. A chunk is a line with its line end, or a piece of
// a line that is longer than the buffer; it is valid during the call.
type visitor interface {
	begin(e *entity) error
	// field gets a piece of a header field; start is set with the first.
	field(e *entity, kind fieldKind, chunk []byte, start bool) error
	// endHeader gets the empty line after the header, or nothing when other text ended it.
	endHeader(e *entity, blank []byte) error
	// body gets content of e itself, not that of entities in it; first is set when the chunk starts a line.
	body(e *entity, chunk []byte, first bool) error
	end(e *entity) error
	delimiter(chunk []byte) error
}

// walker finds the entities of a message, in the same way each time.
type walker struct {
	in    *header.Lines
	to    visitor
	stack []*entity
	parts int
	line  int
	// inHeader is set while the innermost entity's header lasts.
	inHeader bool

	// The field that is being read: its kind, its name, and its text where that matters.
	name     string
	kind     fieldKind
	value    []byte
	media    mediaType
	wantText bool
}

func walk(r io.Reader, to visitor) error {
	w := &walker{in: header.NewLines(r, bufferSize), to: to}
	if err := w.push(&entity{message: true}); err != nil {
		return err
	}
	for {
		chunk, first, err := w.in.Next()
		if err == io.EOF {
			return w.placed(w.pop(0))
		}
		if err != nil {
			return err
		}
		if first {
			w.line++
		}
		if err := w.take(chunk, first); err != nil {
			return w.placed(err)
		}
	}
}

// placed adds the line to a fault of the content.
func (w *walker) placed(err error) error {
	if errors.Is(err, ErrHeader8Bit) || errors.Is(err, ErrUnencodable) {
		return fmt.Errorf("line %d: %w", w.line, err)
	}
	return err
}

func (w *walker) take(chunk []byte, first bool) error {
	for {
		if first {
			if i, closing := w.match(chunk); i >= 0 {
				return w.delimit(i, closing, chunk)
			}
		}
		if !w.inHeader {
			return w.to.body(w.top(), chunk, first)
		}
		// What ends a header without an empty line may be the first delimiter of the multipart that the header is of.
		taken, err := w.header(chunk, first)
		if taken || err != nil {
			return err
		}
	}
}

func (w *walker) top() *entity { return w.stack[len(w.stack)-1] }

// match returns the place of the multipart whose delimiter line is, or -1, and whether it is the closing delimiter. The
// whole line counts, padding apart, as it does with readers of mail; so a boundary that another one starts with is no
// trouble (RFC 2046 section 5.1.1).
func (w *walker) match(line []byte) (int, bool) {
	if !bytes.HasPrefix(line, []byte("--")) {
		return -1, false
	}
	line = bytes.TrimRight(line[2:], " \t\r\n")
	for i := len(w.stack) - 1; i >= 0; i-- {
		e := w.stack[i]
		if e.boundary == nil || e.closed {
			continue
		}
		if rest, ok := bytes.CutPrefix(line, e.boundary); ok {
			switch string(rest) {
			case "":
				return i, false
			case "--":
				return i, true
			}
		}
	}
	return -1, false
}

// delimit ends what stands inside the multipart at place i, also where a delimiter of its own is missing.
func (w *walker) delimit(i int, closing bool, chunk []byte) error {
	if err := w.pop(i + 1); err != nil {
		return err
	}
	if err := w.to.delimiter(chunk); err != nil {
		return err
	}
	e := w.top()
	e.opened, e.closed = true, closing
	w.inHeader = false
	if closing {
		return nil
	}
	return w.push(&entity{inDigest: e.digest})
}

func (w *walker) push(e *entity) error {
	if len(w.stack) > maxDepth {
		return fmt.Errorf("parts are nested more than %d deep: %w", maxDepth, ErrUnencodable)
	}
	if w.parts == maxParts {
		return fmt.Errorf("more than %d parts: %w", maxParts, ErrUnencodable)
	}
	e.index = w.parts
	w.parts++
	if len(w.stack) > 0 {
		e.parent = w.top()
	}
	w.stack = append(w.stack, e)
	w.inHeader, w.name, w.kind, w.wantText, w.media = true, "", anyField, false, mediaType{}
	return w.to.begin(e)
}

// pop ends entities until n are left.
func (w *walker) pop(n int) error {
	for len(w.stack) > n {
		e := w.top()
		w.stack = w.stack[:len(w.stack)-1]
		if err := w.to.end(e); err != nil {
			return err
		}
	}
	return nil
}

// header takes a chunk while the header lasts. It returns false when the chunk is no part of it and so ended it.
func (w *walker) header(chunk []byte, first bool) (bool, error) {
	start := false
	if first {
		if content, _ := header.CutLineEnd(chunk); len(content) == 0 {
			return true, w.endHeader(chunk)
		}
		if w.name == "" || !header.IsFolded(chunk) {
			name, ok := header.Name(chunk)
			if !ok {
				return false, w.endHeader(nil)
			}
			start = true
			w.endField()
			w.startField(string(name))
		}
	}
	if has8Bit(chunk) {
		return false, fmt.Errorf("header field %.40q: %w", w.name, ErrHeader8Bit)
	}
	if w.wantText {
		w.value = append(w.value, chunk[:min(len(chunk), maxField-len(w.value))]...)
	}
	return true, w.to.field(w.top(), w.kind, chunk, start)
}

// startField notes which field begins. Of fields that should stand once the first counts.
func (w *walker) startField(name string) {
	e := w.top()
	w.name, w.kind, w.value = name, kindOf(name), w.value[:0]
	switch w.kind {
	case mimeVersion:
		e.hasVersion = true
	case contentType:
		w.wantText = !e.hasType
		e.hasType = true
	case transferEncoding:
		w.wantText = !e.hasEncoding
		e.hasEncoding = true
	}
}

func (w *walker) endField() {
	if !w.wantText {
		return
	}
	w.wantText = false
	switch w.kind {
	case contentType:
		w.media = parseMediaType(w.value)
	case transferEncoding:
		w.top().label = parseLabel(w.value)
	}
}

func (w *walker) endHeader(blank []byte) error {
	w.endField()
	e := w.top()
	e.classify(w.media)
	w.inHeader = false
	if err := w.to.endHeader(e, blank); err != nil || e.class != classMessage {
		return err
	}
	return w.push(&entity{message: true})
}

func has8Bit(b []byte) bool {
	const high = 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&high != 0 {
			return true
		}
	}
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
