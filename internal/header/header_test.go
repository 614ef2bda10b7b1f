package header

import (
	"io"
	"strings"
	"testing"
)

func TestLines_ChunksAddUpAndTearNoLineEnd(t *testing.T) {
	text := "A: b\r\n" + strings.Repeat("x", 40) + "\r\n" + strings.Repeat("y", 15) + "\r\n\r\nlast"
	l := NewLines(strings.NewReader(text), 16)
	var all strings.Builder
	var starts []string
	for {
		chunk, first, err := l.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if chunk[len(chunk)-1] == '\r' {
			t.Errorf("torn apart: %q", chunk)
		}
		if first {
			starts = append(starts, string(chunk[:1]))
		}
		all.Write(chunk)
	}
	if all.String() != text || strings.Join(starts, "") != "Axy\rl" {
		t.Errorf("%q starts %q", all.String(), starts)
	}
}

func TestName_IsThatOfAFieldOrNone(t *testing.T) {
	for line, want := range map[string]string{
		"From: a\r\n": "From", "from :a": "from", "X-\xe4:": "X-\xe4", "From": "", ": a": "", "two words: a": "", " From: a": "",
		"From a@b Mon Jan 1 10:00:00": "", "": "", "a\x7fb: c": "", "a\x00: c": "",
	} {
		if got, ok := Name([]byte(line)); string(got) != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", line, got, ok, want)
		}
	}
}

func TestIsFolded(t *testing.T) {
	for line, want := range map[string]bool{" a\r\n": true, "\ta\r\n": true, " ": true, "\t": true, "a b": false, "\r\n": false, "": false} {
		if got := IsFolded([]byte(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestCutLineEnd_ReturnsBothParts(t *testing.T) {
	for chunk, want := range map[string]string{"a\r\n": "a", "a\n": "a", "a": "a", "a\r": "a\r", "\r\n": "", "": ""} {
		if content, end := CutLineEnd([]byte(chunk)); string(content) != want || string(content)+string(end) != chunk {
			t.Errorf("%q: %q %q", chunk, content, end)
		}
	}
}
