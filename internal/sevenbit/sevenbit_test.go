package sevenbit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// crlf gives content the line ends that it has on the wire; the files in testdata have those of their editor.
func crlf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }

func opener(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

func encode(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Encode(&out, opener(content)); err != nil {
		t.Fatalf("Encode: %v", err)
	}
	return out.Bytes()
}

// readPair returns the message of testdata and what it must become.
func readPair(t testing.TB, file string) (in, want []byte) {
	t.Helper()
	in, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want, err = os.ReadFile(strings.TrimSuffix(file, ".eml") + ".want"); err != nil {
		t.Fatal(err)
	}
	return crlf(in), crlf(want)
}

func TestEncode_WritesWhatTestdataWants(t *testing.T) {
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".eml"), func(t *testing.T) {
			in, want := readPair(t, file)
			if got := encode(t, in); !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			// A reader that gives little at a time must make no difference.
			var out bytes.Buffer
			err := Encode(&out, func() (io.ReadCloser, error) {
				return io.NopCloser(iotest.OneByteReader(bytes.NewReader(in))), nil
			})
			if err != nil || !bytes.Equal(out.Bytes(), want) {
				t.Errorf("octet by octet: %v, got\n%s", err, out.Bytes())
			}
		})
	}
}

// deep returns a message with n multiparts inside one another and 8-bit text in the innermost.
func deep(n int) []byte {
	var b strings.Builder
	for i := range n {
		name := strings.Repeat("x", i+1)
		b.WriteString("Content-Type: multipart/mixed; boundary=" + name + "\r\n\r\n--" + name + "\r\n")
	}
	b.WriteString("\r\ngr\xc3\xbc\xc3\x9fe\r\n")
	return []byte(b.String())
}

func TestEncode_RefusesWhatCannotBeSevenBit(t *testing.T) {
	const mixed = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	for name, c := range map[string]struct {
		in   string
		want error
		says string
	}{
		"the message's header":     {"From: a@example.com\r\nSubject: gr\xc3\xbc\xc3\x9fe\r\n\r\nx\r\n", ErrHeader8Bit, `line 2: header field "Subject"`},
		"a folded line":            {"Subject: x\r\n \xc3\xbc\r\n\r\nx\r\n", ErrHeader8Bit, `line 2: header field "Subject"`},
		"the name of a field":      {"S\xc3\xbcject: x\r\n\r\nx\r\n", ErrHeader8Bit, "line 1"},
		"a part's header":          {mixed + "--b\r\nContent-Disposition: attachment; filename=\"\xc3\xbc\"\r\n\r\nx\r\n--b--\r\n", ErrHeader8Bit, "line 5"},
		"an enclosed header":       {"Content-Type: message/rfc822\r\n\r\nSubject: \xfc\r\n\r\n", ErrHeader8Bit, "line 3"},
		"a label's comment":        {"Content-Transfer-Encoding: 8bit (\xfc)\r\n\r\n\xfc\r\n", ErrHeader8Bit, "line 1"},
		"message/partial":          {"Content-Type: message/partial; id=1\r\n\r\n\xfc\r\n", ErrUnencodable, "line 3"},
		"message/external-body":    {"Content-Type: Message/External-Body\r\n\r\n\xfc\r\n", ErrUnencodable, "line 3"},
		"a multipart undelimited":  {mixed + "\xfc\r\n", ErrUnencodable, "without delimiters"},
		"a multipart unbounded":    {"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\n\xfc\r\n", ErrUnencodable, "without delimiters"},
		"101 multiparts deep":      {string(deep(maxDepth + 1)), ErrUnencodable, "nested"},
		"101 messages deep":        {strings.Repeat("Content-Type: message/rfc822\r\n\r\n", maxDepth+1) + "\r\n\xfc", ErrUnencodable, "nested"},
		"a million parts and more": {mixed + strings.Repeat("--b\r\n", maxParts) + "\r\n\xfc", ErrUnencodable, "parts"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Encode(&out, opener([]byte(c.in)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
			if out.Len() > 0 {
				t.Errorf("it wrote %q", out.Bytes())
			}
		})
	}
}

func TestEncode_GoesHundredPartsDeep(t *testing.T) {
	in := deep(maxDepth)
	want := bytes.Replace(in, []byte("\r\n\r\ngr\xc3\xbc\xc3\x9fe"),
		[]byte("\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BC=C3=9Fe"), 1)
	want = bytes.Replace(want, []byte("\r\n\r\n"), []byte("\r\nMIME-Version: 1.0\r\n\r\n"), 1)
	if got := encode(t, in); !bytes.Equal(got, want) {
		t.Errorf("got\n%s", got)
	}
}

// A line longer than the buffer is one line: nothing in it is a delimiter, and its CR LF is not torn apart wherever the
// buffer ends.
func TestEncode_TakesLinesLongerThanItsBuffer(t *testing.T) {
	const head = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX-Long: "
	for _, length := range []int{bufferSize - 2, bufferSize - 1, bufferSize, bufferSize + 1, 3 * bufferSize} {
		long := strings.Repeat("-", length-3) + "--b"
		for _, kind := range []string{"text/plain", "application/octet-stream"} {
			in := head + strings.Repeat("y", length) + "\r\nContent-Type: " + kind + "\r\n\r\n" +
				long + "\r\n\xfc" + long + "\r\n" + long + " \r\n--b--\r\n"
			out := encode(t, []byte(in))
			if has8Bit(out) {
				t.Fatalf("%s, %d: 8-bit octets left", kind, length)
			}
			compareLeaves(t, []byte(in), out)
		}
	}
}

func TestEncode_PassesErrorsOn(t *testing.T) {
	fault := errors.New("disk on fire")
	in := crlf([]byte("Subject: x\n\ngr\xc3\xbc\xc3\x9fe\n"))
	failing := func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(in), iotest.ErrReader(fault))), nil
	}
	good := opener(in)
	second := func(then func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
		calls := 0
		return func() (io.ReadCloser, error) {
			if calls++; calls == 1 {
				return good()
			}
			return then()
		}
	}
	unopened := func() (io.ReadCloser, error) { return nil, fault }
	for name, open := range map[string]func() (io.ReadCloser, error){
		"the first open": unopened, "the second open": second(unopened),
		"the first reading": failing, "the second reading": second(failing),
	} {
		if err := Encode(io.Discard, open); !errors.Is(err, fault) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := Encode(failingWriter{fault}, good); !errors.Is(err, fault) {
		t.Errorf("writing: got %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// Content that is not what was scanned must not put raw 8-bit octets on the wire.
func TestPlan_RefusesOtherContent(t *testing.T) {
	p, err := Scan(strings.NewReader("Subject: x\r\n\r\nseven\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{
		"Subject: x\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xfc\r\n",
	} {
		var out bytes.Buffer
		if err := p.Encode(&out, strings.NewReader(other)); !errors.Is(err, errChanged) || has8Bit(out.Bytes()) {
			t.Errorf("%q: got %v, wrote %q", other, err, out.Bytes())
		}
	}
}

func TestIs8Bit_KnowsEveryOctet(t *testing.T) {
	for size := range 40 {
		content := bytes.Repeat([]byte{0x7f}, size)
		if got, err := Is8Bit(bytes.NewReader(content)); got || err != nil {
			t.Fatalf("%d octets of 7 bits: %v, %v", size, got, err)
		}
		for i := range content {
			content[i] = 0x80
			if got, err := Is8Bit(iotest.DataErrReader(bytes.NewReader(content))); !got || err != nil {
				t.Fatalf("octet %d of %d: %v, %v", i, size, got, err)
			}
			content[i] = 0x7f
		}
	}
	fault := errors.New("disk on fire")
	if _, err := Is8Bit(iotest.ErrReader(fault)); !errors.Is(err, fault) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

// A label that holds after the encoding stays as its author wrote it.
func TestEncode_KeepsALabelThatHolds(t *testing.T) {
	const in = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 7BIT (as ever)\r\n\r\n" +
		"--b\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n--b--\r\n"
	if out := string(encode(t, []byte(in))); !strings.Contains(out, "\r\nContent-Transfer-Encoding: 7BIT (as ever)\r\n") {
		t.Errorf("%q", out)
	}
}
