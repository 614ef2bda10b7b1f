package sandbox

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// body is what follows DATA, with the dot-stuffing undone.
type body struct {
	limit  int64 // octets; less than 0 is none
	keep   bool
	data   []byte
	size   int64
	lines  int
	sum    hash.Hash
	over   bool    // the limit was passed, and data is incomplete
	text   bool    // the header is over
	eight  [2]bool // octets beyond ASCII are in the header, in the text
	header []byte
	head   []string
	faults map[string]*flaw

	start  bool // at the beginning of a line
	length int  // octets of the line so far, the stuffed dot not counted
	cr     bool // the last octet was a CR
}

// flaw is one kind of violation within a body.
type flaw struct{ first, times int }

// The kinds of flaw in a body.
const (
	flawLF   = "a bare LF (RFC 5321 section 2.3.8)"
	flawCR   = "a bare CR (RFC 5321 section 2.3.8)"
	flawNUL  = "a NUL (RFC 5321 section 2.3.8)"
	flawLong = "a line over 1000 octets (RFC 5321 section 4.5.3.1.6)"
	flawDot  = "a line that begins with a single dot (RFC 5321 section 4.5.2)"
)

// Bounds of what the transcript shows of a body, of a line, and of what is kept to match faults against.
const (
	headLines  = 8
	headLength = 100
	maxText    = 1000 // octets of a line, CRLF included
	maxHeader  = bufferSize
)

func newBody(limit int64, keep bool) *body {
	return &body{limit: limit, keep: keep, sum: sha256.New(), faults: map[string]*flaw{}, start: true}
}

// add takes in the next piece of the wire, which ends with a LF or is a part of a longer line. It returns true when the
// piece is the final dot, which only CRLF dot CRLF is.
func (b *body) add(piece []byte) (end bool) {
	if b.start && string(piece) == ".\r\n" {
		return true
	}
	if b.start && piece[0] == '.' {
		if len(piece) > 1 && piece[1] != '.' {
			b.flaw(flawDot)
		}
		piece = piece[1:]
	}
	if b.start && len(b.head) < headLines {
		b.head = append(b.head, string(piece[:min(len(piece), headLength)]))
	}
	b.inspect(piece)
	b.store(piece)
	return false
}

// inspect looks for octets that must not be there and follows the lines.
func (b *body) inspect(piece []byte) {
	b.start = false
	for _, o := range piece {
		b.length++
		switch {
		case o == '\n' && b.cr:
			if b.length > maxText {
				b.flaw(flawLong)
			}
			b.text = b.text || b.length == len("\r\n")
			b.start, b.length = true, 0
			b.lines++
		case o == '\n':
			b.flaw(flawLF)
		case b.cr:
			b.flaw(flawCR)
		}
		if o == 0 {
			b.flaw(flawNUL)
		}
		b.cr = o == '\r'
		if o >= 0x80 {
			b.markEight()
		}
	}
}

func (b *body) markEight() {
	if b.text {
		b.eight[1] = true
	} else {
		b.eight[0] = true
	}
}

func (b *body) flaw(kind string) {
	f := b.faults[kind]
	if f == nil {
		f = &flaw{first: b.lines + 1}
		b.faults[kind] = f
	}
	f.times++
}

func (b *body) store(piece []byte) {
	b.size += int64(len(piece))
	b.sum.Write(piece)
	if !b.text && len(b.header) < maxHeader {
		b.header = append(b.header, piece...)
	}
	if b.limit >= 0 && b.size > b.limit {
		b.over, b.data = true, nil
	}
	if b.keep && !b.over {
		b.data = append(b.data, piece...)
	}
}

// check records what is wrong with a whole body.
func (b *body) check(c *session, tx *transaction) {
	for _, kind := range []string{flawLF, flawCR, flawNUL, flawLong, flawDot} {
		if f := b.faults[kind]; f != nil {
			c.violation("body: %s, first in line %d, %d in all", kind, f.first, f.times)
		}
	}
	declared, _ := param(tx.mailParams, "BODY")
	_, utf8 := param(tx.mailParams, "SMTPUTF8")
	eight := strings.EqualFold(declared, "8BITMIME")
	if b.eight[0] && !eight && !utf8 {
		c.violation("header: octets beyond ASCII without SMTPUTF8 or BODY=8BITMIME (RFC 6531 section 3.6)")
	}
	if b.eight[1] && !eight {
		c.violation("body: octets beyond ASCII without BODY=8BITMIME (RFC 6152 section 3)")
	}
}

// readBody reads up to the final dot. A fault that is not nil strikes when its octets have passed; answered is then true
// if it gave the reply to this body.
func (c *session) readBody(b *body, f *armed) (answered bool, err error) {
	for {
		piece, err := c.wire.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false, err
		}
		end := b.add(piece)
		if f != nil && (end || b.size >= f.After && b.size > 0) {
			reply, err := c.sufferInBody(f)
			if err != nil {
				return false, err
			}
			answered, f = answered || reply, nil
			if reply {
				b.keep, b.data = false, nil
			}
		}
		if end {
			c.showBody(b)
			if c.wire.behind() && !c.offers("PIPELINING") {
				c.violation("more was sent behind the final dot, but PIPELINING was not offered")
			}
			return answered, nil
		}
	}
}

func (c *session) sufferInBody(f *armed) (replied bool, err error) {
	reply, err := c.suffer(f)
	if err != nil || reply == "" {
		return false, err
	}
	if _, _, err := c.conclude(f, reply, reply); err != nil {
		return false, err
	}
	return true, c.wire.w.Flush()
}

// showBody writes the beginning of a body to the transcript.
func (c *session) showBody(b *body) {
	if c.server.opts.Transcript == nil {
		return
	}
	for _, line := range b.head {
		c.server.log.line(c.number, client, line)
	}
	if b.lines > len(b.head) {
		c.server.log.line(c.number, client, fmt.Sprintf("... (%d lines, %d octets in all)", b.lines, b.size))
	}
	c.server.log.line(c.number, client, ".")
}
