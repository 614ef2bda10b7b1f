// Package relay is the inbound side: it listens for mail servers and devices, decides who may relay, and puts what
// they send into the queue behind a trace header.
//
// # Contract
//
// A message is answered with 250 only after Writer.Commit returned nil. Every other end of a mail transaction (a
// refusal, a lost or too slow client, a broken body, a panic, the end of Shutdown) calls Writer.Abort exactly once
// and never answers 250, so that the client keeps the message. What reaches the queue has CRLF line ends throughout,
// is not dot-stuffed, and its addresses went through package envelope.
//
// Who may relay is decided by the client's address alone, before the client can say anything: everybody else is
// greeted with a 554 that names the address and the place to add it.
//
// # How it sits on go-smtp
//
// The SMTP dialogue is github.com/emersion/go-smtp's. Between it and the socket stands a guard, a net.Conn that owns
// the wire. The guard hands the library one command line at a time, so that the library never holds bytes that
// belong to something else; it refuses malformed lines, reads message bodies itself (only CRLF.CRLF ends one),
// serves BDAT and STARTTLS, collects the replies of a pipelined group into one write, and keeps the deadlines. Each
// connection has a library server of its own; it is the listeners and limits here that are shared.
//
// # When things fail
//
// A listener that cannot be bound fails Start or Reconfigure as a whole and leaves nothing half open. A client that
// breaks the protocol in a way that makes it unclear where its commands end (a bare CR, a malformed BDAT, plaintext
// behind STARTTLS, a body that stops) loses its connection; what it sent after that is never run as commands. A panic
// costs its own session only.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"relayd/internal/envelope"
)

// Writer takes the content of one message. Either Commit succeeds or Abort is called, once; Abort also follows a
// Commit that failed, to let go of what the message held. Write and Commit may fail with an envelope.Reply in the
// error's chain, which is then the client's answer.
type Writer interface {
	io.Writer
	// ID is the queue id, known from the start because the trace header carries it.
	ID() string
	// Commit returns once the message is durable.
	Commit(ctx context.Context) error
	Abort() error
}

// Mode is how a listener uses TLS.
type Mode string

const (
	// TLSOff speaks plain text only. The zero Mode means the same.
	TLSOff Mode = "off"
	// TLSStartTLS offers STARTTLS (RFC 3207).
	TLSStartTLS Mode = "starttls"
	// TLSImplicit speaks TLS from the first octet (RFC 8314 section 3.3).
	TLSImplicit Mode = "implicit"
)

// What a Listener's zero fields mean.
const (
	DefaultMaxConnections          = 1024
	DefaultMaxConnectionsPerClient = 256
	DefaultMaxMessageSize          = 50 << 20
	DefaultMaxRecipients           = 1000
)

// Listener is one address to take mail on, with its limits. A limit of zero stands for the default above.
type Listener struct {
	// Address is host:port. Without a host it takes IPv4 and IPv6; an IPv4 or IPv6 host takes that family only.
	Address string
	TLS     Mode
	// TLSConfig is needed unless TLS is off. Its MinVersion is kept. Session tickets are off: libesmtp takes those of TLS
	// 1.3, which come unasked, for the reply that it waits for, and hangs.
	TLSConfig *tls.Config
	// MaxConnections is the number of sessions at once.
	MaxConnections int
	// MaxConnectionsPerClient is the number of sessions at once from one IPv4 address or one IPv6 /64.
	MaxConnectionsPerClient int
	// MaxMessageSize is the largest content in octets, line ends counted as CRLF (RFC 1870), without the trace
	// header that is added.
	MaxMessageSize int64
	// MaxRecipients is the number of recipients in one transaction. RFC 5321 section 4.5.3.1.8 wants 100 or more.
	MaxRecipients int
}

// Options says what a Server listens on and where the mail goes.
type Options struct {
	// Hostname is the name in the greeting and in trace headers.
	Hostname string
	// Log may be nil.
	Log *slog.Logger
	// Begin opens a message in the queue. An error that holds an envelope.Reply is answered with it, any other with
	// 451 4.3.0.
	Begin func(envelope.Envelope, envelope.Origin) (Writer, error)
	// Trusted lists who may relay. Loopback may too, unless DistrustLoopback is set.
	Trusted          []netip.Prefix
	DistrustLoopback bool
	// Forwards reports whether an address may stand for many machines, as that of a gateway does; it may be nil.
	Forwards func(netip.Addr) bool
	// TrustHint says where Trusted is written, as "trusted_networks in /etc/relayd/relayd.toml". It stands in the words
	// of the 554 that others get.
	TrustHint string
	Listeners []Listener
	// Carry returns the largest content in octets that some smarthost takes, as far as that is known, and 0 when no limit
	// is known. A session never takes more, so that a message that cannot be handed on is refused at once; it may be nil.
	Carry func() int64
	// CheckSender, when set, is asked at MAIL, and its Reply refuses the sender unless it is zero. The client waits for it
	// meanwhile, so that it must return soon; it knows of the origin where the client is and how it greeted.
	CheckSender func(ctx context.Context, o envelope.Origin, reverse envelope.Path) envelope.Reply
}

// traceRoom is how much longer than the content that a client sends the message may be that a smarthost gets: the trace
// header, and what the rewriting of its sender adds to the header.
const traceRoom = 2 << 10

// maxSize returns the largest content in octets that a session takes now.
func (t *terms) maxSize() int64 {
	if t.set.Carry == nil {
		return t.MaxMessageSize
	}
	if limit := t.set.Carry(); limit > 0 {
		return min(t.MaxMessageSize, max(limit-traceRoom, 1))
	}
	return t.MaxMessageSize
}

// settings are Options that were checked, with defaults filled in. They are never changed.
type settings struct{ Options }

// settle checks o and returns all that is wrong with it at once.
func settle(o Options) (*settings, error) {
	var faults []error
	if o.Hostname == "" || traceAtom(o.Hostname) != o.Hostname {
		faults = append(faults, fmt.Errorf("hostname %q cannot stand in a greeting: write a name such as relay.example.com",
			o.Hostname))
	}
	if o.Begin == nil {
		faults = append(faults, errors.New("there is no queue to put messages into: set Begin"))
	}
	if len(o.Listeners) == 0 {
		faults = append(faults, errors.New("there is no listener: add one, as :25"))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TrustHint == "" {
		o.TrustHint = "the trusted networks"
	}
	o.Trusted = slices.Clone(o.Trusted)
	for i, p := range o.Trusted {
		if !p.IsValid() || unmapPrefix(p).Bits() == 0 {
			faults = append(faults, fmt.Errorf("trusted network %v would let everybody relay: name your own networks", p))
			continue
		}
		o.Trusted[i] = unmapPrefix(p)
	}
	o.Listeners = slices.Clone(o.Listeners)
	for i := range o.Listeners {
		if err := o.Listeners[i].settle(); err != nil {
			faults = append(faults, fmt.Errorf("listener %s: %w", o.Listeners[i].Address, err))
		}
	}
	return &settings{Options: o}, errors.Join(faults...)
}

func (l *Listener) settle() error {
	if _, _, err := net.SplitHostPort(l.Address); err != nil {
		return fmt.Errorf("%w: write it as 192.168.1.1:25, [2001:db8::1]:25 or :25", err)
	}
	switch l.TLS {
	case "":
		l.TLS = TLSOff
	case TLSOff, TLSStartTLS, TLSImplicit:
	default:
		return fmt.Errorf("tls is %q: write off, starttls or implicit", l.TLS)
	}
	if l.TLS != TLSOff && l.TLSConfig == nil {
		return fmt.Errorf("tls is %q and there is no certificate: give one, or turn tls off", l.TLS)
	}
	if l.MaxConnections < 0 || l.MaxConnectionsPerClient < 0 || l.MaxMessageSize < 0 || l.MaxRecipients < 0 {
		return errors.New("a limit is negative: write a positive number")
	}
	if l.TLSConfig != nil && !l.TLSConfig.SessionTicketsDisabled {
		l.TLSConfig = l.TLSConfig.Clone()
		l.TLSConfig.SessionTicketsDisabled = true
	}
	l.MaxConnections = orDefault(l.MaxConnections, DefaultMaxConnections)
	l.MaxConnectionsPerClient = orDefault(l.MaxConnectionsPerClient, DefaultMaxConnectionsPerClient)
	l.MaxMessageSize = orDefault(l.MaxMessageSize, DefaultMaxMessageSize)
	l.MaxRecipients = orDefault(l.MaxRecipients, DefaultMaxRecipients)
	return nil
}

func orDefault[T int | int64](n, otherwise T) T {
	if n == 0 {
		return otherwise
	}
	return n
}

// network returns the network to listen on. For "tcp" and a wildcard host of either family Go opens a socket for
// both, which then collides with the other family's listener.
func (l *Listener) network() string {
	host, _, _ := net.SplitHostPort(l.Address)
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return "tcp"
	case a.Is4():
		return "tcp4"
	}
	return "tcp6"
}

// trusts reports whether the client may relay. addr is unmapped and without a zone.
func (s *settings) trusts(addr netip.Addr) bool {
	return addr.IsLoopback() && !s.DistrustLoopback || slices.ContainsFunc(s.Trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// unmapPrefix turns a network of IPv4-mapped IPv6 addresses into the IPv4 network that it is.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// clientAddr returns the peer's address as it is compared with networks: IPv4-mapped IPv6 unmapped, no zone.
func clientAddr(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// siteNetwork is what one person may have of many clients: an IPv4 /24, or an IPv6 /48.
func siteNetwork(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

// clientNetwork is what the limits per client count by: an IPv4 address, or the IPv6 /64 that one host can fill.
func clientNetwork(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}
