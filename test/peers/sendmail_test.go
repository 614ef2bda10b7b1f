//go:build peers

package peers

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// sendmail is Sendmail's sendmail with a folder of its own.
type sendmail struct {
	room
	name   string
	port   string
	daemon *daemon
}

func (s *sendmail) addr() string { return "127.0.0.1:" + s.port }

// startSendmailSmarthost runs a sendmail that takes mail only after STARTTLS and a login, from the Cyrus SASL library, and
// hands it on to backend. further are lines of its configuration.
func startSendmailSmarthost(t *testing.T, r room, id identity, backend *postfix, further string) *sendmail {
	t.Helper()
	s := newSendmail(t, r, "sendmail-smarthost", "smarthost.example", backend.port, `
define(‹confAUTH_MECHANISMS›, ‹PLAIN LOGIN›)
TRUST_AUTH_MECH(‹PLAIN LOGIN›)
define(‹confAUTH_OPTIONS›, ‹A,p,y›)
define(‹confSERVER_CERT›, ‹/etc/mail/cert.pem›)
define(‹confSERVER_KEY›, ‹/etc/mail/key.pem›)
define(‹confCACERT›, ‹/etc/mail/cert.pem›)
define(‹confCACERT_PATH›, ‹/etc/mail›)
DAEMON_OPTIONS(‹Port=PORT, Addr=127.0.0.1, Name=MTA, Modify=a›)
`+further)
	for name, from := range map[string]string{"cert.pem": id.cert, "key.pem": id.key} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		// sendmail refuses a key that others can read.
		if err := os.Chmod(s.write(t, s.name+"/etc/mail/"+name, string(content)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.write(t, s.name+"/etc/sasl2/Sendmail.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n"+
		"sasldb_path: "+s.path(s.name, "sasldb")+"\n")
	user, realm, _ := strings.Cut(username, "@")
	s.inHouse(t, []byte(housePassword), "saslpasswd2", "-p", "-c", "-f", s.path(s.name, "sasldb"), "-u", realm, user)
	s.start(t)
	return s
}

// startSendmailLAN runs a sendmail that takes mail from loopback and hands all of it to relayd.
func startSendmailLAN(t *testing.T, r room, relayd *relay) *sendmail {
	t.Helper()
	s := newSendmail(t, r, "sendmail-lan", "lan.example", relayd.port, `
FEATURE(‹promiscuous_relay›)
DAEMON_OPTIONS(‹Port=PORT, Addr=127.0.0.1, Name=MTA›)
`)
	s.start(t)
	return s
}

// newSendmail writes a configuration with which sendmail hands all mail to a port on loopback. In further, PORT is the
// port of the daemon. ‹ and › are the quotes of m4.
func newSendmail(t *testing.T, r room, name, hostname, nextPort, further string) *sendmail {
	t.Helper()
	s := &sendmail{room: r.housed(t, "sendmail", name), name: name, port: freePort(t)}
	s.mustOwn(t, name+"/queue", 0, 0o700)
	s.write(t, name+"/statistics", "")
	s.write(t, name+"/etc/service.switch", "hosts files\naliases files\n")
	macros := fmt.Sprintf(`divert(0)
define(‹_USE_ETC_MAIL_›)
OSTYPE(‹linux›)
define(‹QUEUE_DIR›, ‹%[1]s/queue›)
define(‹STATUS_FILE›, ‹%[1]s/statistics›)
define(‹confPID_FILE›, ‹%[1]s/pid›)
define(‹ALIAS_FILE›, ‹›)
define(‹confDOMAIN_NAME›, ‹%[4]s›)
define(‹confDONT_BLAME_SENDMAIL›, ‹GroupWritableDirPathSafe›)
define(‹confDEF_USER_ID›, ‹smmsp:smmsp›)
define(‹confTO_IDENT›, ‹0›)
define(‹confMIN_QUEUE_AGE›, ‹0›)
define(‹confQUEUE_LA›, ‹1000›)
define(‹confREFUSE_LA›, ‹1000›)
define(‹confSERVICE_SWITCH_FILE›, ‹/etc/service.switch›)
FEATURE(‹no_default_msa›)
FEATURE(‹nocanonify›)
FEATURE(‹accept_unresolvable_domains›)
FEATURE(‹accept_unqualified_senders›)
define(‹SMART_HOST›, ‹relay:[127.0.0.1]›)
define(‹RELAY_MAILER_ARGS›, ‹TCP $h %[2]s›)
%[3]s
MAILER(‹smtp›)
`, s.path(name), nextPort, strings.ReplaceAll(further, "PORT", s.port), hostname)
	file := s.write(t, name+"/sendmail.mc", strings.NewReplacer("‹", "`", "›", "'").Replace(macros))
	s.write(t, name+"/etc/mail/sendmail.cf",
		s.inHouse(t, nil, "sh", "-c", "cd /usr/share/sendmail/cf/cf && exec m4 ../m4/cf.m4 "+file+" 2>/dev/null"))
	return s
}

// inHouse runs a program of the house to its end, and returns what it printed.
func (s *sendmail) inHouse(t *testing.T, input []byte, argv ...string) string {
	t.Helper()
	out, code := s.runEnv(t, s.houseEnv(), input, argv...)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(argv, " "), code, out)
	}
	return out
}

func (s *sendmail) start(t *testing.T) {
	t.Helper()
	s.daemon = s.room.start(t, s.name, s.houseEnv(), "/usr/libexec/sendmail/sendmail", "-bD", "-q1s")
	s.daemon.waitForPort(t, s.port)
}

func TestSendmail_AsSmarthostTakesEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	backend := startBackend(t, r)
	s := startSendmailSmarthost(t, r, ca.issue(t, "smarthost.example", 0), backend, "")
	relay := startRelay(t, r, settings{host: s.addr(), username: username, password: housePassword, ca: ca.file})
	sent := shapes("sendmail")
	for _, m := range sent {
		if err := submit("127.0.0.1:"+relay.port, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		waitForMail(t, backend.mailbox(ann), m)
	}
	relay.waitUntilEmpty(t)
	backend.waitUntilEmpty(t)
	backend.mailbox(ann).mustHold(t, len(sent))
}

func TestSendmail_AsLANServerHandsOverEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	c := newChain(t, nil)
	s := startSendmailLAN(t, c.room, c.relay)
	sent := shapes("sendmail-lan")
	for _, m := range sent {
		if err := submit(s.addr(), m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		mustBeLoggedIn(t, waitForMail(t, c.box(ann), m))
	}
	c.waitUntilEmpty(t)
	c.box(ann).mustHold(t, len(sent))
}

// A sendmail whose MaxDaemonChildren is reached closes its listening socket: further connections are refused, while
// those that stand go on. relayd must use fewer connections and not take the host for dead.
func TestSendmail_ALimitOfChildrenIsNoOutage(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	backend := startBackend(t, r)
	s := startSendmailSmarthost(t, r, ca.issue(t, "smarthost.example", 0), backend, "define(‹confMAX_DAEMON_CHILDREN›, ‹2›)\n")
	relay := startRelay(t, r, settings{
		host: s.addr(), username: username, password: housePassword, ca: ca.file, route: "max_connections = 10",
	})
	const count = 100
	began := time.Now()
	for i := range count {
		if err := submit("127.0.0.1:"+relay.port, plain(fmt.Sprintf("limit-%d", i)), ann); err != nil {
			t.Fatal(err)
		}
	}
	relay.waitUntilEmpty(t)
	t.Logf("%d messages in %v", count, time.Since(began).Round(time.Millisecond))
	poll(t, "sendmail has handed on what it took", func() string {
		if n := len(backend.mailbox(ann).files(t)); n < count {
			return fmt.Sprintf("%d of %d are there", n, count)
		}
		return ""
	})
	backend.waitUntilEmpty(t)
	backend.mailbox(ann).mustHold(t, count)
	if said := relay.said(t); strings.Contains(said, "host down") {
		t.Errorf("relayd takes the host for dead:\n%s", said)
	}
}
