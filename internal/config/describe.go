package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Describe says in words what the configuration amounts to: where mail is taken and from whom, where it goes and by
// which login, when it is tried again, and where the queue is. It ends with a newline, and holds no secret.
func (c *Config) Describe() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%s", c.File)
	p("")
	p("Takes mail, as %s, on", c.Hostname)
	for _, l := range c.Listeners {
		p("  %s; %s", listenAddress(l.Address), listenTLS(l))
		p("    messages up to %s with up to %s recipients; up to %s, %s of one client", wordSize(l.MaxMessageSize),
			grouped(l.MaxRecipients), count(l.MaxConnections, "connection"), grouped(l.MaxConnectionsPerClient))
	}
	p("")
	p("From, without a login")
	if c.TrustLoopback {
		p("  this machine itself")
	}
	for _, net := range c.TrustedNetworks {
		if !slices.Contains(loopback(), net) {
			p("  %s", network(net))
		}
	}
	p("  and nobody else")
	describeMX(p, c.RequireSenderMX)
	describeClients(p, c.Clients)
	p("")
	p("Hands it on to")
	for i, s := range c.Smarthosts {
		describeSmarthost(p, i+1, s)
	}
	if !slices.ContainsFunc(c.Smarthosts, takesAll) {
		p("  mail that fits none of these waits until the configuration has a place for it")
	}
	p("")
	p("When it cannot go out")
	p("  mail that no host can be asked to take waits until one can, however long")
	p("  mail that is refused for the time being is tried again after %s, then later and later, never more than %s apart",
		wordDuration(c.Queue.RetryMin), wordDuration(c.Queue.RetryMax))
	p("  after %s of that the sender gets it back with a report", wordDuration(c.Queue.MaxAge))
	if c.Queue.DelayWarning > 0 {
		p("  the sender is told once when a message is late by %s", wordDuration(c.Queue.DelayWarning))
	}
	if c.Postmaster != "" {
		p("  reports that cannot be delivered go to %s", c.Postmaster)
	}
	p("")
	p("Queue           %s", c.DataDir)
	p("                %s; no new mail when less than %s of disk is free", queueLimits(c.Queue), wordSize(c.Queue.MinFree))
	p("                what became of a message is kept for %s", wordDuration(c.Queue.History))
	p("Control socket  %s", c.ControlSocket)
	if c.Metrics.Address != "" {
		p("Metrics         for Prometheus, to whoever can connect to %s", listenAddress(c.Metrics.Address))
	}
	p("Log             %s, from level %s", c.Log.Format, strings.ToLower(c.Log.Level.String()))
	return b.String()
}

func describeSmarthost(p func(string, ...any), n int, s Smarthost) {
	p("  %d. %s, %s", n, s.Name, fits(s))
	order := ""
	if len(s.Hosts) > 1 {
		order = ", in this order"
	}
	p("     hosts   %s%s; up to %s", strings.Join(s.Hosts, ", "), order, count(s.MaxConnections, "connection"))
	if s.Provider != "" {
		p("     preset  %s, for what the file does not say; \"relayctl providers %s\" shows it", s.Provider, s.Provider)
	}
	if words := paceWords(s); words != "" {
		p("     pace    %s", words)
	}
	switch s.TLS {
	case "starttls":
		p("     TLS     demanded, by STARTTLS, %s or newer; certificates verified with %s", tlsName(s.MinTLS), checks(s))
	case "implicit":
		p("     TLS     from the first byte, %s or newer; certificates verified with %s", tlsName(s.MinTLS), checks(s))
	default:
		p("     TLS     none: mail goes there in the clear")
	}
	if s.ClientCertFile != "" {
		p("             the relay shows the certificate in %s", s.ClientCertFile)
	}
	s.Rewrite.describe(p, "     ")
	if s.Username == "" {
		p("     login   none")
		return
	}
	if s.OAuth2 != nil {
		describeOAuth2(p, s)
		return
	}
	how := "with the best that the host offers of SCRAM-SHA-256, PLAIN, LOGIN and CRAM-MD5"
	if s.Auth != "auto" {
		how = "with " + strings.ToUpper(s.Auth)
	}
	p("     login   as %s %s, after TLS; %s", s.Username, how, s.PasswordSource)
}

// checks says what the certificate of a host is held against.
func checks(s Smarthost) string {
	roots := "the system's authorities"
	if s.RootCAs != nil {
		roots = s.CAFile
	}
	name := ""
	if s.TLSName != "" {
		name = " and the name " + s.TLSName
	}
	switch pins := count(len(s.Pins), "pinned key"); {
	case len(s.Pins) == 0:
		return roots + name
	case s.RootCAs == nil:
		return pins + " and nothing else"
	default:
		return roots + name + ", and with " + pins
	}
}

// fits says which mail a smarthost takes, apart from what one before it took.
func fits(s Smarthost) string {
	if takesAll(s) {
		return "for all mail"
	}
	var parts []string
	if len(s.Senders) > 0 && !slices.Contains(s.Senders, "*") {
		parts = append(parts, "from "+either(s.Senders))
	}
	if len(s.Recipients) > 0 && !slices.Contains(s.Recipients, "*") {
		parts = append(parts, "to "+either(s.Recipients))
	}
	if len(s.Clients) > 0 {
		names := make([]string, len(s.Clients))
		for i, c := range s.Clients {
			names[i] = network(c)
		}
		parts = append(parts, "that came in from "+either(names))
	}
	return "for mail " + strings.Join(parts, ", ")
}

// either joins words with commas and a last "or".
func either(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func listenAddress(address string) string {
	host, port, _ := net.SplitHostPort(address)
	where := "port " + port
	if port == "0" {
		where = "a port that the system chooses"
	}
	addr, err := netip.ParseAddr(host)
	if host == "" || err == nil && addr.Unmap().IsUnspecified() {
		return where + " of every address of this machine"
	}
	return where + " of " + host
}

func listenTLS(l Listener) string {
	switch l.TLS {
	case "starttls":
		return fmt.Sprintf("TLS by STARTTLS for clients that ask for it, %s or newer, with %s", tlsName(l.MinTLS), l.CertFile)
	case "implicit":
		return fmt.Sprintf("TLS from the first byte, %s or newer, with %s", tlsName(l.MinTLS), l.CertFile)
	}
	return "no TLS"
}

func tlsName(version uint16) string { return strings.TrimPrefix(tls.VersionName(version), "TLS ") }

// network writes a network of one address as that address.
func network(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func queueLimits(q Queue) string {
	limit := "at most " + count(q.MaxMessages, "message")
	if q.MaxBytes > 0 {
		limit += " and " + wordSize(q.MaxBytes)
	}
	return limit
}

// grouped writes n with a comma before each three digits.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// count writes n of a thing.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return grouped(n) + " " + thing + "s"
}

// wordSize writes a size with a space before the unit.
func wordSize(n int64) string {
	s := shortSize(n)
	digits := strings.TrimRight(s, "KMGTiB")
	if digits == s {
		return s + " bytes"
	}
	return digits + " " + s[len(digits):]
}

// wordDuration writes a duration in words, "1 hour 30 minutes".
func wordDuration(d time.Duration) string {
	names := map[string]string{"d": "day", "h": "hour", "m": "minute", "s": "second"}
	var words []string
	rest := int64(d)
	for _, u := range durationUnits[1:] {
		if n := int(rest / u.n); n > 0 {
			words = append(words, count(n, names[u.name]))
			rest %= u.n
		}
	}
	return strings.Join(words, " ")
}
