package smarthost

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// The acts of a session with a host that has the route's certificate and login.
const (
	actGreeting  = "greeting"
	actEHLO      = "ehlo"
	actStartTLS  = "starttls"
	actHandshake = "handshake" // instead of the TLS handshake
	actEHLOAgain = "ehlo within TLS"
	actAuth      = "auth"
	actMail      = "mail"
	actRcpt      = "rcpt"
	actData      = "data"
	actDot       = "dot"
	actQuit      = "quit"
)

// villain is a smarthost that may do harm: it answers as a good host does, but for what misdeed does.
type villain struct {
	cert *tls.Certificate
	// misdeed answers line, the command at the act, in the host's place; false leaves that to it.
	misdeed func(s *scene, act, line string) bool
	// most bounds what it sends in all, in octets; then it stalls, or closes if that is set. 0 is no bound.
	most   int
	closes bool

	mu sync.Mutex
	deeds
}

// deeds are what a villain heard and did.
type deeds struct {
	clear  []string // lines that it heard outside of TLS
	secret []string // and within
	sent   int      // octets that were taken from it
	takes  int      // messages that it took
	opened int      // connections
}

func (v *villain) see() deeds {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.deeds
	d.clear, d.secret = slices.Clone(d.clear), slices.Clone(d.secret)
	return d
}

// scene is a session with a villain.
type scene struct {
	net.Conn
	br      *bufio.Reader
	secure  bool
	dropped bool
}

func (s *scene) say(lines ...string) {
	for _, l := range lines {
		if _, err := io.WriteString(s, l+"\r\n"); err != nil {
			s.dropped = true
			return
		}
	}
}

// drone says text until nobody listens any more.
func (s *scene) drone(text string) {
	for !s.dropped {
		if _, err := io.WriteString(s, text); err != nil {
			s.dropped = true
		}
	}
}

// drip says an octet of text each pause, over and over.
func (s *scene) drip(text string, pause time.Duration) {
	for i := 0; !s.dropped; i++ {
		time.Sleep(pause)
		if _, err := s.Write([]byte{text[i%len(text)]}); err != nil {
			s.dropped = true
		}
	}
}

// hang says nothing more, whatever comes.
func (s *scene) hang() {
	io.Copy(io.Discard, s.br)
	s.dropped = true
}

// metered counts what is taken from a villain, and stops it at its bound.
type metered struct {
	net.Conn
	v *villain
}

func (m metered) Write(p []byte) (n int, err error) {
	m.v.mu.Lock()
	room := len(p)
	if m.v.most > 0 {
		room = min(room, m.v.most-m.v.sent)
	}
	m.v.mu.Unlock()
	if room > 0 {
		n, err = m.Conn.Write(p[:room])
		m.v.mu.Lock()
		m.v.sent += n
		m.v.mu.Unlock()
	}
	if err != nil || n == len(p) {
		return n, err
	}
	if !m.v.closes {
		io.Copy(io.Discard, m.Conn)
	}
	m.Conn.Close()
	return n, io.ErrClosedPipe
}

// buffered is a connection that, like a socket and unlike net.Pipe, takes some octets before the peer reads them.
type buffered struct {
	net.Conn
	mu      sync.Mutex
	changed *sync.Cond
	wait    []byte
	err     error
	closing bool
}

const socketBuffer = 64 << 10

func newBuffered(nc net.Conn, pumps *sync.WaitGroup) *buffered {
	b := &buffered{Conn: nc}
	b.changed = sync.NewCond(&b.mu)
	pumps.Go(b.pump)
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.wait) >= socketBuffer && b.err == nil {
		b.changed.Wait()
	}
	if b.err != nil || b.closing {
		return 0, io.ErrClosedPipe
	}
	b.wait = append(b.wait, p...)
	b.changed.Broadcast()
	return len(p), nil
}

// Close closes the connection when all that was written is read.
func (b *buffered) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closing = true
	b.changed.Broadcast()
	return nil
}

func (b *buffered) pump() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil {
		for len(b.wait) == 0 && !b.closing {
			b.changed.Wait()
		}
		if len(b.wait) == 0 {
			break
		}
		out := b.wait
		b.wait = nil
		b.changed.Broadcast()
		b.mu.Unlock()
		_, err := b.Conn.Write(out)
		b.mu.Lock()
		b.err = err
	}
	b.err = io.ErrClosedPipe
	b.changed.Broadcast()
	b.Conn.Close()
}

func (v *villain) play(nc net.Conn) {
	raw := metered{nc, v}
	s := &scene{Conn: raw, br: bufio.NewReader(raw)}
	defer nc.Close()
	v.answer(s, actGreeting, "", "220 two faces")
	for !s.dropped {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		v.hear(s, line)
		verb, _, _ := strings.Cut(line, " ")
		switch {
		case verb == "EHLO" && !s.secure:
			v.answer(s, actEHLO, line, "250-villain", "250-STARTTLS", "250 PIPELINING")
		case verb == "EHLO":
			v.answer(s, actEHLOAgain, line, "250-villain", "250-AUTH PLAIN LOGIN", "250 PIPELINING")
		case verb == "STARTTLS":
			v.answer(s, actStartTLS, line, "220 go ahead")
			v.secure(s, raw)
		case verb == "AUTH":
			v.answer(s, actAuth, line, "235 welcome")
		case verb == "MAIL":
			v.answer(s, actMail, line, "250 ok")
		case verb == "RCPT":
			v.answer(s, actRcpt, line, "250 ok")
		case verb == "DATA":
			v.answer(s, actData, line, "354 go ahead")
			if !v.body(s) {
				return
			}
			v.answer(s, actDot, ".", "250 taken")
		case verb == "QUIT":
			v.answer(s, actQuit, line, "221 bye")
			return
		default:
			v.answer(s, "", line, "250 ok")
		}
	}
}

func (v *villain) hear(s *scene, line string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.secure {
		v.secret = append(v.secret, line)
	} else {
		v.clear = append(v.clear, line)
	}
}

func (v *villain) answer(s *scene, act, line string, usual ...string) {
	if !s.dropped && (v.misdeed == nil || !v.misdeed(s, act, line)) {
		s.say(usual...)
	}
}

func (v *villain) secure(s *scene, raw net.Conn) {
	if s.dropped || v.misdeed != nil && v.misdeed(s, actHandshake, "") {
		return
	}
	tc := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*v.cert}})
	if tc.Handshake() != nil {
		s.dropped = true
		return
	}
	s.Conn, s.br, s.secure = tc, bufio.NewReader(tc), true
}

func (v *villain) body(s *scene) bool {
	for !s.dropped {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			v.mu.Lock()
			v.takes++
			v.mu.Unlock()
			return true
		}
	}
	return false
}

// authority makes the certificates of a test.
type authority struct {
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var theAuthority = sync.OnceValue(func() authority {
	template := certificate("authority")
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	a := authority{pool: x509.NewCertPool(), key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	a.pool.AddCert(a.cert)
	return a
})

// certificate is valid by the clock of synctest, too, which begins with the year 2000.
func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2190, 1, 1, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true,
	}
}

// issue signs a certificate, by its own key where selfSigned is set.
func (a authority) issue(template *x509.Certificate, selfSigned bool) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	parent, signer := a.cert, a.key
	if selfSigned {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

var goodCertificate = sync.OnceValue(func() *tls.Certificate { return theAuthority().issue(certificate("villain"), false) })
