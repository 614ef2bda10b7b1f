package sevenbit

import (
	"bufio"
	"bytes"

	"relayd/internal/header"
)

// hexDigits are in upper case, as RFC 2045 section 6.7 rule 1 has them.
const hexDigits = "0123456789ABCDEF"

// lastColumn is the longest that a quoted-printable line may be and still take one more octet: with that octet as =XX and
// the = of a soft break it is then 76 long, which rule 5 allows.
const lastColumn = 72

// quoter writes the content of one part after another as quoted-printable.
type quoter struct {
	out *bufio.Writer
	// binary is set for content whose line breaks are data. The last one before a delimiter is not (RFC 2046
	// section 5.1.1), which shows only afterwards; so a line break waits in held.
	binary bool
	held   []byte
	line   []byte
	soft   bool // the line follows a soft break
	// due is set when a soft break is to come before the next octet. It is not written at once because there may be none:
	// a soft break must not be the last of a part.
	due bool
}

func (q *quoter) write(chunk []byte, first bool) error {
	content, lineEnd := header.CutLineEnd(chunk)
	if err := q.release(); err != nil {
		return err
	}
	// Lines of this part are never to look like delimiters: neither what follows a soft break, nor what did not match
	// one because of an octet that is about to change.
	dashes := first && bytes.HasPrefix(content, []byte("--"))
	for _, b := range content {
		if err := q.put(b, b == '-' && len(q.line) == 0 && (q.soft || dashes)); err != nil {
			return err
		}
		dashes = false
	}
	switch {
	case len(lineEnd) == 0:
		return nil
	case q.binary:
		q.held = append(q.held[:0], lineEnd...)
		return nil
	}
	return q.hard(lineEnd)
}

// release writes a held line break as data, with a soft break after it for the eye.
func (q *quoter) release() error {
	if len(q.held) == 0 {
		return nil
	}
	for _, b := range q.held {
		if err := q.put(b, true); err != nil {
			return err
		}
	}
	q.held, q.due = q.held[:0], true
	return nil
}

func (q *quoter) put(b byte, coded bool) error {
	if q.due || len(q.line) > lastColumn {
		q.soft, q.due = true, false
		if err := q.flush("=\r\n"); err != nil {
			return err
		}
		coded = coded || b == '-'
	}
	if coded || b < ' ' && b != '\t' || b == '=' || b > '~' {
		q.line = append(q.line, '=', hexDigits[b>>4], hexDigits[b&15])
	} else {
		q.line = append(q.line, b)
	}
	return nil
}

func (q *quoter) hard(lineEnd []byte) error {
	q.soft, q.due = false, false
	// White space must not end a line (rule 3).
	if last := len(q.line) - 1; last >= 0 && (q.line[last] == ' ' || q.line[last] == '\t') {
		b := q.line[last]
		q.line = append(q.line[:last], '=', hexDigits[b>>4], hexDigits[b&15])
	}
	return q.flush(string(lineEnd))
}

func (q *quoter) flush(lineEnd string) error {
	q.line = append(q.line, lineEnd...)
	_, err := q.out.Write(q.line)
	q.line = q.line[:0]
	return err
}

// finish ends the part.
func (q *quoter) finish() error {
	err := q.hard(q.held)
	q.held = q.held[:0]
	return err
}

// patching is how the patcher treats 8-bit octets.
type patching uint8

const (
	// mending is for content that is quoted-printable already: =XX, and soft breaks.
	mending patching = iota
	// escaping is for text that must not be encoded: =XX, and very long lines are folded.
	escaping
	// masking is for base64, where =XX would be data.
	masking
)

// foldColumn leaves an escaped line below the 998 octets of RFC 5322 section 2.1.1.
const foldColumn = 900

// patcher replaces 8-bit octets in content that else stays as it is. In that content it replaces NULs, too: where it breaks
// a line, a NUL and a dot could come to stand alone on the next. Lines with neither stay as they are.
type patcher struct {
	out  *bufio.Writer
	col  int
	hold int // octets that belong to an = before them and must stay on its line
}

func (p *patcher) write(how patching, chunk []byte, first bool) error {
	if first {
		p.col, p.hold = 0, 0
	}
	if !has8Bit(chunk) && bytes.IndexByte(chunk, 0) < 0 {
		p.col += len(chunk)
		p.hold = 2
		_, err := p.out.Write(chunk)
		return err
	}
	content, lineEnd := header.CutLineEnd(chunk)
	// White space at the end of a line says nothing in quoted-printable; a soft break in it would make it say something.
	padding := len(bytes.TrimRight(content, " \t"))
	dashes := first && bytes.HasPrefix(content, []byte("--"))
	for i, b := range content {
		coded := b >= 0x80 || b == 0 || dashes
		dashes = false
		if i < padding && p.breakLine(how) && how == mending && b == '-' {
			coded = true
		}
		p.put(how, b, coded)
	}
	_, err := p.out.Write(lineEnd)
	return err
}

// breakLine breaks the line where it has become too long, and returns whether it did.
func (p *patcher) breakLine(how patching) bool {
	switch {
	case how == mending && p.col > lastColumn && p.hold == 0:
		p.out.WriteString("=\r\n")
		p.col = 0
		return true
	case how == escaping && p.col > foldColumn:
		p.out.WriteString("\r\n ")
		p.col = 1
		return true
	}
	return false
}

// put writes one octet. A failed write shows with the line end: bufio.Writer keeps its first error.
func (p *patcher) put(how patching, b byte, coded bool) {
	p.hold = max(p.hold-1, 0)
	switch {
	case !coded:
		p.out.WriteByte(b)
		p.col++
		if b == '=' {
			p.hold = 2
		}
	case how == masking:
		p.out.WriteByte('?')
		p.col++
	default:
		p.out.Write([]byte{'=', hexDigits[b>>4], hexDigits[b&15]})
		p.col += 3
	}
}
