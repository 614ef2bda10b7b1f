package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// isHostname reports whether s can be the name of a host: labels of letters, digits and hyphens (RFC 1123 section
// 2.1) with dots between them. Names of real machines also have underscores; the EHLO of the relay must not.
func isHostname(s string, underscore bool) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' && underscore
			if !ok {
				return false
			}
		}
	}
	return true
}

// isHost reports whether s is the name of a host or an IP address.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	last := s[strings.LastIndex(strings.TrimSuffix(s, "."), ".")+1:]
	_, err := strconv.Atoi(strings.TrimSuffix(last, "."))
	return isHostname(s, true) && err != nil // a name whose last label is a number is a mistyped address
}

// isAddressLiteral reports whether s is an IP address in brackets (RFC 5321 section 4.1.3).
func isAddressLiteral(s string) bool {
	if !strings.HasPrefix(s, "[") || !strings.HasSuffix(s, "]") {
		return false
	}
	inner, isV6 := strings.CutPrefix(s[1:len(s)-1], "IPv6:")
	addr, err := netip.ParseAddr(inner)
	return err == nil && addr.Is4() != isV6 && addr.Zone() == ""
}

// hostname returns the name that the relay gives itself: of the file, else of the machine.
func (t *table) hostname(key string) string {
	s, ok := t.text(key)
	if !ok {
		return machineName(os.Hostname, "/etc/hosts")
	}
	if _, err := netip.ParseAddr(s); err == nil {
		t.bad(key, fmt.Sprintf("%q is an address", s), "write the name of this machine: "+t.form(key))
		return ""
	}
	if !isHostname(s, false) && !isAddressLiteral(s) {
		t.bad(key, fmt.Sprintf("%q is not a host name", s),
			"write the full name of this machine, letters, digits, hyphens and dots: "+t.form(key))
	}
	return strings.TrimSuffix(s, ".")
}

// machineName returns a name of this machine that is fit for EHLO (RFC 5321 section 4.1.1.1 wants a fully qualified
// one). A bare name is completed from the hosts file as hostname(1) does it, without asking DNS, which may be what
// is down; failing that with "localdomain", as Postfix does, since some smarthosts refuse a name without a dot.
func machineName(ask func() (string, error), hostsFile string) string {
	name, err := ask()
	name = strings.TrimSuffix(name, ".")
	if err != nil || !isHostname(name, false) {
		return "localhost.localdomain"
	}
	if strings.Contains(name, ".") {
		return name
	}
	text, _ := os.ReadFile(hostsFile) // without it the fallback stands
	for line := range strings.SplitSeq(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains(fields[1:], name) {
			continue
		}
		for _, full := range fields[1:] {
			if strings.HasPrefix(full, name+".") && isHostname(full, false) {
				return full
			}
		}
	}
	return name + ".localdomain"
}

// mxPrefix marks a domain whose mail hosts are meant.
const mxPrefix = "mx:"

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// parseTarget reads an entry of hosts and returns it with its port: "host" or "host:port"; "_service._tcp.domain", whose
// records in DNS have the ports; "mx:domain" or "mx:domain:port", where the default is 25, on which mail hosts listen.
func parseTarget(s string, port int) (target, problem, remedy string) {
	switch {
	case hasPrefixFold(s, "srv:"):
		return "", fmt.Sprintf("%q has a prefix", s), fmt.Sprintf("write %q", s[len("srv:"):])
	case hasPrefixFold(s, mxPrefix) && badPort(s[len(mxPrefix):], 1) != "": // "mx:25" is a host called mx
		target, problem, remedy = parseTarget(s[len(mxPrefix):], 25)
		if host, _, _ := net.SplitHostPort(target); problem == "" && (!isHostname(host, false) || !isHost(host) || isAddress(host)) {
			return "", fmt.Sprintf("%q is not a domain", s), `write "mx:example.com" or "mx:example.com:587"`
		}
		if problem != "" {
			return "", problem, remedy
		}
		return mxPrefix + target, "", ""
	case strings.HasPrefix(s, "_") && strings.Contains(s, "._"):
		return parseService(s)
	}
	host, number := s, strconv.Itoa(port)
	inBrackets := strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]")
	_, notAddress := netip.ParseAddr(s)
	switch {
	case strings.Contains(s, "://"):
		_, rest, _ := strings.Cut(s, "://")
		return "", fmt.Sprintf("%q is a URL", s), fmt.Sprintf("write %q", strings.TrimRight(rest, "/"))
	case inBrackets:
		host = s[1 : len(s)-1]
	case notAddress != nil && strings.Contains(s, ":"):
		var err error
		if host, number, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Sprintf("%q is neither host nor host:port", s), `write "smtp.isp.example:587"`
		}
	}
	if problem := badPort(number, 1); problem != "" {
		return "", fmt.Sprintf("%q: %s", s, problem), `write "smtp.isp.example:587", or leave out the port`
	}
	if !isHost(host) {
		return "", fmt.Sprintf("%q is not the name or address of a host", host),
			`write "smtp.isp.example" or "smtp.isp.example:587"; a name with other than ASCII letters in its xn-- form`
	}
	return net.JoinHostPort(host, number), "", ""
}

// withoutMX returns host:port of what parseTarget made of an entry.
func withoutMX(target string) string {
	if strings.HasPrefix(target, mxPrefix) && strings.Count(target, ":") == 2 {
		return target[len(mxPrefix):]
	}
	return target
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// parseService reads the name of a service in DNS (RFC 2782).
func parseService(s string) (target, problem, remedy string) {
	const write = `write "_submissions._tcp.example.com" (TLS from the first byte) or "_submission._tcp.example.com" (STARTTLS)`
	name := strings.TrimSuffix(s, ".")
	service, domain, ok := strings.Cut(name, "._tcp.")
	switch {
	case strings.Contains(s, ":"):
		return "", fmt.Sprintf("%q has a port, which DNS has for a service", s), "delete the colon and the port"
	case !ok || service == "_" || strings.Contains(service, ".") || !isHostname(domain, false) || !isHost(domain) || isAddress(domain):
		return "", fmt.Sprintf("%q is not a service of a domain", s), write
	}
	return name, "", ""
}

// badPort says what is wrong with a port, and "" for a good one.
func badPort(s string, least int) string {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > 65535 || strconv.Itoa(n) != s {
		return fmt.Sprintf("the port must be a number from %d to 65535", least)
	}
	return ""
}

// parseAddress reads the address of a listener, and returns it as net.Listen takes it. Port 0 lets the system choose.
func parseAddress(s string) (address, problem, remedy string) {
	const write = `write ":25" for all addresses of this machine, or "192.168.1.5:25" for one`
	if badPort(s, 1) == "" {
		return "", fmt.Sprintf("%q has no colon", s), fmt.Sprintf("write %q", ":"+s)
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return "", fmt.Sprintf("%q has no port", s), fmt.Sprintf("write %q", net.JoinHostPort(addr.String(), "25"))
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Sprintf("%q is not an address with a port", s), write
	}
	if problem := badPort(port, 0); problem != "" {
		return "", fmt.Sprintf("%q: %s", s, problem), write
	}
	if host == "*" {
		return "", fmt.Sprintf("%q: * is not an address", s), fmt.Sprintf("write %q", ":"+port)
	}
	if host != "" && !isHost(host) {
		return "", fmt.Sprintf("%q is not an address of this machine", host), write
	}
	return net.JoinHostPort(host, port), "", ""
}

func (t *table) form(key string) string {
	s, _ := lookup(t.name, key)
	return s.form()
}
