package relay

import (
	"fmt"
	"strings"

	"relayd/internal/envelope"
)

// maxHelo is the longest name in EHLO and HELO (RFC 5321 section 4.5.3.1.2), in octets.
const maxHelo = 255

// helpText answers HELP (RFC 5321 section 4.1.1.8).
const helpText = "relayd, a mail relay: the commands are EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS HELP QUIT\n" +
	"no login is asked for; a client relays by its address"

// admit looks at one command line. It returns the line that the library is to run, or "" when the guard answered or
// ended the session.
func (g *guard) admit(line string) string {
	verb, arg := splitVerb(line)
	g.verb = verb
	if speaksHTTP(line) {
		g.expel(reply(500, 5, 2, "this is a mail relay; closing"), "the client speaks HTTP")
		return ""
	}
	switch verb {
	case "EHLO", "HELO":
		return g.hello(line, arg)
	case "MAIL":
		return g.mail(line, arg)
	case "RCPT":
		return g.rcpt(line, arg)
	case "DATA":
		return g.data(arg)
	case "BDAT":
		return g.bdat(arg)
	case "STARTTLS":
		g.startTLS(arg)
		return ""
	case "RSET", "NOOP", "VRFY", "EXPN":
		g.tally.idle++
		return line
	case "HELP":
		g.tally.idle++
		g.say(reply(214, 0, 0, helpText))
	case "QUIT":
		return verb
	case "AUTH":
		g.say(reply(503, 5, 1, "no login is asked for here; clients relay by their address: turn the login off"))
	default:
		g.say(reply(500, 5, 2, "unknown command"))
	}
	return ""
}

// splitVerb returns a command's verb in upper case, and its argument.
func splitVerb(line string) (verb, arg string) {
	verb, arg, _ = strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	return strings.ToUpper(verb), strings.TrimLeft(arg, " ")
}

func (g *guard) hello(line, arg string) string {
	name, _, _ := strings.Cut(arg, " ")
	switch {
	case name == "":
		g.say(reply(501, 5, 4, "say "+g.verb+" with the name of this host"))
		return ""
	case len(name) > maxHelo:
		g.say(reply(501, 5, 4, fmt.Sprintf("the name is longer than %d octets", maxHelo)))
		return ""
	}
	g.tally.idle++
	g.session.greet(traceAtom(name), g.verb == "EHLO")
	g.peer.srv.noteName(g.peer, g.session.helo)
	// The library puts its own words where RFC 5321 section 4.1.1.1 has the server's name, and an enhanced code in the
	// reply to HELO, where RFC 2034 section 3 has none.
	first := "250-" + g.peer.terms.set.Hostname + "\r\n"
	switch {
	case g.verb == "HELO":
		first = "250 " + g.peer.terms.set.Hostname + "\r\n"
	case g.tls != nil: // which the library does not see
		first += "250-REQUIRETLS\r\n"
	}
	g.swap = swap{code: "250", with: []byte(first)}
	return line
}

func (g *guard) mail(line, arg string) string {
	s := g.session
	switch {
	case s.helo == "":
		g.say(reply(503, 5, 1, "say EHLO first"))
		return ""
	case s.active:
		g.say(reply(503, 5, 1, "a mail transaction is under way; RSET ends it"))
		return ""
	}
	env, refusal := parseMail(arg, g.peer.maxSize, g.tls != nil)
	if check := g.peer.terms.set.CheckSender; refusal.IsZero() && check != nil {
		refusal = check(g.peer.srv.work, envelope.Origin{Addr: g.peer.addr, Helo: s.helo}, env.ReversePath)
	}
	if !refusal.IsZero() {
		g.refuseCommand(line, refusal)
		return ""
	}
	s.offered = env
	g.swap = swap{code: "250", with: []byte("250 2.1.0 sender ok\r\n")}
	return line
}

func (g *guard) rcpt(line, arg string) string {
	s := g.session
	switch {
	case !s.active:
		g.say(reply(503, 5, 1, "say MAIL first"))
		return ""
	case s.message != nil:
		g.say(reply(503, 5, 1, "the message is under way; RSET ends it"))
		return ""
	}
	r, refusal := parseRcpt(arg, s.env.UTF8)
	if !refusal.IsZero() {
		g.refuseCommand(line, refusal)
		return ""
	}
	r.Path, r.ORcpt = envelope.Path(strings.Clone(string(r.Path))), strings.Clone(r.ORcpt)
	if !s.hold(r) {
		g.refuseCommand(line, reply(452, 3, 1, "there is no room for more recipients at the moment; send to those that were taken, and to the others afterwards"))
		return ""
	}
	s.candidate = r
	g.swap = swap{code: "250", with: []byte("250 2.1.5 recipient ok\r\n")}
	return canonical(r)
}

// data opens the message before the library answers 354, so that a queue that takes nothing now says so before the
// client has sent a long body for nothing.
func (g *guard) data(arg string) string {
	s := g.session
	switch {
	case arg != "":
		g.say(reply(501, 5, 4, "DATA has no arguments"))
	case !s.active:
		g.say(reply(503, 5, 1, "say MAIL first"))
	case s.message != nil:
		g.say(reply(503, 5, 1, "the message comes with BDAT; RSET ends it"))
	case len(s.env.Recipients) == 0:
		g.say(reply(554, 5, 1, "no valid recipients"))
	default:
		if refusal := s.open(false); !refusal.IsZero() {
			g.say(refusal)
			return ""
		}
		return g.verb
	}
	return ""
}

// refuseCommand answers MAIL or RCPT, and logs it.
func (g *guard) refuseCommand(line string, r envelope.Reply) {
	g.say(r)
	g.peer.warn(several, "command refused", fmt.Sprint(r.Code, r.Enhanced), "helo", g.session.helo, "command", line, "reply", r.String())
}
