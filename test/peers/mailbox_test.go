//go:build peers

package peers

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// maildir is a mailbox at a smarthost. It need not exist yet.
type maildir string

// files returns the paths of its messages, in no order.
func (m maildir) files(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(string(m), "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// find returns the messages that have m's Message-ID.
func (dir maildir) find(t *testing.T, m message) []delivered {
	t.Helper()
	var found []delivered
	for _, path := range dir.files(t) {
		if bytes.Contains(head(t, path), []byte("Message-ID: <"+m.id+"@")) {
			found = append(found, readDelivered(t, path))
		}
	}
	return found
}

// head returns the first octets of a file, which hold the Message-ID: it is the first field after the trace header.
func head(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// waitForMail waits until m is in the mailbox, and fails the test unless it is there once and as it was sent.
func waitForMail(t *testing.T, dir maildir, m message) delivered {
	t.Helper()
	var found []delivered
	poll(t, m.id+" arrives", func() string {
		if found = dir.find(t, m); len(found) > 0 {
			return ""
		}
		return "it is not there"
	})
	if len(found) > 1 {
		t.Errorf("%s arrived %d times", m.id, len(found))
	}
	found[0].mustBe(t, m)
	return found[0]
}

// mustHold fails the test unless the mailbox has so many messages.
func (m maildir) mustHold(t *testing.T, want int) {
	t.Helper()
	if got := len(m.files(t)); got != want {
		t.Errorf("%s has %d messages, not %d", filepath.Base(string(m)), got, want)
	}
}

// delivered is a message in a mailbox, with LF line ends: the trace header that it got on its way, and the rest.
type delivered struct {
	trace []string // one field each, unfolded, single spaces
	rest  []byte
}

// readDelivered splits off the fields that programs on the way put before a message.
func readDelivered(t *testing.T, path string) delivered {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d delivered
	for {
		field := firstField(b)
		if !isTrace(field) {
			d.rest = b
			return d
		}
		d.trace = append(d.trace, strings.Join(strings.Fields(string(field)), " "))
		b = b[len(field):]
	}
}

// firstField returns b up to the first line end that no white space follows (RFC 5322 section 2.2.3).
func firstField(b []byte) []byte {
	for end := 0; ; {
		nl := bytes.IndexByte(b[end:], '\n')
		if nl < 0 {
			return b
		}
		end += nl + 1
		if end == len(b) || b[end] != ' ' && b[end] != '\t' {
			return b[:end]
		}
	}
}

func isTrace(field []byte) bool {
	name, _, _ := strings.Cut(string(field), ":")
	switch strings.ToLower(name) {
	case "received", "return-path", "x-original-to", "delivered-to", "authentication-results":
		return true
	}
	return false
}

// mustTrace fails the test unless one trace field holds all words.
func (d delivered) mustTrace(t *testing.T, words ...string) {
	t.Helper()
fields:
	for _, field := range d.trace {
		for _, w := range words {
			if !strings.Contains(field, w) {
				continue fields
			}
		}
		return
	}
	t.Errorf("no trace field has all of %q:\n%s", words, strings.Join(d.trace, "\n"))
}

// mustBe fails the test unless d is m, octet by octet.
func (d delivered) mustBe(t *testing.T, m message) {
	t.Helper()
	want := m.lf()
	if bytes.Equal(d.rest, want) {
		return
	}
	at := 0
	for at < len(want) && at < len(d.rest) && want[at] == d.rest[at] {
		at++
	}
	around := func(b []byte) []byte { return b[max(0, min(at-40, len(b))):min(at+40, len(b))] }
	t.Errorf("%s was changed: it came out with %d octets for %d, and differs from octet %d on:\nin  %q\nout %q",
		m.id, len(d.rest), len(want), at, around(want), around(d.rest))
}
