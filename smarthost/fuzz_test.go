package smarthost

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzDotWriter compares dot-stuffing, with its input cut up at random, with what it has to do, said plainly.
func FuzzDotWriter(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "a\r\n.\r\nb", "\n.\n", "..\r\n.", "a\r", "\r\n"} {
		f.Add([]byte(s), []byte{0, 2})
	}
	f.Fuzz(func(t *testing.T, content, sizes []byte) {
		var wire bytes.Buffer
		d := newDotWriter(&wire)
		var ambiguous error
		for i, rest := 0, bytes.Clone(content); len(rest) > 0; i++ {
			n := len(rest)
			if len(sizes) > 0 {
				n = min(n, int(sizes[i%len(sizes)])+1)
			}
			m, err := d.Write(rest[:n])
			if ambiguous = err; err != nil {
				break
			}
			if m != n {
				t.Fatal(m)
			}
			rest = rest[n:]
		}
		if ambiguous == nil {
			ambiguous = d.end()
		}
		line := strings.ReplaceAll(string(content), "\r\n", "")
		if ambiguous != nil {
			if !strings.ContainsAny(line, "\r\n\x00") {
				t.Errorf("%q: %v", content, ambiguous)
			}
			return
		}
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimPrefix(strings.ReplaceAll("\n"+string(content), "\n.", "\n.."), "\n")
		if !bytes.HasSuffix(content, []byte("\r\n")) && len(content) > 0 {
			want += "\r\n"
		}
		if want += ".\r\n"; wire.String() != want {
			t.Errorf("%q came out as %q, want %q", content, wire.String(), want)
		}
		for _, dropNULs := range []bool{false, true} {
			if n := readLoosely("\r\n"+wire.String(), dropNULs); n != 1 {
				t.Errorf("%q has %d ends of data in %q", content, n, wire.String())
			}
		}
	})
}

// FuzzParseCapabilities reads any reply to EHLO.
func FuzzParseCapabilities(f *testing.F) {
	f.Add("host\nSIZE 10\nAUTH=LOGIN PLAIN\nauth plain\n8BITMIME")
	f.Add("\n\n \nSIZE -1\nSIZE 99999999999999999999\nAUTH\nAUTH=")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseCapabilities(text)
		if c.maxSize < 0 || len(c.auth) > len(text) {
			t.Errorf("%q gave %+v", text, c)
		}
		for _, m := range c.auth {
			if m == "" || strings.ContainsAny(m, " \n") || strings.ToUpper(m) != m {
				t.Errorf("%q gave the mechanism %q", text, m)
			}
		}
		m, err := (&endpoint{auth: AuthAuto}).choose(c.auth, &tls.ConnectionState{})
		if err == nil && !slices.Contains(c.auth, m.name) {
			t.Errorf("%q is chosen and was not offered", m.name)
		}
	})
}

// parrot is a connection to a host that says what it was told to, whatever it hears, and hangs up.
type parrot struct {
	scriptedConn
	heard bytes.Buffer
}

// scriptedConn keeps the methods of net.Conn that a parrot has no use for.
type scriptedConn struct {
	net.Conn
	said io.Reader
}

func (p *parrot) Read(b []byte) (int, error)  { return p.said.Read(b[:min(len(b), 50)]) }
func (p *parrot) Write(b []byte) (int, error) { return p.heard.Write(b) }

// nowhere has the deadlines and addresses of a parrot.
type nowhere struct{ net.Conn }

func (nowhere) Close() error                     { return nil }
func (nowhere) SetDeadline(time.Time) error      { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }
func (nowhere) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (nowhere) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// FuzzHost has a host say anything at all, over a connection that demands STARTTLS and a login, or neither. Without TLS
// nothing but EHLO and STARTTLS is said where it is demanded; a message counts as delivered only behind a 354 and a 250;
// and nothing panics.
func FuzzHost(f *testing.F) {
	const good = "220 h\r\n250-h\r\n250-PIPELINING\r\n250 SIZE 9\r\n250 a\r\n250 b\r\n354 c\r\n250 d\r\n221 e\r\n"
	f.Add([]byte(good), false)
	f.Add([]byte(strings.ReplaceAll(good, "PIPELINING", "X")), false)
	f.Add([]byte("220 h\r\n250-h\r\n250 STARTTLS\r\n220 go\r\n\x16\x03\x03\x00\x05hello"), true)
	f.Add([]byte("220 h\r\n250-h\r\n250 AUTH PLAIN LOGIN\r\n334 x\r\n235 y\r\n"), true)
	f.Add([]byte("220 h\r\n502 a\r\n250 h\r\n250 b\r\n550-5.1.1 c\r\n550 5.7.1 d\r\n"), false)
	f.Fuzz(func(t *testing.T, said []byte, demanding bool) {
		p := &parrot{scriptedConn: scriptedConn{Conn: nowhere{}, said: bytes.NewReader(said)}}
		e := endpoint{hostname: "relay.example.com", addr: villainAddr, mode: ModeOff, timeouts: Timeouts{}.orDefaults(),
			auth: AuthAuto, dial: func(context.Context, string, string) (net.Conn, error) { return p, nil }}
		if demanding {
			e.mode, e.login, e.credentials = ModeStartTLS, true, credentials{username, password}
			e.tls = &tls.Config{ServerName: "villain", RootCAs: theAuthority().pool}
		}
		m := mail("Subject: hi\r\n\r\nhello\r\n", "b@example.net", "c@example.net")
		c, err := e.connect(t.Context())
		if demanding {
			if err == nil {
				t.Fatal("a session came about without TLS")
			}
			if line, rest, _ := strings.Cut(strings.TrimPrefix(p.heard.String(), "EHLO relay.example.com\r\n"), "\r\n"); line != "" &&
				(line != "STARTTLS" || rest != "" && rest[0] != 0x16 && rest[0] != 0x15) {
				t.Errorf("the relay said %q", p.heard.String())
			}
			noSecret(t, "what the relay said", p.heard.String())
			noSecret(t, "the error", err.Error())
			return
		}
		if err != nil {
			return
		}
		content, _ := m.Open()
		tx := newTransaction(c.caps, &m.Envelope, place{addr: villainAddr}, body{size: m.Size, write: io.Copy}, []int{0, 1})
		tx.begin(c)
		err = tx.run(content, func() {})
		w := newWork(m)
		site, _ := w.settle(tx)
		if tx.dot.Positive() && (err != nil || tx.data.Code != 354 || tx.accepted == 0 || !strings.Contains(p.heard.String(), "\r\nhello\r\n.\r\n")) {
			t.Errorf("delivered by %q: %+v, %v", said, tx.dot, err)
		}
		for _, r := range w.results {
			if r.Failure == nil && r.Reply.Positive() && (site != nil && site.Permanent || !tx.dot.Positive()) {
				t.Errorf("%q delivered %+v", said, r)
			}
		}
	})
}

// FuzzAuthenticate answers a login with anything: it ends, and says no more than a login has to say.
func FuzzAuthenticate(f *testing.F) {
	f.Add("334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 ok\r\n", true)
	f.Add("334 \r\n334 \r\n334 \r\n334 \r\n334 \r\n501 cancelled\r\n", false)
	f.Fuzz(func(t *testing.T, said string, old bool) {
		p := &parrot{scriptedConn: scriptedConn{Conn: nowhere{}, said: strings.NewReader(said)}}
		c := newConn(p, Timeouts{}.orDefaults())
		c.br = bufio.NewReaderSize(p, maxReplyLine)
		wanted := AuthPlain
		if old {
			wanted = AuthLogin
		}
		m, err := (&endpoint{auth: wanted}).choose([]string{"PLAIN", "LOGIN"}, &tls.ConnectionState{})
		if err != nil {
			t.Fatal(err)
		}
		reply, err := c.authenticate(m.client(credentials{username, password}))
		if err == nil && reply.IsZero() {
			t.Error("neither a reply nor an error")
		}
		if err != nil {
			noSecret(t, "the error", err.Error())
		}
		heard := p.heard.String()
		if n := strings.Count(heard, b64(password)); n > 1 || strings.Count(heard, "\r\n") > maxChallenges+2 {
			t.Errorf("the relay said %q", heard)
		}
	})
}
