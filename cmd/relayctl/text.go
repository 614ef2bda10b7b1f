package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Addresses, replies and message content were written by strangers. Whatever is shown on a terminal goes through clean
// or cleanText, so that nobody can move the cursor, set the window's title or turn the reading direction from afar.

// clean returns s on one line: line ends and tabs become spaces, and what a terminal could take for a command is shown
// as an escape such as \x1b or \u202e.
func clean(s string) string {
	if isPlain(s) {
		return s
	}
	return neutralise(oneLine.Replace(s), false)
}

var oneLine = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ")

// cleanText is clean for a text of several lines, whose line feeds and tabs stay.
func cleanText(s string) string {
	return neutralise(strings.ReplaceAll(s, "\r\n", "\n"), true)
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func neutralise(s string, lines bool) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case lines && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		case r < 0x80 && unicode.IsControl(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		case r == '\u00a0':
			b.WriteRune(' ')
		case !unicode.IsPrint(r): // C1 controls, bidirectional overrides, zero-width and private characters, other spaces
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// cleanWriter passes text on to a terminal as cleanText shows it. A character that comes in two parts is put together
// again; Flush shows what is left of one that never ended.
type cleanWriter struct {
	w    io.Writer
	rest []byte
}

func (c *cleanWriter) Write(p []byte) (int, error) {
	text := append(c.rest, p...)
	end := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if tail := text[len(text)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) || tail[0] == '\r' {
				end -= i
			}
			break
		}
	}
	c.rest = append([]byte(nil), text[end:]...)
	if _, err := io.WriteString(c.w, cleanText(string(text[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *cleanWriter) Flush() error {
	_, err := io.WriteString(c.w, cleanText(string(c.rest)))
	c.rest = nil
	return err
}

// width returns how many columns of a terminal s takes: none for marks that combine, two for East Asian and emoji.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case isWide(r):
		return 2
	}
	return 1
}

// isWide follows the W and F classes of Unicode's EastAsianWidth, in blocks rather than to the letter.
func isWide(r rune) bool {
	switch {
	case r < 0x1100:
		return false
	case r <= 0x115f, // Hangul Jamo
		r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf, // CJK, Kana, Yi
		r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff, // Hangul, CJK compatibility
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1f6ff, r >= 0x1f900 && r <= 0x1faff, // emoji
		r >= 0x20000 && r <= 0x3fffd:
		return true
	}
	return false
}

// abbreviate returns s in at most n columns, the last an ellipsis when something is missing.
func abbreviate(s string, n int) string {
	if width(s) <= n {
		return s
	}
	used := 0
	for i, r := range s {
		if used+runeWidth(r) > n-1 {
			return strings.TrimRight(s[:i], " ") + "…"
		}
		used += runeWidth(r)
	}
	return s
}

// span says how long d is in the one or two units that matter: "45s", "12m", "3h12m", "2d4h".
func span(d time.Duration) string {
	d = max(d, 0)
	two := func(a time.Duration, au string, b time.Duration, bu string) string {
		if b == 0 {
			return fmt.Sprintf("%d%s", a, au)
		}
		return fmt.Sprintf("%d%s%d%s", a, au, b, bu)
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 24*time.Hour:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	}
	return two(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
}

// size says how many octets n is in the decimal units that the configuration uses.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		v /= 1000
		if v < 999.5 {
			break
		}
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// count says how many things n is, in the singular or the plural.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func messages(n int) string { return count(n, "message", "messages") }

// stamp is a point in time for a person at this machine.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
