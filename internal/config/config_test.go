package config

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLoad_FourLinesAreEnough(t *testing.T) {
	path := write(t, fourLines)
	cfg, warnings, err := Load(path)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("err %v, warnings %v", err, warnings)
	}
	host := Smarthost{
		Name: "smtp.isp.example", Hosts: []string{"smtp.isp.example:587"}, TLS: "starttls", MinTLS: tls.VersionTLS12,
		Auth: "auto", Username: "me@isp.example", Password: "hunter2", MaxConnections: 3,
		PasswordSource: "password_file " + filepath.Join(filepath.Dir(path), "isp.password"),
	}
	want := &Config{
		File: path, Hostname: cfg.Hostname, DataDir: "/var/lib/relayd", ControlSocket: "/var/lib/relayd/control.sock",
		RequireSenderMX: "off",
		TrustedNetworks: append(loopback(), netip.MustParsePrefix("192.168.1.0/24")),
		TrustLoopback:   true,
		Log:             Log{Level: slog.LevelInfo, Format: "text"},
		Listeners: []Listener{{
			Address: ":25", TLS: "off", MinTLS: tls.VersionTLS12, MaxConnections: 500, MaxConnectionsPerClient: 50,
			MaxMessageSize: 50_000_000, MaxRecipients: 1000,
		}},
		Queue: Queue{
			RetryMin: time.Minute, RetryMax: time.Hour, MaxAge: 5 * 24 * time.Hour, MaxMessages: 1_000_000,
			MinFree: 100_000_000, DelayWarning: 4 * time.Hour, History: 30 * 24 * time.Hour, HistoryMaxSize: 256_000_000,
		},
		Smarthosts: []Smarthost{host},
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
	if !isHostname(cfg.Hostname, false) || !strings.Contains(cfg.Hostname, ".") {
		t.Errorf("Hostname %q is not fit for EHLO", cfg.Hostname)
	}
	if got := cfg.Smarthosts[0].Password.Reveal(); got != "hunter2" {
		t.Errorf("password %q, want the file without its newline", got)
	}
}

func TestLoad_EveryKeyIsHeeded(t *testing.T) {
	dir := t.TempDir()
	certificateFiles(t, dir, time.Now().Add(90*24*time.Hour))
	t.Setenv("RELAYD_TEST_PASSWORD", "pa ss\tword")
	path := writeFile(t, filepath.Join(dir, "relayd.toml"), `
hostname = "relay.example.com."
data_dir = "spool"
control_socket = "/run/relayd.sock"
trusted_networks = ["10.1.2.3", "fd00::/8", "::ffff:10.2.0.0/112", "127.0.0.0/8"]
postmaster = "admin@example.com"
log = { level = "warn", format = "json" }
[queue]
retry_min = "90s"
retry_max = "1h30m"
max_age = "1w"
delay_warning = "3h"
max_messages = 5
max_bytes = "1GiB"
min_free = 0
history = "2w"
history_max_size = "8MiB"
[[listener]]
address = "[::1]:25"
tls = "implicit"
min_tls = "1.3"
cert_file = "cert.pem"
key_file = "key.pem"
max_connections = 20
max_message_size = "1MiB"
max_recipients = 7
[[listener]]
address = "127.0.0.1:0"
[[smarthost]]
name = "office"
hosts = ["a.example:2525", "192.0.2.1", "2001:db8::1", "[2001:db8::2]:26", "[2001:db8::3]"]
tls = "implicit"
min_tls = "1.3"
ca_file = "cert.pem"
auth = "login"
username = "u"
password_env = "RELAYD_TEST_PASSWORD"
max_connections = 10
senders = ["@Office.Example", "\"odd one\"@x.example"]
recipients = ["*"]
clients = ["192.168.7.0/24", "::ffff:192.0.2.7"]
[[smarthost]]
tls = "off"
hosts = ["exchange.lan:25"]
`, 0o600)
	cfg, warnings, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	first := cfg.Smarthosts[0]
	if first.RootCAs == nil || len(cfg.Listeners[0].Certificates) != 1 {
		t.Fatal("certificates were not loaded")
	}
	got := fmt.Sprintln(cfg.Hostname, cfg.DataDir == filepath.Join(dir, "spool"), cfg.ControlSocket, cfg.TrustedNetworks, cfg.Postmaster,
		cfg.Log, cfg.Queue, cfg.Listeners[0].Address, cfg.Listeners[0].TLS, cfg.Listeners[0].MinTLS == tls.VersionTLS13,
		cfg.Listeners[0].MaxConnections, cfg.Listeners[0].MaxConnectionsPerClient, cfg.Listeners[0].MaxMessageSize,
		cfg.Listeners[0].MaxRecipients, cfg.Listeners[1].Address)
	want := "relay.example.com true /run/relayd.sock " +
		"[127.0.0.0/8 ::1/128 10.1.2.3/32 fd00::/8 10.2.0.0/16] admin@example.com " +
		"{WARN json} {1m30s 1h30m0s 168h0m0s 5 1073741824 0 3h0m0s 336h0m0s 8388608} " +
		"[::1]:25 implicit true 20 20 1048576 7 127.0.0.1:0\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	first.RootCAs = nil
	wantFirst := Smarthost{
		Name:  "office",
		Hosts: []string{"a.example:2525", "192.0.2.1:465", "[2001:db8::1]:465", "[2001:db8::2]:26", "[2001:db8::3]:465"},
		TLS:   "implicit", MinTLS: tls.VersionTLS13, CAFile: filepath.Join(dir, "cert.pem"),
		Auth: "login", Username: "u", Password: "pa ss\tword", PasswordSource: "environment variable RELAYD_TEST_PASSWORD",
		MaxConnections: 10, Senders: []string{"@Office.Example", `"odd one"@x.example`}, Recipients: []string{"*"},
		Clients: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("192.0.2.7/32")},
	}
	if !reflect.DeepEqual(first, wantFirst) {
		t.Errorf("got  %+v\nwant %+v", first, wantFirst)
	}
	if s := cfg.Smarthosts[1]; s.Auth != "off" || s.Hosts[0] != "exchange.lan:25" || s.TLS != "off" {
		t.Errorf("second smarthost: %+v", s)
	}
}

// A key that the code does not read would take a value of any type without a word.
func TestLoad_EveryKeyOfTheSchemaIsRead(t *testing.T) {
	for _, table := range tableOrder {
		for _, s := range schema[table] {
			text, line := s.name+" = true\n"+anySmarthost, 1
			switch table {
			case "smarthost":
				text, line = "[[smarthost]]\nhosts = [\"a\"]\n"+s.name+" = true\n", 3
				if s.name == "hosts" {
					text, line = "[[smarthost]]\nhosts = true\n", 2
				}
			case "listener":
				text, line = "[[listener]]\ntls = \"starttls\"\nkey_file = 'x'\n"+s.name+" = true\n"+anySmarthost, 4
				if s.name == "tls" {
					text, line = "[[listener]]\ntls = true\n"+anySmarthost, 2
				}
				if s.name == "key_file" {
					text, line = "[[listener]]\ntls = \"starttls\"\nkey_file = true\ncert_file = 'x'\n"+anySmarthost, 3
				}
			case "log", "queue", "reply", "client", "metrics":
				text, line = header(table)+"\n"+s.name+" = true\n"+anySmarthost, 2
			}
			if list, _, within := strings.Cut(table, "."); within {
				text, line = "[["+list+"]]\n"+header(table)+"\n"+s.name+" = true\n"+anySmarthost, 3
			}
			if s.name == "smarthost" {
				text = "smarthost = true\n"
			}
			is := "true or false"
			if s.kind == kindBool {
				text, is = strings.Replace(text, s.name+" = true", s.name+" = 'true'", 1), "a string"
			}
			key := strings.TrimPrefix(table+"."+s.name, ".")
			wantAll(t, faultsOf(t, text),
				fmt.Sprintf("relayd.toml:%d: %s: is %s, but must be %s; ", line, key, is, s.kind.must()))
		}
	}
}

func TestLoad_ProvidersOfOldWork(t *testing.T) {
	cox := good(t, `
trusted_networks = ["192.168.0.0/16"]
[[smarthost]]
name = "cox"
hosts = [
  "smtp.west.cox.net",     # San Diego
  "smtp.central.cox.net",
  "smtp.east.cox.net",
]
username = "someone@cox.net"
password_file = "isp.password"
`)
	want := []string{"smtp.west.cox.net:587", "smtp.central.cox.net:587", "smtp.east.cox.net:587"}
	if got := cox.Smarthosts[0].Hosts; !slices.Equal(got, want) {
		t.Errorf("hosts %v, want %v", got, want)
	}
	att := good(t, `
[[smarthost]]
hosts = ["mailhost.worldnet.att.net:25"]
username = "USER@worldnet.att.net"
auth = "login"
password = 'back\slash"quote'
`)
	if s := att.Smarthosts[0]; s.Username != "USER@worldnet.att.net" || s.Password.Reveal() != `back\slash"quote` {
		t.Errorf("login %q %q", s.Username, s.Password.Reveal())
	}
}

func TestLoad_AllFaultsInOneGoSortedByLine(t *testing.T) {
	got := faultsOf(t, `trusted_netwroks = ["192.168.1.0/24"]
trusted_networks = [
  "192.168.1.7/24",
  "0.0.0.0/0",
]
[queue]
retry_min = 60
retry_max = 1h
max_age = "5 days"
[[listener]]
tls = "starttls"
[[smarthost]]
username = "me"
tls = "start-tls"
[[smarthost]]
hosts = "smtp.isp.example"
trusted_networks = []
`)
	want := `relayd.toml:1: trusted_netwroks: unknown key; did you mean trusted_networks?
relayd.toml:3: trusted_networks: "192.168.1.7/24" is an address within a network; write "192.168.1.0/24" for the network, or "192.168.1.7" for this one machine
relayd.toml:4: trusted_networks: "0.0.0.0/0" is everybody, which makes an open relay that spammers find within hours; name the networks of your own machines, such as "192.168.1.0/24"
relayd.toml:7: queue.retry_min: is a bare number, but must be a duration in quotes, such as "90s", "1h30m" or "5d"; write the unit, in quotes: retry_min = "60s" for seconds; there are s, m, h, d and w
relayd.toml:8: queue.retry_max: the value is not TOML; write text, durations and sizes in quotes, as in retry_max = "1h"
relayd.toml:9: queue.max_age: "5 days" is not a duration: the unit after 5 is missing, ms, s, m, h, d or w; write a duration in quotes, such as "90s", "1h30m" or "5d"
relayd.toml:10: listener.cert_file: is missing, and tls is not "off"; name the certificate chain and its key, both PEM, as cert_file and key_file, or set tls = "off"
relayd.toml:12: smarthost.hosts: is missing; write the name of the provider's server: hosts = ["smtp.isp.example"]; or one that "relayctl providers" lists: provider = "gmail"
relayd.toml:13: smarthost.username: there is no password for it; add password_file = "isp.password", a file with nothing else in it
relayd.toml:14: smarthost.tls: "start-tls" is not known; did you mean "starttls"? It is one of "starttls", "implicit", "off"
relayd.toml:15: smarthost: is the second that takes all mail; the first is in line 12; move it up, give the other senders, recipients or clients, or put the hosts of both into one list
relayd.toml:16: smarthost.hosts: is a string, but must be a list of strings; write hosts = ["smtp.isp.example"]
relayd.toml:17: smarthost.trusted_networks: unknown key in [[smarthost]]; it belongs to the top of the file, above the first [table]: move the line there`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLoad_FilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.toml"): `none.toml: there is no such file; give the right path with --config, or have "relayctl init" write the file`,
		dir:                             ": cannot be read: is a directory; ",
		"/dev/zero":                     "/dev/zero: is larger than 256 KiB; ",
	} {
		cfg, _, err := Load(path)
		if err == nil || cfg != nil {
			t.Errorf("%s was loaded", path)
			continue
		}
		wantAll(t, err.Error(), want)
	}
}

func TestLoad_AnEmptyFileNamesTheLinesToWrite(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "smarthost = []\n", "\ufeff\r\n"} {
		got := faultsOf(t, text)
		wantAll(t, got, `smarthost: there is none, so mail would go nowhere; add [[smarthost]] with hosts = ["smtp.isp.example"]`)
		if strings.Count(got, "\n") != 0 {
			t.Errorf("more than one fault:\n%s", got)
		}
	}
}

func TestLoad_OneFaultIsOneLineWhateverTheKey(t *testing.T) {
	for _, text := range []string{`"a\nb" = 1`, `"a\nb" = x`, "[\"a\\nb\"]\nk = 1"} {
		got := faultsOf(t, text+anySmarthost)
		if strings.Count(got, "\n") > 0 || !strings.Contains(got, `a\nb`) {
			t.Errorf("%s:\n%s", text, got)
		}
	}
}

func TestLog_Levels(t *testing.T) {
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if got := good(t, "log.level = '"+text+"'\n"+anySmarthost).Log.Level; got != want {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func TestLoad_RelativeToTheFilesFolderNotTheCurrentOne(t *testing.T) {
	path := write(t, "data_dir = \"q\"\n"+fourLines)
	t.Chdir(filepath.Dir(filepath.Dir(path)))
	rel := filepath.Join(filepath.Base(filepath.Dir(path)), "relayd.toml")
	cfg, _, err := Load(rel)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(path), "q"); cfg.DataDir != want || cfg.File != path {
		t.Errorf("DataDir %s, File %s", cfg.DataDir, cfg.File)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(path), "isp.password")); err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(rel)
	if err == nil || !strings.HasPrefix(err.Error(), rel+":6: smarthost.password_file: ") {
		t.Errorf("a fault names the file as it was given: %v", err)
	}
}

func TestLoad_BrokenLinesInThousandsEndSoon(t *testing.T) {
	for name, text := range map[string]string{
		"syntax":    strings.Repeat("retry_min = 5m\n", 1000),
		"unknown":   numbered("key%d = 1\n", 1000),
		"networks":  "trusted_networks = [\n" + strings.Repeat("\"1.2.3\",\n", 10_000) + "]\n" + anySmarthost,
		"smarthost": strings.Repeat("[[smarthost]]\n", 5000),
		"routes":    numbered("[[smarthost]]\nhosts=[\"h\"]\nsenders=[\"@d%d\"]\n", 1000),
		"listeners": numbered("[[listener]]\naddress=\":%d\"\n", 5000) + anySmarthost,
		"brackets":  "hosts = " + strings.Repeat("[", 20_000),
	} {
		began := time.Now()
		got := faultsOf(t, text)
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("%s: took %v", name, took)
		}
		if name != "listeners" && got == "" {
			t.Errorf("%s: no fault", name)
		}
		if n := strings.Count(got, "unknown key"); name == "unknown" && n != 1000 {
			t.Errorf("%d of 1000 faults reported", n)
		}
	}
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i+1)
	}
	return b.String()
}
