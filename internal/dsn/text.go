package dsn

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds a piece of foreign text in a report, in octets.
const maxText = 2000

// maxWord is the longest piece of foreign text without a space that stays in one piece, in octets.
const maxWord = 900

// clean makes foreign text safe to stand on one line: what is not printable becomes a question mark, line ends
// become spaces, and it is cut at maxText octets.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// plain is clean in ASCII, for fields that programs read: other characters are written as in RFC 6533's
// utf-8-addr-xtext, \x{E9}.
func plain(s string) string {
	var b strings.Builder
	for _, r := range clean(s) {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\x{%X}", r)
		}
	}
	return b.String()
}

// wrap breaks s at spaces into lines of at most width octets where it can, and in the middle of a word before the 998
// octets that a line may have (RFC 5322 section 2.1.1).
func wrap(s string, width int) []string {
	var lines []string
	var line string
	for word := range strings.FieldsSeq(s) {
		for len(word) > maxWord {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			cut := maxWord
			for cut > 0 && !utf8.RuneStart(word[cut]) {
				cut--
			}
			lines, word = append(lines, word[:cut]), word[cut:]
		}
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// folded writes a header field, folded at spaces (RFC 5322 section 2.2.3).
func folded(b *bytes.Buffer, field string) {
	for i, l := range wrap(field, 76) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(b, "%s\r\n", l)
	}
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// decodeXtext decodes RFC 3461 section 4 xtext; what is not valid stays as it is.
func decodeXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
