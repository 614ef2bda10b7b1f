//go:build peers

package peers

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/textproto"
	"strings"
)

// The addresses of the tests. The smarthosts have a mailbox for each of them and for nobody else.
const (
	sender  = "sam@lan.example"
	ann     = "ann@dest.example"
	bob     = "bob@dest.example"
	carl    = "carl@dest.example"
	unknown = "nobody-here@dest.example"
)

func mailboxes() []string { return []string{sender, ann, bob, carl} }

// message is a message as a client sends it: CRLF line ends, no dot-stuffing.
type message struct {
	id   string // what is in its Message-ID
	data []byte
}

// compose joins the header fields that every message has, further ones, and a body; all lines end in CRLF.
func compose(id, fields, body string) message {
	var b strings.Builder
	fmt.Fprintf(&b, "Message-ID: <%s@lan.example>\r\n", id)
	b.WriteString("Date: Sat, 21 Nov 2026 10:11:12 +0100\r\n")
	b.WriteString("From: Sam Sender <" + sender + ">\r\nTo: Ann <" + ann + ">\r\n")
	b.WriteString(fields + "\r\n" + body)
	return message{id: id, data: []byte(b.String())}
}

// lf returns the message with LF line ends, as a file on Unix has it.
func (m message) lf() []byte { return bytes.ReplaceAll(m.data, []byte("\r\n"), []byte("\n")) }

// wire returns the message as it follows DATA (RFC 5321 section 4.5.2).
func (m message) wire() string {
	stuffed := strings.ReplaceAll("\r\n"+string(m.data), "\r\n.", "\r\n..")
	return strings.TrimPrefix(stuffed, "\r\n") + ".\r\n"
}

func plain(id string) message {
	return compose(id, "Subject: "+id+"\r\n", "A line.\r\n\r\nAnother line.\r\n")
}

// shapes returns messages that differ in what a program on the way may get wrong. Their ids begin with prefix.
func shapes(prefix string) []message {
	id := func(shape string) string { return prefix + "-" + shape }
	return []message{
		plain(id("plain")),
		compose(id("no-body"), "Subject: nothing below\r\n", ""),
		compose(id("8-bit"), "Subject: 8 bit\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"+
			"Content-Transfer-Encoding: 8bit\r\n", highOctets()+"Gr\xfc\xdfe\r\n"),
		compose(id("utf-8"), "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"+
			"Content-Type: text/plain; charset=utf-8; format=flowed\r\nContent-Transfer-Encoding: 8bit\r\n",
			"Grüße aus Köln, 日本, 🐎. \r\n-- \r\nSam\r\n"),
		compose(id("dots"), "Subject: dots\r\n",
			".\r\n..\r\n...\r\n.a\r\n. \r\na.\r\n\r\n.\r\n\r\n.MAIL FROM:<x@y.example>\r\n"+strings.Repeat(".", 400)+"\r\n."+"\r\n"),
		compose(id("long-lines"), "Subject: long lines\r\nX-Long: "+strings.Repeat("h", 998-len("X-Long: "))+"\r\n",
			strings.Repeat("x", 998)+"\r\n."+strings.Repeat("y", 997)+"\r\n"+strings.Repeat("z", 997)+".\r\n"),
		compose(id("folded"), "Subject: a subject\r\n that goes on\r\n\t with a tab  and two spaces\r\n"+
			"References: "+strings.Repeat("<0123456789.0123456789.0123456789@lan.example>\r\n\t", 60)+"<last@lan.example>\r\n"+
			"X-Empty:\r\nX-Spaces:   three before, two after  \r\n", "A folded header.\r\n"),
		compose(id("white-space"), "Subject: white space\r\n",
			"\r\n\r\n two blank lines before \r\n\ttab\t\r\n \r\nFrom here\r\n>From there\r\n\r\n\r\n\r\n"),
		compose(id("attachment"), "Subject: 3 MB\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b1\"\r\n",
			"--=_b1\r\nContent-Type: text/plain\r\n\r\nSee the file.\r\n--=_b1\r\nContent-Type: application/octet-stream\r\n"+
				"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=scan.bin\r\n\r\n"+
				attachment(2<<20+300<<10)+"--=_b1--\r\n"),
	}
}

// highOctets returns lines with every octet from 0x80 on, and the printable ones.
func highOctets() string {
	var b []byte
	for c := 0x20; c <= 0xff; c++ {
		if c != 0x7f {
			b = append(b, byte(c))
		}
		if c%32 == 31 {
			b = append(b, '\r', '\n')
		}
	}
	return string(b)
}

// attachment returns size octets in base64.
func attachment(size int) string {
	raw := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(raw)
	text := base64.StdEncoding.EncodeToString(raw)
	var b strings.Builder
	for len(text) > 0 {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	return b.String()
}

// submit hands m over by SMTP as a client in the LAN does.
func submit(addr string, m message, recipients ...string) error {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	commands := []string{"EHLO client.lan.example", "MAIL FROM:<" + sender + "> BODY=8BITMIME"}
	for _, r := range recipients {
		commands = append(commands, "RCPT TO:<"+r+">")
	}
	for _, command := range commands {
		if err := exchange(c, 250, command); err != nil {
			return err
		}
	}
	if err := exchange(c, 354, "DATA"); err != nil {
		return err
	}
	w := c.DotWriter()
	if _, err := w.Write(m.data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if _, _, err := c.ReadResponse(250); err != nil {
		return fmt.Errorf("after the final dot: %w", err)
	}
	return exchange(c, 221, "QUIT")
}

func exchange(c *textproto.Conn, want int, command string) error {
	if err := c.PrintfLine("%s", command); err != nil {
		return err
	}
	if _, _, err := c.ReadResponse(want); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}
