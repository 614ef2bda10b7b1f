package smarthost

import (
	"io"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"

	"relayd/internal/envelope"
)

// contribution is what a message and this relay have told a host, and what its replies may therefore repeat: addresses
// above all. Words that it holds prove nothing about the host. A nil contribution holds nothing.
type contribution struct {
	hostname, username string
	m                  *envelope.Message
	// command holds the words of the commands, header those of the message's header; both are folded.
	command, header []string
}

// maxEchoHeader is how much of a header is looked at.
const maxEchoHeader = 64 << 10

// holds reports whether the contribution could have put phrase into a reply at stage. It compares letters and digits
// alone, so that no way of quoting, encoding, cutting or wrapping an address makes a difference.
func (c *contribution) holds(stage, phrase string) bool {
	if c == nil {
		return false
	}
	want := fold(phrase)
	if want == "" {
		return false
	}
	if c.command == nil {
		c.command = c.commandWords()
	}
	if holds(c.command, want) {
		return true
	}
	if stage != stageData && stage != stageDot {
		return false // the host has not seen the header
	}
	if c.header == nil {
		c.header = c.headerWords()
	}
	return holds(c.header, want)
}

func holds(texts []string, want string) bool {
	for _, t := range texts {
		if strings.Contains(t, want) {
			return true
		}
	}
	return false
}

func (c *contribution) commandWords() []string {
	texts := append(forms(c.hostname), forms(c.username)...)
	if c.m == nil {
		return texts
	}
	env := &c.m.Envelope
	texts = append(texts, forms(c.m.ID)...)
	texts = append(texts, forms(string(env.ReversePath))...)
	texts = append(texts, forms(env.EnvID)...)
	for i := range env.Recipients {
		texts = append(texts, forms(string(env.Recipients[i].Path))...)
		texts = append(texts, forms(env.Recipients[i].ORcpt)...)
	}
	return texts
}

func (c *contribution) headerWords() []string {
	none := []string{""}
	if c.m == nil || c.m.Open == nil {
		return none
	}
	content, err := c.m.Open()
	if err != nil {
		return none
	}
	defer content.Close()
	b, _ := io.ReadAll(io.LimitReader(content, maxEchoHeader)) // what was read before an error counts
	header, _, _ := strings.Cut(string(b), "\r\n\r\n")
	texts := forms(header)
	unfolded := strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(header)
	for line := range strings.SplitSeq(unfolded, "\r\n") {
		if !strings.Contains(line, "=?") {
			continue
		}
		if decoded, err := new(mime.WordDecoder).DecodeHeader(line); err == nil {
			texts = append(texts, fold(decoded))
		}
	}
	return texts
}

// forms returns s as fold has it, and, where it holds encoded octets ("%20" as in URLs, "+20" as in RFC 3461's xtext, "=20"
// as in RFC 2045), also decoded.
func forms(s string) []string {
	out := []string{fold(s)}
	for _, mark := range []byte{'%', '+', '='} {
		if decoded := unhex(s, mark); decoded != s {
			out = append(out, fold(decoded))
		}
	}
	return out
}

// fold returns the letters and digits of s, in lower case.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// unhex replaces mark and two hexadecimal digits by the octet that they stand for.
func unhex(s string, mark byte) string {
	if strings.IndexByte(s, mark) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == mark && i+2 < len(s) {
			high, low := strings.IndexByte(hexDigits, lower(s[i+1])), strings.IndexByte(hexDigits, lower(s[i+2]))
			if high >= 0 && low >= 0 {
				b.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

const hexDigits = "0123456789abcdef"

func lower(c byte) byte {
	if 'A' <= c && c <= 'F' {
		return c + 'a' - 'A'
	}
	return c
}

// saying is a reply's text in lower case, as rules see it.
type saying struct {
	stage string
	// whole is all of the text; own leaves out what the host quotes.
	whole, own string
	ours       *contribution
}

func (p place) saying(stage string, reply envelope.Reply) saying {
	whole := strings.ToLower(strings.ReplaceAll(reply.Text, "\n", " "))
	return saying{stage: stage, whole: whole, own: cutQuotations(whole), ours: p.ours}
}

// has reports whether the host itself says phrase: outside of what it quotes, and not in words that it may have from us. A
// phrase that itself holds marks of quotation is looked for in the whole text.
func (s saying) has(phrase string) bool {
	text := s.own
	if strings.ContainsAny(phrase, "<>\"'`“”«»") {
		text = s.whole
	}
	return strings.Contains(text, phrase) && !s.ours.holds(s.stage, phrase)
}

// cutQuotations replaces each quotation in s, an address in angle brackets among them, by a control character, which no
// rule's words hold.
func cutQuotations(s string) string {
	if !strings.ContainsAny(s, "<\"'`“«") {
		return s
	}
	var b strings.Builder
	for before := rune(' '); s != ""; {
		first, size := utf8.DecodeRuneInString(s)
		if end := quotationEnd(s, first, before); end > 0 {
			b.WriteByte(0)
			s, before = s[end:], ' '
			continue
		}
		b.WriteString(s[:size])
		s, before = s[size:], first
	}
	return b.String()
}

// quotationEnd returns the length of the quotation with which s begins, whose first character is first and stands behind
// before; 0 when none does. An apostrophe within a word begins none, and what is not closed is none.
func quotationEnd(s string, first, before rune) int {
	switch first {
	case '<':
		return closing(s, '>')
	case '"':
		return closing(s, '"')
	case '“':
		return after(s, "”")
	case '«':
		return after(s, "»")
	case '\'', '`':
		if unicode.IsLetter(before) || unicode.IsDigit(before) {
			return 0
		}
		for i := 1; i < len(s); i++ {
			if s[i] == '\'' && (i+1 == len(s) || !isWordByte(s[i+1])) {
				return i + 1
			}
		}
	}
	return 0
}

// closing returns the length of s up to and with the mark that closes it. Escaped characters close nothing, nor does what
// stands within double quotes.
func closing(s string, mark byte) int {
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == mark && !quoted:
			return i + 1
		case s[i] == '"' && mark != '"':
			quoted = !quoted
		}
	}
	if quoted { // a lone quote within the brackets
		if i := strings.IndexByte(s[1:], mark); i >= 0 {
			return i + 2
		}
	}
	return 0
}

func after(s, mark string) int {
	if i := strings.Index(s, mark); i >= 0 {
		return i + len(mark)
	}
	return 0
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}
