package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

func TestAgreed_OnlyByAYes(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "YES\n": true, " yes \r\n": true, "n\n": false, "\n": false, "yesterday\n": false, "": false, "y": false,
	} {
		var out bytes.Buffer
		a := &app{in: strings.NewReader(answer), out: &out}
		if got := a.agreed(t.Context(), "Sure? "); got != want {
			t.Errorf("after %q: %v", answer, got)
		}
		if !strings.HasPrefix(out.String(), "Sure? ") {
			t.Errorf("asked %q", out.String())
		}
	}
}

func TestAgreed_CtrlCIsANo(t *testing.T) {
	silent, keyboard := io.Pipe()
	defer keyboard.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	a := &app{in: silent, out: io.Discard}
	if a.agreed(ctx, "Sure? ") {
		t.Error("agreed without an answer")
	}
}
