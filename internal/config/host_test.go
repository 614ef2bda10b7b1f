package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestHosts_WhatIsNoHostIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"smtp.isp.example:":           `the port must be a number from 1 to 65535`,
		"smtp.isp.example:0":          `the port must be`,
		"smtp.isp.example:65536":      `the port must be`,
		"smtp.isp.example:587x":       `the port must be`,
		"smtp.isp.example:+25":        `the port must be`,
		"smtp.isp.example:smtp":       `the port must be`,
		"smtp://smtp.isp.example/":    `is a URL; write "smtp.isp.example"`,
		"a:b:c":                       `is neither host nor host:port`,
		"smtp isp example":            `is not the name or address of a host`,
		"smtp..example":               `is not the name`,
		"-smtp.example":               `is not the name`,
		"192.168.1.300":               `is not the name`,
		"me@isp.example":              `is not the name`,
		"[smtp.isp.example":           `is not the name`,
		"[]":                          `is not the name`,
		"bücher.example":              `in its xn-- form`,
		strings.Repeat("a.", 130):     `is not the name`,
		strings.Repeat("a", 64) + ".": `is not the name`,
	} {
		got := faultsOf(t, fmt.Sprintf("[[smarthost]]\nhosts = ['ok.example',\n'%s']\n", text))
		wantAll(t, got, "relayd.toml:3: smarthost.hosts: ", want)
		if strings.Contains(got, "\n") {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
	for text, want := range map[string]string{
		"hosts = []":                         ":2: smarthost.hosts: is an empty list; delete the line, or write hosts = [\"smtp.isp.example\"]",
		"hosts = ['a', 'A:587']":             `:2: smarthost.hosts: "A:587" is in the list twice`,
		"hosts = ['a', 5]":                   ":2: smarthost.hosts: holds a bare number, but must be a list of strings",
		"hosts = ['a', '']":                  ":2: smarthost.hosts: holds an empty string",
		"name = 'x'":                         ":1: smarthost.hosts: is missing",
		"hosts = ['a']\nname = 'a b'":        ":3: smarthost.name: is longer than 64 bytes, or holds a space",
		"hosts = ['a']\nname = ''":           ":3: smarthost.name: is empty",
		"hosts = ['a']\nname = \"\\n\"":      ":3: smarthost.name: holds a control character",
		"hosts = ['a']\nmax_connections = 0": ":3: smarthost.max_connections: 0 is out of range; write a number from 1 to 1000",
		"hosts = ['a']\nmin_tls = '1.4'":     `:3: smarthost.min_tls: "1.4" is not known`,
	} {
		wantAll(t, faultsOf(t, "[[smarthost]]\n"+text), want)
	}
}

func TestHosts_PortsThatDoNotFitTheTLSAreWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"hosts = ['a:465']":                         `:2: smarthost.hosts: port 465 speaks TLS from the first byte`,
		"tls = 'implicit'\nhosts = ['b',\n'a:587']": `:4: smarthost.hosts: port 587 begins without TLS`,
		"hosts = ['a:587', 'b:25', 'c:2525']":       "",
		"tls = 'implicit'\nhosts = ['a', 'b:465']":  "",
		"hosts = ['a']\nmin_tls = '1.0'":            `:3: smarthost.min_tls: TLS 1.0 is broken`,
		"hosts = ['a']\nmin_tls = '1.1'":            `:3: smarthost.min_tls: TLS 1.1 is broken`,
	} {
		got := warningsOf(t, write(t, "[[smarthost]]\n"+text+"\n"))
		if want == "" && got != "" {
			t.Errorf("%s: %s", text, got)
		}
		wantAll(t, got, want)
	}
}

func TestListeners_AddressesAreOfThisMachineAndTheirOwn(t *testing.T) {
	for text, want := range map[string]string{
		"25":               `"25" has no colon; write ":25"`,
		"192.168.1.5":      `"192.168.1.5" has no port; write "192.168.1.5:25"`,
		"fd00::5":          `"fd00::5" has no port; write "[fd00::5]:25"`,
		"*:25":             `"*:25": * is not an address; write ":25"`,
		":smtp":            `":smtp": the port must be a number`,
		":70000":           `the port must be a number`,
		"localhost":        `is not an address with a port`,
		"192.168.1.256:25": `"192.168.1.256" is not an address of this machine`,
	} {
		wantAll(t, faultsOf(t, "[[listener]]\naddress = '"+text+"'\n"+anySmarthost), ":2: listener.address: ", want)
	}
	for _, pair := range [][2]string{
		{":25", ":25"}, {":25", "0.0.0.0:25"}, {"[::]:25", "0.0.0.0:25"}, {":25", "192.168.1.5:25"}, {"192.168.1.5:25", ":25"},
		{"[::1]:25", "[0::1]:25"}, {"127.0.0.1:25", "[::ffff:127.0.0.1]:25"}, {"localhost:25", "LOCALHOST:25"},
	} {
		got := faultsOf(t, fmt.Sprintf("[[listener]]\naddress = '%s'\n[[listener]]\naddress = '%s'\n%s", pair[0], pair[1], anySmarthost))
		wantAll(t, got, fmt.Sprintf(`:4: listener.address: %q is taken by the listener in line 1, %q`, pair[1], pair[0]))
	}
	for _, pair := range [][2]string{{":25", ":587"}, {"127.0.0.1:25", "[::1]:25"}, {"127.0.0.1:0", "127.0.0.1:0"}, {"127.0.0.1:25", "127.0.0.2:25"}} {
		good(t, fmt.Sprintf("[[listener]]\naddress = '%s'\n[[listener]]\naddress = '%s'\n%s", pair[0], pair[1], anySmarthost))
	}
	wantAll(t, faultsOf(t, "[[listener]]\n[[listener]]\n"+anySmarthost), `:2: listener.address: ":25" is taken by the listener in line 1`)
}

func TestListeners_LimitsAreSane(t *testing.T) {
	for text, want := range map[string]string{
		"max_message_size = 50":                                 `:2: listener.max_message_size: 50 bytes is too little; write at least "64KB"; sizes without a unit are bytes`,
		"max_message_size = '50M'":                              `:2: listener.max_message_size: "50M" is not a size: there is no unit "M", only B, KB`,
		"max_recipients = -1":                                   `:2: listener.max_recipients: -1 is out of range`,
		"max_connections = 2147483648":                          `:2: listener.max_connections: 2147483648 is out of range`,
		"max_connections = 10\nmax_connections_per_client = 11": `:3: listener.max_connections_per_client: 11 is more than max_connections, 10`,
		"cert_file = 'x'":                                       `:2: listener.cert_file: has no effect with tls = "off"`,
		"min_tls = '1.3'":                                       `:2: listener.min_tls: has no effect with tls = "off"`,
		"tls = 'ssl'":                                           `:2: listener.tls: "ssl" is not known; write one of "off", "starttls", "implicit"`,
	} {
		got := faultsOf(t, "[[listener]]\n"+text+anySmarthost)
		wantAll(t, got, want)
		if strings.Contains(got, "\n") {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
	cfg := good(t, "[[listener]]\nmax_connections = 10\n"+anySmarthost)
	if cfg.Listeners[0].MaxConnectionsPerClient != 10 {
		t.Errorf("per client %d, with 10 in all", cfg.Listeners[0].MaxConnectionsPerClient)
	}
}

func TestHostname_IsFitForEHLO(t *testing.T) {
	for text, want := range map[string]string{
		"re lay.example":  `is not a host name; write the full name of this machine`,
		"my_relay.local":  `is not a host name`,
		"192.168.1.5":     `is an address; write the name of this machine`,
		"[192.168.1.300]": `is not a host name`,
		"-":               `is not a host name`,
		"":                `is empty; delete the line, or write hostname = "relay.example.com"`,
	} {
		wantAll(t, faultsOf(t, "hostname = '"+text+"'\n"+anySmarthost), "relayd.toml:1: hostname: ", want)
	}
	for _, name := range []string{"relay.example.com", "box", "[192.168.1.5]", "[IPv6:fd00::5]"} {
		if got := good(t, "hostname = '"+name+"'\n"+anySmarthost).Hostname; got != name {
			t.Errorf("%q became %q", name, got)
		}
	}
}

func TestMachineName_AlwaysHasADot(t *testing.T) {
	hosts := writeFile(t, filepath.Join(t.TempDir(), "hosts"),
		"127.0.0.1 localhost\n# 10.0.0.1 box.wrong box\n192.168.1.5 box.lan box # mine\n192.168.1.6 alone\n10.0.0.1 other.lan odd\n", 0o644)
	for name, want := range map[string]string{
		"box": "box.lan", "relay.example.com": "relay.example.com", "relay.example.com.": "relay.example.com",
		"alone": "alone.localdomain", "odd": "odd.localdomain", "my_box": "localhost.localdomain", "": "localhost.localdomain",
	} {
		if got := machineName(func() (string, error) { return name, nil }, hosts); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	failing := func() (string, error) { return "box", errors.New("no name") }
	if got := machineName(failing, hosts); got != "localhost.localdomain" {
		t.Errorf("without a name: %q", got)
	}
	if got := machineName(func() (string, error) { return "box", nil }, hosts+".none"); got != "box.localdomain" {
		t.Errorf("without a hosts file: %q", got)
	}
}

func TestControlSocket_FitsIntoASocketAddress(t *testing.T) {
	long := "/" + strings.Repeat("d", 94) // 95 bytes, with /control.sock 108
	wantAll(t, faultsOf(t, "data_dir = '"+long+"'\n"+anySmarthost),
		`:1: data_dir: its control.sock would have a path of 108 bytes, a socket's has at most 107; set control_socket`)
	if got := good(t, "data_dir = '"+long[:94]+"'\n"+anySmarthost).ControlSocket; len(got) != 107 {
		t.Errorf("%d bytes: %s", len(got), got)
	}
	wantAll(t, faultsOf(t, "control_socket = '/"+strings.Repeat("s", 107)+"'\n"+anySmarthost),
		`:1: control_socket: the path of a socket has at most 107 bytes`, `has 108; write a shorter one`)
	cfg := good(t, "data_dir = '"+long+"'\ncontrol_socket = '/run/r.sock'\n"+anySmarthost)
	if cfg.ControlSocket != "/run/r.sock" || cfg.DataDir != long {
		t.Errorf("%s, %s", cfg.ControlSocket, cfg.DataDir)
	}
}
