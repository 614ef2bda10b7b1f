package smarthost

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"relayd/internal/envelope"
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

	mu     sync.Mutex
	clear  []string // lines that it heard outside of TLS
	secret []string // and within
	sent   int      // octets that were taken from it
	takes  int      // messages that it took
	opened int
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

// ordeal is a Router with a villain as its first host and, after it, a host that takes the mail.
type ordeal struct {
	*Router
	v    *villain
	good *villain
	log  safeBuffer
	open sync.WaitGroup
}

const (
	villainAddr = "villain:587"
	goodAddr    = "good:587"
)

// endure calls f, in a synctest bubble, with a Router over the villain and, unless alone is set, a good host.
func endure(t *testing.T, v *villain, alone bool, f func(t *testing.T, o *ordeal)) {
	if v.cert == nil {
		v.cert = goodCertificate()
	}
	good := &villain{cert: theAuthority().issue(certificate("good"), false)}
	synctest.Test(t, func(t *testing.T) {
		o := &ordeal{v: v, good: good}
		hosts := []string{villainAddr}
		if !alone {
			hosts = append(hosts, goodAddr)
		}
		var err error
		o.Router, err = New(Options{
			Hostname: "relay.example.com",
			Log:      slog.New(slog.NewTextHandler(&o.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Routes: []Route{{Name: "isp", Hosts: hosts, RootCAs: theAuthority().pool, Username: username, Password: password,
				MaxConnections: 1}},
			Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
				host := map[string]*villain{villainAddr: v, goodAddr: good}[addr]
				host.opened++
				client, server := net.Pipe()
				o.open.Go(func() { host.play(newBuffered(server, &o.open)) })
				return client, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f(t, o)
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
		o.open.Wait()
		o.check(t)
		if t.Failed() {
			t.Log(o.log.String())
		}
	})
}

// mostTaken is more than a session with any host is worth reading, in octets.
const mostTaken = 1 << 20

// check looks for what must never be.
func (o *ordeal) check(t *testing.T) {
	t.Helper()
	for _, line := range o.v.clear {
		switch verb, _, _ := strings.Cut(line, " "); verb {
		case "AUTH", "MAIL", "RCPT", "DATA":
			t.Errorf("%q went in the clear", line)
		}
	}
	noSecret(t, "the clear", strings.Join(o.v.clear, "\n"))
	noSecret(t, "the log", o.log.String())
	noSecret(t, "the status", fmt.Sprintf("%+v", o.Status()))
	if o.v.sent > mostTaken {
		t.Errorf("%d octets were read from the host", o.v.sent)
	}
	if strings.Contains(o.log.String(), "panic") {
		t.Error(o.log.String())
	}
	for _, h := range o.Status()[0].Hosts {
		if h.Connections != 0 {
			t.Errorf("%d connections to %s are left", h.Connections, h.Address)
		}
	}
}

// wantKept fails the test if an attempt lost the message: everything but delivery, and a failure that is not final.
func wantKept(t *testing.T, a envelope.Attempt) {
	t.Helper()
	if a.Site != nil {
		if a.Site.Permanent {
			t.Errorf("the message is given up: %s", show(a))
		}
		noSecret(t, "the reason", show(a))
		return
	}
	if len(a.Results) == 0 {
		t.Error("an attempt without an outcome")
	}
	for _, r := range a.Results {
		if r.Failure == nil || r.Failure.Permanent {
			t.Errorf("the message is not kept: %s", show(a))
		}
	}
	noSecret(t, "the reason", show(a))
}

// on commits a misdeed at one act.
func on(act string, deed func(s *scene, line string)) func(*scene, string, string) bool {
	return func(s *scene, at, line string) bool {
		if at != act {
			return false
		}
		deed(s, line)
		return true
	}
}

// says answers the act with lines.
func says(act string, lines ...string) func(*scene, string, string) bool {
	return on(act, func(s *scene, _ string) { s.say(lines...) })
}

type trial struct {
	name    string
	misdeed func(*scene, string, string) bool
	cert    func() *tls.Certificate
	// after is how long it may hold a delivery; 16 minutes unless said.
	after time.Duration
	// noLogin: the host must not have got one.
	noLogin bool
	// inDoubt: the message may have arrived, so that no other host gets it.
	inDoubt bool
}

func trials() []trial {
	list := []trial{
		{name: "354 to MAIL", misdeed: says(actMail, "354 go on")},
		{name: "354 to RCPT", misdeed: says(actRcpt, "354 go on")},
		{name: "250 to DATA", misdeed: says(actData, "250 ok")},
		{name: "354 to the final dot", misdeed: says(actDot, "354 more"), inDoubt: true},
		{name: "100 to the final dot", misdeed: says(actDot, "100 wait"), inDoubt: true},
		{name: "334 to EHLO", misdeed: says(actEHLO, "334 VXNlcm5hbWU6"), noLogin: true},
		{name: "235 before AUTH", misdeed: says(actEHLOAgain, "235 you are welcome as you are"), noLogin: true},
		{name: "replies ahead of all commands", noLogin: true,
			misdeed: says(actGreeting, "220 a", "250-b", "250-AUTH PLAIN", "250 STARTTLS", "220 c", "250 d", "250 e", "354 f", "250 g")},

		{name: "capabilities before TLS that vanish after", misdeed: func(s *scene, act, _ string) bool {
			switch act {
			case actEHLO:
				s.say("250-villain", "250-STARTTLS", "250-AUTH PLAIN LOGIN", "250 PIPELINING")
			case actEHLOAgain:
				s.say("250 villain")
			default:
				return false
			}
			return true
		}, noLogin: true},
		{name: "login offered in the clear and no STARTTLS", misdeed: says(actEHLO, "250-villain", "250 AUTH PLAIN LOGIN"), noLogin: true},
		{name: "STARTTLS stripped", misdeed: says(actEHLO, "250-villain", "250-XXXXXXXA", "250 AUTH PLAIN"), noLogin: true},
		{name: "STARTTLS refused for now", misdeed: says(actStartTLS, "454 4.7.0 TLS not available"), noLogin: true},
		{name: "STARTTLS refused for ever", misdeed: says(actStartTLS, "502 5.5.1 what"), noLogin: true},
		{name: "EHLO refused", misdeed: says(actEHLO, "502 5.5.1 what"), noLogin: true},
		{name: "only foreign logins", misdeed: says(actEHLOAgain, "250-villain", "250 AUTH NTLM CRAM-MD5 XOAUTH2"), noLogin: true},
		{name: "STARTTLS offered again within TLS", misdeed: says(actEHLOAgain, "250-villain", "250 STARTTLS"), noLogin: true},

		{name: "plain text in the place of the handshake", noLogin: true,
			misdeed: on(actHandshake, func(s *scene, _ string) { s.say("220 let us talk in the clear", "250 AUTH PLAIN") })},
		{name: "octets at random in the place of the handshake", noLogin: true, misdeed: on(actHandshake, func(s *scene, _ string) {
			b := make([]byte, 4096)
			rand.Read(b)
			s.Write(b)
		})},
		{name: "a TLS alert", misdeed: on(actHandshake, func(s *scene, _ string) { s.Write([]byte("\x15\x03\x03\x00\x02\x02\x28")) }), noLogin: true},
		{name: "an expired certificate", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.NotAfter = c.NotBefore.AddDate(1, 0, 0)
			return theAuthority().issue(c, false)
		}},
		{name: "a certificate of the future", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.NotBefore = c.NotAfter.AddDate(-1, 0, 0)
			return theAuthority().issue(c, false)
		}},
		{name: "the certificate of another", noLogin: true, cert: func() *tls.Certificate {
			return theAuthority().issue(certificate("good"), false)
		}},
		{name: "a self-signed certificate", noLogin: true, cert: func() *tls.Certificate {
			return theAuthority().issue(certificate("villain"), true)
		}},
		{name: "a certificate that is no server's", noLogin: true, cert: func() *tls.Certificate {
			c := certificate("villain")
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			return theAuthority().issue(c, false)
		}},

		{name: "a login that asks on without end", misdeed: func(s *scene, act, line string) bool {
			if act == actAuth || act == "" && line != "RSET" {
				s.say("334 VXNlcm5hbWU6")
				return true
			}
			return false
		}},
		{name: "a refusal that repeats the password", misdeed: on(actAuth, func(s *scene, line string) {
			s.say("535-5.7.8 you said "+line, "535-5.7.8 that is "+password, "535 5.7.8 or "+b64(password))
		})},
		{name: "a capability that repeats nothing but fills the reply", noLogin: true,
			misdeed: on(actEHLOAgain, func(s *scene, _ string) {
				for range 99 {
					s.say("250-AUTH " + strings.Repeat("X ", 2000))
				}
				s.say("250 end")
			})},
		{name: "a body read by the octet", inDoubt: true, misdeed: on(actData, func(s *scene, _ string) {
			s.say("354 slowly")
			for one := make([]byte, 1); !s.dropped; time.Sleep(time.Minute) {
				if _, err := s.Read(one); err != nil {
					s.dropped = true
				}
			}
		})},
	}
	for _, act := range []string{actGreeting, actEHLO, actStartTLS, actEHLOAgain, actAuth, actMail, actRcpt, actData, actDot} {
		before := map[string]bool{actGreeting: true, actEHLO: true, actStartTLS: true, actEHLOAgain: true}[act]
		add := func(name string, deed func(s *scene)) {
			list = append(list, trial{name: name + " at " + act, noLogin: before, inDoubt: act == actDot,
				misdeed: on(act, func(s *scene, _ string) { deed(s) })})
		}
		add("lines without end", func(s *scene) { s.drone("250-" + strings.Repeat("x", 500) + "\r\n") })
		add("empty lines without end", func(s *scene) { s.drone("250-\r\n") })
		add("a line without end", func(s *scene) { s.drone("250 xxxxxxxxxxxxxxxx") })
		add("line ends without end", func(s *scene) { s.drone("\r\n") })
		add("CRs without end", func(s *scene) { s.drone("\r\r\r\r") })
		add("zeros without end", func(s *scene) { s.drone(strings.Repeat("\x00", 100)) })
		add("garbage of several lines", func(s *scene) { s.say("250-a", "251-b", "hello", "250 c") })
		add("HTTP", func(s *scene) { s.say("HTTP/1.1 400 Bad Request", "", "<html>") })
		add("an octet a second", func(s *scene) { s.drip("250-slow\r\n", time.Second) })
		add("an octet each four minutes", func(s *scene) { s.drip("250-slow\r\n", 4*time.Minute) })
		add("a code that is none", func(s *scene) { s.say("999 what") })
		add("silence", func(s *scene) { s.hang() })
		add("the end", func(s *scene) { s.Close(); s.dropped = true })
	}
	return list
}

// A hostile or broken smarthost can delay mail, by what is said here at most, and no more than that: the message is kept
// or goes to the next host, the password is not seen without verified TLS, a bounded part of what it sends is read, and
// the delivery ends.
func TestHostileHost_DelaysAndNoMore(t *testing.T) {
	for _, c := range trials() {
		t.Run(c.name, func(t *testing.T) {
			for _, alone := range []bool{true, false} {
				v := &villain{misdeed: c.misdeed}
				if c.cert != nil {
					v.cert = c.cert()
				}
				endure(t, v, alone, func(t *testing.T, o *ordeal) { c.judge(t, o, alone) })
			}
		})
	}
}

func (c trial) judge(t *testing.T, o *ordeal, alone bool) {
	start := time.Now()
	a := o.Deliver(t.Context(), "isp", mail(hello))
	most := max(c.after, 16*time.Minute)
	if took := time.Since(start); took > most {
		t.Errorf("the delivery was held for %v", took)
	}
	switch {
	case alone || c.inDoubt:
		wantKept(t, a)
		if a.PossibleDuplicate != c.inDoubt {
			t.Errorf("possible duplicate: %v: %s", a.PossibleDuplicate, show(a))
		}
	default:
		wantDelivered(t, a, goodAddr)
	}
	if logins := strings.Count(strings.Join(o.v.secret, "\n"), "AUTH "); c.noLogin && logins > 0 || logins > 1 {
		t.Errorf("%d logins were tried", logins)
	}
	if alone {
		return
	}
	for _, id := range []string{"q2", "q3"} { // a host that never answers a dot is left after three messages
		if c.inDoubt {
			m := mail(hello)
			m.ID = id
			wantKept(t, o.Deliver(t.Context(), "isp", m))
		}
	}
	start = time.Now()
	m := mail(hello)
	m.ID = "next"
	if wantDelivered(t, o.Deliver(t.Context(), "isp", m), goodAddr); time.Since(start) > 0 {
		t.Errorf("the next message was held for %v", time.Since(start))
	}
}

// Wherever a host falls silent or hangs up, octet by octet of all that it says, TLS records included, the message is kept
// and the worker is free again within the timeouts.
func TestHostileHost_StallsOrEndsAtEachOctet(t *testing.T) {
	whole := &villain{}
	endure(t, whole, true, func(t *testing.T, o *ordeal) {
		wantDelivered(t, o.Deliver(t.Context(), "isp", mail(hello)), villainAddr)
	})
	step := 1
	if testing.Short() {
		step = 17
	}
	tried := 0
	for most := 1; most < whole.sent-60; most += step {
		for _, closes := range []bool{false, true} {
			tried++
			v := &villain{most: most, closes: closes}
			endure(t, v, true, func(t *testing.T, o *ordeal) {
				start := time.Now()
				a := o.Deliver(t.Context(), "isp", mail(hello))
				took := time.Since(start)
				if delivered := a.Site == nil && a.Results[0].Failure == nil; delivered {
					if v.takes == 0 {
						t.Error("delivered to a host that took nothing")
					}
				} else if wantKept(t, a); a.PossibleDuplicate != (v.takes > 0) {
					t.Errorf("possible duplicate: %v, and the host took %d messages", a.PossibleDuplicate, v.takes)
				}
				if took > 16*time.Minute {
					t.Errorf("held for %v", took)
				}
			})
			if t.Failed() {
				t.Fatalf("with %d of %d octets, closes %v", most, whole.sent, closes)
			}
		}
	}
	t.Logf("%d ways to stop within %d octets", tried, whole.sent)
}

// A host that stays within each timeout is left after a time in all.
func TestHostileHost_CannotCrawlForEver(t *testing.T) {
	almost := func(s *scene, line string) { time.Sleep(4*time.Minute + 50*time.Second); s.say(line) }
	for _, c := range []struct {
		name    string
		misdeed func(*scene, string, string) bool
		to      int
		body    string
		least   time.Duration
		most    time.Duration
	}{
		{name: "opening", to: 1, least: 10 * time.Minute, most: 16 * time.Minute, misdeed: func(s *scene, act, _ string) bool {
			switch act {
			case actGreeting:
				almost(s, "220 hello")
			case actEHLO:
				almost(s, "250-v\r\n250 STARTTLS")
			case actStartTLS:
				almost(s, "220 go")
			case actEHLOAgain:
				almost(s, "250-v\r\n250 AUTH LOGIN")
			default:
				almost(s, "334 VXNlcm5hbWU6")
			}
			return true
		}},
		{name: "recipients", to: 500, least: 90 * time.Minute, most: 100 * time.Minute, // 500 * 5 minutes are two days
			misdeed: on(actRcpt, func(s *scene, _ string) { almost(s, "250 ok") })},
		{name: "body", to: 1, body: strings.Repeat(strings.Repeat("x", 78)+"\r\n", 26214), // 2 MiB
			least: 20 * time.Minute, most: 30 * time.Minute, // it would take three hours
			misdeed: on(actData, func(s *scene, _ string) {
				s.say("354 go")
				for { // 32 KiB in each three minutes but a little
					time.Sleep(2*time.Minute + 50*time.Second)
					if _, err := io.CopyN(io.Discard, s.br, writeBlock); err != nil {
						s.dropped = true
						return
					}
				}
			})},
	} {
		t.Run(c.name, func(t *testing.T) {
			endure(t, &villain{misdeed: c.misdeed}, true, func(t *testing.T, o *ordeal) {
				to := make([]string, c.to)
				for i := range to {
					to[i] = fmt.Sprintf("r%d@example.net", i)
				}
				m := mail(c.body+hello, to...)
				start := time.Now()
				wantKept(t, o.Deliver(t.Context(), "isp", m))
				if took := time.Since(start); took > c.most || took < c.least {
					t.Errorf("held for %v, want %v to %v", took, c.least, c.most)
				}
			})
		})
	}
}

// A host that hangs up at once, for hours, costs no memory, no goroutine and no more than a probe in each pause.
func TestHostileHost_ThatIsAlwaysThereAndNeverWorksIsProbedSeldom(t *testing.T) {
	v := &villain{misdeed: says(actGreeting, "421 4.3.2 not now")}
	endure(t, v, true, func(t *testing.T, o *ordeal) {
		for range 24 * 60 * 6 {
			wantKept(t, o.Deliver(t.Context(), "isp", mail(hello)))
			time.Sleep(10 * time.Second)
		}
		if v.opened > 24*60/2+10 {
			t.Errorf("%d connections in a day", v.opened)
		}
	})
}
