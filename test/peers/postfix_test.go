//go:build peers

package peers

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"testing"
)

// The login at the smarthosts. What is hard about the password is what SASL, TOML files and shells stumble over.
const (
	username = "relay@smarthost.example"
	password = `s3cret, "with" \ %s $pace & umläut`
)

// postfix is a Postfix with a folder of its own.
type postfix struct {
	room
	name   string
	port   string
	daemon *daemon
}

func (p *postfix) addr() string { return "127.0.0.1:" + p.port }

// startSmarthost runs a Postfix that takes mail only after STARTTLS and a login, from the Cyrus SASL library, and
// delivers to a maildir for each of mailboxes. It offers PLAIN and LOGIN, or the mechanisms that are given.
func startSmarthost(t *testing.T, r room, id identity, mechanisms ...string) *postfix {
	t.Helper()
	p := &postfix{room: r, name: "smarthost", port: freePort(t)}
	p.prepare(t, fmt.Sprintf(`
myhostname = smarthost.example
mynetworks =
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = %s
smtpd_tls_key_file = %s
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_sasl_authenticated_header = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = reject_unlisted_recipient, permit_sasl_authenticated, reject
`, id.cert, id.key)+p.withMailboxes(t))
	p.write(t, p.name+"/etc/sasl/smtpd.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: "+
		cmp.Or(strings.Join(mechanisms, " "), "PLAIN LOGIN")+"\n"+
		"sasldb_path: "+p.path(p.name, "sasldb")+"\n")
	user, realm, _ := strings.Cut(username, "@")
	p.must(t, []byte(password), "saslpasswd2", "-p", "-c", "-f", p.path(p.name, "sasldb"), "-u", realm, user)
	p.mustOwn(t, "sasldb", postfixUser, postfixUser, 0o600)
	p.start(t)
	return p
}

// startBackend runs a Postfix that takes mail from loopback without a login, and delivers to a maildir for each of
// mailboxes. It is what a smarthost without mailboxes hands mail on to.
func startBackend(t *testing.T, r room) *postfix {
	t.Helper()
	p := &postfix{room: r, name: "backend", port: freePort(t)}
	p.prepare(t, `
myhostname = backend.example
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = reject_unlisted_recipient, permit_mynetworks, reject
smtpd_authorized_xclient_hosts = 127.0.0.0/8
`+p.withMailboxes(t))
	p.start(t)
	return p
}

// withMailboxes makes a maildir for each of mailboxes, and returns the lines of main.cf that deliver to them.
func (p *postfix) withMailboxes(t *testing.T) string {
	t.Helper()
	var table strings.Builder
	for _, address := range mailboxes() {
		fmt.Fprintf(&table, "%[1]s %[1]s/\n", address)
	}
	p.write(t, p.name+"/mailboxes", table.String())
	p.mustOwn(t, "mail", mailboxUser, mailboxUser, 0o755)
	return fmt.Sprintf(`
virtual_mailbox_domains = dest.example, lan.example
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = texthash:%[1]s/mailboxes
virtual_uid_maps = static:%[2]d
virtual_gid_maps = static:%[2]d
`, p.path(p.name), mailboxUser)
}

// startLAN runs a Postfix that takes mail from loopback and hands all of it to relayd.
func startLAN(t *testing.T, r room, relayd *relay, further string) *postfix {
	t.Helper()
	p := &postfix{room: r, name: "lan", port: freePort(t)}
	p.prepare(t, `
myhostname = lan.example
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [127.0.0.1]:`+relayd.port+"\n"+further)
	p.start(t)
	return p
}

// prepare makes the folders that Postfix expects and the configuration (postfix-files(5), master(5)).
func (p *postfix) prepare(t *testing.T, further string) {
	t.Helper()
	peers := installedPeers()
	for _, name := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
		"saved", "trace"} {
		p.mustOwn(t, "spool/"+name, postfixUser, 0, 0o700)
	}
	p.mustOwn(t, "spool/pid", 0, 0, 0o755)
	p.mustOwn(t, "spool/maildrop", postfixUser, postdropGroup, 0o730|os.ModeSticky)
	p.mustOwn(t, "spool/public", postfixUser, postdropGroup, 0o710|os.ModeSetgid)
	p.mustOwn(t, "data", postfixUser, postfixUser, 0o700)
	p.write(t, p.name+"/etc/main.cf", fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
meta_directory = %[1]s/etc
command_directory = %[2]s
daemon_directory = %[3]s/sbin
shlib_directory = %[3]s
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[4]s
maillog_file_prefixes = %[5]s
import_environment = MAIL_CONFIG MAIL_LOGTAG LANG=C %[6]s
export_environment = MAIL_CONFIG LANG %[6]s
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
mydestination =
local_transport = error:there are no local users
message_size_limit = 20480000
minimal_backoff_time = 2s
queue_run_delay = 2s
`, p.path(p.name), peers.file("usr/sbin"), peers.file("usr/lib/postfix"), p.log(p.name+".maillog"), p.dir, keptVariables)+further)
	p.write(t, p.name+"/etc/master.cf", "127.0.0.1:"+p.port+` inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
showq unix n - n - - showq
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`)
}

// mustOwn makes a folder of p unless there is a file of that name, and gives it its owner and mode.
func (p *postfix) mustOwn(t *testing.T, name string, user, group int, mode os.FileMode) {
	t.Helper()
	path := p.path(p.name, name)
	if _, err := os.Stat(path); err != nil {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(path, user, group); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func (p *postfix) start(t *testing.T) {
	t.Helper()
	master := installedPeers().file("usr/lib/postfix/sbin/master")
	p.daemon = p.room.start(t, p.name, p.peerEnv(), master, "-d", "-c", p.path(p.name, "etc"))
	p.daemon.waitForPort(t, p.port)
}

// waitUntilEmpty waits until Postfix has delivered all that it took.
func (p *postfix) waitUntilEmpty(t *testing.T) {
	t.Helper()
	poll(t, p.name+" has delivered all", func() string {
		if out := p.must(t, nil, "postqueue", "-c", p.path(p.name, "etc"), "-p"); !strings.Contains(out, "queue is empty") {
			return out
		}
		return ""
	})
}

// sendmail hands m to Postfix as a program on its machine does: LF line ends, on standard input.
func (p *postfix) sendmail(t *testing.T, m message, recipients ...string) {
	t.Helper()
	p.must(t, m.lf(), append([]string{"sendmail", "-C", p.path(p.name, "etc"), "-i", "-f", sender, "--"}, recipients...)...)
}

func (p *postfix) maillog(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.log(p.name + ".maillog"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (p *postfix) mailbox(address string) maildir { return maildir(p.path(p.name, "mail", address)) }
