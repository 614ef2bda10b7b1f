package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// encodeJSON returns v as indented JSON. The standard encoder leaves DEL, C1 controls and bidirectional overrides in
// strings as they are, which is valid but moves a terminal; here they become \u escapes, which programs read the same.
func encodeJSON(v any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return escapeUnprintable(bytes.TrimRight(b.Bytes(), "\n")), nil
}

// escapeUnprintable works on JSON text: there, such a character can only stand inside a string.
func escapeUnprintable(text []byte) []byte {
	if bytes.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b bytes.Buffer
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !hidden(r):
			b.Write(text[:n])
		case r > 0xffff:
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[n:]
	}
	return b.Bytes()
}

func hidden(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

// writeJSON writes v as one JSON value on lines of its own.
func writeJSON(w io.Writer, v any) error {
	b, err := encodeJSON(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// jsonArray writes an array element by element, so that a long one is never held as a whole.
type jsonArray struct {
	w     io.Writer
	begun bool
}

func (a *jsonArray) add(v any) error {
	b, err := encodeJSON(v, "  ")
	if err != nil {
		return err
	}
	lead := ",\n  "
	if !a.begun {
		lead = "[\n  "
	}
	a.begun = true
	_, err = io.WriteString(a.w, lead+string(b))
	return err
}

func (a *jsonArray) end() error {
	text := "\n]\n"
	if !a.begun {
		text = "[]\n"
	}
	_, err := io.WriteString(a.w, text)
	return err
}
