package config

import (
	"fmt"
	"net"
	"strings"
)

// Metrics is the [metrics] table.
type Metrics struct {
	Address string // host:port for net.Listen; empty: none are shown
}

// readMetrics returns where metrics are shown, which is an address that no listener has. The smarthosts tell the names
// that are shown with them.
func readMetrics(t *table, listeners []Listener, smarthosts []Smarthost) Metrics {
	const key = "address"
	s, ok := t.text(key)
	if !ok {
		return Metrics{}
	}
	address, problem, _ := parseAddress(s) // whose remedies are for listeners of mail
	if problem != "" {
		t.bad(key, problem, "write "+t.form(key))
		return Metrics{}
	}
	if host, _, err := net.SplitHostPort(address); err != nil || !isLoopbackName(strings.ToLower(host)) {
		t.caution(key, fmt.Sprintf("whoever can connect to %s can read the metrics, which have no login", address),
			`let a firewall decide who can, or write "127.0.0.1:9125" and have Prometheus, or an agent of it, on this machine`)
	}
	for _, s := range smarthosts {
		if strings.Contains(s.Name, "@") {
			t.bad(key, fmt.Sprintf("metrics show the names of smarthosts, and %q is an address, which is nobody else's business", s.Name),
				"give that smarthost a name without @")
		}
	}
	host, port, ok := listensOn(address)
	for _, l := range listeners {
		if h, p, listens := listensOn(l.Address); ok && listens && p == port && (h == host || h == "" || host == "") {
			t.bad(key, fmt.Sprintf("%q is taken by the [[listener]] on %q, which is for mail", address, l.Address),
				"give the metrics a port of their own")
			break
		}
	}
	return Metrics{Address: address}
}
