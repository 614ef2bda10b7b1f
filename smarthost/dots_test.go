package smarthost

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"relayd/internal/envelope"
)

func TestDotWriter(t *testing.T) {
	for in, want := range map[string]string{
		"":                   ".\r\n",
		"a\r\n":              "a\r\n.\r\n",
		"a":                  "a\r\n.\r\n",
		".":                  "..\r\n.\r\n",
		".\r\n":              "..\r\n.\r\n",
		"..\r\n.":            "...\r\n..\r\n.\r\n",
		"a\r\n.\r\nb":        "a\r\n..\r\nb\r\n.\r\n",
		"a.b\r\n":            "a.b\r\n.\r\n",
		"a\r\n\r\n":          "a\r\n\r\n.\r\n",
		"\r\n":               "\r\n.\r\n",
		"a\r\n.\r\n":         "a\r\n..\r\n.\r\n",
		"x\r\n.a\r\n..b\r\n": "x\r\n..a\r\n...b\r\n.\r\n",
	} {
		// However the content is cut into pieces, the wire is the same.
		for size := 1; size <= max(len(in), 1); size++ {
			var wire bytes.Buffer
			d := newDotWriter(&wire)
			for rest := in; rest != ""; rest = rest[min(size, len(rest)):] {
				if n, err := d.Write([]byte(rest[:min(size, len(rest))])); err != nil || n != min(size, len(rest)) {
					t.Fatal(n, err)
				}
			}
			if err := d.end(); err != nil {
				t.Fatal(err)
			}
			if err := d.close(); err != nil || wire.String() != want {
				t.Errorf("%q in pieces of %d: got %q (%v), want %q", in, size, wire.String(), err, want)
			}
		}
	}
}

// Content that servers read in two ways gets no final dot, and its sender a report.
func TestDotWriter_AmbiguousContentIsNotSent(t *testing.T) {
	for _, content := range []string{"a\r", "a\n.\nb\r\n", "a\n", "a\rb\r\n", "x\r\n\x00.\r\ny\r\n", "x\r\n\x00.", "x\r\n.\x00\r\ny\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPeers("one:25")
			r := p.router(t, nil, "one:25")
			a := r.Deliver(t.Context(), "isp", mail(content))
			if a.Site != nil || len(a.Results) != 1 {
				t.Fatalf("%q: %s", content, show(a))
			}
			f := a.Results[0].Failure
			if f == nil || f.Scope != message || !f.Permanent || !f.Local || f.Reply.Enhanced != (envelope.EnhancedCode{5, 6, 0}) {
				t.Errorf("%q: %s", content, show(a))
			}
			wantDelivered(t, r.Deliver(t.Context(), "isp", mail(hello)), "one:25")
		})
	}
}

func TestDotWriter_ReportsTheFailureOfItsWriter(t *testing.T) {
	d := newDotWriter(&failAfter{n: 2})
	_, err := d.Write([]byte(".a\r\n.b\r\n.c"))
	if err == nil || d.close() == nil || d.err == nil {
		t.Errorf("got %v", err)
	}
}

type failAfter struct{ n int }

func (f *failAfter) Write(p []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, errors.New("no space")
	}
	return len(p), nil
}

func BenchmarkDotWriter(b *testing.B) {
	line := strings.Repeat("x", 74) + "\r\n"
	for name, text := range map[string]string{
		"no dots":    strings.Repeat(line, 1<<20/len(line)),
		"dotted 1/8": strings.Repeat("."+line[1:]+strings.Repeat(line, 7), 1<<20/len(line)/8),
		"all dots":   strings.Repeat(".\r\n", 1<<20/3),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			content := []byte(text)
			for b.Loop() {
				d := newDotWriter(io.Discard)
				if _, err := d.Write(content); err != nil || d.close() != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
