package sevenbit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/quotedprintable"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"relayd/internal/smuggling"
)

// longestLine returns the length of the longest line without its line end.
func longestLine(b []byte) int {
	longest := 0
	for line := range bytes.Lines(b) {
		longest = max(longest, len(bytes.TrimRight(line, "\r\n")))
	}
	return longest
}

// unsafe returns why content must not leave, which the relay checks of all that comes in and goes out.
func unsafe(content []byte) error {
	var g smuggling.Guard
	return errors.Join(g.Scan(content), g.End())
}

// checkSevenBit fails the test when out, which in became, could not go to a 7-bit host or has other parts.
func checkSevenBit(t testing.TB, in, out []byte) {
	t.Helper()
	if has8Bit(out) {
		t.Fatalf("8-bit octets left\n%q\n%q", in, out)
	}
	if !has8Bit(in) && !bytes.Equal(in, out) {
		t.Fatalf("7-bit content changed\n%q\n%q", in, out)
	}
	if unsafe(in) == nil && unsafe(out) != nil {
		t.Fatalf("%v\n%q\n%q", unsafe(out), in, out)
	}
	if got, limit := longestLine(out), max(998, longestLine(in)); got > limit {
		t.Fatalf("a line of %d octets, want %d at most\n%q\n%q", got, limit, in, out)
	}
	before, err := Scan(bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	after, err := Scan(bytes.NewReader(out))
	if err != nil {
		t.Fatalf("its own output is refused: %v\n%q", err, out)
	}
	if len(before.verdicts) != len(after.verdicts) {
		t.Fatalf("%d entities became %d\n%q\n%q", len(before.verdicts), len(after.verdicts), in, out)
	}
}

// composer writes random messages that are well-formed as far as the library's reader needs it.
type composer struct {
	*rand.Rand
	b    bytes.Buffer
	used []string // boundaries around the current place
}

func (c *composer) pick(from ...string) string { return from[c.IntN(len(from))] }

func (c *composer) line(s ...string) { c.b.WriteString(strings.Join(s, "") + "\r\n") }

func (c *composer) message(depth int) {
	c.line("From: a@example.com")
	if c.IntN(4) > 0 {
		c.line("MIME-Version: 1.0")
	}
	c.entity(depth)
}

func (c *composer) entity(depth int) {
	kind := c.IntN(10)
	if depth == 0 {
		kind = 9
	}
	switch {
	case kind < 5:
		c.multipart(depth)
	case kind < 7:
		c.line("Content-Type: message/rfc822")
		c.domain()
		c.line()
		c.message(depth - 1)
	default:
		c.leaf()
	}
}

// domain may label what must not be encoded.
func (c *composer) domain() {
	if label := c.pick("", "7bit", "8bit", "BINARY"); label != "" {
		c.line("Content-Transfer-Encoding: ", label)
	}
}

func (c *composer) multipart(depth int) {
	boundary := c.pick("b", "bb", "bbb", "b=C3", "=_x", "x y")
	for slices.Contains(c.used, boundary) {
		boundary += c.pick("b", "?")
	}
	c.domain()
	c.line(`Content-Type: multipart/`, c.pick("mixed", "alternative", "signed"), `; boundary="`, boundary, `"`)
	c.line()
	c.used = append(c.used, boundary)
	c.around()
	for range 1 + c.IntN(3) {
		c.line("--", boundary, c.pick("", "", " ", "\t "))
		c.entity(depth - 1)
	}
	c.used = c.used[:len(c.used)-1]
	if c.IntN(4) > 0 {
		c.line("--", boundary, "--", c.pick("", " "))
		c.around()
	}
}

func (c *composer) around() {
	for range c.IntN(3) {
		c.line(c.pick("pass over", "--grüße", "-- ", strings.Repeat("ö", 400), "=3D"))
	}
}

func (c *composer) leaf() {
	if kind := c.pick("", "text/plain; charset=utf-8", "text/html", "application/json", "image/png"); kind != "" {
		c.line("Content-Type: ", kind)
	}
	label := c.pick("", "7bit", "8bit", "binary", "base64", "quoted-printable", "8-Bit")
	if label != "" {
		c.line(c.pick("Content-Transfer-Encoding: ", "content-transfer-encoding:\r\n "), label)
	}
	c.line()
	pieces := []string{"plain ", "ü", "\xff", "=", "=4", "=41", " ", "\t", "-", "--b", "--", ".", "From ", "\x00", "\x7f",
		"\r", "?", strings.Repeat("x", 70), strings.Repeat("é", 20)}
	lineEnds := []string{"\r\n"}
	switch label {
	case "base64":
		pieces = []string{"YWJj", "QUJD", "ü", "--", "\xff"}
	case "quoted-printable":
		pieces = []string{"plain", "ü", "\xff", "=41", "=0D=0A", " ", "-", "--", ".", strings.Repeat("x", 30)}
		lineEnds = append(lineEnds, "=\r\n", "= \r\n")
	}
	for range c.IntN(5) {
		for range c.IntN(9) {
			c.b.WriteString(c.pick(pieces...))
		}
		// What stands there by chance must be no delimiter, nor what the library takes for one.
		c.b.WriteString("z" + c.pick("", " ", " \t") + c.pick(lineEnds...))
	}
	c.line()
}

func TestEncode_ReadersSeeTheSame(t *testing.T) {
	refused := 0
	for seed := range uint64(2000) {
		c := &composer{Rand: rand.New(rand.NewPCG(seed, 7))}
		c.message(4)
		in := c.b.Bytes()
		if c.IntN(8) == 0 {
			in = bytes.TrimSuffix(in, []byte("\r\n"))
		}
		var out bytes.Buffer
		if err := Encode(&out, opener(in)); err != nil {
			t.Fatalf("seed %d: %v\n%q", seed, err, in)
		}
		checkSevenBit(t, in, out.Bytes())
		if _, err := leaves(in); err != nil {
			refused++
			continue
		}
		compareLeaves(t, in, out.Bytes())
	}
	if refused > 200 {
		t.Errorf("the library could not read %d of 2000 messages: too many for the test to be one", refused)
	}
}

func TestEncode_KeepsQuotedLinesShort(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		content := make([]byte, 1+random.IntN(2000))
		for i := range content {
			content[i] = "aaaaaaaa\t =-\n\xfc\xff"[random.IntN(15)]
		}
		content = crlf(append(content, 0xfc))
		for _, kind := range []string{"text/plain", "image/png"} {
			head := fmt.Sprintf("MIME-Version: 1.0\r\nContent-Type: %s\r\nContent-Transfer-Encoding: binary\r\n\r\n", kind)
			out := encode(t, append([]byte(head), content...))
			if got := longestLine(out); got > 76 {
				t.Fatalf("a line of %d octets\n%s", got, out)
			}
			for line := range bytes.Lines(out) {
				if line = bytes.TrimRight(line, "\r\n"); bytes.HasSuffix(line, []byte(" ")) || bytes.HasSuffix(line, []byte("\t")) {
					t.Fatalf("white space ends the line %q", line)
				}
			}
			compareLeaves(t, append([]byte(head), content...), out)
		}
	}
}

// Wherever a line is broken, a NUL and a dot never stand alone on a line, and a decoder still sees them.
func TestEncode_NULsNeverStandAloneWithADot(t *testing.T) {
	for _, label := range []string{"8bit", "7bit", "quoted-printable", "base64"} {
		for _, kind := range []string{"text/plain", "image/png", "message/delivery-status", `multipart/mixed; boundary=none`} {
			for n := range 1000 {
				for _, what := range []string{"\x00.\r\n", ".\x00\r\n", ".\x00\x00", "\x00."} {
					in := []byte("MIME-Version: 1.0\r\nContent-Type: " + kind + "\r\nContent-Transfer-Encoding: " + label +
						"\r\n\r\n\xfc" + strings.Repeat("x", n) + what)
					if unsafe(in) != nil {
						t.Fatalf("%q is not what comes in", in)
					}
					var out bytes.Buffer
					if err := Encode(&out, opener(in)); errors.Is(err, ErrUnencodable) && kind != "text/plain" && kind != "image/png" {
						continue
					} else if err != nil {
						t.Fatal(err)
					}
					checkSevenBit(t, in, out.Bytes())
					head, body, _ := strings.Cut(out.String(), "\r\n\r\n")
					if !strings.Contains(strings.ToLower(head), "quoted-printable") {
						continue
					}
					got, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(body)))
					if want := "\xfc" + strings.Repeat("x", n) + what; err != nil || string(got) != want {
						t.Fatalf("%q %q is decoded as %q (%v)", head, body, got, err)
					}
				}
			}
		}
	}
}

func FuzzEncode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(crlf(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		err := Encode(&out, opener(in))
		switch {
		case err == nil:
			checkSevenBit(t, in, out.Bytes())
		case !errors.Is(err, ErrHeader8Bit) && !errors.Is(err, ErrUnencodable):
			t.Fatalf("%v\n%q", err, in)
		case out.Len() > 0:
			t.Fatalf("refused, but %q was written", out.Bytes())
		}
	})
}
