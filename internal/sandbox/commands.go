package sandbox

import (
	"crypto/tls"
	"slices"
	"strings"
)

// verbs are the commands that it knows.
var verbs = []string{"EHLO", "HELO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "HELP", "VRFY", "EXPN",
	"QUIT"}

// mustEndGroup are the commands behind which nothing may be sent before their reply (RFC 2920 section 3.1, RFC 3207
// section 4, RFC 4954 section 4).
var mustEndGroup = []string{"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "NOOP", "VRFY", "EXPN", "QUIT"}

// command obeys one command line. The error ends the session.
func (c *session) command(line string) error {
	verb := verbOf(line)
	c.checkGroup(verb)
	c.checkLength(verb, line)
	if c.refused && verb != "QUIT" {
		return c.reply("503 5.5.1 you were told that there is no service here")
	}
	switch verb {
	case "EHLO", "HELO":
		return c.greet(verb, line)
	case "STARTTLS":
		return c.startTLS(line)
	case "AUTH":
		return c.auth(line)
	case "MAIL":
		return c.mail(line)
	case "RCPT":
		return c.rcpt(line)
	case "DATA":
		return c.data(line)
	case "RSET":
		c.tx = nil
		c.server.count(func(st *Stats) { st.Resets++ })
		_, _, err := c.answer(StageRset, c.say(cueRset), line)
		return err
	case "NOOP":
		_, _, err := c.answer(StageNoop, c.say(cueNoop), line)
		return err
	case "HELP":
		return c.reply(c.say(cueHelp))
	case "VRFY":
		return c.reply("252 2.5.2 send some mail, I will do my best")
	case "EXPN":
		return c.reply("502 5.5.1 no lists here")
	case "QUIT":
		return c.quit(line)
	}
	c.violation("%q is no command that was offered", c.shown)
	return c.reply("500 5.5.2 command not recognized")
}

func (c *session) quit(line string) error {
	c.server.count(func(st *Stats) { st.Quits++ })
	_, _, err := c.answer(StageQuit, c.say(cueQuit), line)
	if err == nil {
		return errClose
	}
	return err
}

// checkGroup records commands that may not be followed by others before their reply.
func (c *session) checkGroup(verb string) {
	switch {
	case !c.wire.behind():
	case slices.Contains(mustEndGroup, verb):
		c.violation("more was sent behind %s without waiting for its reply (RFC 2920 section 3.1)", verb)
	case !c.offers("PIPELINING"):
		c.violation("more was sent behind %s, but PIPELINING was not offered", verb)
	}
}

// checkLength records command lines that are longer than RFC 5321 section 4.5.3.1.4 and the extensions allow.
func (c *session) checkLength(verb, line string) {
	limit := 512
	switch verb {
	case "MAIL": // SIZE 26, BODY 17, SMTPUTF8 10, RET 8 and ENVID 107, AUTH 500
		limit += 26 + 17 + 10 + 8 + 107 + 500
	case "RCPT": // NOTIFY 28 and ORCPT 501
		limit += 28 + 501
	case "AUTH":
		limit = maxLine
	}
	if n := len(line) + len("\r\n"); n > limit {
		c.violation("%s line of %d octets; the limit is %d (RFC 5321 section 4.5.3.1.4)", verb, n, limit)
	}
}

// extensions returns the lines of the EHLO reply after the first, as they are at this point of the session.
func (c *session) extensions() []string {
	return slices.DeleteFunc(slices.Clone(c.server.extensions), func(line string) bool {
		switch keyword(line) {
		case "STARTTLS":
			return c.tls != ""
		case "AUTH":
			return c.tls == "" && !c.server.opts.AuthInClear
		}
		return false
	})
}

// offers reports whether the client was told of an extension.
func (c *session) offers(extension string) bool {
	return c.esmtp && c.has(extension)
}

// has reports whether EHLO would show an extension now.
func (c *session) has(extension string) bool {
	return slices.ContainsFunc(c.extensions(), func(l string) bool { return keyword(l) == extension })
}

func (c *session) greet(verb, line string) error {
	name := strings.TrimSpace(line[len(verb):])
	if name == "" || strings.ContainsRune(name, ' ') {
		c.violation("%s takes one argument, not %q (RFC 5321 section 4.1.1.1)", verb, name)
		return c.reply("501 5.5.4 " + verb + " takes your name")
	}
	before := c.hello
	c.hello = name
	usual := c.say(cueHello)
	if verb == "EHLO" {
		usual = strings.Join(append([]string{usual}, c.extensions()...), "\n")
	}
	_, effect, err := c.answer(StageEHLO, usual, line)
	if !effect {
		c.hello = before
		return err
	}
	c.esmtp, c.tx = verb == "EHLO", nil
	return nil
}

func (c *session) startTLS(line string) error {
	usual := c.say(cueTLS)
	switch {
	case c.tls != "":
		c.violation("STARTTLS within TLS (RFC 3207 section 4.2)")
		usual = "503 5.5.1 TLS is on already"
	case !c.has("STARTTLS"):
		c.violation("STARTTLS was not offered")
		usual = "502 5.5.1 no TLS here"
	case strings.TrimSpace(line[len("STARTTLS"):]) != "":
		usual = "501 5.5.4 STARTTLS takes no argument"
	case c.wire.behind():
		// What came in the clear must not be taken for what TLS protects: CVE-2011-0411.
		return c.last("554 5.7.0 commands behind STARTTLS are refused", nil)
	}
	_, effect, err := c.answer(StageStartTLS, usual, line)
	if err != nil || !effect {
		return err
	}
	if err := c.wire.w.Flush(); err != nil {
		return err
	}
	return c.handshake()
}

// handshake begins TLS. The session forgets what the client said before (RFC 3207 section 4.2).
func (c *session) handshake() error {
	if f := c.server.strike(StageTLS, c.conn.RemoteAddr().String()); f != nil {
		if reply, err := c.suffer(f); err != nil || reply != "" {
			return c.last(reply, err)
		}
	}
	state, err := c.wire.startTLS(c.up, c.server.tlsConfig)
	if err != nil {
		c.server.count(func(st *Stats) { st.HandshakesFailed++ })
		c.note("TLS handshake failed: " + err.Error())
		return err
	}
	c.server.count(func(st *Stats) {
		st.Handshakes++
		if state.DidResume {
			st.Resumed++
		}
	})
	c.tls, c.state = tls.VersionName(state.Version), state
	c.esmtp, c.hello, c.tx, c.user, c.authed = false, "", nil, "", false
	words := c.tls
	if state.DidResume {
		words += ", resumed"
	}
	c.note(words)
	return nil
}
