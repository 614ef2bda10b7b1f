//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// setup is what a case asks of a relay.
type setup struct {
	sink        string // address of the smarthost, on loopback
	ca          string // its authority's certificate, when it demands STARTTLS and the login; empty for a plain one
	connections int    // to the smarthost at most; 0 for the relay's usual number
	tracer      []string
}

// The login at the smarthost that demands one.
const (
	username = "bench"
	password = "bench"
)

// relay is a relay that runs, with an empty queue unless its folder had one.
type relay struct {
	*kept
	port   int
	config string // of relayd, for relayctl
	traced bool
}

func (r *relay) addr() string { return portAddress(r.port) }

// contender is a kind of relay.
type contender struct {
	name  string
	start func(l *lab, dir string, s setup) (*relay, error)
}

// contenders are relayd and, after it, the configurations of Postfix.
func contenders() []contender {
	return []contender{
		{"relayd", (*lab).startRelayd},
		{"Postfix, default", func(l *lab, dir string, s setup) (*relay, error) { return l.startPostfix(dir, s, false) }},
		{"Postfix, tuned", func(l *lab, dir string, s setup) (*relay, error) { return l.startPostfix(dir, s, true) }},
	}
}

// usualConnections is how many connections to the smarthost relayd may open. Its default is made for providers, who
// allow few; this is what the tuned Postfix has, too.
const usualConnections = 10

// startRelayd runs relayd as it comes, but for the number of connections and of clients from one address, since all
// come from this machine here. Its log goes to a file.
func (l *lab) startRelayd(dir string, s setup) (*relay, error) {
	port, err := l.freePort()
	if err != nil {
		return nil, err
	}
	tls := `tls = "off"`
	if s.ca != "" {
		tls = fmt.Sprintf("ca_file = %q\nusername = %q\npassword = %q", s.ca, username, password)
	}
	r := &relay{port: port, config: filepath.Join(dir, "relayd.toml"), traced: len(s.tracer) > 0}
	config := fmt.Sprintf(`hostname = "bench.lan.example"
data_dir = "queue"
[queue]
max_messages = 1100000
[[listener]]
address = %q
max_connections_per_client = 500
[[smarthost]]
name = %q
hosts = [%q]
max_connections = %d
%s
`, r.addr(), routeName, s.sink, cmp.Or(s.connections, usualConnections), tls)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	argv := append(append([]string(nil), s.tracer...), l.relayd, "--config", r.config)
	if r.kept, err = l.start("relayd", filepath.Join(dir, "relayd.log"), os.Environ(), argv...); err != nil {
		return nil, err
	}
	return r, r.ready()
}

// ready waits until the relay takes connections; if it never does, it is stopped.
func (r *relay) ready() error {
	err := r.waitForPort(r.port)
	if err != nil {
		r.stop()
	}
	return err
}

// startPostfix runs a Postfix that takes mail from loopback and hands all of it to the smarthost: as it comes, or tuned.
func (l *lab) startPostfix(dir string, s setup, tuned bool) (*relay, error) {
	port, err := l.freePort()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(postfixFolders(dir), os.MkdirAll(filepath.Join(dir, "etc"), 0o755)); err != nil {
		return nil, err
	}
	nexthop := "[127.0.0.1]" + strings.TrimPrefix(s.sink, "127.0.0.1")
	main := postfixBasics(dir, l.peers)
	// Its log goes to the system's, which costs Postfix nothing where nobody listens for it; where somebody does, it is
	// spared the flood.
	if _, err := os.Stat("/dev/log"); err == nil {
		main += fmt.Sprintf("maillog_file = %[1]s/maillog\nmaillog_file_prefixes = %[1]s\n", dir)
	}
	main += "relayhost = " + nexthop + "\n"
	if s.ca != "" {
		main += postfixLogin(dir)
		if err := writeOld(filepath.Join(dir, "etc/sasl"), fmt.Sprintf("%s %s:%s\n", nexthop, username, password)); err != nil {
			return nil, err
		}
	}
	if tuned {
		main += postfixTuned(nexthop, s, dir)
	}
	if s.connections > 0 {
		main += fmt.Sprintf("smtp_destination_concurrency_limit = %d\n", s.connections)
	}
	err = errors.Join(writeOld(filepath.Join(dir, "etc/main.cf"), main), writeOld(filepath.Join(dir, "etc/master.cf"), portAddress(port)+postfixServices))
	if err != nil {
		return nil, err
	}
	argv := append(append([]string(nil), s.tracer...), l.peers.file("usr/lib/postfix/sbin/master"), "-d", "-c", filepath.Join(dir, "etc"))
	r := &relay{port: port, traced: len(s.tracer) > 0}
	if r.kept, err = l.start("Postfix", filepath.Join(dir, "postfix.log"), l.peerEnv(), argv...); err != nil {
		return nil, err
	}
	return r, r.ready()
}

// postfixFolders makes the folders that Postfix expects (postfix-files(5)).
func postfixFolders(dir string) error {
	type folder struct {
		name        string
		user, group int
		mode        os.FileMode
	}
	folders := []folder{
		{"spool/pid", 0, 0, 0o755},
		{"spool/maildrop", postfixUser, postdropGroup, 0o730 | os.ModeSticky},
		{"spool/public", postfixUser, postdropGroup, 0o710 | os.ModeSetgid},
		{"data", postfixUser, postfixUser, 0o700},
	}
	for _, name := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"} {
		folders = append(folders, folder{"spool/" + name, postfixUser, 0, 0o700})
	}
	for _, f := range folders {
		path := filepath.Join(dir, f.name)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, f.user, f.group), os.Chmod(path, f.mode)); err != nil {
			return err
		}
	}
	return nil
}

func postfixBasics(dir string, p installation) string {
	return fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
meta_directory = %[1]s/etc
command_directory = %[2]s
daemon_directory = %[3]s/sbin
shlib_directory = %[3]s
mail_owner = postfix
setgid_group = postdrop
import_environment = MAIL_CONFIG MAIL_LOGTAG LANG=C %[4]s
export_environment = MAIL_CONFIG LANG %[4]s
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = bench.lan.example
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
local_transport = error:there are no local users
smtp_bind_address = 127.0.0.1
smtpd_relay_restrictions = permit_mynetworks, reject
message_size_limit = 51200000
`, dir, p.file("usr/sbin"), p.file("usr/lib/postfix"), keptVariables)
}

func postfixLogin(dir string) string {
	return fmt.Sprintf(`smtp_tls_security_level = encrypt
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = texthash:%s/etc/sasl
smtp_sasl_security_options = noanonymous
`, dir)
}

// postfixTuned is what makes Postfix faster here, by its own documentation (TUNING_README, TLS_README).
func postfixTuned(nexthop string, s setup, dir string) string {
	tuned := fmt.Sprintf(`in_flow_delay = 0
default_destination_concurrency_limit = %d
initial_destination_concurrency = 5
smtp_connection_cache_destinations = %s
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
max_use = 1000
`, usualConnections, nexthop)
	if s.ca != "" {
		tuned += fmt.Sprintf("smtp_tls_connection_reuse = yes\nsmtp_tls_session_cache_database = btree:%s/data/smtp_scache\n", dir)
	}
	return tuned
}

// postfixServices is master.cf behind the address of its first service (master(5)): the defaults without chroot.
const postfixServices = ` inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
postlog unix-dgram n - n - 1 postlogd
`
