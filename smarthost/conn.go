package smarthost

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relayd/internal/envelope"
)

// The stages of an attempt, as envelope.Failure names them.
const (
	stageDial     = "dial"
	stageTLS      = "tls"
	stageGreeting = "greeting"
	stageEHLO     = "ehlo"
	stageStartTLS = "starttls"
	stageAuth     = "auth"
	stageMail     = "mail"
	stageRcpt     = "rcpt"
	stageData     = "data"
	stageDot      = "dot"
)

// stageError is what ended the work on a connection: the host's own reply, or an error without one. The connection is
// of no more use.
type stageError struct {
	stage string
	reply envelope.Reply
	err   error
}

func (e *stageError) Error() string {
	if e.err != nil {
		return e.stage + ": " + e.err.Error()
	}
	return e.stage + ": " + e.reply.String()
}

func (e *stageError) Unwrap() error { return e.err }

// errUnsafe is a command that would not be one line. The envelope's parsers let none come about; this holds the wire
// even if a stored envelope was damaged.
var errUnsafe = errors.New("the envelope holds a control character, so that the command would not be one line")

// conn is a connection to a host, logged in and between two transactions, or in one. What is written and what is read
// are separate steps: put and flush, and receive. It belongs to one goroutine at a time, except for interrupt.
type conn struct {
	br       *bufio.Reader
	bw       *bufio.Writer
	timeouts Timeouts
	order    *order // the host's
	banner   string // the words of the greeting and of the first line after EHLO, without what is new each time
	// secrets are replaced in whatever the host says, should it echo them.
	secrets []string

	caps capabilities
	// offered is the SIZE that the host offered; caps may hold a smaller one.
	offered int64
	// tls and mech say how the session is secured and logged in: "TLS 1.3" and "PLAIN", or nothing.
	tls, mech string
	// sent counts the octets that were written below bw.
	sent int64
	// uses counts finished transactions; one that has served before may have been closed by the host since.
	uses int
	// oweReset is set when a transaction was left open, so that RSET must come before the next MAIL.
	oweReset bool
	// cleared is set when the address says that this is not the relay itself, whatever the host's name.
	cleared bool
	// spent is set when the connection must not serve again although nothing broke.
	spent bool
	// follower has its envelope on the wire behind the body of the present transaction, and gets the connection next.
	follower *waiter

	// What the pool keeps of it. Leaving is set while it says QUIT.
	generation int
	idleSince  time.Time
	leaving    bool

	// heard is when the host last said something or took some of a body, in nanoseconds.
	heard atomic.Int64

	raw net.Conn // the TCP connection

	mu sync.Mutex
	nc net.Conn // raw, or the TLS session on it
	// cutoff is the end of all waiting once the delivery is cancelled; zero before.
	cutoff time.Time
	// due is the end of all that the present work may take, as allow and earn set it; zero for none.
	due time.Time
	// sealed is set from the final dot until its reply: a cancelled delivery then waits for Timeouts.Grace.
	sealed bool
}

func newConn(nc net.Conn, t Timeouts) *conn {
	c := &conn{raw: nc, nc: nc, timeouts: t, order: new(order)}
	c.br = bufio.NewReaderSize(nc, maxReplyLine)
	c.bw = bufio.NewWriterSize(blockWriter{c}, writeBlock)
	return c
}

// upgrade goes on over nc, a TLS session on the present connection. Nothing learnt in the clear is kept.
func (c *conn) upgrade(nc net.Conn) {
	c.mu.Lock()
	c.nc = nc
	c.mu.Unlock()
	c.br.Reset(nc)
	c.caps = capabilities{}
}

// hide makes secret, and its base64, unreadable in the host's replies. A secret of a few letters is hidden in its base64
// alone, since it may be part of any word.
func (c *conn) hide(secret []byte) {
	if len(secret) > 3 {
		c.secrets = append(c.secrets, string(secret))
	}
	if len(secret) > 0 {
		c.secrets = append(c.secrets, strings.TrimRight(base64.StdEncoding.EncodeToString(secret), "="))
	}
	if len(secret) > 3 {
		c.secrets = append(c.secrets, within(secret, 1), within(secret, 2), within(secret, 0))
	}
	// What holds another goes first, so that nothing of it is left over.
	slices.SortStableFunc(c.secrets, func(a, b string) int { return len(b) - len(a) })
}

// within is the part of base64 that stands for secret wherever it was encoded behind so many octets more than a multiple
// of three, whatever those are and whatever follows: a host can repeat a login in a form that it was not sent in.
func within(secret []byte, behind int) string {
	text := base64.RawStdEncoding.EncodeToString(append(make([]byte, behind), secret...))
	first := []int{0, 2, 3}[behind] // the digits in which those octets have a part
	return text[first : len(text)-1]
}

func (c *conn) redact(s string) string {
	for _, secret := range c.secrets {
		s = strings.ReplaceAll(s, secret, "[secret]")
	}
	return s
}

// watch lets ctx end all waiting on c until stop is called; stop reports whether it did not.
func (c *conn) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, c.interrupt)
}

func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutoff = time.Now()
	if c.sealed {
		c.cutoff = c.cutoff.Add(c.timeouts.Grace)
	}
	c.nc.SetDeadline(c.cutoff)
}

// seal tells that the final dot is about to go out, or that its reply is in.
func (c *conn) seal(sealed bool) {
	c.mu.Lock()
	c.sealed = sealed
	c.mu.Unlock()
}

// deadline is d from now, or the cutoff or what is due where that is sooner. c.mu is held.
func (c *conn) deadline(d time.Duration) time.Time {
	t := time.Now().Add(d)
	if !c.due.IsZero() && c.due.Before(t) && !c.sealed {
		t = c.due
	}
	if !c.cutoff.IsZero() && c.cutoff.Before(t) {
		return c.cutoff
	}
	return t
}

func (c *conn) armRead(d time.Duration) {
	c.mu.Lock()
	c.nc.SetReadDeadline(c.deadline(d))
	c.mu.Unlock()
}

func (c *conn) armWrite(d time.Duration) {
	c.mu.Lock()
	c.nc.SetWriteDeadline(c.deadline(d))
	c.mu.Unlock()
}

// writeBlock is how much is written under one deadline, in octets: a slow line has Timeouts.Block for each block, and
// only one that stands still runs out of it.
const writeBlock = 32 << 10

// blockWriter writes to a connection block by block.
type blockWriter struct{ c *conn }

func (w blockWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		block := p[n:min(n+writeBlock, len(p))]
		w.c.earn(len(block))
		w.c.armWrite(w.c.timeouts.Block)
		m, err := w.c.nc.Write(block)
		n += m
		w.c.sent += int64(m)
		w.c.alive(err)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// alive notes that the host is there, unless err says otherwise.
func (c *conn) alive(err error) {
	if err == nil {
		c.heard.Store(time.Now().UnixNano())
	}
}

// put adds a command line to what flush will write.
func (c *conn) put(stage, line string) error {
	for i := range len(line) {
		if line[i] < ' ' || line[i] == 0x7f {
			return &stageError{stage: stage, err: errUnsafe}
		}
	}
	c.bw.WriteString(line)
	_, err := c.bw.WriteString("\r\n")
	return stageErr(stage, err)
}

func (c *conn) flush(stage string) error { return stageErr(stage, c.bw.Flush()) }

// receive returns the next reply, whatever its code. 421 closes the connection (RFC 5321 section 3.8), so it is an
// error.
func (c *conn) receive(stage string, d time.Duration) (envelope.Reply, error) {
	c.armRead(d)
	reply, err := readReply(c.br)
	c.alive(err)
	if err != nil {
		if garbage, ok := errors.AsType[*notSMTPError](err); ok {
			garbage.line = c.redact(garbage.line)
		}
		return envelope.Reply{}, stageErr(stage, err)
	}
	reply.Text = c.redact(reply.Text)
	if reply.Code == 421 {
		return reply, &stageError{stage: stage, reply: reply}
	}
	return reply, nil
}

// ask sends one command and returns its reply.
func (c *conn) ask(stage, line string) (envelope.Reply, error) {
	if err := c.put(stage, line); err != nil {
		return envelope.Reply{}, err
	}
	if err := c.flush(stage); err != nil {
		return envelope.Reply{}, err
	}
	return c.receive(stage, c.timeouts.Command)
}

// quit ends the session politely, waiting Timeouts.Quit at most for the host to agree.
func (c *conn) quit() {
	c.mu.Lock()
	c.cutoff, c.due = time.Now().Add(c.timeouts.Quit), time.Time{}
	c.mu.Unlock()
	if c.put("quit", "QUIT") == nil && c.flush("quit") == nil {
		c.receive("quit", c.timeouts.Quit)
	}
	c.nc.Close()
}

// close ends the connection at once. It closes what is below TLS, whose own farewell could wait for a host that reads
// nothing.
func (c *conn) close() { c.raw.Close() }

func stageErr(stage string, err error) error {
	if err == nil {
		return nil
	}
	return &stageError{stage: stage, err: err}
}
