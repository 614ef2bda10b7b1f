package relay

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"time"

	"relayd/internal/envelope"
)

// verdict is what a new connection gets.
type verdict uint8

const (
	welcome verdict = iota
	stranger
	tooMany
	tooManyOfClient
)

// greeting returns the reply that stands in the place of the 220 (RFC 5321 section 3.1).
func (p *peer) greeting(v verdict) envelope.Reply {
	switch v {
	case stranger:
		return reply(554, 7, 1, fmt.Sprintf("%s may not relay here: add %q to %s", p.addr,
			netip.PrefixFrom(p.addr, p.addr.BitLen()), p.terms.set.TrustHint))
	case tooMany:
		return reply(421, 3, 2, "too many connections; try again later")
	}
	return reply(421, 7, 0, fmt.Sprintf("too many connections from %s; try again later", clientNetwork(p.addr)))
}

// turnAway refuses the connection. The refusal is logged once in a while for each client, and only so many clients
// are waited for, so that a scan fills neither disk nor memory.
func (p *peer) turnAway(v verdict) {
	r := p.greeting(v)
	p.warn(once, "session refused", fmt.Sprint(r.Code), "listener", p.terms.Address, "reply", r.String())
	select {
	case p.srv.lingering <- struct{}{}:
		go func() {
			defer func() { <-p.srv.lingering }()
			p.sayNo(r)
		}()
	default:
		if p.terms.TLS != TLSImplicit {
			p.raw.SetWriteDeadline(time.Now().Add(time.Second)) // a fresh socket has room: this does not wait
			p.raw.Write(appendReply(nil, r))
		}
		p.release()
	}
}

// sayNo answers the connection with r and waits, within bounds, for the client to read it and QUIT; anything else it
// says gets a 503 (RFC 5321 section 3.1). Closing at once could reset the connection before the client reads r.
func (p *peer) sayNo(r envelope.Reply) {
	defer p.release()
	until := time.Now().Add(p.srv.tune.linger)
	conn := p.raw
	if p.terms.TLS == TLSImplicit {
		tc, err := p.handshake(until)
		if err != nil {
			return
		}
		conn = tc
	}
	if p.arm(until, idle) != nil {
		return
	}
	conn.SetWriteDeadline(until)
	conn.Write(appendReply(nil, r))
	p.awaitQuit(conn)
	conn.Close()
}

func (p *peer) awaitQuit(conn net.Conn) {
	const commands, octets = 10, 512
	lines := bufio.NewReaderSize(conn, octets)
	for range commands {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if verb, _ := splitVerb(string(line)); verb == "QUIT" {
			conn.Write(appendReply(nil, reply(221, 0, 0, "closing")))
			return
		}
		conn.Write(appendReply(nil, reply(503, 5, 1, "this session was refused; QUIT")))
	}
}
