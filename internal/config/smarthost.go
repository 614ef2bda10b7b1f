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
	preset := t.usePreset()
	s := Smarthost{
		Provider:       preset,
		TLS:            t.choice("tls", "starttls", "implicit", "off"),
		MinTLS:         t.minTLS(),
		Auth:           t.choice("auth", "auto", "scram-sha-256", "plain", "login", "cram-md5", "xoauth2", "oauthbearer", "off"),
		MaxConnections: t.number("max_connections", 1, 1000),
		Senders:        t.patterns("senders"),
		Recipients:     t.patterns("recipients"),
		Clients:        t.networks("clients", false, nil),
	}
	readPace(t, &s)
	s.Rewrite = readRewrite(t.table("rewrite"))
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
	readHostTLS(t, &s)
	return s
}

// hosts returns the hosts with their ports. tls is "" when it is not known.
func (t *table) hosts(tls string) []string {
	const key = "hosts"
	if !t.has(key) {
		if !t.has("provider") { // a bad one has been told of
			t.bad(key, "is missing", `write the name of the provider's server: hosts = ["smtp.isp.example"]; or one that `+
				`"relayctl providers" lists: provider = "gmail"`)
		}
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
		if !t.isPreset(key) || !t.isPreset("tls") {
			t.warnOfPort(e, target, tls)
		}
		t.refuseService(e, target, tls)
		out = append(out, target)
	}
	return out
}

// warnOfPort warns of a port and a form of TLS that do not go together: such a connection hangs or ends in a TLS
// error, and nothing in either says why.
func (t *table) warnOfPort(e entry, target, tls string) {
	_, port, _ := net.SplitHostPort(withoutMX(target))
	switch {
	case port == "465" && tls == "starttls":
		t.warn(e.line, t.full("hosts"), "port 465 speaks TLS from the first byte, where STARTTLS hangs",
			`set tls = "implicit", or leave out the port`)
	case (port == "25" || port == "587") && tls == "implicit":
		t.warn(e.line, t.full("hosts"), "port "+port+" begins without TLS, where implicit TLS fails",
			`set tls = "starttls", or leave out the port`)
	}
}

// refuseService refuses a service of DNS whose hosts speak another form of TLS: _submissions is TLS from the first byte
// and _submission begins without (RFC 8314 section 5.1, RFC 6186 section 3.1).
func (t *table) refuseService(e entry, target, tls string) {
	switch {
	case hasPrefixFold(target, "_submissions.") && tls == "starttls":
		t.fault(e.line, t.full("hosts"), "the hosts of _submissions speak TLS from the first byte", `set tls = "implicit"`)
	case hasPrefixFold(target, "_submission.") && tls == "implicit":
		t.fault(e.line, t.full("hosts"), "the hosts of _submission begin without TLS",
			`set tls = "starttls", or write _submissions for those that begin with it`)
	}
}

// routeName returns the name of the smarthost, by default that of its first host, or of the domain that names hosts.
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
	if _, domain, ok := strings.Cut(hosts[0], "._tcp."); ok {
		return domain
	}
	host, _, _ := net.SplitHostPort(withoutMX(hosts[0]))
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
	case hasUser && secret == "" && s.Auth != "off" && takesNoPassword(s.Provider):
		t.bad("username", fmt.Sprintf("%s takes no password, and there is no [smarthost.oauth2] for it", s.Provider),
			`add that table with a client_id below the other keys of this smarthost; README.md tells how to get one`)
	case hasUser && secret == "" && s.Auth != "off":
		t.bad("username", "there is no password for it", `add password_file = "isp.password", a file with nothing else in it`)
	case !hasUser && secret != "" && s.Auth != "off":
		t.bad(secret, "there is no username for it", `add username = "me@isp.example"`)
	}
	switch s.Auth {
	case "scram-sha-256", "plain", "login", "cram-md5":
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
