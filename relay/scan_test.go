package relay

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// plainScan is what a scanner has to do, said plainly: the content and the length of the body on the wire, or whether
// it has a bare CR before its end. ended is false when the body goes on behind src.
func plainScan(src string, chunked bool) (content string, used int, ended, bare bool) {
	if !chunked {
		// With the CRLF of the DATA command before it, a body ends at the first CRLF.CRLF.
		if i := strings.Index("\r\n"+src, "\r\n.\r\n"); i >= 0 {
			src, used, ended = src[:i], i+3, true
		}
	}
	if strings.Contains(strings.ReplaceAll(src, "\r\n", ""), "\r") {
		// A CR at the very end of what came may yet be half of a CRLF.
		if rest := strings.TrimSuffix(src, "\r"); ended || strings.Contains(strings.ReplaceAll(rest, "\r\n", ""), "\r") {
			return "", 0, false, true
		}
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(src, "\n") {
		text, whole := strings.CutSuffix(line, "\n")
		text = strings.TrimSuffix(text, "\r")
		if !chunked && text != "." {
			text = strings.TrimPrefix(text, ".")
		}
		b.WriteString(text)
		if whole {
			b.WriteString("\r\n")
		}
	}
	return b.String(), used, ended, false
}

// scanInPieces feeds src to a scanner in pieces of the given sizes, over and over.
func scanInPieces(s *scanner, src []byte, sizes []byte) (content []byte, used int, ended bool, err error) {
	for i := 0; len(src) > 0; i++ {
		size := len(src)
		if len(sizes) > 0 {
			size = min(size, int(sizes[i%len(sizes)])+1)
		}
		out, n, end, err := s.scan(src[:size])
		if err != nil {
			return nil, 0, false, err
		}
		content = append(content, out...)
		used += n
		if end {
			return content, used, true, nil
		}
		if n != size {
			return nil, 0, false, errors.New("a part of the input was not used")
		}
		src = src[size:]
	}
	return content, used, false, nil
}

// FuzzBody compares the scanner, with its input cut up at random, with plainScan; and what must hold for what it
// lets pass holds.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		"", ".\r\n", "a\r\n.\r\nQUIT\r\n", "a\n.\r\nb\r\n.\r\n", "a\r\n.\nb\r\n.\r\n", "a\n.\nb\r\n.\r\n", "..\r\n.a\r\n.\r\n",
		"a\r\r\n.\r\n", "a\r.\r", "a\r\n.\r", "a\r\n.\rb", "\n..\n\r\n.\r\n", "\r", "\r\n", "a\r\n..\r\n.\r\n.\r\n", ".\n.\r\n.\r\n",
	} {
		f.Add([]byte(seed), []byte{0}, false)
		f.Add([]byte(seed), []byte{1, 2}, true)
	}
	f.Fuzz(func(t *testing.T, src, sizes []byte, chunked bool) {
		s := &scanner{chunked: chunked}
		content, used, ended, err := scanInPieces(s, bytes.Clone(src), sizes)
		want, wantUsed, wantEnded, bare := plainScan(string(src), chunked)
		switch {
		case bare != errors.Is(err, errBareCR) || (err != nil && !bare):
			t.Fatalf("%q: error %v, want bare CR %v", src, err, bare)
		case err != nil:
			return
		case ended != wantEnded || (ended && used != wantUsed):
			t.Fatalf("%q: ended %v after %d, want %v after %d", src, ended, used, wantEnded, wantUsed)
		}
		if rest := strings.ReplaceAll(string(content), "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
			t.Fatalf("%q: bare CR or LF in %q", src, content)
		}
		if ended && string(content) != want {
			t.Fatalf("%q: got %q, want %q", src, content, want)
		}
		if !ended && !strings.HasPrefix(want, strings.TrimSuffix(string(content), "\r\n")) {
			t.Fatalf("%q: got %q so far, which is no part of %q", src, content, want)
		}
	})
}

func TestScanner_PassesOnWithoutCopying(t *testing.T) {
	src := []byte(strings.Repeat("a line of text\r\n", 100) + ".\r\n")
	content, _, end, err := (&scanner{}).scan(src)
	if err != nil || !end || len(content) != len(src)-3 || &content[0] != &src[0] {
		t.Errorf("a clean body was copied: end %v, error %v, %d octets", end, err, len(content))
	}
}

func TestScanner_FinishEndsTheLastLine(t *testing.T) {
	for _, c := range []struct {
		src, rest string
		bare      bool
	}{{"", "", false}, {"a\r\n", "", false}, {"a\n", "", false}, {"a", "\r\n", false}, {"a\r\n.", "\r\n", false}, {"a\r", "", true}} {
		s := &scanner{chunked: true}
		if _, _, _, err := s.scan([]byte(c.src)); err != nil {
			t.Fatal(err)
		}
		rest, err := s.finish()
		if string(rest) != c.rest || errors.Is(err, errBareCR) != c.bare {
			t.Errorf("%q: finish gave %q, %v", c.src, rest, err)
		}
	}
}

func TestHopCounter_CountsFieldsOfTheHeader(t *testing.T) {
	const text = "Received: a\r\n\tReceived: folded\r\nRECEIVED: b\r\nReceivedX: c\r\nX-Received: d\r\n\r\nReceived: body\r\n"
	for size := 1; size <= len(text); size++ {
		var h hopCounter
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			h.scan([]byte(rest[:n]))
			rest = rest[n:]
		}
		if h.count != 2 || !h.done {
			t.Fatalf("in pieces of %d: %d fields, header over %v", size, h.count, h.done)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	base64 := bytes.Repeat([]byte(strings.Repeat("A", 76)+"\r\n"), bodyBuffer/78)
	for _, c := range []struct {
		name string
		text []byte
	}{
		{"crlf", base64},
		{"lf", bytes.ReplaceAll(base64, []byte("\r\n"), []byte("\n"))},
		{"dots", bytes.ReplaceAll(base64, []byte("\nAA"), []byte("\n.."))},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := &scanner{}
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := s.scan(c.text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
