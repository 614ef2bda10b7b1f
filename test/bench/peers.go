//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// installation is where test/peers/install.sh puts Postfix: unpacked into a folder, not installed.
type installation struct{ dir string }

func installedPeers() installation {
	if dir := os.Getenv("RELAYD_PEERS_DIR"); dir != "" {
		return installation{dir}
	}
	return installation{"/var/cache/relayd-peers"}
}

// file returns the place of a path of the packages.
func (p installation) file(path string) string { return filepath.Join(p.dir, "root", path) }

// glob returns what matches patterns of the packages' paths, as a list for an environment variable.
func (p installation) glob(patterns ...string) string {
	var found []string
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(p.file(pattern)) // an error is only had for a bad pattern
		found = append(found, paths...)
	}
	return strings.Join(found, ":")
}

// version returns the name and version of Postfix's package.
func (p installation) version() string {
	text, err := os.ReadFile(filepath.Join(p.dir, "versions"))
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "postfix ") {
			return "Postfix " + strings.TrimSpace(strings.TrimPrefix(line, "postfix "))
		}
	}
	return "Postfix of unknown version"
}

// The users of Postfix. They exist only in the passwd file that it is shown in place of the machine's.
const (
	postfixUser   = 64901
	postdropGroup = 64902
)

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
postfix:x:64901:64901::/nonexistent:/bin/false
`
	group = `root:x:0:
nogroup:x:65534:
postfix:x:64901:
postdrop:x:64902:
`
)

func (l *lab) writeUsers() error {
	return errors.Join(
		os.WriteFile(filepath.Join(l.dir, "passwd"), []byte(passwd), 0o644),
		os.WriteFile(filepath.Join(l.dir, "group"), []byte(group), 0o644))
}

// peerEnv is the environment of Postfix's programs: their libraries, their users.
func (l *lab) peerEnv() []string {
	return []string{
		"PATH=" + strings.Join([]string{l.peers.file("usr/sbin"), l.peers.file("usr/bin"), os.Getenv("PATH"), "/usr/sbin", "/sbin"}, ":"),
		"HOME=" + l.dir,
		"LANG=C",
		"LD_LIBRARY_PATH=" + l.peers.glob("usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib/postfix"),
		"LD_PRELOAD=" + l.peers.glob("usr/lib/*-linux-*/libnss_wrapper.so"),
		"NSS_WRAPPER_PASSWD=" + filepath.Join(l.dir, "passwd"),
		"NSS_WRAPPER_GROUP=" + filepath.Join(l.dir, "group"),
		"SASL_PATH=" + l.peers.glob("usr/lib/*-linux-*/sasl2"),
	}
}

// keptVariables are those of peerEnv that Postfix would drop, but that its own programs need.
const keptVariables = "LD_LIBRARY_PATH LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP SASL_PATH"

// writeOld writes a file that looks a minute old: Postfix waits for a while when a file of its configuration is so new
// that somebody may still be writing it.
func writeOld(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, time.Time{}, time.Now().Add(-time.Minute)))
}
