//go:build peers

package peers

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The users of Postfix and Exim. They exist only in the passwd file that the peers are shown in place of the machine's.
const (
	postfixUser   = 64901
	postdropGroup = 64902
	eximUser      = 64903
	mailboxUser   = 64904
)

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
postfix:x:64901:64901::/nonexistent:/bin/false
Debian-exim:x:64903:64903::/nonexistent:/bin/false
mailbox:x:64904:64904::/nonexistent:/bin/false
dovecot:x:64905:64905::/nonexistent:/bin/false
dovenull:x:64906:64906::/nonexistent:/bin/false
smmta:x:64907:64907::/nonexistent:/bin/false
smmsp:x:64908:64908::/nonexistent:/bin/false
opensmtpd:x:64909:64909::/nonexistent:/bin/false
opensmtpq:x:64910:64910::/nonexistent:/bin/false
`
	group = `root:x:0:
nogroup:x:65534:
postfix:x:64901:
postdrop:x:64902:
Debian-exim:x:64903:
mailbox:x:64904:
dovecot:x:64905:
dovenull:x:64906:
smmta:x:64907:
smmsp:x:64908:
opensmtpd:x:64909:
opensmtpq:x:64910:
`
)

// patience is how long anything may take; a run in which all goes well waits for nothing this long.
const patience = 90 * time.Second

// room is a test's own folder, and how programs are run there. Its path is short, because it holds unix sockets, and
// open to all, because the peers give up root.
type room struct {
	dir    string
	within []string // a command that puts the program after it into a network namespace
}

func newRoom(t *testing.T) room {
	t.Helper()
	dir, err := os.MkdirTemp("", "peers-")
	if err != nil {
		t.Fatal(err)
	}
	r := room{dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Cleanup(func() {
		if t.Failed() {
			r.showLogs(t)
		}
	})
	for path := dir; path != "/"; path = filepath.Dir(path) {
		if info, err := os.Stat(path); path != dir && (err != nil || info.Mode().Perm()&0o001 == 0) {
			t.Fatalf("other users cannot pass through %s: set TMPDIR to a folder that they can reach", path)
		}
	}
	for path, mode := range map[string]os.FileMode{"": 0o755, "logs": 0o777 | os.ModeSticky} {
		if err := errors.Join(os.MkdirAll(r.path(path), 0o755), os.Chmod(r.path(path), mode)); err != nil {
			t.Fatal(err)
		}
	}
	r.write(t, "passwd", passwd)
	r.write(t, "group", group)
	return r
}

func (r room) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }

func (r room) log(name string) string { return r.path("logs", name) }

// write makes a file that its owner alone may write, and returns its path.
func (r room) write(t *testing.T, name, content string) string {
	t.Helper()
	path := r.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	// Postfix waits for a while when a file of its configuration is so new that somebody may still be writing it.
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	return path
}

// showLogs prints the last of each log.
func (r room) showLogs(t *testing.T) {
	const most = 12 << 10
	paths, _ := filepath.Glob(r.log("*"))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
		}
		if len(b) == 0 {
			continue
		}
		if len(b) > most {
			b = append([]byte("[...]\n"), b[len(b)-most:]...)
		}
		t.Logf("---- %s\n%s", filepath.Base(path), b)
	}
}

// peerEnv is the environment of the peers: their libraries, their users.
func (r room) peerEnv() []string {
	p := installedPeers()
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + r.dir,
		"LANG=C",
		"LD_LIBRARY_PATH=" + p.glob("usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib/postfix"),
		"LD_PRELOAD=" + p.glob("usr/lib/*-linux-*/libnss_wrapper.so"),
		"NSS_WRAPPER_PASSWD=" + r.path("passwd"),
		"NSS_WRAPPER_GROUP=" + r.path("group"),
		"SASL_PATH=" + p.glob("usr/lib/*-linux-*/sasl2"),
		"PERL5LIB=" + p.glob("usr/share/perl5", "usr/lib/*-linux-*/perl5/*", "usr/share/perl/*", "usr/lib/*-linux-*/perl/*"),
	}
}

// keptVariables are those of peerEnv that Postfix and Exim would drop, but that their own programs need.
const keptVariables = "LD_LIBRARY_PATH LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP SASL_PATH"

// run runs a peer to its end, and returns what it printed and its exit code.
func (r room) run(t *testing.T, input []byte, argv ...string) (string, int) {
	t.Helper()
	return r.runEnv(t, r.peerEnv(), input, argv...)
}

func (r room) runEnv(t *testing.T, env []string, input []byte, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	argv = append(append([]string(nil), r.within...), argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = env, r.dir, bytes.NewReader(input)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs a peer that has to succeed, and returns what it printed.
func (r room) must(t *testing.T, input []byte, argv ...string) string {
	t.Helper()
	out, code := r.run(t, input, argv...)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(argv, " "), code, out)
	}
	return out
}

// poll waits until done returns "". It fails the test with done's last words when that takes too long.
func poll(t *testing.T, what string, done func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing := done()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v: %s", what, patience, missing)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePort returns a TCP port that nobody uses on either loopback address, below those that the kernel gives to
// clients, so that a server that is stopped for a while finds it free again. Until the test ends no other freePort
// returns it: its namesake of UDP is the lock.
func freePort(t *testing.T) string {
	t.Helper()
	for range 200 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		lock, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		if portIsFree("127.0.0.1", port) && (!hasIPv6() || portIsFree("::1", port)) {
			t.Cleanup(func() { lock.Close() })
			return port
		}
		lock.Close()
	}
	t.Fatal("no port is free between 20000 and 32000")
	return ""
}

func portIsFree(host, port string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err == nil {
		l.Close()
	}
	return err == nil
}

func hasIPv6() bool { return portIsFree("::1", "0") }
