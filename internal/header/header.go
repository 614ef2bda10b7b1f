// Package header reads the header section of messages line by line, as they travel after DATA (RFC 5322 section 2.2):
// CRLF line ends, no dot-stuffing. It is what the packages that look into messages have in common; what a field means
// is theirs. A line may be of any length, and is never held as a whole.
package header

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Lines gives out a message in chunks: a line with its line end, or a piece of a line that is longer than the buffer.
type Lines struct {
	in    *bufio.Reader
	fresh bool // the next chunk starts a line
}

// NewLines returns the Lines of r, read through a buffer of size octets.
func NewLines(r io.Reader, size int) *Lines {
	return &Lines{in: bufio.NewReaderSize(r, size), fresh: true}
}

// Next returns the next chunk, which is valid until the next call, and whether it starts a line. A CR LF is never torn
// apart. At the end of the message the error is io.EOF.
func (l *Lines) Next() (chunk []byte, first bool, err error) {
	chunk, err = l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
		if last := len(chunk) - 1; chunk[last] == '\r' {
			chunk, err = chunk[:last], l.in.UnreadByte()
		}
	}
	if err == io.EOF && len(chunk) > 0 {
		err = nil
	}
	if err != nil {
		return nil, false, err
	}
	first = l.fresh
	l.fresh = chunk[len(chunk)-1] == '\n'
	return chunk, first, nil
}

// Name returns the name of the header field that line starts, and false when it starts none. White space before the
// colon is obsolete and accepted (RFC 5322 section 4.5); so are 8-bit octets, in order that they are found to be in the
// header.
func Name(line []byte) ([]byte, bool) {
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return nil, false
	}
	name = bytes.TrimRight(name, " \t")
	for _, c := range name {
		if c <= ' ' || c == 0x7f {
			return nil, false
		}
	}
	return name, len(name) > 0
}

// Value returns what follows the colon of a field, folding and line end included.
func Value(field []byte) []byte {
	_, value, _ := bytes.Cut(field, []byte(":"))
	return value
}

// IsFolded reports whether line goes on with the field of the line before it (RFC 5322 section 2.2.3).
func IsFolded(line []byte) bool { return len(line) > 0 && (line[0] == ' ' || line[0] == '\t') }

// CutLineEnd splits a chunk into its content and its line end, which is empty for a piece of a long line.
func CutLineEnd(chunk []byte) (content, lineEnd []byte) {
	content = bytes.TrimSuffix(chunk, []byte("\n"))
	if len(content) < len(chunk) {
		content = bytes.TrimSuffix(content, []byte("\r"))
	}
	return content, chunk[len(content):]
}
