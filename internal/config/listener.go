package config

import (
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
)

const (
	// minMessageSize is the least limit that RFC 5321 section 4.5.3.1.7 allows, 64K octets; it also catches a
	// max_message_size = 50 that was meant as megabytes.
	minMessageSize = 64_000
	maxCount       = math.MaxInt32
)

// readListeners returns the listeners, the default one when the file has none.
func readListeners(root *table) []Listener {
	tables := root.tables("listener")
	switch {
	case len(tables) > 0:
	case root.isEmptyList("listener"):
		root.bad("listener", "is an empty list", "delete the line for the default, a listener on :25")
	case !root.has("listener"):
		tables = []*table{{reader: root.reader, name: "listener", at: sub("", "listener")}}
	}
	out := make([]Listener, len(tables))
	for i, t := range tables {
		out[i] = readListener(t)
	}
	refuseSameAddresses(tables, out)
	return out
}

func readListener(t *table) Listener {
	l := Listener{
		TLS:                     t.choice("tls", "off", "starttls", "implicit"),
		MinTLS:                  t.minTLS(),
		MaxConnections:          t.number("max_connections", 1, maxCount),
		MaxConnectionsPerClient: t.number("max_connections_per_client", 1, maxCount),
		MaxRecipients:           t.number("max_recipients", 1, maxCount),
	}
	l.MaxMessageSize, _ = t.size("max_message_size", minMessageSize)
	if s, ok := t.text("address"); ok {
		address, problem, remedy := parseAddress(s)
		if problem != "" {
			t.bad("address", problem, remedy)
		}
		l.Address = address
	}
	if l.MaxConnectionsPerClient > l.MaxConnections {
		if t.has("max_connections_per_client") {
			t.bad("max_connections_per_client", fmt.Sprintf("%d is more than max_connections, %d",
				l.MaxConnectionsPerClient, l.MaxConnections), "lower it, or raise max_connections")
		}
		l.MaxConnectionsPerClient = l.MaxConnections
	}
	switch l.TLS {
	case "":
	case "off":
		t.refuseWithoutTLS("cert_file", "key_file", "min_tls")
	default:
		l.CertFile, l.Certificates = t.certificate()
	}
	return l
}

// refuseWithoutTLS refuses keys that do nothing when tls is "off".
func (t *table) refuseWithoutTLS(keys ...string) {
	for _, key := range keys {
		if t.has(key) {
			t.bad(key, `has no effect with tls = "off"`, `set tls = "starttls" or "implicit", or delete the line`)
		}
	}
}

// minTLS returns the least version of TLS. 1.0 and 1.1 are there for devices of twenty years ago.
func (t *table) minTLS() uint16 {
	const key = "min_tls"
	switch t.choice(key, "1.0", "1.1", "1.2", "1.3") {
	case "1.0":
		t.caution(key, "TLS 1.0 is broken and switched off elsewhere", "go back to 1.2 once no peer needs it")
		return tls.VersionTLS10
	case "1.1":
		t.caution(key, "TLS 1.1 is broken and switched off elsewhere", "go back to 1.2 once no peer needs it")
		return tls.VersionTLS11
	case "1.3":
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// refuseSameAddresses refuses two listeners of which the system would let only one listen. A wildcard, in Go, is IPv4
// and IPv6 at once, and takes the port of every single address too.
func refuseSameAddresses(tables []*table, listeners []Listener) {
	type place struct{ host, port string }
	taken := map[place]int{} // host "" stands for all addresses, "any" for whichever was first on the port
	for i, l := range listeners {
		host, port, ok := listensOn(l.Address)
		if !ok {
			continue
		}
		rivals := []place{{host, port}, {"", port}}
		if host == "" {
			rivals = []place{{"any", port}}
		}
		for _, rival := range rivals {
			if j, ok := taken[rival]; ok {
				tables[i].bad("address", fmt.Sprintf("%q is taken by the listener in line %d, %q", l.Address,
					tables[j].line, listeners[j].Address), "give each listener an address and port of its own")
				break
			}
		}
		for _, p := range []place{{host, port}, {"any", port}} {
			if _, ok := taken[p]; !ok {
				taken[p] = i
			}
		}
	}
}

// listensOn takes an address apart for comparison with others. The host is "" for all addresses of the machine; ok is
// false when the address is not one, or its port is any that is free.
func listensOn(address string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return "", "", false
	}
	host = strings.ToLower(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		if host = addr.Unmap().String(); addr.Unmap().IsUnspecified() {
			host = ""
		}
	}
	return host, port, true
}
