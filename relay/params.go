package relay

import (
	"fmt"
	"strconv"
	"strings"

	"relayd/internal/envelope"
)

// Longest values of DSN parameters in octets (RFC 3461 section 5.4 and section 4.2).
const (
	maxEnvID = 100
	maxORcpt = 500
)

// parseMail parses the argument of MAIL from the line as it was sent; the library takes the quotes from a local part,
// and what follows can then read as parameters. secured says that the session is within TLS. The refusal is zero when all
// is well.
func parseMail(arg string, maxSize int64, secured bool) (env envelope.Envelope, refusal envelope.Reply) {
	rest, ok := cutPrefixFold(arg, "FROM:")
	if !ok {
		return env, reply(501, 5, 4, "write MAIL FROM:<address>")
	}
	path, params, err := envelope.ParseReverse(rest)
	if err != nil {
		return env, reply(501, 1, 7, "bad sender address: "+err.Error())
	}
	if refusal := repeated(params); !refusal.IsZero() {
		return env, refusal
	}
	env.ReversePath = path
	for _, p := range params {
		if refusal := mailParam(&env, p, maxSize, secured); !refusal.IsZero() {
			return env, refusal
		}
	}
	if path.NeedsUTF8() && !env.UTF8 {
		return env, reply(553, 6, 7, "the sender address is not ASCII; that needs the SMTPUTF8 parameter")
	}
	return env, refusal
}

func mailParam(env *envelope.Envelope, p envelope.Param, maxSize int64, secured bool) (refusal envelope.Reply) {
	value := strings.ToUpper(p.Value)
	switch p.Keyword {
	case "SIZE":
		if p.Value == "" || strings.Trim(p.Value, "0123456789") != "" {
			return reply(501, 5, 4, "SIZE is not a number of octets")
		}
		// A number too large to parse is too large a message, too.
		if n, err := strconv.ParseInt(p.Value, 10, 64); err != nil || n > maxSize {
			return tooLarge(maxSize)
		}
	case "BODY":
		if value != "7BIT" && value != "8BITMIME" {
			return reply(501, 5, 4, "BODY knows 7BIT and 8BITMIME")
		}
		env.Body = value
	case "SMTPUTF8":
		if p.Value != "" {
			return reply(501, 5, 4, "SMTPUTF8 has no value")
		}
		env.UTF8 = true
	case "REQUIRETLS": // RFC 8689 section 4.1: only within TLS
		if !secured {
			return unknownParam("MAIL", p)
		}
		if p.Value != "" {
			return reply(501, 5, 4, "REQUIRETLS has no value")
		}
		env.RequireTLS = true
	case "RET":
		if value != "FULL" && value != "HDRS" {
			return reply(501, 5, 4, "RET knows FULL and HDRS")
		}
		env.Ret = value
	case "ENVID":
		if p.Value == "" || len(p.Value) > maxEnvID || !isXtext(p.Value) {
			return reply(501, 5, 4, "ENVID is not the xtext of RFC 3461")
		}
		env.EnvID = p.Value
	case "AUTH": // RFC 4954 section 5: who wrote the message; nothing here depends on it
	default:
		return unknownParam("MAIL", p)
	}
	return refusal
}

// parseRcpt parses the argument of RCPT as parseMail does that of MAIL.
func parseRcpt(arg string, utf8 bool) (r envelope.Recipient, refusal envelope.Reply) {
	rest, ok := cutPrefixFold(arg, "TO:")
	if !ok {
		return r, reply(501, 5, 4, "write RCPT TO:<address>")
	}
	if strings.EqualFold(strings.TrimSpace(rest), "<postmaster>") {
		// RFC 5321 section 4.5.1 has this mean the server's own postmaster, and a relay delivers to nobody.
		return r, reply(550, 1, 1, "this relay has no mailboxes: write the postmaster's whole address")
	}
	path, params, err := envelope.ParseForward(rest)
	if err != nil {
		return r, reply(501, 1, 3, "bad recipient address: "+err.Error())
	}
	if refusal := repeated(params); !refusal.IsZero() {
		return r, refusal
	}
	r.Path = path
	for _, p := range params {
		switch p.Keyword {
		case "NOTIFY":
			if r.Notify, err = envelope.ParseNotify(p.Value); err != nil {
				return r, reply(501, 5, 4, err.Error())
			}
		case "ORCPT":
			kind, address, _ := strings.Cut(p.Value, ";")
			if kind == "" || address == "" || len(p.Value) > maxORcpt {
				return r, reply(501, 5, 4, "ORCPT is not a type and an address (RFC 3461)")
			}
			r.ORcpt = p.Value
		default:
			return r, unknownParam("RCPT", p)
		}
	}
	if path.NeedsUTF8() && !utf8 {
		return r, reply(553, 6, 7, "the recipient address is not ASCII; that needs the SMTPUTF8 parameter of MAIL")
	}
	return r, refusal
}

// repeated refuses a parameter that stands twice (RFC 5321 section 4.1.1.11 lets none be repeated): which one counts
// would be a matter of opinion.
func repeated(params []envelope.Param) (refusal envelope.Reply) {
	seen := make(map[string]bool, len(params))
	for _, p := range params {
		if seen[p.Keyword] {
			return reply(501, 5, 4, "the parameter "+p.Keyword+" stands twice")
		}
		seen[p.Keyword] = true
	}
	return refusal
}

func unknownParam(verb string, p envelope.Param) envelope.Reply {
	return reply(555, 5, 4, fmt.Sprintf("%s has no parameter %s here", verb, p.Keyword))
}

func tooLarge(maxSize int64) envelope.Reply {
	return reply(552, 3, 4, fmt.Sprintf("the message is larger than the %d octets that are taken here", maxSize))
}

// isXtext reports whether s is made of xtext's characters (RFC 3461 section 4). The library checks what they encode.
func isXtext(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' || s[i] == '=' {
			return false
		}
	}
	return true
}

func cutPrefixFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}
