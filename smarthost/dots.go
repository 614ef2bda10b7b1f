package smarthost

import (
	"bytes"
	"fmt"
	"io"

	"relayd/internal/smuggling"
)

// dotWriter writes a message's content as the body of DATA (RFC 5321 section 4.5.2): a line that begins with a dot gets
// one more, and close ends the body with exactly CRLF.CRLF. The content is not changed otherwise. Content that servers may
// read in two ways ends in an *ambiguousError, and must not get its final dot then.
type dotWriter struct {
	w io.Writer
	// last holds the last two octets written. Before the first one it is the end of the DATA command's line.
	last  [2]byte
	guard smuggling.Guard
	// err is the first failure of w, to be told from a failure of the content's reader.
	err error
}

func newDotWriter(w io.Writer) *dotWriter { return &dotWriter{w: w, last: [2]byte{'\r', '\n'}} }

var (
	dotOnLine = []byte("\n.")
	oneDot    = []byte(".")
	endOfData = []byte("\r\n.\r\n")
)

// Write writes a piece of the content.
func (d *dotWriter) Write(p []byte) (int, error) {
	if err := d.guard.Scan(p); err != nil {
		return 0, &ambiguousError{err}
	}
	rest := p
	if len(rest) > 0 && rest[0] == '.' && d.last[1] == '\n' {
		d.put(oneDot)
	}
	for d.err == nil && len(rest) > 0 {
		// Go searches this needle with vector instructions, so that the dots cost and not the octets.
		i := bytes.Index(rest, dotOnLine)
		if i < 0 {
			d.put(rest)
			break
		}
		d.put(rest[:i+1])
		d.put(oneDot)
		rest = rest[i+1:]
		// rest begins with the dot itself, which goes out with what follows it.
	}
	if d.err != nil {
		return 0, d.err
	}
	switch n := len(p); {
	case n >= 2:
		d.last = [2]byte(p[n-2:])
	case n == 1:
		d.last = [2]byte{d.last[1], p[0]}
	}
	return len(p), nil
}

// end returns an *ambiguousError if the content must not end here.
func (d *dotWriter) end() error {
	if err := d.guard.End(); err != nil {
		return &ambiguousError{err}
	}
	return nil
}

// close writes the end of the body, completing its last line where that was left open.
func (d *dotWriter) close() error {
	end := endOfData
	if d.last == [2]byte{'\r', '\n'} {
		end = endOfData[2:]
	}
	d.put(end)
	return d.err
}

// ambiguousError reports content that no host gets, because servers differ about where it ends.
type ambiguousError struct{ err error }

func (e *ambiguousError) Error() string {
	return fmt.Sprintf("%v; the relay does not send what servers read in two ways", e.err)
}

func (e *ambiguousError) Unwrap() error { return e.err }

func (d *dotWriter) put(p []byte) {
	if d.err == nil {
		_, d.err = d.w.Write(p)
	}
}
