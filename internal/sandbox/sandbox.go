package sandbox

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Options say what kind of smarthost Start makes. The zero value is a strict one on a loopback port that the kernel
// picks: it demands STARTTLS and AUTH and takes any login.
type Options struct {
	// Address is where it listens, host:port, for sessions that begin in the clear; "" is 127.0.0.1:0.
	Address string
	// ImplicitAddress is where it listens for sessions that begin with TLS (RFC 8314); "" is nowhere.
	ImplicitAddress string
	// Hostname is what it calls itself and has in its certificate; "" is the personality's name, or "localhost".
	Hostname string
	// Username and Password are the one login that it takes. Both empty: any login with a name and a password.
	Username, Password string
	// VerifyToken, when set, reports whether an OAuth2 access token lets a user in; XOAUTH2 and OAUTHBEARER then work, and
	// are offered beside PLAIN and LOGIN unless Mechanisms or the personality say otherwise.
	VerifyToken func(user, token string) bool
	// Personality is one of Personalities; "" is the plain one.
	Personality string

	// NoTLS takes STARTTLS away and with it the demand for TLS. AUTH then needs AuthInClear.
	NoTLS bool
	// NoAuth takes AUTH away and with it the demand for a login.
	NoAuth bool
	// OptionalTLS takes MAIL also from sessions without TLS.
	OptionalTLS bool
	// OptionalAuth takes MAIL also from sessions without a login.
	OptionalAuth bool
	// AuthInClear offers and takes AUTH also before TLS.
	AuthInClear bool
	// Mechanisms are the words of the AUTH line; nil is PLAIN LOGIN. Those two can succeed, with Username and Password also
	// CRAM-MD5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, and with VerifyToken also XOAUTH2 and OAUTHBEARER; any other that
	// stands here is offered, and answered 504 when it is used.
	Mechanisms []string
	// LoginPrompts are what follows "334 " in AUTH LOGIN, on the wire as they stand here; nil is the usual
	// "VXNlcm5hbWU6" and "UGFzc3dvcmQ6" (Username: and Password:).
	LoginPrompts []string
	// Extensions change the lines of the EHLO reply that follow the first. A list of plain lines replaces them all. A
	// list in which each entry begins with "-" or "+" changes the usual ones: "-PIPELINING" takes a line away, "+SIZE
	// 1000" puts one there, in the place of the one with the same keyword. STARTTLS is shown before TLS only, and AUTH
	// after TLS only (unless AuthInClear), wherever they come from. What is not shown is not accepted either.
	Extensions []string

	// Certificate is the kind of certificate that it shows: CertificateGood or a faulty one.
	Certificate CertificateKind
	// MinTLS and MaxTLS bound the version; 0 is TLS 1.2 and TLS 1.3.
	MinTLS, MaxTLS uint16
	// DemandClient takes only TLS clients that show a certificate of the CA; ClientCertificate makes one.
	DemandClient bool
	// CADir is the folder that gets ca.pem, and ca-key.pem beside it. When both are there already they are used again,
	// so that several servers and several runs can share one CA. "" is a private folder that Close removes.
	CADir string

	// MaxSize is the largest body in octets, shown in SIZE; 0 is 50 MiB, less than 0 is no limit.
	MaxSize int64
	// MaxRecipients is how many recipients a transaction may have before 452 4.5.3; 0 is no limit.
	MaxRecipients int
	// MaxConnections is how many connections may be open at once before 421 4.7.0; 0 is no limit.
	MaxConnections int
	// MaxPerConnection is how many transactions a connection may have before 421 4.7.0; 0 is no limit.
	MaxPerConnection int
	// IdleTimeout is how long it waits for a client before 421 4.4.2; 0 is five minutes (RFC 5321 section 4.5.3.2.7).
	IdleTimeout time.Duration
	// Latency is the round-trip time of the line that it pretends to sit on; 0 is none.
	Latency time.Duration

	// Dir is the folder where each message is kept as an .eml file, with a .json file of its envelope beside it; "" is
	// memory only.
	Dir string
	// DiscardBodies keeps size and SHA-256 of a message in memory and forgets its octets. Files in Dir are whole.
	DiscardBodies bool
	// OnMessage, when set, is told of each message as it is kept, before its reply goes out.
	OnMessage func(Message)
	// Transcript gets the dialogue, a line at a time, as "[1] C: NOOP" and "[1] S: 250 2.0.0 ok", where 1 is the
	// number of the connection. Credentials are masked and bodies abbreviated.
	Transcript io.Writer
}

// Server is a running sandbox. Its methods may be called from several goroutines.
type Server struct {
	opts       Options
	words      words
	extensions []string
	maxSize    int64 // octets; less than 0 is no limit
	ca         *authority
	tlsConfig  *tls.Config
	spool      *spool
	log        *transcript

	life sync.Mutex // held by Stop, Resume and Close, which come one at a time
	down bool
	gone bool

	endpoints []*endpoint
	stopped   func() // ends the context of the sessions
	running   sync.WaitGroup

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced at each change that somebody may wait for
	sessions   map[*session]struct{}
	stats      Stats
	messages   []Message
	arrived    int // messages whose body ended, kept or not
	violations []string
	faults     []*armed
}

// endpoint is one address to listen on. Between Stop and Resume hold keeps the port from anybody else.
type endpoint struct {
	address  string
	implicit bool
	listener net.Listener
	hold     io.Closer
}

const (
	defaultAddress     = "127.0.0.1:0"
	defaultMaxSize     = 50 << 20
	defaultIdleTimeout = 5 * time.Minute
)

// Start makes a smarthost and returns when it listens. Errors name the option that is wrong, or the address that
// cannot be had.
func Start(opts Options) (*Server, error) {
	s, err := newServer(opts)
	if err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

func newServer(opts Options) (*Server, error) {
	p, err := personalityFor(opts.Personality)
	if err != nil {
		return nil, err
	}
	unbounded := opts.MaxSize == 0
	opts = p.apply(opts)
	s := &Server{
		opts: opts, words: p.words,
		log: &transcript{w: opts.Transcript}, changed: make(chan struct{}), sessions: map[*session]struct{}{},
	}
	s.endpoints = []*endpoint{{address: opts.Address}}
	if opts.ImplicitAddress != "" {
		s.endpoints = append(s.endpoints, &endpoint{address: opts.ImplicitAddress, implicit: true})
	}
	if s.extensions, err = extensionLines(p.lines(opts), opts.Extensions); err != nil {
		return nil, err
	}
	if s.maxSize = opts.MaxSize; unbounded {
		s.maxSize = cmp.Or(announcedSize(s.extensions), s.maxSize)
	}
	if len(opts.LoginPrompts) != 2 {
		return nil, fmt.Errorf("sandbox: LoginPrompts has %d entries; AUTH LOGIN asks for two things", len(opts.LoginPrompts))
	}
	if s.spool, err = openSpool(opts.Dir); err != nil {
		return nil, err
	}
	if s.ca, err = openAuthority(opts.CADir); err != nil {
		return nil, err
	}
	s.tlsConfig = &tls.Config{
		MinVersion: cmp.Or(opts.MinTLS, tls.VersionTLS12), MaxVersion: opts.MaxTLS, GetCertificate: s.ca.current,
	}
	if opts.MaxTLS != 0 && opts.MaxTLS < s.tlsConfig.MinVersion {
		s.tlsConfig.MinVersion = opts.MaxTLS
	}
	if opts.DemandClient {
		s.tlsConfig.ClientAuth, s.tlsConfig.ClientCAs = tls.RequireAndVerifyClientCert, s.CertPool()
	}
	if err := s.SetCertificate(opts.Certificate); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

// listen binds every endpoint or none, and begins to accept.
func (s *Server) listen() error {
	for _, e := range s.endpoints {
		if e.hold != nil {
			e.hold.Close()
			e.hold = nil
		}
		l, err := net.Listen("tcp", e.address)
		if err != nil {
			for _, bound := range s.endpoints {
				bound.close()
			}
			return fmt.Errorf("sandbox: cannot listen on %s (choose another address, or port 0 for any that is free): %w",
				e.address, err)
		}
		e.listener, e.address = l, l.Addr().String()
	}
	up, cancel := context.WithCancel(context.Background())
	s.stopped = cancel
	for _, e := range s.endpoints {
		l := e.listener
		s.running.Go(func() { s.accept(up, l, e.implicit) })
	}
	return nil
}

func (e *endpoint) close() {
	if e.listener != nil {
		e.listener.Close()
		e.listener = nil
	}
}

func (s *Server) accept(up context.Context, l net.Listener, implicit bool) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.admit(up, conn, implicit)
		case up.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, as a rule: some connection must end first
			pause(up, 10*time.Millisecond)
		}
	}
}

// admit starts a session on conn, unless the server was stopped meanwhile.
func (s *Server) admit(up context.Context, conn net.Conn, implicit bool) {
	c := newSession(s, up, conn, implicit)
	s.mu.Lock()
	defer s.mu.Unlock()
	if up.Err() != nil {
		conn.Close()
		return
	}
	s.sessions[c] = struct{}{}
	s.stats.Connections++
	s.stats.Open++
	s.stats.MaxOpen = max(s.stats.MaxOpen, s.stats.Open)
	c.number = s.stats.Connections
	c.crowded = s.opts.MaxConnections > 0 && s.stats.Open > s.opts.MaxConnections
	s.notify()
	s.running.Go(c.run)
}

func (s *Server) leave(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c)
	s.stats.Open--
	s.notify()
}

// Addr returns host:port of the address for sessions that begin in the clear. It stays the same over Stop and Resume.
func (s *Server) Addr() string { return s.endpoints[0].address }

// ImplicitAddr returns host:port of the address for implicit TLS, or "" when there is none.
func (s *Server) ImplicitAddr() string {
	if len(s.endpoints) < 2 {
		return ""
	}
	return s.endpoints[1].address
}

// CAFile returns the path of the CA certificate (PEM) that a client must trust.
func (s *Server) CAFile() string { return s.ca.file }

// CertPool returns a pool with the CA certificate that a client must trust.
func (s *Server) CertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	return pool
}

// Certificate returns the certificate that new TLS handshakes see.
func (s *Server) Certificate() (*x509.Certificate, error) {
	return x509.ParseCertificate(s.ca.serving.Load().Certificate[0])
}

// ClientCertificate makes a certificate for a TLS client, signed by the CA, with the key beside it.
func (s *Server) ClientCertificate(name string) (tls.Certificate, error) {
	return s.ca.issueClient(name)
}

// SetCertificate changes the certificate that new TLS handshakes see, and makes earlier sessions impossible to resume.
func (s *Server) SetCertificate(kind CertificateKind) error {
	if err := s.ca.issue(kind, s.opts.Hostname); err != nil {
		return err
	}
	s.tlsConfig.SetSessionTicketKeys([][32]byte{randomKey()})
	return nil
}

// Stop makes the server go away: every connection is closed without a word, and new ones are refused. It returns when
// no session runs any more. Messages, statistics and faults stay.
func (s *Server) Stop() error {
	s.life.Lock()
	defer s.life.Unlock()
	return s.stop()
}

func (s *Server) stop() error {
	if s.down {
		return nil
	}
	s.down = true
	s.stopped()
	var errs []error
	for _, e := range s.endpoints {
		e.close()
		hold, err := reservePort(e.address)
		if err != nil {
			errs = append(errs, fmt.Errorf("sandbox: cannot keep port of %s for Resume: %w", e.address, err))
			continue
		}
		e.hold = hold
	}
	s.mu.Lock()
	for c := range s.sessions {
		c.conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(errs...)
}

// Resume makes a stopped server come back on the same addresses.
func (s *Server) Resume() error {
	s.life.Lock()
	defer s.life.Unlock()
	switch {
	case s.gone:
		return errors.New("sandbox: the server was closed for good; Start another")
	case !s.down:
		return nil
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.down = false
	return nil
}

// Close ends the server for good: no connection, listener or goroutine of it is left, and a private CA folder is
// removed. Messages, Stats and Violations can still be read.
func (s *Server) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.gone {
		return nil
	}
	s.gone = true
	err := s.stop()
	s.discard()
	return err
}

// discard releases what Start took hold of besides listeners and sessions.
func (s *Server) discard() {
	for _, e := range s.endpoints {
		if e.hold != nil {
			e.hold.Close()
			e.hold = nil
		}
	}
	if s.ca.private {
		os.RemoveAll(s.ca.dir)
	}
}

// Violations returns what clients did against the RFCs, in the order in which it was seen, each with the number of its
// connection: bare CR or LF, lines too long, commands out of order or not offered, AUTH before TLS and the like.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// pause waits for d, or until ctx is done, which it reports as false.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
