//go:build peers

// Package peers runs relayd between real mail programs. Postfix, Exim, sendmail and OpenSMTPD hand mail to it as a LAN's
// server does, swaks, msmtp and nodemailer as devices and programs do. Postfix, Exim, sendmail, Dovecot, aiosmtpd, Haraka
// and npm's smtp-server are its smarthosts. The tests compare what comes out at the far end with what went in, octet by
// octet but for the trace header.
//
// Each test has a folder, processes and ports of its own, on loopback or in a network namespace that it makes; none
// touches the machine's mail server. install.sh and install-node.sh bring the programs, run.sh runs it all. It needs root, because Postfix
// and Exim change users. When a test fails, the logs of all that took part are shown. Whatever a test started ends with
// it, also when the test itself is killed.
package peers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/peers:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// runAll builds relayd and relayctl, puts them and the peers first in PATH, runs the tests, and says who took part.
func runAll(m *testing.M) (int, error) {
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("root is needed: Postfix and Exim change users")
	}
	p := installedPeers()
	if _, err := os.Stat(filepath.Join(p.dir, "stamp")); err != nil {
		return 0, fmt.Errorf("the mail programs are not in %s: run test/peers/install.sh", p.dir)
	}
	if err := adoptOrphans(); err != nil {
		return 0, err
	}
	bin, err := os.MkdirTemp("", "peers-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin, "relayd/cmd/relayd", "relayd/cmd/relayctl")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	path := append([]string{bin}, p.path()...)
	os.Setenv("PATH", strings.Join(append(path, os.Getenv("PATH"), "/usr/sbin", "/sbin"), ":"))

	code := m.Run()
	reapOrphans()
	fmt.Printf("peers: relayd against %s\n", strings.Join(p.versions(), ", "))
	return code, nil
}

// installation is where install.sh put the peers' files.
type installation struct{ dir string }

func installedPeers() installation {
	if dir := os.Getenv("RELAYD_PEERS_DIR"); dir != "" {
		return installation{dir}
	}
	return installation{"/var/cache/relayd-peers"}
}

// file returns the place of a path of the packages.
func (p installation) file(path string) string { return filepath.Join(p.dir, "root", path) }

func (p installation) path() []string {
	return []string{p.file("usr/sbin"), p.file("usr/bin"), p.file("sbin"), p.file("bin")}
}

// glob returns what matches a pattern of the packages' paths, as a list for an environment variable.
func (p installation) glob(patterns ...string) string {
	var found []string
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(p.file(pattern)) // an error is only had for a bad pattern
		found = append(found, paths...)
	}
	return strings.Join(found, ":")
}

// versions returns the names and versions of the peers' packages.
func (p installation) versions() []string {
	b, err := os.ReadFile(filepath.Join(p.dir, "versions"))
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}
