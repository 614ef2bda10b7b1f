//go:build peers

package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// relayName is relayd's name in its greeting and trace header.
const relayName = "relay.lan.example"

// relay is a relayd under test.
type relay struct {
	room
	port     string
	config   string // the file
	settings settings
	daemon   *daemon
}

// settings is what a test's configuration says beside the usual.
type settings struct {
	host       string // of the smarthost, with its port
	username   string
	password   string
	ca         string
	trusted    string // networks, a TOML array
	listener   string // further keys of [[listener]]
	everywhere bool   // listen on all addresses, not only 127.0.0.1
	route      string // further keys of [[smarthost]]
	oauth2     string // keys of [smarthost.oauth2], in place of the password
}

// startRelay runs a relayd that hands on to the smarthost in s.
func startRelay(t *testing.T, r room, s settings) *relay {
	t.Helper()
	relay := &relay{room: r, port: freePort(t), settings: s}
	relay.configure(t, s)
	relay.launch(t)
	return relay
}

func (r *relay) launch(t *testing.T) {
	t.Helper()
	r.daemon = r.start(t, "relayd", os.Environ(), "relayd", "--config", r.config)
	t.Cleanup(func() { r.stop(t) })
	r.daemon.waitForPort(t, r.port)
}

// stop tells relayd to stop, which has to end well.
func (r *relay) stop(t *testing.T) {
	t.Helper()
	r.daemon.stop(t)
	if code := r.daemon.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("relayd ended with exit code %d", code)
	}
}

// configure writes the configuration and the password file.
func (r *relay) configure(t *testing.T, s settings) {
	t.Helper()
	if s.trusted == "" {
		s.trusted = "[]"
	}
	host := "127.0.0.1"
	if s.everywhere {
		host = ""
	}
	ca := ""
	if s.ca != "" {
		ca = fmt.Sprintf("ca_file = %q", s.ca)
	}
	r.settings = s
	login := `password_file = "isp.password"`
	if s.oauth2 != "" {
		login, s.route = "", s.route+"\n[smarthost.oauth2]\n"+s.oauth2
	}
	r.config = r.write(t, "relayd/relayd.toml", fmt.Sprintf(`
hostname = %q
data_dir = "data"
trusted_networks = %s

[queue]
retry_min = "1s"
retry_max = "2s"

[[listener]]
address = "%s:%s"
%s

[[smarthost]]
hosts = [%q]
username = %q
%s
%s
%s
`, relayName, s.trusted, host, r.port, s.listener, s.host, s.username, ca, login, s.route))
	r.setPassword(t, s.password)
}

func (r *relay) setPassword(t *testing.T, password string) {
	t.Helper()
	file := r.write(t, "relayd/isp.password", password+"\n")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload has relayd read its configuration again, and waits until it has.
func (r *relay) reload(t *testing.T) {
	t.Helper()
	const done = "the configuration was reloaded"
	before := strings.Count(r.said(t), done)
	if err := r.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	poll(t, "relayd reloads its configuration", func() string {
		if strings.Count(r.said(t), done) > before {
			return ""
		}
		return "its log does not say so"
	})
}

// said is relayd's log.
func (r *relay) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(r.log("relayd.out"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ctl runs relayctl, and returns what it printed and its exit code.
func (r *relay) ctl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	return r.runEnv(t, os.Environ(), nil, append([]string{"relayctl", "--config", r.config}, args...)...)
}

// entry is what the tests want to know of a message in the queue.
type entry struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	Attempts  int    `json:"attempts"`
	LastError string `json:"last_error"`
}

// queue returns what relayctl lists.
func (r *relay) queue(t *testing.T) []entry {
	t.Helper()
	out, code := r.ctl(t, "queue", "list", "--json")
	if code != 0 {
		t.Fatalf("relayctl queue list: exit code %d\n%s", code, out)
	}
	var entries []entry
	if err := json.NewDecoder(bytes.NewReader([]byte(out))).Decode(&entries); err != nil {
		t.Fatalf("relayctl queue list --json: %v\n%s", err, out)
	}
	return entries
}

// waitUntilEmpty waits until the queue holds nothing: all has been handed on, or reported.
func (r *relay) waitUntilEmpty(t *testing.T) {
	t.Helper()
	poll(t, "relayd's queue is empty", func() string {
		if left := r.queue(t); len(left) > 0 {
			return fmt.Sprintf("%+v", left)
		}
		return ""
	})
}

// waitForError waits until a message waits in the queue and says why.
func (r *relay) waitForError(t *testing.T) entry {
	t.Helper()
	var found entry
	poll(t, "a message waits in relayd's queue", func() string {
		entries := r.queue(t)
		for _, e := range entries {
			if e.LastError != "" {
				found = e
				return ""
			}
		}
		return fmt.Sprintf("%+v", entries)
	})
	return found
}
