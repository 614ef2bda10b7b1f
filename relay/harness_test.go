package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"relayd/internal/envelope"
)

// patience bounds every wait of a test for something that must happen. A test that passes never waits so long, however
// loaded the machine is.
const patience = time.Minute

// memoryQueue is a queue for tests. Its hooks, where set, run in the place of success.
type memoryQueue struct {
	begin  func(envelope.Envelope) error
	write  func(*memoryMessage, []byte) error
	commit func(context.Context, *memoryMessage) error
	abort  func(*memoryMessage) error

	mu       sync.Mutex
	messages []*memoryMessage
}

// memoryMessage is a Writer that counts what is done to it.
type memoryMessage struct {
	queue     *memoryQueue
	id        string
	env       envelope.Envelope
	origin    envelope.Origin
	content   bytes.Buffer
	committed int
	aborted   int
}

func (q *memoryQueue) Begin(env envelope.Envelope, o envelope.Origin) (Writer, error) {
	if q.begin != nil {
		if err := q.begin(env); err != nil {
			return nil, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	m := &memoryMessage{queue: q, id: fmt.Sprintf("Q%04d", len(q.messages)+1), env: env, origin: o}
	q.messages = append(q.messages, m)
	return m, nil
}

func (m *memoryMessage) ID() string { return m.id }

func (m *memoryMessage) Write(p []byte) (int, error) {
	if f := m.queue.write; f != nil {
		if err := f(m, p); err != nil {
			return 0, err
		}
	}
	m.queue.mu.Lock()
	defer m.queue.mu.Unlock()
	return m.content.Write(p)
}

func (m *memoryMessage) Commit(ctx context.Context) error {
	if f := m.queue.commit; f != nil {
		if err := f(ctx, m); err != nil {
			return err
		}
	}
	m.queue.mu.Lock()
	defer m.queue.mu.Unlock()
	m.committed++
	return nil
}

func (m *memoryMessage) Abort() error {
	m.queue.mu.Lock()
	m.aborted++
	m.queue.mu.Unlock()
	if f := m.queue.abort; f != nil {
		return f(m)
	}
	return nil
}

func (q *memoryQueue) committed() []*memoryMessage {
	q.mu.Lock()
	defer q.mu.Unlock()
	var done []*memoryMessage
	for _, m := range q.messages {
		if m.committed > 0 {
			done = append(done, m)
		}
	}
	return done
}

func (q *memoryQueue) aborted() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, m := range q.messages {
		n += m.aborted
	}
	return n
}

// unsettled returns the messages that were not either committed or aborted, and that once.
func (q *memoryQueue) unsettled() (ids []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.messages {
		if m.committed+m.aborted != 1 {
			ids = append(ids, fmt.Sprintf("%s (committed %d, aborted %d)", m.id, m.committed, m.aborted))
		}
	}
	return ids
}

// split returns a message's trace header and what the client sent.
func (m *memoryMessage) split() (trace, content string) {
	m.queue.mu.Lock()
	defer m.queue.mu.Unlock()
	all := m.content.String()
	i := strings.Index(all, "\r\n")
	for i >= 0 && i+2 < len(all) && all[i+2] == '\t' {
		i += 2 + strings.Index(all[i+2:], "\r\n")
	}
	return all[:i+2], all[i+2:]
}

// house is a running Server with what is around it.
type house struct {
	*Server
	t     *testing.T
	queue *memoryQueue
	log   *logBuffer
	opts  Options
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// open starts a relay with one loopback listener, after change had its way with the options and the tuning.
func open(t *testing.T, change func(*Options, *tuning)) *house {
	t.Helper()
	h := &house{t: t, queue: &memoryQueue{}, log: &logBuffer{}}
	h.opts = Options{
		Hostname:  "relay.test",
		Log:       slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Begin:     h.queue.Begin,
		TrustHint: "trusted_networks in /etc/relayd/relayd.toml",
		Listeners: []Listener{{Address: "127.0.0.1:0"}},
	}
	tune := standardTuning()
	tune.linger = patience
	if change != nil {
		change(&h.opts, &tune)
	}
	var err error
	if h.Server, err = newServer(h.opts, tune); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) start() *house {
	h.t.Helper()
	if err := h.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
	return h
}

// stop ends the server and checks what must hold at the end of every test.
func (h *house) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil && !errors.Is(err, ErrClosed) {
		h.t.Errorf("Shutdown: %v", err)
	}
	if ids := h.queue.unsettled(); len(ids) > 0 {
		h.t.Errorf("messages neither committed nor aborted once: %v", ids)
	}
}

func start(t *testing.T, change func(*Options, *tuning)) *house {
	t.Helper()
	return open(t, change).start()
}

func (h *house) dial() *client {
	h.t.Helper()
	c, err := net.Dial("tcp", h.Addrs()[0].String())
	if err != nil {
		h.t.Fatal(err)
	}
	return newClient(h.t, c)
}

// pretend makes the n-th accepted connection look as if it came from addrs[n]; the last one stands for all after.
func (h *house) pretend(addrs ...string) *house {
	listen := h.listen
	h.listen = func(network, address string) (net.Listener, error) {
		l, err := listen(network, address)
		return &pretender{Listener: l, addrs: addrs}, err
	}
	return h
}

type pretender struct {
	net.Listener
	mu    sync.Mutex
	addrs []string
}

func (l *pretender) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := l.addrs[0]
	if len(l.addrs) > 1 {
		l.addrs = l.addrs[1:]
	}
	return &pretended{Conn: c, addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 50000))}, nil
}

type pretended struct {
	net.Conn
	addr net.Addr
}

func (c *pretended) RemoteAddr() net.Addr { return c.addr }

// CloseWrite is that of the connection, if it has one.
func (c *pretended) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// client is the other end of a session.
type client struct {
	t    *testing.T
	conn net.Conn
	have []byte
	wait time.Duration
}

func newClient(t *testing.T, c net.Conn) *client {
	t.Cleanup(func() { c.Close() })
	return &client{t: t, conn: c, wait: patience}
}

func (c *client) send(s string) {
	c.t.Helper()
	c.conn.SetWriteDeadline(time.Now().Add(c.wait))
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("sending %.60q: %v", s, err)
	}
}

// endSending closes the client's direction; it can still read.
func (c *client) endSending() {
	c.t.Helper()
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// line returns the server's next line without its CRLF, or the error that came instead.
func (c *client) line() (string, error) {
	for {
		if i := bytes.IndexByte(c.have, '\n'); i >= 0 {
			line := string(c.have[:i+1])
			c.have = c.have[i+1:]
			if !strings.HasSuffix(line, "\r\n") {
				return line, errors.New("a reply line without CRLF")
			}
			return line[:len(line)-2], nil
		}
		c.conn.SetReadDeadline(time.Now().Add(c.wait))
		var b [4096]byte
		n, err := c.conn.Read(b[:])
		c.have = append(c.have, b[:n]...)
		if n == 0 && err != nil {
			return "", err
		}
	}
}

// expect reads one reply line for each pattern, in which "*" stands for anything.
func (c *client) expect(patterns ...string) {
	c.t.Helper()
	for _, p := range patterns {
		line, err := c.line()
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", p, err)
		}
		if !like(p, line) {
			c.t.Fatalf("server said %q, want %q", line, p)
		}
	}
}

// expectReply reads a whole reply and checks its last line.
func (c *client) expectReply(pattern string) {
	c.t.Helper()
	for {
		line, err := c.line()
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", pattern, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !like(pattern, line) {
			c.t.Fatalf("server said %q, want %q", line, pattern)
		}
		return
	}
}

// expectEOF checks that the server closes the connection in an orderly way and says no more.
func (c *client) expectEOF() {
	c.t.Helper()
	if line, err := c.line(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("the connection is not closed: line %q, error %v", line, err)
	}
}

func (c *client) command(line, pattern string) {
	c.t.Helper()
	c.send(line + "\r\n")
	c.expectReply(pattern)
}

// hello reads the greeting and says EHLO.
func (c *client) hello() *client {
	c.t.Helper()
	c.expect("220 relay.test *")
	c.command("EHLO client.test", "250 *")
	return c
}

// envelope begins a transaction.
func (c *client) envelope() *client {
	c.t.Helper()
	c.command("MAIL FROM:<a@client.test>", "250 *")
	c.command("RCPT TO:<b@other.test>", "250 *")
	return c
}

func (c *client) startTLS(pool *x509.CertPool) error {
	tc := tls.Client(c.conn, &tls.Config{RootCAs: pool, ServerName: "relay.test"})
	c.conn.SetDeadline(time.Now().Add(patience))
	defer c.conn.SetDeadline(time.Time{})
	if err := tc.Handshake(); err != nil {
		return err
	}
	c.conn = tc
	return nil
}

// like reports whether s matches pattern, where "*" stands for any text.
func like(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come true", what)
		}
	}
}

var testCertificate = sync.OnceValues(func() (*tls.Config, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"relay.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
})
