package config

import (
	"fmt"
	"net"
	"strings"
	"unicode"
)

// readSmarthosts returns the smarthosts in the order of the file, and judges them together.
func readSmarthosts(root *table) []Smarthost {
	tables := root.tables("smarthost")
	if len(tables) == 0 {
		if !root.has("smarthost") || root.isEmptyList("smarthost") {
			root.bad("smarthost", "there is none, so mail would go nowhere",
				`add [[smarthost]] with hosts = ["smtp.isp.example"], username and password_file`)
		}
		return nil
	}
	out := make([]Smarthost, len(tables))
	for i, t := range tables {
		out[i] = readSmarthost(t)
	}
	refuseSameNames(tables, out)
	refuseUnreachable(tables, out)
	return out
}

func readSmarthost(t *table) Smarthost {
	s := Smarthost{
		TLS:            t.choice("tls", "starttls", "implicit", "off"),
		MinTLS:         t.minTLS(),
		Auth:           t.choice("auth", "auto", "plain", "login", "xoauth2", "oauthbearer", "off"),
		MaxConnections: t.number("max_connections", 1, 1000),
		Senders:        t.patterns("senders"),
		Recipients:     t.patterns("recipients"),
		Clients:        t.networks("clients", false, nil),
	}
	s.Hosts = t.hosts(s.TLS)
	s.Name = t.routeName(s.Hosts)
	if t.has("username") {
		s.Username, _ = t.text("username")
	}
	s.Password, s.PasswordSource = t.secret("password", "password")
	if t.has("oauth2") {
		s.OAuth2 = readOAuth2(t.table("oauth2"), s.Hosts)
		t.checkTokenLogin(&s)
	} else {
		t.checkLogin(&s)
	}
	if s.TLS == "off" {
		t.refuseWithoutTLS("ca_file", "min_tls")
	} else if t.has("ca_file") {
		s.CAFile, s.RootCAs = t.authorities()
	}
	return s
}

// hosts returns the hosts with their ports. tls is "" when it is not known.
func (t *table) hosts(tls string) []string {
	const key = "hosts"
	if !t.has(key) {
		t.bad(key, "is missing", `write the name of the provider's server: hosts = ["smtp.isp.example"]`)
		return nil
	}
	port := 587
	if tls == "implicit" {
		port = 465
	}
	var out []string
	seen := map[string]bool{}
	for _, e := range t.list(key, false) {
		target, problem, remedy := parseTarget(e.text, port)
		switch {
		case problem != "":
			t.fault(e.line, t.full(key), problem, remedy)
			continue
		case seen[strings.ToLower(target)]:
			t.fault(e.line, t.full(key), fmt.Sprintf("%q is in the list twice", e.text), "delete one of the two")
			continue
		}
		seen[strings.ToLower(target)] = true
		t.warnOfPort(e, target, tls)
		out = append(out, target)
	}
	return out
}

// warnOfPort warns of a port and a form of TLS that do not go together: such a connection hangs or ends in a TLS
// error, and nothing in either says why.
func (t *table) warnOfPort(e entry, target, tls string) {
	_, port, _ := net.SplitHostPort(target)
	switch {
	case port == "465" && tls == "starttls":
		t.warn(e.line, t.full("hosts"), "port 465 speaks TLS from the first byte, where STARTTLS hangs",
			`set tls = "implicit", or leave out the port`)
	case (port == "25" || port == "587") && tls == "implicit":
		t.warn(e.line, t.full("hosts"), "port "+port+" begins without TLS, where implicit TLS fails",
			`set tls = "starttls", or leave out the port`)
	}
}

// routeName returns the name of the smarthost, by default that of its first host.
func (t *table) routeName(hosts []string) string {
	const key = "name"
	if t.has(key) {
		name, ok := t.text(key)
		if ok && (len(name) > 64 || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsGraphic(c) || c == ' ' })) {
			t.bad(key, "is longer than 64 bytes, or holds a space", "write a short word: "+t.form(key))
		}
		return name
	}
	if len(hosts) == 0 {
		return ""
	}
	host, _, _ := net.SplitHostPort(hosts[0])
	return host
}

func refuseSameNames(tables []*table, smarthosts []Smarthost) {
	first := map[string]*table{}
	for i, s := range smarthosts {
		key := strings.ToLower(s.Name)
		before, taken := first[key]
		switch {
		case s.Name == "":
		case !taken:
			first[key] = tables[i]
		case tables[i].has("name"):
			tables[i].bad("name", fmt.Sprintf("%q is also the name of the smarthost in line %d", s.Name, before.line),
				"give each a name of its own")
		default:
			tables[i].bad("name", fmt.Sprintf("is missing, and the name of its first host, %q, is also that of the "+
				"smarthost in line %d", s.Name, before.line), `give each a name of its own, such as name = "office"`)
		}
	}
}

// checkLogin holds username, password, auth and tls against each other. A login never goes over a connection without
// TLS, also not to loopback: where it may is not for a line of a file to decide.
func (t *table) checkLogin(s *Smarthost) {
	hasUser := t.has("username")
	secret := ""
	for _, key := range []string{"password", "password_file", "password_env"} {
		if t.has(key) && secret == "" {
			secret = key
		}
	}
	switch {
	case hasUser && secret == "" && s.Auth != "off":
		t.bad("username", "there is no password for it", `add password_file = "isp.password", a file with nothing else in it`)
	case !hasUser && secret != "" && s.Auth != "off":
		t.bad(secret, "there is no username for it", `add username = "me@isp.example"`)
	}
	switch s.Auth {
	case "plain", "login":
		if !hasUser && secret == "" {
			t.bad("auth", fmt.Sprintf("%q needs a username and a password", s.Auth),
				`add username and password_file, or delete the line if the smarthost takes mail without a login`)
		}
	case "xoauth2", "oauthbearer":
		t.bad("auth", fmt.Sprintf("%q logs in with OAuth2 tokens, and nothing says where they come from", s.Auth),
			"add [smarthost.oauth2] below the other keys of this smarthost")
	case "off":
		for _, key := range []string{"username", secret} {
			if key != "" && t.has(key) {
				t.bad(key, `has no effect with auth = "off"`, "delete this line, or the one with auth")
			}
		}
	}
	if hasUser && s.TLS == "off" && s.Auth != "off" {
		t.bad("tls", `"off" would send the password in the clear, which relayd never does`,
			`set tls = "starttls" or "implicit"; if the smarthost needs no login, delete username and password`)
	}
	if !hasUser && s.Auth == "auto" {
		s.Auth = "off"
	}
}
