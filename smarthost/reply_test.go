package smarthost

import (
	"bufio"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"relayd/internal/envelope"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func replyFrom(s string) (envelope.Reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
}

func TestReadReply(t *testing.T) {
	for in, want := range map[string]envelope.Reply{
		"250 ok\r\n":                 {Code: 250, Text: "ok"},
		"250\r\n":                    {Code: 250},
		"250 \r\n":                   {Code: 250},
		"250 bare LF\n":              {Code: 250, Text: "bare LF"},
		"550 5.1.1 no such user\r\n": {Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 1}, Text: "no such user"},
		"550-5.1.1 a\r\n550-5.1.1 b\r\n550 c\r\n":  {Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 1}, Text: "a\nb\nc"},
		"550-5.1.1 a\r\n550 5.7.1 b\r\n":           {Code: 550, Enhanced: envelope.EnhancedCode{5, 1, 1}, Text: "a\n5.7.1 b"},
		"550 4.1.1 class differs\r\n":              {Code: 550, Text: "4.1.1 class differs"},
		"250 2.0.0\r\n":                            {Code: 250, Enhanced: envelope.EnhancedCode{2, 0, 0}},
		"250 192.0.2.1 hello\r\n":                  {Code: 250, Text: "192.0.2.1 hello"},
		"450 es\x1b[31mcape\x00 \xc3\xa9 \xff\r\n": {Code: 450, Text: "es [31mcape  é \ufffd"},
		"250 a\rb\r\n":                             {Code: 250, Text: "a b"},
	} {
		if got, err := replyFrom(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestReadReply_GarbageIsAnError(t *testing.T) {
	for _, in := range []string{
		"\r\n", "hello\r\n", "25 ok\r\n", "2500 ok\r\n", "250_ok\r\n", "150 x\r\n", "650 x\r\n", "2x0 x\r\n",
		"250-a\r\n251 b\r\n", "250-a\r\nb\r\n", "\x16\x03\x01\n", "HTTP/1.1 400 Bad Request\r\n",
	} {
		_, err := replyFrom(in)
		if _, ok := errors.AsType[*notSMTPError](err); !ok {
			t.Errorf("%q: got %v", in, err)
		}
	}
	if _, err := replyFrom(strings.Repeat("x", 4000) + "\n"); len(err.Error()) > 150 {
		t.Errorf("a long line makes a long error: %v", err)
	}
	for _, in := range []string{"", "250 no end", "250-a\r\n"} {
		if _, err := replyFrom(in); !errors.Is(err, io.EOF) {
			t.Errorf("%q: got %v, want EOF", in, err)
		}
	}
}

// endless yields s for ever and counts what was taken.
type endless struct {
	s     string
	taken int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.s[(e.taken+n)%len(e.s):])
	}
	e.taken += n
	return n, nil
}

func TestReadReply_HostileHostCannotGrowIt(t *testing.T) {
	line := &endless{s: "250 xxxxxxxxxxxxxxxx"}
	if _, err := readReply(bufio.NewReaderSize(line, maxReplyLine)); !errors.Is(err, errReplyLine) {
		t.Errorf("endless line: %v", err)
	}
	lines := &endless{s: "250-" + strings.Repeat("x", 4000) + "\r\n"}
	if _, err := readReply(bufio.NewReaderSize(lines, maxReplyLine)); !errors.Is(err, errReplyLines) {
		t.Errorf("endless lines: %v", err)
	}
	if line.taken > maxReplyLine || lines.taken > maxReplyLines*maxReplyLine {
		t.Errorf("%d and %d octets were read", line.taken, lines.taken)
	}
	long, err := replyFrom(strings.Repeat("550-"+strings.Repeat("é", 1000)+"\r\n", 50) + "550 end\r\n")
	if err != nil || len(long.Text) > maxReplyText || contains(long.Text, "\ufffd") {
		t.Errorf("a long reply keeps %d octets (%v)", len(long.Text), err)
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add("250-5.1.1 a\r\n250 b\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := replyFrom(in)
		if err == nil && (r.Code < 200 || r.Code > 599 || len(r.Text) > maxReplyText || strings.ContainsAny(r.Text, "\r\x00\x1b")) {
			t.Errorf("%q: %+v", in, r)
		}
	})
}

func TestParseCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want capabilities
	}{
		"Maillennium 2003": {"prserv.net\n7BIT\n8BITMIME\nAUTH LOGIN PLAIN\nDSN\nHELP\nNOOP\nPIPELINING\nSIZE 10485760\n" +
			"STARTTLS\nVERS V04.00c++\nXMVP 2",
			capabilities{eightBit: true, dsn: true, pipelining: true, startTLS: true, size: true, maxSize: 10485760,
				auth: []string{"LOGIN", "PLAIN"}}},
		"both AUTH forms": {"h\nauth=login plain\nAUTH PLAIN CRAM-MD5\nAUTH=LOGIN",
			capabilities{auth: []string{"LOGIN", "PLAIN", "CRAM-MD5"}}},
		"SIZE without limit":       {"h\nSIZE\nSMTPUTF8\nREQUIRETLS", capabilities{size: true, utf8: true, requireTLS: true}},
		"SIZE of nonsense":         {"h\nSIZE many", capabilities{size: true}},
		"SIZE 0":                   {"h\nSIZE 0", capabilities{size: true}},
		"the first line is a name": {"STARTTLS", capabilities{}},
		"empty lines":              {"h\n\n \nDSN", capabilities{dsn: true}},
	} {
		if got := parseCapabilities(c.text); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
