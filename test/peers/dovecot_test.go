//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// dovecot is Dovecot's submission service as a provider's smarthost. It hands mail on to a Postfix behind it.
type dovecot struct {
	room
	port    string
	conf    string // its configuration file
	backend *postfix
	daemon  *daemon
}

func (d *dovecot) addr() string { return "127.0.0.1:" + d.port }

// startDovecot runs a Dovecot that takes mail only after STARTTLS and a login.
func startDovecot(t *testing.T, r room, id identity) *dovecot {
	t.Helper()
	d := &dovecot{room: r.housed(t, "dovecot", "dovecot"), port: freePort(t), backend: startBackend(t, r)}
	r.mustOwn(t, "dovecot/run", 0, 0o755)
	r.mustOwn(t, "dovecot/home", mailboxUser, 0o755)
	users := r.write(t, "dovecot/users", username+":{PLAIN}"+housePassword+"\n")
	d.conf = r.write(t, "dovecot/dovecot.conf", fmt.Sprintf(`
base_dir = %[1]s/run
state_dir = %[1]s/run
log_path = %[2]s
protocols = submission
hostname = smarthost.example
ssl = required
ssl_cert = <%[3]s
ssl_key = <%[4]s
mail_location = maildir:%[1]s/home/Maildir
submission_relay_host = 127.0.0.1
submission_relay_port = %[5]s
passdb {
  driver = passwd-file
  args = scheme=plain %[6]s
}
userdb {
  driver = static
  args = uid=%[7]d gid=%[7]d home=%[1]s/home
}
service submission-login {
  chroot =
  inet_listener submission {
    address = 127.0.0.1
    port = %[8]s
  }
  inet_listener submissions {
    port = 0
  }
}
`, r.path("dovecot"), r.log("dovecot"), id.cert, id.key, d.backend.port, users, mailboxUser, d.port))
	d.start(t)
	return d
}

func (d *dovecot) start(t *testing.T) {
	t.Helper()
	d.daemon = d.room.start(t, "dovecot", d.houseEnv(), "dovecot", "-F", "-c", d.conf)
	d.daemon.waitForPort(t, d.port)
}

func (d *dovecot) box(address string) maildir { return d.backend.mailbox(address) }

// log is what Dovecot has logged.
func (d *dovecot) log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(d.room.log("dovecot"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func TestDovecot_TakesEveryShapeUnchanged(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	d := startDovecot(t, r, ca.issue(t, "smarthost.example", 0))
	relay := startRelay(t, r, settings{host: d.addr(), username: username, password: housePassword, ca: ca.file})
	sent := shapes("dovecot")
	for _, m := range sent {
		if err := submit("127.0.0.1:"+relay.port, m, ann); err != nil {
			t.Fatalf("%s: %v", m.id, err)
		}
	}
	for _, m := range sent {
		waitForMail(t, d.box(ann), m)
	}
	relay.waitUntilEmpty(t)
	d.backend.waitUntilEmpty(t)
	d.box(ann).mustHold(t, len(sent))
}

// Dovecot 2.3.19 and 2.4.1 relay a message, then panic at an envelope that was pipelined behind its final dot, and the
// dot stays without a reply. They panic at a group of empty transactions as well, and that is what the relay tries
// first. So each message arrives once, and the relay tries no group again after a restart.
func TestDovecot_ABacklogArrivesOnceAlsoAfterARestart(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	ca := newAuthority(t, r)
	d := startDovecot(t, r, ca.issue(t, "smarthost.example", 0))
	relay := startRelay(t, r, settings{
		host: d.addr(), username: username, password: housePassword, ca: ca.file, route: "max_connections = 1",
	})
	const runs, each = 3, 20
	backlog := func(run, i int) message { return plain(fmt.Sprintf("backlog-%d-%d", run, i)) }
	var panics [runs]int
	for run := range runs {
		d.daemon.stop(t)
		for i := range each {
			if err := submit("127.0.0.1:"+relay.port, backlog(run, i), ann); err != nil {
				t.Fatal(err)
			}
		}
		relay.waitForError(t)
		d.start(t)
		relay.waitUntilEmpty(t)
		panics[run] = strings.Count(d.log(t), "Panic:")
		relay.stop(t)
		relay.launch(t)
	}
	d.backend.waitUntilEmpty(t)
	for run := range runs {
		for i := range each {
			waitForMail(t, d.box(ann), backlog(run, i))
		}
	}
	d.box(ann).mustHold(t, runs*each)
	if panics[0] == 0 || panics[runs-1] > panics[0] {
		t.Errorf("Dovecot has panicked %v times after each run; want some in the first alone", panics)
	}
}
