package sandbox

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// transcript writes the dialogue of all connections, whole lines at a time. Without a writer it does nothing.
type transcript struct {
	mu sync.Mutex
	w  io.Writer
}

// Who speaks in a line of the transcript.
const (
	client = "C: "
	server = "S: "
	remark = "-- "
)

func (t *transcript) line(connection int, who, text string) {
	if t.w == nil {
		return
	}
	text = strings.TrimRight(text, "\r\n")
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, "[%d] %s%s\n", connection, who, printable(text))
}

// printable shows control characters as escapes, so that a line stays a line and a terminal stays as it was.
func printable(s string) string {
	if strings.IndexFunc(s, isControl) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isControl(r) && r != '\t' {
			fmt.Fprintf(&b, "\\x%02x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// maskAuth hides what follows the mechanism in an AUTH command, also in a malformed one.
func maskAuth(line string) string {
	words := strings.Fields(line)
	switch {
	case len(words) == 0 || !strings.EqualFold(words[0], "AUTH"):
		return line
	case len(words) == 1:
		return words[0]
	case len(words[1]) > maxMechanism:
		return words[0] + " " + masked
	case len(words) == 2:
		return words[0] + " " + words[1]
	}
	return words[0] + " " + words[1] + " " + masked
}

const masked = "********"
