package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDescribe_FourLinesInWords(t *testing.T) {
	cfg := good(t, "hostname = \"relay.example.com\"\n"+fourLines)
	dir := filepath.Dir(cfg.File)
	got := strings.ReplaceAll(cfg.Describe(), dir, "/etc/relayd")
	want := `/etc/relayd/relayd.toml

Takes mail, as relay.example.com, on
  port 25 of every address of this machine; no TLS
    messages up to 50 MB with up to 1,000 recipients; up to 500 connections, 50 of one client

From, without a login
  this machine itself
  192.168.1.0/24
  and nobody else

Hands it on to
  1. smtp.isp.example, for all mail
     hosts   smtp.isp.example:587; up to 3 connections
     TLS     demanded, by STARTTLS, 1.2 or newer; certificates verified with the system's authorities
     login   as me@isp.example with the best that the host offers of SCRAM-SHA-256, PLAIN, LOGIN and CRAM-MD5, after TLS; password_file /etc/relayd/isp.password

When it cannot go out
  mail that no host can be asked to take waits until one can, however long
  mail that is refused for the time being is tried again after 1 minute, then later and later, never more than 1 hour apart
  after 5 days of that the sender gets it back with a report
  the sender is told once when a message is late by 4 hours

Queue           /var/lib/relayd
                at most 1,000,000 messages; no new mail when less than 100 MB of disk is free
                what became of a message is kept for 30 days
Control socket  /var/lib/relayd/control.sock
Log             text, from level info
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDescribe_SaysWhatIsUnusual(t *testing.T) {
	dir := t.TempDir()
	certificateFiles(t, dir, time.Now().Add(90*24*time.Hour))
	writeFile(t, filepath.Join(dir, "isp.password"), "hunter2", 0o600)
	path := writeFile(t, filepath.Join(dir, "relayd.toml"), `
trusted_networks = ["10.1.2.3", "127.0.0.0/8"]
[queue]
retry_min = "90s"
retry_max = "1h30m"
max_bytes = "2GiB"
[[listener]]
address = "192.168.1.5:25"
tls = "starttls"
cert_file = "cert.pem"
key_file = "key.pem"
max_connections = 1
[[listener]]
address = "[::]:0"
tls = "implicit"
min_tls = "1.3"
cert_file = "cert.pem"
key_file = "key.pem"
max_message_size = 1000001
[[smarthost]]
name = "lan"
hosts = ["exchange.lan:25"]
tls = "off"
recipients = ["@example.com", "@example.org"]
[[smarthost]]
hosts = ["smtp.west.cox.net", "smtp.east.cox.net"]
tls = "implicit"
min_tls = "1.3"
ca_file = "cert.pem"
auth = "login"
username = "me@cox.net"
password_file = "isp.password"
senders = ["@example.com", "a@example.net", "b@example.net"]
clients = ["192.168.1.9", "192.168.2.0/24"]
`, 0o600)
	cfg, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(cfg.Describe(), dir, "/etc/relayd")
	wantAll(t, got,
		"\n  port 25 of 192.168.1.5; TLS by STARTTLS for clients that ask for it, 1.2 or newer, with /etc/relayd/cert.pem\n",
		"up to 1 connection, 1 of one client\n",
		"\n  a port that the system chooses of every address of this machine; TLS from the first byte, 1.3 or newer, with /etc/relayd/cert.pem\n",
		"messages up to 1000001 bytes",
		"\n  this machine itself\n  10.1.2.3\n  and nobody else\n",
		"\n  1. lan, for mail to @example.com or @example.org\n     hosts   exchange.lan:25; up to 3 connections\n"+
			"     TLS     none: mail goes there in the clear\n     login   none\n",
		"\n  2. smtp.west.cox.net, for mail from @example.com, a@example.net or b@example.net, "+
			"that came in from 192.168.1.9 or 192.168.2.0/24\n"+
			"     hosts   smtp.west.cox.net:465, smtp.east.cox.net:465, in this order; up to 3 connections\n"+
			"     TLS     from the first byte, 1.3 or newer; certificates verified with /etc/relayd/cert.pem\n"+
			"     login   as me@cox.net with LOGIN, after TLS; password_file /etc/relayd/isp.password\n",
		"  mail that fits none of these waits until the configuration has a place for it\n",
		"after 1 minute 30 seconds, then later and later, never more than 1 hour 30 minutes apart",
		"at most 1,000,000 messages and 2 GiB;",
	)
	if strings.Contains(got, "hunter2") {
		t.Error("the password is described")
	}
}
