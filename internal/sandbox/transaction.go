package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// transaction is a mail transaction (RFC 5321 section 3.3) under way.
type transaction struct {
	reversePath string
	mailParams  []string
	recipients  []string
	rcptParams  [][]string
	lines       []string // MAIL and RCPT as they came, for the faults of later stages
}

func (c *session) mail(line string) error {
	path, params, perr := parsePath(line, "MAIL FROM:")
	usual := c.say(cueMail)
	switch {
	case c.hello == "":
		c.violation("MAIL before EHLO")
		usual = "503 5.5.1 EHLO first"
	case c.tls == "" && !c.server.opts.OptionalTLS:
		usual = c.say(cueTLSRequired)
	case !c.authed && !c.server.opts.OptionalAuth:
		usual = c.say(cueAuthRequired)
	case c.tx != nil:
		c.violation("MAIL within a mail transaction (RFC 5321 section 4.1.4)")
		usual = "503 5.5.1 a mail transaction is under way"
	case perr != nil:
		c.violation("%v", perr)
		usual = "501 5.5.4 syntax: MAIL FROM:<address>"
	case c.server.opts.MaxPerConnection > 0 && c.taken >= c.server.opts.MaxPerConnection:
		usual = "421 4.7.0 " + c.server.opts.Hostname + " too many messages on this connection"
	default:
		if problem := c.checkMailParams(path, params); problem != "" {
			usual = problem
		}
	}
	_, effect, err := c.answer(StageMail, usual, line)
	if effect {
		c.taken++
		c.tx = &transaction{reversePath: path, mailParams: params, lines: []string{line}}
		c.server.count(func(st *Stats) { st.Transactions++ })
	}
	return err
}

func (c *session) rcpt(line string) error {
	path, params, perr := parsePath(line, "RCPT TO:")
	usual := c.say(cueRcpt)
	switch limit := c.server.opts.MaxRecipients; {
	case c.tx == nil: // no violation: in a group it follows a MAIL that was refused
		usual = "503 5.5.1 MAIL first"
	case perr != nil:
		c.violation("%v", perr)
		usual = "501 5.5.4 syntax: RCPT TO:<address>"
	case limit > 0 && len(c.tx.recipients) >= limit:
		usual = "452 4.5.3 too many recipients"
	default:
		if problem := c.checkRcptParams(path, params); problem != "" {
			usual = problem
		}
	}
	_, effect, err := c.answer(StageRcpt, usual, line)
	if effect {
		c.tx.recipients = append(c.tx.recipients, path)
		c.tx.rcptParams = append(c.tx.rcptParams, params)
		c.tx.lines = append(c.tx.lines, line)
		c.server.count(func(st *Stats) { st.Recipients++ })
	}
	return err
}

func (c *session) data(line string) error {
	usual := c.say(cueData)
	var texts []string
	switch {
	case c.tx == nil:
		usual = "503 5.5.1 MAIL first"
	case len(c.tx.recipients) == 0:
		usual, texts = "554 5.5.1 no valid recipients", c.tx.lines
	default:
		texts = c.tx.lines
	}
	reply, effect, err := c.answer(StageData, usual, append(slices.Clone(texts), line)...)
	// RFC 2920 section 3.1 allows a server to take the body even when it refused every recipient.
	if anyway := c.tx != nil && replyCode(firstLine(reply)) == "354"; err != nil || !effect && !anyway {
		return err
	}
	tx := c.tx
	c.tx = nil
	return c.body(tx)
}

// body reads a body and answers it.
func (c *session) body(tx *transaction) error {
	b := newBody(c.server.maxSize, !c.server.opts.DiscardBodies || c.server.spool != nil)
	answered, err := c.readBody(b, c.server.strike(StageBody, tx.lines...))
	if err != nil || answered {
		return err
	}
	b.check(c, tx)
	m := c.message(tx, b)
	usual := c.sayID(cueDot, m.ID)
	switch {
	case len(tx.recipients) == 0:
		usual = "554 5.5.1 no valid recipients"
	case b.over:
		usual = fmt.Sprintf("552 5.3.4 the limit is %d octets, and this has %d", c.server.maxSize, b.size)
	}
	f := c.server.strike(StageDot, append(tx.lines, string(b.header))...)
	if positive(usual) && (f == nil || !f.Lose && (f.Reply == "" || positive(f.Reply))) {
		if _, err := c.server.keep(m, b.data); err != nil {
			usual = "451 4.3.0 " + err.Error()
		}
	}
	_, _, err = c.answerFault(f, usual)
	return err
}

func (c *session) message(tx *transaction, b *body) Message {
	n := c.server.nextNumber()
	return Message{
		Number: n, ID: fmt.Sprintf("sbx%06d", n), Connection: c.number, Hello: c.hello,
		ReversePath: tx.reversePath, MailParams: tx.mailParams, Recipients: tx.recipients, RcptParams: tx.rcptParams,
		Size: b.size, SHA256: hex.EncodeToString(b.sum.Sum(nil)[:sha256.Size]),
		TLS: c.tls != "", TLSVersion: c.tls, ServerName: c.state.ServerName, Client: clientName(c.state), User: c.user, At: now(),
	}
}

// parsePath returns the path of "MAIL FROM:<path> parameters", without its brackets, and the parameters.
func parsePath(line, command string) (path string, params []string, err error) {
	if len(line) < len(command) || !strings.EqualFold(line[:len(command)], command) {
		return "", nil, fmt.Errorf("%q does not begin with %q (RFC 5321 section 4.1.1)", line, command)
	}
	rest := line[len(command):]
	if !strings.HasPrefix(rest, "<") {
		return "", nil, fmt.Errorf(`%q has no "<" directly after the colon (RFC 5321 section 3.3)`, line)
	}
	end := closingBracket(rest)
	if end < 0 {
		return "", nil, fmt.Errorf(`%q has no ">" (RFC 5321 section 4.1.2)`, line)
	}
	path, rest = rest[1:end], rest[end+1:]
	if rest != "" && rest[0] != ' ' {
		return "", nil, fmt.Errorf("%q has no space before its parameters (RFC 5321 section 4.1.2)", line)
	}
	params = strings.Fields(rest)
	if rest != "" && rest != " "+strings.Join(params, " ") {
		return "", nil, fmt.Errorf("%q has stray space in its parameters (RFC 5321 section 4.1.1)", line)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", nil, errors.New("a control character is in an address (RFC 5321 section 4.1.2)")
	}
	return path, params, nil
}

// closingBracket returns the index of the ">" that is not within a quoted string, or -1.
func closingBracket(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '>' && !quoted:
			return i
		}
	}
	return -1
}

// checkMailParams returns the reply to parameters of MAIL that cannot be accepted, or "".
func (c *session) checkMailParams(path string, params []string) string {
	needs := map[string]string{"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN",
		"AUTH": "AUTH", "REQUIRETLS": "REQUIRETLS"}
	if problem := c.checkParams("MAIL", params, needs); problem != "" {
		return problem
	}
	if v, ok := param(params, "SIZE"); ok {
		n, err := strconv.ParseUint(v, 10, 63)
		switch {
		case err != nil:
			c.violation("SIZE=%s is not a number of octets (RFC 1870 section 3)", v)
			return "501 5.5.4 SIZE is a number of octets"
		case c.server.maxSize >= 0 && int64(n) > c.server.maxSize:
			return fmt.Sprintf("552 5.3.4 the limit is %d octets", c.server.maxSize)
		}
	}
	if v, ok := param(params, "BODY"); ok && !slices.Contains([]string{"7BIT", "8BITMIME"}, strings.ToUpper(v)) {
		c.violation("BODY=%s was not offered", v)
		return "501 5.5.4 BODY is 7BIT or 8BITMIME"
	}
	return c.checkUTF8(path, params)
}

// checkRcptParams returns the reply to parameters of RCPT that cannot be accepted, or "".
func (c *session) checkRcptParams(path string, params []string) string {
	if problem := c.checkParams("RCPT", params, map[string]string{"NOTIFY": "DSN", "ORCPT": "DSN"}); problem != "" {
		return problem
	}
	if path == "" {
		c.violation("RCPT TO:<> names nobody (RFC 5321 section 4.1.1.3)")
		return "501 5.1.3 no address"
	}
	return c.checkUTF8(path, c.tx.mailParams)
}

// checkUTF8 refuses an address with octets beyond ASCII in a transaction without SMTPUTF8 (RFC 6531 section 3.4).
func (c *session) checkUTF8(path string, mailParams []string) string {
	_, utf8 := param(mailParams, "SMTPUTF8")
	if utf8 || strings.IndexFunc(path, func(r rune) bool { return r >= 0x80 }) < 0 {
		return ""
	}
	c.violation("%q is not ASCII, but MAIL had no SMTPUTF8 (RFC 6531 section 3.4)", path)
	return "553 5.6.7 SMTPUTF8 required"
}

// checkParams refuses parameters that come twice or belong to no extension that was offered.
func (c *session) checkParams(verb string, params []string, needs map[string]string) string {
	seen := map[string]bool{}
	for _, p := range params {
		name, _, _ := strings.Cut(strings.ToUpper(p), "=")
		extension, known := needs[name]
		switch {
		case !known || !c.offers(extension):
			c.violation("%s parameter %s was not offered", verb, name)
			return "555 5.5.4 parameter " + name + " was not offered"
		case seen[name]:
			c.violation("%s parameter %s comes twice", verb, name)
			return "501 5.5.4 parameter " + name + " comes twice"
		}
		seen[name] = true
	}
	return ""
}
