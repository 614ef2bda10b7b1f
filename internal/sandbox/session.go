package sandbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// session is one connection.
type session struct {
	server   *Server
	up       context.Context
	conn     net.Conn // the connection itself; what the session uses of it is wire
	wire     *wire
	number   int
	implicit bool
	crowded  bool // one more than MaxConnections

	tls       string // version, such as "TLS 1.3"; "" before TLS
	state     tls.ConnectionState
	esmtp     bool   // said EHLO
	hello     string // argument of EHLO or HELO; "" before
	user      string
	authed    bool
	refused   bool   // the greeting was a refusal
	shown     string // the last command line, as it may be shown
	afterAuth bool   // the last command that it knows was AUTH

	tx    *transaction
	taken int // transactions
}

// Ends of a session that are not failures of the connection.
var (
	errClose = errors.New("the session ends after its reply")
	errDrop  = errors.New("the connection is dropped")
	errReset = errors.New("the connection is reset")
)

func newSession(s *Server, up context.Context, conn net.Conn, implicit bool) *session {
	c := &session{server: s, up: up, conn: conn, implicit: implicit}
	c.wire = newWire(slowed(conn, s.opts.Latency), s.opts.IdleTimeout, func() { s.count(func(st *Stats) { st.Turns++ }) })
	return c
}

func (c *session) run() {
	defer c.server.leave(c)
	defer c.wire.raw.Close()
	c.note("connected from " + c.conn.RemoteAddr().String())
	switch err := c.serve(); {
	case errors.Is(err, errClose):
		c.wire.hangUp()
		c.note("closed")
	case errors.Is(err, errDrop):
		c.note("dropped by the sandbox")
	case errors.Is(err, errReset):
		c.wire.reset()
		c.note("reset by the sandbox")
	case c.up.Err() != nil:
		c.note("closed: the sandbox went away")
	case errors.Is(err, os.ErrDeadlineExceeded):
		if c.send("421 4.4.2 "+c.server.opts.Hostname+" waited too long for you") == nil {
			c.wire.hangUp()
		}
		c.note("closed: idle")
	default:
		c.note("the client left: " + err.Error())
	}
}

func (c *session) serve() error {
	if err := c.open(); err != nil {
		return err
	}
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		if err := c.command(line); err != nil {
			return err
		}
	}
}

// open runs the session up to its greeting.
func (c *session) open() error {
	peer := c.conn.RemoteAddr().String()
	if reply, err := c.suffer(c.server.strike(StageConnect, peer)); err != nil || reply != "" {
		return c.last(reply, err)
	}
	if c.implicit {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	if c.crowded {
		return c.last("421 4.7.0 "+c.server.opts.Hostname+" too many connections", nil)
	}
	reply, _, err := c.answer(StageGreeting, c.say(cueGreeting), peer)
	if code := replyCode(reply); code != "" && code[0] >= '4' {
		c.refused = true
	}
	return err
}

// last sends a reply, if there is one, and ends the session.
func (c *session) last(reply string, err error) error {
	if reply != "" {
		if serr := c.send(reply); serr != nil {
			return serr
		}
	}
	if err != nil {
		return err
	}
	return errClose
}

// suffer does what a fault says up to its reply, which it returns ("" is none). A fault that drops the connection
// without a reply is the error.
func (c *session) suffer(f *armed) (reply string, err error) {
	if f == nil {
		return "", nil
	}
	c.note("fault: " + f.Fault.String())
	if f.Delay > 0 || f.Hang || f.Drop || f.Reset {
		if err := c.wire.w.Flush(); err != nil {
			return "", err
		}
	}
	if f.Delay > 0 && !pause(c.up, f.Delay) {
		return "", c.up.Err()
	}
	if f.Hang && !c.wire.hang(c.up, f.cleared) {
		return "", net.ErrClosed
	}
	switch {
	case f.Reply != "":
		return f.Reply, nil
	default:
		return "", f.ending()
	}
}

// ending is how the fault ends the session after its reply; nil is not.
func (f *armed) ending() error {
	switch {
	case f == nil:
		return nil
	case f.Reset:
		return errReset
	case f.Drop:
		return errDrop
	}
	return nil
}

// answer sends usual, or what a fault at stage has in its place, and returns what it sent and whether the command takes
// effect, for which both must be positive. The error ends the session.
func (c *session) answer(stage Stage, usual string, texts ...string) (reply string, effect bool, err error) {
	return c.answerFault(c.server.strike(stage, texts...), usual)
}

func (c *session) answerFault(f *armed, usual string) (reply string, effect bool, err error) {
	reply, err = c.suffer(f)
	if err != nil {
		return "", false, err
	}
	if reply == "" {
		reply = usual
	}
	return c.conclude(f, usual, reply)
}

// conclude sends what a fault, or none, leaves in the place of the usual reply.
func (c *session) conclude(f *armed, usual, reply string) (sent string, effect bool, err error) {
	if err := c.send(reply); err != nil {
		return reply, false, err
	}
	if err := f.ending(); err != nil {
		if ferr := c.wire.w.Flush(); ferr != nil {
			return reply, false, ferr
		}
		return reply, false, err
	}
	if closing(reply) {
		return reply, false, errClose
	}
	return reply, positive(usual) && positive(reply), nil
}

// reply sends text, with no fault in its way.
func (c *session) reply(text string) error {
	_, _, err := c.answerFault(nil, text)
	return err
}

// send puts a reply on the wire, where it waits for the end of its group.
func (c *session) send(reply string) error {
	text := formatReply(reply)
	for line := range strings.Lines(text) {
		c.server.log.line(c.number, server, line)
	}
	_, err := c.wire.w.WriteString(text)
	return err
}

// say returns the personality's reply for an occasion.
func (c *session) say(q cue) string { return c.sayID(q, "sbx"+strconv.Itoa(c.number)) }

// sayID is say for an occasion that has a queue id.
func (c *session) sayID(q cue, id string) string {
	text := c.server.words.say(q)
	if !strings.Contains(text, "{") {
		return text
	}
	ip, _, _ := net.SplitHostPort(c.conn.RemoteAddr().String())
	now := time.Now()
	for _, w := range [...]struct{ place, value string }{
		{"{id}", id}, {"{host}", c.server.opts.Hostname}, {"{hello}", c.hello}, {"{ip}", ip}, {"{user}", c.user},
		{"{date}", now.Format(time.RFC1123Z)}, {"{unix}", strconv.FormatInt(now.Unix(), 10)},
	} {
		text = strings.ReplaceAll(text, w.place, w.value)
	}
	return text
}

func (c *session) note(text string) { c.server.log.line(c.number, remark, text) }

// violation records what the client did wrong.
func (c *session) violation(format string, args ...any) {
	text := fmt.Sprintf("connection %d: ", c.number) + printable(fmt.Sprintf(format, args...))
	c.server.mu.Lock()
	c.server.violations = append(c.server.violations, text)
	c.server.notify()
	c.server.mu.Unlock()
	c.note("violation: " + text)
}

// maxLine is where a line ends the session: the length that RFC 4954 section 4 allows to AUTH.
const maxLine = 12288

// readRaw returns a line with its end, whatever that is. It answers a line that is too long itself.
func (c *session) readRaw() (string, error) {
	var line []byte
	for {
		part, err := c.wire.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			c.violation("a line of over %d octets outside a body (RFC 4954 section 4)", maxLine)
			return "", c.last("500 5.5.6 line too long", nil)
		case err == nil:
			return string(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// readLine returns the next command line, without its CRLF, that is fit to be obeyed. It answers those that are not.
func (c *session) readLine() (string, error) {
	for {
		raw, err := c.readRaw()
		if err != nil {
			return "", err
		}
		c.server.count(func(st *Stats) { st.Commands++ })
		line := strings.TrimSuffix(strings.TrimSuffix(raw, "\n"), "\r")
		c.shown = c.visible(line)
		c.server.log.line(c.number, client, c.shown)
		problem := ""
		switch {
		case !strings.HasSuffix(raw, "\r\n"):
			problem = "a command line ends with a bare LF (RFC 5321 section 2.3.8)"
		case strings.ContainsAny(line, "\r\n"):
			problem = "a bare CR is in a command line (RFC 5321 section 2.3.8)"
		case strings.ContainsRune(line, 0):
			problem = "a NUL is in a command line (RFC 5321 section 4.1.2)"
		default:
			return line, nil
		}
		c.violation("%s: %q", problem, c.shown)
		if err := c.reply("500 5.5.2 " + problem); err != nil {
			return "", err
		}
	}
}

// visible returns what may be shown of a command line: no credentials, not even those of a client that sends them as
// commands after its AUTH was refused. It is asked once for each line, in order.
func (c *session) visible(line string) string {
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
	case slices.Contains(verbs, strings.ToUpper(words[0])):
		c.afterAuth = strings.EqualFold(words[0], "AUTH")
	case c.afterAuth:
		return masked
	}
	return maskAuth(line)
}

func verbOf(line string) string {
	verb, _, _ := strings.Cut(line, " ")
	return strings.ToUpper(verb)
}
