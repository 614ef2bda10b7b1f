//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// sink is a smarthost that takes all mail as fast as it can and keeps none. With a certificate it demands STARTTLS and
// the login.
type sink struct {
	counter
	listener    net.Listener
	tls         *tls.Config
	pipelining  bool
	ca          string // path of the certificate; empty without
	handshakes  atomic.Int64
	resumed     atomic.Int64
	connections atomic.Int64
	octets      atomic.Int64 // of content

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	all   sync.WaitGroup
}

// startSink starts a sink; with dir it demands STARTTLS and puts its certificate there.
func startSink(dir string, pipelining bool) (*sink, error) {
	s := &sink{pipelining: pipelining, conns: make(map[net.Conn]struct{})}
	if dir != "" {
		s.ca = filepath.Join(dir, "ca.pem")
		cert, err := selfSigned(s.ca)
		if err != nil {
			return nil, err
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.all.Go(s.accept)
	return s, nil
}

func (s *sink) addr() string { return s.listener.Addr().String() }

func (s *sink) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.connections.Add(1)
		s.mu.Lock()
		s.conns[nc] = struct{}{}
		s.mu.Unlock()
		s.all.Go(func() {
			s.serve(nc)
			nc.Close()
			s.mu.Lock()
			delete(s.conns, nc)
			s.mu.Unlock()
		})
	}
}

func (s *sink) close() {
	s.listener.Close()
	s.mu.Lock()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// serve speaks with one client until that ends. A whole group of commands is answered at once.
func (s *sink) serve(nc net.Conn) {
	d := &dialogue{sink: s, nc: nc}
	d.over(nc)
	d.say("220 sink ESMTP")
	for {
		line, err := d.line()
		if err != nil || !d.answer(line) {
			return
		}
	}
}

// dialogue is one session of a sink.
type dialogue struct {
	sink   *sink
	nc     net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	secure bool
	authed bool
}

func (d *dialogue) over(c net.Conn) {
	d.r, d.w = bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
}

func (d *dialogue) say(reply string) {
	d.w.WriteString(reply)
	d.w.WriteString("\r\n")
}

// line returns the next line without its end, when all replies are on their way.
func (d *dialogue) line() (string, error) {
	if d.r.Buffered() == 0 {
		if err := d.w.Flush(); err != nil {
			return "", err
		}
	}
	line, err := d.r.ReadSlice('\n')
	return strings.TrimRight(string(line), "\r\n"), err
}

// answer does what a command asks for, and reports whether the session goes on.
func (d *dialogue) answer(line string) bool {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb = strings.ToUpper(verb); {
	case verb == "EHLO" || verb == "HELO":
		d.greet()
	case verb == "STARTTLS" && d.sink.tls != nil && !d.secure:
		return d.startTLS()
	case verb == "AUTH" && d.secure:
		return d.auth(rest)
	case verb == "MAIL" && d.sink.tls != nil && !d.authed:
		d.say("530 5.7.0 Authentication required")
	case verb == "MAIL" || verb == "RCPT" || verb == "RSET" || verb == "NOOP":
		d.say("250 2.0.0 ok")
	case verb == "DATA":
		return d.data()
	case verb == "QUIT":
		d.say("221 2.0.0 bye")
		d.w.Flush()
		return false
	default:
		d.say("500 5.5.1 what?")
	}
	return true
}

func (d *dialogue) greet() {
	lines := []string{"sink", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 104857600"}
	if d.sink.pipelining {
		lines = append(lines, "PIPELINING")
	}
	if d.secure {
		lines = append(lines, "AUTH PLAIN")
	} else if d.sink.tls != nil {
		lines = append(lines, "STARTTLS")
	}
	last := len(lines) - 1
	for _, line := range lines[:last] {
		d.say("250-" + line)
	}
	d.say("250 " + lines[last])
}

func (d *dialogue) startTLS() bool {
	d.say("220 2.0.0 go ahead")
	if d.w.Flush() != nil {
		return false
	}
	c := tls.Server(d.nc, d.sink.tls)
	if c.Handshake() != nil {
		return false
	}
	d.sink.handshakes.Add(1)
	if c.ConnectionState().DidResume {
		d.sink.resumed.Add(1)
	}
	d.secure = true
	d.over(c)
	return true
}

func (d *dialogue) auth(rest string) bool {
	_, initial, _ := strings.Cut(rest, " ")
	if initial == "" {
		d.say("334 ")
		var err error
		if initial, err = d.line(); err != nil {
			return false
		}
	}
	response, _ := base64.StdEncoding.DecodeString(initial)
	if d.authed = string(response) == "\x00"+username+"\x00"+password; d.authed {
		d.say("235 2.7.0 ok")
	} else {
		d.say("535 5.7.8 no")
	}
	return true
}

// data takes a message. It looks for the end line by line, without copying.
func (d *dialogue) data() bool {
	d.say("354 go ahead")
	if d.r.Buffered() == 0 && d.w.Flush() != nil {
		return false
	}
	var octets int64
	for whole := true; ; {
		line, err := d.r.ReadSlice('\n')
		octets += int64(len(line))
		if err == bufio.ErrBufferFull {
			whole = false
			continue
		}
		if err != nil {
			return false
		}
		if whole && bytes.Equal(line, []byte(".\r\n")) {
			d.sink.octets.Add(octets)
			d.sink.add()
			d.say("250 2.0.0 ok")
			return true
		}
		whole = true
	}
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority, and writes it to path.
func selfSigned(path string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// smarthost is what a case hands the relays' mail to.
type smarthost interface {
	addr() string
	close()
	count() int
	expect(n int) <-chan time.Time
	receive(ctx context.Context, told <-chan time.Time, n int) (time.Time, error)
	wait(ctx context.Context, n int) (time.Time, error)
}
