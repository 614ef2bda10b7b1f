package smarthost

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"relayd/internal/pace"
	"relayd/internal/rewrite"
)

// Mode says how a route's connections are secured.
type Mode string

const (
	// ModeStartTLS demands STARTTLS (RFC 3207); a host that does not offer it gets no mail. The zero value means it too.
	ModeStartTLS Mode = "starttls"
	// ModeImplicit begins with the TLS handshake (RFC 8314).
	ModeImplicit Mode = "implicit"
	// ModeOff sends in the clear. It excludes a login.
	ModeOff Mode = "off"
)

// The values of Route.Auth. The empty string means AuthAuto.
const (
	AuthAuto    = "auto"
	AuthPlain   = "plain"
	AuthLogin   = "login"
	AuthCRAMMD5 = "cram-md5"
	// AuthSCRAM is SCRAM-SHA-256 without channel binding, also where the host offers to bind. AuthAuto binds then.
	AuthSCRAM = "scram-sha-256"
	// AuthXOAUTH2 and AuthOAuthBearer go with Route.Tokens, where AuthAuto means one of the two.
	AuthXOAUTH2     = "xoauth2"
	AuthOAuthBearer = "oauthbearer"
	AuthOff         = "off"
)

// Defaults of Options and Route.
const (
	DefaultProbeMin       = 5 * time.Second
	DefaultProbeMax       = 2 * time.Minute
	DefaultAuthProbeMin   = time.Minute
	DefaultAuthProbeMax   = time.Hour
	DefaultQuotaProbeMin  = 10 * time.Minute
	DefaultQuotaProbeMax  = time.Hour
	DefaultMaxConnections = 4
)

// Options are what a Router works by. Zero values mean the defaults, except for Hostname, which must be given.
type Options struct {
	// Hostname is the relay's own name, for EHLO.
	Hostname string
	Log      *slog.Logger
	Routes   []Route
	// ProbeMin and ProbeMax bound the pause, doubling, in which a host that failed is left alone; AuthProbeMin and
	// AuthProbeMax bound it after a refused login or when the account is blocked, so that no account gets locked;
	// QuotaProbeMin and QuotaProbeMax when what may be sent in a day is used up.
	ProbeMin, ProbeMax           time.Duration
	AuthProbeMin, AuthProbeMax   time.Duration
	QuotaProbeMin, QuotaProbeMax time.Duration
	Timeouts                     Timeouts
	// Replies are the user's rows of the table of replies, before the built-in ones.
	Replies []ReplyRule
	// Learnt holds what an earlier run learnt of hosts, by "host:port". Learn, when set, is told of each change, with no
	// lock held, and must return soon.
	Learnt map[string]HostFacts
	Learn  func(addr string, f HostFacts)
	// Clients rewrite the senders of mail by where it came in, before the rules of its route are asked; the first whose
	// networks hold the client counts.
	Clients []ClientRules
	// PaceFile keeps what each account has sent, over restarts and crashes; "" keeps it in memory. It is that of New.
	PaceFile string
	// IsSelf, when set, reports whether the relay itself listens on an address, so that mail handed there would come back.
	// Hosts that Reconfigure keeps go on with the Learn and IsSelf that they have.
	IsSelf func(netip.AddrPort) bool
	// Dial opens connections; nil means a net.Dialer, which tries all addresses of a name, and those of IPv4 beside those
	// of IPv6 after a moment (RFC 8305).
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolver looks up names; nil means the system's.
	Resolver *net.Resolver
}

// HostFacts is what the relay remembers of a host over restarts.
type HostFacts struct {
	// Size is the SIZE that the host offered at SizeAt, in octets; 0 for none.
	Size   int64     `json:"size,omitempty"`
	SizeAt time.Time `json:"size_at,omitzero"`
	// Pipelining is how the host kept commands and replies in step, by the words of its greeting.
	Pipelining map[string]Pipelining `json:"pipelining,omitempty"`
}

// Route is an ordered list of hosts with one set of credentials, and which mail it takes.
type Route struct {
	Name string
	// Hosts are tried in order; each is "host:port", or "_service._tcp.domain" or "mx:domain:port" for the hosts that DNS
	// names for it when connections are made.
	Hosts  []string
	TLS    Mode
	MinTLS uint16
	// RootCAs verifies the hosts' certificates; nil means the system's authorities, or nothing but Pins if there are any.
	RootCAs *x509.CertPool
	// Pins are the keys or certificates of which a host must show one.
	Pins []Pin
	// Certificates are shown to hosts that ask for one.
	Certificates []tls.Certificate
	// TLSName is the name that goes into the TLS handshake and that the certificate must have, in place of the host's. Of
	// hosts that DNS names it is the domain in which their own names count, in place of the one that was asked for.
	TLSName  string
	Auth     string
	Username string
	Password string `json:"-"`
	// Tokens, when set, gives what the login shows in place of a password. Such a route never uses a password.
	Tokens TokenSource `json:"-"`
	// MaxConnections bounds the open connections to each host.
	MaxConnections int
	// Senders, Recipients and Clients are the conditions; the route takes mail that meets all that are given. A pattern
	// is "user@example.com", "@example.com" or "*".
	Senders, Recipients []string
	Clients             []netip.Prefix
	// Rate and DailyRecipients limit what the account sends; MaxRecipients the recipients of one transaction, of which a
	// message to more takes several; MaxSize is the largest content in octets, as if each host had offered it as its SIZE.
	// Zero is no limit. Routes of one account, by the same username and a host in common, share its count.
	Rate            pace.Rate
	DailyRecipients int
	MaxRecipients   int
	MaxSize         int64
	// Rewrite says what becomes of senders on this route. Its Name is set from the route's.
	Rewrite rewrite.Rules
}

// String returns the route's name. It is there to keep the password out of whatever prints a Route.
func (r Route) String() string { return r.Name }

// GoString returns the route's name, like String.
func (r Route) GoString() string { return r.Name }

// LogValue returns the route's name, like String.
func (r Route) LogValue() slog.Value { return slog.StringValue(r.Name) }

// Timeouts bound how long the peer is waited for. The defaults are those of RFC 5321 section 4.5.3.2, which are long
// because a host that is cut off too early takes the message and gets it again.
type Timeouts struct {
	Dial     time.Duration // TCP connection, name lookup included; 30 seconds
	TLS      time.Duration // TLS handshake; 1 minute
	Greeting time.Duration // 220 greeting; 5 minutes
	Command  time.Duration // EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET; 5 minutes
	Data     time.Duration // 354 to DATA; 2 minutes
	Block    time.Duration // each block of the body that is written; 3 minutes
	Dot      time.Duration // reply to the final dot; 10 minutes
	Quit     time.Duration // 221 to QUIT; 5 seconds
	// Idle is how long a connection is kept without work; 30 seconds.
	Idle time.Duration
	// Grace is how long a delivery that is cancelled still waits for the reply to a final dot it has sent; 30 seconds.
	Grace time.Duration
}

func (t Timeouts) orDefaults() Timeouts {
	return Timeouts{
		Dial:     cmp.Or(t.Dial, 30*time.Second),
		TLS:      cmp.Or(t.TLS, time.Minute),
		Greeting: cmp.Or(t.Greeting, 5*time.Minute),
		Command:  cmp.Or(t.Command, 5*time.Minute),
		Data:     cmp.Or(t.Data, 2*time.Minute),
		Block:    cmp.Or(t.Block, 3*time.Minute),
		Dot:      cmp.Or(t.Dot, 10*time.Minute),
		Quit:     cmp.Or(t.Quit, 5*time.Second),
		Idle:     cmp.Or(t.Idle, 30*time.Second),
		Grace:    cmp.Or(t.Grace, 30*time.Second),
	}
}

// orDefaults returns o with its defaults filled in, or all that is wrong with it.
func (o Options) orDefaults() (Options, error) {
	var errs []error
	if o.Hostname == "" || strings.ContainsFunc(o.Hostname, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		errs = append(errs, fmt.Errorf("hostname: %q is not a name for EHLO; write one such as relay.example.com",
			o.Hostname))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Resolver: o.Resolver}).DialContext
	}
	o.ProbeMin = cmp.Or(o.ProbeMin, DefaultProbeMin)
	o.ProbeMax = max(cmp.Or(o.ProbeMax, DefaultProbeMax), o.ProbeMin)
	o.AuthProbeMin = cmp.Or(o.AuthProbeMin, DefaultAuthProbeMin)
	o.AuthProbeMax = max(cmp.Or(o.AuthProbeMax, DefaultAuthProbeMax), o.AuthProbeMin)
	o.QuotaProbeMin = cmp.Or(o.QuotaProbeMin, DefaultQuotaProbeMin)
	o.QuotaProbeMax = max(cmp.Or(o.QuotaProbeMax, DefaultQuotaProbeMax), o.QuotaProbeMin)
	o.Timeouts = o.Timeouts.orDefaults()
	routes := make([]Route, 0, len(o.Routes))
	seen := make(map[string]bool)
	for _, r := range o.Routes {
		if seen[r.Name] {
			errs = append(errs, fmt.Errorf("smarthost %s: there are two of this name; give each its own", r.Name))
		}
		seen[r.Name] = true
		r, err := r.orDefaults()
		errs = append(errs, err)
		routes = append(routes, r)
	}
	o.Routes = routes
	return o, errors.Join(errs...)
}

func (r Route) orDefaults() (Route, error) {
	var errs []error
	fault := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("smarthost %s: %s: %s", r.Name, key, fmt.Sprintf(format, args...)))
	}
	r.TLS = cmp.Or(r.TLS, ModeStartTLS)
	r.Auth = cmp.Or(r.Auth, AuthAuto)
	r.MinTLS = cmp.Or(r.MinTLS, tls.VersionTLS12)
	r.MaxConnections = cmp.Or(max(r.MaxConnections, 0), DefaultMaxConnections)
	if r.Name == "" {
		fault("name", "it is empty; give the route a name")
	}
	if len(r.Hosts) == 0 {
		fault("hosts", "there is none; name at least one host")
	}
	for _, h := range r.Hosts {
		if _, err := parseEntry(h); err != nil {
			fault("hosts", "%v", err)
		}
	}
	switch r.TLS {
	case ModeStartTLS, ModeImplicit, ModeOff:
	default:
		fault("tls", "%q is unknown; write starttls, implicit or off", r.TLS)
	}
	switch r.Auth {
	case AuthAuto, AuthOff:
	case AuthXOAUTH2, AuthOAuthBearer:
		if r.Tokens == nil {
			fault("auth", "%q needs a source of tokens", r.Auth)
		}
	case AuthPlain, AuthLogin, AuthCRAMMD5, AuthSCRAM:
		if r.Tokens != nil {
			fault("auth", "%q is a login with a password; with tokens it is auto, xoauth2 or oauthbearer", r.Auth)
		}
		if r.Username == "" {
			fault("auth", "%q needs a username", r.Auth)
		}
	default:
		fault("auth", "%q is unknown; write auto, plain, login, cram-md5, scram-sha-256, xoauth2, oauthbearer or off", r.Auth)
	}
	if r.Tokens != nil && (r.Username == "" || r.Password != "" || r.Auth == AuthOff) {
		fault("auth", "a login with tokens needs a username, and neither a password nor auth off")
	}
	if r.login() && r.TLS == ModeOff {
		fault("tls", `"off" would send the password in the clear; write starttls or implicit`)
	}
	if r.login() && strings.ContainsRune(r.Username+r.Password, 0) {
		fault("password", "username and password cannot hold a NUL; check the file or variable it comes from")
	}
	for _, p := range append(append([]string(nil), r.Senders...), r.Recipients...) {
		if err := checkPattern(p); err != nil {
			fault("senders, recipients", "%v", err)
		}
	}
	return r, errors.Join(errs...)
}

// login reports whether the route's connections must log in.
func (r Route) login() bool { return r.Username != "" && r.Auth != AuthOff }
