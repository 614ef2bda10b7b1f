package relay

import "time"

// startTLS answers STARTTLS. On success the connection goes to a new guard and a new library session, so that nothing
// said in plain text is remembered (RFC 3207 section 4.2), and this guard's session ends without closing it.
func (g *guard) startTLS(arg string) {
	switch {
	case g.tls != nil:
		g.say(reply(503, 5, 1, "TLS is in use already"))
		return
	case g.peer.terms.TLS != TLSStartTLS:
		g.say(reply(502, 5, 1, "TLS is not offered here"))
		return
	case arg != "":
		g.say(reply(501, 5, 4, "STARTTLS has no arguments"))
		return
	case g.r < g.w:
		// Whoever can write into the plain connection could have put these octets there (CVE-2011-0411). Nothing may
		// stand behind STARTTLS in a pipelined group (RFC 3207 section 4.1).
		g.expel(reply(554, 5, 1, "commands were sent behind STARTTLS without waiting for TLS; closing"),
			"plain text behind STARTTLS")
		return
	}
	g.say(reply(220, 0, 0, "ready for TLS"))
	if g.flush() != nil {
		return
	}
	g.ended = true
	tc, err := g.peer.handshake(time.Now().Add(g.peer.srv.tune.handshake))
	if err != nil {
		return
	}
	next := newGuard(g.peer, tc, tc)
	next.swap = swap{code: "220"} // the client has its greeting
	g.conn = nil
	next.serve()
}
