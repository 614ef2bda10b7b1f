package sevenbit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
)

// leaf is a part as a reader of mail sees it.
type leaf struct {
	path, kind string
	content    []byte
}

// leaves reads a message with the library's MIME reader, which knows nothing of this package.
func leaves(content []byte) ([]leaf, error) {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return leavesOf("", textproto.MIMEHeader(m.Header), m.Body, "text/plain")
}

func leavesOf(path string, h textproto.MIMEHeader, body io.Reader, kind string) ([]leaf, error) {
	var params map[string]string
	if v := h.Get("Content-Type"); v != "" {
		var err error
		if kind, params, err = mime.ParseMediaType(v); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		return leavesIn(path, kind, multipart.NewReader(body, params["boundary"]))
	case kind == "message/rfc822":
		m, err := mail.ReadMessage(body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return leavesOf(path+"/message", textproto.MIMEHeader(m.Header), m.Body, "text/plain")
	}
	content, err := decode(h.Get("Content-Transfer-Encoding"), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return []leaf{{path, kind, content}}, nil
}

func leavesIn(path, kind string, r *multipart.Reader) ([]leaf, error) {
	partKind := "text/plain"
	if kind == "multipart/digest" {
		partKind = "message/rfc822"
	}
	var all []leaf
	for i := 0; ; i++ {
		part, err := r.NextRawPart()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		some, err := leavesOf(fmt.Sprintf("%s/%d", path, i), part.Header, part, partKind)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
}

// decode undoes a transfer encoding. Of base64 it returns the octets that count. Where the last delimiter is missing, it
// returns what there is without line breaks at the end, of which the library may keep one that could start a delimiter.
func decode(label string, body io.Reader) ([]byte, error) {
	if strings.EqualFold(label, "quoted-printable") {
		body = quotedprintable.NewReader(body)
	}
	content, err := io.ReadAll(body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		content, err = bytes.TrimRight(content, "\r\n"), nil
	}
	if strings.EqualFold(label, "base64") {
		content = bytes.Map(func(r rune) rune {
			if r < 0x80 && strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", r) {
				return r
			}
			return -1
		}, content)
	}
	return content, err
}

// compareLeaves fails the test when a reader would not see the same in both.
func compareLeaves(t testing.TB, in, out []byte) {
	t.Helper()
	want, err := leaves(in)
	if err != nil {
		t.Fatalf("the message itself: %v", err)
	}
	got, err := leaves(out)
	if err != nil {
		t.Fatalf("what became of it: %v\n%s", err, out)
	}
	if len(got) != len(want) {
		t.Fatalf("%d leaves became %d\n%q\n%q", len(want), len(got), in, out)
	}
	for i, w := range want {
		if g := got[i]; g.path != w.path || g.kind != w.kind || !bytes.Equal(g.content, w.content) {
			t.Fatalf("leaf %s %s\n%q\nbecame %s %s\n%q", w.path, w.kind, w.content, g.path, g.kind, g.content)
		}
	}
}
