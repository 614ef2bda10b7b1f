package config

import (
	"fmt"
	"strconv"
	"strings"
)

// kind is what the value of a key must be.
type kind int

const (
	kindText     kind = iota // a string
	kindList                 // a list of strings
	kindNumber               // an integer
	kindDuration             // a string such as "1h30m"
	kindSize                 // a string such as "25MB", or a number of bytes
	kindBool                 // true or false
	kindTable                // a [table]
	kindTables               // any number of [[table]]
	kindMap                  // strings by names that the user chooses
)

// spec describes one key. A key that is absent has the value fallback, which goes the same way through the checks as
// a value of the file; a nil fallback means that absence has a meaning of its own (or is a fault).
type spec struct {
	name     string
	kind     kind
	fallback any    // string, int or bool
	example  string // a value in TOML that shows the form; fallback when empty
}

// schema names every key that is accepted, by table; the top of the file is "", a table within one of a list
// "list.table". It decides what is unknown, what the
// defaults are, and what config.example.toml must show.
var schema = map[string][]spec{
	"": {
		{name: "hostname", kind: kindText, example: `"relay.example.com"`},
		{name: "data_dir", kind: kindText, fallback: "/var/lib/relayd"},
		{name: "control_socket", kind: kindText, example: `"/var/lib/relayd/control.sock"`},
		{name: "trusted_networks", kind: kindList, example: `["192.168.1.0/24"]`},
		{name: "trust_loopback", kind: kindBool, fallback: true},
		{name: "postmaster", kind: kindText, example: `"postmaster@example.com"`},
		{name: "require_sender_mx", kind: kindText, fallback: "off"},
		{name: "log", kind: kindTable},
		{name: "listener", kind: kindTables},
		{name: "queue", kind: kindTable},
		{name: "smarthost", kind: kindTables},
		{name: "client", kind: kindTables},
		{name: "reply", kind: kindTables},
		{name: "metrics", kind: kindTable},
	},
	"log": {
		{name: "level", kind: kindText, fallback: "info"},
		{name: "format", kind: kindText, fallback: "text"},
	},
	"listener": {
		{name: "address", kind: kindText, fallback: ":25"},
		{name: "tls", kind: kindText, fallback: "off"},
		{name: "min_tls", kind: kindText, fallback: "1.2"},
		{name: "cert_file", kind: kindText, example: `"/etc/relayd/cert.pem"`},
		{name: "key_file", kind: kindText, example: `"/etc/relayd/key.pem"`},
		{name: "max_connections", kind: kindNumber, fallback: 500},
		{name: "max_connections_per_client", kind: kindNumber, fallback: 50},
		{name: "max_message_size", kind: kindSize, fallback: "50MB"},
		{name: "max_recipients", kind: kindNumber, fallback: 1000},
	},
	"queue": {
		{name: "retry_min", kind: kindDuration, fallback: "1m"},
		{name: "retry_max", kind: kindDuration, fallback: "1h"},
		{name: "max_age", kind: kindDuration, fallback: "5d"},
		{name: "delay_warning", kind: kindDuration, fallback: "4h"},
		{name: "max_messages", kind: kindNumber, fallback: 1_000_000},
		{name: "max_bytes", kind: kindSize, fallback: "0"},
		{name: "min_free", kind: kindSize, fallback: "100MB"},
		{name: "history", kind: kindDuration, fallback: "30d"},
		{name: "history_max_size", kind: kindSize, fallback: "256MB"},
	},
	"smarthost": {
		{name: "name", kind: kindText, example: `"isp"`},
		{name: "provider", kind: kindText, example: `"gmail"`},
		{name: "hosts", kind: kindList, example: `["smtp.isp.example"]`},
		{name: "tls", kind: kindText, fallback: "starttls"},
		{name: "min_tls", kind: kindText, fallback: "1.2"},
		{name: "ca_file", kind: kindText, example: `"/etc/relayd/ca.pem"`},
		{name: "pin_sha256", kind: kindList, example: `["0XJ1nHX4lTmYgVvk8KOVpK6tBrCCjWXPFCZJg8IfSuI="]`},
		{name: "tls_name", kind: kindText, example: `"isp.example"`},
		{name: "client_cert_file", kind: kindText, example: `"/etc/relayd/client.pem"`},
		{name: "client_key_file", kind: kindText, example: `"/etc/relayd/client-key.pem"`},
		{name: "auth", kind: kindText, fallback: "auto"},
		{name: "username", kind: kindText, example: `"me@isp.example"`},
		{name: "password", kind: kindText, example: `'the password'`},
		{name: "password_file", kind: kindText, example: `"isp.password"`},
		{name: "password_env", kind: kindText, example: `"RELAYD_PASSWORD"`},
		{name: "max_connections", kind: kindNumber, fallback: 3},
		{name: "rate", kind: kindText, fallback: "off"},
		{name: "daily_recipients", kind: kindNumber, fallback: 0},
		{name: "max_recipients", kind: kindNumber, fallback: 0},
		{name: "max_size", kind: kindSize, fallback: "0"},
		{name: "senders", kind: kindList, example: `["@example.com"]`},
		{name: "recipients", kind: kindList, example: `["@example.com"]`},
		{name: "clients", kind: kindList, example: `["192.168.1.20"]`},
		{name: "oauth2", kind: kindTable},
		{name: "rewrite", kind: kindTable},
	},
	"smarthost.oauth2": {
		{name: "flow", kind: kindText, example: `"client_credentials"`},
		{name: "tenant_id", kind: kindText, example: `"contoso.onmicrosoft.com"`},
		{name: "client_id", kind: kindText, example: `"11111111-2222-3333-4444-555555555555"`},
		{name: "client_secret", kind: kindText, example: `'the secret'`},
		{name: "client_secret_file", kind: kindText, example: `"isp.secret"`},
		{name: "client_secret_env", kind: kindText, example: `"RELAYD_SECRET"`},
		{name: "cert_file", kind: kindText, example: `"/etc/relayd/app.pem"`},
		{name: "key_file", kind: kindText, example: `"/etc/relayd/app.key"`},
		{name: "service_account_file", kind: kindText, example: `"/etc/relayd/service-account.json"`},
		{name: "token_url", kind: kindText, example: `"https://login.isp.example/token"`},
		{name: "device_url", kind: kindText, example: `"https://login.isp.example/device"`},
		{name: "auth_url", kind: kindText, example: `"https://login.isp.example/authorize"`},
		{name: "scopes", kind: kindList, example: `["mail.send", "offline_access"]`},
		{name: "secret_expires", kind: kindText, example: `"2027-12-31"`},
	},
	"smarthost.rewrite": {
		{name: "envelope_from", kind: kindText, example: `"me@isp.example"`},
		{name: "header_from", kind: kindText, example: `"me@isp.example"`},
		{name: "map", kind: kindMap, example: `{ "scanner@*" = "office@example.com", "@office.lan" = "@example.com" }`},
	},
	"client": {
		{name: "networks", kind: kindList, example: `["192.168.1.50"]`},
		{name: "rewrite", kind: kindTable},
	},
	"client.rewrite": {
		{name: "envelope_from", kind: kindText, example: `"scanner@example.com"`},
		{name: "header_from", kind: kindText, example: `"scanner@example.com"`},
		{name: "map", kind: kindMap, example: `{ "alarm@*" = "alarm@example.com" }`},
	},
	"reply": {
		{name: "stage", kind: kindText, example: `"rcpt"`},
		{name: "code", kind: kindText, example: `"550"`},
		{name: "enhanced", kind: kindText, example: `"5.7.1"`},
		{name: "text", kind: kindText, example: `"quota exceeded"`},
		{name: "scope", kind: kindText, example: `"site"`},
		{name: "outcome", kind: kindText, example: `"temporary"`},
		{name: "advice", kind: kindText, example: `"the provider's daily limit; it ends at midnight"`},
	},
	"metrics": {
		{name: "address", kind: kindText, example: `"127.0.0.1:9125"`},
	},
}

// tableOrder is the order in which a person reads the tables.
var tableOrder = []string{"", "log", "listener", "queue", "smarthost", "smarthost.oauth2", "smarthost.rewrite", "client", "client.rewrite", "reply",
	"metrics"}

// lookup returns the description of a key of a table.
func lookup(table, key string) (spec, bool) {
	for _, s := range schema[table] {
		if s.name == key {
			return s, true
		}
	}
	return spec{}, false
}

// form returns "key = value" in TOML, as an example to follow.
func (s spec) form() string {
	switch {
	case s.kind == kindTable:
		return "[" + s.name + "]"
	case s.kind == kindTables:
		return "[[" + s.name + "]]"
	case s.example != "":
		return s.name + " = " + s.example
	}
	return s.name + " = " + literal(s.fallback)
}

// literal writes a fallback as TOML.
func literal(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// header returns the line that opens a table, or words for the top of the file.
func header(table string) string {
	if table == "" {
		return "the top of the file, above the first [table]"
	}
	if strings.Contains(table, ".") {
		return "[" + table + "]"
	}
	s, _ := lookup("", table)
	return s.form()
}

// must says in words what a value of the kind is.
func (k kind) must() string {
	switch k {
	case kindList:
		return "a list of strings"
	case kindNumber:
		return "a whole number"
	case kindBool:
		return "true or false, without quotes"
	case kindDuration:
		return `a duration in quotes, such as "90s", "1h30m" or "5d"`
	case kindSize:
		return `a size in quotes, such as "25MB" or "64KiB", or a number of bytes`
	case kindMap:
		return `a table of strings, such as { "scanner@*" = "office@example.com" }`
	case kindTable, kindTables:
		return "a table"
	}
	return "a string in quotes"
}
