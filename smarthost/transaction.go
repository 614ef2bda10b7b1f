package smarthost

import (
	"errors"
	"fmt"
	"io"
	"time"

	"relayd/internal/envelope"
)

// maxGroup is how many commands go out before the first of their replies is read, with PIPELINING. What a host answers
// to so many fits into the buffers between the two, so that neither waits for the other to read (RFC 2920 section 3.1).
const maxGroup = 100

// transaction is one mail transaction on a connection (RFC 5321 section 3.3), for some of an envelope's recipients. It
// records what the host said and draws no conclusions. Writing and reading are steps of their own: writeGroup puts what
// may travel together into the connection's buffer, readGroup reads the replies to it; likewise writeBody and readDot.
//
// A transaction that waits for the connection can begin behind the one that has it (RFC 2920 section 3.1 lets MAIL follow
// a body): its first group then travels with the end of the other's body, so that on a warm connection a message costs
// one round trip. Until its own body is asked for, giving it up costs nothing.
type transaction struct {
	c     *conn // nil until begin or lead
	caps  capabilities
	env   *envelope.Envelope
	place place
	body  body
	// rcpts are indexes into env.Recipients; replies are the replies to them, zero where RCPT was not sent.
	rcpts   []int
	replies []envelope.Reply
	mail    envelope.Reply
	data    envelope.Reply
	dot     envelope.Reply

	accepted int
	// full is set when the host said that it takes no more recipients in this transaction.
	full bool
	// step is the command to write, unread the first whose reply is outstanding: stepReset, stepMail, then the
	// recipients, then DATA at dataStep.
	step, unread int
	written      bool
	// dotSent is set once the final dot went out, so that the host may take the message.
	dotSent bool

	// follow, when set, returns the transaction to be begun behind the body, if there is one; next is what it returned.
	follow func() *transaction
	next   *transaction
	// behind is set when the first group was written behind the body of another; unwritten is why it was not whole, and
	// afterTaken says that the host has taken that other message.
	behind, afterTaken bool
	unwritten          error
}

// body is the form in which the content goes: write writes what it reads in that form, of size octets before
// dot-stuffing, and returns how many it wrote.
type body struct {
	size  int64
	write func(io.Writer, io.Reader) (int64, error)
}

const (
	stepReset = iota
	stepMail
	stepRcpt
)

// newTransaction returns a transaction for a connection with these capabilities.
func newTransaction(caps capabilities, env *envelope.Envelope, p place, b body, rcpts []int) *transaction {
	return &transaction{caps: caps, env: env, place: p, body: b, rcpts: rcpts, replies: make([]envelope.Reply, len(rcpts)),
		step: stepMail, unread: stepMail}
}

// begin gives the transaction its connection, unless it has that already.
func (t *transaction) begin(c *conn) {
	if t.behind {
		return
	}
	t.c = c
	if c.oweReset {
		t.step, t.unread = stepReset, stepReset
	}
}

// suits reports whether the transaction can begin behind the one on c.
func (t *transaction) suits(c *conn) bool {
	return t.caps.pipelining && !c.order.strict.Load() && !c.spent && !c.oweReset && t.caps.carryLike(c.caps)
}

// beginBehind writes the first group behind the body that is on its way on t.c.
func (t *transaction) beginBehind() {
	t.behind = true
	t.unwritten = t.writeGroup()
}

func (t *transaction) dataStep() int { return stepRcpt + len(t.rcpts) }

// run carries the transaction out with content as the message's content; it calls ready when the host asks for that. An
// error is a *stageError, when the connection is of no more use, or a *contentError. What was answered before it is
// recorded.
func (t *transaction) run(content io.Reader, ready func()) error {
	if err := t.exchangeEnvelope(); err != nil {
		return err
	}
	switch {
	case t.confusedByOther():
		t.c.spent = true
		return nil
	case t.data.Code != 354:
		t.c.oweReset = t.mail.Positive()
		return nil
	case t.accepted == 0:
		return t.closeEmpty()
	case !t.mail.Positive():
		// The host refused the sender, and asks for the body all the same. Even a dot alone would send a message.
		t.c.spent = true
		return nil
	}
	ready()
	if err := t.writeBody(content); err != nil {
		return err
	}
	return t.readDot()
}

// last returns the last reply that came.
func (t *transaction) last() envelope.Reply {
	last := t.mail
	for _, r := range t.replies {
		if !r.IsZero() {
			last = r
		}
	}
	if !t.data.IsZero() {
		last = t.data
	}
	if !t.dot.IsZero() {
		last = t.dot
	}
	return last
}

func (t *transaction) exchangeEnvelope() error {
	if t.behind {
		if t.unwritten != nil {
			return t.unwritten
		}
		if err := t.readGroup(); err != nil {
			return err
		}
	}
	for !t.written {
		if err := t.writeGroup(); err != nil {
			return err
		}
		if t.step == t.unread {
			break
		}
		if err := t.c.flush(t.stage(t.unread)); err != nil {
			return err
		}
		if err := t.readGroup(); err != nil {
			return err
		}
	}
	return nil
}

// writeGroup writes the commands that may travel before the next reply is needed: one in lock-step, up to maxGroup with
// PIPELINING.
func (t *transaction) writeGroup() error {
	window := 1
	if t.caps.pipelining {
		window = maxGroup
	}
	for t.step-t.unread < window {
		if !t.more() {
			t.written = true
			return nil
		}
		if err := t.c.put(t.stage(t.step), t.command(t.step)); err != nil {
			return err
		}
		t.step++
	}
	return nil
}

// more reports whether there is another command to write, by what is known so far, and passes over recipients that the
// host has no room for.
func (t *transaction) more() bool {
	if t.step > stepMail && t.unread > stepMail && !t.mail.Positive() {
		return false
	}
	if t.full && t.step < t.dataStep() {
		t.step, t.unread = t.dataStep(), t.dataStep()
	}
	if t.step == t.dataStep() && t.unread == t.step && t.accepted == 0 {
		return false
	}
	return t.step <= t.dataStep()
}

func (t *transaction) command(step int) string {
	switch step {
	case stepReset:
		return "RSET"
	case stepMail:
		return mailCommand(t.env, t.body.size, t.caps)
	case t.dataStep():
		return "DATA"
	}
	return rcptCommand(&t.env.Recipients[t.rcpts[step-stepRcpt]], t.caps)
}

func (t *transaction) stage(step int) string {
	switch {
	case step <= stepMail:
		return stageMail
	case step == t.dataStep():
		return stageData
	}
	return stageRcpt
}

// readGroup reads the replies to what writeGroup wrote.
func (t *transaction) readGroup() error {
	for ; t.unread < t.step; t.unread++ {
		reply, err := t.c.receive(t.stage(t.unread), t.patience(t.unread))
		if err == nil && (outOfPlace(t.unread == t.dataStep(), reply) || t.unread == stepReset && !reply.Positive()) {
			err = &stageError{stage: t.stage(t.unread), reply: reply}
		}
		if err != nil {
			return err
		}
		t.heard(t.unread, reply)
	}
	return nil
}

// outOfPlace reports whether reply is a positive one that the command cannot have: only DATA is answered with 354, and
// with nothing else that is positive.
func outOfPlace(data bool, reply envelope.Reply) bool {
	return reply.Positive() && (reply.Code == 354) != data
}

func (t *transaction) patience(step int) time.Duration {
	d := t.c.timeouts.Command
	if step == t.dataStep() {
		d = t.c.timeouts.Data
	}
	if t.behind && !t.c.order.proven.Load() {
		d = min(d, unprovenPatience)
	}
	return d
}

func (t *transaction) heard(step int, reply envelope.Reply) {
	switch step {
	case stepReset:
		t.c.oweReset = false
	case stepMail:
		t.mail = reply
	case t.dataStep():
		t.data = reply
	default:
		t.replies[step-stepRcpt] = reply
		if reply.Positive() {
			t.accepted++
		} else if classifyReply(t.place, stageRcpt, reply).rest {
			t.full = true
		}
	}
}

// closeEmpty ends a body that the host asked for although it took no recipient: with a dot alone, whose reply says
// nothing of interest (RFC 2920 section 3.1). Should it not come, the connection is not used again.
func (t *transaction) closeEmpty() error {
	t.c.bw.WriteString(".\r\n")
	if err := t.c.flush(stageData); err != nil {
		t.c.spent = true
		return nil
	}
	if _, err := t.c.receive(stageData, t.c.timeouts.Data); err != nil {
		t.c.spent = true
	}
	t.c.oweReset = true
	return nil
}

// contentError is a message that the relay itself cannot read. No host is to blame.
type contentError struct{ err error }

func (e *contentError) Error() string {
	return "the relay cannot read the message from its own store: " + e.err.Error()
}

func (e *contentError) Unwrap() error { return e.err }

// writeBody sends the content and the final dot. If the content cannot be read to its end the dot is not sent: a message
// cut short must not be taken for whole.
func (t *transaction) writeBody(content io.Reader) error {
	d := newDotWriter(t.c.bw)
	n, err := t.body.write(d, content)
	if err == nil {
		err = d.end()
	}
	if d.err == nil && err == nil && t.body.size > 0 && n != t.body.size {
		err = fmt.Errorf("it has %d octets and should have %d", n, t.body.size)
	}
	if d.err == nil && err != nil {
		return &contentError{err}
	}
	if err == nil {
		t.c.seal(true)
		err = t.writeDot(d)
	}
	switch {
	case !t.dotSent:
		t.c.seal(false)
		return t.earlyReply(err)
	case err != nil: // what went behind the dot is lost; the reply to the dot may still come
		t.c.spent = true
	}
	return nil
}

// writeDot ends the body, with the envelope of the next message behind it if there is one, and notes whether the dot
// went out.
func (t *transaction) writeDot(d *dotWriter) error {
	if err := d.close(); err != nil {
		return err
	}
	end := t.c.sent + int64(t.c.bw.Buffered())
	if t.follow != nil {
		if t.next = t.follow(); t.next != nil {
			t.next.beginBehind()
		}
	}
	err := t.c.bw.Flush()
	t.dotSent = t.c.sent >= end
	return err
}

// earlyReplyWait is how long a host that stopped reading the body is listened to.
const earlyReplyWait = 2 * time.Second

// earlyReply is called when the body could not be written whole. Hosts that give up on a body in the middle say why
// before they close.
func (t *transaction) earlyReply(err error) error {
	if reply, rerr := t.c.receive(stageData, earlyReplyWait); rerr == nil && !reply.Positive() {
		t.c.spent = true
		t.dot = reply
		return nil
	} else if failed, ok := errors.AsType[*stageError](rerr); ok && !failed.reply.IsZero() {
		return rerr
	}
	return &stageError{stage: stageData, err: err}
}

func (t *transaction) readDot() error {
	defer t.c.seal(false)
	if !t.dotSent {
		return nil
	}
	reply, err := t.c.receive(stageDot, t.c.timeouts.Dot)
	if err == nil && reply.Code >= 300 && reply.Code < 400 {
		err = &stageError{stage: stageDot, reply: reply}
	}
	if err != nil {
		return err
	}
	t.dot = reply
	if t.next != nil {
		t.next.afterTaken = reply.Positive()
	} else if !reply.Positive() { // some hosts keep the envelope of a body that they refuse
		t.c.oweReset = true
	}
	return nil
}
