package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"relayd/internal/envelope"
	"relayd/internal/issuer"
	"relayd/queue"
)

// nobody is the user of the daemon whose folder root works in.
const nobody = 65534

// victim is a machine with a daemon that is down and whose user has gone bad, and what root has beside it.
type victim struct {
	t                   *testing.T
	base, data, outside string // data is nobody's, outside is root's
	config, backup      string
	id                  string
	before              string // what outside held
}

// newVictim makes one. The folder of the queue is at relative, below a folder that is nobody's unless relative has one name.
func newVictim(t *testing.T, relative, tokens string) *victim {
	t.Helper()
	base, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	v := &victim{t: t, base: base, data: filepath.Join(base, relative), outside: filepath.Join(base, "outside"),
		config: filepath.Join(base, "relayd.toml"), backup: filepath.Join(base, "backup")}
	v.must(os.Chmod(base, 0o755), os.MkdirAll(v.data, 0o700), v.fill(), os.Mkdir(v.outside, 0o700),
		os.Mkdir(filepath.Join(v.outside, "folder"), 0o700), os.WriteFile(filepath.Join(v.outside, "file"), []byte("root's\n"), 0o600),
		os.WriteFile(filepath.Join(v.outside, "old"), []byte("relayd queue, format 1\n"), 0o600),
		os.WriteFile(v.config, []byte(fmt.Sprintf("data_dir = %q\n[[smarthost]]\nname = 'office'\nhosts = ['127.0.0.1:1']\nusername = 'me@isp.example'\n"+
			"[smarthost.oauth2]\nflow = 'device'\nclient_id = 'relay'\n%s\n", v.data, tokens)), 0o600),
		os.Mkdir(filepath.Join(v.data, "oauth"), 0o700), os.WriteFile(filepath.Join(v.data, "oauth", "office.json"), []byte("{}"), 0o600))
	if out, err := v.run("queue", "export", v.backup); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	v.must(v.give())
	v.before = v.seen()
	return v
}

func (v *victim) must(errs ...error) {
	v.t.Helper()
	if err := errors.Join(errs...); err != nil {
		v.t.Fatal(err)
	}
}

// fill makes a queue with one message in data.
func (v *victim) fill() error {
	q, err := queue.Open(queue.Options{Dir: v.data, Hostname: "relay.example.lan", Transport: refusing{}, Log: slog.New(slog.DiscardHandler),
		Policy: queue.Policy{RetryMin: time.Hour, RetryMax: time.Hour, MaxAge: time.Hour, History: time.Hour}})
	if err != nil {
		return err
	}
	w, err := q.Begin(envelope.Envelope{ReversePath: "a@example.com", Recipients: []envelope.Recipient{{Path: "b@example.net"}}}, envelope.Origin{})
	if err != nil {
		return err
	}
	v.id = w.ID()
	_, err = w.Write(bytes.Repeat([]byte("large enough for the spool\r\n"), 4000))
	return errors.Join(err, w.Commit(context.Background()), q.Close(context.Background()))
}

// give makes everything between base and what is in data nobody's.
func (v *victim) give() error {
	top := filepath.Join(v.base, strings.Split(strings.TrimPrefix(v.data, v.base+"/"), "/")[0])
	return filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
}

// seen tells all that is outside of the daemon's folder.
func (v *victim) seen() string {
	var b strings.Builder
	for _, top := range []string{v.outside, v.backup} {
		v.must(filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			var sum [32]byte
			if info.Mode().IsRegular() {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				sum = sha256.Sum256(text)
			}
			fmt.Fprintf(&b, "%s %v %d:%d %x\n", path, info.Mode(), st.Uid, st.Gid, sum[:4])
			return nil
		}))
	}
	return b.String()
}

// run runs relayctl as root. It is a failure when that does not end by itself.
func (v *victim) run(args ...string) (string, error) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "relayctl", append([]string{"--config", v.config}, args...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		v.t.Errorf("relayctl %q hangs", args)
	}
	return string(out), err
}

func (v *victim) unharmed(after string) {
	v.t.Helper()
	if now := v.seen(); now != v.before {
		v.t.Errorf("after %s there is outside of the daemon's folder\n%swhere there was\n%s", after, now, v.before)
		v.before = now
	}
}

// atFiles are the commands that work on the files in data_dir, and atSocket those that only ask the daemon.
func (v *victim) atFiles() [][]string {
	return [][]string{{"queue", "list"}, {"queue", "show", v.id}, {"status"}, {"queue", "export", filepath.Join(v.base, "exports")},
		{"queue", "import", "--force", v.backup}, {"queue", "compact"}, {"queue", "recover"}, {"oauth", "status"}, {"oauth", "login", "office"}}
}

func (v *victim) atSocket() [][]string {
	return [][]string{{"queue", "hold", v.id}, {"queue", "release", v.id}, {"queue", "retry", v.id}, {"queue", "reroute", v.id},
		{"queue", "delete", v.id}}
}

// elsewhere are the commands that neither open a file in data_dir nor ask the daemon.
var elsewhere = []string{"relayctl check", "relayctl init", "relayctl providers", "relayctl probe", "relayctl route", "relayctl sandbox",
	"relayctl version", "relayctl completion", "relayctl help"}

func TestRoot_EachCommandIsTried(t *testing.T) {
	v := &victim{id: "ID"}
	var tried []string
	for _, args := range slices.Concat(v.atFiles(), v.atSocket()) {
		tried = append(tried, "relayctl "+strings.Join(args, " "))
	}
	a := &app{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		known := func(s string) bool { return s == c.CommandPath() || strings.HasPrefix(s, c.CommandPath()+" ") }
		if !c.HasSubCommands() && !slices.ContainsFunc(elsewhere, func(s string) bool {
			return s == c.CommandPath() || strings.HasPrefix(c.CommandPath(), s+" ")
		}) && !slices.ContainsFunc(tried, known) {
			t.Errorf("%q is not tried against links: add it to atFiles or atSocket, or to elsewhere when it opens nothing in data_dir", c.CommandPath())
		}
	}
	walk(a.root())
}

// Whatever the daemon's user puts at the names of its folder, root's relayctl changes nothing elsewhere, and ends.
func TestRoot_IsLedNowhere(t *testing.T) {
	needsRoot(t)
	names := []string{"queue.db", "queue.db.new", "queue.db.compact", "FORMAT", "journal-0", "journal-1", "spool", "oauth",
		"oauth/lock", "oauth/office.json", "control.sock"}
	for _, name := range names {
		for _, kind := range []string{"link to a file", "link to a folder", "link to nothing", "pipe"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				v := newVictim(t, "data", "token_url = 'http://127.0.0.1:1/'\ndevice_url = 'http://127.0.0.1:1/'")
				commands := v.atFiles()
				if name == "control.sock" {
					commands = append(v.atSocket(), commands...)
				}
				for _, args := range commands {
					if strings.HasPrefix(name, "oauth") != (args[0] == "oauth") && name != "control.sock" {
						continue
					}
					v.plant(name, kind)
					_, _ = v.run(args...) // whether it works is another matter
					v.unharmed(strings.Join(args, " "))
				}
			})
		}
	}
}

// plant puts something else in the place of a file of data.
func (v *victim) plant(name, kind string) {
	v.t.Helper()
	path := filepath.Join(v.data, name)
	v.must(os.RemoveAll(path))
	switch kind {
	case "pipe":
		v.must(syscall.Mkfifo(path, 0o600))
	case "link to a file":
		v.must(os.Symlink(filepath.Join(v.outside, "file"), path))
	case "link to a folder":
		v.must(os.Symlink(filepath.Join(v.outside, "folder"), path))
	default:
		v.must(os.Symlink(filepath.Join(v.outside, "none"), path))
	}
	v.must(os.Lchown(path, nobody, nobody))
}

// A socket that control.sock leads to is another program's, which trusts root: nobody calls it.
func TestRoot_CallsNobodyElsesSocket(t *testing.T) {
	needsRoot(t)
	v := newVictim(t, "data", "token_url = 'http://127.0.0.1:1/'\ndevice_url = 'http://127.0.0.1:1/'")
	l, err := net.Listen("unix", filepath.Join(v.base, "other.sock"))
	v.must(err, os.Chmod(l.Addr().String(), 0o600), os.Symlink(l.Addr().String(), filepath.Join(v.data, "control.sock")),
		os.Lchown(filepath.Join(v.data, "control.sock"), nobody, nobody))
	called := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			called <- struct{}{}
		}
	}()
	defer l.Close()
	for _, args := range slices.Concat(v.atSocket(), v.atFiles()) {
		for _, flags := range [][]string{nil, {"--socket", filepath.Join(v.data, "control.sock")}} {
			_, _ = v.run(append(flags, args...)...)
			if len(called) > 0 {
				t.Fatalf("relayctl %q called the socket of another program", args)
			}
		}
	}
}

// A folder that is exchanged for a link again and again, while root works, leads root nowhere, be it in the folder of the
// queue, that folder itself, or the one that root exports to.
func TestRoot_LosesNoRace(t *testing.T) {
	needsRoot(t)
	s, err := issuer.Start(issuer.Options{ClientID: "relay", User: "me@isp.example", Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tokens := fmt.Sprintf("token_url = %q\ndevice_url = %q", s.TokenURL(), s.DeviceURL())
	for _, tt := range []struct {
		relative, name string
		commands       func(v *victim) [][]string
	}{
		{"data", "oauth", func(v *victim) [][]string { return [][]string{{"oauth", "login", "office"}} }},
		{"data", "spool", func(v *victim) [][]string { return v.atFiles()[:7] }},
		{"data", "queue.db", func(v *victim) [][]string { return v.atFiles()[:7] }},
		{"home/data", "../data", func(v *victim) [][]string { return v.atFiles()[:7] }},
		{"data", "exported", func(v *victim) [][]string { return [][]string{{"queue", "export", filepath.Join(v.data, "exported")}} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVictim(t, tt.relative, tokens)
			path, evil := filepath.Join(v.data, tt.name), filepath.Join(filepath.Dir(v.data), "evil")
			if tt.name == "exported" {
				v.must(os.Mkdir(path, 0o700), os.Chown(path, nobody, nobody))
			}
			v.must(os.Symlink(filepath.Join(v.outside, "folder"), evil), os.Lchown(evil, nobody, nobody))
			done, ended := make(chan struct{}), make(chan int)
			go func() {
				n := 0
				for ; ; n++ {
					select {
					case <-done:
						ended <- n
						return
					case <-time.After(200 * time.Microsecond):
						_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE)
					}
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for code, err := s.UserCode(ctx); err == nil; code, err = s.UserCode(ctx) {
					s.Approve(code, "me@isp.example")
				}
			}()
			for range 4 {
				for _, args := range tt.commands(v) {
					_, _ = v.run(args...)
					v.unharmed(strings.Join(args, " "))
				}
			}
			cancel()
			close(done)
			if n := <-ended; n < 10 {
				t.Errorf("exchanged %d times only", n)
			}
		})
	}
}

// What root does all the same is done, and is the daemon's; a folder of root's own stays root's.
func TestRoot_WorksForTheDaemon(t *testing.T) {
	needsRoot(t)
	v := newVictim(t, "data", "token_url = 'http://127.0.0.1:1/'\ndevice_url = 'http://127.0.0.1:1/'")
	mine, daemons := filepath.Join(v.base, "root", "mine"), filepath.Join(v.data, "copy")
	for _, args := range [][]string{{"queue", "list"}, {"queue", "export", mine}, {"queue", "export", daemons}, {"queue", "compact"},
		{"queue", "import", "--force", mine}, {"queue", "import", "--force", daemons}, {"queue", "recover"}} {
		if out, err := v.run(args...); err != nil {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
	for dir, uid := range map[string]uint32{mine: 0, v.data: nobody} {
		v.must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err == nil && info.Sys().(*syscall.Stat_t).Uid != uid {
				t.Errorf("%s belongs to %d", path, info.Sys().(*syscall.Stat_t).Uid)
			}
			return err
		}))
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, whom it is about")
	}
}
