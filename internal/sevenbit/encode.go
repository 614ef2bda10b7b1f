package sevenbit

import (
	"bufio"
	"errors"
	"io"
)

// errChanged stands between a plan that does not fit the content and raw 8-bit octets on the wire.
var errChanged = errors.New("the content is not what was read before; it must not change between the two readings")

// Encode writes the content of r to w as 7-bit. r must give what [Scan] read, which is checked as far as 8-bit octets
// go. The error is that of reading r or of writing to w, which may then have got a part of the content.
func (p *Plan) Encode(w io.Writer, r io.Reader) error {
	out := bufio.NewWriterSize(w, bufferSize)
	e := &encoder{plan: p, out: out, quoter: quoter{out: out}, patcher: patcher{out: out}}
	if err := walk(r, e); err != nil {
		return err
	}
	return out.Flush()
}

// encoder writes a message as the plan says.
type encoder struct {
	plan     *Plan
	out      *bufio.Writer
	quoter   quoter
	patcher  patcher
	replaced bool // the innermost entity's Content-Transfer-Encoding is written
}

func (c *encoder) begin(e *entity) error {
	if e.index >= len(c.plan.verdicts) {
		return errChanged
	}
	c.replaced = false
	return nil
}

func (c *encoder) verdict(e *entity) verdict { return c.plan.verdicts[e.index] }

// raw writes what stays as it is.
func (c *encoder) raw(chunk []byte) error {
	if has8Bit(chunk) {
		return errChanged
	}
	_, err := c.out.Write(chunk)
	return err
}

func (c *encoder) field(e *entity, kind fieldKind, chunk []byte, _ bool) error {
	v := c.verdict(e)
	if kind != transferEncoding || v == keep || v == touch {
		return c.raw(chunk)
	}
	// The field with its folded lines is replaced by one; a second field could only contradict it.
	if c.replaced {
		return nil
	}
	c.replaced = true
	return c.writeLabel(v)
}

func (c *encoder) writeLabel(v verdict) error {
	name := "quoted-printable"
	if v == relabel {
		name = "7bit"
	}
	_, err := c.out.WriteString("Content-Transfer-Encoding: " + name + "\r\n")
	return err
}

// endHeader adds the fields that the content now needs.
func (c *encoder) endHeader(e *entity, blank []byte) error {
	v := c.verdict(e)
	if v == keep {
		return c.raw(blank)
	}
	var add string
	if e.message && !e.hasVersion {
		add = "MIME-Version: 1.0\r\n"
		if v == quote && !e.hasType {
			add += "Content-Type: text/plain; charset=unknown-8bit\r\n"
		}
	}
	if _, err := c.out.WriteString(add); err != nil {
		return err
	}
	if v == quote && !e.hasEncoding {
		if err := c.writeLabel(v); err != nil {
			return err
		}
	}
	if blank == nil {
		blank = []byte("\r\n")
	}
	c.quoter.binary = e.class == classOther
	return c.raw(blank)
}

func (c *encoder) body(e *entity, chunk []byte, first bool) error {
	switch v := c.verdict(e); {
	case v == keep:
		return c.raw(chunk)
	case v == quote:
		return c.quoter.write(chunk, first)
	case e.class == classMultipart, e.class == classReport:
		return c.patcher.write(escaping, chunk, first)
	case e.label == labelBase64:
		return c.patcher.write(masking, chunk, first)
	}
	return c.patcher.write(mending, chunk, first)
}

func (c *encoder) end(e *entity) error {
	if c.verdict(e) == quote {
		return c.quoter.finish()
	}
	return nil
}

func (c *encoder) delimiter(chunk []byte) error { return c.raw(chunk) }
