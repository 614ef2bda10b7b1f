package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestClean_OneLineWithoutCommandsToATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain text ~":           "plain text ~",
		"450 4.2.1\r\nlater\tok": "450 4.2.1 later ok",
		"\x1b[2J\x07\x7f\x00":    `\x1b[2J\x07\x7f\x00`,
		"\u009b31m":              `\u009b31m`,
		"a\u202egnp.exe\u2028b":  `a\u202egnp.exe\u2028b`,
		"zero\u200bwidth":        `zero\u200bwidth`,
		"\U000e0041tag":          `\U000e0041tag`,
		"\xff\xc3(":              `\xff\xc3(`,
		"no\u00a0break":          "no break",
		"Grüße, 日本語, 🙂":          "Grüße, 日本語, 🙂",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q; want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add(evilReply)
	f.Add(evilBody)
	f.Add("日本語 \xe3\x81")
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{clean(s), strings.NewReplacer("\n", "", "\t", "").Replace(cleanText(s))} {
			if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(got) {
				t.Errorf("%q became %q, in which something may move a terminal", s, got)
			}
		}
		if b, err := encodeJSON(s, ""); err != nil || bytes.ContainsFunc(b, func(r rune) bool { return !unicode.IsPrint(r) && r != ' ' && unicode.IsControl(r) }) {
			t.Errorf("%q became %q, %v in JSON", s, b, err)
		}
	})
}

func TestCleanWriter_PutsCharactersTogetherThatComeInParts(t *testing.T) {
	const text = "Grüße\r\n日本語 🙂\x1b[2J \xe6\x97"
	want := "Grüße\n日本語 🙂\\x1b[2J \\xe6\\x97"
	for step := 1; step <= len(text); step++ {
		var b bytes.Buffer
		w := &cleanWriter{w: &b}
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if got, err := w.Write([]byte(rest[:n])); got != n || err != nil {
				t.Fatalf("Write = %d, %v", got, err)
			}
			rest = rest[n:]
		}
		if err := w.Flush(); err != nil || b.String() != want {
			t.Errorf("in parts of %d: %q, %v; want %q", step, b.String(), err, want)
		}
	}
}

func TestAbbreviate_CountsColumns(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{
		{"short", 5, "short"},
		{"longer", 5, "long…"},
		{"two words", 5, "two…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"x", 0, "…"},
	} {
		if got := abbreviate(tt.s, tt.n); got != tt.want {
			t.Errorf("abbreviate(%q, %d) = %q; want %q", tt.s, tt.n, got, tt.want)
		}
	}
}

func TestSpanAndSize_SayWhatMatters(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", time.Minute: "1m", 59*time.Minute + 59*time.Second: "59m", time.Hour: "1h",
		3*time.Hour + 12*time.Minute: "3h12m", 24 * time.Hour: "1d", 52 * time.Hour: "2d4h", 400 * 24 * time.Hour: "400d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q; want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		25_000_000: "25 MB", 1 << 40: "1.1 TB", 5_000_000_000_000_000: "5000 TB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestTable_GrowsAndLeavesOutWhatIsEmpty(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, column{head: "N", right: true}, column{}, column{head: "ADDRESS", most: 10, tail: true}, column{head: "END"})
	for _, rows := range [][][]string{
		{{"1", "", "a", "x"}, {"20", "", "bob@example.net +12", ""}},
		{{"300", "", "b", "y"}},
	} {
		if err := tab.write(rows); err != nil {
			t.Fatal(err)
		}
	}
	want := " N  ADDRESS     END\n 1  a           x\n20  bob@e… +12\n300  b           y\n"
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}
