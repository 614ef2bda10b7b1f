package sandbox_test

import (
	"context"
	"crypto/tls"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"relayd/internal/sandbox"
)

func start(t *testing.T, opts sandbox.Options) *sandbox.Server {
	t.Helper()
	s, err := sandbox.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// open makes a server that demands nothing, and opens a session on it up to its EHLO.
func open(t *testing.T, opts sandbox.Options, faults ...sandbox.Fault) (*sandbox.Server, *player) {
	t.Helper()
	opts.OptionalTLS, opts.OptionalAuth = true, true
	s := start(t, opts)
	inject(t, s, faults...)
	return s, greet(t, s)
}

func inject(t *testing.T, s *sandbox.Server, faults ...sandbox.Fault) {
	t.Helper()
	if err := s.Inject(faults...); err != nil {
		t.Fatal(err)
	}
}

// greet opens a session on s up to its EHLO.
func greet(t *testing.T, s *sandbox.Server) *player {
	t.Helper()
	p := &player{t: t, file: t.Name(), server: s}
	p.connect(false)
	t.Cleanup(func() { p.conn.Close() })
	p.expect("220*")
	p.send("EHLO relay.example\r\n")
	p.readReply()
	return p
}

// readReply returns the code of the next reply.
func (p *player) readReply() string {
	p.t.Helper()
	for {
		line, err := p.in.ReadString('\n')
		if err != nil {
			p.fatal("in place of a reply came %q and %v", line, err)
		}
		if len(line) < 4 || line[3] != '-' {
			return line[:3]
		}
	}
}

// transact sends the envelope of a message from a@example.com, and its body if the reply to DATA is 354.
func (p *player) transact(body string) {
	p.t.Helper()
	p.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
	p.readReply()
	p.readReply()
	if p.readReply() == "354" {
		p.send(body)
	}
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// secure returns go-smtp's client after its TLS handshake.
func secure(s *sandbox.Server, config *tls.Config) (*smtp.Client, error) {
	c, err := smtp.DialStartTLS(s.Addr(), config)
	if err != nil {
		return nil, err
	}
	if err := c.Noop(); err != nil { // which begins the handshake, and reads a session ticket on its way
		c.Close()
		return nil, err
	}
	return c, nil
}

// login returns go-smtp's client with TLS and a login.
func login(t *testing.T, s *sandbox.Server, config *tls.Config) (*smtp.Client, error) {
	t.Helper()
	if config == nil {
		config = &tls.Config{RootCAs: s.CertPool()}
	}
	c, err := smtp.DialStartTLS(s.Addr(), config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.Auth(sasl.NewPlainClient("", "me", "pw"))
}

func submit(c *smtp.Client, body io.Reader) error {
	return c.SendMail("a@example.com", []string{"b@example.com", "c@example.com"}, body)
}

func text(s string) io.Reader { return strings.NewReader(s) }
