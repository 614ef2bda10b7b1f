package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"relayd/internal/envelope"
)

var errFull = fmt.Errorf("no space left: %w", envelope.Reply{Code: 452, Enhanced: envelope.EnhancedCode{4, 3, 1}, Text: "the disk is full"})

// each way in which a message reaches the queue, up to its last octet
var ways = map[string]func(c *client){
	"DATA": func(c *client) {
		c.envelope()
		c.command("DATA", "354 *")
		c.send("x\r\n.\r\n")
	},
	"BDAT": func(c *client) {
		c.envelope()
		c.send("BDAT 3 LAST\r\nx\r\n")
	},
}

func TestSession_QueueThatTakesNothing(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errFull, "452 4.3.1 the disk is full"},
		{errors.New("secret path"), "451 4.3.0 *"},
		{envelope.Reply{Code: 250, Text: "no refusal"}, "451 4.3.0 *"},
		{envelope.Reply{Code: 554, Text: "two\nlines"}, "554 *lines"},
	} {
		h := open(t, nil)
		h.queue.begin = func(envelope.Envelope) error { return c.err }
		h.start()
		// DATA is answered before the body was sent for nothing, and the session goes on.
		cl := h.dial().hello().envelope()
		cl.command("DATA", c.want)
		cl.command("RSET", "250 *")
		cl.envelope()
		cl.send("BDAT 3 LAST\r\nx\r\nNOOP\r\n")
		cl.expectReply(c.want)
		cl.expect("250 *")
		if n := strings.Count(h.log.String(), `msg="message refused"`); n != 2 {
			t.Errorf("%d refusals in the log:\n%s", n, h.log)
		}
	}
}

func TestSession_Reply421EndsTheSession(t *testing.T) {
	h := open(t, nil)
	h.queue.begin = func(envelope.Envelope) error { return envelope.Reply{Code: 421, Text: "closing the store"} }
	h.start()
	c := h.dial().hello().envelope()
	c.command("DATA", "421 *closing the store")
	c.expectEOF()
}

func TestSession_QueueThatFailsAtTheEnd(t *testing.T) {
	for name, send := range ways {
		for _, stage := range []string{"write", "commit"} {
			for want, err := range map[string]error{"452 4.3.1 the disk is full": errFull, "451 4.3.0 *": errors.New("I/O error")} {
				t.Run(name+" "+stage, func(t *testing.T) {
					h := open(t, nil)
					if stage == "write" {
						h.queue.write = func(m *memoryMessage, p []byte) error {
							if strings.HasPrefix(string(p), "x") {
								return err
							}
							return nil
						}
					} else {
						h.queue.commit = func(context.Context, *memoryMessage) error { return err }
					}
					h.start()
					c := h.dial().hello()
					send(c)
					c.expect(want)
					c.command("NOOP", "250 *")
					if h.queue.aborted() != 1 {
						t.Errorf("%d aborted", h.queue.aborted())
					}
				})
			}
		}
	}
}

func TestSession_TraceThatCannotBeWritten(t *testing.T) {
	h := open(t, nil)
	h.queue.write = func(*memoryMessage, []byte) error { return errFull }
	h.start()
	c := h.dial().hello().envelope()
	c.command("DATA", "452 4.3.1 *")
	c.command("DATA", "452 4.3.1 *")
}

func TestSession_PanicCostsOneSessionAndNoMail(t *testing.T) {
	for name, send := range ways {
		for _, stage := range []string{"begin", "write", "commit", "abort"} {
			t.Run(name+" "+stage, func(t *testing.T) {
				h := open(t, nil)
				switch stage {
				case "begin":
					h.queue.begin = func(envelope.Envelope) error { panic("begin") }
				case "write":
					h.queue.write = func(m *memoryMessage, p []byte) error {
						if strings.HasPrefix(string(p), "x") {
							panic("write")
						}
						return nil
					}
				case "commit":
					h.queue.commit = func(context.Context, *memoryMessage) error { panic("commit") }
				case "abort":
					h.queue.commit = func(context.Context, *memoryMessage) error { return errFull }
					h.queue.abort = func(*memoryMessage) error { panic("abort") }
				}
				h.start()
				other, c := h.dial().hello(), h.dial().hello()
				if stage == "begin" && name == "DATA" {
					c.envelope()
					c.send("DATA\r\n")
				} else {
					send(c)
				}
				for {
					line, err := c.line()
					if err != nil {
						if !errors.Is(err, io.EOF) {
							t.Errorf("the session is not closed: %v", err)
						}
						break
					}
					if !strings.HasPrefix(line, "4") && !strings.HasPrefix(line, "354") {
						t.Errorf("a failed session was told %q", line)
					}
				}
				other.command("NOOP", "250 *")
				if len(h.queue.committed()) != 0 {
					t.Error("a message was committed")
				}
				if !strings.Contains(h.log.String(), "please report it") {
					t.Errorf("the log says nothing:\n%s", h.log)
				}
			})
		}
	}
}

func TestSession_250FollowsTheCommit(t *testing.T) {
	for name, send := range ways {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			entered, release := make(chan struct{}), make(chan struct{})
			h.queue.commit = func(context.Context, *memoryMessage) error {
				close(entered)
				<-release
				return nil
			}
			h.start()
			c := h.dial().hello()
			send(c)
			<-entered
			said := make(chan string)
			go func() {
				line, _ := c.line()
				said <- line
			}()
			select {
			case line := <-said:
				t.Errorf("before the commit was done the client was told %q", line)
				close(release)
			default:
				close(release)
				if line := <-said; !like("250 2.0.0 OK queued as Q0001", line) {
					t.Errorf("told %q", line)
				}
			}
		})
	}
}

func TestSession_ManyAtOnce(t *testing.T) {
	h := start(t, nil)
	const clients, messages = 30, 10
	var all sync.WaitGroup
	for i := range clients {
		c := h.dial()
		all.Go(func() {
			c.expect("220 *")
			c.send("HELO c\r\n")
			c.expect("250 *")
			for n := range messages {
				body := fmt.Sprintf("%d of %d\r\n", n, i)
				if n%2 == 0 {
					c.send("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + body + ".\r\n")
					c.expect("250 *", "250 *", "354 *", "250 *")
				} else {
					c.send(fmt.Sprintf("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT %d LAST\r\n%s", len(body), body))
					c.expect("250 *", "250 *", "250 *")
				}
			}
		})
	}
	all.Wait()
	seen := make(map[string]bool)
	for _, m := range h.queue.committed() {
		_, content := m.split()
		seen[content] = true
	}
	if len(seen) != clients*messages {
		t.Errorf("%d different messages, want %d", len(seen), clients*messages)
	}
}

func TestSession_LogHoldsNoCredentials(t *testing.T) {
	h := start(t, nil)
	c := h.dial().hello()
	c.command("AUTH PLAIN AHVzZXIAc2VjcmV0", "503 5.5.1 *")
	c.command("AUTH LOGIN", "503 5.5.1 *")
	c.command("c2VjcmV0", "500 *")
	// Until the session is closed for its errors, which is logged.
	for last := ""; !strings.HasPrefix(last, "421 "); {
		c.send("c2VjcmV0\r\n")
		var err error
		if last, err = c.line(); err != nil {
			t.Fatal(err)
		}
	}
	c.expectEOF()
	if !strings.Contains(h.log.String(), "too many errors") {
		t.Errorf("the log does not tell of the session:\n%s", h.log)
	}
	for _, secret := range []string{"AHVzZXIAc2VjcmV0", "c2VjcmV0"} {
		if strings.Contains(h.log.String(), secret) {
			t.Errorf("%s is in the log:\n%s", secret, h.log)
		}
	}
}
