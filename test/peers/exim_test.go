//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// eximPassword is free of what Exim's configuration would expand.
const eximPassword = "exim's own secret"

// exim is an Exim with a folder of its own.
type exim struct {
	room
	name   string
	host   string
	port   string
	daemon *daemon
}

func (e *exim) addr() string {
	if strings.Contains(e.host, ":") {
		return "[" + e.host + "]:" + e.port
	}
	return e.host + ":" + e.port
}

// eximSmarthost is how an Exim that plays the provider is to be.
type eximSmarthost struct {
	mechanism string // PLAIN or LOGIN
	implicit  bool   // TLS from the first octet
	host      string
}

// startEximSmarthost runs an Exim that takes mail only after TLS and a login, and delivers to a maildir for each of
// mailboxes.
func startEximSmarthost(t *testing.T, r room, id identity, as eximSmarthost) *exim {
	t.Helper()
	e := &exim{room: r, name: "exim-smarthost", host: as.host, port: freePort(t)}
	implicit := ""
	if as.implicit {
		implicit = "tls_on_connect_ports = " + e.port
	}
	prompts, user, pass := ":", "$auth2", "$auth3"
	if as.mechanism == "LOGIN" {
		prompts, user, pass = "<| Username: | Password:", "$auth1", "$auth2"
	}
	e.prepare(t, fmt.Sprintf(`
primary_hostname = smarthost.example
domainlist ours = dest.example : lan.example
tls_advertise_hosts = *
tls_certificate = %[1]s
tls_privatekey = %[2]s
%[3]s
acl_smtp_rcpt = check_recipient
acl_smtp_data = accept

begin acl
check_recipient:
  deny  message = relaying needs TLS and a login
       !authenticated = *
  deny  message = no TLS
       !encrypted = *
  require verify = recipient
  accept

begin authenticators
only:
  driver = plaintext
  public_name = %[4]s
  server_advertise_condition = ${if def:tls_in_cipher}
  server_prompts = %[5]s
  server_condition = ${if and{{eq{%[6]s}{%[7]s}}{eq{%[8]s}{%[9]s}}}}
  server_set_id = %[6]s

begin routers
mailboxes:
  driver = accept
  domains = +ours
  local_parts = sam : ann : bob : carl
  transport = maildir
  cannot_route_message = no such mailbox

begin transports
maildir:
  driver = appendfile
  directory = %[10]s/mail/$local_part_data@$domain_data
  maildir_format
  create_directory
  return_path_add
`, id.cert, id.key, implicit, as.mechanism, prompts, user, username, pass, eximPassword, e.path(e.name)))
	e.start(t)
	return e
}

// startEximLAN runs an Exim that takes mail from loopback and hands all of it to relayd. further are options of its
// smtp transport.
func startEximLAN(t *testing.T, r room, relayd *relay, further string) *exim {
	t.Helper()
	e := &exim{room: r, name: "exim-lan", host: "127.0.0.1", port: freePort(t)}
	e.prepare(t, fmt.Sprintf(`
primary_hostname = lan.example
tls_advertise_hosts =
acl_smtp_rcpt = accept
acl_smtp_data = accept

begin routers
smarthost:
  driver = manualroute
  domains = *
  transport = relayd
  route_list = * 127.0.0.1::%s
  self = send

begin transports
relayd:
  driver = smtp
  hosts_try_dane =
%s
`, relayd.port, further))
	e.start(t)
	return e
}

// prepare writes the configuration. deliver_drop_privilege lets an Exim work that is not setuid root.
func (e *exim) prepare(t *testing.T, further string) {
	t.Helper()
	e.write(t, e.name+"/exim.conf", fmt.Sprintf(`
exim_path = %[1]s
spool_directory = %[2]s/spool
log_file_path = %[3]s-%%slog
pid_file_path =
local_interfaces = <; [%[4]s]:%[5]s
disable_ipv6 = false
deliver_drop_privilege = true
keep_environment = %[6]s
add_environment = PATH=/usr/bin:/bin
log_selector = +tls_cipher +tls_sni +received_recipients
rfc1413_hosts =
host_lookup =
local_from_check = false
untrusted_set_sender = *
message_size_limit = 20M
never_users =
smtp_accept_queue_per_connection = 0
`, installedPeers().file("usr/sbin/exim4"), e.path(e.name), e.log(e.name), e.host, e.port,
		strings.ReplaceAll(keptVariables, " ", " : "))+further)
	for _, name := range []string{"spool", "mail"} {
		path := e.path(e.name, name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chown(path, eximUser, eximUser)); err != nil {
			t.Fatal(err)
		}
	}
}

func (e *exim) start(t *testing.T) {
	t.Helper()
	e.daemon = e.room.start(t, e.name, e.peerEnv(), "exim4", "-C", e.path(e.name, "exim.conf"), "-bdf", "-q5s")
	e.daemon.waitForPort(t, e.port)
}

// waitUntilEmpty waits until Exim has delivered all that it took.
func (e *exim) waitUntilEmpty(t *testing.T) {
	t.Helper()
	poll(t, e.name+" has delivered all", func() string {
		out := e.must(t, nil, "exim4", "-C", e.path(e.name, "exim.conf"), "-bp")
		return strings.TrimSpace(out)
	})
}

// sendmail hands m to Exim as a program on its machine does: LF line ends, on standard input.
func (e *exim) sendmail(t *testing.T, m message, recipients ...string) {
	t.Helper()
	e.must(t, m.lf(), append([]string{"exim4", "-C", e.path(e.name, "exim.conf"), "-odb", "-i", "-f", sender, "--"}, recipients...)...)
}

func (e *exim) mailbox(address string) maildir { return maildir(e.path(e.name, "mail", address)) }

func (e *exim) mainlog(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(e.log(e.name + "-mainlog"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
