package rewrite

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"relayd/internal/envelope"
)

// BenchmarkMessage is the cost of one message of 2 KiB: its head is read, and its content read as planned.
func BenchmarkMessage(b *testing.B) {
	fields := "Received: from [192.168.1.10] (192.168.1.10)\r\n\tby relay.example.com with ESMTP id 1M8063JNNNMR7;\r\n\tSun, 01 Mar 2026 09:30:15 +0100\r\n" +
		"Date: Sun, 01 Mar 2026 09:30:15 +0100\r\nFrom: \"Scanner\" <scanner@printer.lan>\r\nTo: <a@example.net>\r\nSubject: scan\r\n" +
		"Message-ID: <1@printer.lan>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nX-Mailer: scanner 1.0\r\n"
	body := "\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 20)
	whole := []byte(fields + body)
	matching := compile(b, Rules{Map: map[string]string{"scanner@*": office, "*@lan.example": "@example.com", "nas-*@*": office}})
	other := compile(b, Rules{Map: map[string]string{"printer@*": office, "*@lan.example": "@example.com", "nas-*@*": office}})
	for _, c := range []struct {
		name    string
		chain   Chain
		message []byte
	}{
		{"no rules", nil, whole},
		{"no rule matches", Chain{other}, whole},
		{"a rule matches", Chain{matching}, whole},
		{"and a signature breaks", Chain{matching}, []byte("DKIM-Signature: v=1; a=rsa-sha256; d=printer.lan; h=from:to:subject; b=" + strings.Repeat("x", 340) + "\r\n" + fields + body)},
		{"fields are missing", nil, []byte("Received: x\r\nSubject: alarm\r\n" + body)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.message)))
			j := arrived(envelope.Path("scanner@printer.lan"))
			for b.Loop() {
				p, err := c.chain.Plan(j, bytes.NewReader(c.message))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, p.Reader(bytes.NewReader(c.message))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
