package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"relayd/internal/provider"
)

const gmailLines = `trusted_networks = ["192.168.1.0/24"]
[[smarthost]]
provider      = "gmail"
username      = "me@gmail.com"
password_file = "isp.password"
`

func TestProvider_FillsWhatTheFileDoesNotSay(t *testing.T) {
	s := good(t, gmailLines).Smarthosts[0]
	if s.Provider != "gmail" || s.Name != "gmail" || !slices.Equal(s.Hosts, []string{"smtp.gmail.com:465"}) || s.TLS != "implicit" ||
		s.Auth != "auto" || s.Username != "me@gmail.com" || s.Password.Reveal() != "hunter2" || s.MaxConnections != 3 {
		t.Errorf("%+v", s)
	}
	if warnings := warningsOf(t, write(t, gmailLines)); warnings != "" {
		t.Errorf("warnings:\n%s", warnings)
	}
}

func TestProvider_MaxConnectionsAreOfTheRow(t *testing.T) {
	p, _ := provider.Lookup("microsoft365")
	p.MaxConnections = 7
	if got := presets(p)["max_connections"]; got != int64(7) {
		t.Errorf("preset %v", got)
	}
	tab := &table{reader: &reader{doc: &document{}}, name: "smarthost", preset: presets(p)}
	if got := tab.number("max_connections", 1, 1000); got != 7 {
		t.Errorf("read %d, want the preset's 7", got)
	}
}

func TestProvider_TheFilesOwnKeysWin(t *testing.T) {
	s := good(t, gmailLines+`name = "mine"
hosts = ["relay.example.net", "backup.example.net:2525"]
tls = "starttls"
auth = "login"
max_connections = 9
`).Smarthosts[0]
	if s.Provider != "gmail" || s.Name != "mine" || s.TLS != "starttls" || s.Auth != "login" || s.MaxConnections != 9 ||
		!slices.Equal(s.Hosts, []string{"relay.example.net:587", "backup.example.net:2525"}) {
		t.Errorf("%+v", s)
	}
	// A port that the row does not write follows the file's tls.
	s = good(t, gmailLines+"tls = 'starttls'\n").Smarthosts[0]
	if !slices.Equal(s.Hosts, []string{"smtp.gmail.com:587"}) {
		t.Errorf("hosts %q", s.Hosts)
	}
}

func TestProvider_AFixedUsernameNeedsNoLine(t *testing.T) {
	s := good(t, "[[smarthost]]\nprovider = 'sendgrid'\npassword_file = 'isp.password'\n").Smarthosts[0]
	if s.Username != "apikey" {
		t.Errorf("username %q", s.Username)
	}
	s = good(t, "[[smarthost]]\nprovider = 'sendgrid'\nauth = 'off'\n").Smarthosts[0]
	if s.Username != "" || s.Auth != "off" {
		t.Errorf("%+v", s)
	}
}

// Whatever a row says must pass the checks that a file has to pass, and cause no warning.
func TestProvider_EveryRowMakesAGoodSmarthost(t *testing.T) {
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		username := "me@example.com"
		switch p.Username {
		case provider.UsernameLocal:
			username = "me"
		case provider.UsernameFixed:
			username = p.UsernameIs
		}
		text := fmt.Sprintf("[[smarthost]]\nprovider = %q\nusername = %q\npassword_file = 'isp.password'\n", name, username)
		warnings := warningsOf(t, write(t, text))
		if p.Password == provider.PasswordNone {
			wantAll(t, warnings, ":4: smarthost.password_file: "+p.Name+" takes no password")
		} else if warnings != "" {
			t.Errorf("%s: %s", name, warnings)
		}
		s := good(t, text).Smarthosts[0]
		if len(s.Hosts) != len(p.Hosts) || s.TLS != p.TLS || s.Auth != p.Auth || s.Name != name {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// Limits whose keys are not there yet must not get lost when they come: what a row says has the form that a file has.
func TestPresets_HoldEveryLimitInTheFormOfAFile(t *testing.T) {
	got := presets(provider.Provider{Name: "x", Hosts: []string{"a.example"}, TLS: "implicit", Auth: "auto", Rate: "30/min",
		DailyRecipients: 1, MaxRecipients: 2, MaxSize: "3MB", MaxConnections: 4})
	want := map[string]any{"name": "x", "tls": "implicit", "auth": "auto", "rate": "30/min", "daily_recipients": int64(1),
		"max_recipients": int64(2), "max_size": "3MB", "max_connections": int64(4)}
	for key, v := range want {
		if got[key] != v {
			t.Errorf("%s is %v, want %v", key, got[key], v)
		}
	}
	if _, ok := got["username"]; ok || len(got) != len(want)+1 {
		t.Errorf("more than the row says: %v", got)
	}
	for _, p := range provider.All() {
		if p.MaxSize == "" {
			continue
		}
		if _, err := parseSize(p.MaxSize); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

func TestProvider_FaultsNameLineAndRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"provider = 'gmial'": `relayd.toml:2: smarthost.provider: "gmial" is not known; did you mean "gmail"`,
		"provider = 'qqqqqqqqqqqq'": `relayd.toml:2: smarthost.provider: "qqqqqqqqqqqq" is not known; "relayctl providers" lists ` +
			`those that are; for any other write hosts in its place`,
		"provider = 'ses'": `relayd.toml:2: smarthost.provider: "ses" has hosts in several regions; write one of them, such as ` +
			`"ses-ap-northeast-1"; "relayctl providers ses" lists them`,
		"provider = 5":  `relayd.toml:2: smarthost.provider: is a bare number, but must be a string`,
		"provider = ''": `relayd.toml:2: smarthost.provider: is empty`,
		"provider = x":  `relayd.toml:2: smarthost.provider: the value is not TOML`,
		"\n# a comment\nprovider = 'gmail'\nusername = 'me@gmail.com'": `relayd.toml:5: smarthost.username: there is no password for it`,
		"provider = 'sendgrid'":                                 `relayd.toml:2: smarthost.username: there is no password for it`,
		"provider = 'gmail'\nhosts = ['a b']":                   `relayd.toml:3: smarthost.hosts: "a b" is not the name or address of a host`,
		"provider = 'gmail'\n[[smarthost]]\nprovider = 'gmail'": `relayd.toml:4: smarthost.name: "gmail" is also the name of the smarthost in line 1`,
	} {
		got := faultsOf(t, "[[smarthost]]\n"+text+"\n")
		wantAll(t, got, want)
		if strings.Contains(got, "hosts: is missing") {
			t.Errorf("%q: a second fault about hosts:\n%s", text, got)
		}
	}
}

func TestProvider_ALoginThatCannotSucceedIsWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"provider = 'gmail'\nusername = 'me'":      `relayd.toml:3: smarthost.username: "me" is not an address, and gmail wants the full one; write "me@" and the domain`,
		"provider = 'web.de'\nusername = 'm@x.de'": `relayd.toml:3: smarthost.username: "m@x.de" is an address, and web.de wants only what stands before the @; write "m"`,
		"provider = 'sendgrid'\nusername = 'me'":   `relayd.toml:3: smarthost.username: sendgrid wants "apikey" from everybody, not "me"; delete the line`,
		"provider = 'ses-us-east-1'\nusername='A'": "",
		"provider = 'web.de'\nusername = 'm'":      "",
	} {
		got := warningsOf(t, write(t, "[[smarthost]]\n"+text+"\npassword_file = 'isp.password'\n"))
		if got != want {
			t.Errorf("%q:\n%s\nwant\n%s", text, got, want)
		}
	}
}

func TestDescribe_NamesThePreset(t *testing.T) {
	wantAll(t, good(t, gmailLines).Describe(), "smtp.gmail.com:465", `preset  gmail, for what the file does not say`)
	if text := good(t, fourLines).Describe(); strings.Contains(text, "preset") {
		t.Errorf("a preset where there is none:\n%s", text)
	}
}
