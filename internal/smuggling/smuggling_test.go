package smuggling

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// inPieces returns what a guard says of content that comes in pieces of the given sizes, in turn.
func inPieces(content []byte, sizes ...int) error {
	var g Guard
	for i, rest := 0, content; len(rest) > 0; i++ {
		n := min(len(rest), sizes[i%len(sizes)])
		if err := g.Scan(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return g.End()
}

// plainly says the same as a guard, from the whole content.
func plainly(content string) error {
	pairs := strings.ReplaceAll(content, "\r\n", "")
	var nul bool
	for l := range strings.SplitSeq(content, "\r\n") {
		nul = nul || l != "." && strings.ReplaceAll(l, "\x00", "") == "."
	}
	switch {
	case strings.ContainsAny(pairs, "\r\n"):
		return ErrBareCR // or ErrBareLF
	case nul:
		return ErrNULDot
	}
	return nil
}

// agree fails the test when the guard does not say of content what the plain reading says.
func agree(t *testing.T, content []byte, sizes ...int) {
	t.Helper()
	got, want := inPieces(content, sizes...), plainly(string(content))
	if errors.Is(got, ErrBareLF) {
		got = ErrBareCR
	}
	if got != want && !(got == ErrNULDot && want == ErrBareCR) { // a content with both: the first is told
		t.Errorf("%q in pieces of %v: %v, want %v", content, sizes, got, want)
	}
}

func TestGuard_FindsWhatServersReadInTwoWays(t *testing.T) {
	for content, want := range map[string]error{
		"": nil, ".\r\n": nil, "a\r\n": nil, "a": nil, ".": nil, "\x00": nil,
		"\x00.\r\n": ErrNULDot, ".\x00\r\n": ErrNULDot, "\x00.\x00\x00\r\n": ErrNULDot, "\x00.": ErrNULDot, ".\x00": ErrNULDot,
		"a\r\n\x00.\r\nb\r\n": ErrNULDot, "x\x00\r\n\x00.\r\n": ErrNULDot,
		"\x00\r\n.\r\n": nil, "..\x00\r\n": nil, "a.\x00\r\n": nil, "\x00.a\r\n": nil, ".\r\n\x00\r\n": nil, "..\r\n\x00\r\n.": nil,
		"a\rb": ErrBareCR, "a\r\r\n": ErrBareCR, "a\r": ErrBareCR, "\r": ErrBareCR, "\r\n\r": ErrBareCR, "\x00\r.\r\n": ErrBareCR,
		"\n": ErrBareLF, "a\n": ErrBareLF, "\r\n\n": ErrBareLF, "a\n.\n": ErrBareLF, "\n\r\n": ErrBareLF, "a\nb\r\n": ErrBareLF,
	} {
		for size := 1; size <= max(1, len(content)); size++ {
			if got := inPieces([]byte(content), size); !errors.Is(got, want) {
				t.Errorf("%q in pieces of %d: %v, want %v", content, size, got, want)
			}
		}
		agree(t, []byte(content), max(1, len(content)))
	}
}

// FuzzGuard compares a guard, with its input cut up at random, with what it has to find, said plainly.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "\x00.\r\n", ".\x00", "a\r\n\x00\r\n.\r\n", "a\n.\n", "a\r", "\r\r\n", "\n\r"} {
		f.Add([]byte(s), []byte{0, 2})
	}
	f.Fuzz(func(t *testing.T, content, sizes []byte) {
		steps := []int{len(content) + 1}
		for _, s := range sizes {
			steps = append(steps, int(s)+1)
		}
		agree(t, content, steps...)
		agree(t, content, steps[0])
		agree(t, []byte(strings.NewReplacer("\r", "", "\n", "\r\n").Replace(string(content))), steps[len(steps)-1])
	})
}

func BenchmarkGuard(b *testing.B) {
	text := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), 64<<10/78)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		var g Guard
		if err := g.Scan(text); err != nil {
			b.Fatal(err)
		}
	}
}
