//go:build unix

package oauth

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Root logs in for a daemon of another user: what it leaves belongs to whom the queue's folder belongs to.
func TestStore_WhatRootSavesIsTheDaemons(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const daemon = 65534
	dir := t.TempDir()
	if err := os.Chown(dir, daemon, daemon); err != nil {
		t.Fatal(err)
	}
	if err := NewStore(dir).Save("isp", Grant{RefreshToken: "x"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "isp.json", "lock"} {
		info, err := os.Stat(filepath.Join(dir, "oauth", name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != daemon || owner.Gid != daemon || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("oauth/%s: %d:%d %v", name, owner.Uid, owner.Gid, info.Mode())
		}
	}
}
