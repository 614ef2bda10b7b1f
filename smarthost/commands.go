package smarthost

import (
	"bufio"
	"strconv"
	"strings"
	"unicode/utf8"

	"relayd/internal/envelope"
)

// mailCommand returns the MAIL command with the parameters that the message needs and the host offers (RFC 1870, RFC
// 6152, RFC 6531, RFC 8689, RFC 3461).
func mailCommand(env *envelope.Envelope, size int64, caps capabilities) string {
	var b strings.Builder
	b.WriteString("MAIL FROM:")
	b.WriteString(env.ReversePath.String())
	if caps.size && size > 0 {
		b.WriteString(" SIZE=")
		b.WriteString(strconv.FormatInt(size, 10))
	}
	// Clients that say nothing of their content may send any; so it is declared as what it may be.
	if caps.eightBit && env.Body != "7BIT" {
		b.WriteString(" BODY=8BITMIME")
	}
	if caps.utf8 && needsUTF8(env) {
		b.WriteString(" SMTPUTF8")
	}
	if caps.requireTLS && env.RequireTLS {
		b.WriteString(" REQUIRETLS")
	}
	if caps.dsn {
		param(&b, "RET", env.Ret)
		param(&b, "ENVID", env.EnvID)
	}
	return b.String()
}

// rcptCommand returns the RCPT command, with its RFC 3461 parameters where the host offers DSN.
func rcptCommand(r *envelope.Recipient, caps capabilities) string {
	var b strings.Builder
	b.WriteString("RCPT TO:")
	b.WriteString(r.Path.String())
	if caps.dsn {
		param(&b, "NOTIFY", r.Notify.String())
		param(&b, "ORCPT", r.ORcpt)
	}
	return b.String()
}

func param(b *strings.Builder, keyword, value string) {
	if value == "" {
		return
	}
	b.WriteByte(' ')
	b.WriteString(keyword)
	b.WriteByte('=')
	b.WriteString(value)
}

// needsUTF8 reports whether a message is to travel with SMTPUTF8 where that is offered (RFC 6531 section 3.4).
func needsUTF8(env *envelope.Envelope) bool { return env.UTF8 || addressNeedsUTF8(env) }

func addressNeedsUTF8(env *envelope.Envelope) bool {
	if env.ReversePath.NeedsUTF8() {
		return true
	}
	for i := range env.Recipients {
		if env.Recipients[i].Path.NeedsUTF8() {
			return true
		}
	}
	return false
}

// unfit returns why a host with these capabilities cannot carry m, or nil. The codes are the relay's own: no host was
// asked. Another host of the list may do better.
//
// Size is that of the form in which m would go. The failure is permanent, unless the host's SIZE is doubted.
func unfit(m *envelope.Message, size int64, caps capabilities, secured bool, p place) *envelope.Failure {
	fail := func(code int, enhanced envelope.EnhancedCode, text string) *envelope.Failure {
		return &envelope.Failure{Scope: envelope.ScopeMessage, Permanent: true, Local: true, Stage: stageMail,
			Reply: envelope.Reply{Code: code, Enhanced: enhanced, Text: p.words(text)}}
	}
	switch {
	case caps.maxSize > 0 && size > caps.maxSize && caps.doubtedSize:
		f := fail(452, envelope.EnhancedCode{4, 3, 4}, "the message has "+strconv.FormatInt(size, 10)+
			" octets, and %HOST says that it takes no more than "+strconv.FormatInt(caps.maxSize, 10)+
			", which is unlikely: it is asked again")
		f.Permanent = false
		return f
	case caps.maxSize > 0 && size > caps.maxSize:
		return fail(552, envelope.EnhancedCode{5, 3, 4}, "the message has "+strconv.FormatInt(size, 10)+
			" octets, and %HOST takes no more than "+strconv.FormatInt(caps.maxSize, 10))
	case !caps.utf8 && cannotDoWithoutUTF8(m):
		return fail(550, envelope.EnhancedCode{5, 6, 7},
			"the message needs SMTPUTF8, which %HOST does not offer")
	case m.Envelope.RequireTLS && !(secured && caps.requireTLS):
		return fail(550, envelope.EnhancedCode{5, 7, 30},
			"the sender demands TLS all the way (REQUIRETLS), which %HOST does not offer")
	}
	return nil
}

// cannotDoWithoutUTF8 reports whether m holds what only SMTPUTF8 can carry: an address, or a header, that is not ASCII.
// Clients ask for SMTPUTF8 wherever it is offered, also for messages that have no need of it; like Postfix, the relay
// does not hold them to that where the next hop has no SMTPUTF8.
func cannotDoWithoutUTF8(m *envelope.Message) bool {
	if addressNeedsUTF8(&m.Envelope) {
		return true
	}
	if !m.Envelope.UTF8 {
		return false
	}
	content, err := m.Open()
	if err != nil {
		return false // what cannot be read shows when it is to be sent
	}
	defer content.Close()
	lines := bufio.NewReader(content)
	for blank := true; ; {
		b, err := lines.ReadByte()
		switch {
		case err != nil, b == '\n' && blank:
			return false // the end of the header
		case b >= utf8.RuneSelf:
			return true
		case b != '\r':
			blank = b == '\n'
		}
	}
}
